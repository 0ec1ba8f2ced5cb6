//! Runs some nodes of a block on one sample.

use std::collections::{BTreeMap, BTreeSet};

use crate::exec::ops::Rounded;
use crate::exec::{Env, Executor, Value};
use crate::graph::ops::Rounding;
use crate::graph::{Graph, Model, Node, ValueId};
use crate::numeric::Tensor;
use crate::quantize::error::QuantizeError;
use crate::quantize::linear::Outcome;
use crate::quantize::recipe::LoopInputs;
use crate::quantize::samples::is_visual;
use crate::quantize::spill::{ActivationStore, Handle};

/// One sample between two blocks.
pub(super) type Live = BTreeMap<ValueId, Held>;

/// A value between two blocks.
pub(super) enum Held {
    Float(Handle),
    Int(Tensor<i64>),
}

/// Runs nodes on samples. What several threads share of a block loop.
pub(super) struct Runner<'r> {
    pub model: &'r Model,
    pub store: &'r ActivationStore,
    pub outcomes: &'r [Outcome],
    pub inputs: LoopInputs,
}

impl Runner<'_> {
    /// One value inside a block.
    pub(super) fn value(
        &self,
        exec: &Executor<'_, f32>,
        graph: &Graph,
        needed: &[usize],
        live: &Live,
        ids: Option<&[i64]>,
        wanted: ValueId,
    ) -> Result<Tensor<f32>, QuantizeError> {
        let mut env = self.run(exec, graph, needed, live, ids)?;
        match env.remove(&wanted) {
            Some(Value::Float(x)) => Ok(x),
            _ => match live.get(&wanted) {
                Some(Held::Float(handle)) => Ok(self.store.get(handle)?),
                _ => Err(QuantizeError::NotCalibrated { linear: graph.value(wanted).name.clone() }),
            },
        }
    }

    /// Runs nodes on one sample and returns all values that are left: those that no node of `nodes` reads last, and what was loaded.
    pub(super) fn run(
        &self,
        exec: &Executor<'_, f32>,
        graph: &Graph,
        nodes: &[usize],
        live: &Live,
        ids: Option<&[i64]>,
    ) -> Result<Env<f32>, QuantizeError> {
        let mut env = Env::new();
        let read: BTreeSet<ValueId> =
            nodes.iter().flat_map(|&i| graph.nodes[i].inputs.iter().copied()).collect();
        for v in read {
            if let Some(held) = live.get(&v) {
                env.insert(v, self.load(held)?);
            }
        }
        let last = graph.last_uses();
        for &i in nodes {
            let node = &graph.nodes[i];
            let results = self.evaluate(exec, node, &env, ids)?;
            env.extend(node.outputs.iter().copied().zip(results));
            // Values that nothing reads any more are dropped, so that a block of a long sample fits.
            env.retain(|v, _| last.get(v) != Some(&i) || graph.outputs.contains(v));
        }
        Ok(env)
    }

    /// One node; a linear that is quantized already sees its input rounded, where the recipe says so.
    fn evaluate(
        &self,
        exec: &Executor<'_, f32>,
        node: &Node,
        env: &Env<f32>,
        ids: Option<&[i64]>,
    ) -> Result<Vec<Value<f32>>, QuantizeError> {
        let mut operands: Vec<&Value<f32>> = node.inputs.iter().filter_map(|v| env.get(v)).collect();
        let rounded = match (self.rounding(node), operands.first().and_then(|v| v.as_float())) {
            (Some(act), Some(x)) => {
                let token = self.model.spec.image_token_id;
                let values = Rounded::of(act, x, |r| is_visual(ids, r, token)).values(x.cols());
                Some(Value::Float(Tensor::new(x.shape().to_vec(), values)?))
            }
            _ => None,
        };
        if let (Some(rounded), Some(first)) = (&rounded, operands.first_mut()) {
            *first = rounded;
        }
        Ok(exec.evaluate(node, &operands)?)
    }

    fn rounding(&self, node: &Node) -> Option<Rounding> {
        if self.inputs != LoopInputs::WeightsAndActivations {
            return None;
        }
        // The linears of one block are the last ones quantized.
        self.outcomes.iter().rev().find(|o| o.role == node.name).and_then(|o| o.rounding)
    }

    pub(super) fn load(&self, held: &Held) -> Result<Value<f32>, QuantizeError> {
        Ok(match held {
            Held::Float(handle) => Value::Float(self.store.get(handle)?),
            Held::Int(t) => Value::Int(t.clone()),
        })
    }
}
