//! Layer normalization and softmax.

use rayon::prelude::*;

use super::{Call, Results, one};
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;

/// LayerNormalization over the last axis; mean and variance are accumulated in `f64`.
pub fn layer_normalization(call: &Call<'_>) -> Results {
    call.node.int_among("stash_type", 1, &[1])?;
    let (x, gain) = (call.of::<f32>(0)?, call.of::<f32>(1)?);
    let bias = call.optional(2).map(|_| call.of::<f32>(2)).transpose()?;
    let n = x.cols();
    if call.axis(-1, x.shape().len())? + 1 != x.shape().len() {
        return Err(Fault::attribute("axis", "the last axis", call.node.attributes.get("axis")));
    }
    if gain.shape() != [n] || bias.is_some_and(|b| b.shape() != [n]) {
        return Err(Fault::shape(format!("gain and bias [{n}]"), (gain.shape(), bias.map(Array::shape))));
    }
    let epsilon = f64::from(call.node.float("epsilon", 1e-5)?);
    let mut out = x.data().to_vec();
    out.par_chunks_mut(n.max(1)).for_each(|row| {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n as f64;
        let by = 1.0 / (variance + epsilon).sqrt();
        for (i, v) in row.iter_mut().enumerate() {
            *v = ((f64::from(*v) - mean) * by) as f32 * gain.data()[i];
            *v += bias.map_or(0.0, |b| b.data()[i]);
        }
    });
    one(Array::new(x.shape().to_vec(), out)?)
}

/// Softmax over the last axis.
pub fn softmax(call: &Call<'_>) -> Results {
    let x = call.of::<f32>(0)?;
    if call.axis(-1, x.shape().len())? + 1 != x.shape().len() {
        return Err(Fault::attribute("axis", "the last axis", call.node.attributes.get("axis")));
    }
    let mut out = x.data().to_vec();
    out.par_chunks_mut(x.cols().max(1)).for_each(softmax_row);
    one(Array::new(x.shape().to_vec(), out)?)
}

/// Softmax of a row in place; one whose largest element is minus infinity becomes zeros.
pub fn softmax_row(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return row.fill(0.0);
    }
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let by = 1.0 / row.iter().sum::<f32>();
    row.iter_mut().for_each(|x| *x *= by);
}
