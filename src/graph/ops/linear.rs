//! The linear layer, float or quantized.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::types::{Basis, DType, Dim, ValueInfo};
use crate::graph::weights::{WeightDecl, WeightFormat, WeightId};

/// Static activation scales of one linear's input, one per modality (MSQ, arXiv 2502.00425 section 4.1).
/// A row `x` of modality `m` is rounded to `clamp(round(x / s_m), -128, 127)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActScales {
    /// Scale of visual rows.
    pub visual: f32,
    /// Scale of text rows.
    pub text: f32,
}

impl ActScales {
    /// One scale for all rows.
    pub fn one(scale: f32) -> Self {
        Self { visual: scale, text: scale }
    }

    /// Whether both modalities share one scale, so that no modality operand is needed.
    pub fn shared(&self) -> bool {
        self.visual == self.text
    }
}

/// How a linear rounds the rows of its input to int8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rounding {
    /// At static scales: `clamp(round(x / s), -128, 127)`.
    Static(ActScales),
    /// At one static scale, codes moved by a zero point: `clamp(round(x / s) + zero, -128, 127) - zero`. For inputs that are nowhere very negative.
    Asymmetric {
        /// The scale `s`.
        scale: f32,
        /// Code of 0.
        zero: i8,
    },
    /// At a scale of each row's own, `max |x| / 127` and at least [`SMALLEST_ROW_SCALE`], computed at run time.
    PerRow,
}

/// Smallest scale of a row of its own: a row of zeros has codes 0 at any scale.
pub const SMALLEST_ROW_SCALE: f32 = 1e-30;

impl Rounding {
    /// Whether the linear must know the modality of each row.
    pub fn per_modality(&self) -> bool {
        matches!(self, Rounding::Static(scales) if !scales.shared())
    }

    /// What is wrong with the numbers, if anything.
    fn fault(&self) -> Option<String> {
        let ok = |s: f32| s.is_finite() && s > 0.0;
        match *self {
            Rounding::Static(ActScales { visual, text }) if !(ok(visual) && ok(text)) => {
                Some(format!("activation scales must be positive and finite, found {visual} and {text}"))
            }
            Rounding::Asymmetric { scale, .. } if !ok(scale) => {
                Some(format!("activation scale must be positive and finite, found {scale}"))
            }
            _ => None,
        }
    }
}

/// `y = x W^T + b`. Operands: `x [.., in]`, and the modality `[.., 1]` when the two activation scales differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: WeightId,
    /// `[out]`.
    pub bias: Option<WeightId>,
    /// Rounding of the input; requires a weight on a grid.
    pub act: Option<Rounding>,
    /// The result's channels are coordinates of a stream: this linear writes it.
    pub writes: Option<Basis>,
}

impl OpSpec for Linear {
    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        std::iter::once(&mut self.weight).chain(self.bias.as_mut()).collect()
    }

    fn weights(&self) -> Vec<WeightId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    fn infer(&self, inputs: &[&ValueInfo], weights: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Linear" };
        let per_modality = self.act.is_some_and(|a| a.per_modality());
        let x = if per_modality {
            let [x, modality] = c.operands(inputs)?;
            c.float(modality)?;
            c.has_channels(modality, 1)?;
            if modality.shape[..modality.shape.len() - 1] != x.shape[..x.shape.len().saturating_sub(1)] {
                return c.fail(format!("modality {modality} does not describe the rows of {x}"));
            }
            x
        } else {
            c.operands::<1>(inputs)?[0]
        };
        c.float(x)?;
        let Some(w) = weights.get(self.weight.0) else {
            return c.fail(format!("weight {} is not declared", self.weight.0));
        };
        let &[out, k] = w.shape.as_slice() else {
            return c.fail(format!("weight {} has shape {:?}, expected a matrix", w.name, w.shape));
        };
        c.has_channels(x, k)?;
        if let Some(b) = self.bias {
            c.weight(weights, b, &[out])?;
        }
        self.check_act(&c, w)?;
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Fixed(out);
        }
        Ok(vec![OutType { dtype: DType::Float, shape, basis: self.writes }])
    }
}

impl Linear {
    fn check_act(&self, c: &Check, w: &WeightDecl) -> Result<(), OpError> {
        match (self.act, w.format) {
            (Some(_), WeightFormat::Float) => {
                c.fail(format!("rounds its input but weight {} is float", w.name))
            }
            (Some(act), WeightFormat::Grid(_) | WeightFormat::Blocks(_)) => {
                act.fault().map_or(Ok(()), |fault| c.fail(fault))
            }
            (None, _) => Ok(()),
        }
    }
}
