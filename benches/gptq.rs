//! GPTQ of one large linear, stage by stage: the down projection of Qwen2-VL-2B. Each stage's speed is given as a share of faer's own parallel
//! product of square matrices in the same type, measured right before and after the stage, so that a slow minute hits both alike. Then the same
//! weights in ggml's blocks: ggml's rounding in gigabytes of float weights per second, and GPTQ against GPTQ on a grid of 4 bits, side by side.

use std::hint::black_box;
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use mquant_export::numeric::ggml::{BlockType, reference};
use mquant_export::numeric::grid::{Grid, nearest, scales};
use mquant_export::numeric::random::Random;
use mquant_export::numeric::rounding::{BlockRounding, Options, Rounding, quantize_blocks, quantize_matrix};
use mquant_export::numeric::{Factor, FactorOptions, Hessian, Real, gptq, row_errors};

/// Inputs, outputs and calibration rows of the linear.
const SHAPE: (usize, usize, usize) = (8960, 1536, 4096);
/// The same for `cargo test --benches`, which only asks whether the benchmark runs.
const SMALL: (usize, usize, usize) = (256, 40, 500);
/// Side of the square product that stands for faer's speed.
const SQUARE: usize = 2048;
/// Directions that the inputs vary in beside white noise.
const DIRECTIONS: usize = 64;

/// faer's product of square matrices, in floating-point operations per second.
struct Peak<T> {
    a: Vec<T>,
    out: Vec<T>,
    side: usize,
}

impl<T: Real> Peak<T> {
    fn new(side: usize) -> Self {
        let a = (0..side * side).map(|i| T::from_f64((i % 17) as f64 - 8.0)).collect();
        Self { a, out: vec![T::ZERO; side * side], side }
    }

    fn measure(&mut self) -> f64 {
        let n = self.side;
        let (taken, ()) = timed(|| {
            let a = MatRef::from_row_major_slice(&self.a, n, n);
            let out = MatMut::from_row_major_slice_mut(&mut self.out, n, n);
            matmul(out, Accum::Replace, a, a.transpose(), T::ONE, Par::rayon(0));
        });
        black_box(&self.out);
        2.0 * (n as f64).powi(3) / taken
    }
}

fn timed<R>(run: impl FnOnce() -> R) -> (f64, R) {
    let start = Instant::now();
    let result = run();
    (start.elapsed().as_secs_f64(), result)
}

/// Runs a stage of so many operations and prints its line.
fn stage<T: Real, R>(name: &str, operations: f64, peak: &mut Peak<T>, run: impl FnOnce() -> R) -> R {
    let before = peak.measure();
    let (seconds, result) = timed(run);
    let of_faer = (before + peak.measure()) / 2.0;
    let speed = operations / seconds;
    println!(
        "{name:<34} {seconds:>8.3} s {:>8.1} GFLOP/s {:>5.0} % of faer",
        speed / 1e9,
        100.0 * speed / of_faer
    );
    result
}

/// A stage without products.
fn plain<R>(name: &str, run: impl FnOnce() -> R) -> R {
    let (seconds, result) = timed(run);
    println!("{name:<34} {seconds:>8.3} s");
    result
}

/// Inputs that vary mostly in a few directions, as activations do.
fn inputs(rows: usize, n: usize, random: &mut Random) -> Vec<f32> {
    let mut numbers = |count| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
    let (mut x, left, right) = (numbers(rows * n), numbers(rows * DIRECTIONS), numbers(n * DIRECTIONS));
    let left = MatRef::from_row_major_slice(&left, rows, DIRECTIONS);
    let right = MatRef::from_row_major_slice(&right, n, DIRECTIONS);
    matmul(
        MatMut::from_row_major_slice_mut(&mut x, rows, n),
        Accum::Add,
        left,
        right.transpose(),
        0.5,
        Par::rayon(0),
    );
    x
}

/// ggml's blocks: speed of its rounding without and with importance, and GPTQ's time over that on a grid of 4 bits in blocks of 32.
fn blocks(w: &[f32], shape: (usize, usize), factor: &Factor) {
    let gptq = Options { rounding: Rounding::Gptq, search: true };
    let on_grid = || quantize_matrix(w, shape, Grid { bits: 4, block: Some(32) }, gptq, Some(factor)).is_ok();
    let bytes = size_of_val(w) as f64;
    for kind in BlockType::all().filter(|kind| kind.is_quantized() && kind.divides(shape.1)) {
        let (plain, _) = timed(|| black_box(reference(w, shape, kind, None)));
        let (weighted, _) = timed(|| black_box(reference(w, shape, kind, Some(factor.diagonal()))));
        let (before, _) = timed(on_grid);
        let (seconds, found) =
            timed(|| quantize_blocks(w, shape, kind, BlockRounding::Gptq { search: true }, Some(factor)));
        let (after, _) = timed(on_grid);
        match found {
            Ok(q) => println!(
                "{:<6} nearest {:>6.2} GB/s, importance {:>6.2} GB/s, GPTQ {seconds:>7.3} s ({:.2} of a grid's), error {:.3} of nearest",
                kind.name(),
                bytes / plain / 1e9,
                bytes / weighted / 1e9,
                2.0 * seconds / (before + after),
                q.error / q.nearest_error
            ),
            Err(error) => println!("{error}"),
        }
    }
}

fn main() {
    let test = std::env::args().any(|arg| arg == "--test" || arg == "--list");
    let (n, outputs, rows) = if test { SMALL } else { SHAPE };
    let side = if test { 64 } else { SQUARE };
    let (mut single, mut double) = (Peak::<f32>::new(side), Peak::<f64>::new(side));
    let mut random = Random::new(1);
    let x = inputs(rows, n, &mut random);
    let w: Vec<f32> = (0..outputs * n).map(|_| random.normal() as f32 * 0.02).collect();
    let (columns, out, samples) = (n as f64, outputs as f64, rows as f64);
    single.measure();
    double.measure();
    println!("{n} inputs, {outputs} outputs, {rows} rows, {} threads", rayon::current_num_threads());

    let mut hessian = Hessian::new(n);
    stage("Hessian (half of x^T x)", columns * columns * samples, &mut single, || hessian.add(&x, 1.0));
    let factored = stage("factor (n^3 / 3, in f64)", columns.powi(3) / 3.0, &mut double, || {
        Factor::new(&hessian, &FactorOptions::default())
    });
    let factor = match factored {
        Ok(factor) => factor,
        Err(error) => return println!("{error}"),
    };
    for grid in
        [Grid { bits: 8, block: None }, Grid { bits: 4, block: None }, Grid { bits: 4, block: Some(128) }]
    {
        println!("{grid:?}");
        let found = plain("  search of scales", || scales(&w, n, grid, Some(factor.pivots()), true));
        plain("  nearest rounding", || black_box(nearest(&w, n, grid, &found)));
        let work = out * columns * columns;
        stage("  GPTQ (half of E R)", work, &mut single, || {
            black_box(gptq(&w, &grid.lattice(&found, n), &factor))
        });
        stage("  errors of given codes (E R)", work, &mut single, || black_box(row_errors(&w, &factor)));
        let how = Options { rounding: Rounding::Gptq, search: true };
        let all = plain("  all together", || quantize_matrix(&w, (outputs, n), grid, how, Some(&factor)));
        match all {
            Ok(q) => println!(
                "  error of nearest rounding {:.4e}, of GPTQ {:.4e} (ratio {:.3}), {} rows kept nearest",
                q.nearest_error,
                q.error,
                q.error / q.nearest_error,
                q.rows_kept_nearest
            ),
            Err(error) => println!("{error}"),
        }
    }
    blocks(&w, (outputs, n), &factor);
}
