//! Observers on activations: counting values into a histogram, row by row as calibration does, and choosing a quantizer from one.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use mquant_export::calibrate::observe::{Histogram, RangeRule};
use mquant_export::numeric::random::Random;

/// Values of one run: 1024 rows of the width of Qwen2-VL-2B.
const ROWS: usize = 1024;
const WIDTH: usize = 1536;

/// Normal values, each thousandth a hundred times as large.
fn activations() -> Vec<f32> {
    let mut r = Random::new(1);
    (0..ROWS * WIDTH).map(|i| r.normal() as f32 * if i % 1000 == 0 { 100.0 } else { 1.0 }).collect()
}

fn seen(values: &[f32]) -> Histogram {
    let mut h = Histogram::default();
    values.chunks(WIDTH).for_each(|row| h.row(row));
    h
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    let mut group = c.benchmark_group("histogram");
    group.throughput(Throughput::Elements((ROWS * WIDTH) as u64));
    for (name, values) in [("activations", activations()), ("zeros", vec![0.0; ROWS * WIDTH])] {
        group.bench_function(name, |b| b.iter(|| seen(black_box(&values))));
    }
    group.finish();
    let h = seen(&activations());
    let mut group = c.benchmark_group("least squares");
    group.bench_function("symmetric", |b| b.iter(|| black_box(&h).symmetric(RangeRule::Mse)));
    group.bench_function("asymmetric", |b| b.iter(|| black_box(&h).asymmetric(RangeRule::Mse)));
    group.finish();
    c.final_summary();
}
