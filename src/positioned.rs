//! A file read and written at positions, through a shared reference and from many threads at once: weights are read this way, and so is what does
//! not fit into memory.

use std::fs::File;
use std::io;

/// An open file without a position of its own.
#[cfg(unix)]
#[derive(Debug)]
pub struct PositionedFile(File);

#[cfg(unix)]
impl PositionedFile {
    /// Over an open file.
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// Length of the file now, in bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    /// Fills `bytes` from byte `at` on.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` where the file ends before.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, bytes, at)
    }

    /// Writes `bytes` from byte `at` on; the file grows where it must.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, at)
    }
}

/// An open file whose position belongs to one thread at a time.
#[cfg(not(unix))]
#[derive(Debug)]
pub struct PositionedFile(std::sync::Mutex<File>);

#[cfg(not(unix))]
impl PositionedFile {
    /// Over an open file.
    pub fn new(file: File) -> Self {
        Self(std::sync::Mutex::new(file))
    }

    /// Length of the file now, in bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn length(&self) -> io::Result<u64> {
        Ok(self.lock().metadata()?.len())
    }

    /// Fills `bytes` from byte `at` on.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` where the file ends before.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        io::Read::read_exact(&mut *self.seek(at)?, bytes)
    }

    /// Writes `bytes` from byte `at` on; the file grows where it must.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut *self.seek(at)?, bytes)
    }

    fn seek(&self, at: u64) -> io::Result<std::sync::MutexGuard<'_, File>> {
        let mut file = self.lock();
        io::Seek::seek(&mut *file, io::SeekFrom::Start(at))?;
        Ok(file)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, File> {
        // A thread that panicked leaves the file at some position, which every use sets anew.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_by_position_and_ends_where_the_file_does() {
        let file = PositionedFile::new(tempfile::tempfile().unwrap());
        file.write(4, b"later").unwrap();
        file.write(0, b"soon").unwrap();
        assert_eq!(file.length().unwrap(), 9);
        let mut bytes = [0; 5];
        file.read(2, &mut bytes).unwrap();
        assert_eq!(&bytes, b"onlat");
        file.read(9, &mut []).unwrap();
        assert_eq!(file.read(5, &mut bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn threads_do_not_move_each_other() {
        let file = PositionedFile::new(tempfile::tempfile().unwrap());
        let number = |i: u64| (i * 0x9e37_79b9).to_le_bytes();
        std::thread::scope(|s| {
            for t in 0..4 {
                let file = &file;
                s.spawn(move || {
                    (0..500).for_each(|i| file.write(8 * (4 * i + t), &number(4 * i + t)).unwrap())
                });
            }
        });
        std::thread::scope(|s| {
            for t in 0..4 {
                let file = &file;
                s.spawn(move || {
                    for i in (0..2000).map(|i| (i * 7 + t * 501) % 2000) {
                        let mut bytes = [0; 8];
                        file.read(8 * i, &mut bytes).unwrap();
                        assert_eq!(bytes, number(i), "{i}");
                    }
                });
            }
        });
    }
}
