//! Weights below 8 bits as ONNX initializers that hold 4 bits per code, in the layouts of the forms of [`super::form`]. Codes of 2 and 3 bits take
//! 4, too: no kernel of ONNX Runtime reads them otherwise.

use super::call::Call;
use super::emit::Emitter;
use super::error::OnnxError;
use super::nibbles;
use super::proto::tensor_proto::DataType;
use crate::graph::{WeightDecl, WeightId};
use crate::numeric::grid::{Grid, GridMatrix};

/// Initializers of MatMulNBits.
#[derive(Clone, Debug, PartialEq)]
pub struct NBits {
    /// uint8 `[out, blocks, block / 2]`.
    pub codes: String,
    /// f32 `[out * blocks]`.
    pub scales: String,
}

impl<'a> Emitter<'a> {
    /// The matrix of a linear in blocks of `block` input channels of MatMulNBits.
    ///
    /// # Errors
    /// [`OnnxError`] when it cannot be loaded, has another form than declared, or cannot be written.
    pub fn nbits(&mut self, id: WeightId, block: usize) -> Result<NBits, OnnxError> {
        let decl = self.declaration(id)?;
        let mut names = self.shared(format!("weight {} in {block} nbits", decl.name), |e| {
            let w = e.load_codes(decl)?;
            let blocks = w.cols.div_ceil(block);
            let dims = [w.rows, blocks, block / 2].map(|n| n as i64).to_vec();
            let length = w.rows * blocks * block / 2;
            let codes =
                e.packed(&decl.name, DataType::Uint8, dims, length, |sink| nibbles::nbits(&w, block, sink))?;
            let scales = nibbles::block_scales(&w, block);
            let dims = vec![scales.len() as i64];
            Ok(vec![codes, e.tensor(&format!("{}.scale", decl.name), dims, &scales)?])
        })?;
        match (names.pop(), names.pop()) {
            (Some(scales), Some(codes)) => Ok(NBits { codes, scales }),
            _ => Err(self.not_valid("has no matrix")),
        }
    }

    /// The matrix of a linear as floats `[in, out]` that DequantizeLinear makes: in blocks along the input channels, or by one scale per output channel.
    ///
    /// # Errors
    /// [`OnnxError`] when it cannot be loaded, has another form than declared, or cannot be written.
    pub fn dequantized(&mut self, id: WeightId) -> Result<String, OnnxError> {
        let decl = self.declaration(id)?;
        let names = self.shared(format!("{}/dequantized", decl.name), |e| {
            let w = e.load_codes(decl)?;
            let (rows, cols) = (w.rows, w.cols);
            let codes = if w.grid.bits < 8 {
                e.int4_codes(decl, &w, vec![cols as i64, rows as i64], cols)?
            } else {
                e.transposed(&decl.name, (rows, cols), &w.codes)?
            };
            let name = format!("{}.scale", decl.name);
            let blocks = w.grid.blocks(cols);
            // A row of one block has one scale, so that the attribute is there only where it means something.
            let wide = w.grid.block.filter(|_| blocks > 1);
            let values = nibbles::block_scales(&w, wide.unwrap_or(cols.max(1)));
            let call = |scales: &str| Call::new("DequantizeLinear", &[&codes, scales]);
            Ok(vec![match wide {
                Some(block) => {
                    let scales = e.transposed(&name, (rows, blocks), &values)?;
                    e.one(call(&scales).int("axis", 0).int("block_size", block as i64))
                }
                None => {
                    let scales = e.tensor(&name, vec![rows as i64], &values)?;
                    e.one(call(&scales).int("axis", 1))
                }
            }])
        })?;
        Ok(names.concat())
    }

    /// The int8 weights `[in, out]` of an integer product, made of 4-bit codes and 8-bit multipliers when the file is loaded.
    ///
    /// ONNX Runtime computes this once, as all nodes without inputs. Codes are stored `[blocks, block, out]`, the shape in which they meet their
    /// multipliers, so nothing is turned at load; zeros fill the last block and are cut off.
    ///
    /// # Errors
    /// [`OnnxError`] when it cannot be written.
    pub(super) fn folded_int8(&mut self, decl: &WeightDecl, w: &GridMatrix) -> Result<String, OnnxError> {
        let Grid { block, .. } = w.grid;
        let to_int8 = |codes: &str| Call::new("Cast", &[codes]).int("to", DataType::Int8 as i64);
        let (rows, blocks) = (w.rows as i64, w.grid.blocks(w.cols));
        let Some(block) = block else {
            let codes = self.int4_codes(decl, w, vec![w.cols as i64, rows], w.cols)?;
            return Ok(self.one(to_int8(&codes)));
        };
        let block = block.min(w.cols);
        let padded = blocks * block;
        let codes = self.int4_codes(decl, w, vec![blocks as i64, block as i64, rows], padded)?;
        let multipliers = turned(&w.multipliers, blocks);
        let name = format!("{}.multiplier", decl.name);
        let multipliers = self.tensor(&name, vec![blocks as i64, 1, rows], &multipliers)?;
        let codes = self.one(to_int8(&codes));
        let product = self.one(Call::new("Mul", &[&codes, &multipliers]));
        let shape = self.ints(&[padded as i64, rows]);
        let flat = self.one(Call::new("Reshape", &[&product, &shape]));
        if padded == w.cols {
            return Ok(flat);
        }
        let (from, to, axis) = (self.ints(&[0]), self.ints(&[w.cols as i64]), self.ints(&[0]));
        Ok(self.one(Call::new("Slice", &[&flat, &from, &to, &axis])))
    }

    /// Codes `[padded, out]` of INT4, zeros from row `in` on, under the shape `dims`.
    fn int4_codes(
        &mut self,
        decl: &WeightDecl,
        w: &GridMatrix,
        dims: Vec<i64>,
        padded: usize,
    ) -> Result<String, OnnxError> {
        let length = nibbles::bytes_of(w.rows * padded);
        self.packed(&decl.name, DataType::Int4, dims, length, |sink| {
            nibbles::int4_transposed(w, padded, sink)
        })
    }
}

/// Multipliers `[rows, blocks]` as int8 `[blocks, rows]`.
fn turned(multipliers: &[u8], blocks: usize) -> Vec<i8> {
    // At most 15, so int8 holds them.
    (0..blocks).flat_map(|b| multipliers.iter().skip(b).step_by(blocks).map(|m| *m as i8)).collect()
}
