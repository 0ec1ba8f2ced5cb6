//! The executor's matrix product against faer's own parallel product on the same operands, at shapes of Qwen2-VL-2B. After the groups
//! one line per shape tells the ratio of their speeds, from runs of both in turn, so that a slow minute hits both alike.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use mquant_export::numeric::gemm::matmul_nt;

/// Rows, inner length and columns: a prompt with one image through the MLP and through attention, and one token through the MLP.
const SHAPES: [(usize, usize, usize); 3] = [(1088, 1536, 8960), (1088, 1536, 1536), (1, 1536, 8960)];
/// Time for the runs in turn of one shape.
const BUDGET: Duration = Duration::from_secs(10);
/// Pairs of runs of one shape.
const PAIRS: std::ops::RangeInclusive<usize> = 5..=400;

/// Operands of one product.
struct Operands {
    shape: (usize, usize, usize),
    a: Vec<f32>,
    b: Vec<f32>,
    out: Vec<f32>,
}

impl Operands {
    fn new(shape: (usize, usize, usize)) -> Self {
        let (n, k, m) = shape;
        Self { shape, a: numbers(n * k, 1), b: numbers(m * k, 2), out: vec![0.0; n * m] }
    }

    fn ours(&mut self) {
        matmul_nt(&mut self.out, &self.a, &self.b, self.shape);
        black_box(&self.out);
    }

    fn faer(&mut self) {
        let (n, k, m) = self.shape;
        let a = MatRef::from_row_major_slice(&self.a, n, k);
        let b = MatRef::from_row_major_slice(&self.b, m, k);
        let out = MatMut::from_row_major_slice_mut(&mut self.out, n, m);
        matmul(out, Accum::Replace, a, b.transpose(), 1.0, Par::rayon(0));
        black_box(&self.out);
    }
}

/// Numbers in [-0.5, 0.5), the same in every run.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn name((n, k, m): (usize, usize, usize)) -> String {
    format!("{n} x {k} x {m}")
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for shape in SHAPES {
        let (n, k, m) = shape;
        let mut operands = Operands::new(shape);
        group.throughput(Throughput::Elements(2 * (n * k * m) as u64));
        group.bench_function(BenchmarkId::new("ours", name(shape)), |b| b.iter(|| operands.ours()));
        group.bench_function(BenchmarkId::new("faer", name(shape)), |b| b.iter(|| operands.faer()));
    }
    group.finish();
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median over pairs of runs of the speed of ours over that of faer.
fn ratio(shape: (usize, usize, usize)) -> f64 {
    let mut operands = Operands::new(shape);
    operands.ours();
    let once = seconds(|| operands.faer());
    let pairs = ((BUDGET.as_secs_f64() / (2.0 * once)) as usize).clamp(*PAIRS.start(), *PAIRS.end());
    let mut ratios = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let ours = seconds(|| operands.ours());
        ratios.push(seconds(|| operands.faer()) / ours);
    }
    median(ratios)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    products(&mut criterion);
    criterion.final_summary();
    // `cargo test --benches` only asks whether the benchmark runs.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    for shape in SHAPES {
        println!("ratio ours/faer speed: {:.2} ({})", ratio(shape), name(shape));
    }
}
