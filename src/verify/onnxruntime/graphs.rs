//! The three sessions of an artifact: what goes in and out of each, as the manifest's signatures say.

use std::path::Path;

use ort::ep::ExecutionProviderDispatch;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, TensorRef};

use crate::calibrate::Prepared;
use crate::export::onnx::{Extent, GraphSignature, TensorSignature};
use crate::numeric::Tensor;
use crate::verify::runner::{RunnerError, RunnerKind};

/// What the caches of the layers before and after a run are called, before the layer.
const PAST: &str = "past_key_values.";
const NOW: &str = "present.";

/// Inputs of one run, by name.
type Inputs<'a> = Vec<(String, SessionInputValue<'a>)>;

/// The sessions.
pub struct Graphs {
    vision: Session,
    embedding: Session,
    /// Channels of image features and embeddings, the modality's included.
    width: usize,
    /// The decoder with its cache.
    pub decoder: Decoder,
}

/// The decoder's session and its cache.
pub struct Decoder {
    session: Session,
    /// Inputs that hold the cache, with the extents of heads and their channels.
    past: Vec<(String, [usize; 2])>,
    /// Whether positions have a leading axis of three.
    grid_positions: bool,
    asks_prompt_length: bool,
    logits_alone: RunOptions<HasSelectedOutputs>,
    cache: Vec<(String, DynValue)>,
    /// Tokens in the cache.
    length: usize,
}

/// New tokens of a run.
pub struct Step<'a> {
    /// Their number.
    pub rows: usize,
    /// Their positions, one list per axis.
    pub positions: &'a [Vec<i64>],
    /// Tokens of the prompt, the same while tokens are generated.
    pub prompt_length: usize,
}

impl Graphs {
    /// Loads the files that `signatures` name.
    pub fn open(
        folder: &Path,
        signatures: &[GraphSignature],
        provider: Option<&ExecutionProviderDispatch>,
        threads: Option<usize>,
    ) -> Result<Self, RunnerError> {
        let with = |output: &str| {
            let found = signatures.iter().find(|g| g.outputs.iter().any(|t| t.name == output));
            found.ok_or_else(|| refused("mquant.json", format!("no graph has the output {output}")))
        };
        let (vision, embedding, decoder) = (with("image_features")?, with("inputs_embeds")?, with("logits")?);
        let load = |graph: &GraphSignature| {
            session(&folder.join(&graph.file), provider, threads)
                .map_err(|e| refused(&graph.file, e.message().to_string()))
        };
        let width = input(embedding, "image_features").and_then(|t| fixed(t, 1));
        let width =
            width.ok_or_else(|| refused(&embedding.file, "image_features has no fixed width".into()))?;
        Ok(Self {
            vision: load(vision)?,
            embedding: load(embedding)?,
            width,
            decoder: Decoder::new(load(decoder)?, decoder)?,
        })
    }

    /// Image features `[rows, width]` of a prompt; none without images.
    pub fn features(&mut self, prompt: &Prepared) -> ort::Result<Option<Tensor<f32>>> {
        if prompt.grids.is_empty() {
            return Ok(None);
        }
        let grids: Vec<i64> = prompt.grids.iter().flatten().map(|&n| n as i64).collect();
        let pixels = &prompt.pixel_values;
        let inputs: Inputs<'_> = vec![
            ("pixel_values".into(), floats(pixels.shape(), pixels.data())?),
            ("image_grid_thw".into(), ints(&[prompt.grids.len(), 3], &grids)?),
        ];
        let out = self.vision.run(inputs)?;
        tensor(out.get("image_features")).map(Some)
    }

    /// Embeddings `[1, tokens, width]` of ids, image features in the place of placeholders.
    pub fn embed(&mut self, ids: &[i64], features: Option<&Tensor<f32>>) -> ort::Result<DynValue> {
        let features = match features {
            Some(t) => floats(t.shape(), t.data())?,
            None => floats(&[0, self.width], &[])?,
        };
        let inputs: Inputs<'_> =
            vec![("input_ids".into(), ints(&[1, ids.len()], ids)?), ("image_features".into(), features)];
        let mut out = self.embedding.run(inputs)?;
        out.remove("inputs_embeds").ok_or_else(|| missing("inputs_embeds"))
    }
}

impl Decoder {
    fn new(session: Session, signature: &GraphSignature) -> Result<Self, RunnerError> {
        let bad = |name: &str| refused(&signature.file, format!("the input {name} is not as expected"));
        let mut past = Vec::new();
        for t in signature.inputs.iter().filter(|t| t.name.starts_with(PAST)) {
            let (heads, channels) = fixed(t, 1).zip(fixed(t, 3)).ok_or_else(|| bad(&t.name))?;
            past.push((t.name.clone(), [heads, channels]));
        }
        let positions = input(signature, "position_ids").ok_or_else(|| bad("position_ids"))?;
        let selected = OutputSelector::no_default().with("logits");
        let options = RunOptions::new().map_err(|e| refused(&signature.file, e.message().to_string()))?;
        Ok(Self {
            session,
            past,
            grid_positions: positions.shape.len() == 3,
            asks_prompt_length: input(signature, "prompt_length").is_some(),
            logits_alone: options.with_outputs(selected),
            cache: Vec::new(),
            length: 0,
        })
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        self.cache = Vec::new();
        self.length = 0;
    }

    /// Logits `[1, rows, vocabulary]` of tokens with nothing before them; no cache is kept.
    pub fn logits(&mut self, embeds: DynValue, step: &Step<'_>) -> ort::Result<Tensor<f32>> {
        self.reset();
        let feeds = Feeds::of(step, step.rows);
        let mut inputs = feeds.inputs(self.grid_positions, self.asks_prompt_length)?;
        inputs.push(("inputs_embeds".into(), embeds.into()));
        for (name, [heads, channels]) in &self.past {
            inputs.push((name.clone(), floats(&[1, *heads, 0, *channels], &[])?));
        }
        let out = self.session.run_with_options(inputs, &self.logits_alone)?;
        tensor(out.get("logits"))
    }

    /// Logits `[1, rows, vocabulary]` of tokens behind those of the cache, which then holds them too.
    pub fn advance(&mut self, embeds: DynValue, step: &Step<'_>) -> ort::Result<Tensor<f32>> {
        self.length += step.rows;
        let feeds = Feeds::of(step, self.length);
        let mut inputs = feeds.inputs(self.grid_positions, self.asks_prompt_length)?;
        inputs.push(("inputs_embeds".into(), embeds.into()));
        if self.cache.is_empty() {
            for (name, [heads, channels]) in &self.past {
                inputs.push((name.clone(), floats(&[1, *heads, 0, *channels], &[])?));
            }
        }
        inputs.extend(std::mem::take(&mut self.cache).into_iter().map(|(name, value)| (name, value.into())));
        let mut out = self.session.run(inputs)?;
        let logits = tensor(out.get("logits"))?;
        for (name, _) in &self.past {
            let now = name.replacen(PAST, NOW, 1);
            let value = out.remove(&now).ok_or_else(|| missing(&now))?;
            self.cache.push((name.clone(), value));
        }
        Ok(logits)
    }
}

/// Whole-number inputs of one run of the decoder.
struct Feeds {
    rows: usize,
    mask: Vec<i64>,
    axes: usize,
    positions: Vec<i64>,
    prompt_length: [i64; 1],
}

impl Feeds {
    /// `total` are the tokens that may be seen, those of the cache included.
    fn of(step: &Step<'_>, total: usize) -> Self {
        Self {
            rows: step.rows,
            mask: vec![1; total],
            axes: step.positions.len(),
            positions: step.positions.concat(),
            prompt_length: [step.prompt_length as i64],
        }
    }

    fn inputs(&self, grid_positions: bool, prompt_length: bool) -> ort::Result<Inputs<'_>> {
        let shape = if grid_positions { vec![self.axes, 1, self.rows] } else { vec![self.axes, self.rows] };
        let mut inputs: Inputs<'_> = vec![
            ("attention_mask".into(), ints(&[1, self.mask.len()], &self.mask)?),
            ("position_ids".into(), ints(&shape, &self.positions)?),
        ];
        if prompt_length {
            inputs.push(("prompt_length".into(), ints(&[1], &self.prompt_length)?));
        }
        Ok(inputs)
    }
}

fn session(
    path: &Path,
    provider: Option<&ExecutionProviderDispatch>,
    threads: Option<usize>,
) -> ort::Result<Session> {
    let mut builder = Session::builder()?;
    if let Some(provider) = provider {
        builder = builder.with_execution_providers([provider.clone()])?;
    }
    if let Some(threads) = threads {
        builder = builder.with_intra_threads(threads)?;
    }
    builder.commit_from_file(path)
}

fn floats<'a>(shape: &[usize], data: &'a [f32]) -> ort::Result<SessionInputValue<'a>> {
    Ok(TensorRef::from_array_view((shape.to_vec(), data))?.into())
}

fn ints<'a>(shape: &[usize], data: &'a [i64]) -> ort::Result<SessionInputValue<'a>> {
    Ok(TensorRef::from_array_view((shape.to_vec(), data))?.into())
}

/// A float output; copied, because its memory belongs to the run.
fn tensor(value: Option<&DynValue>) -> ort::Result<Tensor<f32>> {
    let value = value.ok_or_else(|| missing("that was asked for"))?;
    let (shape, data) = value.try_extract_tensor::<f32>()?;
    let shape = shape.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
    Tensor::new(shape, data.to_vec()).map_err(|e| ort::Error::new(e.to_string()))
}

fn missing(output: &str) -> ort::Error {
    ort::Error::new(format!("there is no output {output}"))
}

fn input<'a>(graph: &'a GraphSignature, name: &str) -> Option<&'a TensorSignature> {
    graph.inputs.iter().find(|t| t.name == name)
}

fn fixed(tensor: &TensorSignature, axis: usize) -> Option<usize> {
    match tensor.shape.get(axis) {
        Some(Extent::Fixed(n)) => Some(*n),
        _ => None,
    }
}

fn refused(file: &str, reason: String) -> RunnerError {
    RunnerError::Refused { kind: RunnerKind::OnnxRuntime, file: file.to_string(), reason }
}
