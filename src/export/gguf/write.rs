//! Writes a model as one GGUF file or several: everything is checked before the first byte, and one tensor is in memory at a time. The bytes depend
//! on the blueprint and the tensors alone. Layout: `docs/gguf.md` of ggml.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::{GgufError, Problem, Problems};
use super::layout::{self, ALIGNMENT_KEY, MAGIC, VERSION};
use super::shards::{self, Split};
use super::value::{Scalar, put_text};
use super::{Metadata, TensorInfo, Value};

/// Longest key, in bytes (`docs/gguf.md` of ggml).
const MAX_KEY: usize = 65535;
/// What `docs/gguf.md` of ggml asks an alignment to be a multiple of.
const ALIGNMENT_UNIT: u64 = 8;
/// Bytes handed to the system at a time; larger tensors go there directly.
const BUFFER: usize = 1 << 20;

/// What a model's files hold, without the numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blueprint {
    /// Keys and values in the order they are written. Those that hold shards together (`split.*`) are the writer's.
    pub metadata: Metadata,
    /// Tensors in the order they are written.
    pub tensors: Vec<TensorInfo>,
}

/// What was found while checking.
struct Checked {
    /// Bytes of each tensor.
    sizes: Vec<u64>,
    alignment: u64,
    /// Tensors of each file.
    shards: Vec<Range<usize>>,
}

/// Writes `dir/stem.gguf`, or where the tensors together have more than `split` bytes several files `dir/stem-00001-of-0000N.gguf` of at most that many
/// bytes of tensors each (a larger tensor has a file of its own). Existing files are replaced. `fill` gives the bytes of tensor `i`, in blocks of its type,
/// once for each in order; `done` is told when they are written. The paths, in order.
///
/// # Errors
/// [`GgufError::Blueprint`] with everything that a GGUF file cannot hold, before anything is written; [`GgufError::TensorBytes`] when `fill` gives another
/// number of bytes than declared; [`GgufError::Write`] with the file; what `fill` says. What was written until then stays for the caller to remove.
pub fn write<E: From<GgufError>>(
    dir: &Path,
    stem: &str,
    blueprint: &Blueprint,
    split: Option<u64>,
    fill: &mut dyn FnMut(usize) -> Result<Vec<u8>, E>,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<PathBuf>, E> {
    let checked = check(stem, blueprint, split)
        .map_err(|problems| GgufError::Blueprint { stem: stem.to_string(), problems })?;
    let mut paths = Vec::with_capacity(checked.shards.len());
    // `check` saw that the counts fit.
    let (count, tensors) = (checked.shards.len() as u16, blueprint.tensors.len() as i32);
    for (number, range) in (0..count).zip(&checked.shards) {
        let split = (count > 1).then_some(Split { number, count, tensors });
        let name = split.map_or(format!("{stem}.gguf"), |s| shards::file_name(stem, s.number, s.count));
        let path = dir.join(name);
        let header = header(&metadata_of(blueprint, split), blueprint, &checked, range.clone());
        let mut file = Output::create(&path)?;
        file.put(&header, checked.alignment)?;
        for i in range.clone() {
            let (bytes, expected) = (fill(i)?, checked.sizes[i]);
            if bytes.len() as u64 != expected {
                let tensor = blueprint.tensors[i].name.clone();
                return Err(GgufError::TensorBytes { tensor, expected, found: bytes.len() as u64 }.into());
            }
            file.put(&bytes, checked.alignment)?;
            done(i);
        }
        file.finish()?;
        paths.push(path);
    }
    Ok(paths)
}

fn check(stem: &str, blueprint: &Blueprint, split: Option<u64>) -> Result<Checked, Problems> {
    let mut problems = check_keys(&blueprint.metadata);
    if stem.is_empty() || stem.contains(['/', '\\', '\0']) {
        problems.push(Problem::new("file name", format!("{stem:?} is not the name of a file in a folder")));
    }
    if split == Some(0) {
        problems.push(Problem::new("size of shards", "at least one byte is expected, found 0"));
    }
    let mut names = HashSet::new();
    let repeated = blueprint.tensors.iter().filter(|t| !names.insert(t.name.as_str()));
    problems.extend(repeated.map(|t| Problem::tensor(&t.name, "the name occurs twice")));
    let mut sizes = Vec::with_capacity(blueprint.tensors.len());
    for tensor in &blueprint.tensors {
        tensor.bytes().map_or_else(|p| problems.push(p), |n| sizes.push(n));
    }
    let alignment = layout::alignment(&blueprint.metadata).and_then(|n| match n % ALIGNMENT_UNIT {
        0 => Ok(n),
        _ => Err(Problem::key(ALIGNMENT_KEY, format!("{n} is not a multiple of {ALIGNMENT_UNIT}"))),
    });
    let alignment = alignment.unwrap_or_else(|p| {
        problems.push(p);
        layout::DEFAULT_ALIGNMENT
    });
    let padded = |total: u64, n: &u64| total.checked_add(n.checked_next_multiple_of(alignment)?);
    if sizes.iter().try_fold(0, padded).is_none() {
        problems.push(Problem::new("tensors", "their bytes overflow 64 bits"));
    }
    let shards = shards::plan(&sizes, alignment, split);
    if u16::try_from(shards.len()).is_err() {
        let what = format!("{} are needed, {} can be counted; allow larger ones", shards.len(), u16::MAX);
        problems.push(Problem::new("shards", what));
    }
    if i32::try_from(blueprint.tensors.len()).is_err() {
        let what = format!("there are {}, {} can be counted", blueprint.tensors.len(), i32::MAX);
        problems.push(Problem::new("tensors", what));
    }
    problems.or(Checked { sizes, alignment, shards })
}

fn check_keys(metadata: &Metadata) -> Problems {
    let (mut problems, mut seen) = (Problems::default(), HashSet::new());
    for (key, _) in metadata {
        if !seen.insert(key.as_str()) {
            problems.push(Problem::key(key, "occurs twice"));
        }
        if key.is_empty() || key.len() > MAX_KEY || !key.is_ascii() {
            problems.push(Problem::key(key, format!("1 to {MAX_KEY} ASCII characters are expected")));
        }
        if [shards::NUMBER_KEY, shards::COUNT_KEY, shards::TENSORS_KEY].contains(&key.as_str()) {
            problems.push(Problem::key(key, "is set by the writer; leave it out"));
        }
    }
    problems
}

/// All metadata in the first file. The others begin anew for a reader, so they repeat an alignment that is not the default.
fn metadata_of(blueprint: &Blueprint, split: Option<Split>) -> Metadata {
    let first = split.is_none_or(|s| s.number == 0);
    let own = blueprint.metadata.iter().filter(|(key, _)| first || key == ALIGNMENT_KEY);
    own.cloned().chain(split.map(Split::metadata).unwrap_or_default()).collect()
}

/// Everything in front of the tensors `range`, without padding.
fn header(metadata: &Metadata, blueprint: &Blueprint, checked: &Checked, range: Range<usize>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    VERSION.put(&mut out);
    (range.len() as u64).put(&mut out);
    (metadata.len() as u64).put(&mut out);
    for (key, value) in metadata {
        put_entry(key, value, &mut out);
    }
    let mut offset = 0u64;
    for i in range {
        let tensor = &blueprint.tensors[i];
        put_text(&tensor.name, &mut out);
        (tensor.dims.len() as u32).put(&mut out);
        tensor.dims.iter().for_each(|n| n.put(&mut out));
        tensor.kind.id().put(&mut out);
        offset.put(&mut out);
        offset += checked.sizes[i].next_multiple_of(checked.alignment);
    }
    out
}

fn put_entry(key: &str, value: &Value, out: &mut Vec<u8>) {
    put_text(key, out);
    value.value_type().id().put(out);
    value.put(out);
}

/// A file that is being written.
struct Output {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Output {
    fn create(path: &Path) -> Result<Self, GgufError> {
        let file =
            File::create(path).map_err(|source| GgufError::Write { path: path.to_path_buf(), source })?;
        Ok(Self { path: path.to_path_buf(), file: BufWriter::with_capacity(BUFFER, file) })
    }

    fn failed(&self, source: std::io::Error) -> GgufError {
        GgufError::Write { path: self.path.clone(), source }
    }

    /// Appends `bytes` and zeros up to the next multiple of `alignment`: llama.cpp expects them behind the last tensor too.
    fn put(&mut self, bytes: &[u8], alignment: u64) -> Result<(), GgufError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        self.file.write_all(bytes).map_err(|e| self.failed(e))?;
        let length = bytes.len() as u64;
        let mut gap = length.next_multiple_of(alignment) - length;
        while gap > 0 {
            let now = gap.min(ZEROS.len() as u64);
            self.file.write_all(&ZEROS[..now as usize]).map_err(|e| self.failed(e))?;
            gap -= now;
        }
        Ok(())
    }

    /// Hands everything to the disk; a full one may show only here.
    fn finish(self) -> Result<(), GgufError> {
        let Self { path, file } = self;
        let failed = |source| GgufError::Write { path: path.clone(), source };
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)
    }
}
