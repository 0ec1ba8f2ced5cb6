//! Resolved description of a model's inputs: how images become pixel rows and how a prompt becomes ids and positions.
//! Plain data, filled by `family::resolve` from the family file and the checkpoint's own JSON files; interpreted by
//! `calibrate`. No image or text is touched here.

/// How one image becomes rows of `pixel_values`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagePlan {
    /// Size the image is resized to.
    pub resize: Resize,
    /// Channel means subtracted after the rescale (RGB, in units of the 0..1 range).
    pub mean: [f32; 3],
    /// Channel standard deviations divided by after the mean.
    pub std: [f32; 3],
    /// Factor from 8-bit values to the 0..1 range.
    pub rescale: f64,
    /// How normalised pixels are cut into rows.
    pub rows: PatchRows,
}

/// Rule for the target size of an image. The filter is always bicubic with antialiasing, as in Pillow.
#[derive(Clone, Debug, PartialEq)]
pub enum Resize {
    /// Both sides to multiples of `factor`, area kept within the limits
    /// (`smart_resize` of transformers' `image_processing_qwen2_vl.py`).
    Smart {
        /// Side granularity in pixels (`patch_size * merge_size`).
        factor: u32,
        /// Smallest allowed area in pixels.
        min_pixels: u64,
        /// Largest allowed area in pixels.
        max_pixels: u64,
    },
}

/// Patch rows in merge-block order: block row, block column, row inside the block, column inside the block.
/// One row holds `(channel, time, y, x)` of one patch; a still image is repeated over time.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchRows {
    /// Patch side in pixels.
    pub patch: usize,
    /// Merge block side in patches; one block becomes one token.
    pub merge: usize,
    /// Frames per patch.
    pub temporal: usize,
    /// Colour channels.
    pub channels: usize,
}

impl PatchRows {
    /// Values per row of `pixel_values`.
    pub fn width(&self) -> usize {
        self.channels * self.temporal * self.patch * self.patch
    }
}

/// How a rendered prompt becomes token ids and position ids.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptPlan {
    /// Id of the placeholder token; the chat template writes one per image, tokenizing repeats it once per merged token.
    pub image_token_id: i64,
    /// Text of that placeholder token.
    pub image_token: String,
    /// Ids that end generation.
    pub eos_token_ids: Vec<i64>,
    /// Rule that gives each token its position ids.
    pub positions: PositionRule,
    /// Longest prompt plus answer the model accepts, in tokens.
    pub max_positions: usize,
}

/// Rule that gives each decoder token its position ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionRule {
    /// M-RoPE (arXiv 2409.12191 section 2.1): three rows (time, height, width). Text advances all three together; an
    /// image at position s takes (s + t, s + row, s + column) over the merged grid, the next token starts after the largest.
    MropeGrid {
        /// Merge block side in patches.
        merge: usize,
    },
}
