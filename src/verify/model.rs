//! A model of the intermediate representation as a runner: the float reference, and what the files of a GGUF artifact hold. Many samples pass each node together,
//! so that a weight is read once for all of them, and logits are computed for the rows that are asked for alone.

use super::coordinates::INPUT;
use super::distribution::distributions;
use super::runner::{About, Distribution, Question, Runner, RunnerError, RunnerKind, Scored, Until};
use super::trace::{Features, TraceTap, Traced};
use crate::exec::{
    DecoderState, ExecError, Executor, Generation, Inputs, Keep, LockstepTap, Outputs, Value, bind,
    empty_cache, feature_width, position_inputs, run_lockstep, vision_inputs,
};
use crate::graph::{Graph, Model, Node, Part, WeightSource};
use crate::numeric::Tensor;

/// Tokens whose live activations are held at once.
const GROUP_TOKENS: usize = 8192;

/// Bytes of f32 weights up to which they are kept between the tokens of a generation.
const KEPT_BYTES: usize = 4 << 30;

/// Runs one model.
pub struct ModelRunner<'a> {
    about: About,
    model: &'a Model,
    weights: &'a dyn WeightSource,
    /// For one sample at a time.
    exec: Executor<'a, f32>,
}

/// Why a question was not answered, before it has a name.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Shape(#[from] crate::numeric::ShapeError),
    #[error(transparent)]
    Generate(#[from] crate::exec::GenerateError),
    #[error("the {0} graph has no result {1}")]
    NoOutput(&'static str, &'static str),
}

impl Failed {
    fn of(self, question: &Question) -> RunnerError {
        // The executor says what failed in a chain of causes.
        let mut reason = self.to_string();
        let mut cause = std::error::Error::source(&self);
        while let Some(source) = cause {
            reason = format!("{reason}: {source}");
            cause = source.source();
        }
        RunnerError::Question { kind: RunnerKind::Embedded, sample: question.sample.id.clone(), reason }
    }
}

impl<'a> ModelRunner<'a> {
    /// A runner of `model`, which `detail` describes in a few words.
    pub fn new(model: &'a Model, weights: &'a dyn WeightSource, detail: &str) -> Self {
        let about = About {
            kind: RunnerKind::Embedded,
            version: env!("CARGO_PKG_VERSION").into(),
            detail: detail.into(),
        };
        let bytes: usize = model.weights.iter().map(|w| 4 * w.shape.iter().product::<usize>()).sum();
        let exec = match bytes <= KEPT_BYTES {
            true => Executor::keeping(model, weights),
            false => Executor::streaming(model, weights),
        };
        Self { about, model, weights, exec }
    }

    /// Image rows of every question that has images, `[rows, width]`.
    fn features(&self, questions: &[Question]) -> Result<Vec<Option<Tensor<f32>>>, Failed> {
        let with: Vec<usize> =
            (0..questions.len()).filter(|i| !questions[*i].prompt.grids.is_empty()).collect();
        let inputs =
            |i: &usize| vision_inputs(&questions[*i].prompt.pixel_values, &questions[*i].prompt.grids);
        let inputs: Vec<Inputs<f32>> = with.iter().map(inputs).collect::<Result<_, _>>()?;
        let mut found = vec![None; questions.len()];
        if inputs.is_empty() {
            return Ok(found);
        }
        let (part, keep) = (Part::Vision, Keep::Outputs);
        let out = run_lockstep(self.model, self.weights, part, inputs, &mut Unseen, keep, &mut |_| {})?;
        for (i, out) in with.into_iter().zip(out) {
            found[i] = Some(float(out, "vision", "image_features")?);
        }
        Ok(found)
    }

    /// Logits of the rows that a question asks for, for questions that pass the decoder together.
    fn rows(
        &self,
        questions: &[Question],
        features: &[Option<Tensor<f32>>],
    ) -> Result<Vec<Tensor<f32>>, Failed> {
        let mut inputs = Vec::with_capacity(questions.len());
        for (question, features) in questions.iter().zip(features) {
            inputs.push(self.decoder_inputs(question, features.as_ref())?);
        }
        let mut tap = HeadRows { from: questions.iter().map(first_row).collect(), found: vec![], head: None };
        tap.found.resize(questions.len(), None);
        let (part, keep) = (Part::Decoder, Keep::Nothing);
        run_lockstep(self.model, self.weights, part, inputs, &mut tap, keep, &mut |_| {})?;
        let none = || Failed::NoOutput("decoder", "logits");
        let head = tap.head.as_ref().ok_or_else(none)?;
        let exec = Executor::<f32>::keeping(self.model, self.weights);
        let one = |rows: Option<Tensor<f32>>| {
            let rows = Value::Float(rows.ok_or_else(none)?);
            match exec.evaluate(head, &[&rows])?.into_iter().next() {
                Some(Value::Float(logits)) => Ok(logits),
                _ => Err(none()),
            }
        };
        tap.found.into_iter().map(one).collect()
    }

    /// Inputs of the decoder: prompt and fed tokens together, nothing before them.
    fn decoder_inputs(
        &self,
        question: &Question,
        features: Option<&Tensor<f32>>,
    ) -> Result<Inputs<f32>, Failed> {
        let (ids, positions) = question.tokens();
        let n = ids.len();
        let none = || Tensor::full(vec![0, feature_width(self.model)], 0.0);
        let inputs = Inputs::from([
            ("input_ids".to_string(), Value::Int(Tensor::new(vec![1, n], ids)?)),
            ("image_features".to_string(), Value::Float(features.cloned().unwrap_or_else(none))),
        ]);
        let out = self.exec.run(Part::Embedding, inputs, &mut ())?;
        let embeds = float(out, "embedding", "inputs_embeds")?;
        // The fed tokens belong to the answer, not to the prompt.
        let mut inputs = position_inputs(self.model, &positions, question.prompt.input_ids.len())?;
        inputs.insert("inputs_embeds".into(), Value::Float(embeds));
        inputs.insert("attention_mask".into(), Value::Int(Tensor::full(vec![1, n], 1)));
        let cache: Outputs<f32> = empty_cache(self.model);
        inputs.extend(cache.into_iter().map(|(k, v)| (k.replacen("present.", "past_key_values.", 1), v)));
        Ok(inputs)
    }

    fn score_group(&self, questions: &[Question]) -> Result<Vec<Scored>, Failed> {
        let features = self.features(questions)?;
        let logits = self.rows(questions, &features)?;
        let one = |(features, logits): (Option<Tensor<f32>>, Tensor<f32>)| Scored {
            rows: distributions(logits.data(), logits.cols()),
            features,
        };
        Ok(features.into_iter().zip(logits).map(one).collect())
    }

    /// Runs a graph node by node and shows float results to `tap`, which may replace them.
    fn traced(&self, part: Part, inputs: Inputs<f32>, tap: TraceTap<'_>) -> Result<Outputs<f32>, Failed> {
        let graph = self.model.graph(part).ok_or(ExecError::NoGraph { part: part.name() })?;
        let mut env = bind(graph, inputs)?;
        let last = graph.last_uses();
        for (i, node) in graph.nodes.iter().enumerate() {
            let operands: Vec<&Value<f32>> = node.inputs.iter().filter_map(|v| env.get(v)).collect();
            let results = self.exec.evaluate(node, &operands)?;
            for (&id, mut value) in node.outputs.iter().zip(results) {
                if let Value::Float(t) = &value
                    && let Some(other) = tap(&graph.value(id).name, t)
                {
                    value = Value::Float(other);
                }
                env.insert(id, value);
            }
            let over = |v: &&crate::graph::ValueId| last.get(v).is_none_or(|at| *at <= i);
            for v in node.inputs.iter().chain(&node.outputs).filter(over) {
                if !graph.outputs.contains(v) {
                    env.remove(v);
                }
            }
        }
        let named = |id: &crate::graph::ValueId| Some((graph.value(*id).name.clone(), env.remove(id)?));
        Ok(graph.outputs.iter().filter_map(named).collect())
    }
}

impl Question {
    /// Ids of prompt and fed tokens, and their positions on each axis.
    pub fn tokens(&self) -> (Vec<i64>, Vec<Vec<i64>>) {
        let (next, fed) = (self.prompt.next_position(), self.fed.len() as i64);
        let longer = |axis: &Vec<i64>| axis.iter().copied().chain(next..next + fed).collect();
        let ids = self.prompt.input_ids.iter().chain(&self.fed).copied().collect();
        (ids, self.prompt.position_ids.iter().map(longer).collect())
    }
}

/// The first row that a question asks for: that of the last token of its prompt.
fn first_row(question: &Question) -> usize {
    question.prompt.input_ids.len().saturating_sub(1)
}

fn float(mut out: Outputs<f32>, part: &'static str, name: &'static str) -> Result<Tensor<f32>, Failed> {
    match out.remove(name) {
        Some(Value::Float(t)) => Ok(t),
        _ => Err(Failed::NoOutput(part, name)),
    }
}

/// Looks at nothing.
struct Unseen;

impl LockstepTap<f32> for Unseen {
    fn node(&mut self, _: usize, _: &Graph, _: &Node, _: &[&Value<f32>], _: &[Value<f32>]) {}
}

/// Takes the rows that are asked for out of what the node reads that gives the logits.
struct HeadRows {
    /// First row by sample.
    from: Vec<usize>,
    /// `[1, rows, width]` by sample.
    found: Vec<Option<Tensor<f32>>>,
    head: Option<Node>,
}

impl LockstepTap<f32> for HeadRows {
    fn node(&mut self, sample: usize, graph: &Graph, node: &Node, inputs: &[&Value<f32>], _: &[Value<f32>]) {
        let gives_logits = node.outputs.iter().any(|v| graph.value(*v).name == "logits");
        let (true, [Value::Float(rows)]) = (gives_logits, inputs) else { return };
        let from = self.from[sample].min(rows.rows());
        let kept = rows.data()[from * rows.cols()..].to_vec();
        self.found[sample] = Tensor::new(vec![1, rows.rows() - from, rows.cols()], kept).ok();
        self.head = Some(node.clone());
    }
}

/// Consecutive questions of at most [`GROUP_TOKENS`] rows together, at least one each.
fn groups(questions: &[Question]) -> Vec<&[Question]> {
    let (mut groups, mut begin, mut sum) = (vec![], 0, 0);
    for (i, q) in questions.iter().enumerate() {
        let cost = (q.prompt.input_ids.len() + q.fed.len()).max(q.prompt.pixel_values.rows());
        if i > begin && sum + cost > GROUP_TOKENS {
            groups.push(&questions[begin..i]);
            (begin, sum) = (i, 0);
        }
        sum += cost;
    }
    if begin < questions.len() {
        groups.push(&questions[begin..]);
    }
    groups
}

impl Runner for ModelRunner<'_> {
    fn about(&self) -> &About {
        &self.about
    }

    fn score(
        &mut self,
        questions: &[Question],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Scored>, RunnerError> {
        let mut found = Vec::with_capacity(questions.len());
        for group in groups(questions) {
            found.extend(self.score_group(group).map_err(|e| e.of(&group[0]))?);
            done(found.len());
        }
        Ok(found)
    }

    fn generate(
        &mut self,
        question: &Question,
        until: Until<'_>,
        each: &mut dyn FnMut(i64) -> bool,
    ) -> Result<Vec<i64>, RunnerError> {
        let prompt = Generation {
            input_ids: &question.prompt.input_ids,
            pixel_values: &question.prompt.pixel_values,
            grids: &question.prompt.grids,
            position_ids: &question.prompt.position_ids,
        };
        let fail = |e: crate::exec::GenerateError| Failed::from(e).of(question);
        let mut tokens = Vec::new();
        if until.max_new == 0 {
            return Ok(tokens);
        }
        let mut state = DecoderState::prefill(&self.exec, &prompt).map_err(fail)?;
        loop {
            let token = state.best();
            tokens.push(token);
            let more = each(token);
            if !more || tokens.len() == until.max_new || until.stop.contains(&token) {
                return Ok(tokens);
            }
            state.step(&self.exec, token).map_err(fail)?;
        }
    }
}

impl Traced for ModelRunner<'_> {
    fn vision(&self, question: &Question, tap: TraceTap<'_>) -> Result<Features, RunnerError> {
        if question.prompt.grids.is_empty() {
            return Ok(None);
        }
        let mut run = || {
            let inputs = vision_inputs(&question.prompt.pixel_values, &question.prompt.grids)?;
            float(self.traced(Part::Vision, inputs, tap)?, "vision", "image_features")
        };
        run().map(Some).map_err(|e| e.of(question))
    }

    fn decoder(
        &self,
        question: &Question,
        features: &Features,
        tap: TraceTap<'_>,
    ) -> Result<Vec<Distribution>, RunnerError> {
        let mut run = || {
            let mut inputs = self.decoder_inputs(question, features.as_ref())?;
            if let Some(Value::Float(embeds)) = inputs.get_mut(INPUT)
                && let Some(other) = tap(INPUT, embeds)
            {
                *embeds = other;
            }
            let logits = float(self.traced(Part::Decoder, inputs, tap)?, "decoder", "logits")?;
            let from = first_row(question).min(logits.rows()) * logits.cols();
            Ok(distributions(&logits.data()[from..], logits.cols()))
        };
        run().map_err(|e: Failed| e.of(question))
    }
}
