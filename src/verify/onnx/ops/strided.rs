//! Copies of elements that lie at regular distances: transposition, slices, and the order in which reductions want their operands.

/// An axis of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Elements along it.
    pub extent: usize,
    /// Distance of two neighbours among the elements copied from.
    pub step: isize,
}

/// Distances of neighbours along each axis of an array of `shape`.
pub fn steps(shape: &[usize]) -> Vec<isize> {
    let mut steps = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        steps[i - 1] = steps[i] * shape[i] as isize;
    }
    steps
}

/// The elements at `first` plus multiples of the steps, last axis fastest. All of them lie inside `data`.
pub fn copy<T: Copy>(data: &[T], first: isize, axes: &[Axis]) -> Vec<T> {
    let n: usize = axes.iter().map(|a| a.extent).product();
    let mut out = Vec::with_capacity(n);
    if n == 0 {
        return out;
    }
    let mut axes = joined(axes);
    let inner = axes.pop().unwrap_or(Axis { extent: 1, step: 1 });
    let (mut at, mut place) = (vec![0; axes.len()], first);
    loop {
        if inner.step == 1 {
            out.extend_from_slice(&data[place as usize..place as usize + inner.extent]);
        } else {
            out.extend((0..inner.extent as isize).map(|k| data[(place + k * inner.step) as usize]));
        }
        let Some(axis) = (0..axes.len()).rev().find(|k| {
            at[*k] + 1 < axes[*k].extent || {
                place -= at[*k] as isize * axes[*k].step;
                at[*k] = 0;
                false
            }
        }) else {
            return out;
        };
        at[axis] += 1;
        place += axes[axis].step;
    }
}

/// Axes without those of length 1, neighbours that lie without a gap joined.
fn joined(axes: &[Axis]) -> Vec<Axis> {
    let mut found = Vec::<Axis>::new();
    for axis in axes.iter().rev().filter(|a| a.extent != 1) {
        match found.last_mut() {
            Some(inner) if axis.step == inner.extent as isize * inner.step => inner.extent *= axis.extent,
            _ => found.push(*axis),
        }
    }
    found.reverse();
    found
}
