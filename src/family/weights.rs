//! Serves the tensors of a checkpoint under their canonical roles.

use std::collections::BTreeMap;

use super::binding::Binding;
use crate::checkpoint::Checkpoint;
use crate::graph::{WeightData, WeightError, WeightSource};
use crate::numeric::Tensor;

/// A [`WeightSource`] over an open checkpoint: one tensor (or row block) is decoded to `f32` at each call.
pub struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    bindings: &'a BTreeMap<String, Binding>,
}

impl<'a> CheckpointWeights<'a> {
    /// Roles by `bindings`, numbers from `checkpoint`.
    pub fn new(checkpoint: &'a Checkpoint, bindings: &'a BTreeMap<String, Binding>) -> Self {
        Self { checkpoint, bindings }
    }
}

impl WeightSource for CheckpointWeights<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        let unknown = || WeightError::Unknown { role: role.to_string() };
        let binding = self.bindings.get(role).ok_or_else(unknown)?;
        let tensor = self.checkpoint.tensor(&binding.tensor).ok_or_else(unknown)?;
        let out = binding
            .read(&tensor)
            .map_err(|e| WeightError::Read { role: role.to_string(), source: Box::new(e) })?;
        let tensor = Tensor::new(binding.shape.clone(), out);
        Ok(WeightData::Float(tensor.map_err(|source| WeightError::Shape { name: role.to_string(), source })?))
    }
}
