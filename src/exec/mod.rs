//! The float reference executor: an independent, obvious interpreter of the graph, one function per op (`ops`). It runs in `f32` or
//! `f64`, simulates static int8 linears exactly, and shows every node's operands and results to a [`Tap`].
//! No file format, family or recipe is known here; weights come from a [`crate::graph::WeightSource`].

mod generate;
mod lockstep;
pub mod ops;
mod run;
mod value;
mod weights;

pub use generate::{
    DecoderState, GenerateError, Generation, empty_cache, feature_width, greedy, position_inputs,
    vision_inputs,
};
pub use lockstep::{Keep, LockstepTap, run_lockstep};
pub use run::{Env, ExecError, Executor, Inputs, Outputs, Tap, bind};
pub use value::Value;
pub use weights::{LinearWeight, WeightCache};
