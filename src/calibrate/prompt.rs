//! From a sample to the inputs of the model: template, ids, image placeholders, pixel rows and position ids joined.
//! The parts are in `chat`, `crate::tokenizer`, `pixels` and `positions`; running the model is not done here.

use ::image::RgbImage;
use rayon::prelude::*;

use crate::family::inputs::{ImagePlan, PositionRule, PromptPlan};
use crate::numeric::Tensor;
use crate::tokenizer::{Tokenizer, TokenizerError};

use super::DataError;
use super::chat::ChatTemplate;
use super::dataset::Sample;
use super::image::decode;
use super::pixels::{PixelRows, pixel_rows};
use super::positions::{image_tokens, mrope_positions};

/// Why a conversation could not become model inputs.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The chat template does not parse.
    #[error("the chat template does not parse")]
    TemplateSyntax {
        /// What the engine said, with the line.
        source: Box<minijinja::Error>,
    },
    /// The chat template failed on these messages.
    #[error("the chat template refused the messages")]
    TemplateRender {
        /// What the engine or the template said.
        source: Box<minijinja::Error>,
    },
    /// `chat_template` is neither a string nor a list with a default template.
    #[error(
        "chat_template must be a string or a list of named templates with one named 'default', found {found}"
    )]
    TemplateShape {
        /// The value.
        found: String,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The placeholder token of the plan is not that of the tokenizer.
    #[error(
        "the image placeholder '{token}' has id {found:?} in the tokenizer, the model's config says {expected}"
    )]
    PlaceholderId {
        /// Text of the placeholder.
        token: String,
        /// Id in the model's config.
        expected: i64,
        /// Id in the tokenizer; none if it has no such token.
        found: Option<i64>,
    },
    /// Image rows and positions are planned with different merge blocks.
    #[error("image rows merge {rows} x {rows} patches into a token, position ids {positions} x {positions}")]
    Merge {
        /// Merge block side of the pixel rows, in patches.
        rows: usize,
        /// Merge block side of the position rule, in patches.
        positions: usize,
    },
    /// Decoded images handed in differ in number from the sample's.
    #[error("the sample has {expected} images, {found} were handed in")]
    Images {
        /// Images of the sample.
        expected: usize,
        /// Images handed in.
        found: usize,
    },
    /// Placeholders in the tokenized prompt differ in number from the images (text that spells the placeholder counts).
    #[error("the prompt has {placeholders} image placeholders for {images} images")]
    Placeholders {
        /// Placeholders.
        placeholders: usize,
        /// Images.
        images: usize,
    },
    /// Prompt and answer are longer than the model's positions.
    #[error("the prompt has {prompt} tokens and the answer {answer}; the model takes {limit} together")]
    TooLong {
        /// Tokens of the prompt, images included.
        prompt: usize,
        /// Tokens of the expected answer.
        answer: usize,
        /// Most tokens the model takes.
        limit: usize,
    },
    /// A patch grid is empty or no whole number of merge blocks.
    #[error(
        "an image of {grid:?} (frames, rows, columns) patches is no whole number of {merge} x {merge} blocks"
    )]
    Grid {
        /// Frames, patch rows, patch columns.
        grid: [usize; 3],
        /// Merge block side in patches.
        merge: usize,
    },
    /// A run of image tokens does not match its grid.
    #[error("image {image} takes {expected} tokens, the prompt has {found} in its place")]
    Run {
        /// Place of the image in the prompt, from 0.
        image: usize,
        /// Tokens by its grid.
        expected: usize,
        /// Image tokens in the prompt.
        found: usize,
    },
}

/// Model inputs of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Token ids `[T]`, each image expanded to its tokens, up to where the answer begins.
    pub input_ids: Vec<i64>,
    /// Pixel rows of all images one after another, `[P, width]`; no rows when there is no image.
    pub pixel_values: Tensor<f32>,
    /// Frames, patch rows, patch columns of every image.
    pub grids: Vec<[usize; 3]>,
    /// Time, height and width position of every token, each `[T]`.
    pub position_ids: [Vec<i64>; 3],
    /// Ids of the expected answer's text, without an end token.
    pub answer_ids: Option<Vec<i64>>,
}

impl Prepared {
    /// Position (all three alike) of the first token after the prompt: the largest position plus one.
    pub fn next_position(&self) -> i64 {
        self.position_ids.iter().flatten().max().map_or(0, |&p| p + 1)
    }
}

/// Makes model inputs of samples, for one checkpoint.
#[derive(Debug)]
pub struct Preparer {
    image: ImagePlan,
    prompt: PromptPlan,
    template: ChatTemplate,
    tokenizer: Tokenizer,
}

impl Preparer {
    /// Joins the descriptions of one checkpoint.
    ///
    /// # Errors
    /// [`DataError::Plan`] when the tokenizer does not know the placeholder by the plan's id, or the two plans merge
    /// patches differently.
    pub fn new(
        image: ImagePlan,
        prompt: PromptPlan,
        template: ChatTemplate,
        tokenizer: Tokenizer,
    ) -> Result<Self, DataError> {
        let found = tokenizer.id_of(&prompt.image_token);
        if found != Some(prompt.image_token_id) {
            let (token, expected) = (prompt.image_token, prompt.image_token_id);
            return Err(DataError::Plan(PromptError::PlaceholderId { token, expected, found }));
        }
        let PositionRule::MropeGrid { merge } = prompt.positions;
        if merge != image.rows.merge {
            return Err(DataError::Plan(PromptError::Merge { rows: image.rows.merge, positions: merge }));
        }
        Ok(Self { image, prompt, template, tokenizer })
    }

    /// The tokenizer, to decode what the model writes.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Decodes the images of a sample, in prompt order.
    ///
    /// # Errors
    /// [`DataError::Image`].
    pub fn decode_images(&self, sample: &Sample) -> Result<Vec<RgbImage>, DataError> {
        let sources: Vec<_> = sample.images().enumerate().collect();
        sources
            .into_par_iter()
            .map(|(index, source)| decode(source).map_err(|source| image_error(sample, index, source)))
            .collect()
    }

    /// Decodes and prepares a sample.
    ///
    /// # Errors
    /// Those of [`decode_images`](Self::decode_images) and [`prepare`](Self::prepare).
    pub fn prepare_sample(&self, sample: &Sample) -> Result<Prepared, DataError> {
        self.prepare(sample, &self.decode_images(sample)?)
    }

    /// The inputs of a sample whose images are decoded in `images` (in prompt order). The same result for any number of
    /// threads.
    ///
    /// # Errors
    /// [`DataError::Image`] when an image cannot be resized; [`DataError::Prompt`] when the template refuses the
    /// messages, placeholders and images differ in number, or prompt and answer are longer than the plan's
    /// `max_positions`.
    pub fn prepare(&self, sample: &Sample, images: &[RgbImage]) -> Result<Prepared, DataError> {
        let prompt_error = |source| DataError::Prompt { sample: sample.id.clone(), source };
        let expected = sample.images().count();
        if expected != images.len() {
            return Err(prompt_error(PromptError::Images { expected, found: images.len() }));
        }
        let rows = images
            .iter()
            .enumerate()
            .map(|(index, image)| {
                pixel_rows(image, &self.image).map_err(|source| image_error(sample, index, source))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let grids: Vec<[usize; 3]> = rows.iter().map(|r| r.grid).collect();
        let pixel_values = self.join(&rows);
        let tokens = self.tokens(sample, &grids).map_err(prompt_error)?;
        Ok(Prepared {
            input_ids: tokens.prompt,
            pixel_values,
            grids,
            position_ids: tokens.positions,
            answer_ids: tokens.answer,
        })
    }

    /// All rows as one tensor.
    fn join(&self, images: &[PixelRows]) -> Tensor<f32> {
        let width = self.image.rows.width();
        let count = images.iter().map(|r| r.grid.iter().product::<usize>()).sum();
        let mut tensor = Tensor::full(vec![count, width], 0.0);
        let mut rest = tensor.data_mut();
        for image in images {
            let (here, after) = rest.split_at_mut(image.values.len());
            here.copy_from_slice(&image.values);
            rest = after;
        }
        tensor
    }

    /// Ids and positions of a sample whose images have these grids.
    fn tokens(&self, sample: &Sample, grids: &[[usize; 3]]) -> Result<Tokens, PromptError> {
        let PositionRule::MropeGrid { merge } = self.prompt.positions;
        let text = self.template.render(&sample.messages, true)?;
        let prompt = self.expand(&self.tokenizer.encode(&text)?, grids, merge)?;
        let answer = sample.answer.as_deref().map(|a| self.tokenizer.encode(a)).transpose()?;
        let answer_length = answer.as_ref().map_or(0, Vec::len);
        if prompt.len() + answer_length > self.prompt.max_positions {
            let limit = self.prompt.max_positions;
            return Err(PromptError::TooLong { prompt: prompt.len(), answer: answer_length, limit });
        }
        let positions = mrope_positions(&prompt, grids, self.prompt.image_token_id, merge)?;
        Ok(Tokens { prompt, positions, answer })
    }

    /// Repeats each placeholder once per merged token of its image. The reference repeats the placeholder's text before
    /// tokenizing; a special token is cut out of the text first, so the ids are the same.
    fn expand(&self, ids: &[i64], grids: &[[usize; 3]], merge: usize) -> Result<Vec<i64>, PromptError> {
        let image = self.prompt.image_token_id;
        let placeholders = ids.iter().filter(|&&id| id == image).count();
        if placeholders != grids.len() {
            return Err(PromptError::Placeholders { placeholders, images: grids.len() });
        }
        let mut counts = grids.iter();
        let mut out = Vec::with_capacity(ids.len());
        for &id in ids {
            match (id == image).then(|| counts.next()).flatten() {
                Some(&grid) => out.extend(std::iter::repeat_n(image, image_tokens(grid, merge)?)),
                None => out.push(id),
            }
        }
        Ok(out)
    }
}

/// Ids and positions of one sample.
struct Tokens {
    prompt: Vec<i64>,
    positions: [Vec<i64>; 3],
    answer: Option<Vec<i64>>,
}

fn image_error(sample: &Sample, index: usize, source: super::image::ImageError) -> DataError {
    DataError::Image { sample: sample.id.clone(), index, source }
}

#[cfg(test)]
mod tests;
