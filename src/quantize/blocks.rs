//! The block loop: block after block of a graph, every planned linear is quantized from what the blocks before it, quantized already, hand it.
//!
//! Between two blocks a sample is the values that later blocks read, in an [`ActivationStore`]. Inside a block, linears that read one value are quantized
//! together: the block runs up to that value for every sample, which gives the Hessian and the histograms of it; then weights are rounded, and
//! what follows in the block computes with them. So memory holds the float weights of one block, one Hessian, one group of samples inside the block, and the store, whatever the
//! number of blocks. (GPTQ, arXiv 2210.17323 section 3.3, with the order inside a block.)

mod cut;
mod runner;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;

use rayon::prelude::*;

use cut::{ancestors, blocks, read_later};
use runner::{Held, Live, Runner};

use super::error::QuantizeError;
use super::linear::{Input, Outcome, Quantizer};
use super::recipe::{LoopInputs, Recipe};
use super::samples::{CalibrationSample, is_visual, runs};
use super::spill::{ActivationStore, Precision};
use super::weights::Codes;
use crate::exec::{Env, Executor, LinearWeight, Value, bind};
use crate::exec::{Inputs, Outputs};
use crate::graph::ops::Linear;
use crate::graph::{Graph, Model, Node, Op, Part, ValueId, WeightSource};
use crate::numeric::Tensor;

/// What the loop works with.
pub(super) struct BlockLoop<'a> {
    /// The float model.
    pub model: &'a Model,
    /// Its weights.
    pub weights: &'a dyn WeightSource,
    /// Decides and rounds.
    pub quantizer: Quantizer<'a>,
    /// Values between blocks.
    pub store: ActivationStore,
    /// Codes of what is quantized.
    pub codes: &'a mut Codes,
    /// What became of each linear so far.
    pub outcomes: Vec<Outcome>,
    /// Told the name of every linear that is done.
    pub done: &'a mut dyn FnMut(&str),
}

/// Linears that read one value.
struct Group<'g> {
    input: ValueId,
    /// Index of the first of them.
    first: usize,
    linears: Vec<(&'g Node, &'g Linear)>,
}

impl BlockLoop<'_> {
    /// Runs one graph on all samples and quantizes its planned linears. `ids` are the token ids of each sample, none where every row is visual. The outputs,
    /// computed by the quantized blocks, are returned unless nobody wants them.
    pub(super) fn graph(
        &mut self,
        part: Part,
        inputs: Vec<Inputs<f32>>,
        ids: &[&[i64]],
        wanted: bool,
    ) -> Result<Vec<Outputs<f32>>, QuantizeError> {
        let model = self.model;
        let Some(graph) = model.graph(part) else { return Ok(vec![]) };
        let mut lives = Vec::with_capacity(inputs.len());
        for input in inputs {
            lives.push(self.hold(graph, bind(graph, input)?)?);
        }
        let blocks = blocks(graph);
        for (i, block) in blocks.iter().enumerate() {
            let end = i + 1 == blocks.len() && !wanted;
            let later = if end { None } else { Some(read_later(graph, block.end, wanted)) };
            self.block(graph, block.clone(), &mut lives, ids, later)?;
        }
        if !wanted {
            return Ok(vec![]);
        }
        lives.into_iter().map(|live| self.outputs(graph, live)).collect()
    }

    /// One block: quantizes its linears, then runs it on all samples where values of it are needed `later`.
    fn block(
        &mut self,
        graph: &Graph,
        block: Range<usize>,
        lives: &mut [Live],
        ids: &[&[i64]],
        later: Option<BTreeSet<ValueId>>,
    ) -> Result<(), QuantizeError> {
        let exec = Executor::keeping(self.model, self.weights);
        for group in self.groups(graph, &block) {
            let needed = ancestors(graph, &block, group.input);
            let cols = graph.value(group.input).channels().unwrap_or(0);
            let visual = |sample: usize| (ids.get(sample).copied(), self.model.spec.image_token_id);
            let mut input = self.quantizer.input(&group.linears, cols, graph.part == Part::Decoder);
            let runner = self.runner();
            for chunk in self.chunks(lives) {
                let rows: Vec<Tensor<f32>> = chunk
                    .clone()
                    .into_par_iter()
                    .map(|s| runner.value(&exec, graph, &needed, &lives[s], ids.get(s).copied(), group.input))
                    .collect::<Result<_, _>>()?;
                for (s, x) in chunk.zip(&rows) {
                    let (ids, token) = visual(s);
                    input.add(x, |r| is_visual(ids, r, token));
                }
            }
            self.quantize(&exec, &group, &input)?;
        }
        match later {
            Some(later) => self.advance(&exec, graph, &block, lives, (ids, &later)),
            None => Ok(()),
        }
    }

    fn runner(&self) -> Runner<'_> {
        Runner {
            model: self.model,
            store: &self.store,
            outcomes: &self.outcomes,
            inputs: self.quantizer.recipe.loop_inputs(),
        }
    }

    /// Planned linears of a block by what they read, in order.
    fn groups<'g>(&self, graph: &'g Graph, block: &Range<usize>) -> Vec<Group<'g>> {
        let mut groups: Vec<Group<'g>> = vec![];
        for i in block.clone() {
            let node = &graph.nodes[i];
            let Op::Linear(linear) = &node.op else { continue };
            if !self.quantizer.plans(&node.name) {
                continue;
            }
            let input = node.inputs[0];
            match groups.iter_mut().find(|g| g.input == input) {
                Some(group) => group.linears.push((node, linear)),
                None => groups.push(Group { input, first: i, linears: vec![(node, linear)] }),
            }
        }
        groups.sort_by_key(|g| g.first);
        groups
    }

    /// Rounds the weights of a group; what runs afterwards computes with them.
    fn quantize(
        &mut self,
        exec: &Executor<'_, f32>,
        group: &Group<'_>,
        input: &Input,
    ) -> Result<(), QuantizeError> {
        let made = self.quantizer.group(&group.linears, input, |node, id| {
            let weight = exec.weight(node, id)?;
            Ok(weight.values.clone())
        })?;
        for ((node, linear), (matrix, outcome)) in group.linears.iter().zip(made) {
            if self.quantizer.recipe.loop_inputs() != LoopInputs::Float {
                let (rows, cols) = matrix.shape();
                let values = Tensor::new(vec![rows, cols], matrix.dequantize())?;
                exec.replace(linear.weight, LinearWeight { values, scales: None });
            }
            for role in &self.model.weight(linear.weight).parts {
                self.codes.put(role, &matrix)?;
            }
            self.outcomes.push(outcome);
            (self.done)(&node.name);
        }
        Ok(())
    }

    /// Runs the whole block on all samples and keeps what is needed `later`.
    fn advance(
        &mut self,
        exec: &Executor<'_, f32>,
        graph: &Graph,
        block: &Range<usize>,
        lives: &mut [Live],
        (ids, later): (&[&[i64]], &BTreeSet<ValueId>),
    ) -> Result<(), QuantizeError> {
        let nodes: Vec<usize> = block.clone().collect();
        for chunk in self.chunks(lives) {
            let runner = self.runner();
            let made: Vec<Env<f32>> = chunk
                .clone()
                .into_par_iter()
                .map(|s| {
                    let mut env = runner.run(exec, graph, &nodes, &lives[s], ids.get(s).copied())?;
                    env.retain(|v, _| later.contains(v));
                    Ok(env)
                })
                .collect::<Result<_, QuantizeError>>()?;
            for (s, mut env) in chunk.zip(made) {
                let old = std::mem::take(&mut lives[s]);
                let mut kept = Live::new();
                for (v, held) in old {
                    env.remove(&v);
                    if later.contains(&v) {
                        kept.insert(v, held);
                    } else if let Held::Float(handle) = held {
                        self.store.remove(handle);
                    }
                }
                kept.extend(self.hold(graph, env)?);
                lives[s] = kept;
            }
        }
        Ok(())
    }

    /// Samples that are inside a block together, as ranges of indices.
    fn chunks(&self, lives: &[Live]) -> Vec<Range<usize>> {
        let rows = |live: &Live| {
            let of = |held: &Held| match held {
                Held::Float(handle) => self.store.rows(handle),
                Held::Int(_) => 0,
            };
            live.values().map(of).max().unwrap_or(0)
        };
        runs(lives.iter().map(rows), CHUNK_ROWS)
    }

    fn hold(&mut self, graph: &Graph, env: Env<f32>) -> Result<Live, QuantizeError> {
        let mut live = Live::new();
        for (v, value) in env {
            let held = match value {
                // A residual stream is long and wide; rotary tables and masks are not, and angles would suffer.
                Value::Float(t) if graph.value(v).basis.is_some() => {
                    Held::Float(self.store.put(&t, Precision::Bf16)?)
                }
                Value::Float(t) => Held::Float(self.store.put(&t, Precision::F32)?),
                Value::Int(t) => Held::Int(t),
            };
            live.insert(v, held);
        }
        Ok(live)
    }

    fn outputs(&mut self, graph: &Graph, live: Live) -> Result<Outputs<f32>, QuantizeError> {
        let mut outputs = Outputs::new();
        for (v, held) in live {
            if graph.outputs.contains(&v) {
                outputs.insert(graph.value(v).name.clone(), self.runner().load(&held)?);
            }
            if let Held::Float(handle) = held {
                self.store.remove(handle);
            }
        }
        Ok(outputs)
    }
}

/// Rows of samples inside a block at once. At a hidden width of 3584 and an MLP of 18944 this is about 0.5 GB.
const CHUNK_ROWS: usize = 2048;

impl Recipe {
    /// What later linears see of earlier ones; without GPTQ too, scales come from quantized blocks.
    pub(super) fn loop_inputs(&self) -> LoopInputs {
        self.gptq.map_or(LoopInputs::default(), |g| g.inputs)
    }
}

/// The samples of a run through all graphs.
pub(super) fn run(work: &mut BlockLoop<'_>, samples: &[CalibrationSample]) -> Result<(), QuantizeError> {
    use super::samples::{decoder_inputs, embedding_inputs, vision_inputs_of};
    let features = work.graph(Part::Vision, vision_inputs_of(samples)?, &[], true)?;
    let embeds = work.graph(Part::Embedding, embedding_inputs(work.model, samples, features)?, &[], true)?;
    let ids: Vec<&[i64]> = samples.iter().map(|s| s.ids.as_slice()).collect();
    work.graph(Part::Decoder, decoder_inputs(work.model, samples, embeds)?, &ids, false)?;
    Ok(())
}
