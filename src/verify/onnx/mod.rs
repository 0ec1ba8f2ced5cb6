//! An interpreter of exported ONNX files: what they compute by the definitions of their operators, from what stands in them alone. Slow beside a runtime, and
//! able to do what no runtime does: leave activations unrounded, show every value, and replace it.
//!
//! [`OnnxGraph`] is one file. `program` makes nodes of it before anything runs, `run` runs them over `value`s, `ops` has one function for each operator.
//! [`EmbeddedOnnx`] is the three files of an artifact as a [`Runner`](super::runner::Runner).

mod array;
mod embedded;
mod error;
mod graph;
mod look;
mod node;
mod ops;
mod program;
mod run;
#[cfg(test)]
mod tests;
mod value;

pub use array::Array;
pub use embedded::{EmbeddedOnnx, Prefill, PrefillOptions};
pub use error::{Fault, OnnxRunError};
pub use graph::{Axis, OnnxGraph, Port, Weights};
pub use look::Look;
pub use value::{Element, Value};

/// Whether activations are rounded to codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// As the file says.
    #[default]
    Declared,
    /// Not at all: a value that is to be rounded goes on as the number it is, value / scale + zero point, beyond the range of codes too, and what computes on
    /// codes computes on these numbers. Weights are rounded all the same, because the file has nothing but their codes. Products whose inputs the file leaves
    /// to the runtime to round (MatMulNBits) have float inputs either way.
    Float,
}

/// Sees the results of nodes, and may replace them.
pub trait Tap {
    /// Called with each named result of each node of the graph, in the order in which they are computed; a value that is returned takes its place. Bodies of
    /// loops and what depends on initializers alone are not shown.
    fn value(&mut self, name: &str, value: &Value) -> Option<Value>;
}

/// Sees nothing.
impl Tap for () {
    fn value(&mut self, _: &str, _: &Value) -> Option<Value> {
        None
    }
}

impl<F: FnMut(&str, &Value) -> Option<Value>> Tap for F {
    fn value(&mut self, name: &str, value: &Value) -> Option<Value> {
        self(name, value)
    }
}
