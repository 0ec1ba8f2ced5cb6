//! Types of graph values: element type, axes, basis. See the specification in [`crate::graph`].

use std::fmt;

/// Element type of a value. The executor picks the width (`f32` or `f64`; `i64`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// Real numbers.
    Float,
    /// Signed integers (ids, positions, sizes, masks).
    Int,
}

/// An extent known only when the graph runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sym {
    /// Prompts in one run.
    Batch,
    /// New tokens per prompt.
    Sequence,
    /// Tokens already in the key/value cache.
    Past,
    /// `Past + Sequence`.
    Total,
    /// `Batch * Sequence`: the new tokens of all prompts in one list, visual ones first (AIFS).
    ByModality,
    /// Vision patches of all images.
    Patches,
    /// Vision rows with the class rows of their segments.
    TowerRows,
    /// Vision rows after neighbours were merged, where more rows join them before they are image tokens.
    MergedRows,
    /// Image rows handed to the decoder.
    ImageTokens,
    /// Images in one run.
    Images,
}

impl Sym {
    /// Name used in dumps and as the ONNX `dim_param`.
    pub fn name(self) -> &'static str {
        match self {
            Sym::Batch => "batch_size",
            Sym::Sequence => "sequence_length",
            Sym::Past => "past_sequence_length",
            Sym::Total => "total_sequence_length",
            Sym::ByModality => "num_rows_by_modality",
            Sym::Patches => "num_patches",
            Sym::TowerRows => "num_tower_rows",
            Sym::MergedRows => "num_merged_rows",
            Sym::ImageTokens => "num_image_tokens",
            Sym::Images => "num_images",
        }
    }
}

/// One axis of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Known when the graph is built.
    Fixed(usize),
    /// Known when the graph runs.
    Sym(Sym),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Sym(s) => f.write_str(s.name()),
        }
    }
}

/// A residual stream: linears add to it and read from it; one orthogonal matrix may rotate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// The vision tower's residual.
    Vision,
    /// The decoder's residual; the projector and the token table write it too.
    Decoder,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Vision => "vision",
            Stream::Decoder => "decoder",
        })
    }
}

/// The channels of a value are coordinates of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    /// Whose coordinates.
    pub stream: Stream,
    /// How many vectors of the stream lie side by side in the channel axis (merged patches).
    pub copies: usize,
}

impl Basis {
    /// One vector of `stream` per row.
    pub fn of(stream: Stream) -> Option<Basis> {
        Some(Basis { stream, copies: 1 })
    }
}

/// What is known of a value before the graph runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    /// Unique name inside its graph; also its name in an exported ONNX file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Axes, outermost first.
    pub shape: Vec<Dim>,
    /// Stream coordinates, if the channels are such.
    pub basis: Option<Basis>,
}

impl ValueInfo {
    /// Extent of the channel axis, when fixed.
    pub fn channels(&self) -> Option<usize> {
        match self.shape.last() {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        }
    }

    /// The same axes with another number of channels.
    pub fn with_channels(&self, n: usize) -> Vec<Dim> {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Fixed(n);
        }
        shape
    }
}

impl fmt::Display for ValueInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = match self.dtype {
            DType::Float => "float",
            DType::Int => "int",
        };
        let dims: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        write!(f, "%{}: {t}[{}]", self.name, dims.join(", "))?;
        match self.basis {
            Some(b) if b.copies == 1 => write!(f, " @{}", b.stream),
            Some(b) => write!(f, " @{}x{}", b.stream, b.copies),
            None => Ok(()),
        }
    }
}
