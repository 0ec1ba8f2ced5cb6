//! Where the numbers of a role are in a checkpoint, and how they are read from there: whole tensors, row ranges of fused tensors, axes in
//! another order, tables resized.

use crate::checkpoint::TensorRef;
use crate::numeric::bicubic::resize_table;

/// Where the numbers of a role are. Reading: order the axes, see the result as a matrix, take rows, resize them as a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Tensor name in the checkpoint.
    pub tensor: String,
    /// Order of the stored axes; empty when they stay.
    pub permute: Vec<usize>,
    /// Rows of the matrix.
    pub rows: RowSet,
    /// Elements per row.
    pub row_len: usize,
    /// Sides of a square table before and after it is resized.
    pub resize: Option<[usize; 2]>,
    /// Canonical shape: the first axis, and all others flattened.
    pub shape: Vec<usize>,
}

/// Rows of a fused tensor: `count` rows from `start` on, again every `stride` rows, `groups` times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowSet {
    /// First row of the first group.
    pub start: usize,
    /// Rows per group.
    pub count: usize,
    /// Groups.
    pub groups: usize,
    /// Rows from the begin of one group to the next.
    pub stride: usize,
}

impl RowSet {
    /// Rows in all.
    pub fn total(&self) -> usize {
        self.count * self.groups
    }

    fn starts(self) -> impl Iterator<Item = usize> {
        (0..self.groups).map(move |g| self.start + g * self.stride)
    }
}

impl Binding {
    /// Decodes the numbers of the role from its tensor, as f32.
    ///
    /// # Errors
    /// Those of reading the tensor.
    pub fn read(&self, tensor: &TensorRef<'_>) -> Result<Vec<f32>, crate::checkpoint::CheckpointError> {
        let mut out = vec![0.0f32; self.rows.total() * self.row_len];
        let each = self.rows.count * self.row_len;
        if self.permute.is_empty() {
            for (group, start) in self.rows.starts().enumerate() {
                tensor.read_f32_into(start * self.row_len, &mut out[group * each..(group + 1) * each])?;
            }
        } else {
            let mut whole = vec![0.0f32; tensor.shape().iter().product()];
            tensor.read_f32_into(0, &mut whole)?;
            let whole = permuted(&whole, tensor.shape(), &self.permute);
            for (group, start) in self.rows.starts().enumerate() {
                let from = start * self.row_len;
                out[group * each..(group + 1) * each].copy_from_slice(&whole[from..from + each]);
            }
        }
        Ok(match self.resize {
            Some([from, to]) if from != to => resize_table(&out, [from, from], [to, to], self.row_len),
            _ => out,
        })
    }
}

/// The elements of a tensor of `shape` with its axes in the given order.
fn permuted(data: &[f32], shape: &[usize], order: &[usize]) -> Vec<f32> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let axes: Vec<(usize, usize)> = order.iter().map(|&a| (shape[a], strides[a])).collect();
    let mut index = vec![0; axes.len()];
    let mut at = 0;
    let mut out = Vec::with_capacity(data.len());
    for _ in 0..data.len() {
        out.push(data[at]);
        // The last axis turns fastest; a full turn of one axis moves the one before it.
        for (i, &(extent, stride)) in index.iter_mut().zip(&axes).rev() {
            *i += 1;
            at += stride;
            if *i < extent {
                break;
            }
            at -= extent * stride;
            *i = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::permuted;

    #[test]
    fn axes_are_put_in_order() {
        let data: Vec<f32> = (0..6).map(|x| x as f32).collect();
        assert_eq!(permuted(&data, &[2, 3], &[1, 0]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let data: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let moved = permuted(&data, &[2, 3, 2, 2], &[0, 2, 3, 1]);
        for (i, x) in moved.iter().enumerate() {
            let (o, kh, kw, c) = (i / 12, i / 6 % 2, i / 3 % 2, i % 3);
            assert_eq!(*x, (o * 12 + c * 4 + kh * 2 + kw) as f32);
        }
    }
}
