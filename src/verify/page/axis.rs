//! Axes of charts: from values to places, linear or logarithmic, with ticks at round numbers.

/// Above this ratio of the largest to the smallest positive value, an axis that may be logarithmic is.
const SPREAD: f64 = 100.0;
/// What is farther from zero is drawn here, and what is nearer than its inverse is zero: sums and ratios of values stay finite.
const LARGEST: f64 = 1e100;

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    log: bool,
    low: f64,
    high: f64,
    /// Places of `low` and `high`.
    ends: (f64, f64),
    /// Values that have a tick, ascending.
    pub ticks: Vec<f64>,
}

/// A value as axes take it: finite and of a size that can be calculated with.
pub fn tame(x: f64) -> Option<f64> {
    let zero = x.abs() < LARGEST.recip();
    x.is_finite().then(|| if zero { 0.0 } else { x.clamp(-LARGEST, LARGEST) })
}

impl Axis {
    /// A linear axis from zero (or from the least value below it) to the largest of `values`, with about `count` ticks.
    pub fn linear(values: impl IntoIterator<Item = f64>, ends: (f64, f64), count: usize) -> Self {
        let values = values.into_iter().filter_map(tame);
        let (low, high) = values.fold((0.0f64, 0.0f64), |(l, h), x| (l.min(x), h.max(x)));
        let high = if low == high { 1.0 } else { high };
        let step = round_step((high - low) / count.max(1) as f64);
        let (first, last) = ((low / step).floor() as i64, (high / step - 1e-9).ceil() as i64);
        let ticks: Vec<f64> = (first..=last).map(|k| k as f64 * step).collect();
        Self { log: false, low: first as f64 * step, high: last as f64 * step, ends, ticks }
    }

    /// A logarithmic axis around the positive values, with about `count` ticks. `None` where there are none.
    pub fn log(values: impl IntoIterator<Item = f64>, ends: (f64, f64), count: usize) -> Option<Self> {
        let (low, high) = extremes(values)?;
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let decades = (last - first) as usize;
        let per_decade: &[f64] = if decades * 3 <= count.max(6) { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = decades.div_ceil(count.max(2)).max(1);
        let ticks = (first - stride as i32..=last + stride as i32)
            .step_by(stride)
            .flat_map(|d| per_decade.iter().map(move |m| m * 10f64.powi(d)));
        let ticks: Vec<f64> = ticks.collect();
        // The outermost ticks that are needed to hold all values. A value that is a tick within rounding is held by it.
        let from = ticks.iter().rposition(|t| *t <= low * (1.0 + 1e-9)).unwrap_or(0);
        let to = ticks.iter().position(|t| *t >= high * (1.0 - 1e-9)).unwrap_or(ticks.len() - 1);
        let (from, to) =
            if from >= to { (to.saturating_sub(1), (to + 1).min(ticks.len() - 1)) } else { (from, to) };
        let ticks = ticks[from..=to].to_vec();
        Some(Self { log: true, low: ticks[0], high: ticks[ticks.len() - 1], ends, ticks })
    }

    /// Logarithmic where positive values differ by more than a factor of 100 and none is negative, otherwise linear.
    pub fn fitting(values: &[f64], ends: (f64, f64), count: usize) -> Self {
        let wide = extremes(values.iter().copied()).is_some_and(|(low, high)| high / low > SPREAD);
        let log = if wide && values.iter().all(|x| *x >= 0.0) {
            Self::log(values.iter().copied(), ends, count)
        } else {
            None
        };
        log.unwrap_or_else(|| Self::linear(values.iter().copied(), ends, count))
    }

    /// Whether it is logarithmic.
    pub fn is_log(&self) -> bool {
        self.log
    }

    /// Place of a value. What the axis does not hold is at the nearer end, as zero is on a logarithmic axis.
    pub fn at(&self, x: f64) -> f64 {
        let x = x.clamp(self.low, self.high);
        let share = if self.log {
            (x / self.low).log10() / (self.high / self.low).log10()
        } else {
            (x - self.low) / (self.high - self.low)
        };
        self.ends.0 + share * (self.ends.1 - self.ends.0)
    }
}

/// The smallest and the largest positive value.
fn extremes(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let positive = values.into_iter().filter_map(tame).filter(|x| *x > 0.0);
    positive.fold(None, |found, x| {
        Some(found.map_or((x, x), |(low, high): (f64, f64)| (low.min(x), high.max(x))))
    })
}

/// The least of 1, 2 and 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// Label of a tick: as few digits as it needs.
pub fn tick(x: f64) -> String {
    let size = x.abs();
    if size != 0.0 && !(0.000_999..1e5).contains(&size) {
        return format!("{:e}", format!("{x:.2e}").parse::<f64>().unwrap_or(x));
    }
    // Ticks are multiples of a round step: six places hold them, and what is left is rounding.
    let text = format!("{x:.6}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".into() } else { short.into() }
}

/// Label of a tick that is a share, in percent.
pub fn percent_tick(x: f64) -> String {
    format!("{} %", tick(100.0 * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|t| tick(*t)).collect()
    }

    #[test]
    fn linear_ticks_are_round_and_hold_the_values() {
        let axis = Axis::linear([0.0, 0.37], (100.0, 200.0), 4);
        assert_eq!(labels(&axis), ["0", "0.1", "0.2", "0.3", "0.4"]);
        assert_eq!([axis.at(0.0), axis.at(0.2), axis.at(0.4), axis.at(9.0)], [100.0, 150.0, 200.0, 200.0]);
        assert_eq!(
            labels(&Axis::linear([-0.012, 0.03], (0.0, 1.0), 5)),
            ["-0.02", "-0.01", "0", "0.01", "0.02", "0.03"]
        );
        assert_eq!(labels(&Axis::linear([0.0, 0.6], (0.0, 1.0), 3)), ["0", "0.2", "0.4", "0.6"]);
    }

    #[test]
    fn log_ticks_are_decades_or_one_two_five() {
        let axis = Axis::log([3e-5, 0.2], (0.0, 100.0), 6).unwrap();
        assert_eq!(labels(&axis), ["1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]);
        assert!((axis.at(1e-3) - 40.0).abs() < 1e-9 && axis.at(0.0) == 0.0);
        assert_eq!(labels(&Axis::log([0.011, 0.04], (0.0, 1.0), 6).unwrap()), ["0.01", "0.02", "0.05"]);
        assert_eq!(labels(&Axis::log([0.1, 0.1], (0.0, 1.0), 6).unwrap()), ["0.05", "0.1", "0.2"]);
        assert!(labels(&Axis::log([1e-90, 1.0], (0.0, 1.0), 6).unwrap()).len() <= 8);
        assert_eq!(Axis::log([0.0, -1.0, f64::NAN], (0.0, 1.0), 6), None);
    }

    #[test]
    fn an_axis_is_logarithmic_above_a_factor_of_a_hundred() {
        let fitting = |values: &[f64]| Axis::fitting(values, (0.0, 1.0), 5).is_log();
        assert!(fitting(&[0.0, 0.001, 0.2]));
        assert!(!fitting(&[0.002, 0.2]) && !fitting(&[0.0, 0.0]) && !fitting(&[-1.0, 0.001, 1.0]));
    }

    #[test]
    fn nothing_is_not_finite() {
        let bad = [0.0, 1e-320, 1e308, -1e308, f64::NAN, f64::INFINITY, 5e-5, 1.0];
        for a in bad {
            for b in bad {
                let axes = [Axis::linear([a, b], (0.0, 300.0), 5), Axis::fitting(&[a, b], (0.0, 300.0), 5)];
                for axis in axes.into_iter().chain(Axis::log([a, b], (0.0, 300.0), 5)) {
                    assert!((2..=30).contains(&axis.ticks.len()), "{a} {b} {axis:?}");
                    for x in axis.ticks.iter().chain(&bad).filter_map(|x| tame(*x)) {
                        assert!((0.0..=300.0).contains(&axis.at(x)), "{x} on {axis:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn labels_are_short() {
        let found = [0.1 + 0.2, 1e-5, 2e-4, 0.001, 1e6, -0.0, 1.0].map(tick);
        assert_eq!(found, ["0.3", "1e-5", "2e-4", "0.001", "1e6", "0", "1"]);
        assert_eq!([0.05, 1.0, 1e-6].map(percent_tick), ["5 %", "100 %", "1e-4 %"]);
    }
}
