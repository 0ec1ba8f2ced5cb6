//! Looking into a model while it runs: every named value is shown and may be replaced by another, which attribution does with the float model's values.

use super::runner::{Distribution, Question, RunnerError};
use crate::numeric::Tensor;

/// Sees a value by its name in the intermediate representation, such as `decoder.layers.0.attn.sum`, and may give another of the same shape in its place.
pub type TraceTap<'t> = &'t mut dyn FnMut(&str, &Tensor<f32>) -> Option<Tensor<f32>>;

/// Rows of images `[rows, width]`; none without images.
pub type Features = Option<Tensor<f32>>;

/// A model that can be looked into, one question at a time.
pub trait Traced {
    /// Rows of the question's images in the decoder.
    ///
    /// # Errors
    /// [`RunnerError`] when it does not run.
    fn vision(&self, question: &Question, tap: TraceTap<'_>) -> Result<Features, RunnerError>;

    /// What the decoder says behind the prompt and behind each fed token, where the images' rows are these.
    ///
    /// # Errors
    /// [`RunnerError`] when it does not run.
    fn decoder(
        &self,
        question: &Question,
        features: &Features,
        tap: TraceTap<'_>,
    ) -> Result<Vec<Distribution>, RunnerError>;
}
