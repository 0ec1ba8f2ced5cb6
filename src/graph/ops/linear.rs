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

/// `y = x W^T + b`. Operands: `x [.., in]`, and the modality `[.., 1]` when the two activation scales differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: WeightId,
    /// `[out]`.
    pub bias: Option<WeightId>,
    /// Static int8 input quantization; requires an integer weight.
    pub act: Option<ActScales>,
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
        let per_modality = self.act.is_some_and(|a| !a.shared());
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
            (Some(a), WeightFormat::Int8PerChannel) => {
                let ok = |s: f32| s.is_finite() && s > 0.0;
                if ok(a.visual) && ok(a.text) {
                    return Ok(());
                }
                c.fail(format!(
                    "activation scales must be positive and finite, found {} and {}",
                    a.visual, a.text
                ))
            }
            (Some(_), WeightFormat::Float) => {
                c.fail(format!("has activation scales but weight {} is float", w.name))
            }
            (None, _) => Ok(()),
        }
    }
}
