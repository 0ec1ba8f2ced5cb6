//! Cholesky factorisation in f64, in blocks of fixed size so that the result does not depend on the number of threads.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltError, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::reborrow::{IntoConst, Reborrow, ReborrowMut};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::triangle::Triangle;

/// Rows that one task updates.
const STRIP: usize = 128;

/// Replaces the lower triangle of a symmetric matrix `A` by the lower triangular `L` with `A = L L^T`. Left-looking: each block column takes the
/// products of all columns before it at once, then is divided by its diagonal block.
///
/// Returns the index of the first row where `A` turned out not to be positive definite, or not finite.
pub(super) fn cholesky(a: &mut Triangle<f64>) -> Result<(), usize> {
    for b in 0..a.blocks() {
        let mut blocks = a.blocks_from_mut(b).into_iter();
        let Some((range, own)) = blocks.next() else { break };
        let own = MatMut::from_row_major_slice_mut(own, range.len(), range.end);
        let (left, mut diagonal) = own.split_at_col_mut(range.start);
        let left = left.into_const();
        diagonal.rb_mut().par_row_chunks_mut(STRIP).enumerate().for_each(|(s, strip)| {
            let strip = strip.subcols_mut(0, range.len().min((s + 1) * STRIP));
            subtract(strip, left.subrows(s * STRIP, (range.len() - s * STRIP).min(STRIP)), left);
        });
        let factor = small(diagonal.rb()).map_err(|i| range.start + i)?;
        write_lower(diagonal, &factor);
        blocks.collect::<Vec<_>>().into_par_iter().for_each(|(rows, block)| {
            let block = MatMut::from_row_major_slice_mut(block, rows.len(), rows.end);
            block.par_row_chunks_mut(STRIP).for_each(|strip| {
                let (before, rest) = strip.split_at_col_mut(range.start);
                let mut panel = rest.subcols_mut(0, range.len());
                subtract(panel.rb_mut(), before.rb(), left);
                solve_lower_triangular_in_place(factor.as_ref(), panel.transpose_mut(), Par::Seq);
            });
        });
    }
    Ok(())
}

/// `out -= rows columns^T`, with as many of `columns` as `out` has columns.
fn subtract(out: MatMut<'_, f64>, rows: MatRef<'_, f64>, columns: MatRef<'_, f64>) {
    let columns = columns.subrows(0, out.ncols());
    if rows.ncols() > 0 {
        matmul(out, Accum::Add, rows, columns.transpose(), -1.0, Par::Seq);
    }
}

/// The factor of one diagonal block on the calling thread, in the column order that faer's kernels want.
fn small(block: MatRef<'_, f64>) -> Result<Mat<f64>, usize> {
    let mut factor = block.to_owned();
    let n = factor.nrows();
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default()));
    let stack = MemStack::new(&mut memory);
    let done = cholesky_in_place(factor.as_mut(), Default::default(), Par::Seq, stack, Default::default());
    match done {
        Err(LltError::NonPositivePivot { index }) => Err(index),
        // A NaN on the diagonal compares as neither positive nor not.
        Ok(_) => (0..n).find(|i| !factor[(*i, *i)].is_normal()).map_or(Ok(factor), Err),
    }
}

fn write_lower(mut block: MatMut<'_, f64>, factor: &Mat<f64>) {
    for i in 0..factor.nrows() {
        for j in 0..=i {
            block[(i, j)] = factor[(i, j)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_that_is_not_positive_definite_is_named() {
        for (n, bad) in [(3, 1), (300, 299), (600, 256)] {
            for value in [-1.0, 0.0, f64::NAN] {
                let mut a = Triangle::zeros(n);
                for (range, block) in a.blocks_mut() {
                    for i in range.clone() {
                        block[(i - range.start) * range.end + i] = if i == bad { value } else { 4.0 };
                    }
                }
                assert_eq!(cholesky(&mut a), Err(bad), "{n}: {value}");
            }
        }
    }
}
