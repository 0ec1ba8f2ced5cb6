//! Resolved description of a model's inputs: how images become pixel rows and how a prompt becomes ids and positions.
//! Plain data, filled by `family::resolve` from the family file and the checkpoint's own JSON files; interpreted by
//! `calibrate`. No image or text is touched here.

pub mod gguf;

/// Longest side a family may ask an image or a tile to be resized to, in pixels.
pub const MAX_TARGET_SIDE: u32 = 32768;

/// Most tiles one image may be cut into.
pub const MAX_TILES: u32 = 128;

/// How one image becomes rows of `pixel_values`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImagePlan {
    /// What the tower sees of the image: sizes and tiles.
    pub views: Views,
    /// Channel means subtracted after the rescale (RGB, in units of the 0..1 range).
    pub mean: [f32; 3],
    /// Channel standard deviations divided by after the mean.
    pub std: [f32; 3],
    /// Factor from 8-bit values to the 0..1 range.
    pub rescale: f64,
    /// How normalised pixels are cut into rows.
    pub rows: PatchRows,
}

/// Rule for the views of an image: the whole image resized once per view and each result cut into tiles. The filter is
/// always bicubic with antialiasing, as in Pillow.
#[derive(Clone, Debug, PartialEq)]
pub enum Views {
    /// One view of one tile: both sides to multiples of `factor`, area kept within the limits
    /// (`smart_resize` of transformers' `image_processing_qwen2_vl.py`).
    Smart {
        /// Side granularity in pixels (`patch_size * merge_size`).
        factor: u32,
        /// Smallest allowed area in pixels.
        min_pixels: u64,
        /// Largest allowed area in pixels.
        max_pixels: u64,
    },
    /// One view of one tile of a fixed size; the aspect ratio is not kept.
    Stretch {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Square tiles: a view of columns x rows of them, chosen by aspect ratio, and a view of one tile when there is more
    /// than one (`dynamic_preprocess` of InternVL's `internvl/train/dataset.py`).
    Tiles {
        /// Side of a tile in pixels.
        size: u32,
        /// Fewest tiles of the first view.
        min_tiles: u32,
        /// Most tiles of the first view.
        max_tiles: u32,
        /// Whether several tiles are followed by the whole image as one more.
        thumbnail: bool,
    },
    /// An overview of about `resolution`^2 pixels and, for images larger than that, a view cut into up to `max_slices`
    /// cells of about that area, all with the image's aspect ratio (`slice_image` of MiniCPM-V 2.6's
    /// `image_processing_minicpmv.py`).
    Slices {
        /// Square root of the area of a cell, in pixels.
        resolution: u32,
        /// Side granularity of a cell in pixels.
        patch: u32,
        /// Most cells.
        max_slices: u32,
    },
}

impl Views {
    /// The area limits in pixels of a rule that has them.
    pub fn pixel_limits(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Smart { min_pixels, max_pixels, .. } => Some((min_pixels, max_pixels)),
            Self::Stretch { .. } | Self::Tiles { .. } | Self::Slices { .. } => None,
        }
    }
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

/// How a conversation becomes token ids and position ids.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptPlan {
    /// The chat template.
    pub template: TemplateSource,
    /// The form in which the template sees a message.
    pub content: ContentForm,
    /// Text that stands once per image in what the template writes.
    pub marker: String,
    /// Jinja text of what takes the place of an image's marker. Variables: `index`, the image's number in the
    /// conversation, from 0, and `views`, a list of views, each a list of rows, each a list of tile texts (the placeholder
    /// token once per decoder row of the tile).
    pub expansion: String,
    /// Id of the placeholder token: one per decoder row of an image.
    pub image_token_id: i64,
    /// Text of that placeholder token.
    pub image_token: String,
    /// Decoder rows of a tile.
    pub tokens: TileTokens,
    /// Ids that end generation.
    pub eos_token_ids: Vec<i64>,
    /// Rule that gives each token its position ids.
    pub positions: PositionRule,
    /// Longest prompt plus answer the model accepts, in tokens.
    pub max_positions: usize,
}

/// Where the chat template comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateSource {
    /// The checkpoint's own files.
    Checkpoint,
    /// The family file. Such a template sees contents as lists of parts and may print `cut` where the reference tokenizes
    /// the text before and after it apart.
    Text(String),
}

/// The form in which a template sees the content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentForm {
    /// As parts (`{"type": "text", "text": ..}`, `{"type": "image"}`).
    Parts,
    /// As one string.
    Joined {
        /// Text between two parts.
        separator: String,
        /// Text of an image.
        image: String,
    },
}

/// How many decoder rows one tile becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileTokens {
    /// One per block of `merge` x `merge` patches, and `extra` more.
    Merged {
        /// Block side in patches.
        merge: usize,
        /// Rows beside those of the patches.
        extra: usize,
    },
    /// The same number for every tile.
    Fixed {
        /// That number.
        rows: usize,
        /// Rows beside those.
        extra: usize,
    },
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
    /// One row: 0, 1, 2, ...
    Sequential,
    /// One row in which an image takes three positions however long it is: its first row p, its last p + 2, all between
    /// p + 1 (`ChatGLMModel.forward` of GLM-4V's `modeling_chatglm.py`).
    SharedImage,
}

impl PositionRule {
    /// Rows of position ids.
    pub fn axes(self) -> usize {
        match self {
            Self::MropeGrid { .. } => 3,
            Self::Sequential | Self::SharedImage => 1,
        }
    }
}
