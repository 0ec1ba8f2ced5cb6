//! Weights of a quantized model: codes from the file that the block loop wrote, weights that are rounded from themselves alone when they are asked for,
//! everything else from the float source.

use std::collections::BTreeMap;
use std::path::Path;

use super::spill::{CodeStore, SpillError};
use crate::graph::{WeightData, WeightError, WeightSource};
use crate::numeric::Tensor;
use crate::numeric::ggml::{BlockMatrix, BlockType, reference};
use crate::numeric::grid::{Grid, GridMatrix};

/// A matrix of codes.
#[derive(Clone, Debug, PartialEq)]
pub enum CodeMatrix {
    /// On a grid.
    Grid(GridMatrix),
    /// In blocks of ggml.
    Blocks(BlockMatrix),
}

impl CodeMatrix {
    /// Output and input channels.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Grid(w) => (w.rows, w.cols),
            Self::Blocks(w) => (w.rows, w.cols),
        }
    }

    /// The values, `[out, in]` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        match self {
            Self::Grid(w) => w.dequantize(),
            Self::Blocks(w) => w.dequantize(),
        }
    }
}

impl From<CodeMatrix> for WeightData {
    fn from(matrix: CodeMatrix) -> Self {
        match matrix {
            CodeMatrix::Grid(w) => Self::Grid(w),
            CodeMatrix::Blocks(w) => Self::Blocks(w),
        }
    }
}

/// What the bytes of a role are.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Grid(Grid),
    Blocks(BlockType),
}

/// Quantized weights by role. Codes are in a file without a name: memory does not grow with the model.
#[derive(Debug)]
pub struct Codes {
    store: CodeStore,
    shapes: BTreeMap<String, (Layout, usize, usize)>,
    /// Roles rounded to the nearest value whenever they are asked for: nothing but the weight decides.
    rounded: BTreeMap<String, BlockType>,
    /// Roles that are another role's weight.
    shared: BTreeMap<String, String>,
}

impl Codes {
    /// An empty store whose file is in `dir`.
    ///
    /// # Errors
    /// [`SpillError`] when no file can be made there.
    pub fn new(dir: &Path) -> Result<Self, SpillError> {
        let store = CodeStore::new(dir)?;
        Ok(Self { store, shapes: BTreeMap::new(), rounded: BTreeMap::new(), shared: BTreeMap::new() })
    }

    /// Stores the codes of a role.
    ///
    /// # Errors
    /// [`SpillError`] when the file cannot be written.
    pub fn put(&mut self, role: &str, matrix: &CodeMatrix) -> Result<(), SpillError> {
        let layout = match matrix {
            CodeMatrix::Grid(w) => {
                let codes = w.codes.iter().map(|&c| c as u8);
                let scales = w.scales.iter().flat_map(|s| s.to_le_bytes());
                let bytes: Vec<u8> = codes.chain(w.multipliers.iter().copied()).chain(scales).collect();
                self.store.put(role, &bytes)?;
                Layout::Grid(w.grid)
            }
            CodeMatrix::Blocks(w) => {
                self.store.put(role, &w.bytes)?;
                Layout::Blocks(w.kind)
            }
        };
        let (rows, cols) = matrix.shape();
        self.shapes.insert(role.to_string(), (layout, rows, cols));
        Ok(())
    }

    /// Lets a role be rounded to the nearest values of `kind`, as ggml's reference does, whenever it is asked for.
    pub fn round_on_demand(&mut self, role: &str, kind: BlockType) {
        self.rounded.insert(role.to_string(), kind);
    }

    /// Makes `role` the weight of the role `of`.
    pub fn share(&mut self, role: &str, of: &str) {
        self.shared.insert(role.to_string(), of.to_string());
    }

    fn get(&self, role: &str) -> Result<Option<CodeMatrix>, SpillError> {
        let Some(&(layout, rows, cols)) = self.shapes.get(role) else { return Ok(None) };
        let bytes = self.store.get(role)?;
        Ok(Some(match layout {
            Layout::Grid(grid) => CodeMatrix::Grid(grid_matrix(grid, (rows, cols), &bytes)),
            Layout::Blocks(kind) => CodeMatrix::Blocks(BlockMatrix { kind, rows, cols, bytes }),
        }))
    }
}

/// Codes, multipliers and scales as [`Codes::put`] writes them.
fn grid_matrix(grid: Grid, (rows, cols): (usize, usize), bytes: &[u8]) -> GridMatrix {
    let blocks = grid.block.map_or(0, |b| cols.div_ceil(b));
    let (codes, rest) = bytes.split_at((rows * cols).min(bytes.len()));
    let (multipliers, scales) = rest.split_at((rows * blocks).min(rest.len()));
    let scales = scales.as_chunks::<4>().0;
    GridMatrix {
        grid,
        rows,
        cols,
        codes: codes.iter().map(|&c| c as i8).collect(),
        multipliers: multipliers.to_vec(),
        scales: scales.iter().map(|b| f32::from_le_bytes(*b)).collect(),
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
        let role = self.codes.shared.get(role).map_or(role, String::as_str);
        let read = |source: Box<dyn std::error::Error + Send + Sync>| WeightError::Read {
            role: role.to_string(),
            source,
        };
        if let Some(matrix) = self.codes.get(role).map_err(|e| read(e.into()))? {
            return Ok(matrix.into());
        }
        match (self.codes.rounded.get(role), self.base.role(role)?) {
            (Some(&kind), WeightData::Float(w)) => {
                let shape = (w.rows(), w.cols());
                reference(w.data(), shape, kind, None).map(WeightData::Blocks).map_err(|e| read(e.into()))
            }
            (_, data) => Ok(data),
        }
    }

    fn role_f64(&self, role: &str) -> Result<Option<Tensor<f64>>, WeightError> {
        self.base.role_f64(role)
    }
}
