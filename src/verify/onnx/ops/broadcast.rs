//! Broadcasting of operands against each other, as numpy does it (ONNX, `docs/Broadcasting.md`).

use crate::verify::onnx::array::{Array, elements};
use crate::verify::onnx::error::Fault;

/// The shape of two shapes aligned at their last axes, where axes of length 1 are repeated.
///
/// # Errors
/// [`Fault::Shape`] where two axes differ and neither is 1.
pub fn shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    let extent = |i: usize| match (at(a, i), at(b, i)) {
        (x, y) if x == y || y == 1 => Ok(x),
        (1, y) => Ok(y),
        _ => Err(Fault::shape("shapes that broadcast", (a, b))),
    };
    (0..rank).map(extent).collect()
}

/// An axis of the result, and how far operands move along it.
#[derive(Clone, Copy)]
struct Axis {
    extent: usize,
    a: usize,
    b: usize,
}

/// Axes of the result, outermost first, those that both operands run through without a gap joined to one.
fn axes(shape: &[usize], a: &[usize], b: &[usize]) -> Vec<Axis> {
    let (mut steps, mut found) = ([1, 1], Vec::<Axis>::new());
    for (i, &extent) in shape.iter().enumerate().rev() {
        let mut step = |which: usize, s: &[usize]| {
            let own = (i + s.len()).checked_sub(shape.len()).map_or(1, |i| s[i]);
            let step = if own == 1 { 0 } else { steps[which] };
            steps[which] *= own;
            step
        };
        let axis = Axis { extent, a: step(0, a), b: step(1, b) };
        if extent == 1 {
            continue;
        }
        match found.last_mut() {
            Some(inner) if axis.a == inner.extent * inner.a && axis.b == inner.extent * inner.b => {
                inner.extent *= extent;
            }
            _ => found.push(axis),
        }
    }
    found.reverse();
    found
}

/// `f` of the elements of two operands.
///
/// # Errors
/// [`Fault::Shape`] when they do not broadcast, [`Fault::TooLarge`].
pub fn zip<A: Copy, B: Copy, C>(
    a: &Array<A>,
    b: &Array<B>,
    f: impl Fn(A, B) -> C,
) -> Result<Array<C>, Fault> {
    let shape = shape(a.shape(), b.shape())?;
    let n = elements(&shape)?;
    let mut out = Vec::with_capacity(n);
    if n > 0 {
        let mut axes = axes(&shape, a.shape(), b.shape());
        let inner = axes.pop().unwrap_or(Axis { extent: 1, a: 0, b: 0 });
        let mut at = vec![0; axes.len()];
        let (mut i, mut j) = (0, 0);
        loop {
            run(&mut out, &a.data()[i..], &b.data()[j..], inner, &f);
            let Some(axis) = (0..axes.len()).rev().find(|k| {
                // Those that have come to their end begin anew.
                at[*k] + 1 < axes[*k].extent || {
                    i -= at[*k] * axes[*k].a;
                    j -= at[*k] * axes[*k].b;
                    at[*k] = 0;
                    false
                }
            }) else {
                break;
            };
            at[axis] += 1;
            i += axes[axis].a;
            j += axes[axis].b;
        }
    }
    Array::new(shape, out)
}

/// One pass along the innermost axis.
fn run<A: Copy, B: Copy, C>(out: &mut Vec<C>, a: &[A], b: &[B], axis: Axis, f: impl Fn(A, B) -> C) {
    let n = axis.extent;
    match (axis.a, axis.b) {
        (1, 1) => out.extend(a[..n].iter().zip(&b[..n]).map(|(x, y)| f(*x, *y))),
        (1, 0) => {
            let y = b[0];
            out.extend(a[..n].iter().map(|x| f(*x, y)));
        }
        (0, 1) => {
            let x = a[0];
            out.extend(b[..n].iter().map(|y| f(x, *y)));
        }
        (i, j) => out.extend((0..n).map(|k| f(a[k * i], b[k * j]))),
    }
}

/// The elements under another shape that the array's broadcasts to.
///
/// # Errors
/// [`Fault::Shape`], [`Fault::TooLarge`].
pub fn expand<T: Copy>(a: &Array<T>, shape: Vec<usize>) -> Result<Array<T>, Fault> {
    let n = elements(&shape)?;
    zip(a, &Array::new(shape, vec![(); n])?, |x, ()| x)
}
