//! Histograms against the raw values: known answers, what merging must not change, and clips against the best found by trying them all.

use proptest::prelude::*;
use rayon::prelude::*;

use super::{Histogram, ModalityHistogram, Quantizer, RangeRule, is_worth_a_zero_point};
use crate::numeric::erf;
use crate::numeric::grid::symmetric_scale;
use crate::numeric::random::Random;

fn seen(values: &[f32]) -> Histogram {
    let mut h = Histogram::default();
    h.add(values);
    h
}

/// Mean squared error on the values themselves.
fn true_error(values: &[f32], q: &Quantizer) -> f64 {
    let scale = f64::from(q.scale);
    let (low, high) = (-128.0 - f64::from(q.zero), 127.0 - f64::from(q.zero));
    let square = |x: &f32| {
        let t = f64::from(*x) / scale;
        (t - t.clamp(low, high).round_ties_even()).powi(2)
    };
    values.iter().map(square).sum::<f64>() / values.len() as f64 * scale * scale
}

const NAMES: [&str; 4] = ["normal", "laplace", "gelu", "silu x up"];

/// Values of a distribution as layers have them; each 2000th times `outlier`.
fn draw(name: &str, count: usize, outlier: f32) -> Vec<f32> {
    let mut r = Random::new(count as u64);
    let mut one = || match name {
        "normal" => r.normal(),
        "laplace" => (1.0 - r.uniform()).ln() * if r.uniform() < 0.5 { 1.0 } else { -1.0 },
        "gelu" => {
            let x = 2.0 * r.normal();
            x * 0.5 * (1.0 + erf(x / 2f64.sqrt()))
        }
        _ => {
            let (gate, up) = (2.0 * r.normal(), 2.0 * r.normal());
            gate / (1.0 + (-gate).exp()) * up
        }
    };
    (0..count).map(|i| one() as f32 * if i % 2000 == 7 { outlier } else { 1.0 }).collect()
}

/// Least true error of a clip, over 14 powers of two below the largest value, 64 clips each.
fn best_symmetric(values: &[f32]) -> f64 {
    let largest = f64::from(values.iter().fold(0f32, |m, x| m.max(x.abs())));
    let at = |i: u32| Quantizer::symmetric((largest * (-f64::from(i) / 64.0).exp2()) as f32);
    (0..14 * 64).into_par_iter().map(|i| true_error(values, &at(i))).reduce(|| f64::INFINITY, f64::min)
}

/// Least true error of a range: all pairs of clips 2 to a power of two, then all pairs around the best, twice.
fn best_asymmetric(values: &[f32]) -> f64 {
    let low = f64::from(values.iter().fold(0f32, |m, x| m.min(*x)));
    let high = f64::from(values.iter().fold(0f32, |m, x| m.max(*x)));
    let part = |x: f64, e: f64| (x * (-e.max(0.0)).exp2()) as f32;
    let mut best = (f64::INFINITY, 5.0, 5.0);
    for (reach, step) in [(5.0f64, 0.5f64), (0.75, 0.125), (0.1875, 0.03125)] {
        let n = (2.0 * reach / step) as i32 + 1;
        let at = |i: i32, j: i32| {
            let (a, b) = (best.1 + f64::from(i) * step - reach, best.2 + f64::from(j) * step - reach);
            (true_error(values, &Quantizer::between(part(low, a), part(high, b))), a, b)
        };
        let rows: Vec<_> = (0..n).into_par_iter().flat_map_iter(|i| (0..n).map(move |j| at(i, j))).collect();
        best = rows.into_iter().fold(best, |m, c| if c.0 < m.0 { c } else { m });
    }
    best.0
}

#[test]
fn mse_finds_a_clip_as_good_as_the_best_on_the_raw_values() {
    for name in NAMES {
        for outlier in [1.0, 10.0, 100.0, 1000.0] {
            let values = draw(name, 20_000, outlier);
            let h = seen(&values);
            let symmetric = Quantizer { scale: h.symmetric(RangeRule::Mse), zero: 0 };
            let asymmetric = h.asymmetric(RangeRule::Mse);
            for (q, best) in [(symmetric, best_symmetric(&values)), (asymmetric, best_asymmetric(&values))] {
                let found = true_error(&values, &q);
                // Measured: at most 1.0020.
                assert!(found < 1.005 * best, "{name} x{outlier} {q:?}: {found} against {best}");
                // Measured: 0.991 to 1.003. Ten outliers are not uniform in their bins.
                let expected = h.error(&q) / found;
                assert!(
                    (expected - 1.0).abs() < 0.02,
                    "{name} x{outlier} {q:?}: {expected} of the true error"
                );
            }
        }
    }
}

#[test]
fn known_errors_of_single_values() {
    let one = Quantizer { scale: 1.0, zero: 0 };
    for (x, error) in [(0.0, 0.0), (0.5, 0.25), (-3.25, 0.0625), (137.0, 100.0), (-130.0, 4.0), (7.0, 0.0)] {
        assert_eq!(seen(&[x]).error(&one), error, "{x}");
    }
    let shifted = Quantizer { scale: 0.5, zero: -100 };
    // Codes -128..=127 stand for -14 to 113.5.
    for (x, error) in [(113.5, 0.0), (114.5, 1.0), (-14.0, 0.0), (-16.0, 4.0), (0.25, 0.0625)] {
        assert_eq!(seen(&[x]).error(&shifted), error, "{x}");
    }
    assert_eq!(Histogram::default().error(&one), 0.0);
}

#[test]
fn evenly_spread_values_have_a_twelfth_of_a_squared_step() {
    let values: Vec<f32> = (0..=100_000).map(|i| i as f32 / 1000.0 - 50.0).collect();
    let h = seen(&values);
    let step = f64::from(h.symmetric(RangeRule::MinMax));
    let error = h.error(&Quantizer { scale: step as f32, zero: 0 });
    // Measured: 2e-5, of values that stand on a lattice of their own.
    assert!((error / (step * step / 12.0) - 1.0).abs() < 1e-4, "{error}");
    for percent in [1.0, 10.0, 50.0, 99.0, 99.99] {
        let clip = 127.0 * f64::from(h.symmetric(RangeRule::Percentile(percent)));
        // Measured: 1e-3 at 1 %, where the values are 1/500 apart; 1e-4 above.
        assert!((clip / (percent / 2.0) - 1.0).abs() < 2e-3, "{percent} %: {clip}");
    }
}

#[test]
fn extremes_are_exact_and_count_per_modality() {
    let mut h = ModalityHistogram::default();
    assert_eq!((h.visual.min(), h.visual.max(), h.visual.abs_max()), (0.0, 0.0, 0.0));
    h.row(true, &[-3.1, 2.0, 0.5]);
    h.row(true, &[1.0, 1.5, 0.1]);
    h.row(false, &[4.0, 5.0, 6.0]);
    assert_eq!((h.visual.min(), h.visual.max(), h.visual.abs_max()), (-3.1, 2.0, 3.1));
    assert_eq!((h.visual.rows(), h.visual.count(), h.text.rows()), (2, 6, 1));
    let mut twice = h.clone();
    twice.merge(&h);
    assert_eq!((twice.text.min(), twice.text.max(), twice.text.rows()), (4.0, 6.0, 2));
    let whole = twice.whole();
    assert_eq!((whole.visual.max, whole.visual.rows, whole.text.max), (3.1, 4, 6.0));
}

#[test]
fn values_that_are_not_finite_are_not_forgotten() {
    for odd in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::NEG_INFINITY] {
        let mut h = seen(&[1.0, odd]);
        h.add(&[2.0; 5000]);
        let mut other = seen(&[3.0]);
        other.merge(&h);
        for h in [h, other] {
            assert!(!h.is_finite() && h.abs_max().is_nan() && h.min().is_nan() && h.max().is_nan(), "{odd}");
            for rule in [RangeRule::MinMax, RangeRule::Mse, RangeRule::Percentile(99.0)] {
                assert_eq!((h.symmetric(rule), h.asymmetric(rule).scale), (1.0, 1.0), "{odd} {rule}");
            }
        }
    }
    assert!(seen(&[f32::MAX, f32::MIN, 0.0, -0.0, 1e-45]).is_finite());
}

#[test]
fn merging_in_any_order_and_on_any_threads_is_the_same() {
    let values = draw("silu x up", 50_000, 100.0);
    let mut whole = Histogram::default();
    values.chunks(48).for_each(|row| whole.row(row));
    for (threads, rows) in [(1, 1), (2, 7), (5, 100)] {
        let part = |rows: &[f32]| {
            let mut h = Histogram::default();
            rows.chunks(48).for_each(|row| h.row(row));
            h
        };
        let merged = |mut a: Histogram, b: Histogram| {
            a.merge(&b);
            a
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let parts =
            pool.install(|| values.par_chunks(48 * rows).map(part).reduce(Histogram::default, merged));
        assert_eq!(parts, whole, "{threads} threads");
        let backwards = values.chunks(48 * rows).rev().map(part).fold(Histogram::default(), merged);
        assert_eq!(backwards, whole, "backwards");
    }
    // The sign of a zero that is an extreme must not tell the order either.
    let signs = |zeros: [f32; 2]| [seen(&zeros).min(), seen(&zeros).max()].map(f32::to_bits);
    assert_eq!(signs([0.0, -0.0]), signs([-0.0, 0.0]));
}

#[test]
fn a_percentile_of_zeros_is_no_scale() {
    let mut values = vec![0.0; 10_000];
    values[17] = 12.7;
    let rule = RangeRule::Percentile(99.0);
    assert_eq!(seen(&values).symmetric(rule), symmetric_scale(12.7));
    assert_eq!(seen(&values).asymmetric(rule), Quantizer::between(0.0, 12.7));
    assert_eq!(seen(&[0.0; 9]).symmetric(rule), 1.0);
}

#[test]
fn a_zero_point_is_taken_where_it_pays() {
    assert!(is_worth_a_zero_point(1.3, 1.0, 1.25) && !is_worth_a_zero_point(1.2, 1.0, 1.25));
    assert!(!is_worth_a_zero_point(0.0, 0.0, 1.25));
    for rule in [RangeRule::MinMax, RangeRule::Mse, RangeRule::Percentile(99.9)] {
        let normal = seen(&draw("normal", 20_000, 1.0));
        let expected = Quantizer { scale: normal.symmetric(rule), zero: 0 };
        assert_eq!(normal.quantizer(rule, 1.25), expected, "{rule}");
        let gelu = seen(&draw("gelu", 20_000, 1.0));
        assert_eq!(gelu.quantizer(rule, 1.25), gelu.asymmetric(rule), "{rule}");
        // Nearly half the levels of the symmetric one are of no use here, so its error is up to four times as large.
        let ratio = gelu.error(&Quantizer::symmetric(127.0 * gelu.symmetric(rule)))
            / gelu.error(&gelu.asymmetric(rule));
        assert!((2.0..4.0).contains(&ratio), "{rule}: {ratio}");
    }
}

proptest! {
    #[test]
    fn min_max_is_the_scale_of_the_largest_value(values in prop::collection::vec(-1e6f32..1e6, 0..300)) {
        let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
        let h = seen(&values);
        prop_assert_eq!(h.symmetric(RangeRule::MinMax).to_bits(), symmetric_scale(largest).to_bits());
        prop_assert_eq!(h.symmetric(RangeRule::Percentile(100.0)).to_bits(), symmetric_scale(largest).to_bits());
    }

    #[test]
    fn percentiles_rise_to_the_exact_largest_value(
        values in prop::collection::vec(-100f32..100.0, 1..300),
        (a, b) in (0.1f64..100.0, 0.1f64..100.0),
    ) {
        let h = seen(&values);
        let scale = |percent: f64| h.symmetric(RangeRule::Percentile(percent));
        prop_assert!(scale(a.min(b)) <= scale(a.max(b)));
        prop_assert!(scale(a.max(b)) <= h.symmetric(RangeRule::MinMax));
    }

    #[test]
    fn quantizers_of_any_values_are_sound(values in prop::collection::vec(prop::num::f32::ANY, 0..40), percent in 0.1f64..=100.0) {
        let h = seen(&values);
        for rule in [RangeRule::MinMax, RangeRule::Mse, RangeRule::Percentile(percent)] {
            let symmetric = h.symmetric(rule);
            let q = h.asymmetric(rule);
            prop_assert!(symmetric.is_normal() && symmetric > 0.0 && q.scale.is_normal() && q.scale > 0.0);
            prop_assert_eq!(q.value(q.code(0.0)), 0.0);
            prop_assert!(h.error(&q) >= 0.0);
        }
    }

    #[test]
    fn least_squares_are_no_worse_than_the_whole_range(values in prop::collection::vec(-1e3f32..1e3, 1..200)) {
        let h = seen(&values);
        let symmetric = |rule| h.error(&Quantizer { scale: h.symmetric(rule), zero: 0 });
        let asymmetric = |rule| h.error(&h.asymmetric(rule));
        // The whole range is one of the candidates, so there is nothing to tolerate.
        prop_assert!(symmetric(RangeRule::Mse) <= symmetric(RangeRule::MinMax));
        prop_assert!(asymmetric(RangeRule::Mse) <= asymmetric(RangeRule::MinMax));
    }
}
