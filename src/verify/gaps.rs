//! Errors of single values of an artifact against the float model's, summed over samples: residuals by modality, linears as a whole or up to a scale per channel.

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

/// Errors of the result of a linear.
#[derive(Clone, Debug, Default)]
pub struct LinearSquares {
    whole: Squares,
    /// Of each channel: products of both, squares of the found, squares of the reference.
    channels: Vec<[f64; 3]>,
}

impl LinearSquares {
    /// Adds rows that are compared as they are.
    pub fn add(&mut self, reference: &Tensor<f32>, found: &Tensor<f32>) {
        match alike(reference, found) {
            true => self.whole.add(reference.data(), found.data()),
            false => self.whole.difference = f64::INFINITY,
        }
    }

    /// Adds rows that are compared up to a factor per channel.
    pub fn add_scaled(&mut self, reference: &Tensor<f32>, found: &Tensor<f32>) {
        if !alike(reference, found) {
            self.whole.difference = f64::INFINITY;
            return;
        }
        self.channels.resize(reference.cols(), [0.0; 3]);
        for row in 0..reference.rows() {
            for (sums, (r, f)) in self.channels.iter_mut().zip(reference.row(row).iter().zip(found.row(row)))
            {
                let (r, f) = (f64::from(*r), f64::from(*f));
                sums[0] += r * f;
                sums[1] += f * f;
                sums[2] += r * r;
            }
        }
    }

    /// Relative error; of channels with a factor, what is left where each has the factor that leaves least.
    pub fn error(&self) -> Option<f64> {
        let mut sum = self.whole;
        for [product, found, value] in &self.channels {
            // min over a of sum (r - a f)^2 = sum r^2 - (sum r f)^2 / sum f^2
            let explained = if *found > 0.0 { product * product / found } else { 0.0 };
            sum.difference += (value - explained).max(0.0);
            sum.value += value;
        }
        sum.error()
    }
}

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
        as_is.add(&reference, &scaled);
        up_to.add_scaled(&reference, &scaled);
        assert!(as_is.error().unwrap() > 1.0 && up_to.error().unwrap() < 1e-6, "{:?}", up_to.error());
        // One row off in one channel: not a factor any more.
        let mut off = LinearSquares::default();
        off.add_scaled(&reference, &rows(&[10.0, 0.2, 33.0, -0.1, 5.0, 0.4], 2));
        assert!(off.error().unwrap() > 0.01);
        let mut zero = LinearSquares::default();
        zero.add_scaled(&reference, &rows(&[0.0; 6], 2));
        assert!((zero.error().unwrap() - 1.0).abs() < 1e-12);
    }
}
