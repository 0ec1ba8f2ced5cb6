//! The rules about what is not Rust: the manifest and its documents, licences, fixtures, machine paths. Pure functions over texts.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Problem;

/// Most lines of ARCHITECTURE.md: a longer one is not read.
pub const ARCHITECTURE_LINES: usize = 199;
/// Largest file under `fixtures/`, in bytes.
pub const FIXTURE_BYTES: u64 = 6_000_000;
/// The line of the judges' requirements below which nothing needs a word in the documents: what the judges pull in themselves.
pub const PULLED_IN: &str = "# Pulled in by these";

fn problem(path: &str, line: usize, what: impl Into<String>) -> Problem {
    Problem { path: path.to_owned(), line, what: what.into() }
}

/// ARCHITECTURE.md is there, is short, and names every module folder of `src/`.
pub fn architecture(text: Option<&str>, modules: &[String]) -> Vec<Problem> {
    let file = "ARCHITECTURE.md";
    let Some(text) = text else { return vec![problem(file, 0, "the file is missing")] };
    let mut problems = vec![];
    let lines = text.lines().count();
    if lines > ARCHITECTURE_LINES {
        problems.push(problem(file, 0, format!("{lines} lines; the limit is {ARCHITECTURE_LINES}")));
    }
    let missing = modules.iter().filter(|m| !text.contains(&format!("{m}/")));
    problems.extend(missing.map(|m| problem(file, 0, format!("does not name the folder src/{m}/"))));
    problems
}

/// Names under `[dependencies]` and `[dev-dependencies]` of Cargo.toml, with their lines.
pub fn dependencies(manifest: &str) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    let mut inside = false;
    for (i, line) in manifest.lines().enumerate() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end().trim_end_matches(']');
            inside = ["dependencies", "dev-dependencies", "build-dependencies"].contains(&section);
            if let Some((_, name)) = section.split_once("dependencies.") {
                names.insert(name.to_owned(), i + 1);
            }
        } else if let (true, Some((name, _))) = (inside, line.split_once('=')) {
            let name = name.trim().split('.').next().unwrap_or_default();
            if !name.starts_with('#') {
                names.insert(name.to_owned(), i + 1);
            }
        }
    }
    names
}

/// The packages of a requirements file down to [`PULLED_IN`], with their lines; one without an exact version is a problem.
pub fn requirements(path: &str, text: &str, problems: &mut Vec<Problem>) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    let mut direct = true;
    for (i, line) in text.lines().enumerate() {
        direct &= !line.starts_with(PULLED_IN);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, version)) = line.split_once("==") else {
            problems.push(problem(path, i + 1, "not pinned to one version (name==1.2.3)"));
            continue;
        };
        if version.contains('*') {
            problems.push(problem(path, i + 1, "not pinned to one version (name==1.2.3)"));
        }
        if direct {
            names.insert(name.to_owned(), i + 1);
        }
    }
    names
}

/// Every name has exactly one table row (`` | `name` | ``) in docs/dependencies.md under the headings that `ours` picks, and every row
/// there a name. `names` come from the file `source`.
pub fn dependency_table(
    document: &str,
    source: &str,
    names: &BTreeMap<String, usize>,
    ours: impl Fn(&str) -> bool,
) -> Vec<Problem> {
    let file = "docs/dependencies.md";
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    let mut problems = vec![];
    let mut heading = "";
    for (i, line) in document.lines().enumerate() {
        heading = line.strip_prefix("## ").unwrap_or(heading);
        let row = line.strip_prefix("| `").and_then(|l| l.split('`').next()).filter(|_| ours(heading));
        if row.is_some_and(|name| rows.insert(name, i + 1).is_some()) {
            problems.push(problem(file, i + 1, format!("two rows for one name: {line}")));
        }
    }
    let missing = names.iter().filter(|(name, _)| !rows.contains_key(name.as_str()));
    let what = |name: &str| format!("`{name}` has no row in {file}");
    problems.extend(missing.map(|(name, line)| problem(source, *line, what(name))));
    let stale = rows.iter().filter(|(row, _)| !names.contains_key(**row));
    let what = |row: &str| format!("`{row}` is not in {source}: drop its row");
    problems.extend(stale.map(|(row, line)| problem(file, *line, what(row))));
    problems
}

/// Files under `fixtures/` stay small: they are cloned by everyone.
pub fn fixture_size(path: &str, bytes: u64) -> Option<Problem> {
    let what = || format!("{bytes} bytes; the limit is {FIXTURE_BYTES}");
    (path.starts_with("fixtures/") && bytes > FIXTURE_BYTES).then(|| problem(path, 0, what()))
}

/// No file mentions places that exist on one machine only. The patterns are put together here, so that this file is no hit.
pub fn machine_paths(path: &str, text: &str) -> Vec<Problem> {
    let patterns =
        [concat!("/wo", "rk/"), concat!("../", "shared"), concat!(".lib", "rary/"), concat!("fa", "rm-")];
    let hit = |line: &str| patterns.iter().find(|p| line.contains(**p)).copied();
    text.lines()
        .enumerate()
        .filter_map(|(i, line)| hit(line).map(|p| problem(path, i + 1, format!("mentions '{p}'"))))
        .collect()
}

/// The licences that deny.toml allows: for all packages, and for single ones.
pub struct Allowed {
    all: BTreeSet<String>,
    single: BTreeMap<String, BTreeSet<String>>,
}

/// Reads `allow = [..]` and `exceptions = [{ crate = "..", allow = [..] }, ..]` of the section `[licenses]`.
pub fn allowed_licences(deny: &str) -> Allowed {
    let section = deny.split("\n[").find(|s| s.starts_with("licenses]")).unwrap_or_default();
    let section: String = section.lines().map(|l| l.split('#').next().unwrap_or_default()).collect();
    let (all, exceptions) = section.split_once("exceptions").unwrap_or((&section, ""));
    let quoted =
        |text: &str| -> Vec<String> { text.split('"').skip(1).step_by(2).map(str::to_owned).collect() };
    let list = all.split_once("allow = [").and_then(|(_, l)| l.split_once(']')).map_or("", |(l, _)| l);
    let single = exceptions.split("crate").skip(1).map(|entry| {
        let mut words = quoted(entry).into_iter();
        (words.next().unwrap_or_default(), words.collect())
    });
    Allowed { all: quoted(list).into_iter().collect(), single: single.collect() }
}

/// Packages whose licence is not covered, from lines `name|licence expression` (of `cargo tree`).
pub fn licences(tree: &str, allowed: &Allowed) -> Vec<Problem> {
    let mut problems = BTreeSet::new();
    for line in tree.lines() {
        let Some((name, licence)) = line.trim_end_matches(" (*)").split_once('|') else { continue };
        let fine =
            |l: &str| allowed.all.contains(l) || allowed.single.get(name).is_some_and(|s| s.contains(l));
        if !covered(licence, &fine) {
            let what = format!("{name} is under '{licence}', which deny.toml does not allow");
            problems.insert(problem("Cargo.lock", 0, what));
        }
    }
    problems.into_iter().collect()
}

/// An SPDX expression can be satisfied with licences that are `fine`. `/` is an old way to write `OR`.
fn covered(expression: &str, fine: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = either(&words, &mut at, fine);
    value && at == words.len()
}

fn either(words: &[&str], at: &mut usize, fine: &dyn Fn(&str) -> bool) -> bool {
    let mut value = both(words, at, fine);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        value |= both(words, at, fine);
    }
    value
}

fn both(words: &[&str], at: &mut usize, fine: &dyn Fn(&str) -> bool) -> bool {
    let mut value = one(words, at, fine);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        value &= one(words, at, fine);
    }
    value
}

fn one(words: &[&str], at: &mut usize, fine: &dyn Fn(&str) -> bool) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let value = either(words, at, fine);
        *at += 1;
        return value;
    }
    if words.get(*at) == Some(&"WITH") {
        let whole = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
        return fine(&whole);
    }
    fine(word)
}
