//! Which form a linear on a weight grid takes in the file: an integer product, a product with weights that become floats at load, or one of
//! the forms that keep few bits in memory. All is decided here; `ops/linear.rs` and `ops/few_bits.rs` write it.

use super::OpSet;
use crate::numeric::grid::Grid;

/// How linears with weights below 8 bits are written. Linears with 8-bit weights are integer products where their inputs are rounded, and
/// products of floats where not; only [`Form::Portable`] writes the latter with DequantizeLinear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Integer products; a linear with float inputs becomes a product of floats.
    Int8Gemm,
    /// `com.microsoft.MatMulNBits`, whose kernel rounds inputs by itself: the activation scales of the recipe are not used.
    MatMulNBits,
    /// DequantizeLinear in blocks and MatMul, operators of the standard: inputs are floats, the activation scales of the recipe are not used.
    Portable,
}

impl Form {
    /// Name in flags and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Form::Int8Gemm => "int8-gemm",
            Form::MatMulNBits => "matmulnbits",
            Form::Portable => "portable",
        }
    }
}

/// What the file holds of the weights below 8 bits of a product with int8 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Codes in 4 bits and multipliers of blocks in 8, multiplied by the runtime when it loads the file.
    Int4,
    /// Codes times multipliers in 8 bits.
    Int8,
}

impl Store {
    /// Name in flags and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Store::Int4 => "int4",
            Store::Int8 => "int8",
        }
    }
}

/// The form of one linear on a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearForm {
    /// int8 codes of the input times int8 weights.
    Int8Gemm,
    /// Float inputs times weights that the runtime makes floats when it loads the file.
    FloatGemm,
    /// MatMulNBits in blocks of so many input channels.
    MatMulNBits {
        /// A power of two from 16 to 256.
        block: usize,
    },
    /// DequantizeLinear and MatMul.
    Portable,
}

impl LinearForm {
    /// Name in metadata.
    pub fn name(self) -> &'static str {
        match self {
            LinearForm::Int8Gemm => "int8-gemm",
            LinearForm::FloatGemm => "float-gemm",
            LinearForm::MatMulNBits { .. } => "matmulnbits",
            LinearForm::Portable => "portable",
        }
    }
}

/// How to write the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Operators to use.
    pub ops: OpSet,
    /// Form of linears with weights below 8 bits; absent: by their inputs, see [`linear_form`](Self::linear_form).
    pub form: Option<Form>,
    /// What files hold of the weights of [`Form::Int8Gemm`]; absent: see [`stored`](Self::stored).
    pub store: Option<Store>,
    /// Form of integer products with two activation scales.
    pub msq: MsqForm,
}

/// How a linear with two activation scales (MSQ) becomes integer products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MsqForm {
    /// One product of rows that were divided by the scale of their modality, which multiplies its result.
    #[default]
    RowScale,
    /// One product per modality, each of contiguous rows at its own static scale. It is taken by the linears whose rows are in the order by
    /// modality, see [`order_by_modality`](crate::passes::order_by_modality); the others keep the row scale.
    Split,
}

impl MsqForm {
    /// Name in flags and metadata.
    pub fn name(self) -> &'static str {
        match self {
            MsqForm::RowScale => "row-scale",
            MsqForm::Split => "split",
        }
    }
}

/// Options that cannot be had together, or not with these weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// MatMulNBits is no operator of the standard.
    #[error(
        "--form matmulnbits with --ops standard: com.microsoft.MatMulNBits is no operator of the ONNX standard; use --form portable, or --ops ort"
    )]
    NotStandard,
    /// A choice that the form does not leave.
    #[error(
        "--store {store} with --form {form}: what is stored can be chosen for int8-gemm only, this form has 4-bit codes; leave out --store or use --form int8-gemm",
        store = .store.name(), form = .form.name()
    )]
    NoChoice {
        /// What was to be stored.
        store: Store,
        /// In which form.
        form: Form,
    },
    /// Blocks that MatMulNBits cannot have.
    #[error(
        "--form matmulnbits with weights in blocks of {block}: MatMulNBits has blocks of 16, 32, 64, 128 or 256 input channels, and a block must be made of \
         whole ones; use a recipe with such blocks (int4/32), or --form portable"
    )]
    Block {
        /// Block of the grid.
        block: usize,
    },
}

/// Blocks that MatMulNBits knows, the largest first.
const NBITS_BLOCKS: [usize; 5] = [256, 128, 64, 32, 16];

/// Block of MatMulNBits for rows with one scale, which is then repeated. Any block is exact; the kernel rounds inputs block by block, so
/// a short one is closest to float inputs.
const ROW_BLOCK: usize = 32;

impl OnnxOptions {
    /// Defaults with these operators.
    pub fn new(ops: OpSet) -> Self {
        Self { ops, form: None, store: None, msq: MsqForm::default() }
    }

    /// Name of the form in metadata.
    pub fn form_name(&self) -> &'static str {
        self.form.map_or("default", Form::name)
    }

    /// Whether the options go together.
    ///
    /// # Errors
    /// [`FormError::NotStandard`], [`FormError::NoChoice`].
    pub fn valid(&self) -> Result<(), FormError> {
        match (self.form, self.store) {
            (Some(Form::MatMulNBits), _) if self.ops == OpSet::Standard => Err(FormError::NotStandard),
            (Some(form), Some(store)) if form != Form::Int8Gemm => Err(FormError::NoChoice { store, form }),
            _ => Ok(()),
        }
    }

    /// What files hold of the weights of products with int8 weights: int8 unless int4 is asked for, by the memory that loading takes.
    ///
    /// Measured (`benches/forms.py`: 187 M parameters of decoder layers, ONNX Runtime 1.32; 49 MB are the interpreter's): int8 makes a file of 188 MB and a
    /// session in 0.5 s with a peak of 257 MB; int4 a file of 96 MB, 2.4 s and 660 MB, because folding keeps what it computes on the way. Under standard
    /// operators 258 and 670 MB. The logits are the same bits, and so is the time of a token (42.4 and 43.4 ms, run in turns).
    pub fn stored(&self) -> Store {
        self.store.unwrap_or(Store::Int8)
    }

    /// The form of a linear whose weight has `cols` input channels on `grid`; `rounds`: its input is to be rounded to int8.
    ///
    /// By default linears with rounded inputs are integer products. Weights below 8 bits with float inputs keep their bits in memory: as
    /// MatMulNBits, or under [`OpSet::Standard`] (and where blocks are none of MatMulNBits) by DequantizeLinear.
    ///
    /// # Errors
    /// [`FormError::Block`] when MatMulNBits is asked for and cannot have the blocks.
    pub fn linear_form(&self, grid: Grid, cols: usize, rounds: bool) -> Result<LinearForm, FormError> {
        let few_bits = grid.bits < 8;
        let integer = if rounds { LinearForm::Int8Gemm } else { LinearForm::FloatGemm };
        match (self.form, nbits_block(grid, cols)) {
            (Some(Form::Int8Gemm), _) => Ok(integer),
            (Some(Form::Portable), _) if few_bits || !rounds => Ok(LinearForm::Portable),
            (Some(Form::MatMulNBits), Ok(block)) if few_bits => Ok(LinearForm::MatMulNBits { block }),
            (Some(Form::MatMulNBits), Err(e)) if few_bits => Err(e),
            (None, Ok(block)) if few_bits && !rounds && self.ops == OpSet::Ort => {
                Ok(LinearForm::MatMulNBits { block })
            }
            (None, _) if few_bits && !rounds => Ok(LinearForm::Portable),
            _ => Ok(integer),
        }
    }
}

impl OnnxOptions {
    /// The form of a linear whose weight is in blocks of ggml of 32 input channels with a scale each. No integer product has such scales, so inputs are
    /// floats, and [`Form::Int8Gemm`] writes these weights as [`Form::Portable`] does.
    pub fn block_form(&self) -> LinearForm {
        match (self.form, self.ops) {
            (Some(Form::MatMulNBits), _) | (None, OpSet::Ort) => {
                LinearForm::MatMulNBits { block: GGML_BLOCK }
            }
            _ => LinearForm::Portable,
        }
    }
}

/// Input channels of a block of Q4_0 and Q8_0.
const GGML_BLOCK: usize = 32;

/// The largest block of MatMulNBits that divides those of the grid.
fn nbits_block(grid: Grid, cols: usize) -> Result<usize, FormError> {
    let Some(block) = grid.block else { return Ok(ROW_BLOCK) };
    match NBITS_BLOCKS.into_iter().find(|b| block.is_multiple_of(*b)) {
        Some(found) => Ok(found),
        None if grid.blocks(cols) == 1 => Ok(ROW_BLOCK),
        None => Err(FormError::Block { block }),
    }
}

/// Bytes of a weight of `rows` x `cols` on `grid` in a product with int8 weights: codes and multipliers as stored, without the row scales.
pub fn stored_bytes(grid: Grid, (rows, cols): (usize, usize), store: Store) -> u64 {
    let (rows, cols) = (rows as u64, cols as u64);
    if grid.bits >= 8 || store == Store::Int8 {
        return rows * cols;
    }
    let multipliers = if grid.block.is_some() { rows * grid.blocks(cols as usize) as u64 } else { 0 };
    (rows * cols).div_ceil(2) + multipliers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(options: OnnxOptions, text: (u8, usize), rounds: bool) -> Result<LinearForm, FormError> {
        let (bits, block) = text;
        let grid = Grid { bits, block: (block > 0).then_some(block) };
        options.linear_form(grid, 1000, rounds)
    }

    #[test]
    fn the_default_follows_the_inputs_and_the_operators() {
        let (ort, standard) = (OnnxOptions::new(OpSet::Ort), OnnxOptions::new(OpSet::Standard));
        assert_eq!((ort.stored(), standard.stored()), (Store::Int8, Store::Int8));
        for options in [ort, standard] {
            for grid in [(8, 0), (4, 0), (4, 128), (2, 8)] {
                assert_eq!(form(options, grid, true), Ok(LinearForm::Int8Gemm));
            }
            assert_eq!(form(options, (8, 0), false), Ok(LinearForm::FloatGemm));
        }
        assert_eq!(form(ort, (4, 32), false), Ok(LinearForm::MatMulNBits { block: 32 }));
        assert_eq!(form(ort, (3, 0), false), Ok(LinearForm::MatMulNBits { block: ROW_BLOCK }));
        assert_eq!(form(ort, (4, 24), false), Ok(LinearForm::Portable));
        assert_eq!(form(standard, (4, 32), false), Ok(LinearForm::Portable));
    }

    #[test]
    fn a_form_asked_for_drops_the_rounding_of_few_bits_only() {
        let with = |f| OnnxOptions { form: Some(f), ..OnnxOptions::new(OpSet::Ort) };
        for (rounds, integer) in [(true, LinearForm::Int8Gemm), (false, LinearForm::FloatGemm)] {
            assert_eq!(form(with(Form::Int8Gemm), (4, 32), rounds), Ok(integer));
            assert_eq!(form(with(Form::MatMulNBits), (8, 0), rounds), Ok(integer));
            assert_eq!(form(with(Form::Portable), (4, 24), rounds), Ok(LinearForm::Portable));
            for (block, want) in [(16, 16), (32, 32), (48, 16), (96, 32), (128, 128), (512, 256), (2048, 256)]
            {
                let want = Ok(LinearForm::MatMulNBits { block: want });
                assert_eq!(form(with(Form::MatMulNBits), (4, block), rounds), want);
            }
            let refused = Err(FormError::Block { block: 24 });
            assert_eq!(form(with(Form::MatMulNBits), (4, 24), rounds), refused);
        }
        assert_eq!(form(with(Form::Portable), (8, 0), true), Ok(LinearForm::Int8Gemm));
        assert_eq!(form(with(Form::Portable), (8, 0), false), Ok(LinearForm::Portable));
        // One block holds the whole row of 1000.
        assert_eq!(form(with(Form::MatMulNBits), (4, 1001), true), Ok(LinearForm::MatMulNBits { block: 32 }));
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        let options = |ops, form, store| OnnxOptions { form, store, ..OnnxOptions::new(ops) }.valid();
        let refused = options(OpSet::Standard, Some(Form::MatMulNBits), None);
        assert_eq!(refused, Err(FormError::NotStandard));
        for form in [Form::MatMulNBits, Form::Portable] {
            let e = options(OpSet::Ort, Some(form), Some(Store::Int4)).unwrap_err().to_string();
            assert!(e.contains("--store int4") && e.contains(form.name()), "{e}");
        }
        for ops in [OpSet::Ort, OpSet::Standard] {
            assert_eq!(options(ops, Some(Form::Int8Gemm), Some(Store::Int4)), Ok(()));
            assert_eq!(options(ops, None, Some(Store::Int8)), Ok(()));
        }
    }

    #[test]
    fn bytes_as_stored() {
        let grid = |bits, block| Grid { bits, block };
        assert_eq!(stored_bytes(grid(4, Some(3)), (3, 7), Store::Int4), 11 + 9);
        assert_eq!(stored_bytes(grid(2, None), (3, 7), Store::Int4), 11);
        assert_eq!(stored_bytes(grid(4, Some(3)), (3, 7), Store::Int8), 21);
        assert_eq!(stored_bytes(grid(8, None), (3, 7), Store::Int4), 21);
    }
}
