//! The three files of an artifact as a runner: images to rows, ids and rows to embeddings, embeddings to logits and a key/value cache. What the files take and
//! hand out is in `docs/onnx.md`.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::array::Array;
use super::error::OnnxRunError;
use super::graph::{Axis, OnnxGraph, Port, Weights};
use super::value::Value;
use super::{Rounding, Tap};
use crate::calibrate::Prepared;
use crate::export::onnx::{ElementType, Extent, GraphSignature, TensorSignature, file_name};
use crate::graph::Part;
use crate::numeric::Tensor;
use crate::verify::distribution::{best, distributions};
use crate::verify::runner::{About, Question, Runner, RunnerError, RunnerKind, Scored, Until};

/// What an artifact is asked to compute of a question.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrefillOptions<'a> {
    /// Whether activations are rounded.
    pub rounding: Rounding,
    /// Image features to go on with, as many channels as the files say; absent: those of `vision.onnx`.
    pub features: Option<&'a Tensor<f32>>,
}

/// What the files say to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefill {
    /// Logits behind the prompt and behind each token fed after it, `[1 + fed, vocabulary]`.
    pub logits: Tensor<f32>,
    /// Rows of the images in the decoder, `[rows, channels]`, the modality channel among them where the files have one; none without images.
    pub features: Option<Tensor<f32>>,
}

/// A cache of one layer: the input it is, the output it becomes.
#[derive(Clone, Debug)]
struct Cache {
    past: String,
    present: String,
    heads: usize,
    dim: usize,
}

/// The files of an ONNX artifact, run by the interpreter.
#[derive(Debug)]
pub struct EmbeddedOnnx {
    about: About,
    vision: OnnxGraph,
    embedding: OnnxGraph,
    decoder: OnnxGraph,
    /// Channels of image features and embeddings.
    width: usize,
    caches: Vec<Cache>,
    /// Axes of positions, where they have an axis of their own.
    position_axes: Option<usize>,
    asks_prompt_length: bool,
}

/// Tokens and where they are, and what the decoder knows of those before.
struct Step<'a> {
    ids: &'a [i64],
    positions: &'a [Vec<i64>],
    /// Keys and values by the names of the inputs; none in the beginning.
    cache: BTreeMap<String, Value>,
    /// Tokens in the cache and these.
    length: usize,
    prompt_length: usize,
}

impl EmbeddedOnnx {
    /// Opens the files of the artifact in `dir`, which must take and hand out what its manifest says (`signatures`).
    ///
    /// # Errors
    /// [`RunnerError::Refused`] naming the file.
    pub fn open(dir: &Path, signatures: &[GraphSignature], weights: Weights) -> Result<Self, RunnerError> {
        let [vision, embedding, decoder] = [Part::Vision, Part::Embedding, Part::Decoder].map(file_name);
        let open = |file: &str| open(dir, file, signatures, weights);
        let (vision, embedding, decoder) = (open(vision)?, open(embedding)?, open(decoder)?);
        let port = |name: &str| {
            let missing = || refused(file_name(Part::Decoder), format!("it has no input {name}"));
            decoder.input(name).ok_or_else(missing)
        };
        let width = match port("inputs_embeds")?.shape.last() {
            Some(Axis::Fixed(n)) => *n,
            _ => return Err(refused(file_name(Part::Decoder), "inputs_embeds has no fixed width".into())),
        };
        let position_axes = match port("position_ids")?.shape.as_slice() {
            [Axis::Fixed(axes), _, _] => Some(*axes),
            _ => None,
        };
        let caches = decoder.inputs().iter().filter_map(cache).collect();
        let about = About {
            kind: RunnerKind::Embedded,
            version: env!("CARGO_PKG_VERSION").to_string(),
            detail: "interpreter of the ONNX files, as their operators are defined".to_string(),
        };
        let asks_prompt_length = decoder.input("prompt_length").is_some();
        Ok(Self { about, vision, embedding, decoder, width, caches, position_axes, asks_prompt_length })
    }

    /// One of the files.
    pub fn graph(&self, part: Part) -> &OnnxGraph {
        match part {
            Part::Vision => &self.vision,
            Part::Embedding => &self.embedding,
            Part::Decoder => &self.decoder,
        }
    }

    /// Channels of image features and embeddings: the decoder's width, and one more where the files carry the modality.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Runs `vision.onnx`; none without images.
    ///
    /// # Errors
    /// [`OnnxRunError`].
    pub fn features(
        &self,
        prompt: &Prepared,
        rounding: Rounding,
        tap: &mut dyn Tap,
    ) -> Result<Option<Tensor<f32>>, OnnxRunError> {
        if prompt.grids.is_empty() {
            return Ok(None);
        }
        let grids: Vec<i64> = prompt.grids.iter().flatten().map(|&n| n as i64).collect();
        let grids = self.array(Part::Vision, vec![prompt.grids.len(), 3], grids)?;
        let inputs = BTreeMap::from([
            ("pixel_values".to_string(), Value::F32(prompt.pixel_values.clone().into())),
            ("image_grid_thw".to_string(), Value::I64(grids)),
        ]);
        let found = self.run(Part::Vision, inputs, &["image_features"], rounding, tap)?;
        self.floats(Part::Vision, &found, "image_features")?
            .into_tensor()
            .map(Some)
            .map_err(self.fault(Part::Vision))
    }

    /// Runs all files on a prompt and the tokens fed behind it, with an empty cache. `tap` sees the values of all three, whose names differ.
    ///
    /// # Errors
    /// [`OnnxRunError`].
    pub fn prefill(
        &self,
        question: &Question,
        options: PrefillOptions<'_>,
        tap: &mut dyn Tap,
    ) -> Result<Prefill, OnnxRunError> {
        let Question { prompt, fed, .. } = question;
        let features = match options.features {
            Some(given) => Some(given.clone()),
            None => self.features(prompt, options.rounding, tap)?,
        };
        let ids = [prompt.input_ids.as_slice(), fed].concat();
        let after = prompt.next_position()..prompt.next_position() + fed.len() as i64;
        let follow = |axis: &Vec<i64>| axis.iter().copied().chain(after.clone()).collect();
        let positions: Vec<Vec<i64>> = prompt.position_ids.iter().map(follow).collect();
        let prompt_length = prompt.input_ids.len();
        let step =
            Step { ids: &ids, positions: &positions, cache: self.empty(), length: ids.len(), prompt_length };
        let found = self.advance(step, features.as_ref(), &["logits"], options.rounding, tap)?;
        let logits = self.floats(Part::Decoder, &found, "logits")?;
        let vocabulary = logits.cols();
        let first = prompt_length.saturating_sub(1) * vocabulary;
        let rows = logits.data().get(first..).unwrap_or_default().to_vec();
        let logits = Tensor::new(vec![rows.len() / vocabulary.max(1), vocabulary], rows);
        let logits = logits.map_err(|e| {
            self.fault(Part::Decoder)(super::Fault::Elements { shape: e.shape, found: e.found })
        })?;
        Ok(Prefill { logits, features })
    }

    /// Runs embedding and decoder on one step.
    fn advance(
        &self,
        step: Step<'_>,
        features: Option<&Tensor<f32>>,
        wanted: &[&str],
        rounding: Rounding,
        tap: &mut dyn Tap,
    ) -> Result<BTreeMap<String, Value>, OnnxRunError> {
        let n = step.ids.len();
        let features = match features {
            Some(rows) => rows.clone().into(),
            None => self.array(Part::Embedding, vec![0, self.width], vec![])?,
        };
        let ids = self.array(Part::Embedding, vec![1, n], step.ids.to_vec())?;
        let inputs = BTreeMap::from([
            ("input_ids".to_string(), Value::I64(ids)),
            ("image_features".to_string(), Value::F32(features)),
        ]);
        let mut inputs = self.run(Part::Embedding, inputs, &["inputs_embeds"], rounding, tap)?;
        let mask = self.array(Part::Decoder, vec![1, step.length], vec![1; step.length])?;
        inputs.insert("attention_mask".into(), Value::I64(mask));
        let shape = self.position_axes.map_or(vec![1, n], |axes| vec![axes, 1, n]);
        let positions = self.array(Part::Decoder, shape, step.positions.concat())?;
        inputs.insert("position_ids".into(), Value::I64(positions));
        if self.asks_prompt_length {
            inputs.insert("prompt_length".into(), Value::I64(Array::list(vec![step.prompt_length as i64])));
        }
        inputs.extend(step.cache);
        self.run(Part::Decoder, inputs, wanted, rounding, tap)
    }

    fn run(
        &self,
        part: Part,
        inputs: BTreeMap<String, Value>,
        wanted: &[&str],
        rounding: Rounding,
        tap: &mut dyn Tap,
    ) -> Result<BTreeMap<String, Value>, OnnxRunError> {
        self.graph(part).run(inputs, wanted, rounding, tap)
    }

    /// Caches before the first token.
    fn empty(&self) -> BTreeMap<String, Value> {
        let none = |c: &Cache| {
            let shape = vec![1, c.heads, 0, c.dim];
            Some((c.past.clone(), Value::F32(Array::new(shape, vec![]).ok()?)))
        };
        self.caches.iter().filter_map(none).collect()
    }

    fn array<T>(&self, part: Part, shape: Vec<usize>, data: Vec<T>) -> Result<Array<T>, OnnxRunError> {
        Array::new(shape, data).map_err(self.fault(part))
    }

    /// The error of inputs that do not belong together.
    fn fault(&self, part: Part) -> impl Fn(super::Fault) -> OnnxRunError {
        let path = self.graph(part).path().to_path_buf();
        move |fault| OnnxRunError::Inputs { path: path.clone(), fault: Box::new(fault) }
    }

    fn floats(
        &self,
        part: Part,
        found: &BTreeMap<String, Value>,
        name: &str,
    ) -> Result<Array<f32>, OnnxRunError> {
        let path = || self.graph(part).path().to_path_buf();
        match found.get(name).and_then(Value::floats) {
            Some(array) => Ok(array.clone()),
            None => Err(OnnxRunError::NoValue { path: path(), name: format!("{name} of float") }),
        }
    }

    /// What the files say to one question.
    fn answer(&self, question: &Question) -> Result<Scored, RunnerError> {
        let found = self.prefill(question, PrefillOptions::default(), &mut ());
        let Prefill { logits, features } = found.map_err(|e| failed(question, &e))?;
        Ok(Scored { rows: distributions(logits.data(), logits.cols()), features })
    }

    fn greedy(
        &self,
        prompt: &Prepared,
        until: Until<'_>,
        each: &mut dyn FnMut(i64) -> bool,
    ) -> Result<Vec<i64>, OnnxRunError> {
        let mut features = self.features(prompt, Rounding::Declared, &mut ())?;
        let (mut ids, mut positions) = (prompt.input_ids.clone(), prompt.position_ids.clone());
        let (prompt_length, mut length) = (ids.len(), 0);
        let (mut cache, mut next, mut tokens) = (self.empty(), prompt.next_position(), vec![]);
        let wanted: Vec<&str> =
            ["logits"].into_iter().chain(self.caches.iter().map(|c| c.present.as_str())).collect();
        while tokens.len() < until.max_new {
            length += ids.len();
            let step = Step { ids: &ids, positions: &positions, cache, length, prompt_length };
            let mut found = self.advance(step, features.as_ref(), &wanted, Rounding::Declared, &mut ())?;
            let logits = self.floats(Part::Decoder, &found, "logits")?;
            let last = logits.len().saturating_sub(logits.cols());
            let token = best(&logits.data()[last..]);
            tokens.push(token);
            if !each(token) || until.stop.contains(&token) {
                break;
            }
            let past = |c: &Cache| Some((c.past.clone(), found.remove(&c.present)?));
            cache = self.caches.iter().filter_map(past).collect();
            (ids, features) = (vec![token], None);
            positions.iter_mut().for_each(|axis| *axis = vec![next]);
            next += 1;
        }
        Ok(tokens)
    }
}

impl Runner for EmbeddedOnnx {
    fn about(&self) -> &About {
        &self.about
    }

    fn score(
        &mut self,
        questions: &[Question],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Scored>, RunnerError> {
        // A few for each thread, so that none waits long for the others, and few enough to bound what is live.
        let batch = 4 * rayon::current_num_threads();
        let mut scored = Vec::with_capacity(questions.len());
        for some in questions.chunks(batch) {
            let answers: Vec<Scored> =
                some.par_iter().map(|q| self.answer(q)).collect::<Result<_, RunnerError>>()?;
            scored.extend(answers);
            done(scored.len());
        }
        Ok(scored)
    }

    fn generate(
        &mut self,
        question: &Question,
        until: Until<'_>,
        each: &mut dyn FnMut(i64) -> bool,
    ) -> Result<Vec<i64>, RunnerError> {
        self.greedy(&question.prompt, until, each).map_err(|e| failed(question, &e))
    }
}

fn failed(question: &Question, e: &OnnxRunError) -> RunnerError {
    RunnerError::Question {
        kind: RunnerKind::Embedded,
        sample: question.sample.id.clone(),
        reason: e.to_string(),
    }
}

fn refused(file: &str, reason: String) -> RunnerError {
    RunnerError::Refused { kind: RunnerKind::Embedded, file: file.to_string(), reason }
}

/// Opens a file that must be as its signature says.
fn open(
    dir: &Path,
    file: &str,
    signatures: &[GraphSignature],
    weights: Weights,
) -> Result<OnnxGraph, RunnerError> {
    let signature = signatures.iter().find(|s| s.file == file);
    let signature = signature.ok_or_else(|| refused(file, "the manifest has no signature of it".into()))?;
    let graph = OnnxGraph::open(&dir.join(file), weights).map_err(|e| refused(file, e.to_string()))?;
    for (what, ports, tensors) in
        [("inputs", graph.inputs(), &signature.inputs), ("outputs", graph.outputs(), &signature.outputs)]
    {
        let expected: Vec<Port> = tensors.iter().map(port).collect();
        let differs = ports.iter().zip(&expected).find(|(found, expected)| found != expected);
        if let Some((found, expected)) = differs {
            let reason = format!("of the {what}, the manifest says {expected:?}, the file {found:?}");
            return Err(refused(file, reason));
        }
        if ports.len() != expected.len() {
            let reason = format!("the manifest says {} {what}, the file has {}", expected.len(), ports.len());
            return Err(refused(file, reason));
        }
    }
    Ok(graph)
}

/// An input or output as a file of this signature has it.
fn port(tensor: &TensorSignature) -> Port {
    let axis = |e: &Extent| match e {
        Extent::Fixed(n) => Axis::Fixed(*n),
        Extent::Named(name) => Axis::Named(name.clone()),
    };
    let dtype = match tensor.dtype {
        ElementType::Float32 => "float",
        ElementType::Int64 => "int64",
    };
    Port {
        name: tensor.name.clone(),
        dtype: dtype.to_string(),
        shape: tensor.shape.iter().map(axis).collect(),
    }
}

/// The cache that an input is.
fn cache(port: &Port) -> Option<Cache> {
    let layer = port.name.strip_prefix("past_key_values.")?;
    let [_, Axis::Fixed(heads), _, Axis::Fixed(dim)] = *port.shape.as_slice() else { return None };
    Some(Cache { past: port.name.clone(), present: format!("present.{layer}"), heads, dim })
}
