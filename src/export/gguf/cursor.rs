//! Reads the header of a file from front to back, through a buffer, and never beyond the end of the file or the longest header accepted. No number
//! of the file is trusted before the bytes it speaks of are known to be there.

use std::io;

use super::error::Problem;
use super::value::Scalar;
use crate::positioned::PositionedFile;

/// Longest header that is read, in bytes. Known ones have up to 20 MB: a vocabulary of 262,000 tokens with scores, types and merges.
pub const MAX_HEADER: u64 = 100_000_000;
/// Bytes read at a time.
const CHUNK: u64 = 1 << 16;

/// Why reading stopped.
pub enum Stop {
    /// The system refused.
    Io(io::Error),
    /// The header is damaged.
    Damaged(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Damaged(problem)
    }
}

/// A place in a file.
pub struct Cursor<'a> {
    file: &'a PositionedFile,
    /// Bytes of the file, or of the longest header.
    end: u64,
    at: u64,
    buffer: Vec<u8>,
    /// Place of the buffer in the file.
    begin: u64,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a file of `length` bytes.
    pub fn new(file: &'a PositionedFile, length: u64) -> Self {
        Self { file, end: length.min(MAX_HEADER), at: 0, buffer: Vec::new(), begin: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that may still be read.
    pub fn left(&self) -> u64 {
        self.end - self.at
    }

    /// The next `count` bytes. `subject` is what they belong to.
    ///
    /// # Errors
    /// [`Stop`] when the header ends before, or the system refuses.
    pub fn take(&mut self, count: u64, subject: &str) -> Result<&[u8], Stop> {
        if count > self.left() {
            let (at, left) = (self.at, self.left());
            let what = match self.end {
                MAX_HEADER => {
                    format!("the header is longer than {MAX_HEADER} bytes, the longest that is read")
                }
                _ => format!("{count} bytes are expected at byte {at}, the file has {left} more"),
            };
            return Err(Problem::new(subject, what).into());
        }
        if self.at + count > self.begin + self.buffer.len() as u64 {
            self.begin = self.at;
            // At most `MAX_HEADER`, so it fits every `usize`.
            self.buffer.resize(count.max(CHUNK).min(self.left()) as usize, 0);
            self.file.read(self.begin, &mut self.buffer).map_err(Stop::Io)?;
        }
        let start = (self.at - self.begin) as usize;
        self.at += count;
        Ok(&self.buffer[start..start + count as usize])
    }

    /// The next value of fixed size.
    ///
    /// # Errors
    /// [`Stop`] when the header ends before, or the bytes are no such value.
    pub fn scalar<T: Scalar>(&mut self, subject: &str) -> Result<T, Stop> {
        let bytes = self.take(T::BYTES as u64, subject)?;
        // Only a bool has bytes that are no value.
        T::take(bytes).ok_or_else(|| {
            Problem::new(subject, format!("a bool is expected to be 0 or 1, found {}", bytes[0])).into()
        })
    }

    /// The next text, with its length in front.
    ///
    /// # Errors
    /// [`Stop`] when the header ends before, or the text is not UTF-8.
    pub fn text(&mut self, subject: &str) -> Result<String, Stop> {
        let length: u64 = self.scalar(subject)?;
        if length > self.left() {
            let what = format!("a text of {length} bytes is longer than what is left, {}", self.left());
            return Err(Problem::new(subject, what).into());
        }
        let bytes = self.take(length, subject)?;
        std::str::from_utf8(bytes).map(str::to_string).map_err(|e| {
            let near = &bytes[e.valid_up_to().saturating_sub(16)..bytes.len().min(e.valid_up_to() + 16)];
            Problem::new(subject, format!("a text is not UTF-8, near \"{}\"", near.escape_ascii())).into()
        })
    }
}
