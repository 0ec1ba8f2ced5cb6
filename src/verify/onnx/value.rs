//! What flows between the nodes of an ONNX file: tensors of its element types, and sequences of them.

use std::sync::Arc;

use half::f16;

use super::array::Array;
use super::error::Fault;
use crate::export::onnx::proto::tensor_proto::DataType;

/// A value. Types of 4 bits and of half precision are for what a file stores: they can be cast, dequantized and moved.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `float`.
    F32(Array<f32>),
    /// `float16`.
    F16(Array<f16>),
    /// `double`.
    F64(Array<f64>),
    /// `int64`.
    I64(Array<i64>),
    /// `int32`.
    I32(Array<i32>),
    /// `int8`.
    I8(Array<i8>),
    /// `uint8`.
    U8(Array<u8>),
    /// `int4`, one code an element.
    I4(Array<i8>),
    /// `uint4`, one code an element.
    U4(Array<u8>),
    /// `bool`.
    Bool(Array<bool>),
    /// A sequence of tensors.
    Sequence(Arc<Vec<Value>>),
}

/// A type of elements that operators compute with.
pub trait Element: Copy + Default + PartialEq + Send + Sync + std::fmt::Debug + 'static {
    /// Name in ONNX.
    const NAME: &'static str;
    /// The array of a value of this type.
    fn of(value: &Value) -> Option<&Array<Self>>;
    /// The value of an array.
    fn value(array: Array<Self>) -> Value;
}

macro_rules! elements {
    ($($t:ty, $variant:ident, $name:literal;)*) => {
        $(impl Element for $t {
            const NAME: &'static str = $name;
            fn of(value: &Value) -> Option<&Array<Self>> {
                match value {
                    Value::$variant(a) => Some(a),
                    _ => None,
                }
            }
            fn value(array: Array<Self>) -> Value {
                Value::$variant(array)
            }
        })*
    };
}
elements!(f32, F32, "float"; f16, F16, "float16"; f64, F64, "double"; i64, I64, "int64"; i32, I32, "int32"; i8, I8, "int8"; u8, U8, "uint8"; bool, Bool, "bool";);

/// Calls `$f::<T>($call)` with the element type of operand `$i` of the call, which decides it for the others. `all` are the types that can be moved.
macro_rules! by_type {
    ($call:expr, $i:expr, [$($variant:ident: $t:ty),*], $f:ident) => {
        match $call.input($i)? {
            $($crate::verify::onnx::value::Value::$variant(_) => $f::<$t>($call),)*
            other => Err($crate::verify::onnx::error::Fault::Type {
                operand: $i,
                expected: [$(<$t as $crate::verify::onnx::value::Element>::NAME),*].join(" or "),
                found: other.type_name().to_string(),
            }),
        }
    };
    ($call:expr, $i:expr, all, $f:ident) => {
        $crate::verify::onnx::value::by_type!(
            $call,
            $i,
            [F32: f32, F16: half::f16, F64: f64, I64: i64, I32: i32, I8: i8, U8: u8, Bool: bool],
            $f
        )
    };
}
pub(super) use by_type;

impl Value {
    /// Name of the type in ONNX.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::F32(_) => f32::NAME,
            Value::F16(_) => f16::NAME,
            Value::F64(_) => f64::NAME,
            Value::I64(_) => i64::NAME,
            Value::I32(_) => i32::NAME,
            Value::I8(_) => i8::NAME,
            Value::U8(_) => u8::NAME,
            Value::I4(_) => "int4",
            Value::U4(_) => "uint4",
            Value::Bool(_) => bool::NAME,
            Value::Sequence(_) => "sequence",
        }
    }

    /// Extents; none of a sequence.
    pub fn shape(&self) -> &[usize] {
        match self {
            Value::F32(a) => a.shape(),
            Value::F16(a) => a.shape(),
            Value::F64(a) => a.shape(),
            Value::I64(a) => a.shape(),
            Value::I32(a) => a.shape(),
            Value::I8(a) | Value::I4(a) => a.shape(),
            Value::U8(a) | Value::U4(a) => a.shape(),
            Value::Bool(a) => a.shape(),
            Value::Sequence(_) => &[],
        }
    }

    /// The elements of a float tensor.
    pub fn floats(&self) -> Option<&Array<f32>> {
        f32::of(self)
    }

    /// The elements of an int64 tensor.
    pub fn ints(&self) -> Option<&Array<i64>> {
        i64::of(self)
    }

    /// Type and shape in one line.
    pub fn describe(&self) -> String {
        match self {
            Value::Sequence(values) => format!("sequence of {}", values.len()),
            _ => format!("{}{:?}", self.type_name(), self.shape()),
        }
    }

    /// The tensor of an ONNX element type in these little-endian bytes (`onnx.proto`, `TensorProto.raw_data`; codes of 4 bits two in a byte, the first in
    /// the low half).
    ///
    /// # Errors
    /// [`Fault::Stored`] when the type is none of the above or the number of bytes is not that of the shape.
    pub fn decode(data_type: i32, shape: Vec<usize>, bytes: &[u8]) -> Result<Self, Fault> {
        let n = super::array::elements(&shape)?;
        let kind = DataType::try_from(data_type).unwrap_or(DataType::Undefined);
        let bits = bits(kind).ok_or(Fault::Stored {
            expected: "float, float16, double, int64, int32, int8, uint8, int4, uint4 or bool".into(),
            found: crate::export::onnx::read::type_name(data_type),
        })?;
        let expected = (n * bits).div_ceil(8);
        if bytes.len() != expected {
            let expected = format!("{expected} bytes of raw data for {}{shape:?}", kind.as_str_name());
            return Err(Fault::Stored { expected, found: format!("{} bytes", bytes.len()) });
        }
        Ok(match kind {
            DataType::Float => Value::F32(Array::new(shape, words(bytes, f32::from_le_bytes))?),
            DataType::Float16 => Value::F16(Array::new(shape, words(bytes, f16::from_le_bytes))?),
            DataType::Double => Value::F64(Array::new(shape, words(bytes, f64::from_le_bytes))?),
            DataType::Int64 => Value::I64(Array::new(shape, words(bytes, i64::from_le_bytes))?),
            DataType::Int32 => Value::I32(Array::new(shape, words(bytes, i32::from_le_bytes))?),
            DataType::Int8 => Value::I8(Array::new(shape, words(bytes, i8::from_le_bytes))?),
            DataType::Int4 => Value::I4(Array::new(shape, halves(bytes, n, |b| ((b << 4) as i8) >> 4))?),
            DataType::Uint4 => Value::U4(Array::new(shape, halves(bytes, n, |b| b & 0x0f))?),
            DataType::Bool => Value::Bool(Array::new(shape, bytes.iter().map(|b| *b != 0).collect())?),
            _ => Value::U8(Array::new(shape, bytes.to_vec())?),
        })
    }
}

/// Bits of an element in a file.
fn bits(kind: DataType) -> Option<usize> {
    match kind {
        DataType::Double | DataType::Int64 => Some(64),
        DataType::Float | DataType::Int32 => Some(32),
        DataType::Float16 => Some(16),
        DataType::Int8 | DataType::Uint8 | DataType::Bool => Some(8),
        DataType::Int4 | DataType::Uint4 => Some(4),
        _ => None,
    }
}

fn words<const N: usize, T>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|word| decode(*word)).collect()
}

/// `n` codes of 4 bits.
fn halves<T>(bytes: &[u8], n: usize, code: impl Fn(u8) -> T) -> Vec<T> {
    (0..n).map(|i| code(bytes[i / 2] >> (4 * (i % 2)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_tensors() {
        let read =
            |kind: DataType, shape: &[usize], bytes: &[u8]| Value::decode(kind as i32, shape.to_vec(), bytes);
        assert_eq!(
            read(DataType::Float, &[1], &[0, 0, 0x80, 0x3f]).unwrap(),
            Value::F32(Array::list(vec![1.0]))
        );
        assert_eq!(
            read(DataType::Int64, &[], &[0xfe, 255, 255, 255, 255, 255, 255, 255]).unwrap(),
            Value::I64(Array::scalar(-2))
        );
        // The bytes that the writer's own test has.
        let codes = read(DataType::Int4, &[5], &[0xf1, 0x97, 0x08]).unwrap();
        assert_eq!(codes, Value::I4(Array::list(vec![1, -1, 7, -7, -8])));
        assert_eq!(
            read(DataType::Uint4, &[3], &[0xf1, 0x07]).unwrap(),
            Value::U4(Array::list(vec![1, 15, 7]))
        );
        assert_eq!(
            read(DataType::Float16, &[1], &[0x00, 0x3c]).unwrap(),
            Value::F16(Array::list(vec![f16::ONE]))
        );
        assert_eq!(read(DataType::Bool, &[2], &[0, 1]).unwrap(), Value::Bool(Array::list(vec![false, true])));
        for wrong in [
            read(DataType::Float, &[2], &[0; 4]),
            read(DataType::Int4, &[3], &[0]),
            read(DataType::String, &[], &[]),
        ] {
            assert!(matches!(wrong, Err(Fault::Stored { .. })), "{wrong:?}");
        }
    }
}
