//! One lowering per op of the IR, same names as the op list. Each adds the ONNX form of the emitter's current node. Forms were chosen by
//! measurement on ONNX Runtime 1.32 (CPU, default optimisation level); each file says why.

mod attention;
mod channels;
mod few_bits;
mod hadamard;
mod linear;
mod order;
mod pointwise;
mod position;
mod rotary;
mod rows;
mod segments;

use attention::{causal_attention, cross_attention, segment_attention};
use channels::{append_channel, join, split, take_channel};
use hadamard::hadamard;
use linear::linear;
use order::{order_by_modality, take_rows};
use pointwise::{activate, add, divide_by, layer_norm, mul, rms_norm, scale};
use position::{grid_bucket, grid_positions, length, scale_by_position};
use rotary::{rotary, rotary_table};
use rows::{add_batch, constant_rows, drop_batch, embed, merge_rows, splice};
use segments::{drop_first_rows, insert_rows};

pub use attention::fuses_causal_attention;

use super::emit::Emitter;
use super::error::OnnxError;
use crate::graph::Op;

macro_rules! dispatch {
    ($($name:ident $func:ident,)*) => {
        /// Adds the ONNX form of the emitter's current node, whose op is `op`.
        ///
        /// # Errors
        /// [`OnnxError`] when a weight cannot be had or written, or the model is not valid.
        pub fn lower(op: &Op, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
            match op {
                $(Op::$name(p) => $func(p, e),)*
            }
        }
    };
}
crate::for_each_op!(dispatch);
