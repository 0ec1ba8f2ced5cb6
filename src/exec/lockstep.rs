//! Runs one graph over many samples at once, node by node: each weight is loaded once for all samples, so calibration needs memory
//! for one weight and the live activations, never for the model.

use super::run::{Env, ExecError, Executor, Inputs, Outputs, Tap, bind, take_outputs};
use super::value::Value;
use crate::graph::{Graph, Model, Node, Part, ValueId, WeightSource};
use crate::numeric::Real;

/// Sees every node of every sample, nodes in the outer loop.
pub trait LockstepTap<T> {
    /// Called after `node` ran for one sample. `inputs` and `outputs` are in the node's order; `outputs` is empty where nobody needs them.
    fn node(&mut self, sample: usize, graph: &Graph, node: &Node, inputs: &[&Value<T>], outputs: &[Value<T>]);
}

/// What a run hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The graph's outputs.
    Outputs,
    /// Nothing: only the tap is of interest. Nodes that feed nothing else (the head, whose logits are large) are shown to the
    /// tap with their operands and not computed.
    Nothing,
}

struct ForSample<'t, T> {
    sample: usize,
    tap: &'t mut dyn LockstepTap<T>,
}

impl<T> Tap<T> for ForSample<'_, T> {
    fn node(&mut self, graph: &Graph, node: &Node, inputs: &[&Value<T>], outputs: &[Value<T>]) {
        self.tap.node(self.sample, graph, node, inputs, outputs);
    }
}

/// Runs `part` of `model` on all samples; results in sample order. `step` is told each node when it is done.
///
/// # Errors
/// [`ExecError`] as for one run.
pub fn run_lockstep<T: Real>(
    model: &Model,
    source: &dyn WeightSource,
    part: Part,
    samples: Vec<Inputs<T>>,
    tap: &mut dyn LockstepTap<T>,
    keep: Keep,
    step: &mut dyn FnMut(&str),
) -> Result<Vec<Outputs<T>>, ExecError> {
    let graph = model.graph(part).ok_or(ExecError::NoGraph { part: part.name() })?;
    let lives = Lives { graph, last: graph.last_uses(), keep };
    let mut envs = samples.into_iter().map(|i| bind(graph, i)).collect::<Result<Vec<Env<T>>, _>>()?;
    for (i, node) in graph.nodes.iter().enumerate() {
        // One executor per node: its kept weights are dropped with it.
        let exec = Executor::keeping(model, source);
        let wanted = node.outputs.iter().any(|v| !lives.over(v, i));
        for (sample, env) in envs.iter_mut().enumerate() {
            let mut tap = ForSample { sample, tap };
            if wanted {
                exec.step(graph, node, env, &mut tap)?;
            } else {
                let operands: Vec<&Value<T>> = node.inputs.iter().filter_map(|v| env.get(v)).collect();
                tap.node(graph, node, &operands, &[]);
            }
            env.retain(|v, _| !lives.over(v, i));
        }
        step(&node.name);
    }
    Ok(envs.into_iter().map(|env| take_outputs(graph, env)).collect())
}

/// How long values are needed.
struct Lives<'g> {
    graph: &'g Graph,
    last: std::collections::BTreeMap<ValueId, usize>,
    keep: Keep,
}

impl Lives<'_> {
    /// Whether nobody needs the value after node `i`.
    fn over(&self, v: &ValueId, i: usize) -> bool {
        let output = self.keep == Keep::Outputs && self.graph.outputs.contains(v);
        !output && self.last.get(v).is_none_or(|&last| last <= i)
    }
}
