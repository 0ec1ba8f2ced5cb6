//! Runs one graph on one set of inputs, node by node, freeing values after their last use.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ops::{self, OpContext};
use super::value::Value;
use super::weights::{LinearWeight, WeightCache};
use crate::graph::{Graph, Model, Node, Part, ValueId, WeightError, WeightId, WeightSource};
use crate::numeric::{Real, ShapeError};

/// Inputs of one run by name.
pub type Inputs<T> = BTreeMap<String, Value<T>>;
/// Outputs of one run by name.
pub type Outputs<T> = BTreeMap<String, Value<T>>;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The model has no such graph.
    #[error("the model has no {part} graph")]
    NoGraph {
        /// Name of the part.
        part: &'static str,
    },
    /// An input is missing.
    #[error("{part} graph: input {name} is missing")]
    MissingInput {
        /// Name of the part.
        part: &'static str,
        /// Name of the input.
        name: String,
    },
    /// An input has another type or shape than declared.
    #[error("{part} graph: input {expected} was given shape {found:?}")]
    WrongInput {
        /// Name of the part.
        part: &'static str,
        /// The declaration.
        expected: String,
        /// Shape given.
        found: Vec<usize>,
    },
    /// A weight could not be had.
    #[error("node {node}")]
    Weight {
        /// The node that reads it.
        node: String,
        /// Cause.
        source: WeightError,
    },
    /// Run-time sizes contradict each other.
    #[error("node {node}: {reason}")]
    Sizes {
        /// The node.
        node: String,
        /// What was expected and found.
        reason: String,
    },
}

/// Sees every node as it runs.
pub trait Tap<T> {
    /// Called after `node` ran. `inputs` and `outputs` are in the node's order.
    fn node(&mut self, graph: &Graph, node: &Node, inputs: &[&Value<T>], outputs: &[Value<T>]);
}

/// A tap that looks at nothing.
impl<T> Tap<T> for () {
    fn node(&mut self, _: &Graph, _: &Node, _: &[&Value<T>], _: &[Value<T>]) {}
}

/// Interprets the graphs of one model in precision `T`.
pub struct Executor<'a, T> {
    model: &'a Model,
    weights: WeightCache<'a, T>,
}

impl<'a, T: Real> Executor<'a, T> {
    /// An executor that loads each weight whenever it is used.
    pub fn streaming(model: &'a Model, source: &'a dyn WeightSource) -> Self {
        Self { model, weights: WeightCache::streaming(source) }
    }

    /// An executor that keeps weights between runs.
    pub fn keeping(model: &'a Model, source: &'a dyn WeightSource) -> Self {
        Self { model, weights: WeightCache::keeping(source) }
    }

    /// The model it runs.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// Runs a graph and returns its outputs.
    ///
    /// # Errors
    /// [`ExecError`] when inputs do not fit, sizes contradict each other or a weight cannot be read.
    pub fn run(&self, part: Part, inputs: Inputs<T>, tap: &mut dyn Tap<T>) -> Result<Outputs<T>, ExecError> {
        self.run_for(part, inputs, |_| true, tap)
    }

    /// [`run`](Self::run) for the outputs that `wanted` picks by name. The others are dropped when nothing reads them any more: a decoder hands out
    /// keys and values of every layer.
    ///
    /// # Errors
    /// As there.
    pub fn run_for(
        &self,
        part: Part,
        inputs: Inputs<T>,
        wanted: impl Fn(&str) -> bool,
        tap: &mut dyn Tap<T>,
    ) -> Result<Outputs<T>, ExecError> {
        let graph = self.model.graph(part).ok_or(ExecError::NoGraph { part: part.name() })?;
        let mut env = bind(graph, inputs)?;
        let last = graph.last_uses();
        let kept = |v: &ValueId| graph.outputs.contains(v) && wanted(&graph.value(*v).name);
        for (i, node) in graph.nodes.iter().enumerate() {
            self.step(graph, node, &mut env, tap)?;
            for v in node.inputs.iter().chain(&node.outputs) {
                if last.get(v).is_none_or(|at| *at == i) && !kept(v) {
                    env.remove(v);
                }
            }
        }
        Ok(take_outputs(graph, env))
    }

    /// Runs one node on the values in `env` and adds its results.
    pub(super) fn step(
        &self,
        graph: &Graph,
        node: &Node,
        env: &mut Env<T>,
        tap: &mut dyn Tap<T>,
    ) -> Result<(), ExecError> {
        let operands: Vec<&Value<T>> = node.inputs.iter().filter_map(|v| env.get(v)).collect();
        let results = self.evaluate(node, &operands)?;
        tap.node(graph, node, &operands, &results);
        for (&id, value) in node.outputs.iter().zip(results) {
            env.insert(id, value);
        }
        Ok(())
    }
}

impl<T: Real> Executor<'_, T> {
    /// The results of one node on operands in its order.
    ///
    /// # Errors
    /// [`ExecError`] as for [`run`](Self::run).
    pub fn evaluate(&self, node: &Node, operands: &[&Value<T>]) -> Result<Vec<Value<T>>, ExecError> {
        ops::run(&node.op, &self.context(node), operands)
    }

    /// The numbers that a node computes with.
    ///
    /// # Errors
    /// [`ExecError::Weight`] when the source cannot give them.
    pub fn weight(&self, node: &Node, id: WeightId) -> Result<Arc<LinearWeight<T>>, ExecError> {
        self.context(node).weight(id)
    }

    fn context<'e>(&'e self, node: &'e Node) -> OpContext<'e, T> {
        OpContext { node, model: self.model, weights: &self.weights }
    }

    /// Makes an executor that keeps weights compute with other numbers from now on.
    pub fn replace(&self, id: WeightId, weight: LinearWeight<T>) {
        self.weights.replace(id, weight);
    }
}

/// Live values of one run.
pub type Env<T> = BTreeMap<ValueId, Value<T>>;

/// The values of a graph's inputs, checked against the signature.
///
/// # Errors
/// [`ExecError`] when one is missing or has another type or shape.
pub fn bind<T: Real>(graph: &Graph, mut inputs: Inputs<T>) -> Result<Env<T>, ExecError> {
    let part = graph.part.name();
    let mut env = Env::new();
    for &id in &graph.inputs {
        let info = graph.value(id);
        let Some(value) = inputs.remove(&info.name) else {
            return Err(ExecError::MissingInput { part, name: info.name.clone() });
        };
        if !value.fits(info) {
            let found = value.shape().to_vec();
            return Err(ExecError::WrongInput { part, expected: info.to_string(), found });
        }
        env.insert(id, value);
    }
    Ok(env)
}

/// The graph's outputs by name.
pub(super) fn take_outputs<T>(graph: &Graph, mut env: Env<T>) -> Outputs<T> {
    graph.outputs.iter().filter_map(|id| env.remove(id).map(|v| (graph.value(*id).name.clone(), v))).collect()
}

impl ExecError {
    pub(super) fn sizes(node: &Node, reason: String) -> Self {
        ExecError::Sizes { node: node.name.clone(), reason }
    }

    pub(super) fn shape(node: &Node, e: ShapeError) -> Self {
        Self::sizes(node, e.to_string())
    }
}
