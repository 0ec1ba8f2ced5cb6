//! Channels rotated by online Hadamard products and taken one by one.

use mquant_export::graph::Sym;
use mquant_export::graph::ops::{Hadamard, TakeChannel};
use mquant_export::numeric::hadamard;
use mquant_export::numeric::hadamard::factors;

use super::case::{Case, Random, Want, doubles, float, rows, single};
use super::check;

/// `sum over l, r of x[l, r] L[l, l'] R[r, r'] / sqrt(n)` in every run of `left * right` channels.
fn rotated((left, right): (usize, usize), channels: usize, random: &mut Random) -> Case {
    let x = random.tensor(&[2, 5, channels]);
    let [l, r] = [left, right].map(|n| hadamard::Hadamard::of_order(n).unwrap().normalised());
    let n = left * right;
    let entry = |i: usize, j: usize| {
        let sign = l.entry(i / right, j / right) * r.entry(i % right, j % right);
        f64::from(sign) / (n as f64).sqrt()
    };
    let mut want = vec![];
    for run in doubles(&x).chunks(n) {
        want.extend((0..n).map(|j| (0..n).map(|i| run[i] * entry(i, j)).sum::<f64>()));
    }
    let batched = [Some(Sym::Batch), Some(Sym::Sequence), None];
    let name = format!("Hadamard {left} x {right} of {channels}");
    let want = vec![Want::Floats(vec![2, 5, channels], want)];
    single(&name, vec![float(&x, &batched)], vec![], |_| Hadamard { left, right }.into(), want)
}

#[test]
fn hadamard_products_rotate_every_run_of_channels() {
    let mut random = Random(21);
    // One factor and two, one run and several, orders of Sylvester and of Paley; blocks of the fixtures' down projections.
    let mut pairs =
        vec![((1, 4), 12), ((1, 12), 12), ((1, 20), 60), ((4, 12), 96), ((12, 20), 240), ((2, 2), 4)];
    pairs.extend([64, 232, 256, 288, 320].map(|n| (factors(n).unwrap(), n)));
    let cases: Vec<Case> = pairs.into_iter().map(|(f, n)| rotated(f, n, &mut random)).collect();
    check(&cases);
}

#[test]
fn one_channel_is_taken() {
    let mut random = Random(22);
    let x = random.tensor(&[1, 9, 7]);
    let values = doubles(&x);
    let take = |channel: usize| {
        let want = values.iter().skip(channel).step_by(7).copied().collect();
        let want = vec![Want::Floats(vec![1, 9, 1], want)];
        let op = TakeChannel { channel };
        single(&format!("{op:?}"), vec![rows(&x, Sym::Patches)], vec![], |_| op.into(), want)
    };
    check(&[take(0), take(3), take(6)]);
}
