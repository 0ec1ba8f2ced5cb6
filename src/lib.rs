//! x
pub mod calibrate;
pub mod checkpoint;
pub mod exec;
pub mod family;
pub mod graph;
pub mod numeric;
