//! From a sample to the inputs of the model: template, image placeholders, ids, pixel rows and position ids joined.
//! The parts are in `chat`, `expansion`, `crate::tokenizer`, `pixels` and `positions`; running the model is not done here.

mod error;

use ::image::RgbImage;
use rayon::prelude::*;

use crate::family::inputs::{ImagePlan, PositionRule, PromptPlan, TileTokens};
use crate::numeric::Tensor;
use crate::tokenizer::Tokenizer;

pub use error::PromptError;

use super::DataError;
use super::chat::ChatTemplate;
use super::dataset::Sample;
use super::expansion::{Expansion, ImageTiles};
use super::image::decode;
use super::pixels::{PixelRows, pixel_rows};
use super::positions::{ImageRows, position_ids};

/// Model inputs of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Token ids `[T]`, each image expanded to its tokens, up to where the answer begins.
    pub input_ids: Vec<i64>,
    /// Pixel rows of all images one after another, `[P, width]`; no rows when there is no image.
    pub pixel_values: Tensor<f32>,
    /// Frames, patch rows, patch columns of every tile of every image.
    pub grids: Vec<[usize; 3]>,
    /// Tiles of every image.
    pub tiles: Vec<usize>,
    /// Positions of every token, `[T]` for each axis of the position rule (time, height and width, or one).
    pub position_ids: Vec<Vec<i64>>,
    /// Ids of the expected answer's text, without an end token.
    pub answer_ids: Option<Vec<i64>>,
}

impl Prepared {
    /// Position (all axes alike) of the first token after the prompt: the largest position plus one.
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
    expansion: Expansion,
    tokenizer: Tokenizer,
}

impl Preparer {
    /// Joins the descriptions of one checkpoint.
    ///
    /// # Errors
    /// [`DataError::Plan`] when the tokenizer does not know the placeholder by the plan's id, the expansion does not parse, or
    /// positions on a grid merge patches otherwise than rows and tokens.
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
        if let PositionRule::MropeGrid { merge } = prompt.positions
            && (merge != image.rows.merge || prompt.tokens != TileTokens::Merged { merge, extra: 0 })
        {
            let (rows, tokens) = (image.rows.merge, prompt.tokens);
            return Err(DataError::Plan(PromptError::Merge { rows, positions: merge, tokens }));
        }
        let expansion = Expansion::new(&prompt).map_err(DataError::Plan)?;
        Ok(Self { image, prompt, template, expansion, tokenizer })
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
        let tokens = self.tokens(sample, &rows).map_err(prompt_error)?;
        Ok(Prepared {
            input_ids: tokens.prompt,
            pixel_values: self.join(&rows),
            grids: rows.iter().flat_map(|r| r.grids.iter().copied()).collect(),
            tiles: rows.iter().map(|r| r.grids.len()).collect(),
            position_ids: tokens.positions,
            answer_ids: tokens.answer,
        })
    }

    /// All rows as one tensor.
    fn join(&self, images: &[PixelRows]) -> Tensor<f32> {
        let width = self.image.rows.width();
        let count = images.iter().flat_map(|r| &r.grids).map(|grid| grid.iter().product::<usize>()).sum();
        let mut tensor = Tensor::full(vec![count, width], 0.0);
        let mut rest = tensor.data_mut();
        for image in images {
            let (here, after) = rest.split_at_mut(image.values.len());
            here.copy_from_slice(&image.values);
            rest = after;
        }
        tensor
    }

    /// Ids and positions of a sample whose images have these rows. Cut pieces are tokenized one by one.
    fn tokens(&self, sample: &Sample, images: &[PixelRows]) -> Result<Tokens, PromptError> {
        let tiles: Vec<ImageTiles<'_>> =
            images.iter().map(|i| ImageTiles { views: &i.views, grids: &i.grids }).collect();
        let text = self.template.render(&sample.messages, true)?;
        let mut prompt = Vec::new();
        for piece in self.expansion.pieces(&text, &tiles)? {
            prompt.extend(self.tokenizer.encode(&piece)?);
        }
        let answer = sample.answer.as_deref().map(|a| self.tokenizer.encode(a)).transpose()?;
        let answer_length = answer.as_ref().map_or(0, Vec::len);
        if prompt.len() + answer_length > self.prompt.max_positions {
            let limit = self.prompt.max_positions;
            return Err(PromptError::TooLong { prompt: prompt.len(), answer: answer_length, limit });
        }
        let positions = self.positions(&prompt, &tiles)?;
        Ok(Tokens { prompt, positions, answer })
    }

    /// Position ids of `ids`, in which every placeholder belongs to an image.
    fn positions(&self, ids: &[i64], images: &[ImageTiles<'_>]) -> Result<Vec<Vec<i64>>, PromptError> {
        let per_tile = |i: &ImageTiles<'_>| i.rows(self.prompt.tokens);
        let rows: Vec<usize> =
            images.iter().map(|i| Ok(per_tile(i)?.iter().sum())).collect::<Result<_, PromptError>>()?;
        let token_id = self.prompt.image_token_id;
        let (expected, found) = (rows.iter().sum(), ids.iter().filter(|&&id| id == token_id).count());
        if expected != found {
            return Err(PromptError::ImageTokens { expected, found });
        }
        let grids: Vec<[usize; 3]> = images.iter().flat_map(|i| i.grids.iter().copied()).collect();
        position_ids(self.prompt.positions, ids, ImageRows { token_id, rows: &rows, grids: &grids })
    }
}

/// Ids and positions of one sample.
struct Tokens {
    prompt: Vec<i64>,
    positions: Vec<Vec<i64>>,
    answer: Option<Vec<i64>>,
}

fn image_error(sample: &Sample, index: usize, source: super::image::ImageError) -> DataError {
    DataError::Image { sample: sample.id.clone(), index, source }
}

#[cfg(test)]
mod tests;
