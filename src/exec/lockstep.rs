//! Runs one graph over many samples at once, node by node: each weight is loaded once for all samples, so calibration needs memory
//! for one weight and the live activations, never for the model.

use super::run::{Env, ExecError, Executor, Inputs, Outputs, Tap, bind, take_outputs};
use super::value::Value;
use crate::graph::{Graph, Node, Part};
use crate::numeric::Real;

/// Sees every node of every sample, nodes in the outer loop.
pub trait LockstepTap<T> {
    /// Called after `node` ran for one sample. `inputs` and `outputs` are in the node's order.
    fn node(&mut self, sample: usize, graph: &Graph, node: &Node, inputs: &[&Value<T>], outputs: &[Value<T>]);
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

/// Runs `part` of `model` on all samples; results in sample order. `progress` is told (nodes done, nodes in all).
///
/// # Errors
/// [`ExecError`] as for one run.
pub fn run_lockstep<T: Real>(
    model: &crate::graph::Model,
    source: &dyn crate::graph::WeightSource,
    part: Part,
    samples: Vec<Inputs<T>>,
    tap: &mut dyn LockstepTap<T>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Outputs<T>>, ExecError> {
    let graph = model.graph(part).ok_or(ExecError::NoGraph { part: part.name() })?;
    let last = graph.last_uses();
    let mut envs = samples.into_iter().map(|i| bind(graph, i)).collect::<Result<Vec<Env<T>>, _>>()?;
    for (i, node) in graph.nodes.iter().enumerate() {
        // One executor per node: its kept weights are dropped with it.
        let exec = Executor::keeping(model, source);
        for (sample, env) in envs.iter_mut().enumerate() {
            exec.step(graph, node, env, &mut ForSample { sample, tap })?;
            for v in node.inputs.iter().chain(&node.outputs) {
                if last.get(v).is_some_and(|&l| l == i) {
                    env.remove(v);
                }
            }
        }
        progress(i + 1, graph.nodes.len());
    }
    Ok(envs.into_iter().map(|env| take_outputs(graph, env)).collect())
}
