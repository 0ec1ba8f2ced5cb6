//! Each rule against a bad case that it must catch, and a good one that it must let pass.

use std::collections::BTreeSet;

use super::house::{
    allowed_licences, architecture, dependencies, dependency_table, fixture_size, licences, machine_paths,
    requirements,
};
use super::rules::{
    FILE_LINES, header, imports, no_family_names, no_leftovers, no_panic, sizes, unknown_entries, unsafety,
};
use super::source::{Problem, Source};

/// Lines of the problems that `rule` finds in `text` as the file `path`.
fn lines(rule: impl Fn(&Source) -> Vec<Problem>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).iter().map(|p| p.line).collect()
}

#[test]
fn tells_code_from_text() {
    let text = r##"let a = "x // y \" z"; // c "q
let b = r#"raw " fn"#; /* one /* two */ fn */ let c = ('"', '\'', 'a', b'{', 'é');
fn f<'a>(x: &'a str) -> &'a str { x }
"##;
    let file = Source::new("src/x.rs", text);
    assert_eq!(file.code.lines().count(), 3);
    assert_eq!(file.find("fn"), [text.find("fn f").unwrap()], "{}", file.code);
    assert!(!file.code.contains('"') && !file.code.contains("b'{'"), "{}", file.code);
    assert!(file.shown.contains("raw") && !file.shown.contains("two"), "{}", file.shown);
}

#[test]
fn finds_a_missing_header() {
    assert_eq!(lines(header, "src/a.rs", "use x;\n"), [1]);
    assert_eq!(lines(header, "src/a.rs", "//! x\n"), [1]);
    assert_eq!(lines(header, "src/a.rs", "// Not a module comment, only a plain one.\n"), [1]);
    assert_eq!(lines(header, "src/a.rs", "//! Reads the header of a file.\n"), [0; 0]);
}

#[test]
fn finds_long_files_and_functions() {
    let long = |file: &Source| sizes(file, &[]);
    assert_eq!(lines(long, "src/a.rs", &"\n".repeat(FILE_LINES + 1)), [1]);
    let function =
        format!("//! A.\nfn f() {{\n{}}}\nfn g(a: [u8; 2]) {{}}\n", "    let a = '}';\n".repeat(59));
    assert_eq!(lines(long, "src/a.rs", &function), [2], "61 lines");
    assert_eq!(lines(long, "src/a.rs", &function.replacen("    let a = '}';\n", "", 1)), [0; 0], "60 lines");
    assert_eq!(lines(|f| sizes(f, &[("src/a.rs#f", 61, "")]), "src/a.rs", &function), [0; 0]);
    assert_eq!(lines(|f| sizes(f, &[("src/a.rs#f", 62, "")]), "src/a.rs", &function), [2], "could be lower");
    let files = [Source::new("src/a.rs", &function)];
    assert_eq!(unknown_entries(&files, &[("src/a.rs#f", 61, "")]), []);
    assert_eq!(unknown_entries(&files, &[("src/a.rs#h", 61, ""), ("src/a.rs#f", 60, "")]).len(), 2);
}

#[test]
fn finds_unsafe_out_of_place_or_without_reason() {
    let bare = "//! A.\nfn f() {\n    unsafe { g() }\n}\n";
    let noted = "//! A.\nfn f() {\n    // SAFETY: g is fine.\n    unsafe { g() }\n}\n";
    assert_eq!(lines(unsafety, "src/exec/run.rs", noted), [4]);
    assert_eq!(lines(unsafety, "src/numeric/simd/avx2.rs", bare), [3]);
    assert_eq!(lines(unsafety, "src/numeric/simd/avx2.rs", noted), [0; 0]);
    assert_eq!(lines(unsafety, "src/checkpoint/open.rs", noted), [4]);
    assert_eq!(lines(unsafety, "src/a.rs", "//! About unsafe code.\nconst A: &str = \"unsafe\";\n"), [0; 0]);
}

#[test]
fn finds_panics_and_prints() {
    let text =
        "fn f() { a.unwrap(); }\nfn g() { a.expect(\"b\"); panic!(\"c\") }\nfn h() { eprintln!(\"d\") }\n";
    assert_eq!(lines(no_panic, "src/a.rs", text), [1, 2, 2, 3]);
    assert_eq!(lines(no_panic, "src/cli/printer.rs", "fn f() { eprintln!(\"d\") }\n"), [0; 0]);
    assert_eq!(lines(no_panic, "src/a/tests.rs", text), [0; 0]);
    let inside = format!("// .unwrap()\n#[cfg(test)]\nmod tests {{\n{text}}}\nfn k() {{ todo!() }}\n");
    assert_eq!(lines(no_panic, "src/a.rs", &inside), [8]);
    assert_eq!(lines(no_panic, "src/a.rs", "#[cfg(test)]\nmod tests;\nfn k() { dbg!(1) }\n"), [3]);
    assert_eq!(lines(no_panic, "src/a.rs", "fn f() { a.unwrap_or(1); \"panic!\" }\n"), [0; 0]);
}

#[test]
fn finds_leftovers() {
    let text = concat!("fn f() {}\n// TO", "DO: more\n");
    assert_eq!(lines(no_leftovers, "src/a.rs", text), [2]);
    assert_eq!(lines(no_leftovers, "src/a.rs", "const MASTODON: u8 = 1;\n"), [0; 0]);
}

#[test]
fn finds_family_names() {
    let words = ["qwen".to_owned()];
    let mentions = [("src/a.rs", "qwen.tiktoken", ""), ("src/a.rs", "qwen9", "")];
    let mut used = BTreeSet::new();
    let mut find = |text: &str| {
        let file = Source::new("src/a.rs", text);
        no_family_names(&file, &words, &mentions, &mut used).iter().map(|p| p.line).collect::<Vec<_>>()
    };
    assert_eq!(find("let a = 1;\nif kind == \"Qwen2\" {}\n"), [2]);
    assert_eq!(find("fn qwen_split() {}\n"), [1]);
    assert_eq!(
        find("// as Qwen2 does\n/// See `qwen`.\n#[cfg(test)]\nmod tests { const A: &str = \"qwen\"; }\n"),
        [0; 0]
    );
    assert_eq!(find("[\"qwen.tiktoken\"]\n"), [0; 0]);
    assert_eq!(find("[\"qwen.tiktoken\", \"qwen\"]\n"), [1]);
    assert_eq!(used, BTreeSet::from([0]), "the other mention was not needed");
}

#[test]
fn finds_wrong_imports() {
    assert_eq!(lines(imports, "src/passes/fold.rs", "use crate::exec::run;\n"), [1]);
    assert_eq!(
        lines(imports, "src/passes/fold.rs", "use crate::{graph::Graph,\n numeric, cli::{a, b}};\n"),
        [1, 1]
    );
    assert_eq!(
        lines(imports, "src/passes/fold.rs", "use crate::graph::{Graph, Node};\nuse super::exec;\n"),
        [0; 0]
    );
    assert_eq!(lines(imports, "src/passes/mod.rs", "use super::exec;\n"), [1]);
    assert_eq!(lines(imports, "src/export/onnx/mod.rs", "use super::super::super::exec;\n"), [0; 0]);
    assert_eq!(lines(imports, "src/export/onnx/mod.rs", "use super::super::exec;\n"), [1]);
    assert_eq!(lines(imports, "src/export/gguf.rs", "use crate::family::{inputs::Resize, resolve};\n"), [1]);
    assert_eq!(lines(imports, "src/export/gguf.rs", "use crate::family::inputs::{self, Resize};\n"), [0; 0]);
    assert_eq!(
        lines(imports, "src/exec/a.rs", "crate::for_each_op!(x);\nfn f(a: crate::checkpoint::A) {}\n"),
        [2]
    );
    assert_eq!(lines(imports, "src/novel/a.rs", "//! A.\n"), [1], "not in the table");
    assert_eq!(lines(imports, "src/main.rs", "use crate::cli;\n"), [0; 0]);
}

#[test]
fn finds_gaps_in_architecture() {
    let modules = ["exec".to_owned(), "graph".to_owned()];
    assert_eq!(architecture(None, &modules).len(), 1);
    assert_eq!(architecture(Some("`src/exec/` runs"), &modules).len(), 1);
    assert_eq!(architecture(Some("`exec/` and `graph/`"), &modules), []);
    assert_eq!(architecture(Some(&"exec/ graph/\n".repeat(200)), &modules).len(), 1);
}

#[test]
fn finds_unexplained_and_stale_dependencies() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# why\nfaer = \"1\" # new\nhalf = { version = \"2\" }\n\
                    [dependencies.csv]\nversion = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n[profile.release]\ndebug = 1\n";
    let crates = dependencies(manifest);
    assert_eq!(crates.keys().collect::<Vec<_>>(), ["csv", "faer", "half", "proptest"]);
    let table = "## A\n| `faer` | a |\n| `half` | b |\n| `half` | b |\n| `csv` | c |\n| `gone` | d |\n## B\n| `half` | b |\n";
    let found = dependency_table(table, "Cargo.toml", &crates, |heading| heading == "A");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].contains("two rows") && found[1].contains("`proptest`") && found[2].contains("`gone`"));
}

#[test]
fn finds_unpinned_judges() {
    let mut problems = vec![];
    let text =
        format!("# judges\nonnx==1.2.3\nnumpy>=2\ngguf==0.*\n{}\nPyYAML==6.0\n", super::house::PULLED_IN);
    let names = requirements("r.txt", &text, &mut problems);
    assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(names.keys().collect::<Vec<_>>(), ["gguf", "onnx"]);
}

#[test]
fn finds_large_fixtures_and_machine_paths() {
    assert!(fixture_size("fixtures/a/model.safetensors", 6_000_001).is_some());
    assert!(fixture_size("fixtures/a/model.safetensors", 6_000_000).is_none());
    assert!(fixture_size("schemas/a", 6_000_001).is_none());
    let bad = concat!("a\nsee /wo", "rk/main\n../sha", "red\n.lib", "rary/x\nfa", "rm-x\n");
    assert_eq!(machine_paths("a.md", bad).iter().map(|p| p.line).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!(machine_paths("a.md", "the framework, self.library.find(), homework/x\n"), []);
}

#[test]
fn finds_licences_that_are_not_allowed() {
    let deny = "[bans]\nallow = [\"GPL-3.0\"]\n[licenses]\nallow = [\n  \"MIT\", # all\n  \"Unicode-3.0\",\n]\n\
                exceptions = [{ crate = \"own\", allow = [\"MPL-2.0\"] }]\n[sources]\nallow = [\"ISC\"]\n";
    let allowed = allowed_licences(deny);
    let good = "a|MIT OR GPL-3.0\nb|(MIT OR X) AND Unicode-3.0\nc|Apache-2.0/MIT (*)\nown|MPL-2.0\n";
    assert_eq!(licences(good, &allowed), []);
    let bad = "a|GPL-3.0\nb|MIT AND X\nc|\nd|ISC\ne|MPL-2.0\nf|MIT WITH Odd-exception\ng|MIT MIT\nh|(MIT\n";
    assert_eq!(licences(bad, &allowed).len(), 8, "{:?}", licences(bad, &allowed));
}
