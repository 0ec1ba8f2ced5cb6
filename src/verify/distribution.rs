//! From rows of logits to distributions: what every runner that sees logits does with them.

use super::runner::Distribution;

/// Natural logarithms of the probabilities that `softmax` gives a row of logits, accumulated in `f64`; as long as `row`.
pub fn log_softmax(row: &[f32]) -> Vec<f32> {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    let log_sum = sum.ln() + max;
    row.iter().map(|x| (f64::from(*x) - log_sum) as f32).collect()
}

/// The distribution of the next token of every row of `logits`, each `vocabulary` long.
pub fn distributions(logits: &[f32], vocabulary: usize) -> Vec<Distribution> {
    logits.chunks_exact(vocabulary.max(1)).map(|row| Distribution::Full(log_softmax(row))).collect()
}

/// The most likely token of a row of logits; the lowest id among equals, 0 for an empty row.
pub fn best(row: &[f32]) -> i64 {
    let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).fold(0, better) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_of_the_softmax() {
        let found = log_softmax(&[0.0, 3.0f32.ln()]);
        // Exact values rounded to f32 once: a unit in the last place.
        assert!(
            (found[0] - 0.25f32.ln()).abs() < 2e-7 && (found[1] - 0.75f32.ln()).abs() < 2e-7,
            "{found:?}"
        );
        // Far from zero, where exponentials overflow f32, and with tokens that cannot come.
        let found = log_softmax(&[1000.0, 1000.0, f32::NEG_INFINITY]);
        assert_eq!(found[0], found[1]);
        assert!((found[0] - 0.5f32.ln()).abs() < 2e-7 && found[2] == f32::NEG_INFINITY, "{found:?}");
        let wide: Vec<f32> = (0..10_000).map(|i| (i % 97) as f32 / 7.0).collect();
        let total: f64 = log_softmax(&wide).iter().map(|l| f64::from(*l).exp()).sum();
        // Each logarithm is off by half a unit in the last place of numbers around 15: 5e-7.
        assert!((total - 1.0).abs() < 1e-6, "{total}");
    }

    #[test]
    fn rows_and_best_tokens() {
        assert_eq!(best(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(best(&[]), 0);
        let rows = distributions(&[0.0, 0.0, 5.0, 5.0], 2);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0], rows[1]);
        assert!(distributions(&[], 0).is_empty());
    }
}
