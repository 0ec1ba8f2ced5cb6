//! Ops that cut and join the channel axis without arithmetic.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::types::{Basis, ValueInfo};
use crate::graph::weights::WeightDecl;

/// Cuts the channel axis into consecutive pieces. Pieces keep a basis only when there is one piece that has all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Channels of each piece.
    pub sizes: Vec<usize>,
    /// Basis of each piece; `None` throughout when cutting values without one.
    pub bases: Vec<Option<Basis>>,
}

/// Appends one channel of a constant value: how a row's modality travels with it.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendChannel {
    /// The constant.
    pub value: f32,
}

/// One channel, `[.., 1]`. Operand without basis: after a rotation of its basis it would be another channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeChannel {
    /// Its index.
    pub channel: usize,
}

/// Puts the channels of two or more operands side by side, in operand order; equal leading axes, no basis.
#[derive(Clone, Debug, PartialEq)]
pub struct Join;

impl OpSpec for Split {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Split" };
        let [x] = c.operands(inputs)?;
        c.has_channels(c.float(x)?, self.sizes.iter().sum())?;
        if self.sizes.contains(&0) || self.sizes.len() != self.bases.len() {
            return c.fail(format!("pieces {:?} with {} bases", self.sizes, self.bases.len()));
        }
        c.no_basis(x)?;
        let piece =
            |(&n, &basis): (&usize, &Option<Basis>)| OutType { basis, ..OutType::float(x.with_channels(n)) };
        Ok(self.sizes.iter().zip(&self.bases).map(piece).collect())
    }
}

impl OpSpec for AppendChannel {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "AppendChannel" };
        let [x] = c.operands(inputs)?;
        let n = c.channels(c.float(x)?)?;
        Ok(vec![OutType::float(x.with_channels(n + 1))])
    }
}

impl OpSpec for TakeChannel {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "TakeChannel" };
        let [x] = c.operands(inputs)?;
        c.no_basis(c.float(x)?)?;
        if self.channel >= c.channels(x)? {
            return c.fail(format!("channel {} of {x} does not exist", self.channel));
        }
        Ok(vec![OutType::float(x.with_channels(1))])
    }
}

impl OpSpec for Join {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Join" };
        let &[first, _, ..] = inputs else {
            return c.fail(format!("takes at least 2 operands, found {}", inputs.len()));
        };
        let mut channels = 0;
        for &x in inputs {
            c.no_basis(c.float(x)?)?;
            let n = c.channels(x)?;
            if x.with_channels(0) != first.with_channels(0) {
                return c.fail(format!("operands differ before the channel axis: {first} and {x}"));
            }
            channels += n;
        }
        Ok(vec![OutType::float(first.with_channels(channels))])
    }
}
