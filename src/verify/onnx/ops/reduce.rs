//! Reductions. Means and sums of real numbers are accumulated in `f64`.

use super::shape::{axes_of, transposed};
use super::{Call, Results, one};
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::{Element, Value};

/// Attributes of all reductions.
pub const ATTRIBUTES: &[&str] = &["keepdims", "noop_with_empty_axes"];

/// `f` of the elements along the axes of operand 1, all axes where it is left out.
fn reduce<T: Element>(call: &Call<'_>, f: impl Fn(&[T]) -> Result<T, Fault>) -> Results {
    let x = call.of::<T>(0)?;
    let rank = x.shape().len();
    let mut axes = if call.optional(1).is_some() { axes_of(call.ints(1)?, rank)? } else { vec![] };
    if axes.is_empty() {
        if call.node.int_among("noop_with_empty_axes", 0, &[0, 1])? == 1 {
            return Ok(vec![T::value(x.clone())]);
        }
        axes = (0..rank).collect();
    }
    let keeps = call.node.int_among("keepdims", 1, &[0, 1])? == 1;
    let kept: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).collect();
    axes.sort_unstable();
    let ordered = transposed(x, &[kept.as_slice(), &axes].concat())?;
    let run: usize = axes.iter().map(|a| x.shape()[*a]).product();
    let rows: usize = kept.iter().map(|a| x.shape()[*a]).product();
    let row = |r: usize| f(&ordered.data()[r * run..(r + 1) * run]);
    let out = (0..rows).map(row).collect::<Result<Vec<_>, _>>()?;
    let shape = if keeps {
        (0..rank).map(|a| if axes.contains(&a) { 1 } else { x.shape()[a] }).collect()
    } else {
        kept.iter().map(|a| x.shape()[*a]).collect()
    };
    one(Array::new(shape, out)?)
}

/// ReduceSum.
pub fn sum(call: &Call<'_>) -> Results {
    match call.input(0)? {
        Value::F32(_) => reduce::<f32>(call, |run| Ok(total(run) as f32)),
        Value::I64(_) => reduce::<i64>(call, |run| Ok(run.iter().fold(0, |s, x| s.wrapping_add(*x)))),
        _ => Err(call.wrong_type(0, "float or int64")),
    }
}

fn total(run: &[f32]) -> f64 {
    run.iter().map(|x| f64::from(*x)).sum()
}

/// ReduceMean.
pub fn mean(call: &Call<'_>) -> Results {
    reduce::<f32>(call, |run| Ok((total(run) / run.len() as f64) as f32))
}

/// ReduceProd.
pub fn prod(call: &Call<'_>) -> Results {
    reduce::<i64>(call, |run| Ok(run.iter().fold(1, |p, x| p.wrapping_mul(*x))))
}

/// ReduceMax.
pub fn max(call: &Call<'_>) -> Results {
    reduce::<f32>(call, |run| Ok(run.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x))))
}
