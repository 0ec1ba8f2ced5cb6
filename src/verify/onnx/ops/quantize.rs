//! QuantizeLinear and DequantizeLinear: one scale, one per element of an axis, or one per block along an axis (ONNX operator set 21).

use std::borrow::Cow;

use super::{Call, Results, one};
use crate::verify::onnx::Rounding;
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::Value;

/// Codes as numbers, all of which `f32` holds exactly. A float tensor stands for the codes of an activation that was not rounded.
pub fn codes(value: &Value) -> Option<Cow<'_, [f32]>> {
    Some(match value {
        Value::F32(a) => Cow::Borrowed(a.data()),
        Value::I8(a) | Value::I4(a) => Cow::Owned(a.data().iter().map(|c| f32::from(*c)).collect()),
        Value::U8(a) | Value::U4(a) => Cow::Owned(a.data().iter().map(|c| f32::from(*c)).collect()),
        _ => return None,
    })
}

/// What one type of codes holds.
const TYPES: &str = "int8, uint8, int4 or uint4";

/// Which scale an element has.
enum Layout {
    /// All the same.
    One,
    /// One for each element of an axis: its length, and elements behind it.
    Axis { of: usize, behind: usize },
    /// One for each block along an axis: its length, elements of a block, and elements behind the axis.
    Block { of: usize, size: usize, behind: usize },
}

impl Layout {
    /// Layout of scales of this shape for values of that shape.
    fn new(call: &Call<'_>, shape: &[usize], scales: &[usize]) -> Result<Self, Fault> {
        let size = call.node.int("block_size", 0)?;
        if size == 0 && scales.iter().product::<usize>() == 1 && scales.len() <= 1 {
            return Ok(Layout::One);
        }
        let axis = call.axis(1, shape.len())?;
        let (_, of, behind) = super::super::array::around(shape, axis);
        if size == 0 {
            return match scales == [of] {
                true => Ok(Layout::Axis { of, behind }),
                false => Err(Fault::shape(format!("one scale or {of}"), scales)),
            };
        }
        let size = usize::try_from(size).map_err(|_| Fault::attribute("block_size", "a size", size))?;
        let mut wanted = shape.to_vec();
        wanted[axis] = of.div_ceil(size);
        match scales == wanted {
            true => Ok(Layout::Block { of, size, behind }),
            false => Err(Fault::shape(format!("scales {wanted:?}"), scales)),
        }
    }

    /// Calls `f` with each run of elements that lie behind each other, and the numbers of their scales: that of the first, and how far it is to the next.
    fn runs(&self, data: &mut [f32], mut f: impl FnMut(&mut [f32], usize, usize)) {
        match *self {
            Layout::One => f(data, 0, 0),
            Layout::Axis { of, behind: 1 } => data.chunks_mut(of.max(1)).for_each(|run| f(run, 0, 1)),
            Layout::Axis { of, behind } => {
                let runs = data.chunks_mut(behind.max(1)).enumerate();
                runs.for_each(|(i, run)| f(run, i % of, 0));
            }
            Layout::Block { of, size, behind } => {
                let blocks = of.div_ceil(size);
                for (i, run) in data.chunks_mut(behind.max(1)).enumerate() {
                    f(run, (i / of * blocks + i % of / size) * behind, 1);
                }
            }
        }
    }
}

/// Scales and zeros of a node, and which element has which.
struct Grid<'a> {
    layout: Layout,
    scales: &'a [f32],
    /// Empty where all are 0.
    zeros: Cow<'a, [f32]>,
}

impl<'a> Grid<'a> {
    fn new(call: &Call<'a>) -> Result<Self, Fault> {
        let (x, scales) = (call.input(0)?, call.of::<f32>(1)?);
        let layout = Layout::new(call, x.shape(), scales.shape())?;
        let Some(zero) = call.optional(2) else {
            return Ok(Self { layout, scales: scales.data(), zeros: Cow::Borrowed(&[]) });
        };
        if zero.shape() != scales.shape() {
            return Err(Fault::shape(format!("zeros {:?}", scales.shape()), zero.shape()));
        }
        let zeros = codes(zero).ok_or_else(|| call.wrong_type(2, TYPES))?;
        Ok(Self { layout, scales: scales.data(), zeros })
    }

    /// `f` of every element, its scale and its zero, in place.
    fn apply(&self, data: &mut [f32], f: impl Fn(f32, f32, f32) -> f32) {
        let zero = |i: usize| self.zeros.get(i).copied().unwrap_or(0.0);
        self.layout.runs(data, |run, first, step| {
            if step == 0 {
                let (s, z) = (self.scales[first], zero(first));
                return run.iter_mut().for_each(|x| *x = f(*x, s, z));
            }
            for (i, x) in run.iter_mut().enumerate() {
                *x = f(*x, self.scales[first + i], zero(first + i));
            }
        });
    }
}

/// QuantizeLinear to int8 or uint8: the nearest code, the even one of two, the last one where there is none. With [`Rounding::Float`] the code stays the
/// number it was before it was rounded.
pub fn quantize(call: &Call<'_>) -> Results {
    call.node.int_among("saturate", 1, &[1])?;
    let (x, grid) = (call.of::<f32>(0)?, Grid::new(call)?);
    let mut data = x.data().to_vec();
    let shape = x.shape().to_vec();
    if call.rounding == Rounding::Float {
        grid.apply(&mut data, |x, s, z| x / s + z);
        return one(Array::new(shape, data)?);
    }
    // A quotient beyond the range is cut before it is rounded, as in the runtime: the sum with the zero stays exact.
    let coded = |low: f32, high: f32| {
        move |x: f32, s: f32, z: f32| (x / s).max(low - z).min(high - z).round_ties_even() + z
    };
    match call.optional(2) {
        Some(Value::I8(_)) => {
            grid.apply(&mut data, coded(-128.0, 127.0));
            one(Array::new(shape, data.into_iter().map(|c| c as i8).collect())?)
        }
        None | Some(Value::U8(_)) => {
            grid.apply(&mut data, coded(0.0, 255.0));
            one(Array::new(shape, data.into_iter().map(|c| c as u8).collect())?)
        }
        Some(_) => Err(call.wrong_type(2, "int8 or uint8")),
    }
}

/// DequantizeLinear: codes less their zero, times their scale.
pub fn dequantize(call: &Call<'_>) -> Results {
    let x = call.input(0)?;
    let found = codes(x).filter(|_| !matches!(x, Value::F32(_)) || call.rounding == Rounding::Float);
    let mut data = found.ok_or_else(|| call.wrong_type(0, TYPES))?.into_owned();
    Grid::new(call)?.apply(&mut data, |c, s, z| (c - z) * s);
    one(Array::new(x.shape().to_vec(), data)?)
}
