//! Rotary tables and rotations.

use mquant_export::graph::Sym;
use mquant_export::graph::ops::{RopeScaling, Rotary, RotaryTable};
use mquant_export::graph::spec::RotaryLayout;

use super::case::{Case, Random, Want, doubles, float, int, single};
use super::check;

const TOKENS: [Option<Sym>; 2] = [Some(Sym::Batch), Some(Sym::Sequence)];

/// Positions of two prompts of four tokens.
fn positions(largest: usize, random: &mut Random) -> Vec<i64> {
    (0..8).map(|_| random.below(largest + 1) as i64).collect()
}

/// `1 / base^(2k / dim)` in f64.
fn frequencies(base: f64, dim: usize) -> Vec<f64> {
    (0..dim / 2).map(|k| (-(2.0 * k as f64 / dim as f64) * base.ln()).exp()).collect()
}

/// The table of plain base `theta` over `axes` position rows, with the length as an operand where it is scaled; `base` is the one wanted.
fn table(
    (theta, dim): (f64, usize),
    positions: &[i64],
    scaling: Option<(RopeScaling, i64)>,
    base: f64,
) -> Case {
    let inv_freq: Vec<f32> = frequencies(theta, dim).into_iter().map(|f| f as f32).collect();
    let op = RotaryTable { axis: vec![0; dim / 2], inv_freq, scaling: scaling.map(|s| s.0) };
    let mut inputs = vec![int(&[2, 4], positions, &TOKENS)];
    inputs.extend(scaling.map(|(_, length)| int(&[1], &[length], &[None])));
    let angle = |p: &i64| frequencies(base, dim).into_iter().map(move |f| f * *p as f64).collect::<Vec<_>>();
    let angles: Vec<f64> = positions.iter().flat_map(angle).collect();
    let part = |f: fn(f64) -> f64| Want::Floats(vec![2, 4, dim / 2], angles.iter().map(|&a| f(a)).collect());
    let name = format!("RotaryTable {scaling:?}");
    let mut case = single(&name, inputs, vec![], |_| op.into(), vec![part(f64::cos), part(f64::sin)]);
    // The angle is rounded to f32 three times: base, frequency, product; the power multiplies the first by at most its exponent.
    case.tolerance = 4.0 * f64::from(f32::EPSILON) * *positions.iter().max().unwrap() as f64;
    case
}

#[test]
fn one_axis_of_positions_needs_no_axis() {
    let mut random = Random(10);
    check(&[table((1e4, 16), &positions(500, &mut random), None, 1e4)]);
}

#[test]
fn the_base_grows_with_the_length() {
    let mut random = Random(11);
    let (theta, dim, factor) = (1e6, 128, 2.0);
    let dynamic = RopeScaling::Dynamic { theta, dim, factor, max_positions: 2048 };
    let mut cases = vec![];
    for length in [1, 2048, 2049, 5000, 32768] {
        let ratio = (factor * length as f64 / 2048.0 - factor + 1.0).max(1.0);
        let base = theta * (ratio.ln() * dim as f64 / (dim as f64 - 2.0)).exp();
        let positions = positions(length as usize, &mut random);
        cases.push(table((theta, dim), &positions, Some((dynamic, length)), base));
    }
    check(&cases);
}

#[test]
fn the_base_doubles_exactly_behind_a_power_of_the_length() {
    let mut random = Random(12);
    let (theta, dim, train_length) = (1e4, 128, 1000);
    let powers = RopeScaling::DynamicPowers { theta, dim, train_length };
    let mut cases = vec![];
    for (length, a) in
        [(1, 1), (500, 1), (1000, 1), (1001, 3), (2000, 3), (2001, 7), (4000, 7), (8000, 15), (8001, 31)]
    {
        let base = theta * (f64::from(a).ln() * dim as f64 / (dim as f64 - 2.0)).exp();
        let positions = positions(length as usize, &mut random);
        cases.push(table((theta, dim), &positions, Some((powers, length)), base));
    }
    // Far beyond any prompt, at the ends of the table.
    for n in [20, 21] {
        let a = 2f64.powi(n + 1) - 1.0;
        let base = theta * (a.ln() * dim as f64 / (dim as f64 - 2.0)).exp();
        let length = (train_length as i64) << n;
        cases.push(table((theta, dim), &positions(100, &mut random), Some((powers, length)), base));
    }
    check(&cases);
}

fn rotation(op: Rotary, random: &mut Random) -> Case {
    let (half, width) = (op.rotary_dim / 2, op.heads * op.head_dim);
    let (x, cos, sin) =
        (random.tensor(&[2, 5, width]), random.tensor(&[2, 5, half]), random.tensor(&[2, 5, half]));
    let (cosines, sines) = (doubles(&cos), doubles(&sin));
    let mut want = doubles(&x);
    for (row, head) in (0..10).flat_map(|r| (0..op.heads).map(move |h| (r, h))) {
        for k in 0..half {
            let (i, j) = if op.layout == RotaryLayout::Half { (k, k + half) } else { (2 * k, 2 * k + 1) };
            let at = row * width + head * op.head_dim;
            let (a, b) = (want[at + i], want[at + j]);
            let (c, s) = (cosines[row * half + k], sines[row * half + k]);
            (want[at + i], want[at + j]) = (a * c - b * s, a * s + b * c);
        }
    }
    let symbols = [TOKENS[0], TOKENS[1], None];
    let inputs = vec![float(&x, &symbols), float(&cos, &symbols), float(&sin, &symbols)];
    single(&format!("{op:?}"), inputs, vec![], |_| op.into(), vec![Want::Floats(vec![2, 5, width], want)])
}

#[test]
fn whole_and_partial_rotations_in_both_layouts() {
    let mut random = Random(13);
    let mut cases = vec![];
    for layout in [RotaryLayout::Half, RotaryLayout::Interleaved] {
        for (heads, head_dim, rotary_dim) in [(3, 8, 8), (3, 8, 4), (1, 10, 6), (2, 6, 2)] {
            cases.push(rotation(Rotary { heads, head_dim, rotary_dim, layout }, &mut random));
        }
    }
    check(&cases);
}
