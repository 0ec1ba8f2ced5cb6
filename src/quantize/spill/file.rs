//! A temporary file whose parts are taken, written and read by position, from many threads at once, and given back to be taken again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::SpillError;
use crate::positioned::PositionedFile;

/// A part of the file that belongs to one owner. Not `Clone`: it is given back once.
#[derive(Debug)]
pub(super) struct Extent {
    start: u64,
    length: u64,
}

impl Extent {
    /// Its bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// A temporary file and which of its parts are free.
#[derive(Debug)]
pub(super) struct ScratchFile {
    dir: PathBuf,
    file: PositionedFile,
    /// What to do when the disk is full.
    hint: &'static str,
    /// End of the part that was ever taken.
    end: u64,
    /// Start and length of the parts given back; no two of them touch.
    free: BTreeMap<u64, u64>,
}

impl ScratchFile {
    /// Makes an unnamed file in `dir`. `hint` says what to do when it cannot be written.
    ///
    /// # Errors
    /// [`SpillError::Create`].
    pub fn new(dir: &Path, hint: &'static str) -> Result<Self, SpillError> {
        let file =
            tempfile::tempfile_in(dir).map_err(|cause| SpillError::Create { dir: dir.to_owned(), cause })?;
        Ok(Self::over(file, dir, hint))
    }

    /// Over an open file, which is taken to be empty.
    pub fn over(file: File, dir: &Path, hint: &'static str) -> Self {
        Self { dir: dir.to_owned(), file: PositionedFile::new(file), hint, end: 0, free: BTreeMap::new() }
    }

    /// Bytes from the start of the file to the end of the last part ever taken.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Takes `length` bytes: of the free parts the smallest that is large enough, the first of equals; otherwise the file grows, by what the free
    /// part at its end lacks.
    pub fn take(&mut self, length: u64) -> Extent {
        let fits = self.free.iter().filter(|(_, free)| **free >= length).min_by_key(|(_, free)| **free);
        let at_end = || self.free.last_key_value().filter(|(start, free)| **start + **free == self.end);
        let (start, free) = match fits.or_else(at_end) {
            Some((start, free)) => (*start, *free),
            None => (self.end, 0),
        };
        self.free.remove(&start);
        if free > length {
            self.free.insert(start + length, free - length);
        }
        self.end = self.end.max(start + length);
        Extent { start, length }
    }

    /// Gives a part back, joined with free neighbours.
    pub fn give_back(&mut self, extent: Extent) {
        let Extent { mut start, mut length } = extent;
        if length == 0 {
            return;
        }
        if let Some(after) = self.free.remove(&(start + length)) {
            length += after;
        }
        if let Some((&before, &free)) = self.free.range(..start).next_back()
            && before + free == start
        {
            (start, length) = (before, free + length);
        }
        self.free.insert(start, length);
    }

    /// Writes `bytes` at `offset` inside a part.
    ///
    /// # Errors
    /// [`SpillError::Write`].
    pub fn write(&self, extent: &Extent, offset: u64, bytes: &[u8]) -> Result<(), SpillError> {
        self.file.write(extent.start + offset, bytes).map_err(|cause| SpillError::Write {
            dir: self.dir.clone(),
            bytes: extent.length,
            cause,
            hint: self.hint,
        })
    }

    /// Reads `bytes` from `offset` inside a part.
    ///
    /// # Errors
    /// [`SpillError::Read`].
    pub fn read(&self, extent: &Extent, offset: u64, bytes: &mut [u8]) -> Result<(), SpillError> {
        self.file.read(extent.start + offset, bytes).map_err(|cause| SpillError::Read {
            dir: self.dir.clone(),
            bytes: extent.length,
            cause,
        })
    }
}
