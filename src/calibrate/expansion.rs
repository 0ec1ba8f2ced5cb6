//! Puts the placeholders of images into a rendered prompt: each marker becomes the text that the family's expansion
//! writes for that image, as the references do before they tokenize. Ids are in `prompt`.

use minijinja::Environment;
use serde_json::json;

use crate::family::inputs::{PromptPlan, TileTokens};

use super::chat::{CUT, NAME, environment};
use super::prompt::PromptError;
use super::views::View;

/// What an image takes in the prompt.
#[derive(Clone, Copy, Debug)]
pub struct ImageTiles<'a> {
    /// Its views, whose tiles follow each other row by row.
    pub views: &'a [View],
    /// Frames, patch rows and patch columns of each tile.
    pub grids: &'a [[usize; 3]],
}

impl ImageTiles<'_> {
    /// Decoder rows of each tile.
    ///
    /// # Errors
    /// [`PromptError::Grid`] when a tile is no whole number of blocks.
    pub fn rows(&self, tokens: TileTokens) -> Result<Vec<usize>, PromptError> {
        self.grids.iter().map(|&grid| tile_rows(tokens, grid)).collect()
    }
}

/// Decoder rows of a tile of `grid` (frames, patch rows, patch columns).
///
/// # Errors
/// [`PromptError::Grid`] when it is empty or no whole number of blocks.
pub fn tile_rows(tokens: TileTokens, grid: [usize; 3]) -> Result<usize, PromptError> {
    let (rows, extra) = match tokens {
        TileTokens::Merged { merge, extra } => (super::positions::image_tokens(grid, merge)?, extra),
        TileTokens::Fixed { rows, extra } => (rows, extra),
    };
    Ok(rows.saturating_add(extra))
}

/// The expansion of one family.
#[derive(Debug)]
pub struct Expansion {
    environment: Environment<'static>,
    marker: String,
    token: String,
    tokens: TileTokens,
    limit: usize,
}

impl Expansion {
    /// Compiles the expansion of a plan.
    ///
    /// # Errors
    /// [`PromptError::TemplateSyntax`]; [`PromptError::NoMarker`] when marker or placeholder are empty.
    pub fn new(plan: &PromptPlan) -> Result<Self, PromptError> {
        if plan.marker.is_empty() || plan.image_token.is_empty() {
            return Err(PromptError::NoMarker);
        }
        Ok(Self {
            environment: environment(&plan.expansion)?,
            marker: plan.marker.clone(),
            token: plan.image_token.clone(),
            tokens: plan.tokens,
            limit: plan.max_positions,
        })
    }

    /// The pieces of a rendered prompt that are tokenized one by one, with the images' placeholders in them. No piece is
    /// empty.
    ///
    /// # Errors
    /// [`PromptError::Placeholders`] when markers and images differ in number (text that spells the marker counts),
    /// [`PromptError::TooLong`] when the images alone take more rows than the model has positions,
    /// [`PromptError::TemplateRender`] when the expansion cannot be run.
    pub fn pieces(&self, text: &str, images: &[ImageTiles<'_>]) -> Result<Vec<String>, PromptError> {
        let parts: Vec<&str> = text.split(self.marker.as_str()).collect();
        let placeholders = parts.len() - 1;
        if placeholders != images.len() {
            return Err(PromptError::Placeholders { placeholders, images: images.len() });
        }
        let rows: Vec<Vec<usize>> = images.iter().map(|i| i.rows(self.tokens)).collect::<Result<_, _>>()?;
        let prompt = rows.iter().flatten().fold(0usize, |sum, n| sum.saturating_add(*n));
        if prompt > self.limit {
            return Err(PromptError::TooLong { prompt, answer: 0, limit: self.limit });
        }
        let mut out = String::with_capacity(text.len() + prompt * self.token.len());
        for (index, part) in parts.iter().enumerate() {
            out.push_str(part);
            if let (Some(image), Some(rows)) = (images.get(index), rows.get(index)) {
                out.push_str(&self.image(index, image.views, rows)?);
            }
        }
        Ok(out.split(CUT).filter(|piece| !piece.is_empty()).map(String::from).collect())
    }

    /// The text of image `index` whose tiles take `rows`.
    fn image(&self, index: usize, views: &[View], rows: &[usize]) -> Result<String, PromptError> {
        let failed = |e| PromptError::TemplateRender { source: Box::new(e) };
        let mut tiles = rows.iter().map(|&n| self.token.repeat(n));
        let mut line = |columns: u32| -> Vec<String> { tiles.by_ref().take(columns as usize).collect() };
        let views: Vec<Vec<Vec<String>>> =
            views.iter().map(|v| (0..v.rows).map(|_| line(v.columns)).collect()).collect();
        let template = self.environment.get_template(NAME).map_err(failed)?;
        template.render(json!({ "index": index, "views": views })).map_err(failed)
    }
}

#[cfg(test)]
mod tests;
