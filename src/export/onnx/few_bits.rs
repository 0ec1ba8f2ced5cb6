//! Weights as ONNX initializers that hold the bits of their codes, in the layouts of the forms of [`super::form`]. Codes of 2 and 3 bits take
//! 4: no kernel of ONNX Runtime reads them otherwise. Blocks of ggml with a scale and no minimum (Q4_0, Q8_0) are the same values here, their
//! scales of half precision written in single.

use super::call::Call;
use super::emit::Emitter;
use super::error::OnnxError;
use super::nibbles::{self, CodesOf};
use super::proto::tensor_proto::DataType;
use crate::graph::{WeightData, WeightDecl, WeightFormat, WeightId};
use crate::numeric::ggml::{BlockMatrix, BlockType};
use crate::numeric::grid::{Grid, GridMatrix};

/// Initializers of MatMulNBits.
#[derive(Clone, Debug, PartialEq)]
pub struct NBits {
    /// uint8 `[out, blocks, block / 2]`.
    pub codes: String,
    /// f32 `[out * blocks]`.
    pub scales: String,
    /// Bits of a code, 4 or 8.
    pub bits: u8,
}

/// A matrix of codes with scales for runs of columns.
struct Coded {
    codes: Vec<i8>,
    rows: usize,
    cols: usize,
    /// Bits of a code in the file, 4 or 8.
    bits: u8,
    /// Columns with one scale; none when a row has one.
    block: Option<usize>,
    /// `[rows, blocks]` row-major.
    scales: Vec<f32>,
}

impl Coded {
    /// A matrix on a grid, with scales for blocks of `block` columns where that is given.
    fn grid(w: GridMatrix, block: Option<usize>) -> Self {
        // A row of one block has one scale, so that blocks are there only where they mean something.
        let own = w.grid.block.filter(|_| w.grid.blocks(w.cols) > 1);
        let block = block.or(own);
        let scales = nibbles::block_scales(&w, block.unwrap_or(w.cols.max(1)));
        let bits = if w.grid.bits < 8 { 4 } else { 8 };
        Self { rows: w.rows, cols: w.cols, bits, block, scales, codes: w.codes }
    }

    /// Blocks of ggml that have a scale each and no minimum; none of another type.
    fn blocks(w: &BlockMatrix) -> Option<Self> {
        let bits = bits_of(WeightFormat::Blocks(w.kind))?;
        let (lattice, codes) = (w.lattice().ok()?, w.codes().ok()?);
        let block = Some(w.kind.values());
        Some(Self { codes, rows: w.rows, cols: w.cols, bits, block, scales: lattice.steps })
    }

    fn codes_of(&self) -> CodesOf<'_> {
        CodesOf { codes: &self.codes, rows: self.rows, cols: self.cols }
    }
}

/// Bits of a code in the file, for formats that are written as codes with scales.
fn bits_of(format: WeightFormat) -> Option<u8> {
    match format {
        WeightFormat::Grid(grid) => Some(if grid.bits < 8 { 4 } else { 8 }),
        WeightFormat::Blocks(BlockType::Q4_0) => Some(4),
        WeightFormat::Blocks(BlockType::Q8_0) => Some(8),
        WeightFormat::Blocks(_) | WeightFormat::Float => None,
    }
}

impl<'a> Emitter<'a> {
    /// The matrix of a linear in blocks of `block` input channels of MatMulNBits.
    ///
    /// # Errors
    /// [`OnnxError`] when it cannot be loaded, has another form than declared, or cannot be written.
    pub fn nbits(&mut self, id: WeightId, block: usize) -> Result<NBits, OnnxError> {
        let decl = self.declaration(id)?;
        let mut names = self.shared(format!("weight {} in {block} nbits", decl.name), |e| {
            let w = e.load_coded(decl, Some(block))?;
            let (blocks, bytes) = (w.cols.div_ceil(block), block * usize::from(w.bits) / 8);
            let dims = [w.rows, blocks, bytes].map(|n| n as i64).to_vec();
            let length = w.rows * blocks * bytes;
            let codes = e.packed(&decl.name, DataType::Uint8, dims, length, |sink| {
                nibbles::nbits(w.codes_of(), w.bits, block, sink)
            })?;
            let dims = vec![w.scales.len() as i64];
            Ok(vec![codes, e.tensor(&format!("{}.scale", decl.name), dims, &w.scales)?])
        })?;
        match (names.pop(), names.pop(), bits_of(decl.format)) {
            (Some(scales), Some(codes), Some(bits)) => Ok(NBits { codes, scales, bits }),
            _ => Err(self.not_valid("has no matrix")),
        }
    }

    /// The codes of a matrix with scales for blocks of `block` columns where that is given. Blocks of ggml keep their own.
    fn load_coded(&self, decl: &WeightDecl, block: Option<usize>) -> Result<Coded, OnnxError> {
        let WeightFormat::Blocks(kind) = decl.format else {
            return Ok(Coded::grid(self.load_codes(decl)?, block));
        };
        match self.load(decl)? {
            WeightData::Blocks(w) if w.kind == kind && decl.shape == [w.rows, w.cols] => {
                Coded::blocks(&w).ok_or_else(|| self.wrong_form(decl, "blocks of Q4_0 or Q8_0", kind.name()))
            }
            WeightData::Blocks(_) => {
                Err(self.not_valid("reads a weight whose numbers have another shape or type"))
            }
            WeightData::Float(_) => Err(self.wrong_form(decl, "blocks of ggml", "float")),
            WeightData::Grid(_) => Err(self.wrong_form(decl, "blocks of ggml", "codes of a grid")),
        }
    }

    /// The matrix of a linear as floats `[in, out]` that DequantizeLinear makes: in blocks along the input channels, or by one scale per output channel.
    ///
    /// # Errors
    /// [`OnnxError`] when it cannot be loaded, has another form than declared, or cannot be written.
    pub fn dequantized(&mut self, id: WeightId) -> Result<String, OnnxError> {
        let decl = self.declaration(id)?;
        let names = self.shared(format!("{}/dequantized", decl.name), |e| {
            let w = e.load_coded(decl, None)?;
            let (rows, cols) = (w.rows, w.cols);
            let codes = if w.bits < 8 {
                e.int4_codes(decl, w.codes_of(), vec![cols as i64, rows as i64], cols)?
            } else {
                e.transposed(&decl.name, (rows, cols), &w.codes)?
            };
            let name = format!("{}.scale", decl.name);
            let call = |scales: &str| Call::new("DequantizeLinear", &[&codes, scales]);
            Ok(vec![match w.block {
                Some(block) => {
                    let scales = e.transposed(&name, (rows, cols.div_ceil(block)), &w.scales)?;
                    e.one(call(&scales).int("axis", 0).int("block_size", block as i64))
                }
                None => {
                    let scales = e.tensor(&name, vec![rows as i64], &w.scales)?;
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
            let codes = self.int4_codes(decl, CodesOf::grid(w), vec![w.cols as i64, rows], w.cols)?;
            return Ok(self.one(to_int8(&codes)));
        };
        let block = block.min(w.cols);
        let padded = blocks * block;
        let dims = vec![blocks as i64, block as i64, rows];
        let codes = self.int4_codes(decl, CodesOf::grid(w), dims, padded)?;
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
        w: CodesOf<'_>,
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
