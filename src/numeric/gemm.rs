//! Matrix products through faer, cut into tiles of fixed size so that results do not depend on the number of threads.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::Real;

/// Rows of the result computed together. Every tile is one sequential faer product.
const ROW_TILE: usize = 256;
/// Columns of the result computed together.
const COL_TILE: usize = 256;

/// `out = a b^T`: `a` is `[n, k]`, `b` is `[m, k]`, `out` is `[n, m]`, all row-major. Tiles run in parallel; each element is computed by one
/// tile whose bounds depend on the shape only, so the same operands give the same bits at any thread count.
pub fn matmul_nt<T: Real>(out: &mut [T], a: &[T], b: &[T], (n, k, m): (usize, usize, usize)) {
    debug_assert!(a.len() == n * k && b.len() == m * k && out.len() == n * m);
    if out.is_empty() {
        return;
    }
    if k == 0 {
        return out.fill(T::ZERO);
    }
    let b = MatRef::from_row_major_slice(b, m, k);
    let a = MatRef::from_row_major_slice(a, n, k);
    tiles(out, (n, m), |rows, columns, out| {
        matmul_nt_seq(out, a.subrows(rows.start, rows.len()), b.subrows(columns.start, columns.len()));
    });
}

/// Calls `f` with every tile of a row-major `n x m` matrix: its rows, its columns, and the tile itself, tiles in parallel. Their bounds depend on the
/// shape only.
pub fn tiles<T: Real>(
    out: &mut [T],
    (n, m): (usize, usize),
    f: impl Fn(Range<usize>, Range<usize>, MatMut<'_, T>) + Sync,
) {
    debug_assert!(out.len() == n * m);
    out.par_chunks_mut((ROW_TILE * m).max(1)).enumerate().for_each(|(i, out)| {
        let (first, rows) = (i * ROW_TILE, out.len() / m);
        let out = MatMut::from_row_major_slice_mut(out, rows, m);
        out.par_col_chunks_mut(COL_TILE).enumerate().for_each(|(j, out)| {
            let columns = j * COL_TILE..j * COL_TILE + out.ncols();
            f(first..first + rows, columns, out);
        });
    });
}

/// `out = a b^T` for one tile on the calling thread; for callers that are parallel themselves.
pub fn matmul_nt_seq<T: Real>(out: MatMut<'_, T>, a: MatRef<'_, T>, b: MatRef<'_, T>) {
    matmul(out, Accum::Replace, a, b.transpose(), T::ONE, Par::Seq);
}

/// `out = a b` for one tile on the calling thread.
pub fn matmul_nn_seq<T: Real>(out: MatMut<'_, T>, a: MatRef<'_, T>, b: MatRef<'_, T>) {
    matmul(out, Accum::Replace, a, b, T::ONE, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f64> {
        let mut s = seed;
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((s >> 33) as f64 / f64::from(u32::MAX)) - 0.25
            })
            .collect()
    }

    #[test]
    fn agrees_with_the_definition_across_tile_edges() {
        for (n, k, m) in [(1, 1, 1), (3, 5, 7), (257, 33, 513), (256, 64, 256), (1, 100, 600), (600, 3, 1)] {
            let (a, b) = (numbers(n * k, 1), numbers(m * k, 2));
            let mut out = vec![f64::NAN; n * m];
            matmul_nt(&mut out, &a, &b, (n, k, m));
            for i in 0..n {
                for j in 0..m {
                    let want: f64 = (0..k).map(|t| a[i * k + t] * b[j * k + t]).sum();
                    // k sums of products below 1: rounding stays under k^2 eps.
                    let bound = (k * k) as f64 * f64::EPSILON;
                    assert!((out[i * m + j] - want).abs() <= bound, "{n}x{k}x{m} at {i},{j}");
                }
            }
        }
    }

    #[test]
    fn thread_count_does_not_change_a_bit() {
        let (n, k, m) = (300, 70, 700);
        let a: Vec<f32> = numbers(n * k, 3).into_iter().map(|x| x as f32).collect();
        let b: Vec<f32> = numbers(m * k, 4).into_iter().map(|x| x as f32).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0f32; n * m];
            pool.install(|| matmul_nt(&mut out, &a, &b, (n, k, m)));
            out
        };
        assert_eq!(run(1), run(5));
    }

    #[test]
    fn empty_operands_give_zeros_or_nothing() {
        let mut out = vec![1.0f32; 6];
        matmul_nt(&mut out, &[], &[], (2, 0, 3));
        assert_eq!(out, [0.0; 6]);
        matmul_nt::<f32>(&mut [], &[], &[0.0; 6], (0, 2, 3));
    }
}
