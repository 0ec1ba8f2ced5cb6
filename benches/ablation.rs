//! Every element of the method on and off, on the trained fixture and on its twin with planted outliers: `cargo bench --bench ablation`. The table stands in
//! `docs/accuracy.md`; `-- --write` writes it there. Words after `--` keep the rows whose names contain all of them (`-- w4a8 gptq natural`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench stops by panicking")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::time::Instant;

use common::agreement::{Interval, Said, SampleAgreement, interval};
use common::case::Case;
use common::eval::{TINY, samples};
use common::fixture;
use common::planted::PLANTED;
use mquant_export::calibrate::Sample;
use mquant_export::calibrate::observe::RangeRule;
use mquant_export::quantize::recipe::{
    Activations, DownProjections, Gptq, LoopInputs, Precision, Recipe, Remedy, RotationRule, VisionRotation,
    Weights,
};

/// Evaluation samples.
const SAMPLES: usize = 128;
/// Channels of an online Hadamard product; 0 stands for all.
const BLOCK: usize = 0;

/// One row of the table.
struct Row {
    name: String,
    recipe: Recipe,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let write = words.iter().any(|w| w == "--write");
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| *w != "--write").collect();
    let samples = &samples("evaluation.tsv")[..SAMPLES];
    let dir = tempfile::tempdir().unwrap();
    let cases = [("natural", Case::open(&fixture(TINY))), ("planted", Case::twin(dir.path(), &PLANTED))];
    let float = cases[0].1.float(samples);
    let mut table = String::new();
    for (model, case) in &cases {
        let _ = writeln!(table, "\n## {}\n\n{HEAD}", title(model));
        let rows =
            rows().into_iter().filter(|r| words.iter().all(|w| model.contains(w) || r.name.contains(w)));
        println!("\n{model}\n{HEAD}");
        let own = case.float(samples);
        let line = line("float", &own, &float);
        println!("{line}");
        let _ = writeln!(table, "{line}");
        for row in rows {
            let line = measured(case, &row, samples, &float);
            println!("{line}");
            let _ = writeln!(table, "{line}");
        }
    }
    if write {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/accuracy.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, _) = text.split_once(MARK).unwrap();
        std::fs::write(path, format!("{before}{MARK}\n{table}")).unwrap();
    }
}

/// What stands above the table in the document.
const MARK: &str = "<!-- made by cargo bench --bench ablation -- --write -->";

const HEAD: &str = "| | right | KLD | same best token | answers changed |\n|---|---|---|---|---|";

fn title(model: &str) -> String {
    match model {
        "natural" => "The trained model".into(),
        _ => format!("Its twin, {} channels in each place {} times larger", PLANTED.channels, PLANTED.factor),
    }
}

fn measured(case: &Case, row: &Row, samples: &[Sample], float: &Said) -> String {
    let begin = Instant::now();
    let said = case.by(&row.recipe, samples);
    eprintln!("{}: {:.1} s", row.name, begin.elapsed().as_secs_f64());
    line(&row.name, &said, float)
}

fn line(name: &str, said: &Said, float: &Said) -> String {
    let all = said.samples_against(float);
    let share = |of: fn(&SampleAgreement) -> bool| {
        interval(&all, move |s| s.iter().filter(|s| of(s)).count() as f64 / s.len() as f64)
    };
    let rows = |s: &[SampleAgreement]| s.iter().map(|s| s.rows).sum::<usize>() as f64;
    let kld = interval(&all, |s| s.iter().map(|s| s.kld).sum::<f64>() / rows(s));
    let same = interval(&all, |s| s.iter().map(|s| s.same).sum::<usize>() as f64 / rows(s));
    let percent =
        |i: Interval| format!("{:.1} ({:.1} - {:.1})", 100.0 * i.value, 100.0 * i.low, 100.0 * i.high);
    let small = |i: Interval| format!("{:.1e} ({:.1e} - {:.1e})", i.value, i.low, i.high);
    format!(
        "| {name} | {} | {} | {} | {} |",
        percent(share(|s| s.exact)),
        small(kld),
        percent(same),
        percent(share(SampleAgreement::flipped))
    )
}

/// All combinations, in the order of the issue: weights, activations, rounding, transformation.
fn rows() -> Vec<Row> {
    let mut rows = vec![];
    for (weights, grid) in [("w8a8", "int8"), ("w4a8", "int4/128")] {
        for (scales, activations) in
            [("one scale", Activations::Static), ("msq", Activations::Msq), ("dynamic", Activations::Dynamic)]
        {
            for rounding in ["nearest", "gptq"] {
                for transformation in ["plain", "rotated", "smoothed", "hadamard", "rms"] {
                    let name = format!("{weights}, {scales}, {rounding}, {transformation}");
                    let grid = grid.parse().unwrap();
                    rows.push(Row {
                        recipe: recipe(&name, grid, activations, rounding, transformation),
                        name,
                    });
                }
            }
        }
    }
    rows.extend(variants());
    rows
}

/// The built-in recipes, and the default one with one thing changed.
fn variants() -> Vec<Row> {
    let built_in = ["w8a8", "w4a8", "w4a8-all", "w4a8-channel", "w4a16"];
    let built_in =
        built_in.map(|name| Row { name: format!("recipe {name}"), recipe: Recipe::load(name).unwrap() });
    let changed = |what: &str, change: &dyn Fn(&mut Recipe)| {
        let mut recipe = Recipe::load("w4a8").unwrap();
        change(&mut recipe);
        Row { name: format!("recipe w4a8, {what}"), recipe }
    };
    let inputs = |inputs| move |r: &mut Recipe| r.gptq = Some(Gptq { inputs, ..r.gptq.unwrap_or_default() });
    let decoder =
        |grid: &'static str| move |r: &mut Recipe| r.components.decoder.weights = grid.parse().unwrap();
    let changes = [
        changed("observer mse", &|r| r.observer = RangeRule::Mse),
        changed("observer percentile 99.99", &|r| r.observer = RangeRule::Percentile(99.99)),
        changed("zero points the other way", &|r| r.asymmetric = !r.asymmetric),
        changed("values not smoothed", &|r| r.smooth_values = false),
        changed("vision mean baked", &|r| r.rotation.vision = VisionRotation::BakeMean),
        changed("seed 1", &|r| r.rotation.seed = 1),
        changed("seed 2", &|r| r.rotation.seed = 2),
        changed("natural order", &|r| r.gptq = Some(Gptq { act_order: false, ..r.gptq.unwrap_or_default() })),
        changed("no search", &|r| r.search = false),
        changed("gptq on float inputs", &inputs(LoopInputs::Float)),
        changed("gptq on rounded inputs", &inputs(LoopInputs::WeightsAndActivations)),
        changed("decoder int4/32", &decoder("int4/32")),
        changed("decoder int3/32", &decoder("int3/32")),
        changed("decoder int2/32", &decoder("int2/32")),
    ];
    built_in.into_iter().chain(changes).collect()
}

fn recipe(
    name: &str,
    grid: Weights,
    activations: Activations,
    rounding: &str,
    transformation: &str,
) -> Recipe {
    let mut recipe = Recipe::load("w4a8").unwrap();
    recipe.name = name.replace([' ', ','], "-");
    let other = if activations == Activations::Dynamic { Activations::Dynamic } else { Activations::Static };
    recipe.components.vision = Precision { weights: Weights::INT8, activations: other };
    recipe.components.projector = Precision { weights: Weights::INT8, activations: other };
    recipe.components.decoder = Precision { weights: grid, activations };
    recipe.asymmetric = false;
    let gptq = rounding == "gptq";
    recipe.gptq = gptq.then(|| recipe.gptq.unwrap_or_default());
    recipe.search = gptq;
    let all = RotationRule { seed: 0, ..recipe.rotation };
    recipe.rotation = if transformation == "plain" { RotationRule::default() } else { all };
    recipe.smooth_values = !matches!(transformation, "plain" | "rotated");
    let always = |remedy| DownProjections { candidates: vec![remedy], always: true };
    recipe.down_projections = match transformation {
        "smoothed" => always(Remedy::Smooth),
        "hadamard" => always(Remedy::Hadamard(BLOCK)),
        "rms" => DownProjections {
            candidates: vec![Remedy::Hadamard(BLOCK), Remedy::HadamardRms(BLOCK)],
            always: true,
        },
        _ => DownProjections::default(),
    };
    recipe
}
