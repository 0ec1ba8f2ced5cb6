//! The rules of the house, tested: every problem of the tree is listed with its place. The rules and their tables are in
//! `tidy/rules.rs` (Rust files) and `tidy/house.rs` (the rest); `tidy/planted.rs` shows each rule a bad case that it must catch. What a
//! compiler or clippy says already is not here. Exceptions stand below, each with its reason; one that is no longer needed is a problem.

#[path = "tidy/house.rs"]
mod house;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rules::{Longer, Mention};
use source::{Problem, Source};

/// Files and functions over the size limits.
const LONGER: &[Longer] = &[];

/// Files whose size nobody chose.
const GENERATED: &[&str] = &["src/export/onnx/proto.rs"];

/// Words of model families beside the names of the files in converters/.
const FAMILY_WORDS: &[&str] = &["qwen", "internvl", "minicpm", "glm"];

/// Code that may name a family.
const MENTIONS: &[Mention<'_>] = &[
    (
        "src/tokenizer/vocabulary.rs",
        "qwen2",
        "a class of transformers, named in tokenizer_config.json by several families",
    ),
    (
        "src/checkpoint/side_files.rs",
        "qwen.tiktoken",
        "a side file that a checkpoint folder may hold, to be copied along",
    ),
    ("src/cli/args.rs", "Qwen2-VL-2B-Instruct", "the examples of --help show a released checkpoint"),
    ("src/export/onnx/genai.rs", "\"qwen2_5_vl\"", "an attribute that onnxruntime-extensions gave this name"),
    ("src/tokenizer/gguf.rs", "\"qwen2\"", "a rule that cuts text, which llama.cpp knows by this name"),
    ("src/tokenizer/gguf.rs", "\"chatglm-bpe\"", "a rule that cuts text, which llama.cpp knows by this name"),
    ("src/pipeline/error.rs", "fixtures/qwen2_vl_tiny/", "a hint where a ready calibration set is"),
];

/// Where the built-in family files are listed; they may be named there.
const LIBRARY: &str = "src/family/library.rs";

const REQUIREMENTS: &str = "tests/judges/requirements.txt";

/// Folders that are made and not kept.
const BUILT: &[&str] = &["target", "out", "__pycache__"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository as `(path from the root, size)`, in order: those that git tracks or would (not ignored), or without
/// git all but hidden folders and build output.
fn tree() -> io::Result<Vec<(String, u64)>> {
    let git = std::process::Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut paths = BTreeSet::new();
    match git {
        Ok(out) if out.status.success() => {
            let listed = String::from_utf8_lossy(&out.stdout).into_owned();
            paths.extend(listed.split('\0').filter(|p| !p.is_empty()).map(str::to_owned));
        }
        _ => walk(Path::new(""), &mut paths)?,
    }
    let sized = |p: String| fs::metadata(root().join(&p)).ok().map(|m| (p, m.len()));
    Ok(paths.into_iter().filter_map(sized).collect())
}

fn walk(folder: &Path, paths: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(root().join(folder))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = folder.join(&name);
        if !entry.file_type()?.is_dir() {
            paths.insert(path.to_string_lossy().replace('\\', "/"));
        } else if name == ".ci" || !(name.starts_with('.') || BUILT.contains(&&*name)) {
            walk(&path, paths)?;
        }
    }
    Ok(())
}

/// The text of a file; `None` when it is missing or is not text.
fn text(path: impl Into<PathBuf>) -> Option<String> {
    fs::read_to_string(root().join(path.into())).ok()
}

fn report(mut problems: Vec<Problem>) {
    problems.sort();
    let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} problems:\n{}", list.len(), list.join("\n"));
}

fn rust_files(tree: &[(String, u64)]) -> Vec<Source> {
    let ours =
        |p: &str| p.ends_with(".rs") && ["src/", "tests/", "benches/"].iter().any(|d| p.starts_with(d));
    let read = |(p, _): &(String, u64)| Some(Source::new(p, &text(p)?));
    tree.iter().filter(|(p, _)| ours(p)).filter_map(read).collect()
}

#[test]
fn every_rust_file_is_tidy() {
    let files = rust_files(&tree().unwrap());
    assert!(files.len() > 100, "only {} Rust files: the walk is broken", files.len());
    let mut problems = vec![];
    for file in &files {
        problems.extend(rules::header(file));
        problems.extend(rules::unsafety(file));
        problems.extend(rules::no_leftovers(file));
        if !GENERATED.contains(&file.path.as_str()) {
            problems.extend(rules::sizes(file, LONGER));
        }
        if file.path.starts_with("src/") {
            problems.extend(rules::imports(file));
            problems.extend(rules::no_panic(file));
        }
    }
    problems.extend(rules::unknown_entries(&files, LONGER));
    report(problems);
}

#[test]
fn no_code_names_a_family() {
    let tree = tree().unwrap();
    let stem = |p: &str| Some(p.strip_prefix("converters/")?.strip_suffix(".yaml")?.to_owned());
    // Parts, in a folder of their own, are of no family.
    let stems: Vec<String> = tree.iter().filter_map(|(p, _)| stem(p)).filter(|s| !s.contains('/')).collect();
    assert!(!stems.is_empty(), "no converters");
    let listed: Vec<String> = stems.iter().map(|s| format!("converters/{s}.yaml")).collect();
    let listed = listed.iter().map(|s| (LIBRARY, s.as_str(), "the list of built-in family files"));
    let mentions: Vec<Mention<'_>> = MENTIONS.iter().copied().chain(listed).collect();
    let words: Vec<String> = stems.iter().cloned().chain(FAMILY_WORDS.iter().map(|w| (*w).into())).collect();
    let (mut problems, mut used) = (vec![], BTreeSet::new());
    for file in rust_files(&tree).iter().filter(|f| f.path.starts_with("src/")) {
        problems.extend(rules::no_family_names(file, &words, &mentions, &mut used));
    }
    for (_, (file, text, reason)) in mentions.iter().enumerate().filter(|(i, _)| !used.contains(i)) {
        let what = format!("no longer needed: the mention of '{text}' ({reason})");
        problems.push(Problem { path: (*file).into(), line: 0, what });
    }
    report(problems);
}

#[test]
fn documents_and_fixtures_are_tidy() {
    let tree = tree().unwrap();
    let modules: BTreeSet<String> = tree
        .iter()
        .filter_map(|(p, _)| Some(p.strip_prefix("src/")?.split_once('/')?.0.to_owned()))
        .collect();
    let modules: Vec<String> = modules.into_iter().collect();
    let mut problems = house::architecture(text("ARCHITECTURE.md").as_deref(), &modules);
    for (path, bytes) in &tree {
        problems.extend(house::fixture_size(path, *bytes));
        problems.extend(text(path).map(|t| house::machine_paths(path, &t)).unwrap_or_default());
    }
    report(problems);
}

#[test]
fn every_dependency_is_accounted_for() {
    let mut problems = vec![];
    let crates = house::dependencies(&text("Cargo.toml").unwrap());
    let judges = house::requirements(REQUIREMENTS, &text(REQUIREMENTS).unwrap(), &mut problems);
    assert!(crates.len() > 10 && judges.len() > 3, "the lists were not read");
    let document = text("docs/dependencies.md").unwrap();
    let of_judges = |heading: &str| heading.contains("Python");
    problems.extend(house::dependency_table(&document, "Cargo.toml", &crates, |h| !of_judges(h)));
    problems.extend(house::dependency_table(&document, REQUIREMENTS, &judges, of_judges));
    report(problems);
}

/// The licence part of `cargo deny`, for machines without it: what this platform builds from, by `cargo tree`.
#[test]
fn every_licence_is_allowed() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments =
        ["tree", "--offline", "--prefix", "none", "--edges", "normal,build,dev", "--format", "{p}|{l}"];
    let out = std::process::Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    // `{p}` is `name v1.2.3 (path)`.
    let name = |line: &str| {
        let (package, licence) = line.split_once('|').unwrap_or((line, ""));
        format!("{}|{licence}", package.split(' ').next().unwrap_or_default())
    };
    let packages: Vec<String> = String::from_utf8_lossy(&out.stdout).lines().map(name).collect();
    assert!(packages.len() > 100, "cargo tree listed only {} packages", packages.len());
    report(house::licences(&packages.join("\n"), &house::allowed_licences(&text("deny.toml").unwrap())));
}
