//! Looking into the files of an artifact while the interpreter runs them.

use super::{EmbeddedOnnx, OnnxRunError, PrefillOptions, Rounding, Value};
use crate::numeric::Tensor;
use crate::verify::distribution::distributions;
use crate::verify::runner::{Distribution, Question, RunnerError, RunnerKind};
use crate::verify::trace::{Features, TraceTap, Traced};

/// The files, with or without rounding of activations.
pub struct Look<'a> {
    files: &'a EmbeddedOnnx,
    rounding: Rounding,
    /// Channels of the decoder's residual: image rows of the files may have the modality behind them.
    width: usize,
}

impl<'a> Look<'a> {
    /// Looks into `files` of a decoder with `width` channels.
    pub fn new(files: &'a EmbeddedOnnx, rounding: Rounding, width: usize) -> Self {
        Self { files, rounding, width }
    }

    fn failed(question: &Question, e: &OnnxRunError) -> RunnerError {
        let sample = question.sample.id.clone();
        RunnerError::Question { kind: RunnerKind::Embedded, sample, reason: e.to_string() }
    }
}

/// Shows values of floats to a tap; others pass.
fn shown(tap: TraceTap<'_>) -> impl FnMut(&str, &Value) -> Option<Value> + '_ {
    move |name, value| {
        let array = value.floats()?;
        let tensor = Tensor::new(array.shape().to_vec(), array.data().to_vec()).ok()?;
        tap(name, &tensor).map(|other| Value::F32(other.into()))
    }
}

/// The first `width` channels of every row.
fn narrowed(rows: Tensor<f32>, width: usize) -> Tensor<f32> {
    if rows.cols() <= width {
        return rows;
    }
    let kept: Vec<f32> = (0..rows.rows()).flat_map(|r| rows.row(r)[..width].to_vec()).collect();
    Tensor::new(vec![rows.rows(), width], kept).unwrap_or(rows)
}

/// Every row with the modality of images, 1, in the channels behind it.
fn widened(rows: &Tensor<f32>, width: usize) -> Tensor<f32> {
    let more = width.saturating_sub(rows.cols());
    let row = |r: usize| rows.row(r).iter().copied().chain(std::iter::repeat_n(1.0, more));
    let data: Vec<f32> = (0..rows.rows()).flat_map(row).collect();
    Tensor::new(vec![rows.rows(), rows.cols() + more], data).unwrap_or_else(|_| rows.clone())
}

impl Traced for Look<'_> {
    fn vision(&self, question: &Question, tap: TraceTap<'_>) -> Result<Features, RunnerError> {
        let found = self.files.features(&question.prompt, self.rounding, &mut shown(tap));
        let found = found.map_err(|e| Self::failed(question, &e))?;
        Ok(found.map(|rows| narrowed(rows, self.width)))
    }

    fn decoder(
        &self,
        question: &Question,
        features: &Features,
        tap: TraceTap<'_>,
    ) -> Result<Vec<Distribution>, RunnerError> {
        // No rows, where there are no images: the vision file is not to be run here.
        let none = || Tensor::full(vec![0, self.files.width()], 0.0);
        let rows = features.as_ref().map_or_else(none, |rows| widened(rows, self.files.width()));
        let options = PrefillOptions { rounding: self.rounding, features: Some(&rows) };
        let found = self.files.prefill(question, options, &mut shown(tap));
        let logits = found.map_err(|e| Self::failed(question, &e))?.logits;
        Ok(distributions(logits.data(), logits.cols()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modality_comes_and_goes() {
        let rows = Tensor::new(vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let wide = widened(&rows, 3);
        assert_eq!((wide.shape(), wide.data()), (&[2, 3][..], &[1.0, 2.0, 1.0, 3.0, 4.0, 1.0][..]));
        assert_eq!(narrowed(wide, 2), rows);
        assert_eq!(widened(&rows, 2), rows);
    }
}
