//! The external data file of one graph: raw little-endian tensors, each at a page-aligned offset, written in the order they are added.
//! Holds no tensor in memory: callers hand over one block at a time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::error::OnnxError;

/// Alignment of every tensor. Runtimes map the file; 4096 is the page size on x86-64 and divides the mapping granularity
/// wherever it is larger than the offset alignment ONNX asks for (`onnx.proto`, `external_data`).
pub const ALIGNMENT: u64 = 4096;

/// Where a tensor lies in the data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte, a multiple of [`ALIGNMENT`].
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Writes one data file. The file is created with the first tensor, so a graph without large weights has none.
pub struct DataWriter {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    position: u64,
}

impl DataWriter {
    /// A writer for `path`; an existing file is replaced at the first tensor.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), file: None, position: 0 }
    }

    /// Starts a tensor: pads to the next aligned offset, which is returned.
    ///
    /// # Errors
    /// [`OnnxError::Io`] naming the file.
    pub fn begin(&mut self) -> Result<u64, OnnxError> {
        let gap = self.position.next_multiple_of(ALIGNMENT) - self.position;
        self.write(&[0; ALIGNMENT as usize][..gap as usize])?;
        Ok(self.position)
    }

    /// Appends bytes of the current tensor.
    ///
    /// # Errors
    /// [`OnnxError::Io`] naming the file.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OnnxError> {
        let io = |source| OnnxError::Io { path: self.path.clone(), source };
        let file = match &mut self.file {
            Some(f) => f,
            None => {
                self.file.insert(BufWriter::with_capacity(1 << 20, File::create(&self.path).map_err(io)?))
            }
        };
        file.write_all(bytes).map_err(io)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Ends the tensor that began at `offset`.
    pub fn end(&self, offset: u64) -> Place {
        Place { offset, length: self.position - offset }
    }

    /// Flushes to disk; the path of the file, if there is one.
    ///
    /// # Errors
    /// [`OnnxError::Io`] naming the file; a full disk may show only here.
    pub fn finish(self) -> Result<Option<PathBuf>, OnnxError> {
        let Some(file) = self.file else { return Ok(None) };
        let io = |source| OnnxError::Io { path: self.path.clone(), source };
        let file = file.into_inner().map_err(|e| io(e.into_error()))?;
        file.sync_all().map_err(io)?;
        Ok(Some(self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_start_on_pages_and_gaps_are_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.data");
        let mut w = DataWriter::new(&path);
        let mut places = vec![];
        for n in [1usize, 4096, 5000, 0, 3] {
            let at = w.begin().unwrap();
            w.write(&vec![7; n]).unwrap();
            places.push(w.end(at));
        }
        assert_eq!(w.finish().unwrap().as_deref(), Some(path.as_path()));
        let bytes = std::fs::read(&path).unwrap();
        let mut covered = vec![false; bytes.len()];
        for p in &places {
            assert_eq!(p.offset % ALIGNMENT, 0);
            for i in p.offset..p.offset + p.length {
                assert_eq!(bytes[i as usize], 7);
                covered[i as usize] = true;
            }
        }
        assert!(bytes.iter().zip(covered).all(|(b, c)| c || *b == 0));
        assert_eq!(bytes.len() as u64, places.last().map(|p| p.offset + p.length).unwrap());
    }

    #[test]
    fn no_tensor_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.data");
        assert_eq!(DataWriter::new(&path).finish().unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_full_disk_names_the_file() {
        let Ok(meta) = std::fs::metadata("/dev/full") else { return };
        assert!(!meta.is_dir());
        let mut w = DataWriter::new(Path::new("/dev/full"));
        let wrote = w.write(&vec![0; 4 << 20]);
        let e = wrote.unwrap_err();
        assert!(matches!(&e, OnnxError::Io { path, .. } if path == Path::new("/dev/full")), "{e}");
    }
}
