//! The twin of the trained fixture with planted outliers ([`planted`](crate::common::planted::planted)): it computes the same function, and plain W8A8 loses it.

use mquant_export::exec::Executor;
use mquant_export::quantize::recipe::Recipe;

use crate::common::agreement::divergence;
use crate::common::case::Case;
use crate::common::eval::{Score, TINY, answers, plain, samples};
use crate::common::fixture;
use crate::common::planted::{Planting, Site};

#[test]
fn the_twin_is_the_same_function_and_plain_w8a8_loses_it() {
    let samples = &samples("evaluation.tsv")[..128];
    let dir = tempfile::tempdir().unwrap();
    let natural = Case::open(&fixture(TINY));
    let float = natural.float(samples);
    let w8a8 = natural.by(&plain("w8a8"), samples).against(&float);
    println!("natural: w8a8 {w8a8}");
    assert!(w8a8.accuracy >= 0.99, "{w8a8}");

    let twin = Case::twin(dir.path(), &Planting::default());
    let same = twin.float(samples).against(&float);
    println!("twin:   float {same}");
    // A power of two: not one bit differs.
    assert!(same.worst == 0.0 && same.accuracy == float.accuracy(), "{same}");
    let lost = twin.by(&plain("w8a8"), samples).against(&float);
    println!("twin:    w8a8 {lost}");
    assert!(lost.kld >= 1e4 * w8a8.kld && lost.accuracy <= 0.8, "{lost}");
    let rotated = Recipe::load("w8a8").unwrap();
    for (name, case) in [("natural", &natural), ("twin", &twin)] {
        let kept = case.by(&rotated, samples).against(&float);
        println!("{name}: rotated w8a8 {kept}");
        // Rotated and smoothed, every answer is kept, and the twin is not much further off than the natural model is without.
        assert!(kept.accuracy >= 0.99 && kept.error <= 2.0 * w8a8.error, "{name}: {kept}");
    }

    let twin = Case::twin(dir.path(), &Planting { factor: 40.0, ..Planting::default() });
    let same = twin.float(samples).against(&float);
    println!("twin with factor 40: float {same}");
    assert!(same.worst <= 1e-5 && same.accuracy == float.accuracy(), "{same}");
}

#[test]
fn every_site_alone_keeps_the_function_and_hurts() {
    let samples = &samples("evaluation.tsv")[..64];
    let dir = tempfile::tempdir().unwrap();
    let natural = Case::open(&fixture(TINY));
    let float = natural.float(samples);
    let w8a8 = natural.by(&plain("w8a8"), samples).against(&float);
    for sites in [&[Site::Norms], &[Site::Values], &[Site::Up]] {
        let twin = Case::twin(dir.path(), &Planting { sites, ..Planting::default() });
        assert_eq!(twin.float(samples).against(&float).worst, 0.0, "{sites:?}");
        let lost = twin.by(&plain("w8a8"), samples).against(&float);
        println!("{sites:?}: w8a8 {lost}");
        assert!(lost.kld >= 10.0 * w8a8.kld && lost.error >= 1.5 * w8a8.error, "{sites:?}: {lost}; {w8a8}");
    }
}

/// One run over prompt and expected answer says what greedy decoding says, right answers or wrong ones.
#[test]
fn agreement_counts_as_greedy_decoding_does() {
    let samples = &samples("evaluation.tsv")[..64];
    let dir = tempfile::tempdir().unwrap();
    let twin = Case::twin(dir.path(), &Planting::default());
    let made = twin.quantize(&plain("w8a8"));
    let mut score = Score::default();
    let answers = made.with_weights(&twin.weights(), |weights| {
        let exec = Executor::keeping(&made.quantized.model, weights);
        answers(&exec, &twin.preparer, &twin.resolved, samples)
    });
    samples.iter().zip(&answers).for_each(|(s, a)| score.add(s, a));
    let accuracy = twin.quantized(&made, samples).accuracy();
    assert!(accuracy > 0.1 && accuracy < 0.9, "{accuracy}: shows nothing");
    assert_eq!(accuracy, score.of("all"));
    // 0.5 ln(0.5 / 0.75) + 0.5 ln(0.5 / 0.25)
    assert!((divergence(&[0.0, 0.0], &[3f32.ln(), 0.0]) - 0.5 * (4.0f64 / 3.0).ln()).abs() < 1e-7);
}

/// Remakes the table at [`Planting`].
#[test]
#[ignore = "takes minutes; prints the numbers by which the defaults were chosen"]
fn table_of_factors_and_channels() {
    let samples = &samples("evaluation.tsv")[..128];
    let dir = tempfile::tempdir().unwrap();
    let float = Case::open(&fixture(TINY)).float(samples);
    for channels in [1, 2, 4, 8] {
        for factor in [8.0, 16.0, 32.0, 64.0, 128.0] {
            let twin = Case::twin(dir.path(), &Planting { factor, channels, ..Planting::default() });
            let same = twin.float(samples).against(&float).worst;
            let w8a8 = twin.by(&plain("w8a8"), samples).against(&float);
            println!("{factor} x {channels}: float {same:.1e} | w8a8 {w8a8}");
        }
    }
}
