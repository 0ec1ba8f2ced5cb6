//! Run-time values: a float or an integer tensor.

use crate::graph::{DType, ValueInfo};
use crate::numeric::{Real, Tensor};

/// What a graph value holds while the graph runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<T> {
    /// Real numbers in the executor's precision.
    Float(Tensor<T>),
    /// Ids, positions, sizes, masks.
    Int(Tensor<i64>),
}

impl<T: Real> Value<T> {
    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Value::Float(t) => t.shape(),
            Value::Int(t) => t.shape(),
        }
    }

    /// The float tensor, if it is one.
    pub fn as_float(&self) -> Option<&Tensor<T>> {
        match self {
            Value::Float(t) => Some(t),
            Value::Int(_) => None,
        }
    }

    /// The integer tensor, if it is one.
    pub fn as_int(&self) -> Option<&Tensor<i64>> {
        match self {
            Value::Int(t) => Some(t),
            Value::Float(_) => None,
        }
    }

    /// Whether the value has the declared type and rank, and every fixed extent.
    pub fn fits(&self, info: &ValueInfo) -> bool {
        let dtype = match self {
            Value::Float(_) => DType::Float,
            Value::Int(_) => DType::Int,
        };
        let shape = self.shape();
        dtype == info.dtype
            && shape.len() == info.shape.len()
            && shape.iter().zip(&info.shape).all(|(&n, d)| match d {
                crate::graph::Dim::Fixed(f) => n == *f,
                crate::graph::Dim::Sym(_) => true,
            })
    }
}
