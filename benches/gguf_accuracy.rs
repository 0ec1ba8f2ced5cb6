//! What each method is worth in GGUF files of equal size, asked in llama.cpp itself: `cargo bench --bench gguf_accuracy`, with the judges' Python in `MQUANT_PYTHON`. The
//! table stands in `docs/accuracy.md`; `-- --write` writes it there. Words after `--` keep the rows whose names contain all of them (`-- q4_0 planted`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench stops by panicking")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::agreement::{Interval, Said, SampleAgreement, interval};
use common::case::Case;
use common::eval::{TINY, samples};
use common::fixture;
use common::gguf::{METHODS, TEXT_RECIPES, exported, said_by};
use common::llama::Files;
use common::planted::{PLANTED, planted};

/// Evaluation samples.
const SAMPLES: usize = 128;

/// What stands around the table in the document.
const MARKS: [&str; 2] =
    ["<!-- made by cargo bench --bench gguf_accuracy -- --write -->\n", "<!-- end of gguf_accuracy -->"];

const HEAD: &str = "| | MB | right | KLD | same best token | logits off |\n|---|---|---|---|---|---|";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let write = words.iter().any(|w| w == "--write");
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| *w != "--write").collect();
    let samples = &samples("evaluation.tsv")[..SAMPLES];
    let dir = tempfile::tempdir().unwrap();
    let twin = planted(dir.path(), &PLANTED);
    let mut table = String::new();
    for (model, folder) in [("natural", fixture(TINY)), ("planted", twin)] {
        let case = Case::open(&folder);
        let title = match model {
            "natural" => "The trained model".to_string(),
            _ => format!(
                "Its twin, {} channels in each place {} times larger",
                PLANTED.channels, PLANTED.factor
            ),
        };
        println!("\n{title}\n{HEAD}");
        let _ = writeln!(table, "\n### {title}, in llama.cpp\n\n{HEAD}");
        let reference = exported(dir.path(), model, &folder, "f16", None);
        let float = said_by(&case, &reference, samples);
        let mut told = |line: String| {
            println!("{line}");
            let _ = writeln!(table, "{line}");
        };
        told(line("f16", &reference, &float, &float));
        for recipe in TEXT_RECIPES {
            for method in METHODS {
                let name = format!("{recipe} {method}");
                if !words.iter().all(|w| model.contains(w) || name.contains(w)) {
                    continue;
                }
                let files = exported(dir.path(), model, &folder, recipe, Some(method));
                told(line(&name, &files, &said_by(&case, &files, samples), &float));
            }
        }
    }
    if write {
        rewrite(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/accuracy.md")), &table);
    }
}

fn rewrite(path: &Path, table: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (_, after) = rest.split_once(MARKS[1]).unwrap();
    std::fs::write(path, format!("{before}{}{table}\n{}{after}", MARKS[0], MARKS[1])).unwrap();
}

fn line(name: &str, files: &Path, said: &Said, float: &Said) -> String {
    let all = said.samples_against(float);
    let rows = |s: &[SampleAgreement]| s.iter().map(|s| s.rows).sum::<usize>() as f64;
    let right = interval(&all, |s| s.iter().filter(|s| s.exact).count() as f64 / s.len() as f64);
    let kld = interval(&all, |s| s.iter().map(|s| s.kld).sum::<f64>() / rows(s));
    let same = interval(&all, |s| s.iter().map(|s| s.same).sum::<usize>() as f64 / rows(s));
    let percent =
        |i: Interval| format!("{:.1} ({:.1} - {:.1})", 100.0 * i.value, 100.0 * i.low, 100.0 * i.high);
    let small = |i: Interval| format!("{:.1e} ({:.1e} - {:.1e})", i.value, i.low, i.high);
    let size = Files::of(files).bytes() as f64 / 1e6;
    let error = said.against(float).error;
    format!("| {name} | {size:.2} | {} | {} | {} | {error:.1e} |", percent(right), small(kld), percent(same))
}
