//! The plan: what the recipe means for each linear of one model.

use std::collections::{BTreeMap, BTreeSet};

use super::error::QuantizeError;
use super::recipe::{Activations, Precision, Recipe};
use crate::graph::{Component, Model, Part, ValueId, glob};
use crate::passes::is_suppressed;

/// Precision of every linear, in graph order.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Plan {
    /// One entry per linear.
    pub linears: Vec<LinearPlan>,
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
    /// Its input is the same in every run. It stays float: runtimes compute it once, when they load the file.
    ConstantInput,
    /// It computes the channel that RMS took out of another linear, which is not to be rounded.
    Suppressed,
}

/// Applies the rules of `recipe` to the linears of `model`.
///
/// # Errors
/// [`QuantizeError::Unmatched`] when an override matches nothing.
pub fn plan(model: &Model, recipe: &Recipe) -> Result<Plan, QuantizeError> {
    let mut used = vec![false; recipe.overrides.len()];
    let mut linears = Vec::new();
    let constants: BTreeMap<Part, BTreeSet<ValueId>> =
        model.graphs.iter().map(|g| (g.part, g.constants())).collect();
    for (graph, node, linear) in model.linears() {
        let mut precision = match node.component {
            Component::Vision => recipe.components.vision,
            Component::Projector => recipe.components.projector,
            Component::Embedding | Component::Decoder => recipe.components.decoder,
        };
        let mut decided_by = Decision::Component;
        for (o, used) in recipe.overrides.iter().zip(&mut used) {
            if glob(&o.pattern, &node.name) {
                *used = true;
                precision = o.precision();
                decided_by = Decision::Override(o.pattern.clone());
            }
        }
        if precision.activations == Activations::Msq && node.component != Component::Decoder {
            let reason = format!("{}: every row of this linear is visual, use activations static", node.name);
            return Err(QuantizeError::Recipe { name: recipe.name.clone(), reason });
        }
        if node.inputs.iter().all(|v| constants[&graph.part].contains(v)) {
            precision = Precision::FLOAT;
            decided_by = Decision::ConstantInput;
        }
        if is_suppressed(graph, node) {
            precision = Precision::FLOAT;
            decided_by = Decision::Suppressed;
        }
        let shape = &model.weight(linear.weight).shape;
        linears.push(LinearPlan {
            role: node.name.clone(),
            out: shape[0],
            input: shape[1],
            precision,
            decided_by,
        });
    }
    match used.iter().position(|u| !u) {
        Some(i) => Err(QuantizeError::Unmatched {
            name: recipe.name.clone(),
            pattern: recipe.overrides[i].pattern.clone(),
            example: linears.last().map(|l| l.role.clone()).unwrap_or_default(),
        }),
        None => Ok(Plan { linears }),
    }
}

impl Plan {
    /// Number of linears that run in integer arithmetic.
    pub fn quantized(&self) -> usize {
        self.linears.iter().filter(|l| l.precision.is_quantized()).count()
    }
}
