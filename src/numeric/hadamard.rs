//! Hadamard matrices: square matrices `H` of signs with `H H^T = n I`, built by construction and applied without being stored.
//!
//! An order `n` is taken apart into a power of two and base orders: `H` is the Kronecker product of Sylvester's matrix and the bases. Base
//! orders are multiples of 4 up to [`LARGEST_BASE`]: `q + 1` and `2 (q + 1)` for prime powers `q` (Paley), and 92, 116, 172, 428 from four
//! sequences. Of the multiples of 4 below 512 these have no matrix here, though mathematics knows one for each: 156, 188, 236, 260, 268,
//! 292, 324, 356, 372, 376, 404, 412, 436, 452, 472, 476, 508. No order that is not 1, 2 or a multiple of 4 has one.
//!
//! Everything is sums of floats in a fixed order and one product by a square root, so results are the same bits on every platform and at
//! any number of threads.

mod paley;
mod sequences;

use std::fmt;

use rayon::prelude::*;

/// Largest base matrix that is built. Applying a base of order m costs m operations per element, and the base itself is stored.
pub const LARGEST_BASE: usize = 1024;

/// A Hadamard matrix of order `n`: `S (x) B1 (x) B2 (x) ..` with `S` Sylvester's matrix, whose entry (i, j) is -1 to the number of common
/// ones of i and j in binary.
#[derive(Clone, Debug)]
pub struct Hadamard {
    n: usize,
    /// Order of the Sylvester factor: a power of two.
    sylvester: usize,
    bases: Vec<Base>,
}

/// Largest order that [`factors`] leaves whole. Below, one product is faster than two, though it has more operations: measured on ONNX Runtime (two
/// cores, 1088 x 8960), of order 64 in 9.8 ms against 32 as 8 x 8, of 128 in 17.7 against 32 as 8 x 16; of 256 in 32 against 24 as 16 x 16.
pub const LARGEST_SINGLE: usize = 128;

/// The orders `(left, right)` of the Kronecker product by which a rotation of `n` channels is computed while a model runs: a row costs `left + right`
/// products per channel. The whole order, `(1, n)`, up to [`LARGEST_SINGLE`]; above, the pair with the least sum, the smaller order on the left.
/// None where no Hadamard matrix of order `n` can be built of two.
pub fn factors(n: usize) -> Option<(usize, usize)> {
    if n <= LARGEST_SINGLE && Hadamard::exists(n) {
        return Some((1, n));
    }
    let pairs = (1..=n.isqrt()).filter(|left| n.is_multiple_of(*left)).map(|left| (left, n / left));
    let mut known = pairs.filter(|&(left, right)| Hadamard::exists(left) && Hadamard::exists(right));
    // The largest left order has the least sum.
    known.next_back()
}

/// The orders of at least 2 that divide `n` and have [`factors`], ascending: the possible blocks of `n` channels.
pub fn blocks(n: usize) -> Vec<usize> {
    (2..=n).filter(|block| n.is_multiple_of(*block) && factors(*block).is_some()).collect()
}

/// A dense matrix of signs and its transpose, row-major, as floats because they are only ever multiplied.
#[derive(Clone, Debug)]
struct Base {
    order: usize,
    rows: Vec<f64>,
    cols: Vec<f64>,
}

/// How a base matrix is built.
#[derive(Clone, Copy, Debug)]
enum Construction {
    /// Paley's first, from the field of so many elements.
    PaleyFirst(usize),
    /// Paley's second.
    PaleySecond(usize),
    /// Four sequences, for the order.
    Sequences(usize),
}

impl Construction {
    fn of(order: usize) -> Option<Self> {
        if order < 4 || !order.is_multiple_of(4) {
            return None;
        }
        let (one, two) = (order - 1, order / 2 - 1);
        if paley::prime_power(one).is_some() {
            Some(Self::PaleyFirst(one))
        } else if two % 4 == 1 && paley::prime_power(two).is_some() {
            Some(Self::PaleySecond(two))
        } else {
            sequences::ORDERS.contains(&order).then_some(Self::Sequences(order))
        }
    }

    fn build(self) -> Option<Base> {
        let matrix = match self {
            Self::PaleyFirst(q) => paley::first(q),
            Self::PaleySecond(q) => paley::second(q),
            Self::Sequences(order) => sequences::matrix(order),
        }?;
        Some(Base::new(matrix.len(), |i, j| f64::from(matrix[i][j])))
    }
}

impl Base {
    fn new(order: usize, entry: impl Fn(usize, usize) -> f64) -> Self {
        let at = |k: usize| (k / order, k % order);
        let rows = (0..order * order).map(at).map(|(i, j)| entry(i, j)).collect();
        let cols = (0..order * order).map(at).map(|(i, j)| entry(j, i)).collect();
        Self { order, rows, cols }
    }

    fn entry(&self, i: usize, j: usize) -> f64 {
        self.rows[i * self.order + j]
    }

    /// Rows and columns times signs so that the first of each is all +1; `H H^T` stays.
    fn normalised(&self) -> Self {
        let corner = self.entry(0, 0);
        Self::new(self.order, |i, j| self.entry(i, j) * self.entry(i, 0) * self.entry(0, j) * corner)
    }

    /// `x <- x (I (x) B (x) I_stride)` for the whole row `x`; `scratch` is as long as one block.
    fn apply(&self, x: &mut [f64], stride: usize, transposed: bool, scratch: &mut [f64]) {
        let (rows, cols) = if transposed { (&self.cols, &self.rows) } else { (&self.rows, &self.cols) };
        let block = self.order * stride;
        let scratch = &mut scratch[..block];
        for x in x.chunks_exact_mut(block) {
            scratch.fill(0.0);
            if stride == 1 {
                for (row, &x) in rows.chunks_exact(self.order).zip(&*x) {
                    add_scaled(scratch, row, x);
                }
            } else {
                for (out, col) in scratch.chunks_exact_mut(stride).zip(cols.chunks_exact(self.order)) {
                    x.chunks_exact(stride).zip(col).for_each(|(x, &sign)| add_scaled(out, x, sign));
                }
            }
            x.copy_from_slice(scratch);
        }
    }
}

/// `out += scale x`.
fn add_scaled(out: &mut [f64], x: &[f64], scale: f64) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += scale * x);
}

impl Hadamard {
    /// A Hadamard matrix of order `n`, or none where no construction is known here. It is the same matrix on every call. Of the possible
    /// products the one that is applied fastest is taken: the sum of the base orders is least.
    pub fn of_order(n: usize) -> Option<Self> {
        let (_, mut orders) = plan(n, LARGEST_BASE)?;
        orders.reverse();
        let sylvester = n / orders.iter().product::<usize>();
        let bases = orders.iter().map(|&m| Construction::of(m)?.build()).collect::<Option<_>>()?;
        Some(Self { n, sylvester, bases })
    }

    /// Whether [`of_order`](Self::of_order) has a matrix of order `n`. Builds nothing.
    pub fn exists(n: usize) -> bool {
        plan(n, LARGEST_BASE).is_some()
    }

    /// `left (x) right`: entry `(i, j)` is `left[i / n][j / n] right[i % n][j % n]` with `n` the order of `right`.
    #[must_use]
    pub fn kronecker(left: &Self, right: &Self) -> Self {
        let mut product = Self { n: left.n * right.n, ..left.clone() };
        if left.bases.is_empty() {
            // Sylvester's matrices are Kronecker powers of one matrix, so their product is one of them.
            product.sylvester *= right.sylvester;
        } else if right.sylvester > 1 {
            let sign = |i: usize, j: usize| if (i & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
            product.bases.push(Base::new(right.sylvester, sign));
        }
        product.bases.extend(right.bases.iter().cloned());
        product
    }

    /// The matrix with the signs of rows and columns changed so that its first row and its first column are all +1.
    #[must_use]
    pub fn normalised(&self) -> Self {
        // The first row of a Kronecker product is the product of the first rows; Sylvester's matrix is normalised already.
        Self { bases: self.bases.iter().map(Base::normalised).collect(), ..*self }
    }

    /// Number of rows and of columns.
    pub fn order(&self) -> usize {
        self.n
    }

    /// Entry in row `i` and column `j` (both below the order): 1 or -1.
    pub fn entry(&self, i: usize, j: usize) -> i8 {
        let (mut i, mut j, mut sign) = (i, j, 1.0);
        for base in self.bases.iter().rev() {
            sign *= base.entry(i % base.order, j % base.order);
            (i, j) = (i / base.order, j / base.order);
        }
        if (i & j).count_ones() % 2 == 1 {
            sign = -sign;
        }
        if sign > 0.0 { 1 } else { -1 }
    }

    /// `r <- r H / sqrt(n)` for every `n` consecutive values `r`; the length of `rows` is a multiple of `n`. Costs per value the sum of the
    /// base orders and the logarithm of the Sylvester factor. Rows run in parallel.
    pub fn apply(&self, rows: &mut [f64]) {
        self.apply_either(rows, false);
    }

    /// `r <- r H^T / sqrt(n)` for every `n` consecutive values `r`: undoes [`apply`](Self::apply).
    pub fn apply_transposed(&self, rows: &mut [f64]) {
        self.apply_either(rows, true);
    }

    fn apply_either(&self, rows: &mut [f64], transposed: bool) {
        debug_assert!(rows.len().is_multiple_of(self.n));
        let scale = 1.0 / (self.n as f64).sqrt();
        rows.par_chunks_exact_mut(self.n).for_each_init(
            || vec![0.0; self.n / self.sylvester],
            |scratch, row| {
                self.butterflies(row);
                let mut stride = 1;
                for base in self.bases.iter().rev() {
                    base.apply(row, stride, transposed, scratch);
                    stride *= base.order;
                }
                row.iter_mut().for_each(|x| *x *= scale);
            },
        );
    }

    /// `x <- x (S (x) I)`: sums and differences, one level per factor `[1 1; 1 -1]`. Symmetric.
    fn butterflies(&self, x: &mut [f64]) {
        let mut half = self.n / self.sylvester;
        while half < self.n {
            for pair in x.chunks_exact_mut(2 * half) {
                let (a, b) = pair.split_at_mut(half);
                a.iter_mut().zip(b).for_each(|(a, b)| (*a, *b) = (*a + *b, *a - *b));
            }
            half *= 2;
        }
    }
}

/// `1280 = 64 x 20`: the order and its factors as they stand in the Kronecker product, the Sylvester factor first.
impl fmt::Display for Hadamard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sylvester = Some(self.sylvester).filter(|&s| s > 1 || self.bases.is_empty());
        let factors = sylvester.into_iter().chain(self.bases.iter().map(|b| b.order));
        let factors: Vec<String> = factors.map(|m| m.to_string()).collect();
        match factors.as_slice() {
            [_] => write!(f, "{}", self.n),
            factors => write!(f, "{} = {}", self.n, factors.join(" x ")),
        }
    }
}

/// Base orders, none above `largest` and each not above the one before, whose product divides `n` and leaves a power of two, with the
/// least sum; and that sum with the levels of butterflies.
fn plan(n: usize, largest: usize) -> Option<(usize, Vec<usize>)> {
    let sylvester = n.is_power_of_two().then(|| (n.trailing_zeros() as usize, vec![]));
    let with_base = |m: usize| {
        Construction::of(m).filter(|_| n.is_multiple_of(m) && !m.is_power_of_two())?;
        let (cost, mut rest) = plan(n / m, m)?;
        rest.insert(0, m);
        Some((cost + m, rest))
    };
    let bases = (12..=largest.min(n)).step_by(4).filter(|m| n.is_multiple_of(*m)).filter_map(with_base);
    sylvester.or_else(|| bases.min())
}

#[cfg(test)]
mod tests;
