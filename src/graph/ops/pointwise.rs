//! Row-wise and element-wise ops: normalisations, sums, products, non-linearities.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::spec::Activation;
use crate::graph::types::{Basis, ValueInfo};
use crate::graph::weights::{WeightDecl, WeightId};

/// `(x - mean) / sqrt(var + eps) * gain + bias` over the channels, population variance.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// `[channels]`.
    pub gain: WeightId,
    /// `[channels]`.
    pub bias: WeightId,
    /// Added to the variance.
    pub eps: f64,
}

/// `x / sqrt(mean(x^2) + eps) * gain` over the channels.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// `[channels]`.
    pub gain: WeightId,
    /// Added to the mean square.
    pub eps: f64,
}

/// `a + b`, equal shapes and bases.
#[derive(Clone, Debug, PartialEq)]
pub struct Add;

/// `a * b` element by element, equal shapes, no basis.
#[derive(Clone, Debug, PartialEq)]
pub struct Mul;

/// `x * gain` channel by channel (layer scale). Operand without basis.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// `[channels]`.
    pub gain: WeightId,
    /// The result's channels are coordinates of a stream: this op writes it.
    pub writes: Option<Basis>,
}

/// `x / by`, basis kept.
#[derive(Clone, Debug, PartialEq)]
pub struct DivideBy {
    /// The divisor, finite and not zero.
    pub by: f64,
}

/// A non-linearity applied to every element, no basis.
#[derive(Clone, Debug, PartialEq)]
pub struct Activate {
    /// Which one.
    pub kind: Activation,
}

impl OpSpec for LayerNorm {
    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.gain, &mut self.bias]
    }

    fn weights(&self) -> Vec<WeightId> {
        vec![self.gain, self.bias]
    }

    fn infer(&self, inputs: &[&ValueInfo], weights: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "LayerNorm" };
        let [x] = c.operands(inputs)?;
        let n = c.channels(c.float(x)?)?;
        c.weight(weights, self.gain, &[n])?;
        c.weight(weights, self.bias, &[n])?;
        Ok(vec![OutType::like(x)])
    }
}

impl OpSpec for RmsNorm {
    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.gain]
    }

    fn weights(&self) -> Vec<WeightId> {
        vec![self.gain]
    }

    fn infer(&self, inputs: &[&ValueInfo], weights: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "RmsNorm" };
        let [x] = c.operands(inputs)?;
        let n = c.channels(c.float(x)?)?;
        c.weight(weights, self.gain, &[n])?;
        Ok(vec![OutType::like(x)])
    }
}

impl OpSpec for Add {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Add" };
        let [a, b] = c.operands(inputs)?;
        c.float(a)?;
        c.float(b)?;
        c.same_shape(a, b)?;
        if a.basis != b.basis {
            return c.fail(format!("operands are coordinates of different bases: {a} and {b}"));
        }
        Ok(vec![OutType::like(a)])
    }
}

impl OpSpec for Mul {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Mul" };
        let [a, b] = c.operands(inputs)?;
        c.no_basis(c.float(a)?)?;
        c.no_basis(c.float(b)?)?;
        c.same_shape(a, b)?;
        Ok(vec![OutType::like(a)])
    }
}

impl OpSpec for Scale {
    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.gain]
    }

    fn weights(&self) -> Vec<WeightId> {
        vec![self.gain]
    }

    fn infer(&self, inputs: &[&ValueInfo], weights: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Scale" };
        let [x] = c.operands(inputs)?;
        c.no_basis(c.float(x)?)?;
        c.weight(weights, self.gain, &[c.channels(x)?])?;
        Ok(vec![OutType { basis: self.writes, ..OutType::like(x) }])
    }
}

impl OpSpec for DivideBy {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "DivideBy" };
        let [x] = c.operands(inputs)?;
        c.float(x)?;
        // What ships divides in f32.
        let by = self.by as f32;
        if !by.is_finite() || by == 0.0 {
            return c.fail(format!("expected a finite divisor other than zero, found {}", self.by));
        }
        Ok(vec![OutType::like(x)])
    }
}

impl OpSpec for Activate {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Activate" };
        let [x] = c.operands(inputs)?;
        c.no_basis(c.float(x)?)?;
        Ok(vec![OutType::like(x)])
    }
}
