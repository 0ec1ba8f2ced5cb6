//! Blocks of every type with GPTQ, importance and nearest rounding: what they cost, and what must hold for every matrix.

use proptest::prelude::*;

use super::*;
use crate::numeric::gptq::row_errors;
use crate::numeric::random::Random;
use crate::numeric::{FactorOptions, Hessian};

const GPTQ: [BlockRounding<'_>; 2] =
    [BlockRounding::Gptq { search: false }, BlockRounding::Gptq { search: true }];

fn normals(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Inputs whose neighbours are alike and whose sizes differ.
fn factor(n: usize, seed: u64) -> (Hessian, Factor) {
    let mut x = normals(3 * n * n, seed);
    for i in 1..x.len() {
        x[i] = (0.8 * x[i - 1] + 0.6 * x[i]) * if i % n % 11 == 3 { 2.0 } else { 1.0 };
    }
    let mut hessian = Hessian::new(n);
    hessian.add(&x, 1.0);
    let factor = Factor::new(&hessian, &FactorOptions::default()).unwrap();
    (hessian, factor)
}

fn quantized() -> impl Iterator<Item = BlockType> {
    BlockType::all().filter(|kind| kind.is_quantized())
}

#[test]
fn quality() {
    let (n, rows) = (512, 64);
    let (_, factor) = factor(n, 2);
    for (name, w) in [
        ("gauss", normals(rows * n, 1)),
        ("tails", normals(rows * n, 1).iter().map(|x| x * x.abs()).collect()),
    ] {
        for kind in quantized() {
            let ratio = |how| {
                let found = quantize_blocks(&w, (rows, n), kind, how, Some(&factor)).unwrap();
                found.error / found.nearest_error
            };
            let fit = fitted(&w, (rows, n), kind, factor.pivots()).unwrap();
            let nearest = reference(&w, (rows, n), kind, None).unwrap();
            let important = reference(&w, (rows, n), kind, Some(factor.pivots())).unwrap();
            let cost = |m: &BlockMatrix| -> f64 {
                m.errors(&w).iter().enumerate().map(|(i, e)| f64::from(e * e * factor.pivots()[i % n])).sum()
            };
            let imp = ratio(BlockRounding::Importance(factor.diagonal()));
            println!(
                "{name} {:6} gptq {:.4} searched {:.4} importance {:.4}; weighted cost of fitted {:.4}, of ggml's imatrix {:.4}",
                kind.name(),
                ratio(GPTQ[0]),
                ratio(GPTQ[1]),
                imp,
                cost(&fit) / cost(&nearest),
                cost(&important) / cost(&nearest)
            );
        }
    }
}
