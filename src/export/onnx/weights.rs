//! Weights of the IR as ONNX initializers: each is loaded once per graph, written in the layout its reader wants, and dropped.

use super::emit::Emitter;
use super::error::OnnxError;
use super::form::{LinearForm, Store};
use crate::graph::ops::Linear;
use crate::graph::{WeightData, WeightDecl, WeightFormat, WeightId};
use crate::numeric::Tensor;
use crate::numeric::grid::GridMatrix;

/// Initializers of a linear's matrix, turned to `[in, out]`: the layout ONNX's MatMul reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Matrix {
    /// Numbers.
    Float(String),
    /// Codes and one scale per column.
    Int8 {
        /// int8 `[in, out]`.
        codes: String,
        /// f32 `[out]`.
        scales: String,
    },
}

impl<'a> Emitter<'a> {
    /// The form of a linear with a weight of codes; none for a float weight.
    ///
    /// # Errors
    /// [`OnnxError::Form`] when the form asked for cannot have these weights.
    pub fn linear_form(&self, op: &Linear) -> Result<Option<LinearForm>, OnnxError> {
        let decl = self.declaration(op.weight)?;
        let grid = match decl.format {
            WeightFormat::Float => return Ok(None),
            WeightFormat::Blocks(_) => return Ok(Some(self.options.block_form())),
            WeightFormat::Grid(grid) => grid,
        };
        let cols = decl.shape.last().copied().unwrap_or(0);
        let form = self.options.linear_form(grid, cols, op.act.is_some());
        let (graph, node) = (self.graph.part.name(), self.node().to_string());
        form.map(Some).map_err(|source| OnnxError::Form { graph, node, source })
    }

    /// Output channels of the matrix of a linear.
    ///
    /// # Errors
    /// [`OnnxError::NotValid`] when it is not declared or no matrix.
    pub fn rows_of(&self, id: WeightId) -> Result<usize, OnnxError> {
        match self.declaration(id)?.shape.as_slice() {
            &[out, _] => Ok(out),
            _ => Err(self.not_valid("reads a weight that is no matrix")),
        }
    }

    /// A vector or table as it is.
    ///
    /// # Errors
    /// [`OnnxError`] when it cannot be loaded, is not float, or cannot be written.
    pub fn float_weight(&mut self, id: WeightId) -> Result<String, OnnxError> {
        let decl = self.declaration(id)?;
        let names = self.shared(format!("weight {} as is", decl.name), |e| {
            let tensor = e.load_float(decl)?;
            let dims = tensor.shape().iter().map(|&n| n as i64).collect();
            Ok(vec![e.tensor(&decl.name, dims, tensor.data())?])
        })?;
        self.only(&names)
    }

    /// The matrix of a linear.
    ///
    /// # Errors
    /// [`OnnxError`] when it cannot be loaded, has another form than declared, or cannot be written.
    pub fn matrix(&mut self, id: WeightId) -> Result<Matrix, OnnxError> {
        let decl = self.declaration(id)?;
        let &[out, k] = decl.shape.as_slice() else {
            return Err(self.not_valid("reads a weight that is no matrix"));
        };
        let names = self.shared(format!("{}/matrix", decl.name), |e| match decl.format {
            WeightFormat::Float => {
                let tensor = e.load_float(decl)?;
                Ok(vec![e.transposed(&decl.name, (out, k), tensor.data())?])
            }
            WeightFormat::Blocks(_) => Err(e.wrong_form(decl, "codes of a grid", "blocks of ggml")),
            WeightFormat::Grid(grid) => {
                let w = e.load_codes(decl)?;
                let codes = if grid.bits < 8 && e.options.stored() == Store::Int4 {
                    e.folded_int8(decl, &w)?
                } else {
                    e.transposed(&decl.name, (out, k), &w.int8())?
                };
                Ok(vec![codes, e.tensor(&format!("{}.scale", decl.name), vec![out as i64], &w.scales)?])
            }
        })?;
        match names.as_slice() {
            [w] => Ok(Matrix::Float(w.clone())),
            [codes, scales] => Ok(Matrix::Int8 { codes: codes.clone(), scales: scales.clone() }),
            _ => Err(self.not_valid("has no matrix")),
        }
    }

    pub(super) fn declaration(&self, id: WeightId) -> Result<&'a WeightDecl, OnnxError> {
        self.model.weights.get(id.0).ok_or_else(|| self.not_valid("names a weight that is not declared"))
    }

    fn only(&self, names: &[String]) -> Result<String, OnnxError> {
        names.first().cloned().ok_or_else(|| self.not_valid("has no weight"))
    }

    fn load_float(&self, decl: &WeightDecl) -> Result<Tensor<f32>, OnnxError> {
        match self.load(decl)? {
            WeightData::Float(t) if t.shape() == decl.shape => Ok(t),
            WeightData::Float(_) => Err(self.not_valid("reads a weight whose numbers have another shape")),
            WeightData::Grid(_) | WeightData::Blocks(_) => Err(self.wrong_form(decl, "float", "codes")),
        }
    }

    pub(super) fn load_codes(&self, decl: &WeightDecl) -> Result<GridMatrix, OnnxError> {
        match self.load(decl)? {
            WeightData::Grid(w)
                if WeightFormat::Grid(w.grid) == decl.format && decl.shape == [w.rows, w.cols] =>
            {
                Ok(w)
            }
            WeightData::Grid(_) => {
                Err(self.not_valid("reads a weight whose numbers have another shape or grid"))
            }
            WeightData::Float(_) => Err(self.wrong_form(decl, "codes", "float")),
            WeightData::Blocks(_) => Err(self.wrong_form(decl, "codes of a grid", "blocks of ggml")),
        }
    }

    pub(super) fn load(&self, decl: &WeightDecl) -> Result<WeightData, OnnxError> {
        let (graph, node) = (self.graph.part.name(), self.node().to_string());
        self.source.load(decl).map_err(|source| OnnxError::Weight { graph, node, source })
    }

    pub(super) fn wrong_form(
        &self,
        decl: &WeightDecl,
        declared: &'static str,
        found: &'static str,
    ) -> OnnxError {
        let (graph, node) = (self.graph.part.name(), self.node().to_string());
        OnnxError::WeightForm { graph, node, weight: decl.name.clone(), declared, found }
    }
}
