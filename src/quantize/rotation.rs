//! Rotations before quantization: what the recipe asks for, which matrices it becomes, and the proof that the model stayed the same.

use super::error::QuantizeError;
use super::recipe::{RotationRule, TiedHead, VisionRotation};
use super::samples::CalibrationSample;
use super::target::Target;
use crate::exec::{DecoderState, Executor, Generation};
use crate::graph::{Model, Stream, WeightSource};
use crate::numeric::Real;
use crate::numeric::rotation::Rotation;
use crate::passes::rewrite::Rewrites;
use crate::passes::{
    PassError, bake_mean, fold_norms, fold_streams, needs_mean, rotate_heads, rotate_stream, stream_width,
};

/// A model with what is to be done to its weights.
#[derive(Clone, Debug)]
pub struct Transformed {
    /// The model; the same graph but for folded norms.
    pub model: Model,
    /// Changes of the weights.
    pub rewrites: Rewrites,
    /// What was rotated and what was not.
    pub notes: Vec<RotationNote>,
    /// The matrices by what they rotate.
    pub(super) made: Vec<MadeRotation>,
}

/// What a recipe asks to be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rotates {
    Decoder,
    Vision,
    Heads,
}

/// One matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MadeRotation {
    pub rotates: Rotates,
    /// Index into [`Rewrites::rotations`].
    pub rotation: usize,
    /// Index into [`Transformed::notes`].
    pub note: usize,
}

/// One rotation that was asked for.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationNote {
    /// What it rotates: a stream, or heads of a size.
    pub what: String,
    /// The matrix, where there is one.
    pub matrix: Option<String>,
    /// Why there is none.
    pub reason: Option<String>,
    /// What a recipe with a gate measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateErrors>,
}

/// Expected errors of the linears that a rotation touches: root mean square over them of each one's error relative to its output.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateErrors {
    /// With the rotation.
    pub rotated: f64,
    /// Without it.
    pub left: f64,
    /// Number of these linears, a quantized token table included.
    pub linears: usize,
}

impl RotationNote {
    fn done(what: String, rotation: &Rotation) -> Self {
        Self { what, matrix: Some(rotation.name()), reason: None, gate: None }
    }

    fn left(what: String, reason: String) -> Self {
        Self { what, matrix: None, reason: Some(reason), gate: None }
    }
}

/// Folds norms and rotates as `rule` says for files of a format; without any rotation the model stays as it is. A gate is not asked: it needs calibration data.
///
/// # Errors
/// [`QuantizeError::Pass`] when a pass finds the model in a form it does not know.
pub fn transform(model: &Model, rule: &RotationRule, target: Target) -> Result<Transformed, QuantizeError> {
    let mut transformed = rotate_streams(model, rule, target)?;
    transformed.rotate_heads(rule)?;
    Ok(transformed)
}

/// The part of [`transform`] before heads are rotated: until then the channels of a value head can still be scaled one by one.
pub(super) fn rotate_streams(
    model: &Model,
    rule: &RotationRule,
    target: Target,
) -> Result<Transformed, QuantizeError> {
    let mut rewrites = Rewrites::default();
    let (mut notes, mut made) = (vec![], vec![]);
    let ties = keeps_tied(model, rule, target);
    if ties {
        notes.push(RotationNote::left(format!("{} stream", Stream::Decoder), tied(model)));
    }
    let asked = [(Stream::Decoder, rule.decoder && !ties), (Stream::Vision, rule.vision.any())];
    let streams: Vec<Stream> =
        asked.into_iter().filter(|(_, asked)| *asked).map(|(stream, _)| stream).collect();
    let mut model = match target {
        _ if !rule.any() => model.clone(),
        Target::Onnx => fold_norms(model.clone(), &mut rewrites)?,
        Target::Gguf(_) => fold_streams(model.clone(), &mut rewrites, &streams)?,
    };
    for stream in streams {
        // Every matrix has signs of its own.
        let (rotates, behind) = match stream {
            Stream::Decoder => (Rotates::Decoder, 1),
            Stream::Vision => (Rotates::Vision, 2),
        };
        let bakes = stream == Stream::Vision && rule.vision == VisionRotation::BakeMean;
        let (rotation, note) = (rewrites.rotations.len(), notes.len());
        let text;
        (model, text) = rotate(model, &mut rewrites, stream, bakes, rule.seed.wrapping_add(behind))?;
        notes.push(text);
        if rewrites.rotations.len() > rotation {
            made.push(MadeRotation { rotates, rotation, note });
        }
    }
    Ok(Transformed { model, rewrites, notes, made })
}

/// Whether the decoder's residual stays as it is because its head is the token table.
fn keeps_tied(model: &Model, rule: &RotationRule, target: Target) -> bool {
    let keeps = rule.decoder && rule.tied == TiedHead::Keep;
    keeps && target.has_fixed_graph() && model.spec.decoder.tied_head
}

fn tied(model: &Model) -> String {
    let d = &model.spec.decoder;
    format!(
        "the head is the token table, and a rotation would make it a tensor of its own of {} x {} weights; rotation.tied: untie in the recipe allows that",
        d.vocab, d.width
    )
}

impl RotationRule {
    /// The rule with only what was done of it, as the notes of an export say: what was left stays as it is.
    pub fn done(mut self, notes: &[RotationNote]) -> Self {
        let done = |what: &str| notes.iter().any(|n| n.what.starts_with(what) && n.matrix.is_some());
        self.decoder &= done(&format!("{} stream", Stream::Decoder));
        self.heads &= done("heads of");
        if !done(&format!("{} stream", Stream::Vision)) {
            self.vision = VisionRotation::None;
        }
        self.gate = false;
        self
    }
}

impl Transformed {
    /// The rotation of a stream, where there is one.
    pub fn stream_rotation(&self, stream: Stream) -> Option<&Rotation> {
        let rotates = match stream {
            Stream::Decoder => Rotates::Decoder,
            Stream::Vision => Rotates::Vision,
        };
        let made = self.made.iter().find(|m| m.rotates == rotates)?;
        self.rewrites.rotations.get(made.rotation)
    }

    /// Rotates value heads, if `rule` says so.
    pub(super) fn rotate_heads(&mut self, rule: &RotationRule) -> Result<(), QuantizeError> {
        if !rule.heads {
            return Ok(());
        }
        // Behind the seeds of the two streams.
        let seed = |head_dim: usize| rule.seed.wrapping_add(3 + head_dim as u64);
        let first = self.rewrites.rotations.len();
        let made = |head_dim: usize| Rotation::hadamard(head_dim, seed(head_dim));
        let left = rotate_heads(&self.model, &mut self.rewrites, made)?;
        for (i, rotation) in self.rewrites.rotations.iter().enumerate().skip(first) {
            self.made.push(MadeRotation { rotates: Rotates::Heads, rotation: i, note: self.notes.len() });
            self.notes.push(RotationNote::done(format!("heads of {} channels", rotation.order()), rotation));
        }
        let no_matrix = |n| {
            let reason = format!("no Hadamard matrix of order {n} is known here");
            RotationNote::left(format!("heads of {n} channels"), reason)
        };
        self.notes.extend(left.into_iter().map(no_matrix));
        Ok(())
    }
}

/// Rotates a stream, with its mean baked into the writers first if it has one and `bakes`, or says why not.
fn rotate(
    mut model: Model,
    rewrites: &mut Rewrites,
    stream: Stream,
    bakes: bool,
    seed: u64,
) -> Result<(Model, RotationNote), QuantizeError> {
    let what = format!("{stream} stream");
    let Some(width) = stream_width(&model, stream) else {
        let reason = "a norm with a gain per channel writes the residual, so no rotation of it is exact";
        return Ok((model, RotationNote::left(what, reason.into())));
    };
    let baked = bakes && needs_mean(&model, stream);
    if baked {
        model = match bake_mean(model.clone(), rewrites, stream) {
            Ok(baked) => baked,
            Err(refusal @ PassError::MeanIsRead { .. }) => {
                return Ok((model, RotationNote::left(what, refusal.to_string())));
            }
            Err(e) => return Err(e.into()),
        };
    }
    let rotation = if needs_mean(&model, stream) {
        Rotation::mean_preserving(width, seed)
    } else {
        Rotation::hadamard(width, seed).unwrap_or_else(|| Rotation::random(width, seed))
    };
    let mut note = RotationNote::done(what, &rotation);
    if baked {
        note.matrix = Some(format!("mean baked into the writers, {}", rotation.name()));
    }
    rotate_stream(&model, rewrites, stream, rotation)?;
    Ok((model, note))
}

/// How far two models are apart on one prompt: largest difference of the logits over the largest logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proof {
    /// Both computed in f32.
    pub single: f64,
    /// Both computed in f64, with weights changed in f64.
    pub double: f64,
}

impl Proof {
    /// Largest gap in f32. It is rounding of the changed weights, amplified through the layers: 3e-6 in models of three layers, more in deep ones with
    /// large activations, so this bound only finds numbers that overflow or are not numbers.
    pub const SINGLE: f64 = 1e-2;
    /// Largest gap in f64: what rounding leaves of an exact transformation is a billionth of the gap in f32 (measured 1e-14). A mistake is as
    /// large as in f32, from 1e-6 for one wrong bias to 1.
    pub const DOUBLE: f64 = 1e-10;

    /// Whether the models are the same but for rounding.
    pub fn holds(&self) -> bool {
        self.single <= Self::SINGLE && self.double <= Self::DOUBLE
    }
}

/// Compares a model before and after a transformation on one prompt.
///
/// # Errors
/// [`QuantizeError::NotProven`] when the gap is larger than rounding; others when a model does not run.
pub fn prove(
    before: (&Model, &dyn WeightSource),
    after: (&Model, &dyn WeightSource),
    sample: &CalibrationSample,
) -> Result<Proof, QuantizeError> {
    let proof =
        Proof { single: gap::<f32>(before, after, sample)?, double: gap::<f64>(before, after, sample)? };
    if proof.holds() { Ok(proof) } else { Err(QuantizeError::NotProven { proof }) }
}

fn gap<T: Real>(
    before: (&Model, &dyn WeightSource),
    after: (&Model, &dyn WeightSource),
    sample: &CalibrationSample,
) -> Result<f64, QuantizeError> {
    let logits = |(model, weights): (&Model, &dyn WeightSource)| {
        let exec = Executor::<T>::streaming(model, weights);
        let prompt = Generation {
            input_ids: &sample.ids,
            pixel_values: &sample.pixels,
            grids: &sample.grids,
            position_ids: &sample.positions,
        };
        DecoderState::prompt_logits(&exec, &prompt)
    };
    let (a, b) = (logits(before)?, logits(after)?);
    let largest = a.data().iter().fold(0.0f64, |m, x| m.max(x.to_f64().abs()));
    let difference = a.data().iter().zip(b.data()).map(|(a, b)| (a.to_f64() - b.to_f64()).abs());
    // NaN must not pass as equal.
    let difference = difference.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
    Ok(difference / largest.max(f64::MIN_POSITIVE))
}
