//! Builders: [`ModelSpec`] in, valid [`Model`] out, one file per component. Roles given to weights here are the canonical names that
//! family files map checkpoints to.

mod decoder;
mod embedding;
mod projector;
mod vision;

pub use decoder::PROMPT_LENGTH;

use super::model::{Model, Part};
use super::ops::OpError;
use super::spec::ModelSpec;
use super::validate::{ValidationError, validate};
use super::weights::Component;
use super::{GraphBuilder, ops};

/// Why no model could be built from a spec.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An op refused its operands: sizes in the spec contradict each other.
    #[error("the model description is contradictory")]
    Op(#[from] OpError),
    /// The finished model breaks a rule of the IR.
    #[error("the model built from the description is not valid")]
    Invalid(#[from] ValidationError),
}

/// Builds and validates the three graphs of a model.
///
/// # Errors
/// [`BuildError`] when sizes in the spec contradict each other.
pub fn build(spec: ModelSpec) -> Result<Model, BuildError> {
    let mut weights = Vec::new();
    let mut graphs = Vec::new();
    let mut g = GraphBuilder::new(Part::Vision, &mut weights, Component::Vision);
    let tower = vision::build(&spec, &mut g)?;
    g.component(Component::Projector);
    projector::build(&spec, &mut g, &tower)?;
    graphs.push(g.finish());
    let mut g = GraphBuilder::new(Part::Embedding, &mut weights, Component::Embedding);
    embedding::build(&spec, &mut g)?;
    graphs.push(g.finish());
    let mut g = GraphBuilder::new(Part::Decoder, &mut weights, Component::Decoder);
    decoder::build(&spec.decoder, &mut g)?;
    graphs.push(g.finish());
    let model = Model { spec, graphs, weights };
    validate(&model)?;
    Ok(model)
}

/// A linear under construction: its role, sizes, bias and what it writes.
struct LinearDef<'a> {
    role: &'a str,
    out: usize,
    input: usize,
    bias: bool,
    writes: Option<super::Basis>,
}

impl LinearDef<'_> {
    /// Declares the weights and adds the node, named like the role.
    fn add(self, g: &mut GraphBuilder<'_>, x: super::ValueId) -> Result<super::ValueId, OpError> {
        let weight = g.weight(&format!("{}.weight", self.role), vec![self.out, self.input]);
        let bias = self.bias.then(|| g.weight(&format!("{}.bias", self.role), vec![self.out]));
        g.add(self.role, ops::Linear { weight, bias, act: None, writes: self.writes }, &[x])
    }
}

/// Adds a LayerNorm with gain and bias of the given role.
fn layer_norm(
    g: &mut GraphBuilder<'_>,
    role: &str,
    width: usize,
    eps: f64,
    x: super::ValueId,
) -> Result<super::ValueId, OpError> {
    let gain = g.weight(&format!("{role}.weight"), vec![width]);
    let bias = g.weight(&format!("{role}.bias"), vec![width]);
    g.add(role, ops::LayerNorm { gain, bias, eps }, &[x])
}

/// Adds an RmsNorm with the gain of the given role.
fn rms_norm(
    g: &mut GraphBuilder<'_>,
    role: &str,
    width: usize,
    eps: f64,
    x: super::ValueId,
) -> Result<super::ValueId, OpError> {
    let gain = g.weight(&format!("{role}.weight"), vec![width]);
    g.add(role, ops::RmsNorm { gain, eps }, &[x])
}

/// Inverse frequencies `theta^(-2k / dim)`, `k < dim / 2`. Both references compute in f32: the power first, then its reciprocal.
fn inv_freq(theta: f64, dim: usize) -> Vec<f32> {
    (0..dim / 2).map(|k| 1.0 / (theta as f32).powf((2 * k) as f32 / dim as f32)).collect()
}
