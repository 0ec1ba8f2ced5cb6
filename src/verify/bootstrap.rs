//! 95 % intervals by bootstrap (Efron, "Bootstrap methods: another look at the jackknife", 1979): samples are drawn with replacement from a fixed seed, so
//! the same measurements give the same interval.

use super::report::Interval;
use crate::numeric::random::Random;

/// Resamplings of an interval.
const RESAMPLINGS: usize = 1000;

/// Seed of the draws.
const SEED: u64 = 0x6d71_7561_6e74;

/// Samples drawn with replacement, the same for every number of one verification: differences of two numbers are then those of the same samples.
#[derive(Clone, Debug)]
pub struct Resamplings {
    samples: usize,
    drawn: Vec<Vec<u32>>,
}

impl Resamplings {
    /// Draws for `samples` samples.
    pub fn new(samples: usize) -> Self {
        let mut random = Random::new(SEED);
        let one =
            |random: &mut Random| (0..samples).map(|_| (random.uniform() * samples as f64) as u32).collect();
        Self { samples, drawn: (0..RESAMPLINGS).map(|_| one(&mut random)).collect() }
    }

    /// `of` the indices of all samples, with the interval between the 2.5 and the 97.5 percentile over the resamplings. `of` is asked for no samples where there
    /// are none.
    pub fn interval(&self, of: impl Fn(&[u32]) -> f64) -> Interval {
        let all: Vec<u32> = (0..self.samples as u32).collect();
        let mut found: Vec<f64> = self.drawn.iter().map(|drawn| of(drawn)).collect();
        found.sort_by(f64::total_cmp);
        let at = |share: f64| found[((RESAMPLINGS - 1) as f64 * share).round() as usize];
        Interval { value: of(&all), low: at(0.025), high: at(0.975) }
    }
}

/// The value below which the share `q` of `values` lies: the smallest one that is at least as large as so many. 0 of no values.
pub fn percentile(values: &mut [f64], q: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(rank, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_cover_what_they_should() {
        let mut random = Random::new(3);
        let mean = |values: &[f64], of: &[u32]| {
            of.iter().map(|i| values[*i as usize]).sum::<f64>() / of.len() as f64
        };
        // Of 200 intervals of the mean of 100 uniform numbers, 95 % hold 0.5; the count has a standard deviation of 3.1.
        let held = (0..200).filter(|_| {
            let values: Vec<f64> = (0..100).map(|_| random.uniform()).collect();
            let interval = Resamplings::new(100).interval(|of| mean(&values, of));
            interval.low <= 0.5 && 0.5 <= interval.high
        });
        let held = held.count();
        assert!((175..=200).contains(&held), "{held}");
    }

    #[test]
    fn the_same_measurements_give_the_same_interval() {
        let of = |of: &[u32]| of.iter().map(|i| f64::from(*i)).sum();
        assert_eq!(Resamplings::new(9).interval(of), Resamplings::new(9).interval(of));
        let one = Resamplings::new(1).interval(|of| of.len() as f64);
        assert_eq!((one.value, one.low, one.high), (1.0, 1.0, 1.0));
        assert_eq!(Resamplings::new(0).interval(|of| of.len() as f64).value, 0.0);
    }

    #[test]
    fn percentiles_are_ranks() {
        let values = || (1..=100).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(percentile(&mut values(), 0.99), 99.0);
        assert_eq!(percentile(&mut values(), 0.5), 50.0);
        assert_eq!(percentile(&mut values(), 1.0), 100.0);
        assert_eq!((percentile(&mut [7.0], 0.0), percentile(&mut [], 0.5)), (7.0, 0.0));
    }
}
