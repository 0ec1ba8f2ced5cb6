//! What can go wrong between a conversation and the inputs of a model.

use crate::family::inputs::TileTokens;
use crate::tokenizer::TokenizerError;

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
    /// Image rows, tokens and positions are planned with different merge blocks.
    #[error(
        "position ids merge {positions} x {positions} patches into a token, image rows {rows} x {rows}; tokens are {tokens:?}"
    )]
    Merge {
        /// Merge block side of the pixel rows, in patches.
        rows: usize,
        /// Merge block side of the position rule, in patches.
        positions: usize,
        /// Decoder rows of a tile.
        tokens: TileTokens,
    },
    /// The plan's marker or placeholder is empty.
    #[error("the text that marks an image and the text of its placeholder must not be empty")]
    NoMarker,
    /// A message holds the code point that marks cuts.
    #[error("a message holds U+10FFFE, which is no character and is kept for the template")]
    Reserved,
    /// Decoded images handed in differ in number from the sample's.
    #[error("the sample has {expected} images, {found} were handed in")]
    Images {
        /// Images of the sample.
        expected: usize,
        /// Images handed in.
        found: usize,
    },
    /// Image markers in the rendered prompt differ in number from the images (text that spells the marker counts).
    #[error("the prompt has {placeholders} image placeholders for {images} images")]
    Placeholders {
        /// Markers.
        placeholders: usize,
        /// Images.
        images: usize,
    },
    /// Placeholder tokens in the tokenized prompt differ in number from the images' rows (text that spells the token
    /// counts).
    #[error("the tokenized prompt has {found} image tokens, the images take {expected}")]
    ImageTokens {
        /// Rows of all images.
        expected: usize,
        /// Tokens.
        found: usize,
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
    /// An image has too few rows for shared positions.
    #[error("image {image} takes {rows} tokens; positions that images share need at least 3")]
    SharedRows {
        /// Place of the image in the prompt, from 0.
        image: usize,
        /// Its tokens.
        rows: usize,
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
