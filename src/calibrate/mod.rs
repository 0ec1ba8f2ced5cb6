//! Calibration and evaluation data: data set files, image preprocessing, chat templates, and the inputs
//! of a model made from them exactly as the reference processor makes them.
//!
//! The way of one sample: [`dataset`] reads it, [`image`] decodes its pictures, [`views`] chooses sizes and tiles,
//! [`resize`] and [`pixels`] turn them into rows, [`chat`] renders the conversation, [`expansion`] puts the images'
//! placeholders into it, [`tokenizer`](crate::tokenizer) turns it into ids, [`positions`] numbers them, and [`prompt`] joins all
//! of these. Nothing here runs a model or knows a family by name: what differs between families
//! arrives as the plain data of `family::inputs`.

pub mod chat;
pub mod dataset;
pub mod expansion;
pub mod image;
pub mod observe;
pub mod pixels;
pub mod positions;
pub mod prompt;
pub mod resize;
pub mod views;

pub use dataset::{Content, Dataset, DatasetError, ImageSource, LoadOptions, Message, Role, Sample, load};
pub use prompt::{Prepared, Preparer};

/// Why calibration data could not be read or made into model inputs.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The data set file.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// One image of one sample.
    #[error("sample '{sample}', image {index}")]
    Image {
        /// Id of the sample.
        sample: String,
        /// Place of the image among the sample's images, from 0.
        index: usize,
        /// What is wrong with it.
        source: image::ImageError,
    },
    /// The conversation of one sample.
    #[error("sample '{sample}'")]
    Prompt {
        /// Id of the sample.
        sample: String,
        /// What is wrong with it.
        source: prompt::PromptError,
    },
    /// Plans, template and tokenizer do not fit together.
    #[error("the model's prompt description does not fit its tokenizer")]
    Plan(#[source] prompt::PromptError),
}
