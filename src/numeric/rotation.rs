//! Rotations: orthogonal matrices `Q` that spread outliers over all channels (QuaRot, Ashkboos et al. 2024; SpinQuant, Liu et al. 2024).
//! How they are drawn from a seed and applied to rows; nothing here knows which weights they belong to.
//!
//! Those made of a Hadamard matrix are the same bits on every platform and never stored densely. Random dense ones depend on the floating
//! point of the platform in the last bits (logarithms, vector width of the QR decomposition), but not on the number of threads.

use std::fmt;

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as reflect_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as reflect,
};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::{Conj, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::gemm::{matmul_nn_seq, matmul_nt_seq};
use super::hadamard::Hadamard;
use super::random::Random;

/// Rows that are multiplied by a dense matrix together.
const ROW_TILE: usize = 64;

/// An orthogonal matrix `Q` of order `n`, drawn from a seed: the same seed gives the same matrix. Rows are multiplied from the right:
/// `r Q`.
#[derive(Clone, Debug)]
pub struct Rotation {
    n: usize,
    mean_preserving: bool,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// `Q = D H / sqrt(n)`; `signs` is the diagonal of `D`.
    Hadamard { h: Hadamard, signs: Vec<f64> },
    /// `Q = H^T D H / n` with `H` normalised: symmetric.
    Conjugated { h: Hadamard, signs: Vec<f64> },
    /// `Q = (L (x) R) / sqrt(n)` with `L` and `R` normalised, of these orders.
    Online { h: Hadamard, left: usize, right: usize },
    /// `Q` itself, row-major.
    Dense(Vec<f64>),
}

impl Rotation {
    /// `Q = D H / sqrt(n)` with random signs on the diagonal of `D` (the randomised Hadamard matrix of QuaRot); all entries are
    /// `+-1/sqrt(n)`. None where no Hadamard matrix of order `n` is known here.
    pub fn hadamard(n: usize, seed: u64) -> Option<Self> {
        let h = Hadamard::of_order(n)?;
        let signs = signs(n, &mut Random::new(seed));
        Some(Self { n, mean_preserving: false, form: Form::Hadamard { h, signs } })
    }

    /// A random orthogonal matrix, all equally likely: the Q of the QR decomposition of a matrix of normal numbers, with R positive on its
    /// diagonal (Mezzadri, "How to generate random matrices from the classical compact groups", Notices AMS 54, 2007). Stored densely;
    /// takes about `3 n^3` operations on one thread (2 seconds for n = 3584).
    pub fn random(n: usize, seed: u64) -> Self {
        Self { n, mean_preserving: false, form: Form::Dense(random_orthogonal(n, seed)) }
    }

    /// A rotation with `Q 1 = 1` and `1^T Q = 1^T`: it keeps the mean of a row, so LayerNorm's subtraction of it commutes with `Q`.
    ///
    /// With a normalised Hadamard matrix `H` (first row and column all +1): `Q = H^T D H / n`, `D = diag(1, random signs)`. Row 0 of `H` is
    /// `1^T` and the others are orthogonal to it, so `H 1 = n e1`; `D e1 = e1`; `H^T e1` is row 0 of `H` as a column, `1`. Thus
    /// `Q 1 = H^T D n e1 / n = 1`. `Q` is symmetric, which gives the other half, and its own inverse. An entry is `1/n` times a sum of `n`
    /// signs, n - 1 of them random: about `1/sqrt(n)` in size.
    ///
    /// Where there is no Hadamard matrix: `Q = V diag(1, R) V`, `V` the symmetric reflection that exchanges `e1` and `1/sqrt(n)`, `R` a
    /// random orthogonal matrix of order `n - 1`: `V 1 = sqrt(n) e1`, which `diag(1, R)` keeps, and `V` brings back.
    pub fn mean_preserving(n: usize, seed: u64) -> Self {
        let form = match Hadamard::of_order(n) {
            Some(h) => {
                let mut signs = signs(n, &mut Random::new(seed));
                signs[0] = 1.0;
                Form::Conjugated { h: h.normalised(), signs }
            }
            None => Form::Dense(reflected(n, seed)),
        };
        Self { n, mean_preserving: true, form }
    }

    /// `Q = (L (x) R) / sqrt(left right)`, `L` and `R` the Hadamard matrices of these orders with first row and column all +1: no signs to
    /// store, and as two small products cheap enough to run with the model (QuaRot, arXiv 2404.00456 section 4.2). Column 0 is constant,
    /// so channel 0 of a row is `sqrt(n)` times its mean. None where one of the orders has no matrix here.
    pub fn online(left: usize, right: usize) -> Option<Self> {
        let [l, r] = [left, right].map(Hadamard::of_order);
        let h = Hadamard::kronecker(&l?.normalised(), &r?.normalised());
        Some(Self { n: left * right, mean_preserving: false, form: Form::Online { h, left, right } })
    }

    /// The orders of [`online`](Self::online), if it is such a rotation.
    pub fn online_factors(&self) -> Option<(usize, usize)> {
        match self.form {
            Form::Online { left, right, .. } => Some((left, right)),
            _ => None,
        }
    }

    /// Number of rows and of columns of `Q`.
    pub fn order(&self) -> usize {
        self.n
    }

    /// What it is, for reports: `hadamard 1280 = 64 x 20`, `random 1110`, `online hadamard 64`, with `mean-preserving` in front where it is.
    pub fn name(&self) -> String {
        self.to_string()
    }

    /// Whether `Q 1 = 1`.
    pub fn is_mean_preserving(&self) -> bool {
        self.mean_preserving
    }

    /// `r <- r Q` for every `n` consecutive values `r`; the length of `rows` is a multiple of `n`. Runs in parallel; the number of threads
    /// does not change a bit.
    pub fn right(&self, rows: &mut [f64]) {
        debug_assert!(self.n == 0 || rows.len().is_multiple_of(self.n));
        match &self.form {
            Form::Hadamard { h, signs } => {
                scale(rows, signs);
                h.apply(rows);
            }
            Form::Conjugated { h, signs } => {
                h.apply_transposed(rows);
                scale(rows, signs);
                h.apply(rows);
            }
            Form::Online { h, .. } => h.apply(rows),
            Form::Dense(q) => dense_product(rows, q, self.n, false),
        }
    }

    /// `r <- r Q^T` for every `n` consecutive values `r`: undoes [`right`](Self::right).
    pub fn right_transposed(&self, rows: &mut [f64]) {
        debug_assert!(self.n == 0 || rows.len().is_multiple_of(self.n));
        match &self.form {
            Form::Hadamard { h, signs } => {
                h.apply_transposed(rows);
                scale(rows, signs);
            }
            Form::Conjugated { .. } => self.right(rows),
            Form::Online { h, .. } => h.apply_transposed(rows),
            Form::Dense(q) => dense_product(rows, q, self.n, true),
        }
    }

    /// `Q`, row-major: `n^2` values, for tests and small orders.
    pub fn dense(&self) -> Vec<f64> {
        let mut q = identity(self.n);
        self.right(&mut q);
        q
    }
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mean_preserving {
            f.write_str("mean-preserving ")?;
        }
        match &self.form {
            Form::Hadamard { h, .. } | Form::Conjugated { h, .. } => write!(f, "hadamard {h}"),
            Form::Online { left: 1, right, .. } => write!(f, "online hadamard {right}"),
            Form::Online { left, right, .. } => write!(f, "online hadamard {} = {left} x {right}", self.n),
            Form::Dense(_) => write!(f, "random {}", self.n),
        }
    }
}

fn signs(n: usize, random: &mut Random) -> Vec<f64> {
    (0..n).map(|_| random.sign()).collect()
}

/// Every row times `factors`, element by element.
fn scale(rows: &mut [f64], factors: &[f64]) {
    rows.par_chunks_exact_mut(factors.len()).for_each(|row| {
        row.iter_mut().zip(factors).for_each(|(x, f)| *x *= f);
    });
}

fn identity(n: usize) -> Vec<f64> {
    let mut q = vec![0.0; n * n];
    q.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
    q
}

/// `rows <- rows Q` or `rows Q^T`, in tiles of rows whose bounds depend on the shape only.
fn dense_product(rows: &mut [f64], q: &[f64], n: usize, transposed: bool) {
    if n == 0 {
        return;
    }
    let q = MatRef::from_row_major_slice(q, n, n);
    rows.par_chunks_mut(ROW_TILE * n).for_each(|tile| {
        let input = tile.to_vec();
        let count = tile.len() / n;
        let input = MatRef::from_row_major_slice(&input, count, n);
        let out = MatMut::from_row_major_slice_mut(tile, count, n);
        if transposed { matmul_nt_seq(out, input, q) } else { matmul_nn_seq(out, input, q) }
    });
}

/// A random orthogonal matrix, row-major.
fn random_orthogonal(n: usize, seed: u64) -> Vec<f64> {
    if n == 0 {
        return vec![];
    }
    let mut random = Random::new(seed);
    let mut a = Mat::zeros(n, n);
    for j in 0..n {
        (0..n).for_each(|i| a[(i, j)] = random.normal());
    }
    let block = recommended_block_size::<f64>(n, n);
    let mut factors = Mat::zeros(block, n);
    let need = qr_in_place_scratch::<f64>(n, n, block, Par::Seq, Default::default())
        .or(reflect_scratch::<f64>(n, block, n));
    let mut memory = MemBuffer::new(need);
    let stack = MemStack::new(&mut memory);
    qr_in_place(a.as_mut(), factors.as_mut(), Par::Seq, stack, Default::default());
    let mut q = Mat::identity(n, n);
    reflect(a.as_ref(), factors.as_ref(), Conj::No, q.as_mut(), Par::Seq, stack);
    // The columns of Q take the signs of the diagonal of R.
    let sign: Vec<f64> = (0..n).map(|j| 1f64.copysign(a[(j, j)])).collect();
    (0..n * n).map(|k| q[(k / n, k % n)] * sign[k % n]).collect()
}

/// `V diag(1, R) V`, row-major.
fn reflected(n: usize, seed: u64) -> Vec<f64> {
    let mut q = identity(n);
    if n < 2 {
        return q;
    }
    let inner = random_orthogonal(n - 1, seed);
    for (row, from) in q[n..].chunks_exact_mut(n).zip(inner.chunks_exact(n - 1)) {
        row[1..].copy_from_slice(from);
    }
    // V = I - v v^T / c with v = e1 - 1/sqrt(n) and c = v^T v / 2 = 1 - 1/sqrt(n).
    let root = 1.0 / (n as f64).sqrt();
    let mut v = vec![-root; n];
    v[0] += 1.0;
    let c = 1.0 - root;
    // Q <- V Q: every column loses its part along v. The part is summed row by row, as Q lies in memory.
    let mut part = vec![0.0; n];
    for (row, v) in q.chunks_exact(n).zip(&v) {
        part.iter_mut().zip(row).for_each(|(p, x)| *p += v * x);
    }
    for (row, v) in q.chunks_exact_mut(n).zip(&v) {
        row.iter_mut().zip(&part).for_each(|(x, p)| *x -= v / c * p);
    }
    // Q <- Q V: the same for every row.
    for row in q.chunks_exact_mut(n) {
        let part: f64 = row.iter().zip(&v).map(|(x, v)| x * v).sum();
        row.iter_mut().zip(&v).for_each(|(x, v)| *x -= v / c * part);
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind, at orders with one factor, several, and none.
    fn kinds(seed: u64) -> Vec<Rotation> {
        let hadamard = [1, 2, 16, 12, 240, 172, 400].map(|n| Rotation::hadamard(n, seed).unwrap());
        let random = [1, 2, 3, 64, 130].map(|n| Rotation::random(n, seed));
        let mean = [1, 2, 3, 12, 30, 111, 256, 400, 172].map(|n| Rotation::mean_preserving(n, seed));
        let online = [(1, 64), (12, 12), (16, 20), (20, 16), (4, 4)];
        let online = online.map(|(left, right)| Rotation::online(left, right).unwrap());
        hadamard.into_iter().chain(random).chain(mean).chain(online).collect()
    }

    fn vector(n: usize) -> Vec<f64> {
        let mut random = Random::new(17);
        (0..n).map(|_| random.normal()).collect()
    }

    fn worst(a: impl IntoIterator<Item = f64>, b: impl IntoIterator<Item = f64>) -> f64 {
        a.into_iter().zip(b).fold(0.0, |m, (a, b)| m.max((a - b).abs()))
    }

    #[test]
    fn orthogonal_and_mean_preserving_to_rounding() {
        for q in kinds(5) {
            let n = q.order();
            let mut product = q.dense();
            q.right_transposed(&mut product);
            assert!(worst(product, identity(n)) < 1e-13, "{q}: Q Q^T");
            let dense = q.dense();
            let sums = dense.chunks(n).map(|row| row.iter().sum::<f64>());
            let kept = worst(sums, vec![1.0; n]) < 1e-13;
            assert!(kept || !q.is_mean_preserving(), "{q}: Q 1");
            let mut ones = vec![1.0; n];
            q.right(&mut ones);
            assert!(worst(ones, vec![1.0; n]) < 1e-13 || !q.is_mean_preserving(), "{q}: 1^T Q");
        }
    }

    #[test]
    fn products_are_those_of_the_dense_matrix() {
        for q in kinds(6) {
            let (n, dense) = (q.order(), q.dense());
            let rows = vector(70 * n);
            let (mut right, mut back) = (rows.clone(), rows.clone());
            q.right(&mut right);
            q.right_transposed(&mut back);
            for (at, row) in rows.chunks(n).enumerate() {
                let place = at * n..(at + 1) * n;
                let column = |j| (0..n).map(|i| row[i] * dense[i * n + j]).sum::<f64>();
                let line = |j| (0..n).map(|i| row[i] * dense[j * n + i]).sum::<f64>();
                assert!(worst(right[place.clone()].to_vec(), (0..n).map(column)) < 1e-13, "{q}: r Q");
                assert!(worst(back[place].to_vec(), (0..n).map(line)) < 1e-13, "{q}: r Q^T");
            }
            q.right_transposed(&mut right);
            assert!(worst(right, rows) < 1e-13, "{q}: there and back");
        }
    }

    #[test]
    fn a_seed_gives_one_matrix_at_any_thread_count() {
        let bits = |seed, threads| -> Vec<Vec<u64>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let dense = |q: &Rotation| q.dense().iter().map(|x| x.to_bits()).collect();
            pool.install(|| kinds(seed).iter().map(dense).collect())
        };
        let first = bits(7, 1);
        assert_eq!(first, bits(7, 5));
        for ((a, b), q) in first.iter().zip(bits(8, 2)).zip(kinds(7)) {
            let seeded = q.order() > 2 && q.online_factors().is_none();
            assert!(*a != b || !seeded, "{q}: two seeds, one matrix");
        }
    }

    #[test]
    fn one_outlier_is_spread_over_all_channels() {
        for seed in 0..4 {
            for q in kinds(seed).into_iter().filter(|q| q.order() >= 30) {
                // An entry is a sum of n random signs over n, or a coordinate of a random direction: normal with deviation 1/sqrt(n).
                // Six deviations are passed by two in 10^9. Where H is Q, all entries are 1/sqrt(n).
                let plain = q.name().starts_with("hadamard") || q.online_factors().is_some();
                let limit = if plain { 1.0 + 1e-12 } else { 6.0 } / (q.order() as f64).sqrt();
                assert!(q.dense().iter().all(|x| x.abs() <= limit), "{q}, seed {seed}");
            }
        }
    }

    #[test]
    fn large_orders_keep_the_mean_and_spread_an_outlier() {
        for n in [1280, 4096, 8960, 13696] {
            let q = Rotation::mean_preserving(n, 1);
            let mut rows = vec![1.0; 2 * n];
            rows[n..].fill(0.0);
            rows[n + n / 3] = 1.0;
            q.right(&mut rows);
            let (ones, outlier) = rows.split_at(n);
            assert!(ones.iter().all(|x| (x - 1.0).abs() < 1e-13), "{q}: 1^T Q");
            assert!(outlier.iter().all(|x| x.abs() <= 6.0 / (n as f64).sqrt()), "{q}: outlier");
            assert!((outlier.iter().sum::<f64>() - 1.0).abs() < 1e-13, "{q}: the mean of the outlier row");
        }
    }

    #[test]
    fn names_say_what_it_is() {
        let name = |q: Option<Rotation>| q.map(|q| q.name());
        assert_eq!(name(Rotation::hadamard(1280, 0)).as_deref(), Some("hadamard 1280 = 64 x 20"));
        assert_eq!(name(Rotation::hadamard(30, 0)), None);
        assert_eq!(name(Rotation::online(1, 64)).as_deref(), Some("online hadamard 64"));
        assert_eq!(name(Rotation::online(80, 112)).as_deref(), Some("online hadamard 8960 = 80 x 112"));
        assert_eq!(name(Rotation::online(3, 4)), None);
        assert_eq!(Rotation::random(30, 0).name(), "random 30");
        assert_eq!(Rotation::mean_preserving(30, 0).name(), "mean-preserving random 30");
        assert_eq!(Rotation::mean_preserving(24, 0).name(), "mean-preserving hadamard 24 = 2 x 12");
    }

    #[test]
    fn order_zero_is_empty() {
        let mut nothing: [f64; 0] = [];
        Rotation::random(0, 1).right(&mut nothing);
        assert!(Rotation::mean_preserving(0, 1).dense().is_empty() && Rotation::hadamard(0, 1).is_none());
    }
}
