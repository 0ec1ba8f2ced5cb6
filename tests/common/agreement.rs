//! How far a model's next-token distributions are from another's, on the answers of evaluation samples.
//!
//! The expected answer is fed behind the prompt, so both models are asked after the same tokens, and one run a sample is enough. Rows that
//! count are those that predict the answer's tokens and the end after them.

use mquant_export::calibrate::{Preparer, Sample};
use mquant_export::exec::{DecoderState, Executor, Generation};
use mquant_export::numeric::Tensor;
use rayon::prelude::*;

/// What a model says on the answer rows of samples.
pub struct Said {
    /// Per sample the logits `[answer tokens + 1, vocab]`.
    logits: Vec<Tensor<f32>>,
    /// Per sample whether every row's best token is the expected one, the end included: then greedy decoding gives this very answer.
    exact: Vec<bool>,
}

/// A model against a reference.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// Share of samples that the model answers as expected.
    pub accuracy: f64,
    /// Mean over rows of the Kullback-Leibler divergence of the model from the reference, in nats.
    pub kld: f64,
    /// Share of rows where both have the same best token.
    pub top1: f64,
    /// Root mean square difference of the logits over the root mean square of the reference's. Where answers are certain, the divergence
    /// is almost nothing and jumps with single rows; this does not.
    pub error: f64,
    /// Largest difference of a logit over the largest logit of the reference.
    pub worst: f64,
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { accuracy, kld, top1, error, worst } = self;
        let (accuracy, top1) = (100.0 * accuracy, 100.0 * top1);
        write!(f, "accuracy {accuracy:.1}%, KLD {kld:.1e}, same best token {top1:.1}%, ")?;
        write!(f, "logits off by {error:.1e}, at worst {worst:.1e}")
    }
}

/// Runs a model over samples with answers; `stop` are the tokens that may end one.
pub fn said(exec: &Executor<'_, f32>, preparer: &Preparer, stop: &[i64], samples: &[Sample]) -> Said {
    let one = |sample: &Sample| {
        let p = preparer.prepare_sample(sample).unwrap();
        let (next, answer) = (p.next_position(), p.answer_ids.unwrap());
        let after = next..next + answer.len() as i64;
        let ids = [&p.input_ids[..], &answer].concat();
        let positions: Vec<Vec<i64>> =
            p.position_ids.iter().map(|axis| axis.iter().copied().chain(after.clone()).collect()).collect();
        let prompt = Generation {
            input_ids: &ids,
            pixel_values: &p.pixel_values,
            grids: &p.grids,
            position_ids: &positions,
        };
        let logits = DecoderState::prefill(exec, &prompt).unwrap().logits;
        let rows: Vec<&[f32]> = (p.input_ids.len() - 1..ids.len()).map(|r| logits.row(r)).collect();
        let exact = rows.iter().enumerate().all(|(i, row)| match answer.get(i) {
            Some(id) => *id == best(row) as i64,
            None => stop.contains(&(best(row) as i64)),
        });
        (Tensor::new(vec![rows.len(), logits.cols()], rows.concat()).unwrap(), exact)
    };
    Said::new(samples.par_iter().map(one).collect())
}

impl Said {
    /// Logits `[answer tokens + 1, vocab]` of each sample, and whether it was answered as expected.
    pub fn new(samples: Vec<(Tensor<f32>, bool)>) -> Self {
        let (logits, exact) = samples.into_iter().unzip();
        Self { logits, exact }
    }

    /// Share of samples answered as expected.
    pub fn accuracy(&self) -> f64 {
        self.exact.iter().filter(|e| **e).count() as f64 / self.exact.len() as f64
    }

    /// This model against `reference` on the same samples.
    pub fn against(&self, reference: &Said) -> Agreement {
        assert_eq!(self.logits.len(), reference.logits.len());
        let (mut rows, mut kld, mut same) = (0, 0.0, 0);
        let (mut diff, mut norm) = (0.0, 0.0);
        let (mut worst, mut largest) = (0.0f64, 0.0f64);
        for (a, b) in self.logits.iter().zip(&reference.logits) {
            assert_eq!(a.shape(), b.shape());
            rows += a.rows();
            for (a, b) in (0..a.rows()).map(|r| (a.row(r), b.row(r))) {
                kld += divergence(b, a);
                same += usize::from(best(a) == best(b));
            }
            for (x, y) in a.data().iter().zip(b.data()).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
                diff += (x - y).powi(2);
                norm += y.powi(2);
                worst = worst.max((x - y).abs());
                largest = largest.max(y.abs());
            }
        }
        Agreement {
            accuracy: self.accuracy(),
            kld: kld / rows as f64,
            top1: same as f64 / rows as f64,
            error: (diff / norm).sqrt(),
            worst: worst / largest,
        }
    }
}

/// One sample of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct SampleAgreement {
    /// Whether the model answers as expected.
    pub exact: bool,
    /// Rows compared.
    pub rows: usize,
    /// Sum over rows of the divergence from the reference.
    pub kld: f64,
    /// Rows with the reference's best token.
    pub same: usize,
}

impl SampleAgreement {
    /// Whether some token of the answer is another than the reference's.
    pub fn flipped(&self) -> bool {
        self.same < self.rows
    }
}

/// A number with its 95% interval.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Resamplings of an interval.
const RESAMPLINGS: usize = 1000;

/// `of` over the samples, with the interval between the 2.5 and the 97.5 percentile over resamplings (bootstrap) drawn from a fixed seed.
pub fn interval(samples: &[SampleAgreement], of: impl Fn(&[SampleAgreement]) -> f64) -> Interval {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as usize) % n
    };
    let mut found: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let drawn: Vec<_> = samples.iter().map(|_| samples[draw(samples.len())]).collect();
            of(&drawn)
        })
        .collect();
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found[((RESAMPLINGS - 1) as f64 * share).round() as usize];
    Interval { value: of(samples), low: at(0.025), high: at(0.975) }
}

impl Said {
    /// This model against `reference`, sample by sample.
    pub fn samples_against(&self, reference: &Said) -> Vec<SampleAgreement> {
        let pairs = self.logits.iter().zip(&reference.logits).zip(&self.exact);
        let one = |((a, b), exact): ((&Tensor<f32>, &Tensor<f32>), &bool)| {
            let rows = || (0..a.rows()).map(|r| (a.row(r), b.row(r)));
            SampleAgreement {
                exact: *exact,
                rows: a.rows(),
                kld: rows().map(|(a, b)| divergence(b, a)).sum(),
                same: rows().filter(|(a, b)| best(a) == best(b)).count(),
            }
        };
        pairs.map(one).collect()
    }
}

/// The most likely token; the lowest id among equals.
fn best(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |b, i| if row[i] > row[b] { i } else { b })
}

/// Kullback-Leibler divergence of `softmax(q)` from `softmax(p)`: the sum of `p (ln p - ln q)`, in nats.
pub fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted: Vec<f64> = row.iter().map(|x| f64::from(*x) - f64::from(max)).collect();
    let log_sum = shifted.iter().map(|x| x.exp()).sum::<f64>().ln();
    shifted.into_iter().map(|x| x - log_sum).collect()
}
