//! The closed set of operations. One line in [`for_each_op`](crate::for_each_op) adds an op to the enum and to every dispatcher; each op
//! is a parameter struct with a typing rule ([`OpSpec`]), a function in `exec::ops` and one in `export::onnx::ops`.
//! Semantics are stated here, with each struct; arithmetic lives in the executor.

mod attention;
mod channels;
mod hadamard;
mod linear;
mod order;
mod pointwise;
mod position;
mod rotary;
mod rows;
mod segments;
#[cfg(test)]
mod tests;

pub use attention::{CausalAttention, CrossAttention, SegmentAttention};
pub use channels::{AppendChannel, Join, Split, TakeChannel};
pub use hadamard::Hadamard;
pub use linear::{ActScales, Linear, Rounding, SMALLEST_ROW_SCALE};
pub use order::{OrderByModality, TakeRows};
pub use pointwise::{Activate, Add, DivideBy, LayerNorm, Mul, RmsNorm, Scale};
pub use position::{GridBucket, GridPositions, Length, ScaleByPosition};
pub use rotary::{RopeScaling, Rotary, RotaryTable};
pub use rows::{AddBatch, ConstantRows, DropBatch, Embed, MergeRows, Splice};
pub use segments::{DropFirstRows, InsertRows};

use super::types::{Basis, DType, Dim, ValueInfo};
use super::weights::{WeightDecl, WeightId};

/// Calls `$m!` with the list of all ops as `Name function` pairs: the enum variant (and parameter struct), and the name of the
/// function that implements it in the executor and in each back-end.
#[macro_export]
macro_rules! for_each_op {
    ($m:ident) => {
        $m! {
            Linear linear,
            LayerNorm layer_norm,
            RmsNorm rms_norm,
            Add add,
            Mul mul,
            Scale scale,
            DivideBy divide_by,
            Activate activate,
            Embed embed,
            Splice splice,
            ConstantRows constant_rows,
            MergeRows merge_rows,
            AddBatch add_batch,
            DropBatch drop_batch,
            InsertRows insert_rows,
            DropFirstRows drop_first_rows,
            OrderByModality order_by_modality,
            TakeRows take_rows,
            Split split,
            Join join,
            AppendChannel append_channel,
            TakeChannel take_channel,
            Hadamard hadamard,
            GridPositions grid_positions,
            GridBucket grid_bucket,
            Length length,
            ScaleByPosition scale_by_position,
            RotaryTable rotary_table,
            Rotary rotary,
            SegmentAttention segment_attention,
            CrossAttention cross_attention,
            CausalAttention causal_attention,
        }
    };
}

macro_rules! define_op {
    ($($name:ident $func:ident,)*) => {
        /// One operation with its parameters.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)*
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Op {
                Op::$name(op)
            }
        })*

        impl Op {
            /// Names of all ops, in list order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Name of the op.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Op::$name(_) => stringify!($name),)*
                }
            }
        }

        impl OpSpec for Op {
            fn weights(&self) -> Vec<WeightId> {
                match self {
                    $(Op::$name(p) => p.weights(),)*
                }
            }

            fn weights_mut(&mut self) -> Vec<&mut WeightId> {
                match self {
                    $(Op::$name(p) => p.weights_mut(),)*
                }
            }

            fn infer(&self, inputs: &[&ValueInfo], weights: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
                match self {
                    $(Op::$name(p) => p.infer(inputs, weights),)*
                }
            }
        }
    };
}
for_each_op!(define_op);

/// Typing rule of an op: which operands it accepts and what its results are.
pub trait OpSpec {
    /// Types of the results for these operands.
    ///
    /// # Errors
    /// [`OpError`] that says what was expected and what was found.
    fn infer(&self, inputs: &[&ValueInfo], weights: &[WeightDecl]) -> Result<Vec<OutType>, OpError>;

    /// Weights the op names, the matrix of a linear first.
    fn weights(&self) -> Vec<WeightId> {
        Vec::new()
    }

    /// The same, to renumber them.
    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }
}

/// Type of one result.
#[derive(Clone, Debug, PartialEq)]
pub struct OutType {
    /// Element type.
    pub dtype: DType,
    /// Axes.
    pub shape: Vec<Dim>,
    /// Stream coordinates.
    pub basis: Option<Basis>,
}

impl OutType {
    fn float(shape: Vec<Dim>) -> Self {
        Self { dtype: DType::Float, shape, basis: None }
    }

    fn int(shape: Vec<Dim>) -> Self {
        Self { dtype: DType::Int, shape, basis: None }
    }

    fn like(v: &ValueInfo) -> Self {
        Self { dtype: v.dtype, shape: v.shape.clone(), basis: v.basis }
    }
}

/// An op was given operands or weights it does not accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} ({op}): {reason}")]
pub struct OpError {
    /// The node, or empty before it has a name.
    pub node: String,
    /// The op.
    pub op: &'static str,
    /// What was expected and what was found.
    pub reason: String,
}

impl OpError {
    /// An error of `op` at a node not yet named.
    pub fn new(op: &'static str, reason: String) -> Self {
        Self { node: String::new(), op, reason }
    }

    /// Names the node.
    pub fn at(mut self, node: &str) -> Self {
        self.node = node.to_string();
        self
    }
}

/// Checks shared by the typing rules; every failure says what was expected and found.
struct Check {
    op: &'static str,
}

impl Check {
    fn fail<T>(&self, reason: String) -> Result<T, OpError> {
        Err(OpError::new(self.op, reason))
    }

    fn operands<'a, const N: usize>(&self, inputs: &[&'a ValueInfo]) -> Result<[&'a ValueInfo; N], OpError> {
        match <[&ValueInfo; N]>::try_from(inputs) {
            Ok(a) => Ok(a),
            Err(_) => self.fail(format!("takes {N} operands, found {}", inputs.len())),
        }
    }

    fn float<'a>(&self, v: &'a ValueInfo) -> Result<&'a ValueInfo, OpError> {
        if v.dtype == DType::Float {
            Ok(v)
        } else {
            self.fail(format!("expected a float operand, found {v}"))
        }
    }

    fn int(&self, v: &ValueInfo, rank: usize) -> Result<(), OpError> {
        if v.dtype == DType::Int && v.shape.len() == rank {
            Ok(())
        } else {
            self.fail(format!("expected an integer operand of rank {rank}, found {v}"))
        }
    }

    fn rank(&self, v: &ValueInfo, rank: usize) -> Result<(), OpError> {
        if v.shape.len() == rank { Ok(()) } else { self.fail(format!("expected rank {rank}, found {v}")) }
    }

    fn channels(&self, v: &ValueInfo) -> Result<usize, OpError> {
        match v.channels() {
            Some(n) => Ok(n),
            None => self.fail(format!("expected a fixed number of channels, found {v}")),
        }
    }

    fn has_channels(&self, v: &ValueInfo, n: usize) -> Result<(), OpError> {
        let found = self.channels(v)?;
        if found == n { Ok(()) } else { self.fail(format!("expected {n} channels, found {v}")) }
    }

    fn no_basis(&self, v: &ValueInfo) -> Result<(), OpError> {
        if v.basis.is_none() {
            Ok(())
        } else {
            self.fail(format!("a rotation would change this op's result: operand {v} must not carry a basis"))
        }
    }

    fn same_shape(&self, a: &ValueInfo, b: &ValueInfo) -> Result<(), OpError> {
        if a.shape == b.shape { Ok(()) } else { self.fail(format!("operands differ in shape: {a} and {b}")) }
    }

    /// Checks that two values have one row for the same tokens, in the same order.
    fn same_rows(&self, a: &ValueInfo, b: &ValueInfo) -> Result<(), OpError> {
        if a.with_channels(0) == b.with_channels(0) {
            Ok(())
        } else {
            self.fail(format!("operands do not have the same rows: {a} and {b}"))
        }
    }

    /// The two extents of a matrix whose rows are values.
    fn table(&self, weights: &[WeightDecl], id: WeightId) -> Result<[usize; 2], OpError> {
        let Some(table) = weights.get(id.0) else {
            return self.fail(format!("weight {} is not declared", id.0));
        };
        match table.shape.as_slice() {
            &[rows, channels] => Ok([rows, channels]),
            _ => self.fail(format!("table {} has shape {:?}, expected a matrix", table.name, table.shape)),
        }
    }

    fn weight(&self, weights: &[WeightDecl], id: WeightId, shape: &[usize]) -> Result<(), OpError> {
        match weights.get(id.0) {
            Some(w) if w.shape == shape => Ok(()),
            Some(w) => self.fail(format!("weight {} has shape {:?}, expected {shape:?}", w.name, w.shape)),
            None => self.fail(format!("weight {} is not declared", id.0)),
        }
    }
}
