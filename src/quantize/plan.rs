//! The plan: what the recipe means for each linear of one model.

use std::collections::{BTreeMap, BTreeSet};

use super::error::QuantizeError;
use super::recipe::{
    Activations, MixModel, MixTensor, Override, Precision, Recipe, TABLE, TiedHead, Weights, fallback,
};
use super::target::Target;
use crate::graph::{Component, Graph, Model, Node, Op, Part, ValueId, glob};
use crate::numeric::ggml::BlockType;
use crate::passes::is_suppressed;

/// Role of the head without `.weight`.
pub(super) const HEAD: &str = "decoder.head";

/// Input of the vision graph that holds the values of image patches.
const PATCHES: &str = "pixel_values";

/// Precision of every linear, in graph order, and of the token table.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Plan {
    /// One entry per linear.
    pub linears: Vec<LinearPlan>,
    /// The token table; `out` is the number of its rows. Its activations are float: rows are looked up.
    pub table: LinearPlan,
    /// Whether head and token table are one tensor of the file.
    pub shares_head: bool,
}

/// What happens to one linear.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LinearPlan {
    /// Role without `.weight`.
    pub role: String,
    /// Output channels.
    pub out: usize,
    /// Input channels.
    pub input: usize,
    /// Its precision.
    pub precision: Precision,
    /// What decided.
    pub decided_by: Decision,
}

/// What decided the precision of a linear.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The rule of its component.
    Component,
    /// The override with this pattern.
    Override(String),
    /// The recipe's budget gave it another grid.
    Budget,
    /// The rules of the recipe's mix.
    Mix,
    /// Its rows are not made of whole blocks of the type that the recipe means for it; it gets the type that llama.cpp takes then.
    Fallback {
        /// The type meant.
        wanted: Weights,
    },
    /// It reads image patches: runtimes of GGUF files compute it as a convolution, whose weights are floats.
    ImagePatches,
    /// It is the token table and one tensor with the head, whose type it has.
    SharedWithHead,
    /// Its input is the same in every run. It stays float: runtimes compute it once, when they load the file.
    ConstantInput,
    /// It computes the channel that RMS took out of another linear, which is not to be rounded.
    Suppressed,
}

/// Applies the rules of `recipe` to the linears and the token table of `model`.
///
/// # Errors
/// [`QuantizeError::Recipe`] when the recipe does not fit the target or a linear of this model, [`QuantizeError::Unmatched`] when an override matches nothing.
pub fn plan(model: &Model, recipe: &Recipe, target: Target) -> Result<Plan, QuantizeError> {
    recipe.fits(target)?;
    let rules = Rules::new(model, recipe, target);
    let mut used = vec![false; recipe.overrides.len()];
    let mut linears = Vec::new();
    for (graph, node, linear) in model.linears() {
        let (precision, decided_by) = rules.linear(graph, node, &mut used);
        if precision.activations == Activations::Msq && node.component != Component::Decoder {
            let reason = format!("{}: every row of this linear is visual, use activations static", node.name);
            return Err(QuantizeError::Recipe { name: recipe.name.clone(), reason });
        }
        let shape = &model.weight(linear.weight).shape;
        let mut planned =
            LinearPlan { role: node.name.clone(), out: shape[0], input: shape[1], precision, decided_by };
        rules.whole_blocks(&mut planned);
        linears.push(planned);
    }
    let head = linears.iter().find(|l| l.role == HEAD);
    let mut table = rules.table(head.filter(|_| rules.shares_head), &mut used);
    rules.whole_blocks(&mut table);
    match used.iter().position(|u| !u) {
        Some(i) => Err(QuantizeError::Unmatched {
            name: recipe.name.clone(),
            pattern: recipe.overrides[i].pattern.clone(),
            example: linears.last().map(|l| l.role.clone()).unwrap_or_default(),
        }),
        None => Ok(Plan { linears, table, shares_head: rules.shares_head }),
    }
}

/// Whether head and token table stay one tensor under a recipe.
pub(super) fn shares_head(model: &Model, recipe: &Recipe, target: Target) -> bool {
    let unties = recipe.rotation.decoder && recipe.rotation.tied == TiedHead::Untie;
    target.has_fixed_graph() && model.spec.decoder.tied_head && !unties
}

/// What decides about the linears of one model.
struct Rules<'a> {
    model: &'a Model,
    recipe: &'a Recipe,
    target: Target,
    mix: MixModel,
    fused_qkv: bool,
    shares_head: bool,
    constants: BTreeMap<Part, BTreeSet<ValueId>>,
}

impl<'a> Rules<'a> {
    fn new(model: &'a Model, recipe: &'a Recipe, target: Target) -> Self {
        let d = &model.spec.decoder;
        let shares_head = shares_head(model, recipe, target);
        let graph = match target {
            Target::Gguf(graph) => graph,
            Target::Onnx => Default::default(),
        };
        let mix = MixModel {
            layers: d.layers,
            width: d.width,
            group: d.heads / d.kv_heads.max(1),
            tied: shares_head,
            importance: recipe.importance,
            is_70b: graph.is_70b,
        };
        let constants = model.graphs.iter().map(|g| (g.part, g.constants())).collect();
        Self { model, recipe, target, mix, fused_qkv: graph.fused_qkv, shares_head, constants }
    }

    fn linear(&self, graph: &Graph, node: &Node, used: &mut [bool]) -> (Precision, Decision) {
        let components = &self.recipe.components;
        let mut precision = match node.component {
            Component::Vision => components.vision,
            Component::Projector => components.projector,
            Component::Embedding | Component::Decoder => components.decoder,
        };
        let mut decided_by = Decision::Component;
        if let Some(mix) = self.recipe.mix.filter(|_| node.component == Component::Decoder) {
            precision.weights = mix.weights(MixTensor::of_role(&node.name, self.fused_qkv), &self.mix);
            decided_by = Decision::Mix;
        }
        let fits = |o: &Override| {
            glob(&o.pattern, &node.name) || (self.shares_head && node.name == HEAD && o.is_of_table())
        };
        for (o, used) in self.recipe.overrides.iter().zip(used).filter(|(o, _)| fits(o)) {
            *used = true;
            precision = o.precision();
            decided_by = Decision::Override(o.pattern.clone());
        }
        let constant = node.inputs.iter().all(|v| self.constants[&graph.part].contains(v));
        if constant && !self.target.has_fixed_graph() {
            return (Precision::FLOAT, Decision::ConstantInput);
        }
        if is_suppressed(graph, node) {
            return (Precision::FLOAT, Decision::Suppressed);
        }
        if self.target.has_fixed_graph() && reads_patches(graph, node) && precision != Precision::FLOAT {
            return (patches(precision.weights), Decision::ImagePatches);
        }
        (precision, decided_by)
    }

    /// The token table; `head`: the linear that is one tensor with it.
    fn table(&self, head: Option<&LinearPlan>, used: &mut [bool]) -> LinearPlan {
        let d = &self.model.spec.decoder;
        let mut weights = self.recipe.components.embedding;
        let mut decided_by = Decision::Component;
        if let (None, Some(mix)) = (weights, self.recipe.mix) {
            weights = Some(mix.weights(MixTensor::Table, &self.mix));
            decided_by = Decision::Mix;
        }
        for (o, used) in self.recipe.overrides.iter().zip(used).filter(|(o, _)| o.is_of_table()) {
            *used = true;
            weights = Some(o.weights);
            decided_by = Decision::Override(o.pattern.clone());
        }
        if let Some(head) = head {
            (weights, decided_by) = (Some(head.precision.weights), Decision::SharedWithHead);
        }
        let precision = Precision { weights: weights.unwrap_or(Weights::Float), ..Precision::FLOAT };
        LinearPlan { role: TABLE.into(), out: d.vocab, input: d.width, precision, decided_by }
    }

    /// Gives a linear whose rows are not made of whole blocks the type that llama.cpp takes then.
    fn whole_blocks(&self, linear: &mut LinearPlan) {
        let wanted = linear.precision.weights;
        let Some(kind) = wanted.blocks().filter(|kind| !kind.divides(linear.input)) else { return };
        let half = |kind: &BlockType| !kind.is_quantized();
        let kind = fallback(kind, linear.input);
        // ONNX graphs have no half precision.
        let kind = if half(&kind) && !self.target.has_fixed_graph() { BlockType::F32 } else { kind };
        linear.precision.weights = Weights::of(kind);
        linear.decided_by = Decision::Fallback { wanted };
        if half(&kind) || kind == BlockType::F32 {
            linear.precision.activations = Activations::Float;
        }
    }
}

/// Whether a linear is a patch embedding: it reads what comes from the image processor.
fn reads_patches(graph: &Graph, node: &Node) -> bool {
    let is_input = |v: &ValueId| graph.inputs.contains(v) && graph.value(*v).name == PATCHES;
    let rows = |v: &ValueId| graph.maker(*v).filter(|(_, maker)| matches!(maker.op, Op::AddBatch(_)));
    let reads =
        |v: &ValueId| is_input(v) || rows(v).is_some_and(|(_, maker)| maker.inputs.iter().any(is_input));
    node.inputs.first().is_some_and(reads)
}

/// Weights of a patch embedding where the recipe means `wanted`: half precision, but not of the kind that convolutions of ggml lack (`tensor_force_quant` in
/// `conversion/base.py` of llama.cpp).
fn patches(wanted: Weights) -> Precision {
    let weights = match wanted {
        Weights::Float | Weights::Grid(_) | Weights::Blocks(BlockType::Bf16) => Weights::Float,
        Weights::Blocks(_) => Weights::Blocks(BlockType::F16),
    };
    Precision { weights, ..Precision::FLOAT }
}

impl Plan {
    /// Number of linears whose weights are codes.
    pub fn quantized(&self) -> usize {
        self.linears.iter().filter(|l| l.precision.is_quantized()).count()
    }
}
