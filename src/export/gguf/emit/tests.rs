//! Lowering fixtures, and refusals.
