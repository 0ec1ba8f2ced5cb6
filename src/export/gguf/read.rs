//! Reads a model back from its GGUF file or files: everything about it at once, numbers tensor by tensor when they are asked for. Nothing a file says is
//! trusted, see `header`.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{GgufError, Problem, Problems};
use super::header::{self, Header, Placed, Refused};
use super::layout::find;
use super::shards::{self, COUNT_KEY, Split};
use super::{Metadata, TensorInfo, Value};
use crate::numeric::ggml::BlockMatrix;
use crate::positioned::PositionedFile;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name, sizes and type.
    pub info: TensorInfo,
    /// Number of the file that has it, from 0, see [`GgufFile::paths`].
    pub shard: usize,
    /// First byte, from the start of that file.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// An open model: one GGUF file, or all shards of one.
#[derive(Debug)]
pub struct GgufFile {
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    paths: Vec<PathBuf>,
    files: Vec<PositionedFile>,
}

impl GgufFile {
    /// Opens a file; of a model in several, `path` is the first, and the others lie beside it. Memory is bounded by the headers, a few times their
    /// length and each at most 100 MB.
    ///
    /// # Errors
    /// [`GgufError::Read`] when a file cannot be read, [`GgufError::Invalid`] with all problems that can be told apart: damaged headers, tensors outside the
    /// file, shards that are missing or disagree.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let (file, first) = open(path)?;
        let invalid =
            |problem: Problem| GgufError::Invalid { path: path.to_path_buf(), problems: problem.into() };
        let split = Split::of(&first.metadata).map_err(invalid)?;
        let mut model = Self {
            version: first.version,
            alignment: first.alignment,
            metadata: first.metadata,
            tensors: Vec::new(),
            by_name: HashMap::new(),
            paths: Vec::new(),
            files: Vec::new(),
        };
        model.add(path.to_path_buf(), file, first.tensors)?;
        if let Some(split) = split {
            for (number, path) in (1..).zip(others(path, split)?) {
                let (file, shard) = open(&path)?;
                agrees(&path, &shard.metadata, Split { number, ..split })?;
                model.add(path, file, shard.tensors)?;
            }
            if usize::try_from(split.tensors) != Ok(model.tensors.len()) {
                let what = format!("{}, the shards have {}", split.tensors, model.tensors.len());
                return Err(invalid(Problem::key(shards::TENSORS_KEY, what)));
            }
        }
        Ok(model)
    }

    /// Adds the tensors of one file.
    fn add(&mut self, path: PathBuf, file: PositionedFile, tensors: Vec<Placed>) -> Result<(), GgufError> {
        let shard = self.files.len();
        let mut problems = Problems::default();
        for Placed { info, begin, bytes } in tensors {
            if self.by_name.insert(info.name.clone(), self.tensors.len()).is_some() {
                problems.push(Problem::tensor(&info.name, "an earlier shard has a tensor of this name"));
            }
            self.tensors.push(Tensor { info, shard, offset: begin, bytes });
        }
        if !problems.is_empty() {
            return Err(GgufError::Invalid { path, problems });
        }
        self.paths.push(path);
        self.files.push(file);
        Ok(())
    }

    /// Version of the format, of the first file: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes that tensors of the first file begin at a multiple of.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Keys and values in the order of the file. Of several files, the first has them.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        find(&self.metadata, key)
    }

    /// All tensors in the order of the files.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|i| &self.tensors[*i])
    }

    fn find(&self, name: &str) -> Result<&Tensor, GgufError> {
        let none = || GgufError::NoTensor { path: self.paths[0].clone(), tensor: name.to_string() };
        self.tensor(name).ok_or_else(none)
    }

    fn bytes_of(&self, tensor: &Tensor) -> Result<Vec<u8>, GgufError> {
        let (path, bytes) = (&self.paths[tensor.shard], tensor.bytes);
        let memory = || GgufError::Memory { path: path.clone(), tensor: tensor.info.name.clone(), bytes };
        let length = usize::try_from(bytes).map_err(|_| memory())?;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(length).map_err(|_| memory())?;
        buffer.resize(length, 0);
        let read = self.files[tensor.shard].read(tensor.offset, &mut buffer);
        read.map_err(|source| GgufError::Read { path: path.clone(), source })?;
        Ok(buffer)
    }

    /// The files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// [`GgufError::NoTensor`], [`GgufError::Read`], or [`GgufError::Memory`] where it is larger than memory.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, GgufError> {
        self.bytes_of(self.find(name)?)
    }

    /// A tensor as a matrix: rows run along the first size as ggml counts, all other sizes are rows.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn matrix(&self, name: &str) -> Result<BlockMatrix, GgufError> {
        let tensor = self.find(name)?;
        let bytes = self.bytes_of(tensor)?;
        let (cols, rows) = tensor.info.dims.split_at(1);
        // Each product is at most that of all sizes, which fits: the bytes were read.
        let size = |dims: &[u64]| dims.iter().product::<u64>() as usize;
        Ok(BlockMatrix { kind: tensor.info.kind, rows: size(rows), cols: size(cols), bytes })
    }

    /// The values of a tensor, the first size running fastest.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn values(&self, name: &str) -> Result<Vec<f32>, GgufError> {
        Ok(self.matrix(name)?.dequantize())
    }
}

fn open(path: &Path) -> Result<(PositionedFile, Header), GgufError> {
    let failed = |source| GgufError::Read { path: path.to_path_buf(), source };
    // A pipe would be waited for, and has no positions.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("a regular file is expected")));
    }
    let file = PositionedFile::new(File::open(path).map_err(failed)?);
    let length = file.length().map_err(failed)?;
    let header = header::read(&file, length).map_err(|refused| match refused {
        Refused::Io(e) => failed(e),
        Refused::Damaged(problems) => GgufError::Invalid { path: path.to_path_buf(), problems },
    })?;
    Ok((file, header))
}

/// Paths of the second and later shards, all of which are there.
fn others(path: &Path, split: Split) -> Result<Vec<PathBuf>, GgufError> {
    let invalid = |problems: Problems| Err(GgufError::Invalid { path: path.to_path_buf(), problems });
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Split { number, count, .. } = split;
    let Some(stem) = shards::stem(&name, number, count) else {
        let expected = shards::file_name("NAME", number, count);
        let what = format!(
            "{name:?} says shard {} of {count} inside, whose name is expected to be {expected:?}",
            u32::from(number) + 1
        );
        return invalid(Problem::new("file name", what).into());
    };
    if number != 0 {
        let what = format!(
            "shard {} of {count}; pass the first, {:?}",
            u32::from(number) + 1,
            shards::file_name(stem, 0, count)
        );
        return invalid(Problem::key(shards::NUMBER_KEY, what).into());
    }
    let names: Vec<String> = (1..count).map(|n| shards::file_name(stem, n, count)).collect();
    let paths: Vec<PathBuf> = names.iter().map(|name| path.with_file_name(name)).collect();
    let missing = names.iter().zip(&paths).filter(|(_, path)| !path.is_file());
    let mut problems = Problems::default();
    problems.extend(missing.map(|(name, _)| Problem::new(format!("shard {name:?}"), "is missing beside it")));
    problems.or(paths).or_else(invalid)
}

/// A later shard says of itself what the first one and its name say.
fn agrees(path: &Path, metadata: &Metadata, expected: Split) -> Result<(), GgufError> {
    let invalid = |problems: Problems| GgufError::Invalid { path: path.to_path_buf(), problems };
    let found = Split::of(metadata).map_err(|p| invalid(p.into()))?.ok_or_else(|| {
        let what = format!("missing or 1; the first shard says {}", expected.count);
        invalid(Problem::key(COUNT_KEY, what).into())
    })?;
    let pairs = [
        (shards::NUMBER_KEY, i64::from(expected.number), i64::from(found.number)),
        (COUNT_KEY, i64::from(expected.count), i64::from(found.count)),
        (shards::TENSORS_KEY, i64::from(expected.tensors), i64::from(found.tensors)),
    ];
    let differing = pairs.into_iter().filter(|(_, expected, found)| expected != found);
    let mut problems = Problems::default();
    let differs =
        |(key, expected, found)| Problem::key(key, format!("{expected} is expected, found {found}"));
    problems.extend(differing.map(differs));
    problems.or(()).map_err(invalid)
}
