//! The graph: the one intermediate representation between checkpoints and back-ends. This header is its specification.
//!
//! # Model
//! A [`Model`] holds three [`Graph`]s, one per exported file ([`Part`]): `vision` (vision tower and projector),
//! `embedding` (token table and splice of image rows) and `decoder`. A graph is a list of [`Node`]s in evaluation order; every
//! value is written once, before it is read. Weights are not values: nodes name them by [`WeightId`] in the model's
//! [`WeightDecl`] table, and their numbers come from a [`WeightSource`] one at a time, so a graph of any model fits in memory.
//!
//! # Values
//! A [`ValueInfo`] is a float or integer tensor whose last axis is channels. Axes are [`Dim`]s: fixed, or one of a closed set of
//! symbols. Tensors of tokens are `[batch, sequence, channels]` in the decoder and `[1, rows, channels]` in the vision tower, where an integer
//! value `[rows]` gives the *segment* of each row: the frame, image or tile inside which it attends. Segments are runs numbered from 0;
//! nothing in a graph depends on the number of images, their sizes, the length of the prompt or of the cache.
//!
//! # Basis: what may be rotated
//! A float value may carry a [`Basis`]: its channels are coordinates of a residual [`Stream`] (`copies` of it side by side
//! after patches were merged). A linear whose input has a basis *reads* the stream, one whose output has a basis *writes* it;
//! so do layer scales, token tables and constant rows.
//! Normalisations and row selections keep the basis; sums need equal bases; element-wise non-linearities, products,
//! rotary embeddings and attention are legal on values without a basis only. So a stream's rotation is exact when it is applied to all readers
//! and writers of that basis, and a graph in which it would not be exact does not validate.
//!
//! # Modality
//! Every row of a vision graph is visual. In the decoder, rows of both kinds are mixed; an op that treats them apart takes a
//! *modality* value `[batch, sequence, 1]`, 1 for visual rows and 0 for text. It exists only when something uses it: the
//! MSQ pass appends it as one more channel to image features and embeddings and splits it off at the decoder's entry.
//!
//! # Quantized linears
//! A [`ops::Linear`] with `act: Some(_)` rounds its input rows to int8, by default at the static scale of their modality; its weight
//! must then be declared on a grid ([`WeightFormat::Grid`]). A weight on a grid without `act` is read as floats. Everything else computes in float.
//!
//! # Validity
//! [`validate`] checks a model and returns all problems at once. A valid model can be executed and lowered without panics: back-ends
//! either succeed or return an error. Every constructor of a model here ([`build`], and each pass) is followed by validation.
//!
//! What does not live here: numbers (checkpoint, quantize), arithmetic (exec), file formats (export), family names (converters).

pub mod build;
mod dump;
mod glob;
mod model;
pub mod ops;
pub mod spec;
mod types;
mod validate;
mod weights;

pub use dump::dump;
pub use glob::glob;
pub use model::{Graph, GraphBuilder, Model, Node, Part, ValueId};
pub use ops::Op;
pub use types::{Basis, DType, Dim, Stream, Sym, ValueInfo};
pub use validate::{GraphProblem, ValidationError, validate};
pub use weights::{Component, WeightData, WeightDecl, WeightError, WeightFormat, WeightId, WeightSource};
