//! What documents say of the code, checked against it: the table of families and runtimes in the README, and the files that
//! `docs/add-a-family.md` names. With UPDATE_README=1 the table is written anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mquant_export::family::Library;
use mquant_export::family::inputs::gguf::GgufPlan;
use mquant_export::family::schema::GenaiDef;

use crate::common::golden::FIXTURES;
use crate::common::open;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The text between `<!-- name -->` and `<!-- /name -->`, with its place.
fn section<'a>(text: &'a str, name: &str) -> (usize, &'a str) {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let start = text.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
    let length = text[start..].find(&end).unwrap_or_else(|| panic!("no {end}"));
    (start, &text[start..start + length])
}

/// Families by what their files say and by the fixtures that `tests/suite/families.rs` runs in each runtime.
fn matrix() -> String {
    let fixtures: Vec<(String, &str)> = FIXTURES.iter().map(|f| (open(f).1.description.family, *f)).collect();
    let mut lines = vec![
        "| family | tested layouts | ONNX Runtime | onnxruntime-genai | llama.cpp |".to_string(),
        "|---|---|---|---|---|".to_string(),
    ];
    for family in Library::built_in().unwrap().families() {
        let of_family = |name: &str| {
            fixtures
                .iter()
                .filter(move |(n, _)| n == name)
                .map(|(_, fixture)| *fixture)
                .collect::<Vec<_>>()
                .into_iter()
        };
        let layouts: Vec<String> = of_family(&family.family).map(|fixture| format!("`{fixture}`")).collect();
        assert!(!layouts.is_empty(), "{} has no fixture with goldens", family.family);
        let genai = match &family.runtimes.genai {
            GenaiDef::Type(t) => format!("yes, as type `{}`", t.model_type),
            GenaiDef::None(reason) => format!("no: {reason} The artifact has a `generate.py`."),
        };
        let llama =
            of_family(family.family.as_str()).map(|fixture| llama_cpp(&open(fixture).1.description.gguf));
        let llama: BTreeSet<String> = llama.collect();
        let llama: Vec<String> = llama.into_iter().collect();
        let (title, layouts, llama) = (&family.title, layouts.join(", "), llama.join("; "));
        lines.push(format!("| {title} | {layouts} | float, W8A8, W4A8 | {genai} | {llama} |"));
    }
    lines.join("\n") + "\n"
}

/// The files of a layout.
fn llama_cpp(plan: &Result<GgufPlan, String>) -> String {
    let plan = plan.as_ref().unwrap();
    let text = &plan.text.architecture;
    match &plan.vision {
        Ok(_) => format!("text (`{text}`) and images"),
        Err(_) => format!("text only (`{text}`)"),
    }
}

#[test]
fn the_table_of_families_and_runtimes_is_true() {
    let path = root().join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (start, found) = section(&text, "families");
    let want = matrix();
    if std::env::var_os("UPDATE_README").is_some_and(|v| v == "1") {
        let new = format!("{}{want}{}", &text[..start], &text[start + found.len()..]);
        return fs::write(path, new).unwrap();
    }
    assert_eq!(found, want, "run this test with UPDATE_README=1 and review the change");
}

/// Files under `folder`, as paths from the root.
fn files(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap) {
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            files(&path, into);
        } else {
            into.push(path.display().to_string());
        }
    }
}

/// Text without lines of comments, which may cite the upstream files of any family.
fn code(path: &str) -> String {
    let text = fs::read_to_string(root().join(path)).unwrap_or_default();
    let comment = |line: &&str| !line.trim_start().starts_with("//");
    if path.ends_with(".rs") { text.lines().filter(comment).collect::<Vec<_>>().join("\n") } else { text }
}

#[test]
fn the_files_of_a_family_are_those_that_the_guide_lists() {
    const FAMILY: &str = "minicpm_v_2_6";
    let guide = fs::read_to_string(root().join("docs/add-a-family.md")).unwrap();
    let named = section(&guide, "files").1.split('`').skip(1).step_by(2);
    let named: BTreeSet<String> = named.map(String::from).collect();
    let mut all = vec![];
    for folder in ["src", "tests", "converters", "fixtures", "recipes", "schemas", "benches"] {
        files(Path::new(folder), &mut all);
    }
    let mut found = BTreeSet::new();
    for path in all {
        let fixture = format!("fixtures/{FAMILY}/");
        if path.starts_with(&fixture) {
            found.insert(fixture);
        } else if path.contains(FAMILY) || code(&path).contains(FAMILY) {
            found.insert(path);
        }
    }
    // The test itself, and those that look at some families as examples of kinds.
    let examples = [
        "tests/suite/docs.rs",
        "src/calibrate/prompt/tests/goldens.rs",
        "src/family/resolve/inputs/tests.rs",
    ];
    found.retain(|f| !examples.contains(&f.as_str()));
    assert_eq!(found, named, "docs/add-a-family.md lists other files than the tree holds");
}
