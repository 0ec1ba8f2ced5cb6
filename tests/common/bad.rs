//! Builds the broken inputs of `fixtures/bad/`: a copy of a good fixture, minus, plus and with edits as the case's
//! `case.json` says (format: `fixtures/bad/README.md`). What the tool must answer is asserted by the tests that use it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Files of a base fixture that are test data, not part of the checkpoint; they are not copied.
const NOT_COPIED: [&str; 2] = ["goldens.safetensors", "NOTES.md"];

/// A broken input, built and ready to be refused.
#[derive(Debug)]
pub struct Case {
    /// Name of the case folder.
    pub name: String,
    /// What is broken, in one line.
    pub what: String,
    /// Which part of the tool must refuse it.
    pub stage: Stage,
    /// The checkpoint folder that was built.
    pub dir: PathBuf,
    /// Substrings that the error must contain, all of them.
    pub expect: Vec<String>,
    /// Samples file to pass as calibration data, for cases about data.
    pub data: Option<PathBuf>,
}

/// The part of the tool that must refuse a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// `Checkpoint::open`.
    Open,
    /// Reading the weights of a checkpoint that opens.
    Weights,
    /// Matching the checkpoint with a family.
    Family,
    /// Reading the samples in `Case::data`.
    Data,
}

/// `case.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    what: String,
    base: String,
    stage: Stage,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    patch: Vec<Patch>,
    expect: Vec<String>,
    data: Option<String>,
}

/// One edit of one file of the built folder.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Patch {
    /// Keep the first `len` bytes.
    Truncate { file: String, len: usize },
    /// Overwrite bytes from offset `at`.
    Write { file: String, at: usize, hex: String },
    /// Replace the one place where `find` occurs.
    ReplaceText { file: String, find: String, with: String },
}

/// Builds the case in `case_dir` inside the empty folder `into`, from the base fixture under `fixtures_dir`.
///
/// # Errors
/// When a file cannot be read or written, and when `case.json` is not exactly right: an unknown key, a `remove` or
/// `patch` that changes nothing, a text to replace that does not occur exactly once. A case must not rot silently.
pub fn build_case(case_dir: &Path, fixtures_dir: &Path, into: &Path) -> io::Result<Case> {
    let spec: Spec = serde_json::from_slice(&fs::read(case_dir.join("case.json"))?)
        .map_err(|error| wrong(case_dir, &error.to_string()))?;
    if spec.expect.is_empty() {
        return Err(wrong(case_dir, "`expect` is empty"));
    }
    copy_tree(&fixtures_dir.join(&spec.base), into, &NOT_COPIED)?;
    for file in &spec.remove {
        fs::remove_file(into.join(file))
            .map_err(|error| wrong(case_dir, &format!("remove {file}: {error}")))?;
    }
    copy_tree(case_dir, into, &["case.json"])?;
    for patch in &spec.patch {
        apply(patch, into).map_err(|error| wrong(case_dir, &error.to_string()))?;
    }
    let data = spec.data.map(|file| into.join(file));
    if let Some(file) = data.as_ref().filter(|file| !file.is_file()) {
        return Err(wrong(case_dir, &format!("`data` names {}, which does not exist", file.display())));
    }
    let name = case_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (what, stage, expect) = (spec.what, spec.stage, spec.expect);
    Ok(Case { name, what, stage, dir: into.to_owned(), expect, data })
}

/// Copies files and folders of `from` into `to`, over what is there, leaving out top-level names in `skip`.
/// Contents only: fixtures may be read-only, and patches must be able to write.
fn copy_tree(from: &Path, to: &Path, skip: &[&str]) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if skip.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target, &[])?;
        } else {
            fs::write(target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// Applies one edit to a file of `dir`.
fn apply(patch: &Patch, dir: &Path) -> io::Result<()> {
    let (Patch::Truncate { file, .. } | Patch::Write { file, .. } | Patch::ReplaceText { file, .. }) = patch;
    let path = dir.join(file);
    let before = fs::read(&path).map_err(|error| wrong(&path, &error.to_string()))?;
    let mut after = before.clone();
    match patch {
        Patch::Truncate { len, .. } => after.truncate(*len),
        Patch::Write { at, hex, .. } => {
            let bytes = unhex(hex).ok_or_else(|| wrong(&path, "`hex` is not pairs of hex digits"))?;
            let end = at.checked_add(bytes.len());
            let place = end.and_then(|end| after.get_mut(*at..end));
            place.ok_or_else(|| wrong(&path, "`write` beyond the end of the file"))?.copy_from_slice(&bytes);
        }
        Patch::ReplaceText { find, with, .. } => {
            let (find, with) = (find.as_bytes(), with.as_bytes());
            let places: Vec<usize> =
                (0..before.len()).filter(|&at| !find.is_empty() && before[at..].starts_with(find)).collect();
            let &[at] = places.as_slice() else {
                return Err(wrong(
                    &path,
                    &format!("text to replace occurs {} times, not once", places.len()),
                ));
            };
            if file.ends_with(".safetensors") && find.len() != with.len() {
                return Err(wrong(&path, "`replace_text` in a safetensors file must keep the length"));
            }
            after.splice(at..at + find.len(), with.iter().copied());
        }
    }
    if after == before {
        return Err(wrong(&path, "patch changes nothing"));
    }
    fs::write(&path, after)
}

/// Bytes written as pairs of hex digits.
fn unhex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = hex.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

/// An error that names the file or case it is about.
fn wrong(subject: &Path, message: &str) -> io::Error {
    io::Error::other(format!("{}: {message}", subject.display()))
}
