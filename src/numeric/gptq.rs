//! GPTQ (arXiv 2210.17323) with the lattice of all columns given: which codes the weights of a linear get so that the error of its outputs, not
//! of its weights, is small. See [`Factor`] for the formulation. Rows are independent; a chunk of them is kept transposed, so that a column of
//! the chunk is contiguous and everything but the products is a loop over rows.

use faer::linalg::matmul::matmul;
use faer::traits::pulp::{Arch, Simd, WithSimd};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::factor::Factor;
use super::lattice::{Lattice, nearest_code};
use super::triangle::BLOCK;

/// Rows rounded together.
const ROWS: usize = 128;
/// Columns below which errors are carried on column by column instead of by products.
const LEAF: usize = 16;

/// The codes of rows of weights `w` (row-major, as many columns as the factor), row-major in the same order, and the error of each row:
/// `e H e^T` without the damping.
///
/// Column by column in the order of the factor, `q_j = round(w_j + (sum_{i<j} e_i R[i,j]) / R[j,j])` with the errors `e_i = w_i - q_i` of the
/// columns before it: the value of the lattice that makes column `j` of `e R` smallest.
pub fn gptq(w: &[f32], lattice: &Lattice, factor: &Factor) -> (Vec<i8>, Vec<f64>) {
    let n = factor.channels();
    let mut codes = vec![0; w.len()];
    let mut errors = vec![0.0; w.len() / n.max(1)];
    let chunks = codes.par_chunks_mut((ROWS * n).max(1)).zip(errors.par_chunks_mut(ROWS)).enumerate();
    chunks.for_each(|(c, (codes, errors))| {
        let first = c * ROWS;
        let mut chunk = Chunk::new(&w[first * n..][..codes.len()], lattice, first, factor);
        chunk.round();
        chunk.write(codes, errors);
    });
    (codes, errors)
}

/// `e H e^T` without the damping for each row of weight errors `e`, row-major.
pub fn row_errors(e: &[f32], factor: &Factor) -> Vec<f64> {
    let n = factor.channels();
    let chunks = e.par_chunks((ROWS * n).max(1));
    chunks.flat_map_iter(|e| chunk_errors(&transposed(e, factor), e.len() / n, factor)).collect()
}

fn chunk_errors(e: &[f32], rows: usize, factor: &Factor) -> Vec<f64> {
    let mut errors = Errors::new(rows);
    let mut product = vec![0.0; BLOCK * rows];
    for b in 0..factor.transposed.blocks() {
        let range = factor.transposed.range(b);
        let block = MatRef::from_row_major_slice(factor.transposed.block(b), range.len(), range.end);
        let product = &mut product[..range.len() * rows];
        let out = MatMut::from_row_major_slice_mut(product, range.len(), rows);
        let before = MatRef::from_row_major_slice(&e[..range.end * rows], range.end, rows);
        matmul(out, Accum::Replace, block, before, 1.0, Par::Seq);
        let columns =
            product.chunks(LEAF * rows).zip(e[range.start * rows..range.end * rows].chunks(LEAF * rows));
        columns.for_each(|(d, e)| errors.add(d, e));
    }
    errors.raw(factor.lambda())
}

/// The rows `w` as columns: row `j` of the result is column `order[j]` of `w`.
fn transposed(w: &[f32], factor: &Factor) -> Vec<f32> {
    let n = factor.channels();
    let rows = w.len() / n;
    let mut out = vec![0.0; w.len()];
    for (r, w) in w.chunks(n).enumerate() {
        for (out, column) in out.chunks_mut(rows).zip(factor.order()) {
            out[r] = w[*column];
        }
    }
    out
}

/// Sums of squares per row: of the columns of `e R` and of the errors themselves.
struct Errors {
    damped: Vec<f64>,
    plain: Vec<f64>,
    sums: Vec<f32>,
}

impl Errors {
    fn new(rows: usize) -> Self {
        Self { damped: vec![0.0; rows], plain: vec![0.0; rows], sums: vec![0.0; rows] }
    }

    /// Adds some columns, each a slice of all rows: `d` of `e R`, `e` of errors. Few columns are summed in f32 before they go to the f64 sums.
    #[inline(always)]
    fn add(&mut self, d: &[f32], e: &[f32]) {
        for (columns, totals) in [(d, &mut self.damped), (e, &mut self.plain)] {
            self.sums.fill(0.0);
            for column in columns.chunks(totals.len()) {
                self.sums.iter_mut().zip(column).for_each(|(s, x)| *s += x * x);
            }
            totals.iter_mut().zip(&self.sums).for_each(|(t, s)| *t += f64::from(*s));
        }
    }

    /// Weighted errors without the damping's share; rounding may leave it a hair below zero.
    fn raw(&self, lambda: f64) -> Vec<f64> {
        self.damped.iter().zip(&self.plain).map(|(d, p)| (d - lambda * p).max(0.0)).collect()
    }
}

/// A chunk of rows while it is rounded; all matrices have one row per column of the weights, in the order of the factor.
struct Chunk<'a> {
    factor: &'a Factor,
    rows: usize,
    /// Lowest and highest code.
    codes_in: (f32, f32),
    group: usize,
    w: Vec<f32>,
    /// Steps of the lattice, one slice of all rows per group of columns.
    steps: Vec<f32>,
    /// The same for offsets, where there are any.
    offsets: Option<Vec<f32>>,
    /// Of columns not rounded yet what the errors before them add to `e R`; of rounded columns their errors.
    x: Vec<f32>,
    codes: Vec<i8>,
    errors: Errors,
    /// Columns of `e R` of the leaf at work.
    terms: Vec<f32>,
}

impl<'a> Chunk<'a> {
    fn new(w: &[f32], lattice: &Lattice, first: usize, factor: &'a Factor) -> Self {
        let n = factor.channels();
        let rows = w.len() / n;
        let groups = lattice.groups(n);
        let columns = |values: &[f32]| {
            let values = &values[first * groups..][..rows * groups];
            (0..groups * rows).map(|i| values[i % rows * groups + i / rows]).collect::<Vec<f32>>()
        };
        Self {
            factor,
            rows,
            codes_in: (f32::from(lattice.lowest), f32::from(lattice.highest)),
            group: lattice.group,
            w: transposed(w, factor),
            steps: columns(&lattice.steps),
            offsets: lattice.offsets.as_deref().map(columns),
            x: vec![0.0; w.len()],
            codes: vec![0; w.len()],
            errors: Errors::new(rows),
            terms: vec![0.0; LEAF * rows],
        }
    }

    /// Rounds all columns. Errors reach a block of columns by one product over all columns before it, then by halves within the block.
    fn round(&mut self) {
        let arch = Arch::new();
        for b in 0..self.factor.transposed.blocks() {
            let range = self.factor.transposed.range(b);
            self.carry(b, 0..range.start, range.clone());
            self.halves(arch, b, range);
        }
    }

    fn halves(&mut self, arch: Arch, b: usize, range: std::ops::Range<usize>) {
        if range.len() <= LEAF {
            return arch.dispatch(Leaf { chunk: self, range });
        }
        let middle = range.start + (range.len() / 2).next_multiple_of(LEAF);
        self.halves(arch, b, range.start..middle);
        self.carry(b, range.start..middle, middle..range.end);
        self.halves(arch, b, middle..range.end);
    }

    /// Adds to the columns `to` of block row `b` what the errors of the columns `from` contribute to `e R`.
    fn carry(&mut self, b: usize, from: std::ops::Range<usize>, to: std::ops::Range<usize>) {
        if from.is_empty() {
            return;
        }
        let range = self.factor.transposed.range(b);
        let block = MatRef::from_row_major_slice(self.factor.transposed.block(b), range.len(), range.end);
        let block = block.submatrix(to.start - range.start, from.start, to.len(), from.len());
        let (before, rest) = self.x.split_at_mut(to.start * self.rows);
        let errors = &before[from.start * self.rows..from.end * self.rows];
        let errors = MatRef::from_row_major_slice(errors, from.len(), self.rows);
        let out = &mut rest[..to.len() * self.rows];
        let out = MatMut::from_row_major_slice_mut(out, to.len(), self.rows);
        matmul(out, Accum::Add, block, errors, 1.0, Par::Seq);
    }

    /// Rounds a few columns one after the other.
    #[inline(always)]
    fn leaf(&mut self, range: std::ops::Range<usize>) {
        let rows = self.rows;
        for (t, j) in range.clone().enumerate() {
            let column = self.factor.column(j);
            let (before, rest) = self.x.split_at_mut(j * rows);
            let x = &mut rest[..rows];
            for (e, r) in before[range.start * rows..].chunks_exact(rows).zip(&column[range.start..j]) {
                x.iter_mut().zip(e).for_each(|(x, e)| *x += e * r);
            }
            let first = self.factor.order()[j] / self.group * rows;
            let line = Line {
                pivot: column[j],
                codes_in: self.codes_in,
                w: &self.w[j * rows..][..rows],
                steps: &self.steps[first..][..rows],
            };
            let (codes, terms) = (&mut self.codes[j * rows..][..rows], &mut self.terms[t * rows..][..rows]);
            match &self.offsets {
                None => line.round(x, codes, terms),
                Some(offsets) => line.round_with(&offsets[first..][..rows], x, codes, terms),
            }
        }
        let e = &self.x[range.start * rows..range.end * rows];
        self.errors.add(&self.terms[..range.len() * rows], e);
    }

    /// Puts the codes back into the order of the columns.
    fn write(&self, codes: &mut [i8], errors: &mut [f64]) {
        for (r, codes) in codes.chunks_mut(self.factor.channels()).enumerate() {
            for (column, own) in self.factor.order().iter().zip(self.codes.chunks_exact(self.rows)) {
                codes[*column] = own[r];
            }
        }
        errors.copy_from_slice(&self.errors.raw(self.factor.lambda()));
    }
}

/// A call of [`Chunk::leaf`]: a closure might not be inlined where the widest vectors are.
struct Leaf<'a, 'b> {
    chunk: &'a mut Chunk<'b>,
    range: std::ops::Range<usize>,
}

impl WithSimd for Leaf<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.chunk.leaf(self.range);
    }
}

/// One column of a chunk.
struct Line<'a> {
    pivot: f32,
    codes_in: (f32, f32),
    w: &'a [f32],
    steps: &'a [f32],
}

impl Line<'_> {
    /// Rounds the column. `x` comes in as what the errors before add to `e R` and goes out as the column's own errors; `terms` gets `e R`.
    #[inline(always)]
    fn round(&self, x: &mut [f32], codes: &mut [i8], terms: &mut [f32]) {
        let inverse = self.pivot.recip();
        let values = x.iter_mut().zip(codes).zip(terms).zip(self.w.iter().zip(self.steps));
        for (((x, code), term), (w, step)) in values {
            let rounded = nearest_code((w + *x * inverse) / step, self.codes_in);
            let e = w - rounded * step;
            *term = *x + e * self.pivot;
            *x = e;
            *code = rounded as i8;
        }
    }

    /// The same on a lattice with offsets.
    #[inline(always)]
    fn round_with(&self, offsets: &[f32], x: &mut [f32], codes: &mut [i8], terms: &mut [f32]) {
        let inverse = self.pivot.recip();
        let lattice = self.steps.iter().zip(offsets);
        let values = x.iter_mut().zip(codes).zip(terms).zip(self.w.iter().zip(lattice));
        for (((x, code), term), (w, (step, offset))) in values {
            let rounded = nearest_code((w + *x * inverse - offset) / step, self.codes_in);
            let e = w - (rounded * step + offset);
            *term = *x + e * self.pivot;
            *x = e;
            *code = rounded as i8;
        }
    }
}

#[cfg(test)]
mod tests;
