//! Weights of a quantized model: codes from the file that the block loop wrote, everything else from the float source.

use std::collections::BTreeMap;
use std::path::Path;

use super::spill::{CodeStore, SpillError};
use crate::graph::{WeightData, WeightError, WeightSource};
use crate::numeric::Tensor;
use crate::numeric::grid::{Grid, GridMatrix};

/// Codes of quantized weights by role, in a file without a name: memory does not grow with the model.
#[derive(Debug)]
pub struct Codes {
    store: CodeStore,
    shapes: BTreeMap<String, (Grid, usize, usize)>,
}

impl Codes {
    /// An empty store whose file is in `dir`.
    ///
    /// # Errors
    /// [`SpillError`] when no file can be made there.
    pub fn new(dir: &Path) -> Result<Self, SpillError> {
        Ok(Self { store: CodeStore::new(dir)?, shapes: BTreeMap::new() })
    }

    /// Stores the codes of a role.
    ///
    /// # Errors
    /// [`SpillError`] when the file cannot be written.
    pub fn put(&mut self, role: &str, w: &GridMatrix) -> Result<(), SpillError> {
        let codes = w.codes.iter().map(|&c| c as u8);
        let scales = w.scales.iter().flat_map(|s| s.to_le_bytes());
        let bytes: Vec<u8> = codes.chain(w.multipliers.iter().copied()).chain(scales).collect();
        self.store.put(role, &bytes)?;
        self.shapes.insert(role.to_string(), (w.grid, w.rows, w.cols));
        Ok(())
    }

    fn get(&self, role: &str) -> Result<Option<GridMatrix>, SpillError> {
        let Some(&(grid, rows, cols)) = self.shapes.get(role) else { return Ok(None) };
        let bytes = self.store.get(role)?;
        let blocks = grid.block.map_or(0, |b| cols.div_ceil(b));
        let (codes, rest) = bytes.split_at((rows * cols).min(bytes.len()));
        let (multipliers, scales) = rest.split_at((rows * blocks).min(rest.len()));
        let scales = scales.as_chunks::<4>().0;
        Ok(Some(GridMatrix {
            grid,
            rows,
            cols,
            codes: codes.iter().map(|&c| c as i8).collect(),
            multipliers: multipliers.to_vec(),
            scales: scales.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        }))
    }
}

/// A [`WeightSource`] that gives codes where there are some.
pub struct QuantizedWeights<'a> {
    codes: &'a Codes,
    base: &'a dyn WeightSource,
}

impl<'a> QuantizedWeights<'a> {
    /// Codes from `codes`, floats from `base`.
    pub fn new(codes: &'a Codes, base: &'a dyn WeightSource) -> Self {
        Self { codes, base }
    }
}

impl WeightSource for QuantizedWeights<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        let read = |source| WeightError::Read { role: role.to_string(), source: Box::new(source) };
        match self.codes.get(role).map_err(read)? {
            Some(w) => Ok(WeightData::Grid(w)),
            None => self.base.role(role),
        }
    }

    fn role_f64(&self, role: &str) -> Result<Option<Tensor<f64>>, WeightError> {
        self.base.role_f64(role)
    }
}
