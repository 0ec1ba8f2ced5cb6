//! Greedy generation with a key/value cache: how the executor answers a prompt.

use super::run::{ExecError, Executor, Inputs, Outputs};
use super::value::Value;
use crate::graph::build::PROMPT_LENGTH;
use crate::graph::{Model, Part};
use crate::numeric::{Real, Tensor};

/// Why a generation failed.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A graph did not run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A graph did not hand out what generation needs.
    #[error("the {part} graph has no output {name}")]
    NoOutput {
        /// Name of the part.
        part: &'static str,
        /// Name of the output.
        name: String,
    },
    /// Prompt tensors contradict each other.
    #[error("prompt: {0}")]
    Prompt(#[from] crate::numeric::ShapeError),
}

/// A prompt in the form the graphs take, batch of one.
#[derive(Clone, Debug)]
pub struct Generation<'a> {
    /// Token ids with image placeholders expanded.
    pub input_ids: &'a [i64],
    /// Patch rows of all images, `[patches, features]`; no rows without images.
    pub pixel_values: &'a Tensor<f32>,
    /// Frames, patch rows, patch columns of every image.
    pub grids: &'a [[usize; 3]],
    /// One row of positions per rotary axis, each as long as `input_ids`.
    pub position_ids: &'a [Vec<i64>],
}

/// The decoder between two steps.
pub struct DecoderState<T> {
    cache: Outputs<T>,
    length: usize,
    prompt_length: usize,
    next_position: i64,
    /// Logits of every row of the last step, `[1, rows, vocab]`.
    pub logits: Tensor<T>,
}

impl<T: Real> DecoderState<T> {
    /// Runs vision, embedding and decoder on a prompt.
    ///
    /// # Errors
    /// [`GenerateError`] when tensors do not fit the graphs.
    pub fn prefill(exec: &Executor<'_, T>, prompt: &Generation<'_>) -> Result<Self, GenerateError> {
        Self::start(exec, prompt, |_| true)
    }

    /// The logits of [`prefill`](Self::prefill) alone: no cache is kept, so memory does not grow with the layers.
    ///
    /// # Errors
    /// As there.
    pub fn prompt_logits(
        exec: &Executor<'_, T>,
        prompt: &Generation<'_>,
    ) -> Result<Tensor<T>, GenerateError> {
        Self::start(exec, prompt, |name| name == "logits").map(|state| state.logits)
    }

    /// Runs a prompt and keeps the outputs of the decoder that are `wanted`.
    fn start(
        exec: &Executor<'_, T>,
        prompt: &Generation<'_>,
        wanted: fn(&str) -> bool,
    ) -> Result<Self, GenerateError> {
        let features = image_features(exec, prompt)?;
        let n = prompt.input_ids.len();
        let ids = Tensor::new(vec![1, n], prompt.input_ids.to_vec())?;
        let next_position = prompt.position_ids.iter().flatten().max().map_or(0, |p| p + 1);
        let mut state = Self {
            cache: empty_cache(exec.model()),
            length: 0,
            prompt_length: n,
            next_position,
            logits: Tensor::full(vec![1, 0, 0], T::ZERO),
        };
        state.advance(exec, ids, features, prompt.position_ids, wanted)?;
        Ok(state)
    }

    /// Feeds one more token at the next position.
    ///
    /// # Errors
    /// [`GenerateError`] as for [`prefill`](Self::prefill).
    pub fn step(&mut self, exec: &Executor<'_, T>, token: i64) -> Result<(), GenerateError> {
        let positions = vec![vec![self.next_position]; exec.model().spec.decoder.position_axes()];
        self.next_position += 1;
        let width = feature_width(exec.model());
        let none = Tensor::full(vec![0, width], T::ZERO);
        self.advance(exec, Tensor::full(vec![1, 1], token), none, &positions, |_| true)
    }

    /// The most likely next token; the lowest id among equals.
    pub fn best(&self) -> i64 {
        let rows = self.logits.rows();
        let row = if rows == 0 { &[] } else { self.logits.row(rows - 1) };
        let mut best = 0;
        for (i, x) in row.iter().enumerate() {
            if *x > row[best] {
                best = i;
            }
        }
        best as i64
    }

    fn advance(
        &mut self,
        exec: &Executor<'_, T>,
        ids: Tensor<i64>,
        features: Tensor<T>,
        positions: &[Vec<i64>],
        wanted: fn(&str) -> bool,
    ) -> Result<(), GenerateError> {
        let rows = ids.data().len();
        let mut inputs = Inputs::new();
        inputs.insert("input_ids".into(), Value::Int(ids));
        inputs.insert("image_features".into(), Value::Float(features));
        let mut out = exec.run(Part::Embedding, inputs, &mut ())?;
        let embeds = take(&mut out, Part::Embedding, "inputs_embeds")?;
        let mut inputs = position_inputs(exec.model(), positions, self.prompt_length)?;
        inputs.insert("inputs_embeds".into(), embeds);
        self.length += rows;
        inputs.insert("attention_mask".into(), Value::Int(Tensor::full(vec![1, self.length], 1)));
        for (name, value) in std::mem::take(&mut self.cache) {
            inputs.insert(name.replacen("present.", "past_key_values.", 1), value);
        }
        let mut out = exec.run_for(Part::Decoder, inputs, wanted, &mut ())?;
        let logits = take(&mut out, Part::Decoder, "logits")?;
        if let Value::Float(t) = logits {
            self.logits = t;
        }
        self.cache = out;
        Ok(())
    }
}

/// Greedy tokens after a prompt: at most `max_new`, ending after one of `stop` (which is included).
///
/// # Errors
/// [`GenerateError`] when tensors do not fit the graphs.
pub fn greedy<T: Real>(
    exec: &Executor<'_, T>,
    prompt: &Generation<'_>,
    max_new: usize,
    stop: &[i64],
) -> Result<Vec<i64>, GenerateError> {
    let mut tokens = Vec::with_capacity(max_new);
    if max_new == 0 {
        return Ok(tokens);
    }
    let mut state = DecoderState::prefill(exec, prompt)?;
    loop {
        let token = state.best();
        tokens.push(token);
        if tokens.len() == max_new || stop.contains(&token) {
            return Ok(tokens);
        }
        state.step(exec, token)?;
    }
}

/// Image features of a prompt; no rows without images.
fn image_features<T: Real>(
    exec: &Executor<'_, T>,
    prompt: &Generation<'_>,
) -> Result<Tensor<T>, GenerateError> {
    if prompt.grids.is_empty() {
        return Ok(Tensor::full(vec![0, feature_width(exec.model())], T::ZERO));
    }
    let mut out = exec.run(Part::Vision, vision_inputs(prompt.pixel_values, prompt.grids)?, &mut ())?;
    match take(&mut out, Part::Vision, "image_features")? {
        Value::Float(t) => Ok(t),
        Value::Int(_) => {
            Err(GenerateError::NoOutput { part: "vision", name: "image_features (float)".into() })
        }
    }
}

/// Inputs of the vision graph.
///
/// # Errors
/// [`crate::numeric::ShapeError`] when a size overflows.
pub fn vision_inputs<T: Real>(
    pixels: &Tensor<f32>,
    grids: &[[usize; 3]],
) -> Result<Inputs<T>, crate::numeric::ShapeError> {
    let grid = grids.iter().flatten().map(|&n| n as i64).collect();
    Ok(Inputs::from([
        ("pixel_values".to_string(), Value::Float(pixels.cast())),
        ("image_grid_thw".to_string(), Value::Int(Tensor::new(vec![grids.len(), 3], grid)?)),
    ]))
}

/// Inputs of the decoder that say where tokens are: `position_ids` from one list per axis, and the length of the prompt where the graph
/// asks for it.
///
/// # Errors
/// [`crate::numeric::ShapeError`] when the axes differ in length.
pub fn position_inputs<T: Real>(
    model: &Model,
    positions: &[Vec<i64>],
    prompt_length: usize,
) -> Result<Inputs<T>, crate::numeric::ShapeError> {
    let n = positions.first().map_or(0, Vec::len);
    let shape =
        if model.spec.decoder.rope_sections.is_empty() { vec![1, n] } else { vec![positions.len(), 1, n] };
    let ids = Value::Int(Tensor::new(shape, positions.concat())?);
    let mut inputs = Inputs::from([("position_ids".to_string(), ids)]);
    if model.graph(Part::Decoder).is_some_and(|g| g.find(PROMPT_LENGTH).is_some()) {
        let length = Tensor::full(vec![1], prompt_length as i64);
        inputs.insert(PROMPT_LENGTH.to_string(), Value::Int(length));
    }
    Ok(inputs)
}

/// Channels of the rows the embedding graph takes: the decoder's width, and the modality channel where there is one.
pub fn feature_width(model: &Model) -> usize {
    let of = |g: &crate::graph::Graph| g.find("image_features").and_then(|v| g.value(v).channels());
    model.graph(Part::Embedding).and_then(of).unwrap_or(model.spec.decoder.width)
}

/// An empty key/value cache for a batch of one.
pub fn empty_cache<T: Real>(model: &Model) -> Outputs<T> {
    let d = &model.spec.decoder;
    let empty = || Value::Float(Tensor::full(vec![1, d.kv_heads, 0, d.head_dim], T::ZERO));
    let names = |i| [format!("present.{i}.key"), format!("present.{i}.value")];
    (0..d.layers).flat_map(names).map(|n| (n, empty())).collect()
}

fn take<T>(out: &mut Outputs<T>, part: Part, name: &str) -> Result<Value<T>, GenerateError> {
    out.remove(name).ok_or_else(|| GenerateError::NoOutput { part: part.name(), name: name.to_string() })
}
