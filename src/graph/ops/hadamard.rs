//! Rotation of channels while the model runs.

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::types::ValueInfo;
use crate::graph::weights::WeightDecl;
use crate::numeric::hadamard;

/// `x Q` with `Q` block-diagonal: every run of `left * right` consecutive channels times `(L (x) R) / sqrt(left * right)`, the matrix of
/// [`Rotation::online`](crate::numeric::rotation::Rotation::online) (QuaRot, arXiv 2404.00456 section 4.2). Channel `l * right + r` of a run is row
/// `l` and column `r` of a matrix `X`, which becomes `L^T X R / sqrt(left * right)`: two small products. Operand without basis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hadamard {
    /// Order of `L`; 1 leaves the product with `R` alone.
    pub left: usize,
    /// Order of `R`.
    pub right: usize,
}

impl Hadamard {
    /// Channels that are mixed with each other.
    pub fn block(&self) -> usize {
        self.left.saturating_mul(self.right)
    }
}

impl OpSpec for Hadamard {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "Hadamard" };
        let [x] = c.operands(inputs)?;
        c.no_basis(c.float(x)?)?;
        if let Some(order) = [self.left, self.right].into_iter().find(|n| !hadamard::Hadamard::exists(*n)) {
            return c.fail(format!("no Hadamard matrix of order {order} is known"));
        }
        if !c.channels(x)?.is_multiple_of(self.block()) {
            return c.fail(format!("expected channels in runs of {}, found {x}", self.block()));
        }
        Ok(vec![OutType::like(x)])
    }
}
