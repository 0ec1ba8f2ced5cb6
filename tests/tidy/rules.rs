//! The rules about Rust files: each takes a file and says what is wrong with it. What they allow stands in tables at their head.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Problem, Source, body, closing, is_name};

/// Longest file, in lines. Most should have less than half of it.
pub const FILE_LINES: usize = 600;
/// Longest function, from its `fn` line to its closing brace.
pub const FUNCTION_LINES: usize = 60;
/// Most lines between a `SAFETY` note and its `unsafe`.
const SAFETY_LINES: usize = 6;

/// A longer file or function than the limit: `(file or file#function, lines allowed, reason)`. One that is no longer needed, or that
/// allows more than it must, is a problem too, so that sizes only go down.
pub type Longer = (&'static str, usize, &'static str);

/// What the modules of `src/` may import, and no more. `a::b` allows that part of `a` alone.
pub const IMPORTS: &[(&str, &[&str])] = &[
    ("positioned", &[]),
    ("checkpoint", &["positioned"]),
    ("numeric", &[]),
    ("tokenizer", &[]),
    ("graph", &["numeric"]),
    ("family", &["checkpoint", "graph", "numeric", "tokenizer"]),
    ("exec", &["graph", "numeric"]),
    ("passes", &["graph", "numeric"]),
    ("calibrate", &["checkpoint", "family", "graph", "numeric", "tokenizer"]),
    ("quantize", &["calibrate", "exec", "family", "graph", "numeric", "passes", "positioned"]),
    ("export", &["family::inputs", "graph", "numeric", "positioned"]),
    (
        "verify",
        &["calibrate", "checkpoint", "exec", "export", "family", "graph", "numeric", "passes", "quantize"],
    ),
    (
        "pipeline",
        &[
            "calibrate",
            "checkpoint",
            "exec",
            "export",
            "family",
            "graph",
            "numeric",
            "passes",
            "quantize",
            "tokenizer",
            "verify",
        ],
    ),
    (
        "cli",
        &[
            "calibrate",
            "checkpoint",
            "exec",
            "export",
            "family",
            "graph",
            "numeric",
            "passes",
            "pipeline",
            "quantize",
            "tokenizer",
            "verify",
        ],
    ),
];

/// Every file begins with a `//!` header of at least one sentence.
pub fn header(file: &Source) -> Vec<Problem> {
    let lines = file.text.lines().map_while(|l| l.strip_prefix("//!"));
    let header = lines.collect::<Vec<_>>().join(" ");
    let words: Vec<&str> = header.split_whitespace().collect();
    let sentence = words.iter().any(|w| w.ends_with(['.', ':', ';', '!']));
    if words.len() >= 4 && sentence {
        return vec![];
    }
    vec![file.problem(0, "the file must begin with a `//!` header: a sentence that says what lives here")]
}

/// Files and functions are short, see [`Longer`].
pub fn sizes(file: &Source, longer: &[Longer]) -> Vec<Problem> {
    let mut found = vec![(file.path.clone(), 0, file.text.lines().count(), FILE_LINES)];
    for at in file.find("fn") {
        let name: String =
            file.code[at + 2..].trim_start().chars().take_while(|c| !"(<{ \n".contains(*c)).collect();
        if let (false, Some(open)) = (name.is_empty(), body(&file.code, at)) {
            let lines = file.line(closing(&file.code, open)) - file.line(at) + 1;
            found.push((format!("{}#{name}", file.path), at, lines, FUNCTION_LINES));
        }
    }
    let mut problems = vec![];
    for (name, at, lines, limit) in found {
        let allowed = longer.iter().find(|(n, ..)| *n == name).map(|(_, lines, _)| *lines);
        if lines > allowed.unwrap_or(limit) {
            let limit = allowed.unwrap_or(limit);
            problems.push(file.problem(at, format!("{name} has {lines} lines; the limit is {limit}")));
        } else if allowed.is_some_and(|a| a > lines) && longest(file, &name, lines) {
            let what = format!(
                "{name} has {lines} lines now: lower its entry in the list of longer ones, or drop it"
            );
            problems.push(file.problem(at, what));
        }
    }
    problems
}

/// No function of the same name in this file has more lines (methods of several types may share a name).
fn longest(file: &Source, name: &str, lines: usize) -> bool {
    let Some((_, function)) = name.split_once('#') else { return true };
    file.find(&format!("fn {function}")).iter().all(|at| {
        body(&file.code, *at).is_none_or(|o| file.line(closing(&file.code, o)) - file.line(*at) < lines)
    })
}

/// `unsafe` stands only where it is allowed, with its reason above it.
pub fn unsafety(file: &Source) -> Vec<Problem> {
    let home = file.path.starts_with("src/numeric/simd/");
    let lines: Vec<&str> = file.text.lines().collect();
    let mut problems = vec![];
    for at in file.find("unsafe") {
        let line = file.line(at);
        let near = &lines[line.saturating_sub(SAFETY_LINES + 1)..line];
        if !home {
            let what = "unsafe code may stand only in src/numeric/simd/";
            problems.push(file.problem(at, what));
        } else if !near.iter().any(|l| l.contains("SAFETY") || l.contains("# Safety")) {
            let what = format!("no SAFETY note in the {SAFETY_LINES} lines above this unsafe");
            problems.push(file.problem(at, what));
        }
    }
    problems
}

/// Code outside tests does not panic on purpose, and only the printer prints.
pub fn no_panic(file: &Source) -> Vec<Problem> {
    let panics = [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!", "dbg!"];
    let prints = ["println!", "eprintln!", "print!", "eprint!"];
    let printer = file.path == "src/cli/printer.rs";
    let banned = panics.into_iter().chain(prints.into_iter().filter(|_| !printer));
    banned
        .flat_map(|p| file.find(p).into_iter().map(move |at| (p, at)))
        .filter(|(_, at)| !file.in_test(*at))
        .map(|(p, at)| {
            file.problem(at, format!("`{p}` outside tests: return an error, print by the printer"))
        })
        .collect()
}

/// Work left over is an issue in the tracker, not a note in the code.
pub fn no_leftovers(file: &Source) -> Vec<Problem> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    marks
        .iter()
        .flat_map(|mark| super::source::find(&file.text, mark).into_iter().map(move |at| (mark, at)))
        .map(|(mark, at)| file.problem(at, format!("a {mark} note: do it, or open an issue")))
        .collect()
}

/// Allowed mentions of families in code: `(file, text, reason)`.
pub type Mention<'a> = (&'a str, &'a str, &'a str);

/// Code outside tests names no model family: families are data. `used` collects the indices of the mentions that were needed.
pub fn no_family_names(
    file: &Source,
    words: &[String],
    mentions: &[Mention<'_>],
    used: &mut BTreeSet<usize>,
) -> Vec<Problem> {
    let mut problems = vec![];
    let mut start = 0;
    for line in file.shown.split_inclusive('\n') {
        let at = start;
        start += line.len();
        if file.in_test(at) {
            continue;
        }
        let mut rest = line.to_lowercase();
        for (i, (_, text, _)) in mentions.iter().enumerate().filter(|(_, m)| m.0 == file.path) {
            if rest.contains(&text.to_lowercase()) {
                rest = rest.replace(&text.to_lowercase(), "");
                used.insert(i);
            }
        }
        if let Some(word) = words.iter().find(|w| rest.contains(&w.to_lowercase())) {
            let what = format!("code names the model family '{word}': move this to converters/*.yaml");
            problems.push(file.problem(at, what));
        }
    }
    problems
}

/// Modules import only what [`IMPORTS`] allows.
pub fn imports(file: &Source) -> Vec<Problem> {
    let Some((module, depth)) = place(&file.path) else { return vec![] };
    let table: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let Some(allowed) = table.get(module.as_str()) else {
        return vec![file.problem(0, format!("module {module} is not in the import table of tests/tidy"))];
    };
    let own = |path: &str| path == module || path.starts_with(&format!("{module}::"));
    let fine = |path: &str| allowed.iter().any(|a| path == *a || path.starts_with(&format!("{a}::")));
    root_paths(file, depth)
        .into_iter()
        .filter(|(_, path)| table.contains_key(path.split("::").next().unwrap_or_default()))
        .filter(|(_, path)| !own(path) && !fine(path))
        .map(|(at, path)| {
            file.problem(at, format!("{module} may not import {path} (allowed: {})", allowed.join(", ")))
        })
        .collect()
}

/// Top module of a file and how many `super` lead from it to the crate root; `None` for `main.rs`, `lib.rs` and outside `src/`.
fn place(path: &str) -> Option<(String, usize)> {
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let parts: Vec<&str> = path.split('/').filter(|p| *p != "mod").collect();
    let module = *parts.first()?;
    (!["main", "lib"].contains(&module)).then(|| (module.to_owned(), parts.len()))
}

/// Paths from the crate root (`crate::a::b`, or as many `super::` as lead there), groups expanded, without the root.
fn root_paths(file: &Source, depth: usize) -> Vec<(usize, String)> {
    let up = "super::".repeat(depth);
    let mut found = vec![];
    for root in ["crate::", up.as_str()] {
        for at in file.find(root) {
            let before = &file.code[..at];
            if !before.ends_with("$") {
                let mut paths = vec![];
                tree(&file.code[at + root.len()..], "", &mut paths);
                found.extend(paths.into_iter().map(|p| (at, p)));
            }
        }
    }
    found
}

/// Expands the use tree at the start of `code` into `paths`; returns its length.
fn tree(code: &str, prefix: &str, paths: &mut Vec<String>) -> usize {
    let mut at = code.len() - code.trim_start().len();
    if !code[at..].starts_with('{') {
        let name = code[at..].bytes().take_while(|b| is_name(*b)).count();
        let path = format!("{prefix}{}", &code[at..at + name]);
        at += name;
        if !code[at..].starts_with("::") {
            paths.push(path.trim_end_matches(':').to_owned());
            return at;
        }
        return at + 2 + tree(&code[at + 2..], &format!("{path}::"), paths);
    }
    at += 1;
    loop {
        at += code[at..].bytes().take_while(|b| b.is_ascii_whitespace() || *b == b',' || *b == b'*').count();
        match code[at..].bytes().next() {
            Some(b) if is_name(b) || b == b'{' => at += tree(&code[at..], prefix, paths),
            Some(b'}') | None => return at + 1,
            Some(_) => at += 1,
        }
    }
}

/// Entries of the list of longer ones whose file or function is gone, or which are within the limit anyway.
pub fn unknown_entries(files: &[Source], longer: &[Longer]) -> Vec<Problem> {
    let known = |name: &str| {
        let (path, function) = name.split_once('#').unwrap_or((name, ""));
        let holds = |f: &Source| function.is_empty() || !f.find(&format!("fn {function}")).is_empty();
        files.iter().any(|f| f.path == path && holds(f))
    };
    let limit = |name: &str| if name.contains('#') { FUNCTION_LINES } else { FILE_LINES };
    longer
        .iter()
        .filter(|(name, lines, _)| !known(name) || *lines <= limit(name))
        .map(|(name, ..)| {
            let what = "an entry in the list of longer ones that is not needed".into();
            Problem { path: (*name).into(), line: 0, what }
        })
        .collect()
}
