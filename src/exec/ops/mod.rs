//! One function per op of the IR, same names as the op list. Each takes its parameters, the node's context and its operands, and returns
//! the results in node order.

mod attention;
mod channels;
mod linear;
mod order;
mod pointwise;
mod position;
mod rotary;
mod rows;
mod segments;

use std::sync::Arc;

use attention::{causal_attention, cross_attention, segment_attention};
use channels::{append_channel, hadamard, join, split, take_channel};
use linear::linear;
use order::{order_by_modality, take_rows};
use pointwise::{activate, add, divide_by, layer_norm, mul, rms_norm, scale};
use position::{grid_bucket, grid_positions, length, scale_by_position};
use rotary::{rotary, rotary_table};
use rows::{add_batch, constant_rows, drop_batch, embed, merge_rows, splice};
use segments::{drop_first_rows, insert_rows};

pub use linear::{Rounded, quantize_row};

use super::run::ExecError;
use super::value::Value;
use super::weights::{LinearWeight, WeightCache};
use crate::graph::{Model, Node, Op, WeightId};
use crate::numeric::{Real, Tensor};

/// What an op may look at besides its operands.
pub(super) struct OpContext<'a, T> {
    pub node: &'a Node,
    pub model: &'a Model,
    pub weights: &'a WeightCache<'a, T>,
}

type Results<T> = Result<Vec<Value<T>>, ExecError>;

macro_rules! dispatch {
    ($($name:ident $func:ident,)*) => {
        /// Runs one op.
        pub(super) fn run<T: Real>(op: &Op, ctx: &OpContext<'_, T>, operands: &[&Value<T>]) -> Results<T> {
            match op {
                $(Op::$name(p) => $func(p, ctx, operands),)*
            }
        }
    };
}
crate::for_each_op!(dispatch);

impl<T: Real> OpContext<'_, T> {
    pub(super) fn weight(&self, id: WeightId) -> Result<Arc<LinearWeight<T>>, ExecError> {
        let load = self.weights.get(id, self.model.weight(id));
        load.map_err(|source| ExecError::Weight { node: self.node.name.clone(), source })
    }

    fn float<'v>(&self, operands: &[&'v Value<T>], i: usize) -> Result<&'v Tensor<T>, ExecError> {
        let found = operands.get(i).and_then(|v| v.as_float());
        found.ok_or_else(|| ExecError::sizes(self.node, format!("operand {i} must be float")))
    }

    fn int<'v>(&self, operands: &[&'v Value<T>], i: usize) -> Result<&'v Tensor<i64>, ExecError> {
        let found = operands.get(i).and_then(|v| v.as_int());
        found.ok_or_else(|| ExecError::sizes(self.node, format!("operand {i} must be integer")))
    }

    /// The one float result of an op.
    fn result(&self, shape: Vec<usize>, data: Vec<T>) -> Results<T> {
        Ok(vec![self.tensor(shape, data)?])
    }

    fn tensor(&self, shape: Vec<usize>, data: Vec<T>) -> Result<Value<T>, ExecError> {
        Ok(Value::Float(Tensor::new(shape, data).map_err(|e| ExecError::shape(self.node, e))?))
    }

    fn ints(&self, shape: Vec<usize>, data: Vec<i64>) -> Result<Value<T>, ExecError> {
        Ok(Value::Int(Tensor::new(shape, data).map_err(|e| ExecError::shape(self.node, e))?))
    }
}

/// `shape` with another last extent.
fn with_cols(shape: &[usize], cols: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = cols;
    }
    shape
}
