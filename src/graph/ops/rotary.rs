//! Rotary embeddings: tables of angles, scaled with the length where a model asks for it, and the rotation.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::spec::RotaryLayout;
use crate::graph::types::{Dim, ValueInfo};
use crate::graph::weights::WeightDecl;

/// Cosines and sines `[.., frequencies]` of `positions[axis[k]] * inv_freq[k]`. Operands: integer positions `[axes, .., rows]`, or
/// `[batch, rows]` for a single axis, and with `scaling` the length `[1]` that decides the frequencies. One table serves plain rotary (one
/// axis), two-dimensional rotary (row, column) and M-RoPE (time, height, width).
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryTable {
    /// Angle per unit of position, computed in f32 as the reference does.
    pub inv_freq: Vec<f32>,
    /// Which row of the positions frequency `k` follows.
    pub axis: Vec<usize>,
    /// Frequencies that change with the length; `inv_freq` holds where [`RopeScaling::base`] is `None`.
    pub scaling: Option<RopeScaling>,
}

/// A rotary base that grows with the length `L` of the sequence: `inv_freq[k] = 1 / base^(2k / dim)`, the power in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// `base = theta * (factor * L / max_positions - (factor - 1))^(dim / (dim - 2))` where `L > max_positions` (dynamic NTK of
    /// transformers).
    Dynamic {
        /// Base up to `max_positions`.
        theta: f64,
        /// Channels the frequencies are made for.
        dim: usize,
        /// How fast the base grows.
        factor: f64,
        /// Longest length with the plain base.
        max_positions: usize,
    },
    /// `base = theta * a^(dim / (dim - 2))` with `a = max(2^ceil(log2(L / train_length) + 1) - 1, 1)`: 1 up to `train_length`, then 3, 7, 15
    /// with each doubling begun.
    DynamicPowers {
        /// Base up to `train_length`.
        theta: f64,
        /// Channels the frequencies are made for.
        dim: usize,
        /// Longest length with the plain base.
        train_length: usize,
    },
}

impl RopeScaling {
    /// Channels the frequencies are made for.
    pub fn dim(&self) -> usize {
        match *self {
            RopeScaling::Dynamic { dim, .. } | RopeScaling::DynamicPowers { dim, .. } => dim,
        }
    }

    /// The base at a length, where it is not the plain one.
    pub fn base(&self, length: i64) -> Option<f64> {
        let power = self.exponent();
        match *self {
            RopeScaling::Dynamic { theta, factor, max_positions, .. } => {
                let ratio = factor * length as f64 / max_positions as f64 - (factor - 1.0);
                (length > max_positions as i64).then(|| theta * ratio.powf(power))
            }
            RopeScaling::DynamicPowers { train_length, .. } => {
                self.base_after(doublings(length, train_length))
            }
        }
    }

    /// The base of [`RopeScaling::DynamicPowers`] after `n` begun doublings of the length, where it is not the plain one.
    pub fn base_after(&self, n: u32) -> Option<f64> {
        let RopeScaling::DynamicPowers { theta, .. } = *self else { return None };
        (n > 0).then(|| theta * (f64::from(n + 1).exp2() - 1.0).powf(self.exponent()))
    }

    /// Power of the ratio in the base.
    pub fn exponent(&self) -> f64 {
        let dim = self.dim() as f64;
        dim / (dim - 2.0)
    }

    /// Powers of the base that the frequencies are reciprocals of.
    pub fn powers(&self) -> Vec<f32> {
        let dim = self.dim();
        (0..dim / 2).map(|k| (2 * k) as f32 / dim as f32).collect()
    }

    /// Frequencies of a base: the power in f32 first, then its reciprocal, as PyTorch computes them.
    pub fn inv_freq(&self, base: f64) -> Vec<f32> {
        self.powers().into_iter().map(|p| 1.0 / (base as f32).powf(p)).collect()
    }

    fn check(&self, c: &Check, frequencies: usize) -> Result<(), OpError> {
        let (theta, length) = match *self {
            RopeScaling::Dynamic { theta, max_positions, .. } => (theta, max_positions),
            RopeScaling::DynamicPowers { theta, train_length, .. } => (theta, train_length),
        };
        let factor = if let RopeScaling::Dynamic { factor, .. } = *self { factor } else { 1.0 };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let dim = self.dim();
        if dim <= 2 || !dim.is_multiple_of(2) || dim / 2 != frequencies {
            return c.fail(format!("scales {dim} channels, its table has {frequencies} frequencies"));
        }
        if !positive(theta) || factor < 1.0 || !positive(factor) || length == 0 {
            return c.fail(format!("cannot scale base {theta} by {factor} beyond length {length}"));
        }
        Ok(())
    }
}

/// How many of `train_length * 2^j`, `j >= 0`, a length exceeds.
fn doublings(length: i64, train_length: usize) -> u32 {
    let (length, mut bound) = (u128::try_from(length).unwrap_or(0), train_length.max(1) as u128);
    let mut n = 0;
    while length > bound {
        bound *= 2;
        n += 1;
    }
    n
}

/// Rotates pairs of the first `rotary_dim` channels of every head: `(a, b) -> (a cos - b sin, b cos + a sin)`; the rest of a head is kept.
/// Operands: `x [batch, rows, heads * head_dim]`, cosines and sines `[batch, rows, rotary_dim / 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Heads in `x`.
    pub heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Channels of each head that are rotated.
    pub rotary_dim: usize,
    /// Where the two members of a pair are.
    pub layout: RotaryLayout,
}

impl OpSpec for RotaryTable {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "RotaryTable" };
        let pos = if let Some(scaling) = &self.scaling {
            let [pos, length] = c.operands(inputs)?;
            c.int(length, 1)?;
            c.has_channels(length, 1)?;
            scaling.check(&c, self.inv_freq.len())?;
            pos
        } else {
            c.operands::<1>(inputs)?[0]
        };
        let (axes, rows) = if pos.shape.len() == 2 {
            c.int(pos, 2)?;
            (1, &pos.shape[..])
        } else {
            c.int(pos, 3)?;
            let Dim::Fixed(n) = pos.shape[0] else {
                return c.fail(format!("expected a fixed number of position axes, found {pos}"));
            };
            (n, &pos.shape[1..])
        };
        if self.inv_freq.len() != self.axis.len() || self.axis.iter().any(|&a| a >= axes) {
            return c.fail(format!(
                "{} frequencies follow axes {:?} of {axes} position rows",
                self.inv_freq.len(),
                self.axis
            ));
        }
        let shape = [rows, &[Dim::Fixed(self.inv_freq.len())]].concat();
        Ok(vec![OutType::float(shape.clone()), OutType::float(shape)])
    }
}

impl OpSpec for Rotary {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Rotary" };
        let [x, cos, sin] = c.operands(inputs)?;
        c.no_basis(c.float(x)?)?;
        c.has_channels(x, self.heads * self.head_dim)?;
        for t in [cos, sin] {
            c.has_channels(c.float(t)?, self.rotary_dim / 2)?;
            c.same_rows(x, t)?;
        }
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            return c.fail(format!(
                "expected an even number of rotated channels up to the head size {}, found {}",
                self.head_dim, self.rotary_dim
            ));
        }
        Ok(vec![OutType::like(x)])
    }
}
