//! Reads ONNX files of unknown origin: the message, and the bytes of each initializer by position. Hardened: sizes are capped and checked before anything
//! is allocated, external data is looked for beside the file only.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use prost::Message;

use super::error::OnnxError;
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::{GraphProto, ModelProto, TensorProto};
use crate::positioned::PositionedFile;

/// Largest `.onnx` file read: protobuf's own limit.
const MAX_FILE: u64 = i32::MAX as u64;

/// Decodes the message at `path`, which has a graph.
///
/// # Errors
/// [`OnnxError::Read`], and [`OnnxError::Damaged`] when it is too large or no ONNX model.
pub fn model(path: &Path) -> Result<(ModelProto, GraphProto), OnnxError> {
    let read = |source| OnnxError::Read { path: path.to_path_buf(), source };
    let size = std::fs::metadata(path).map_err(read)?.len();
    if size > MAX_FILE {
        return Err(damaged(path, format!("has {size} bytes, a protobuf message holds at most {MAX_FILE}")));
    }
    let bytes = std::fs::read(path).map_err(read)?;
    let mut model =
        ModelProto::decode(bytes.as_slice()).map_err(|e| damaged(path, format!("is no ONNX model: {e}")))?;
    let graph = model.graph.take();
    let graph = graph.ok_or_else(|| damaged(path, "is no ONNX model: it has no graph".into()))?;
    Ok((model, graph))
}

/// The error of a file that is not what it should be.
pub(super) fn damaged(path: &Path, reason: String) -> OnnxError {
    OnnxError::Damaged { path: path.to_path_buf(), reason }
}

/// Name of an element type by its number.
pub fn type_name(code: i32) -> String {
    DataType::try_from(code).map_or_else(|_| format!("type {code}"), |t| t.as_str_name().to_lowercase())
}

/// Where the bytes of an initializer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// In the message.
    Inline(Vec<u8>),
    /// In a file beside it.
    External {
        /// Plain name of that file.
        file: String,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

impl Bytes {
    /// Number of bytes.
    pub fn length(&self) -> u64 {
        match self {
            Bytes::Inline(bytes) => bytes.len() as u64,
            Bytes::External { length, .. } => *length,
        }
    }
}

/// Where the bytes of `tensor` of the file at `path` are; external ones must lie inside a file beside it.
///
/// # Errors
/// [`OnnxError::Damaged`] naming the tensor, [`OnnxError::Read`] for a file that is not there.
pub fn place(path: &Path, tensor: &mut TensorProto) -> Result<Bytes, OnnxError> {
    if tensor.data_location() != DataLocation::External {
        return Ok(Bytes::Inline(tensor.raw_data.take().unwrap_or_default()));
    }
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
    let bad = |reason: String| damaged(path, format!("tensor {}: {reason}", tensor.name()));
    let number = |key: &str| -> Result<u64, OnnxError> {
        let text = entry(key).ok_or_else(|| bad(format!("external data has no {key}")))?;
        text.parse().map_err(|_| bad(format!("external {key} {text:?} is no number")))
    };
    let location = entry("location").ok_or_else(|| bad("external data has no location".into()))?;
    let plain = Path::new(location).components().count() == 1 && Path::new(location).file_name().is_some();
    if !plain || location.contains(['/', '\\']) {
        return Err(bad(format!("external location {location:?} is not a plain file name")));
    }
    let (offset, length) = (number("offset")?, number("length")?);
    let file = path.with_file_name(location);
    let size =
        std::fs::metadata(&file).map_err(|source| OnnxError::Read { path: file.clone(), source })?.len();
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(Bytes::External { file: location.to_string(), offset, length }),
        _ => Err(bad(format!("{length} bytes at {offset} do not lie inside {location} of {size} bytes"))),
    }
}

/// The open data files of one ONNX file.
#[derive(Debug)]
pub struct DataFiles {
    path: PathBuf,
    files: BTreeMap<String, PositionedFile>,
}

impl DataFiles {
    /// No files yet, of the ONNX file at `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), files: BTreeMap::new() }
    }

    /// Opens the file that `bytes` lie in, if it is not open yet.
    ///
    /// # Errors
    /// [`OnnxError::Read`] naming the file.
    pub fn open(&mut self, bytes: &Bytes) -> Result<(), OnnxError> {
        if let Bytes::External { file, .. } = bytes
            && !self.files.contains_key(file)
        {
            let path = self.path.with_file_name(file);
            let opened = File::open(&path).map_err(|source| OnnxError::Read { path, source })?;
            self.files.insert(file.clone(), PositionedFile::new(opened));
        }
        Ok(())
    }

    /// The bytes of an initializer whose file was opened.
    ///
    /// # Errors
    /// [`OnnxError::Read`] naming the file, also when it has become shorter.
    pub fn read(&self, bytes: &Bytes) -> Result<Vec<u8>, OnnxError> {
        let (file, offset, length) = match bytes {
            Bytes::Inline(bytes) => return Ok(bytes.clone()),
            Bytes::External { file, offset, length } => (file, *offset, *length),
        };
        let path = self.path.with_file_name(file);
        let read = |source| OnnxError::Read { path: path.clone(), source };
        let missing = || read(std::io::Error::from(std::io::ErrorKind::NotFound));
        let opened = self.files.get(file).ok_or_else(missing)?;
        let mut found = vec![0; usize::try_from(length).map_err(|_| missing())?];
        opened.read(offset, &mut found).map_err(read)?;
        Ok(found)
    }
}
