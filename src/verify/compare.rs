//! Two models on the same questions: divergence of their distributions row by row, best tokens, image rows, and the numbers of the report over samples.

use super::bootstrap::{Resamplings, percentile};
use super::distribution::best;
use super::report::{Interval, Similarity};
use super::runner::{Distribution, Scored};
use crate::numeric::Tensor;

impl Distribution {
    /// The most likely token; the lowest id among equals.
    pub fn best(&self) -> i64 {
        match self {
            Distribution::Full(row) => best(row),
            Distribution::Top(top) => {
                let better = |a: &(i64, f32), b: &(i64, f32)| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0);
                let first = |found: Option<(i64, f32)>, t: &(i64, f32)| match found {
                    Some(f) if !better(t, &f) => Some(f),
                    _ => Some(*t),
                };
                top.iter().fold(None, first).map_or(0, |(id, _)| id)
            }
        }
    }
}

/// Natural logarithms of `softmax(row)`, in f64.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted: Vec<f64> = row.iter().map(|x| f64::from(*x) - f64::from(max)).collect();
    let log_sum = shifted.iter().map(|x| x.exp()).sum::<f64>().ln();
    shifted.into_iter().map(|x| x - log_sum).collect()
}

/// Kullback-Leibler divergence of `found` from `reference`, `sum p ln(p / q)`, in nats. Of a distribution known by its most likely tokens alone, all others count as one
/// token: the result is then a lower bound (data processing inequality), exact where the known tokens are all there are. Not a number where one row holds none.
pub fn divergence(reference: &Distribution, found: &Distribution) -> f64 {
    let sum = match (reference, found) {
        (Distribution::Full(p), Distribution::Full(q)) if p.len() == q.len() => {
            let (p, q) = (log_softmax(p), log_softmax(q));
            p.iter().zip(&q).map(|(p, q)| term(*p, *q)).sum()
        }
        (Distribution::Full(p), Distribution::Top(q)) => coarse(&log_softmax(p), q),
        _ => f64::NAN,
    };
    // Rounding may leave a little less than nothing.
    if sum < 0.0 && sum > -1e-12 { 0.0 } else { sum }
}

/// `p ln(p / q)` of logarithms; what has no probability adds nothing.
fn term(p: f64, q: f64) -> f64 {
    if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
}

/// The divergence with all tokens that `top` does not name as one.
fn coarse(p: &[f64], top: &[(i64, f32)]) -> f64 {
    let mut named = vec![false; p.len()];
    let (mut sum, mut p_named, mut q_named) = (0.0, 0.0, 0.0);
    for &(id, q) in top {
        let Some((slot, p)) = usize::try_from(id).ok().and_then(|i| Some((named.get_mut(i)?, p.get(i)?)))
        else {
            return f64::NAN;
        };
        *slot = true;
        let q = f64::from(q);
        sum += term(*p, q);
        p_named += p.exp();
        q_named += q.exp();
    }
    let rest: f64 = p.iter().zip(&named).filter(|(_, named)| !**named).map(|(p, _)| p.exp()).sum();
    if named.iter().all(|n| *n) {
        // Log-probabilities of all tokens need not add up to 1 to the last digit.
        return sum - p_named.ln() + q_named.ln();
    }
    // What the server leaves to the tokens it does not name, never less than the rounding of what it prints.
    let q_rest = (1.0 - q_named).max(1e-12);
    if rest > 0.0 { sum + rest * (rest.ln() - q_rest.ln()) } else { sum }
}

/// What a row without a number counts as, in nats: more than the divergence of any two rows of finite logits that a model gives, and a number that JSON has.
pub const NO_NUMBER: f64 = 1e4;

/// One sample of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleDifference {
    /// Divergence of each row; [`NO_NUMBER`] where there is none.
    pub kld: Vec<f64>,
    /// Whether each row has the reference's best token.
    pub same: Vec<bool>,
    /// Score of the reference's answer, where one is expected.
    pub reference_score: Option<f64>,
    /// Score of the artifact's answer, where one is expected.
    pub score: Option<f64>,
}

impl SampleDifference {
    /// Compares what two models say to one question, without scores.
    pub fn of(reference: &Scored, found: &Scored) -> Self {
        let pairs = || reference.rows.iter().zip(&found.rows);
        let number = |x: f64| if x.is_finite() { x } else { NO_NUMBER };
        let mut kld: Vec<f64> = pairs().map(|(r, f)| number(divergence(r, f))).collect();
        let mut same: Vec<bool> = pairs().map(|(r, f)| r.best() == f.best()).collect();
        // A row that was not answered is as wrong as can be.
        kld.resize(reference.rows.len(), NO_NUMBER);
        same.resize(reference.rows.len(), false);
        Self { kld, same, reference_score: None, score: None }
    }

    /// Whether the greedy answer is another: the rows are those of the reference's own greedy answer.
    pub fn flipped(&self) -> bool {
        self.same.iter().any(|s| !s)
    }

    /// Whether some row is not there, or holds no numbers.
    pub fn broken(&self) -> bool {
        self.kld.contains(&NO_NUMBER)
    }

    /// Mean divergence of its rows.
    pub fn mean(&self) -> f64 {
        mean(self.kld.iter().copied())
    }
}

/// The mean; 0 of nothing.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), x| (sum + x, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Numbers of a comparison with intervals.
pub struct Summary<'a> {
    samples: &'a [SampleDifference],
    resamplings: Resamplings,
}

impl<'a> Summary<'a> {
    /// Of these samples.
    pub fn new(samples: &'a [SampleDifference]) -> Self {
        Self { samples, resamplings: Resamplings::new(samples.len()) }
    }

    fn interval(&self, of: impl Fn(&mut dyn Iterator<Item = &'a SampleDifference>) -> f64) -> Interval {
        self.resamplings.interval(|drawn| of(&mut drawn.iter().map(|i| &self.samples[*i as usize])))
    }

    /// Mean divergence over rows.
    pub fn kld_mean(&self) -> Interval {
        self.interval(|samples| mean(samples.flat_map(|s| s.kld.iter().copied())))
    }

    /// A percentile of the divergence over rows.
    pub fn kld_percentile(&self, q: f64) -> Interval {
        self.interval(|samples| {
            let mut rows: Vec<f64> = samples.flat_map(|s| s.kld.iter().copied()).collect();
            percentile(&mut rows, q)
        })
    }

    /// Share of rows with the reference's best token.
    pub fn top1(&self) -> Interval {
        self.interval(|samples| mean(samples.flat_map(|s| s.same.iter().map(|s| f64::from(u8::from(*s))))))
    }

    /// Share of samples whose greedy answer is another.
    pub fn flips(&self) -> Interval {
        self.interval(|samples| mean(samples.map(|s| f64::from(u8::from(s.flipped())))))
    }

    /// Mean score of answers where one is expected; none where none is.
    pub fn accuracy(&self, score: impl Fn(&SampleDifference) -> Option<f64>) -> Option<Interval> {
        let any = self.samples.iter().any(|s| score(s).is_some());
        any.then(|| self.interval(|samples| mean(samples.filter_map(&score))))
    }
}

/// Image rows of many samples against the reference's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alike {
    rows: usize,
    cosines: f64,
    difference: f64,
    norm: f64,
}

impl Alike {
    /// Adds rows of `width` values each; of wider rows in `found`, such as those with the modality behind them, the first `width` count.
    pub fn add(&mut self, reference: &Tensor<f32>, found: &Tensor<f32>) {
        if reference.rows() != found.rows() || found.cols() < reference.cols() {
            (self.rows, self.difference, self.norm) = (self.rows + 1, f64::NAN, f64::NAN);
            return;
        }
        for row in 0..reference.rows() {
            let (mut dot, mut a, mut b, mut difference) = (0.0, 0.0, 0.0, 0.0);
            for (x, y) in reference.row(row).iter().zip(found.row(row)) {
                let (x, y) = (f64::from(*x), f64::from(*y));
                (dot, a, b) = (dot + x * y, a + x * x, b + y * y);
                difference += (x - y).powi(2);
            }
            self.rows += 1;
            self.cosines += if a * b > 0.0 { dot / (a * b).sqrt() } else { f64::from(u8::from(a == b)) };
            self.difference += difference;
            self.norm += a;
        }
    }

    /// The numbers, where there were rows and all of them hold numbers.
    pub fn similarity(&self) -> Option<Similarity> {
        let error = if self.norm > 0.0 { (self.difference / self.norm).sqrt() } else { self.difference };
        let cosine = self.cosines / self.rows as f64;
        let numbers = error.is_finite() && cosine.is_finite();
        (self.rows > 0 && numbers).then_some(Similarity { cosine, relative_error: error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(row: &[f32]) -> Distribution {
        Distribution::Full(row.to_vec())
    }

    #[test]
    fn divergence_is_the_sum_over_tokens() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): 1/2 ln 2 - 1/4 ln 2.
        let (p, q) = (full(&[2f32.ln(), 0.0, 0.0]), full(&[0.0, 2f32.ln(), 0.0]));
        assert!((divergence(&p, &q) - 0.25 * 2f64.ln()).abs() < 1e-7);
        let shifted = full(&[2f32.ln() + 8.0, 8.0, 8.0]);
        assert!(divergence(&p, &shifted).abs() < 1e-13);
        assert!(divergence(&p, &full(&[f32::NAN, 0.0, 0.0])).is_nan());
        assert!(divergence(&p, &full(&[0.0])).is_nan());
        assert_eq!(divergence(&full(&[0.0, f32::NEG_INFINITY]), &full(&[0.0, f32::NEG_INFINITY])), 0.0);
    }

    #[test]
    fn tokens_that_are_not_named_count_as_one() {
        let p = full(&[2f32.ln(), 0.0, 0.0]);
        let top = Distribution::Top(vec![(1, 0.5f32.ln())]);
        // p = (1/4, rest 3/4), q = (1/2, rest 1/2).
        let want = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!((divergence(&p, &top) - want).abs() < 1e-7);
        let all = Distribution::Top(vec![(1, 0.5f32.ln()), (0, 0.25f32.ln()), (2, 0.25f32.ln())]);
        let q = full(&[0.0, 2f32.ln(), 0.0]);
        assert!((divergence(&p, &all) - divergence(&p, &q)).abs() < 1e-7);
        assert!(divergence(&p, &Distribution::Top(vec![(7, 0.0)])).is_nan());
        assert!(divergence(&p, &top) <= divergence(&p, &q) + 1e-7, "a lower bound");
    }

    #[test]
    fn the_lowest_id_is_best_among_equals() {
        assert_eq!(full(&[1.0, 3.0, 3.0]).best(), 1);
        assert_eq!(Distribution::Top(vec![(5, -1.0), (2, -1.0), (9, -2.0)]).best(), 2);
    }

    #[test]
    fn numbers_of_samples_add_up() {
        let scored =
            |rows: &[[f32; 2]]| Scored { rows: rows.iter().map(|r| full(r)).collect(), features: None };
        let reference = scored(&[[0.0, 9.0], [9.0, 0.0]]);
        let same = SampleDifference::of(&reference, &reference);
        let other = SampleDifference::of(&reference, &scored(&[[0.0, 9.0], [0.0, 9.0]]));
        let short = SampleDifference::of(&reference, &scored(&[[0.0, 9.0]]));
        assert!(!same.flipped() && other.flipped() && short.flipped() && short.broken() && !other.broken());
        let scores = |s: SampleDifference, score| SampleDifference { score, ..s };
        let samples = [scores(same, Some(1.0)), scores(other, None)];
        let summary = Summary::new(&samples);
        assert_eq!((summary.top1().value, summary.flips().value), (0.75, 0.5));
        assert_eq!(summary.accuracy(|s| s.score).unwrap().value, 1.0);
        assert_eq!(summary.accuracy(|s| s.reference_score), None);
        assert_eq!(summary.kld_percentile(0.5).value, 0.0);
        assert!(summary.kld_mean().value > 2.0 && summary.kld_percentile(0.99).value > 8.0);
    }

    #[test]
    fn rows_are_compared_by_angle_and_length() {
        let rows =
            |data: &[f32], cols: usize| Tensor::new(vec![data.len() / cols, cols], data.to_vec()).unwrap();
        let mut alike = Alike::default();
        assert_eq!(alike.similarity(), None);
        alike.add(&rows(&[3.0, 4.0], 2), &rows(&[6.0, 8.0, 1.0], 3));
        let found = alike.similarity().unwrap();
        assert!((found.cosine - 1.0).abs() < 1e-12 && (found.relative_error - 1.0).abs() < 1e-12);
        alike.add(&rows(&[3.0, 4.0], 2), &rows(&[1.0, 0.0, 1.0, 0.0], 2));
        assert_eq!(alike.similarity(), None);
    }
}
