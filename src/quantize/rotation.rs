//! Rotations before quantization: what the recipe asks for, which matrices it becomes, and the proof that the model stayed the same.

use super::error::QuantizeError;
use super::recipe::RotationRule;
use super::samples::CalibrationSample;
use crate::exec::{DecoderState, Executor, Generation};
use crate::graph::{Model, Stream, WeightSource};
use crate::numeric::Real;
use crate::numeric::rotation::Rotation;
use crate::passes::rewrite::Rewrites;
use crate::passes::{fold_norms, needs_mean, rotate_heads, rotate_stream, stream_width};

/// A model with what is to be done to its weights.
#[derive(Clone, Debug)]
pub struct Transformed {
    /// The model; the same graph but for folded norms.
    pub model: Model,
    /// Changes of the weights.
    pub rewrites: Rewrites,
    /// What was rotated and what was not.
    pub notes: Vec<RotationNote>,
}

/// One rotation that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationNote {
    /// What it rotates: a stream, or heads of a size.
    pub what: String,
    /// The matrix, where there is one.
    pub matrix: Option<String>,
    /// Why there is none.
    pub reason: Option<String>,
}

impl RotationNote {
    fn done(what: String, rotation: &Rotation) -> Self {
        Self { what, matrix: Some(rotation.name()), reason: None }
    }

    fn left(what: String, reason: String) -> Self {
        Self { what, matrix: None, reason: Some(reason) }
    }
}

/// Folds norms and rotates as `rule` says; without any rotation the model stays as it is.
///
/// # Errors
/// [`QuantizeError::Pass`] when a pass finds the model in a form it does not know.
pub fn transform(model: &Model, rule: &RotationRule) -> Result<Transformed, QuantizeError> {
    let mut rewrites = Rewrites::default();
    if !rule.any() {
        return Ok(Transformed { model: model.clone(), rewrites, notes: vec![] });
    }
    let model = fold_norms(model.clone(), &mut rewrites)?;
    let mut notes = vec![];
    // Every matrix has signs of its own.
    let mut seed = rule.seed;
    for (stream, asked) in [(Stream::Decoder, rule.decoder), (Stream::Vision, rule.vision)] {
        seed = seed.wrapping_add(1);
        if !asked {
            continue;
        }
        let what = format!("{stream} stream");
        let Some(width) = stream_width(&model, stream) else {
            let reason = "a norm with a gain per channel writes the residual, so no rotation of it is exact";
            notes.push(RotationNote::left(what, reason.into()));
            continue;
        };
        let rotation = if needs_mean(&model, stream) {
            Rotation::mean_preserving(width, seed)
        } else {
            Rotation::hadamard(width, seed).unwrap_or_else(|| Rotation::random(width, seed))
        };
        notes.push(RotationNote::done(what, &rotation));
        rotate_stream(&model, &mut rewrites, stream, rotation)?;
    }
    if rule.heads {
        let first = rewrites.rotations.len();
        let made = |head_dim: usize| Rotation::hadamard(head_dim, seed.wrapping_add(1 + head_dim as u64));
        let left = rotate_heads(&model, &mut rewrites, made)?;
        for rotation in &rewrites.rotations[first..] {
            notes.push(RotationNote::done(format!("heads of {} channels", rotation.order()), rotation));
        }
        let no_matrix = |n| {
            let reason = format!("no Hadamard matrix of order {n} is known here");
            RotationNote::left(format!("heads of {n} channels"), reason)
        };
        notes.extend(left.into_iter().map(no_matrix));
    }
    Ok(Transformed { model, rewrites, notes })
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
