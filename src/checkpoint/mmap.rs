//! Read-only memory map of one weight file: the only `unsafe` code of the checkpoint reader.
//! Nothing here knows what the bytes mean.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// The bytes of one file, mapped read-only for as long as this value lives.
#[derive(Debug)]
pub(super) struct MappedFile {
    /// `None` for an empty file: POSIX refuses a mapping of length 0.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps the regular file `path`.
    ///
    /// # Errors
    /// The I/O error of opening or mapping. A folder, pipe or device is `InvalidInput`: its length says nothing
    /// about what can be read.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the mapping is private to this value, read-only, and only ever handed out as `&[u8]` bound to its
        // lifetime, and every bit pattern is a valid `u8`, so no value read here can be invalid. What the type system
        // cannot rule out is another process that changes the file meanwhile: a write would change bytes under a
        // shared reference, a truncation would raise SIGBUS. No portable lock prevents that; as with every reader of
        // this format (safetensors, llama.cpp), the caller's contract is that a checkpoint is not written while it is
        // being read. Writers that replace a file by rename, as ours and the hub client do, keep the old inode intact.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map: Some(map) })
    }

    /// All bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_contents_and_accepts_an_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"hello").unwrap();
        assert_eq!(MappedFile::open(&path).unwrap().bytes(), b"hello");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(MappedFile::open(&path).unwrap().bytes(), b"");
    }

    #[test]
    fn refuses_a_folder_and_a_missing_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(MappedFile::open(dir.path()).is_err());
        assert_eq!(MappedFile::open(&dir.path().join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
