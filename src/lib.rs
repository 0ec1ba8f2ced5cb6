//! x
pub mod calibrate;
pub mod checkpoint;
pub mod cli;
pub mod exec;
pub mod export;
pub mod family;
pub mod graph;
pub mod numeric;
pub mod passes;
pub mod pipeline;
pub mod quantize;
