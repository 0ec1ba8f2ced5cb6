//! Operators that rename, repeat or exchange axes.

use super::broadcast::{self, expand as expanded};
use super::strided::{self, Axis};
use super::{Call, Results, axis, one};
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::{Element, Value, by_type};

/// Extents given as whole numbers.
///
/// # Errors
/// [`Fault::Shape`] when one is negative.
pub fn extents(numbers: &[i64]) -> Result<Vec<usize>, Fault> {
    let extent =
        |n: &i64| usize::try_from(*n).map_err(|_| Fault::shape("extents that are not negative", numbers));
    numbers.iter().map(extent).collect()
}

/// The value under another shape.
fn reshaped(call: &Call<'_>, shape: Vec<usize>) -> Results {
    Ok(vec![match call.input(0)? {
        Value::F32(a) => Value::F32(a.reshaped(shape)?),
        Value::F16(a) => Value::F16(a.reshaped(shape)?),
        Value::F64(a) => Value::F64(a.reshaped(shape)?),
        Value::I64(a) => Value::I64(a.reshaped(shape)?),
        Value::I32(a) => Value::I32(a.reshaped(shape)?),
        Value::I8(a) => Value::I8(a.reshaped(shape)?),
        Value::U8(a) => Value::U8(a.reshaped(shape)?),
        Value::I4(a) => Value::I4(a.reshaped(shape)?),
        Value::U4(a) => Value::U4(a.reshaped(shape)?),
        Value::Bool(a) => Value::Bool(a.reshaped(shape)?),
        Value::Sequence(_) => return Err(call.wrong_type(0, "a tensor")),
    }])
}

/// Reshape: 0 keeps the axis at its place, -1 takes what is left.
pub fn reshape(call: &Call<'_>) -> Results {
    let keeps = call.node.int_among("allowzero", 0, &[0, 1])? == 0;
    let (old, asked) = (call.input(0)?.shape(), call.ints(1)?);
    let mut shape = Vec::with_capacity(asked.len());
    let mut open = None;
    for (i, &n) in asked.iter().enumerate() {
        shape.push(match n {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if keeps => {
                *old.get(i).ok_or_else(|| Fault::shape(format!("an axis {i} to keep"), (old, asked)))?
            }
            n => usize::try_from(n).map_err(|_| Fault::shape("extents, 0 or one -1", asked))?,
        });
    }
    if let Some(i) = open {
        let (all, others) = (super::super::array::elements(old)?, super::super::array::elements(&shape)?);
        if others == 0 || all % others != 0 {
            return Err(Fault::shape(format!("a shape of {all} elements"), asked));
        }
        shape[i] = all / others;
    }
    reshaped(call, shape)
}

/// Axes by numbers of `rank`, each at most once.
///
/// # Errors
/// [`Fault::Shape`].
pub fn axes_of(numbers: &[i64], rank: usize) -> Result<Vec<usize>, Fault> {
    let mut found = Vec::with_capacity(numbers.len());
    for &number in numbers {
        match axis(number, rank) {
            Some(a) if !found.contains(&a) => found.push(a),
            _ => return Err(Fault::shape(format!("different axes of {rank}"), numbers)),
        }
    }
    Ok(found)
}

/// Squeeze: drops axes of length 1; without a list of them, all.
pub fn squeeze(call: &Call<'_>) -> Results {
    let old = call.input(0)?.shape();
    let axes = match call.optional(1) {
        Some(_) => axes_of(call.ints(1)?, old.len())?,
        None => (0..old.len()).filter(|a| old[*a] == 1).collect(),
    };
    if let Some(a) = axes.iter().find(|a| old[**a] != 1) {
        return Err(Fault::shape(format!("length 1 of axis {a}"), old));
    }
    let kept = old.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, n)| *n);
    reshaped(call, kept.collect())
}

/// Unsqueeze: adds axes of length 1, numbered in the result.
pub fn unsqueeze(call: &Call<'_>) -> Results {
    let (old, numbers) = (call.input(0)?.shape(), call.ints(1)?);
    let rank = old.len() + numbers.len();
    let axes = axes_of(numbers, rank)?;
    let mut rest = old.iter().copied();
    let shape = (0..rank).map(|i| if axes.contains(&i) { 1 } else { rest.next().unwrap_or(1) });
    reshaped(call, shape.collect())
}

/// Transpose.
pub fn transpose(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let x = call.of::<T>(0)?;
        let rank = x.shape().len();
        let perm = match call.node.ints("perm")? {
            Some(perm) if perm.len() == rank => axes_of(perm, rank)?,
            Some(perm) => return Err(Fault::attribute("perm", format!("{rank} axes"), perm)),
            None => (0..rank).rev().collect(),
        };
        one(transposed(x, &perm)?)
    }
    by_type!(call, 0, all, of_type)
}

/// The array with its axes in another order, which names each of them once.
///
/// # Errors
/// None on such an order.
pub fn transposed<T: Element>(x: &Array<T>, perm: &[usize]) -> Result<Array<T>, Fault> {
    if perm.iter().enumerate().all(|(i, p)| i == *p) {
        return Ok(x.clone());
    }
    let steps = strided::steps(x.shape());
    let axes: Vec<Axis> = perm.iter().map(|&p| Axis { extent: x.shape()[p], step: steps[p] }).collect();
    Array::new(axes.iter().map(|a| a.extent).collect(), strided::copy(x.data(), 0, &axes))
}

/// Shape, or a part of it.
pub fn shape(call: &Call<'_>) -> Results {
    let shape = call.input(0)?.shape();
    let rank = shape.len() as i64;
    let place = |n: i64| (if n < 0 { n.saturating_add(rank) } else { n }).clamp(0, rank) as usize;
    let (start, end) = (place(call.node.int("start", 0)?), place(call.node.int("end", rank)?));
    let part = shape.get(start..end).unwrap_or_default();
    one(Array::list(part.iter().map(|&n| n as i64).collect()))
}

/// Identity.
pub fn identity(call: &Call<'_>) -> Results {
    Ok(vec![call.input(0)?.clone()])
}

/// Expand.
pub fn expand(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let (x, asked) = (call.of::<T>(0)?, extents(call.ints(1)?)?);
        one(expanded(x, broadcast::shape(x.shape(), &asked)?)?)
    }
    by_type!(call, 0, all, of_type)
}
