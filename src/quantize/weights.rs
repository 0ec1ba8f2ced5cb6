//! Quantizes weights when they are asked for: a pure function of the float weight and its declared format.

use std::collections::BTreeMap;

use crate::graph::{Int8Weight, Model, WeightData, WeightError, WeightFormat, WeightSource};
use crate::numeric::Tensor;
use crate::numeric::grid::int8_per_row;

/// A [`WeightSource`] that gives each role in the format its model declares.
pub struct QuantizedWeights<'a> {
    base: &'a dyn WeightSource,
    formats: BTreeMap<&'a str, WeightFormat>,
}

impl<'a> QuantizedWeights<'a> {
    /// Formats by the declarations of `model`, numbers from `base`, which gives floats.
    pub fn new(model: &'a Model, base: &'a dyn WeightSource) -> Self {
        let parts = model.weights.iter().flat_map(|w| w.parts.iter().map(|p| (p.as_str(), w.format)));
        Self { base, formats: parts.collect() }
    }
}

impl WeightSource for QuantizedWeights<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        let data = self.base.role(role)?;
        match (data, self.formats.get(role)) {
            (WeightData::Float(t), Some(WeightFormat::Int8PerChannel)) => {
                let (codes, scales) = int8_per_row(t.data(), t.cols());
                let codes = Tensor::new(t.shape().to_vec(), codes);
                let codes = codes.map_err(|source| WeightError::Shape { name: role.to_string(), source })?;
                Ok(WeightData::Int8(Int8Weight { codes, scales }))
            }
            (data, _) => Ok(data),
        }
    }

    fn role_f64(&self, role: &str) -> Result<Option<Tensor<f64>>, WeightError> {
        self.base.role_f64(role)
    }
}
