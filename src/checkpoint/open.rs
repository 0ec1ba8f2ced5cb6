//! Opens a checkpoint folder: finds the weights, reads their headers, checks them against each other and collects everything
//! that is wrong before giving up. Single checks live in `header.rs`, `layout.rs` and `index.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{CheckpointError, FileError};
use super::folder::Folder;
use super::header::{self, TensorEntry};
use super::index::{INDEX, Index, RawIndex};
use super::problem::Problem;
use super::side_files::{SideFiles, read_config};
use super::{Checkpoint, Location, Shard};
use crate::positioned::PositionedFile;

/// Name of the weights when they are in one file.
const SINGLE: &str = "model.safetensors";

/// Opens the checkpoint in `dir`; the body of [`Checkpoint::open`].
pub(super) fn open(dir: &Path) -> Result<Checkpoint, CheckpointError> {
    let folder = Folder::open(dir)?;
    let mut problems = Vec::new();
    let config = read_config(&folder, &mut problems);
    let (shards, index) = open_weights(&folder, &mut problems);
    let Some(config) = config.filter(|_| problems.is_empty()) else {
        return Err(CheckpointError::Invalid { dir: dir.to_owned(), problems });
    };
    let mut weight_files = Vec::new();
    let mut opened = Vec::new();
    let mut tensors = BTreeMap::new();
    for (i, shard) in shards.into_iter().enumerate() {
        for e in shard.entries {
            let location = Location { shard: i, dtype: e.dtype, shape: e.shape, bytes: e.begin..e.end };
            tensors.insert(e.name, location);
        }
        opened.push(Shard { path: folder.dir().join(&shard.name), file: shard.file });
        weight_files.push(shard.name);
    }
    weight_files.extend(index.then(|| INDEX.to_owned()));
    let files = SideFiles::new(folder, config);
    Ok(Checkpoint { files, shards: opened, weight_files, tensors })
}

/// One weight file whose header is sound.
struct OpenShard {
    name: String,
    file: PositionedFile,
    entries: Vec<TensorEntry>,
}

/// All readable weight files, and whether an index led to them.
///
/// When both the single file and an index exist, the single file is read and the index ignored, as transformers does
/// (`_get_resolved_checkpoint_files` in 5.23.0 asks for the single file first); `unread_weights` then lists the index.
fn open_weights(folder: &Folder, problems: &mut Vec<Problem>) -> (Vec<OpenShard>, bool) {
    match folder.find(SINGLE) {
        Ok(None) => {}
        Ok(Some(_)) => {
            let shard = open_shard(folder, SINGLE, problems);
            if shard.as_ref().is_some_and(|shard| shard.entries.is_empty()) {
                problems.push(Problem::NoTensors { file: SINGLE.to_owned() });
            }
            return (shard.into_iter().collect(), false);
        }
        Err(error) => {
            problems.push(error.into());
            return (Vec::new(), false);
        }
    }
    match folder.json::<RawIndex>(INDEX) {
        Ok(Some(raw)) => (open_indexed(folder, &Index::new(raw, problems), problems), true),
        Ok(None) => {
            problems.push(no_weights(folder));
            (Vec::new(), false)
        }
        Err(error) => {
            problems.push(error.into());
            (Vec::new(), false)
        }
    }
}

/// The shards an index names, compared with it.
fn open_indexed(folder: &Folder, index: &Index, problems: &mut Vec<Problem>) -> Vec<OpenShard> {
    let mut shards = Vec::new();
    for (shard, tensors) in index.shards() {
        match folder.find(shard) {
            Ok(Some(_)) => shards.extend(open_shard(folder, shard, problems)),
            Ok(None) => problems.push(Problem::MissingShard {
                shard: shard.to_owned(),
                index: INDEX.to_owned(),
                count: tensors.len(),
                tensor: tensors.first().copied().unwrap_or_default().to_owned(),
            }),
            Err(error) => problems.push(error.into()),
        }
    }
    let found: Vec<(&str, Vec<&str>)> = shards
        .iter()
        .map(|shard| (shard.name.as_str(), shard.entries.iter().map(|e| e.name.as_str()).collect()))
        .collect();
    index.compare(&found, problems);
    shards
}

/// Opens one weight file; `None` with problems added when that fails.
fn open_shard(folder: &Folder, name: &str, problems: &mut Vec<Problem>) -> Option<OpenShard> {
    match read_shard(folder.dir().join(name), name) {
        Ok(shard) => Some(shard),
        Err(found) => {
            problems.extend(found);
            None
        }
    }
}

/// Opens one weight file and reads its header, none of its data.
fn read_shard(path: PathBuf, name: &str) -> Result<OpenShard, Vec<Problem>> {
    let io = |cause| vec![FileError::Io { file: path.clone(), cause }.into()];
    let file = open_regular(&path).map_err(io)?;
    let len = file.length().map_err(io)?;
    let mut field = vec![0; len.min(header::LENGTH_FIELD) as usize];
    file.read(0, &mut field).map_err(io)?;
    let text_len = header::text_len(name, &field, len).map_err(|problem| vec![problem])?;
    let mut text = vec![0; text_len];
    file.read(header::LENGTH_FIELD, &mut text).map_err(io)?;
    let entries = header::parse(name, &text, len)?;
    Ok(OpenShard { name: name.to_owned(), file, entries })
}

/// Opens a regular file. A folder, pipe or device is `InvalidInput`: its length says nothing about what can be read.
fn open_regular(path: &Path) -> io::Result<PositionedFile> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(PositionedFile::new(file))
}

/// The problem of a folder with neither the single file nor an index: says what is there instead.
fn no_weights(folder: &Folder) -> Problem {
    let names = folder.names();
    let pickled = |name: &&String| [".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end));
    let safe: Vec<&str> = names.iter().map(String::as_str).filter(|n| n.ends_with(".safetensors")).collect();
    if safe.is_empty()
        && let Some(file) = names.iter().find(pickled)
    {
        return Problem::PickledWeights { file: file.clone() };
    }
    let found = if safe.is_empty() { "no weight file".to_owned() } else { safe.join(", ") };
    Problem::NoWeights { found }
}
