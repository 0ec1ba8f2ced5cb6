//! Operators that cut and join along axes.

use super::shape::{axes_of, extents};
use super::strided::{self, Axis};
use super::{Call, Results, one};
use crate::verify::onnx::array::{Array, elements};
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::{Element, by_type};

/// Concat.
pub fn concat(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let parts: Vec<&Array<T>> = (0..call.operands.len()).map(|i| call.of(i)).collect::<Result<_, _>>()?;
        let axis = call.axis(i64::MIN, parts.first().map_or(0, |p| p.shape().len()))?;
        one(joined(&parts, axis)?)
    }
    by_type!(call, 0, all, of_type)
}

/// Arrays one behind the other along an axis; all other axes are alike.
///
/// # Errors
/// [`Fault::Shape`].
pub fn joined<T: Element>(parts: &[&Array<T>], axis: usize) -> Result<Array<T>, Fault> {
    let mut shape = parts.first().map_or_else(Vec::new, |p| p.shape().to_vec());
    let alike = |p: &[usize]| p.len() == shape.len() && (0..p.len()).all(|i| i == axis || p[i] == shape[i]);
    if axis >= shape.len() || !parts.iter().all(|p| alike(p.shape())) {
        let shapes: Vec<&[usize]> = parts.iter().map(|p| p.shape()).collect();
        return Err(Fault::shape(format!("shapes that differ in axis {axis} alone"), shapes));
    }
    shape[axis] = parts.iter().map(|p| p.shape()[axis]).sum();
    let mut out = Vec::with_capacity(elements(&shape)?);
    let (before, ..) = super::super::array::around(&shape, axis);
    for b in 0..before {
        for part in parts {
            let run = part.len() / before;
            out.extend_from_slice(&part.data()[b * run..(b + 1) * run]);
        }
    }
    Array::new(shape, out)
}

/// Split: by a list of lengths, or into a number of parts of which the last may be shorter.
pub fn split(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let x = call.of::<T>(0)?;
        let axis = call.axis(0, x.shape().len())?;
        let (before, of, behind) = x.around(axis);
        let sizes = match call.optional(1) {
            Some(_) => extents(call.ints(1)?)?,
            None => even(of, call.node.size("num_outputs")?),
        };
        if sizes.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)) != Some(of) {
            return Err(Fault::shape(format!("lengths that add up to {of}"), sizes));
        }
        let mut start = 0;
        let mut parts = Vec::with_capacity(sizes.len());
        for size in sizes {
            let mut shape = x.shape().to_vec();
            shape[axis] = size;
            let mut out = Vec::with_capacity(before * size * behind);
            for b in 0..before {
                let first = (b * of + start) * behind;
                out.extend_from_slice(&x.data()[first..first + size * behind]);
            }
            parts.push(T::value(Array::new(shape, out)?));
            start += size;
        }
        Ok(parts)
    }
    by_type!(call, 0, all, of_type)
}

/// Lengths of `n` parts of `of` elements, the last ones shorter.
fn even(of: usize, n: usize) -> Vec<usize> {
    let each = of.div_ceil(n);
    (0..n).map(|i| each.min(of.saturating_sub(i * each))).collect()
}

/// Slice.
pub fn slice(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let x = call.of::<T>(0)?;
        let (starts, ends) = (call.ints(1)?, call.ints(2)?);
        let axes = match call.optional(3) {
            Some(_) => axes_of(call.ints(3)?, x.shape().len())?,
            None => (0..starts.len()).collect(),
        };
        let steps = match call.optional(4) {
            Some(_) => call.ints(4)?.to_vec(),
            None => vec![1; starts.len()],
        };
        let lengths = [starts.len(), ends.len(), axes.len(), steps.len()];
        if lengths.iter().any(|n| *n != starts.len()) || axes.iter().any(|a| *a >= x.shape().len()) {
            return Err(Fault::shape("as many starts as ends, axes and steps", lengths));
        }
        let distances = strided::steps(x.shape());
        let all = x.shape().iter().zip(&distances);
        let mut copied: Vec<Axis> = all.map(|(&extent, &step)| Axis { extent, step }).collect();
        let mut first = 0;
        for (i, &axis) in axes.iter().enumerate() {
            let (from, count) = span(x.shape()[axis], starts[i], ends[i], steps[i])?;
            first += from as isize * distances[axis];
            copied[axis] = Axis { extent: count, step: distances[axis].wrapping_mul(steps[i] as isize) };
        }
        let shape = copied.iter().map(|a| a.extent).collect();
        one(Array::new(shape, strided::copy(x.data(), first, &copied))?)
    }
    by_type!(call, 0, all, of_type)
}

/// First element and number of elements of a slice of an axis, as Python counts them.
fn span(extent: usize, start: i64, end: i64, step: i64) -> Result<(usize, usize), Fault> {
    let n = extent as i64;
    let counted = |at: i64| if at < 0 { at.saturating_add(n) } else { at };
    let (start, end) = (counted(start), counted(end));
    let (start, distance) = match step {
        0 => return Err(Fault::shape("steps that are not 0", step)),
        1.. => (start.clamp(0, n), end.clamp(0, n) - start.clamp(0, n)),
        _ => (start.clamp(-1, n - 1), start.clamp(-1, n - 1) - end.clamp(-1, n - 1)),
    };
    let count = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    Ok((start.max(0) as usize, count as usize))
}

/// Pad with a constant.
pub fn pad(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let (x, pads) = (call.of::<T>(0)?, extents(call.ints(1)?)?);
        let value = if call.optional(2).is_some() { call.one::<T>(2)? } else { T::default() };
        let rank = x.shape().len();
        if pads.len() != 2 * rank {
            return Err(Fault::shape(format!("{} numbers of elements to add", 2 * rank), pads));
        }
        let sum = |i: usize| x.shape()[i].saturating_add(pads[i]).saturating_add(pads[rank + i]);
        let shape: Vec<usize> = (0..rank).map(sum).collect();
        let mut out = vec![value; elements(&shape)?];
        let steps = strided::steps(&shape);
        let inner = x.cols();
        for (r, row) in x.data().chunks_exact(inner.max(1)).enumerate() {
            let (mut rest, mut at) = (r, 0);
            for i in (0..rank).rev() {
                let index = if i + 1 == rank { 0 } else { rest % x.shape()[i] };
                rest = if i + 1 == rank { rest } else { rest / x.shape()[i] };
                at += (index + pads[i]) * steps[i] as usize;
            }
            out[at..at + inner].copy_from_slice(row);
        }
        one(Array::new(shape, out)?)
    }
    match call.node.text("mode", "constant")? {
        "constant" => by_type!(call, 0, all, of_type),
        other => Err(Fault::attribute("mode", "constant", other)),
    }
}
