//! Float tensors between two blocks of a model, in memory up to a budget and in a temporary file beyond it. What comes back does not depend on where
//! it was: both hold the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use half::bf16;

use super::SpillError;
use super::file::{Extent, ScratchFile};
use crate::numeric::Tensor;

/// Elements that are encoded and written, or read and decoded, at a time.
const BLOCK: usize = 1 << 18;

const HINT: &str = "free space there, or raise --activation-memory so that less is written";

/// Number of the next handle. One count for all stores: a handle of another store is then unknown, never another tensor's.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// How values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Rounded to the nearest bfloat16, ties to even: half the size of `f32`, the same range.
    Bf16,
    /// As they are.
    F32,
}

impl Precision {
    /// Bytes of one element.
    fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Appends the little-endian bytes of `values`.
    fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::Bf16 => out.extend(values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
            Self::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        }
    }

    /// Appends the values that `bytes` stand for.
    fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::Bf16 => {
                out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()));
            }
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        }
    }
}

/// Names a stored tensor until it is removed. Not `Clone`, so it cannot outlive the tensor.
#[derive(Debug)]
pub struct Handle(u64);

#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    precision: Precision,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(Vec<u8>),
    File(Extent),
}

/// Tensors in memory up to a budget, the others in a temporary file that is made when the first one does not fit.
#[derive(Debug)]
pub struct ActivationStore {
    budget: u64,
    dir: PathBuf,
    file: Option<ScratchFile>,
    entries: BTreeMap<u64, Entry>,
    in_memory: u64,
    in_file: u64,
}

impl ActivationStore {
    /// An empty store that keeps `budget_bytes` in memory; what exceeds them goes to an unnamed file in `dir`.
    pub fn new(budget_bytes: u64, dir: &Path) -> Self {
        Self {
            budget: budget_bytes,
            dir: dir.to_owned(),
            file: None,
            entries: BTreeMap::new(),
            in_memory: 0,
            in_file: 0,
        }
    }

    /// Stores a tensor, rounded to `keep`.
    ///
    /// # Errors
    /// [`SpillError::Create`] or [`SpillError::Write`] when it does not fit into memory and not into the file. The store is then as before.
    pub fn put(&mut self, tensor: &Tensor<f32>, keep: Precision) -> Result<Handle, SpillError> {
        let size = (tensor.data().len() * keep.bytes()) as u64;
        let place = if self.in_memory.saturating_add(size) <= self.budget || size == 0 {
            let mut bytes = Vec::with_capacity(size as usize);
            keep.encode(tensor.data(), &mut bytes);
            self.in_memory += size;
            Place::Memory(bytes)
        } else {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(ScratchFile::new(&self.dir, HINT)?),
            };
            let extent = file.take(size);
            if let Err(e) = write(file, &extent, tensor.data(), keep) {
                file.give_back(extent);
                return Err(e);
            }
            self.in_file += size;
            Place::File(extent)
        };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.entries.insert(id, Entry { shape: tensor.shape().to_vec(), precision: keep, place });
        Ok(Handle(id))
    }

    /// A stored tensor, as it was rounded. May be called from several threads at once.
    ///
    /// # Errors
    /// [`SpillError::Read`], and [`SpillError::ForeignHandle`] for a handle of another store.
    pub fn get(&self, handle: &Handle) -> Result<Tensor<f32>, SpillError> {
        let entry = self.entries.get(&handle.0).ok_or(SpillError::ForeignHandle)?;
        let mut values = Vec::with_capacity(entry.shape.iter().product());
        match (&entry.place, &self.file) {
            (Place::Memory(bytes), _) => entry.precision.decode(bytes, &mut values),
            (Place::File(extent), Some(file)) => read(file, extent, entry.precision, &mut values)?,
            (Place::File(_), None) => return Err(SpillError::ForeignHandle),
        }
        Ok(Tensor::new(entry.shape.clone(), values)?)
    }

    /// Rows of a stored tensor; 0 for a handle of another store.
    pub fn rows(&self, handle: &Handle) -> usize {
        let shape = self.entries.get(&handle.0).map(|e| e.shape.as_slice());
        shape.and_then(<[usize]>::split_last).map_or(0, |(_, leading)| leading.iter().product())
    }

    /// Forgets a tensor: its memory, or its part of the file, is free for the next. A handle of another store is ignored.
    pub fn remove(&mut self, handle: Handle) {
        match (self.entries.remove(&handle.0).map(|e| e.place), &mut self.file) {
            (Some(Place::Memory(bytes)), _) => self.in_memory -= bytes.len() as u64,
            (Some(Place::File(extent)), Some(file)) => {
                self.in_file -= extent.length();
                file.give_back(extent);
            }
            _ => {}
        }
    }

    /// Bytes of the tensors in memory; at most the budget.
    pub fn bytes_in_memory(&self) -> u64 {
        self.in_memory
    }

    /// Bytes of the tensors in the file.
    pub fn bytes_in_file(&self) -> u64 {
        self.in_file
    }

    /// Length of the file, free parts included; 0 where none was needed.
    pub fn file_size(&self) -> u64 {
        self.file.as_ref().map_or(0, ScratchFile::size)
    }
}

fn write(file: &ScratchFile, to: &Extent, values: &[f32], precision: Precision) -> Result<(), SpillError> {
    let mut bytes = Vec::with_capacity(values.len().min(BLOCK) * precision.bytes());
    for (i, block) in values.chunks(BLOCK).enumerate() {
        bytes.clear();
        precision.encode(block, &mut bytes);
        file.write(to, (i * BLOCK * precision.bytes()) as u64, &bytes)?;
    }
    Ok(())
}

fn read(
    file: &ScratchFile,
    from: &Extent,
    precision: Precision,
    out: &mut Vec<f32>,
) -> Result<(), SpillError> {
    let block = (BLOCK * precision.bytes()) as u64;
    let mut bytes = vec![0; from.length().min(block) as usize];
    let mut at = 0;
    while at < from.length() {
        let part = &mut bytes[..(from.length() - at).min(block) as usize];
        file.read(from, at, part)?;
        precision.decode(part, out);
        at += part.len() as u64;
    }
    Ok(())
}
