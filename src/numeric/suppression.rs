//! Which channel of a rotated weight is an outlier. Pure functions on slices.

use crate::numeric::Real;

/// Share of the output rows in which a channel must be the largest to be inflated. Above one half at most one channel can be.
pub const INFLATED_SHARE: f64 = 0.5;

/// An outlier among the input channels of a rotated weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inflated {
    /// The channel.
    pub channel: usize,
    /// Share of the output rows in which it is larger than every other channel.
    pub share: f64,
}

/// The channel that a rotation inflated, if it did (MQuant, arXiv 2502.00425 section 4.3, after equations 6 to 9 of its section on rotations).
///
/// With `H` normalised, column 0 of `W H / sqrt(n)` is `sqrt(n) mean(w_j)` for output row `j`, and the paper's condition for an outlier in that row is
///
/// ```text
/// sqrt(n) |mean(w_j)| > max over k > 0 of |(W H)_jk| / sqrt(n)
/// ```
///
/// What is compared is exactly this, row by row, on magnitudes because the grids are symmetric: `|w'_jc|` with the largest `|w'_jk|`, `k` not `c`. Equal
/// values are not larger. The paper gives no share of rows; every row has its own grid here, and the extra product is one for the whole weight, so the condition
/// must hold in more than [`INFLATED_SHARE`] of the rows. Every channel is tried, not only channel 0: with blocks, the first channel of any of
/// them may be the outlier.
///
/// `weight` is row-major, `[out, cols]`, after the rotation. None when nothing is inflated, and for a single channel, which has no others.
pub fn inflated_channel<T: Real>(weight: &[T], cols: usize) -> Option<Inflated> {
    if cols < 2 || weight.is_empty() {
        return None;
    }
    let mut rows = vec![0usize; cols];
    for row in weight.chunks_exact(cols) {
        if let Some(channel) = largest(row) {
            rows[channel] += 1;
        }
    }
    let (channel, &count) = rows.iter().enumerate().max_by_key(|(_, n)| **n)?;
    let share = count as f64 / (weight.len() / cols) as f64;
    (share > INFLATED_SHARE).then_some(Inflated { channel, share })
}

/// The channel that is larger in magnitude than every other; none where two share the largest.
fn largest<T: Real>(row: &[T]) -> Option<usize> {
    let (mut best, mut at) = (T::ZERO, None);
    for (k, x) in row.iter().enumerate() {
        let x = Real::abs(*x);
        if x > best {
            (best, at) = (x, Some(k));
        } else if x == best {
            at = None;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::random::Random;
    use crate::numeric::rotation::Rotation;

    /// `[out, n]` normal numbers around `mean`, rotated.
    fn rotated(out: usize, (left, right): (usize, usize), mean: f64) -> Vec<f64> {
        let (n, mut random) = (left * right, Random::new(3));
        let mut w: Vec<f64> = (0..out * n).map(|_| mean + random.normal()).collect();
        Rotation::online(left, right).unwrap().right(&mut w);
        w
    }

    #[test]
    fn a_weight_with_a_mean_has_its_first_channel_inflated() {
        // sqrt(320) * 1 = 17.9 among normal numbers, whose largest of 320 is about 3.
        let found = inflated_channel(&rotated(16, (16, 20), 1.0), 320).unwrap();
        assert_eq!(found, Inflated { channel: 0, share: 1.0 });
        assert_eq!(inflated_channel(&rotated(16, (16, 20), 0.0), 320), None);
    }

    #[test]
    fn any_channel_in_more_than_half_of_the_rows_counts() {
        let row = |at: usize| (0..4).map(|k| if k == at { -5.0f32 } else { k as f32 }).collect::<Vec<_>>();
        let last = [row(3), row(3), row(0)].concat();
        assert_eq!(inflated_channel(&last, 4).map(|i| i.channel), Some(3));
        assert_eq!(inflated_channel(&[row(3), row(0)].concat(), 4), None);
        // A tie is no outlier.
        assert_eq!(inflated_channel(&[1.0f32, -1.0, 0.5], 3), None);
        assert_eq!(inflated_channel::<f32>(&[0.0; 6], 3), None);
        assert_eq!(inflated_channel::<f32>(&[7.0], 1), None);
        assert_eq!(inflated_channel::<f32>(&[], 3), None);
    }
}
