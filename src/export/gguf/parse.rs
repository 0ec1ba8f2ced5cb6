//! The header of one file from bytes: version, metadata, tensors as written. What depends on more than one entry is checked in `header`.

use super::cursor::{Cursor, Stop};
use super::error::{Problem, Problems};
use super::layout::{self, MAGIC, MAX_DIMS, VERSION};
use super::value::{Scalar, ValueType};
use super::{Array, Metadata, TensorInfo, Value};

/// Bytes of magic, version and both counts.
const FIXED: u64 = 24;
/// Least bytes of a key with its value: length, type, one byte.
const LEAST_ENTRY: u64 = 13;
/// Least bytes of a tensor: length, number of sizes, type, offset.
const LEAST_TENSOR: u64 = 24;

/// A tensor as the header has it.
pub struct Located {
    /// Name, sizes and type.
    pub info: TensorInfo,
    /// First byte, from where the data begins.
    pub offset: u64,
}

/// A header as written.
pub struct Raw {
    /// 2 or 3.
    pub version: u32,
    /// Keys and values.
    pub metadata: Metadata,
    /// Tensors of known types.
    pub tensors: Vec<Located>,
    /// What is wrong with single tensors.
    pub problems: Problems,
    /// Bytes of the header without padding.
    pub length: u64,
}

/// Reads a header.
///
/// # Errors
/// [`Stop`] at the first thing behind which nothing can be trusted.
pub fn parse(cursor: &mut Cursor<'_>) -> Result<Raw, Stop> {
    let version = version(cursor)?;
    let tensors: u64 = cursor.scalar("number of tensors")?;
    let entries: u64 = cursor.scalar("number of keys")?;
    count("number of keys", entries, LEAST_ENTRY, cursor)?;
    count("number of tensors", tensors, LEAST_TENSOR, cursor)?;
    let mut raw =
        Raw { version, metadata: vec![], tensors: vec![], problems: Problems::default(), length: 0 };
    for i in 0..entries {
        let key = cursor.text(&format!("key {i} (from 0)"))?;
        if key.is_empty() {
            return Err(Problem::new(format!("key {i} (from 0)"), "the key is empty").into());
        }
        let value = value(cursor, &key)?;
        raw.metadata.push((key, value));
    }
    for i in 0..tensors {
        match tensor(cursor, i)? {
            Ok(tensor) => raw.tensors.push(tensor),
            Err(problem) => raw.problems.push(problem),
        }
    }
    raw.length = cursor.at();
    Ok(raw)
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, Stop> {
    let wrong = |what: String| Stop::from(Problem::new("beginning", what));
    if cursor.left() < FIXED {
        return Err(wrong(format!("a GGUF file has at least {FIXED} bytes, this one has {}", cursor.left())));
    }
    let magic = cursor.take(4, "beginning")?;
    if magic != MAGIC {
        return Err(wrong(format!("\"GGUF\" is expected, found \"{}\"", magic.escape_ascii())));
    }
    let version: u32 = cursor.scalar("version")?;
    match version {
        2 | VERSION => Ok(version),
        1 => Err(wrong("version 1 has another layout and is not read; convert the model again".into())),
        // Versions are small: in the other byte order their bits stand in the upper half.
        _ if version & 0xffff == 0 && version != 0 => {
            Err(wrong("the file is big endian; only little endian files are read".into()))
        }
        _ => Err(wrong(format!("versions 2 and {VERSION} are read, found {version}"))),
    }
}

/// A number of things of at least `least` bytes each must fit into what is left.
fn count(subject: &str, found: u64, least: u64, cursor: &Cursor<'_>) -> Result<(), Stop> {
    let most = cursor.left() / least;
    if found <= most {
        return Ok(());
    }
    let what = format!("{found}, but the {} bytes that are left hold at most {most}", cursor.left());
    Err(Problem::new(subject, what).into())
}

fn value_type(cursor: &mut Cursor<'_>, subject: &str) -> Result<ValueType, Stop> {
    let id: u32 = cursor.scalar(subject)?;
    let unknown = || Problem::new(subject, format!("there is no type {id} of values (0 to 12)"));
    ValueType::of_id(id).ok_or_else(|| unknown().into())
}

fn value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, Stop> {
    let subject = format!("key {key:?}");
    let s = subject.as_str();
    Ok(match value_type(cursor, s)? {
        ValueType::U8 => Value::U8(cursor.scalar(s)?),
        ValueType::I8 => Value::I8(cursor.scalar(s)?),
        ValueType::U16 => Value::U16(cursor.scalar(s)?),
        ValueType::I16 => Value::I16(cursor.scalar(s)?),
        ValueType::U32 => Value::U32(cursor.scalar(s)?),
        ValueType::I32 => Value::I32(cursor.scalar(s)?),
        ValueType::F32 => Value::F32(cursor.scalar(s)?),
        ValueType::Bool => Value::Bool(cursor.scalar(s)?),
        ValueType::String => Value::String(cursor.text(s)?),
        ValueType::Array => Value::Array(array(cursor, s)?),
        ValueType::U64 => Value::U64(cursor.scalar(s)?),
        ValueType::I64 => Value::I64(cursor.scalar(s)?),
        ValueType::F64 => Value::F64(cursor.scalar(s)?),
    })
}

fn array(cursor: &mut Cursor<'_>, s: &str) -> Result<Array, Stop> {
    let kind = value_type(cursor, s)?;
    let n: u64 = cursor.scalar(s)?;
    if n > cursor.left() / kind.least_bytes() {
        let what =
            format!("an array of {n} x {} does not fit into the {} bytes left", kind.name(), cursor.left());
        return Err(Problem::new(s, what).into());
    }
    Ok(match kind {
        ValueType::U8 => Array::U8(numbers(cursor, n, s)?),
        ValueType::I8 => Array::I8(numbers(cursor, n, s)?),
        ValueType::U16 => Array::U16(numbers(cursor, n, s)?),
        ValueType::I16 => Array::I16(numbers(cursor, n, s)?),
        ValueType::U32 => Array::U32(numbers(cursor, n, s)?),
        ValueType::I32 => Array::I32(numbers(cursor, n, s)?),
        ValueType::F32 => Array::F32(numbers(cursor, n, s)?),
        ValueType::Bool => Array::Bool(numbers(cursor, n, s)?),
        ValueType::String => Array::String((0..n).map(|_| cursor.text(s)).collect::<Result<_, _>>()?),
        ValueType::U64 => Array::U64(numbers(cursor, n, s)?),
        ValueType::I64 => Array::I64(numbers(cursor, n, s)?),
        ValueType::F64 => Array::F64(numbers(cursor, n, s)?),
        ValueType::Array => {
            return Err(Problem::new(s, "an array of arrays; only arrays of one level are read").into());
        }
    })
}

fn numbers<T: Scalar>(cursor: &mut Cursor<'_>, count: u64, subject: &str) -> Result<Vec<T>, Stop> {
    (0..count).map(|_| cursor.scalar(subject)).collect()
}

/// One tensor; what is wrong with it alone does not end the list, as long as the next one can be found.
fn tensor(cursor: &mut Cursor<'_>, index: u64) -> Result<Result<Located, Problem>, Stop> {
    let name = cursor.text(&format!("tensor {index} (from 0)"))?;
    let subject = format!("tensor {name:?}");
    let count: u32 = cursor.scalar(&subject)?;
    if count as usize > MAX_DIMS {
        let what = format!("it has {count} sizes; 1 to {MAX_DIMS} are expected");
        return Err(Problem::new(subject, what).into());
    }
    let dims: Vec<u64> = (0..count).map(|_| cursor.scalar(&subject)).collect::<Result<_, _>>()?;
    let id: u32 = cursor.scalar(&subject)?;
    let offset: u64 = cursor.scalar(&subject)?;
    Ok(layout::block_type(&name, id).map(|kind| Located { info: TensorInfo { name, dims, kind }, offset }))
}
