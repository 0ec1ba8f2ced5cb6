//! Operators on one operand, element by element.

use half::f16;
use rayon::prelude::*;

use super::{Call, Results, one};
use crate::export::onnx::proto::tensor_proto::DataType;
use crate::numeric::erf;
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::{Element, Value};

/// Elements that one thread computes at once.
const BLOCK: usize = 1 << 14;

/// `f` of every element, blocks in parallel.
fn map<T: Element>(x: &Array<T>, f: impl Fn(T) -> T + Sync) -> Results {
    let mut data = x.data().to_vec();
    data.par_chunks_mut(BLOCK).for_each(|block| block.iter_mut().for_each(|v| *v = f(*v)));
    one(Array::new(x.shape().to_vec(), data)?)
}

macro_rules! reals {
    ($($(#[$doc:meta])* $name:ident |$x:ident| $f:expr;)*) => {
        $($(#[$doc])*
        pub fn $name(call: &Call<'_>) -> Results {
            match call.input(0)? {
                Value::F32(x) => map(x, |$x: f32| $f),
                Value::F64(x) => map(x, |$x: f64| $f),
                _ => Err(call.wrong_type(0, "float or double")),
            }
        })*
    };
}
reals! {
    /// Abs.
    abs |x| x.abs();
    /// Sqrt.
    sqrt |x| x.sqrt();
    /// Cos.
    cos |x| x.cos();
    /// Sin.
    sin |x| x.sin();
    /// Log, the natural logarithm.
    log |x| x.ln();
    /// Reciprocal.
    reciprocal |x| 1.0 / x;
    /// Sigmoid.
    sigmoid |x| 1.0 / (1.0 + (-x).exp());
}

/// Not.
pub fn not(call: &Call<'_>) -> Results {
    one(call.of::<bool>(0)?.map(|x| !x))
}

/// Gelu: by the error function, or by its approximation with the hyperbolic tangent.
pub fn gelu(call: &Call<'_>) -> Results {
    let x = call.of::<f32>(0)?;
    let by_tanh = |x: f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    match call.node.text("approximate", "none")? {
        "none" => map(x, |x| {
            let x = f64::from(x);
            (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
        }),
        "tanh" => map(x, |x| by_tanh(f64::from(x)) as f32),
        other => Err(Fault::attribute("approximate", "none or tanh", other)),
    }
}

/// Cast. Real numbers become whole ones by dropping what is behind the point; beyond the range, the nearest there is.
pub fn cast(call: &Call<'_>) -> Results {
    let to = call.node.int("to", 0)?;
    let kind = i32::try_from(to).ok().and_then(|to| DataType::try_from(to).ok());
    let kind = kind.ok_or_else(|| Fault::attribute("to", "a type of elements", to))?;
    match call.input(0)? {
        Value::F32(x) => to_type(x, kind, |x| Wide::Real(f64::from(x))),
        Value::F16(x) => to_type(x, kind, |x| Wide::Real(x.to_f64())),
        Value::F64(x) => to_type(x, kind, Wide::Real),
        Value::I64(x) => to_type(x, kind, Wide::Whole),
        Value::I32(x) => to_type(x, kind, |x| Wide::Whole(x.into())),
        Value::I8(x) | Value::I4(x) => to_type(x, kind, |x| Wide::Whole(x.into())),
        Value::U8(x) | Value::U4(x) => to_type(x, kind, |x| Wide::Whole(x.into())),
        Value::Bool(x) => to_type(x, kind, |x| Wide::Whole(x.into())),
        Value::Sequence(_) => Err(call.wrong_type(0, "a tensor")),
    }
}

/// A number of any type without loss.
#[derive(Clone, Copy)]
enum Wide {
    Real(f64),
    Whole(i64),
}

macro_rules! narrow {
    ($x:expr, $wide:expr, $t:ty) => {
        one($x.map(|x| match $wide(*x) {
            Wide::Real(r) => r as $t,
            Wide::Whole(w) => w as $t,
        }))
    };
}

fn to_type<T: Copy>(x: &Array<T>, to: DataType, wide: impl Fn(T) -> Wide) -> Results {
    match to {
        DataType::Float => narrow!(x, wide, f32),
        DataType::Double => narrow!(x, wide, f64),
        DataType::Int64 => narrow!(x, wide, i64),
        DataType::Int32 => narrow!(x, wide, i32),
        DataType::Int8 => narrow!(x, wide, i8),
        DataType::Uint8 => narrow!(x, wide, u8),
        DataType::Float16 => one(x.map(|x| match wide(*x) {
            Wide::Real(r) => f16::from_f64(r),
            Wide::Whole(w) => f16::from_f64(w as f64),
        })),
        DataType::Bool => one(x.map(|x| match wide(*x) {
            Wide::Real(r) => r != 0.0,
            Wide::Whole(w) => w != 0,
        })),
        other => {
            Err(Fault::attribute("to", "float, float16, double, int64, int32, int8, uint8 or bool", other))
        }
    }
}
