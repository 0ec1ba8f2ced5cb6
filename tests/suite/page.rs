//! The page of a report in headless Chromium, and what the page, the job summary and the terminal say of the same reports. With MQUANT_SHOTS=FOLDER
//! the pages and screenshots of them are written there, to be looked at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mquant_export::cli::verify_text::lines;
use mquant_export::verify::markdown::markdown;
use mquant_export::verify::page::html;
use mquant_export::verify::report::VerifyReport;
use serde_json::Value;

use crate::common::judge::{judge, text};
use crate::common::report;

/// Names under which distributions install Chromium or Chrome.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// The browser: `MQUANT_CHROMIUM`, or the first of [`NAMES`] on the path.
fn chromium() -> String {
    if let Ok(program) = std::env::var("MQUANT_CHROMIUM") {
        return program;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let found = NAMES.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|p| p.is_file());
    found.map(|p| text(&p)).unwrap_or_else(|| {
        panic!(
            "no browser for the tests of pages: install Chromium (Debian and Ubuntu: apt-get install chromium) or set MQUANT_CHROMIUM to \
             the program; looked for {NAMES:?} on the path"
        )
    })
}

/// A page with one of everything that the judge must see.
const BAD: &str = r#"<!DOCTYPE html><title>bad</title><body style="margin:0"><div style="width:2000px">wide</div>
<img src="data:image/png;base64,AAAA"><img src="http://127.0.0.1:9/x.png"><i id="a"></i><i id="a"></i>
<figure class="chart" id="c"><svg role="img" width="100" height="20"><title>chart</title><text x="0" y="12">one</text>
<text x="4" y="12">two</text><text x="300" y="12">out</text></svg></figure><figure class="chart" id="empty"></figure>
<script>console.error("said")</script>"#;

fn list(facts: &Value, key: &str) -> Vec<String> {
    facts[key]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().map_or_else(|| v.to_string(), String::from))
        .collect()
}

fn number(facts: &Value, key: &str) -> f64 {
    facts[key].as_f64().unwrap_or_else(|| panic!("no {key} in {facts}"))
}

/// Writes the pages and asks the judge.
fn look() -> Value {
    let dir = tempfile::tempdir().unwrap();
    let shots = std::env::var_os("MQUANT_SHOTS").map(PathBuf::from);
    let folder = shots.clone().unwrap_or_else(|| dir.path().to_path_buf());
    fs::create_dir_all(&folder).unwrap();
    let mut args = vec![chromium()];
    args.extend(shots.map(|s| format!("--shots={}", s.display())));
    let pages = report::reports().into_iter().map(|(name, r)| (name, html(&r).unwrap()));
    for (name, page) in pages.chain([("bad", BAD.to_string())]) {
        let file = folder.join(format!("{name}.html"));
        fs::write(&file, page).unwrap();
        args.push(text(&file));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    serde_json::from_str(&judge("page_check.py", &args)).unwrap()
}

#[test]
fn pages_are_sound_in_a_browser() {
    let found = look();
    for (name, report) in report::reports() {
        let page = &found[name];
        let views = page["views"].as_array().unwrap();
        // Phone, tablet, desktop, each light and dark.
        assert_eq!(views.len(), 6);
        for view in views {
            let at = format!("{name} at {} in {}", view["width"], view["scheme"]);
            let facts = &view["facts"];
            for key in ["errors", "requests", "overlaps", "outside", "ids_twice"] {
                assert_eq!(list(facts, key), Vec::<String>::new(), "{at}: {key}");
            }
            // Not the viewport's own width: a phone widens that to what it has to show.
            assert_eq!(facts["width"], view["width"], "{at}: the page scrolls sideways");
            let images: usize = report.worst.iter().map(|w| w.images.len()).sum();
            assert_eq!(number(facts, "images"), images as f64, "{at}");
            assert_eq!((number(facts, "undecoded"), number(facts, "images_without_alt")), (0.0, 0.0), "{at}");
            let verdict = facts["verdict"].as_str().unwrap();
            assert!(verdict.ends_with(if report.passed { "PASS" } else { "FAIL" }), "{at}: {verdict}");
            let bottom = number(facts, "verdict_bottom");
            assert!(
                bottom > 0.0 && bottom < view["height"].as_f64().unwrap(),
                "{at}: the verdict is below the fold"
            );
            assert_eq!(facts["banner"], !report.runtime.runtime_checked, "{at}");
            charts(facts, &at);
            headings(facts, &at);
        }
        let (light, dark) = (&views[0]["facts"]["ground"], &views[1]["facts"]["ground"]);
        assert_eq!((light.as_str(), dark.as_str()), (Some("rgb(245, 246, 248)"), Some("rgb(15, 18, 22)")));
        assert!(
            !list(page, "sorted").is_empty() && list(page, "sorted").iter().all(|s| s == "true"),
            "{name}"
        );
        assert_eq!(
            list(page, "refused"),
            ["connect-src", "img-src", "script-src-elem", "style-src-elem"],
            "{name}"
        );
        let title = page["title_after"].as_str().unwrap();
        assert!(title.ends_with(report.artifact.name.as_str()), "{name}: {title}");
    }
    judge_sees_faults(&found["bad"]);
}

/// Each chart has one drawing that is seen, in letters of a readable size, or says why it has none.
fn charts(facts: &Value, at: &str) {
    let charts = facts["charts"].as_array().unwrap();
    assert!(charts.len() >= 3, "{at}: {} charts", charts.len());
    for chart in charts {
        let (drawings, says) = (number(chart, "drawings"), chart["says"].as_str().unwrap());
        if says.is_empty() {
            assert_eq!(drawings, 1.0, "{at}: {chart}");
            // The style sheet says 12 px; drawings are never made smaller than by a tenth.
            assert!(number(chart, "smallest") > 10.8, "{at}: {chart}");
        } else {
            assert_eq!(drawings, 0.0, "{at}: {chart}");
        }
    }
}

/// One main heading, and no level left out.
fn headings(facts: &Value, at: &str) {
    let levels: Vec<u64> =
        facts["headings"].as_array().unwrap().iter().map(|l| l.as_u64().unwrap()).collect();
    assert_eq!((levels[0], levels.iter().filter(|l| **l == 1).count()), (1, 1), "{at}");
    assert!(levels.windows(2).all(|w| w[1] <= w[0] + 1), "{at}: {levels:?}");
}

/// What the judge says of a page with one of each fault.
fn judge_sees_faults(page: &Value) {
    let facts = &page["views"][5]["facts"];
    assert!(number(facts, "width") >= 2000.0 && number(facts, "undecoded") == 2.0, "{facts}");
    assert_eq!(list(facts, "ids_twice"), ["a"]);
    assert_eq!(list(facts, "overlaps"), ["chart: one | two"]);
    assert_eq!(list(facts, "outside"), ["chart: out"]);
    assert_eq!(list(facts, "requests"), ["http://127.0.0.1:9/x.png"]);
    assert!(list(facts, "errors").contains(&"console.error".to_string()), "{facts}");
    assert_eq!(facts["charts"][1]["drawings"], 0, "{facts}");
    assert_eq!((facts["verdict"].as_str(), list(page, "refused").len()), (Some(""), 0));
}

#[test]
fn the_same_report_is_the_same_page() {
    for (name, report) in report::reports() {
        let page = html(&report).unwrap();
        assert_eq!(page, html(&report.clone()).unwrap(), "{name}");
        for bad in ["NaN", "inf\"", "=\"inf", "-0\""] {
            assert!(!page.contains(bad), "{name} has {bad}");
        }
        // The one script is ours, and so is every event: what is in a report stays text.
        assert_eq!(page.matches("<script").count(), 1, "{name}");
        assert_eq!(
            page.matches("<img").count(),
            report.worst.iter().map(|w| w.images.len()).sum::<usize>(),
            "{name}"
        );
        assert!(!page.contains("http://") && !page.contains("https://"), "{name} names an address");
    }
}

#[test]
fn a_page_without_numbers_says_so() {
    let mut report = report::passing();
    report.attribution = None;
    report.scales.clear();
    report.worst.clear();
    report.checks.clear();
    report.measured.kld_mean.value = f64::NAN;
    report.measured.top1.high = f64::INFINITY;
    let page = html(&report).unwrap();
    for said in [
        "The difference was not attributed in this run.",
        "The artifact has no static activation scales.",
        "No sample differs.",
        "No threshold was given and no check applies.",
        "Nothing was held to a limit: no threshold was given.",
        "not a number",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf\""));
}

/// Colours of a block of the style sheet, by name.
fn colours(block: &str) -> BTreeMap<String, [f64; 3]> {
    let colour = |line: &str| {
        let (name, value) = line.trim().strip_prefix("--")?.split_once(": #")?;
        let channel = |at: usize| f64::from(u8::from_str_radix(&value[at..at + 2], 16).unwrap()) / 255.0;
        Some((name.to_string(), [channel(0), channel(2), channel(4)]))
    };
    block.lines().filter_map(colour).collect()
}

/// Contrast of two colours as WCAG 2.2 defines it (relative luminance of sRGB).
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let luminance = |c: [f64; 3]| {
        let linear = c.map(|x| if x <= 0.040_45 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    };
    let (x, y) = (luminance(a) + 0.05, luminance(b) + 0.05);
    x.max(y) / x.min(y)
}

#[test]
fn colours_have_enough_contrast() {
    assert!((contrast([0.0; 3], [1.0; 3]) - 21.0).abs() < 1e-9);
    let css =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/verify/page/page.css")).unwrap();
    let blocks: Vec<&str> = css.split(":root {").skip(1).map(|b| b.split('}').next().unwrap()).collect();
    assert_eq!(blocks.len(), 2, "one block of colours for light and one for dark");
    // WCAG 2.2, 1.4.3 level AA: 4.5 for text; 1.4.11: 3 for what has to be seen in a drawing.
    let text = [
        ("ink", "page"),
        ("ink", "card"),
        ("soft", "page"),
        ("soft", "card"),
        ("pass", "card"),
        ("fail", "card"),
        ("pass", "pass-ground"),
        ("fail", "fail-ground"),
        ("ink", "pass-ground"),
        ("ink", "fail-ground"),
        ("warn", "warn-ground"),
        ("mark", "mark-ground"),
    ];
    let drawn = ["artifact", "float", "second", "third"].map(|c| (c, "card"));
    for (scheme, block) in ["light", "dark"].iter().zip(blocks) {
        let colours = colours(block);
        for ((a, b), least) in text.iter().map(|p| (p, 4.5)).chain(drawn.iter().map(|p| (p, 3.0))) {
            let found = contrast(colours[*a], colours[*b]);
            assert!(found >= least, "{scheme}: {a} on {b} has {found:.2}, needs {least}");
        }
    }
}

#[test]
fn the_summary_is_sound_markdown() {
    for (name, report) in report::reports() {
        let summary = markdown(&report);
        assert_eq!(summary, markdown(&report));
        let word = if report.passed { "PASS" } else { "FAIL" };
        assert!(summary.lines().next().unwrap().contains(word), "{name}");
        assert_eq!(
            summary.contains("No real runtime was checked"),
            !report.runtime.runtime_checked,
            "{name}"
        );
        assert!(!summary.contains("<script") && !summary.contains("<img"), "{name}");
        // GitHub takes 1 MiB of summary for a step.
        assert!(summary.len() < 100_000, "{name}: {} bytes", summary.len());
        for table in summary.split("\n\n").filter(|b| b.starts_with('|')) {
            let columns = |line: &str| line.matches('|').count();
            let head = columns(table.lines().next().unwrap());
            assert!(table.lines().all(|l| columns(l) == head && l.ends_with('|')), "{name}:\n{table}");
        }
    }
    let summary = markdown(&report::failing());
    for said in [
        "- Mean divergence (KLD): 1.87, allowed is at most 0.05. The decoder is at fault",
        "| Same next token (top-1) | 64.2 % | 60.1 to 68.3 % | at least 97 % |",
        "| step | Activations | +1.90 |",
        "| linear | decoder.layers.6.attn.q | 99.8 % |",
        "| chart-041 | 1 | Which bar is the highest in the second group? | Red | Red | red red",
    ] {
        assert!(summary.contains(said), "no {said:?} in\n{summary}");
    }
}

#[test]
fn the_terminal_gets_the_verdict_last() {
    let last = |r: &VerifyReport| lines(r).pop().unwrap();
    assert_eq!(last(&report::passing()), "PASS  All 9 checks passed.");
    assert_eq!(last(&report::failing()), "FAIL  5 of 9 checks failed.");
    assert_eq!(last(&report::embedded()), "PASS  All 7 checks passed. No real runtime was checked.");
    let told = lines(&report::failing());
    let before = &told[told.len() - 3];
    assert!(
        before.trim_start().starts_with("FAILED  Degenerate output"),
        "failed checks stand above the verdict: {before}"
    );
    assert!(
        told.iter().any(|l| l.split_whitespace().take(5).eq(["mean", "KLD", "1.87", "1.62", "to"])),
        "{told:#?}"
    );
    for line in lines(&report::extreme()) {
        assert!(!line.contains(['\u{1b}', '\0', '\n']), "{line:?}");
    }
}
