//! Operators that take and put elements by numbers, and those that make numbers.

use super::strided;
use super::{Call, Results, one};
use crate::verify::onnx::array::{Array, elements};
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::{Element, Value, by_type};

/// The place of an index along an axis; a negative one counts from behind.
fn place(index: i64, extent: usize) -> Result<usize, Fault> {
    super::axis(index, extent).ok_or_else(|| Fault::shape(format!("an index into {extent} elements"), index))
}

/// Gather.
pub fn gather(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let (x, indices) = (call.of::<T>(0)?, call.of::<i64>(1)?);
        let axis = call.axis(0, x.shape().len())?;
        let (before, of, behind) = x.around(axis);
        let shape = [&x.shape()[..axis], indices.shape(), &x.shape()[axis + 1..]].concat();
        let mut out = Vec::with_capacity(elements(&shape)?);
        for b in 0..before {
            for &index in indices.data() {
                let first = (b * of + place(index, of)?) * behind;
                out.extend_from_slice(&x.data()[first..first + behind]);
            }
        }
        one(Array::new(shape, out)?)
    }
    by_type!(call, 0, all, of_type)
}

/// That elements are replaced, not added to.
fn replaces(call: &Call<'_>) -> Result<(), Fault> {
    match call.node.text("reduction", "none")? {
        "none" => Ok(()),
        other => Err(Fault::attribute("reduction", "none", other)),
    }
}

/// ScatterElements.
pub fn scatter_elements(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let (x, indices, updates) = (call.of::<T>(0)?, call.of::<i64>(1)?, call.of::<T>(2)?);
        let rank = x.shape().len();
        let axis = call.axis(0, rank)?;
        let inside = indices.shape().iter().zip(x.shape()).enumerate().all(|(i, (n, m))| i == axis || n <= m);
        if indices.shape() != updates.shape() || indices.shape().len() != rank || !inside {
            let found = (x.shape(), indices.shape(), updates.shape());
            return Err(Fault::shape("indices and updates of one shape inside that of the data", found));
        }
        let (mut out, steps) = (x.data().to_vec(), strided::steps(x.shape()));
        let own = strided::steps(indices.shape());
        for (k, (&index, &update)) in indices.data().iter().zip(updates.data()).enumerate() {
            let mut at = 0;
            for i in 0..rank {
                let coordinate = k / own[i] as usize % indices.shape()[i];
                let coordinate = if i == axis { place(index, x.shape()[axis])? } else { coordinate };
                at += coordinate * steps[i] as usize;
            }
            out[at] = update;
        }
        one(Array::new(x.shape().to_vec(), out)?)
    }
    replaces(call)?;
    by_type!(call, 0, all, of_type)
}

/// ScatterND: the last axis of the indices names a run of elements.
pub fn scatter_nd(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let (x, indices, updates) = (call.of::<T>(0)?, call.of::<i64>(1)?, call.of::<T>(2)?);
        let depth = indices.cols();
        let leading = indices.shape().split_last().map_or(&[][..], |(_, l)| l);
        let named = x.shape().get(depth..).filter(|_| !indices.shape().is_empty());
        let wanted = named.map(|rest| [leading, rest].concat());
        if wanted.as_deref() != Some(updates.shape()) {
            let found = (x.shape(), indices.shape(), updates.shape());
            return Err(Fault::shape("updates [leading axes of the indices, rest of the data]", found));
        }
        let run: usize = x.shape()[depth..].iter().product();
        let (mut out, steps) = (x.data().to_vec(), strided::steps(x.shape()));
        for k in 0..indices.rows() {
            let numbers = &indices.data()[k * depth..(k + 1) * depth];
            let mut at = 0;
            for (i, &number) in numbers.iter().enumerate() {
                at += place(number, x.shape()[i])? * steps[i] as usize;
            }
            out[at..at + run].copy_from_slice(&updates.data()[k * run..(k + 1) * run]);
        }
        one(Array::new(x.shape().to_vec(), out)?)
    }
    replaces(call)?;
    by_type!(call, 0, all, of_type)
}

/// NonZero: the coordinates of all elements that are not 0, one column each.
pub fn non_zero(call: &Call<'_>) -> Results {
    fn of_type<T: Element>(call: &Call<'_>) -> Results {
        let x = call.of::<T>(0)?;
        let found: Vec<usize> = (0..x.len()).filter(|i| x.data()[*i] != T::default()).collect();
        let steps = strided::steps(x.shape());
        let coordinate = |axis: usize, at: usize| (at / steps[axis] as usize % x.shape()[axis]) as i64;
        let rows = (0..x.shape().len()).flat_map(|axis| found.iter().map(move |at| (axis, *at)));
        let coordinates = rows.map(|(axis, at)| coordinate(axis, at)).collect();
        one(Array::new(vec![x.shape().len(), found.len()], coordinates)?)
    }
    by_type!(call, 0, all, of_type)
}

/// Range of whole numbers.
pub fn range(call: &Call<'_>) -> Results {
    let (start, limit, delta) = (call.one::<i64>(0)?, call.one::<i64>(1)?, call.one::<i64>(2)?);
    if delta == 0 {
        return Err(Fault::shape("a step that is not 0", delta));
    }
    let distance = (i128::from(limit) - i128::from(start)) * i128::from(delta.signum());
    let count = distance.max(0).unsigned_abs().div_ceil(u128::from(delta.unsigned_abs()));
    let count = elements(&[usize::try_from(count).unwrap_or(usize::MAX)])?;
    one(Array::list((0..count as i64).map(|i| start.wrapping_add(i.wrapping_mul(delta))).collect()))
}

/// CumSum along an axis.
pub fn cum_sum(call: &Call<'_>) -> Results {
    call.node.int_among("exclusive", 0, &[0])?;
    call.node.int_among("reverse", 0, &[0])?;
    let x = call.of::<i64>(0)?;
    let number = match call.input(1)? {
        Value::I32(_) => i64::from(call.one::<i32>(1)?),
        _ => call.one::<i64>(1)?,
    };
    let rank = x.shape().len();
    let axis = super::axis(number, rank).ok_or_else(|| Fault::shape(format!("an axis of {rank}"), number))?;
    let (_, of, behind) = x.around(axis);
    let mut out = x.data().to_vec();
    for block in out.chunks_exact_mut((of * behind).max(1)) {
        for i in behind..block.len() {
            block[i] = block[i].wrapping_add(block[i - behind]);
        }
    }
    one(Array::new(x.shape().to_vec(), out)?)
}
