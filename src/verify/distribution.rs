//! The distribution of the next token from a model's scores.

/// Natural logarithms of the probabilities that `row` stands for: `x - ln(sum(exp(x)))`. The sum is taken in f64, with the largest score taken off
/// before, so that neither many tokens nor large scores lose digits. Empty for an empty row; scores that are not finite give what arithmetic gives.
pub fn log_softmax(row: &[f32]) -> Vec<f32> {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
    let shift = largest + sum.ln();
    row.iter().map(|x| (f64::from(*x) - shift) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_to_one_however_large_the_scores() {
        for shift in [0.0f32, 1e4, -1e4] {
            let row: Vec<f32> = (0..1000).map(|i| (i % 17) as f32 * 0.5 + shift).collect();
            let logs = log_softmax(&row);
            let sum: f64 = logs.iter().map(|x| f64::from(*x).exp()).sum();
            // Each logarithm is rounded to f32: 2.4e-7 at values near 10, alike in sign at worst.
            assert!((sum - 1.0).abs() < 1e-6, "{shift}: {sum}");
        }
        let equal = log_softmax(&[3.0, 3.0]);
        assert_eq!(equal, [-std::f32::consts::LN_2; 2]);
        assert!(log_softmax(&[]).is_empty());
    }

    #[test]
    fn differences_of_scores_stay() {
        let logs = log_softmax(&[1.0, 3.5, -2.0]);
        assert!((logs[1] - logs[0] - 2.5).abs() < 1e-6 && (logs[0] - logs[2] - 3.0).abs() < 1e-6, "{logs:?}");
    }
}
