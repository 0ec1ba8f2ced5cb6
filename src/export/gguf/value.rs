//! The types of metadata values and their bytes, little endian, by the table of `docs/gguf.md` of ggml.

use super::{Array, Value};

/// Type of a value or of the elements of an array; the number is that of files (`enum gguf_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

/// In the order of their numbers: type, name in the format's documents, least bytes a value takes.
const TYPES: [(ValueType, &str, u64); 13] = [
    (ValueType::U8, "uint8", 1),
    (ValueType::I8, "int8", 1),
    (ValueType::U16, "uint16", 2),
    (ValueType::I16, "int16", 2),
    (ValueType::U32, "uint32", 4),
    (ValueType::I32, "int32", 4),
    (ValueType::F32, "float32", 4),
    (ValueType::Bool, "bool", 1),
    (ValueType::String, "string", 8),
    (ValueType::Array, "array", 12),
    (ValueType::U64, "uint64", 8),
    (ValueType::I64, "int64", 8),
    (ValueType::F64, "float64", 8),
];

impl ValueType {
    /// The type of a number in files.
    pub fn of_id(id: u32) -> Option<Self> {
        TYPES.get(usize::try_from(id).ok()?).map(|(kind, ..)| *kind)
    }

    /// Number in files.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Name in the format's documents.
    pub fn name(self) -> &'static str {
        TYPES[self as usize].1
    }

    /// Least bytes that a value takes in a file; exactly those for numbers.
    pub fn least_bytes(self) -> u64 {
        TYPES[self as usize].2
    }
}

/// A value of fixed size.
pub trait Scalar: Copy {
    /// Bytes in a file.
    const BYTES: usize;

    /// Appends the value's bytes.
    fn put(self, out: &mut Vec<u8>);

    /// The value of [`BYTES`](Self::BYTES) bytes; None where they are none.
    fn take(bytes: &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Scalar for $number {
            const BYTES: usize = size_of::<$number>();

            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }
        }
    )*};
}

numbers!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

impl Scalar for bool {
    const BYTES: usize = 1;

    fn put(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }

    fn take(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

/// Appends a text with its length in front.
pub fn put_text(text: &str, out: &mut Vec<u8>) {
    (text.len() as u64).put(out);
    out.extend_from_slice(text.as_bytes());
}

impl Value {
    /// Type of the value.
    pub(super) fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Name of the value's type in the format's documents, such as `uint32` or `array of string`.
    pub fn type_name(&self) -> String {
        match self {
            Self::Array(array) => format!("array of {}", array.value_type().name()),
            scalar => scalar.value_type().name().to_string(),
        }
    }

    /// Appends the value's bytes, without its type.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(x) => x.put(out),
            Self::I8(x) => x.put(out),
            Self::U16(x) => x.put(out),
            Self::I16(x) => x.put(out),
            Self::U32(x) => x.put(out),
            Self::I32(x) => x.put(out),
            Self::F32(x) => x.put(out),
            Self::Bool(x) => x.put(out),
            Self::String(x) => put_text(x, out),
            Self::Array(x) => x.put(out),
            Self::U64(x) => x.put(out),
            Self::I64(x) => x.put(out),
            Self::F64(x) => x.put(out),
        }
    }
}

impl Array {
    /// Type of the elements.
    pub(super) fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(x) => x.len(),
            Self::I8(x) => x.len(),
            Self::U16(x) => x.len(),
            Self::I16(x) => x.len(),
            Self::U32(x) => x.len(),
            Self::I32(x) => x.len(),
            Self::F32(x) => x.len(),
            Self::Bool(x) => x.len(),
            Self::String(x) => x.len(),
            Self::U64(x) => x.len(),
            Self::I64(x) => x.len(),
            Self::F64(x) => x.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(&self, out: &mut Vec<u8>) {
        fn all<T: Scalar>(elements: &[T], out: &mut Vec<u8>) {
            elements.iter().for_each(|x| x.put(out));
        }
        self.value_type().id().put(out);
        (self.len() as u64).put(out);
        match self {
            Self::U8(x) => all(x, out),
            Self::I8(x) => all(x, out),
            Self::U16(x) => all(x, out),
            Self::I16(x) => all(x, out),
            Self::U32(x) => all(x, out),
            Self::I32(x) => all(x, out),
            Self::F32(x) => all(x, out),
            Self::Bool(x) => all(x, out),
            Self::String(x) => x.iter().for_each(|text| put_text(text, out)),
            Self::U64(x) => all(x, out),
            Self::I64(x) => all(x, out),
            Self::F64(x) => all(x, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_stand_at_their_number() {
        for (i, (kind, ..)) in TYPES.iter().enumerate() {
            assert_eq!((*kind as usize, ValueType::of_id(i as u32)), (i, Some(*kind)));
        }
        assert_eq!(ValueType::of_id(13), None);
    }
}
