//! Errors of single values of an artifact against the float model's, summed over samples: residuals by modality, linears as a whole or up to a scale per channel.

use super::bootstrap::percentile;
use crate::numeric::Tensor;

/// Squares of differences and of values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Squares {
    difference: f64,
    value: f64,
}

impl Squares {
    fn add(&mut self, reference: &[f32], found: &[f32]) {
        for (r, f) in reference.iter().zip(found) {
            let (r, f) = (f64::from(*r), f64::from(*f));
            self.difference += (r - f).powi(2);
            self.value += r * r;
        }
    }

    /// Root mean square of the difference over that of the values; none where nothing was added. A value that is no number, or anything in place of nothing, is an error of
    /// [`WORST`].
    pub fn error(&self) -> Option<f64> {
        if self.difference == 0.0 {
            return (self.value > 0.0).then_some(0.0);
        }
        let error = (self.difference / self.value).sqrt();
        Some(if error.is_finite() { error.min(WORST) } else { WORST })
    }
}

/// Largest relative error that is told: beyond it nothing of the value is left.
pub const WORST: f64 = 1e6;

/// Errors on the rows of each modality.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByModality {
    /// Rows of images.
    pub visual: Squares,
    /// All others.
    pub text: Squares,
}

impl ByModality {
    /// Adds rows; `visual` says which are of images. Rows of another number or width are as wrong as can be.
    pub fn add(&mut self, reference: &Tensor<f32>, found: &Tensor<f32>, visual: &[bool]) {
        if !alike(reference, found) {
            self.visual.difference = f64::INFINITY;
            self.text.difference = f64::INFINITY;
            return;
        }
        for row in 0..reference.rows() {
            let of = if visual.get(row) == Some(&true) { &mut self.visual } else { &mut self.text };
            of.add(reference.row(row), found.row(row));
        }
    }
}

/// Whether two values have as many rows of the same width.
pub fn alike(a: &Tensor<f32>, b: &Tensor<f32>) -> bool {
    a.rows() == b.rows() && a.cols() == b.cols()
}

/// Errors of the result of a linear, channel by channel.
#[derive(Clone, Debug, Default)]
pub struct LinearSquares {
    /// Rows that did not fit.
    broken: bool,
    channels: Vec<Channel>,
}

/// Sums over the rows of one channel.
#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    product: f64,
    found: f64,
    reference: f64,
    difference: f64,
}

/// A channel that is off by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OddChannel {
    /// Its index in the artifact.
    pub channel: usize,
    /// Its relative error.
    pub error: f64,
    /// How many times the error of the linear's typical channel it has, relative to the channel and in absolute terms, whichever is less.
    pub times: f64,
}

impl LinearSquares {
    /// Adds rows that are compared as they are, or up to a factor per channel (`scaled`).
    pub fn add(&mut self, reference: &Tensor<f32>, found: &Tensor<f32>, scaled: bool) {
        if !alike(reference, found) || (!self.channels.is_empty() && self.channels.len() != found.cols()) {
            self.broken = true;
            return;
        }
        self.channels.resize(reference.cols(), Channel::default());
        for row in 0..reference.rows() {
            for (sums, (r, f)) in self.channels.iter_mut().zip(reference.row(row).iter().zip(found.row(row)))
            {
                let (r, f) = (f64::from(*r), f64::from(*f));
                sums.product += r * f;
                sums.found += f * f;
                sums.reference += r * r;
                sums.difference += (r - f).powi(2);
            }
        }
        if scaled {
            // min over a of sum (r - a f)^2 = sum r^2 - (sum r f)^2 / sum f^2
            for c in &mut self.channels {
                let explained = if c.found > 0.0 { c.product * c.product / c.found } else { 0.0 };
                c.difference = (c.reference - explained).max(0.0);
            }
        }
    }

    /// Relative error; of channels with a factor, what is left where each has the factor that leaves least.
    pub fn error(&self) -> Option<f64> {
        if self.broken {
            return Some(WORST);
        }
        let of = |part: fn(&Channel) -> f64| self.channels.iter().map(part).sum();
        Squares { difference: of(|c| c.difference), value: of(|c| c.reference) }.error()
    }

    /// The channel that is furthest from what the linear's channels have in common: rounding leaves about the same error in each, a wrong scale or weight a large one in
    /// one. None where no channel has an error of a percent.
    pub fn odd_channel(&self) -> Option<OddChannel> {
        let relative = |c: &Channel| (c.difference / c.reference.max(f64::MIN_POSITIVE)).sqrt();
        let absolute = |c: &Channel| c.difference.sqrt();
        let median = |of: fn(&Channel) -> f64| {
            let mut values: Vec<f64> = self.channels.iter().map(of).collect();
            percentile(&mut values, 0.5).max(f64::MIN_POSITIVE)
        };
        let (typical, size) = (median(relative), median(absolute));
        let odd = |(channel, c): (usize, &Channel)| {
            let error = relative(c).min(WORST);
            let times = (error / typical).min(absolute(c) / size).min(WORST);
            OddChannel { channel, error, times }
        };
        let odd = self.channels.iter().enumerate().map(odd).filter(|o| o.error > ODD);
        odd.max_by(|a, b| a.times.total_cmp(&b.times))
    }
}

/// Errors of a channel that are too small to be anything but rounding.
const ODD: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(data: &[f32], cols: usize) -> Tensor<f32> {
        Tensor::new(vec![data.len() / cols, cols], data.to_vec()).unwrap()
    }

    #[test]
    fn errors_are_relative_and_by_modality() {
        let mut gap = ByModality::default();
        gap.add(&rows(&[3.0, 4.0, 1.0, 0.0], 2), &rows(&[3.0, 4.5, 1.0, 0.0], 2), &[true, false]);
        assert!((gap.visual.error().unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(gap.text.error(), Some(0.0));
        assert_eq!(ByModality::default().text.error(), None);
        gap.add(&rows(&[1.0], 1), &rows(&[1.0, 2.0], 1), &[]);
        assert_eq!(gap.text.error(), Some(WORST));
        let mut nan = ByModality::default();
        nan.add(&rows(&[1.0], 1), &rows(&[f32::NAN], 1), &[false]);
        assert_eq!(nan.text.error(), Some(WORST));
    }

    #[test]
    fn a_factor_per_channel_is_no_error() {
        let reference = rows(&[1.0, 2.0, 3.0, -1.0, 0.5, 4.0], 2);
        let scaled = rows(&[10.0, 0.2, 30.0, -0.1, 5.0, 0.4], 2);
        let (mut as_is, mut up_to) = (LinearSquares::default(), LinearSquares::default());
        as_is.add(&reference, &scaled, false);
        up_to.add(&reference, &scaled, true);
        assert!(as_is.error().unwrap() > 1.0 && up_to.error().unwrap() < 1e-6, "{:?}", up_to.error());
        // One row off in one channel: not a factor any more.
        let mut off = LinearSquares::default();
        off.add(&reference, &rows(&[10.0, 0.2, 33.0, -0.1, 5.0, 0.4], 2), true);
        assert!(off.error().unwrap() > 0.01);
        let mut zero = LinearSquares::default();
        zero.add(&reference, &rows(&[0.0; 6], 2), true);
        assert!((zero.error().unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_channel_that_is_off_stands_out() {
        let noisy = |off: Option<usize>| {
            let reference: Vec<f32> = (0..40 * 8).map(|i| ((i * 37) % 19) as f32 - 9.0).collect();
            let wrong = |i: usize, x: f32| {
                if off == Some(i % 8) { 2.0 * x } else { x + ((i % 3) as f32 - 1.0) / 10.0 }
            };
            let found: Vec<f32> = reference.iter().enumerate().map(|(i, x)| wrong(i, *x)).collect();
            let mut sums = LinearSquares::default();
            sums.add(&rows(&reference, 8), &rows(&found, 8), false);
            sums.odd_channel()
        };
        assert!(noisy(None).unwrap().times < 2.0);
        let odd = noisy(Some(5)).unwrap();
        assert!(odd.channel == 5 && odd.times > 10.0 && (odd.error - 1.0).abs() < 1e-6, "{odd:?}");
        assert_eq!(LinearSquares::default().odd_channel(), None);
    }
}
