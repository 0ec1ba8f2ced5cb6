//! Linear layers. A quantized one is the `int8-gemm` form: static int8 codes of the input, int8 codes of the weight, one integer product.
//!
//! Measured (1088 x 1536 x 8960, ms prefill / decode): float MatMul 193 / 2.8; MatMulIntegerToFloat of uint8 codes around 128 and
//! int8 weights 104 / 0.3; of int8 codes 766 / 16, because x86-64 below AVX-VNNI-INT8 has no kernel for two signed operands. So the explicit
//! form adds 128 to the codes; the standard form may keep int8, which ONNX Runtime rewrites to uint8 by itself while fusing.
//!
//! Two scales, by row scale: rows are divided by the scale of their modality, quantized at scale 1, and multiplied by it after the
//! product: one GEMM for both modalities (31.5 ms).
//!
//! Two scales, split: rows in the order by modality are cut where text begins, each piece is one product at its own scale, and the results
//! are joined (35.9 ms there, on another machine 50 against 53: as fast). But both products pack the weight for themselves: 321 MB instead
//! of 216 for 8 linears of 13.1 MB. One Split cuts both pieces; two Slices fuse as well and are no faster.

use super::super::call::Call;
use super::super::emit::Emitter;
use super::super::error::OnnxError;
use super::super::form::LinearForm;
use super::super::proto::tensor_proto::DataType;
use super::super::weights::Matrix;
use super::super::{MsqForm, OpSet};
use super::few_bits;
use crate::graph::ops::{ActScales, Linear, Rounding, SMALLEST_ROW_SCALE};
use crate::graph::{Dim, Sym};

pub(super) fn linear(op: &Linear, e: &mut Emitter<'_>) -> Result<(), OnnxError> {
    match e.linear_form(op)? {
        Some(LinearForm::MatMulNBits { block }) => return few_bits::nbits(op, e, block),
        Some(LinearForm::Portable) => return few_bits::portable(op, e),
        _ => {}
    }
    let x = e.input(0)?;
    match (e.matrix(op.weight)?, op.act) {
        (Matrix::Float(w), None) => product(op, e, &x, &w),
        (Matrix::Int8 { codes, scales }, None) => weight_only(op, e, &x, &codes, &scales),
        (Matrix::Int8 { codes, scales }, Some(act)) => quantized(op, e, act, &x, &codes, &scales),
        (Matrix::Float(_), Some(_)) => Err(e.not_valid("has activation scales but a float weight")),
    }
}

/// `x w (+ bias)` in float. With one input channel it is every row's number times the row `w`: 0.2 ms as
/// Mul at 1088 x 1 x 1536, its channel taken from 8960 included, 0.3 as MatMul.
pub(super) fn product(op: &Linear, e: &mut Emitter<'_>, x: &str, w: &str) -> Result<(), OnnxError> {
    let operator = if e.channels(0)? == 1 { "Mul" } else { "MatMul" };
    let call = Call::new(operator, &[x, w]);
    if op.bias.is_none() {
        return e.result(call, 0);
    }
    let y = e.one(call);
    add_bias(op, e, &y)
}

/// `x codes * scales (+ bias)`: int8 in the file, float when loaded. DequantizeLinear would be natural, but ONNX Runtime turns it and the
/// product into MatMulNBits, which rounds the rows of `x` to int8 (error 2e-2 where the definition allows 1e-7).
fn weight_only(
    op: &Linear,
    e: &mut Emitter<'_>,
    x: &str,
    codes: &str,
    scales: &str,
) -> Result<(), OnnxError> {
    let w = e.one(Call::new("Cast", &[codes]).int("to", DataType::Float as i64));
    let y = e.one(Call::new("MatMul", &[x, &w]));
    let call = Call::new("Mul", &[&y, scales]);
    if op.bias.is_none() {
        return e.result(call, 0);
    }
    let y = e.one(call);
    add_bias(op, e, &y)
}

fn add_bias(op: &Linear, e: &mut Emitter<'_>, y: &str) -> Result<(), OnnxError> {
    let Some(bias) = op.bias else { return Err(e.not_valid("has no bias")) };
    let bias = e.float_weight(bias)?;
    e.result(Call::new("Add", &[y, &bias]), 0)
}

fn quantized(
    op: &Linear,
    e: &mut Emitter<'_>,
    act: Rounding,
    x: &str,
    codes: &str,
    scales: &str,
) -> Result<(), OnnxError> {
    match act {
        Rounding::Static(s) if s.shared() => one_scale(op, e, (x, s.text, 0), (codes, scales)),
        Rounding::Asymmetric { scale, zero } => one_scale(op, e, (x, scale, zero), (codes, scales)),
        Rounding::Static(s) => {
            let modality = e.input(1)?;
            if e.options.msq == MsqForm::Split
                && e.operand(1)?.shape.get(1) == Some(&Dim::Sym(Sym::ByModality))
            {
                return split(op, e, (s, &modality), x, (codes, scales));
            }
            let by = row_scale(e, &modality, s)?;
            let key = format!("{:08x}_{:08x}", s.visual.to_bits(), s.text.to_bits());
            by_row(op, e, (x, &by, &key), (codes, scales))
        }
        Rounding::PerRow => {
            let by = own_scale(e, x)?;
            by_row(op, e, (x, &by, "own"), (codes, scales))
        }
    }
}

/// All rows at one scale.
fn one_scale(
    op: &Linear,
    e: &mut Emitter<'_>,
    x: (&str, f32, i8),
    weight: (&str, &str),
) -> Result<(), OnnxError> {
    let call = integer_product(op, e, x, weight)?;
    match (e.ops, op.bias) {
        (OpSet::Standard, Some(_)) => {
            let y = e.one(call);
            add_bias(op, e, &y)
        }
        _ => e.result(call, 0),
    }
}

/// Every row divided by its own number, quantized at scale 1, and multiplied by it after the product; `key` tells scales of one input apart.
fn by_row(
    op: &Linear,
    e: &mut Emitter<'_>,
    (x, s, key): (&str, &str, &str),
    weight: (&str, &str),
) -> Result<(), OnnxError> {
    let rows = format!("{x}/rows_{key}");
    let scaled = e.shared(rows, |e| Ok(vec![e.one(Call::new("Div", &[x, s]))]))?.concat();
    // The bias is added after the row scale, so the integer product must not add it.
    let unbiased = Linear { bias: None, ..op.clone() };
    let call = integer_product(&unbiased, e, (&scaled, 1.0, 0), weight)?;
    let y = e.one(call);
    let call = Call::new("Mul", &[&y, s]);
    if op.bias.is_none() {
        return e.result(call, 0);
    }
    let y = e.one(call);
    add_bias(op, e, &y)
}

/// One product per modality of rows in the order by modality. Either piece may have no rows.
fn split(
    op: &Linear,
    e: &mut Emitter<'_>,
    (act, modality): (ActScales, &str),
    x: &str,
    weight: (&str, &str),
) -> Result<(), OnnxError> {
    let sizes = piece_sizes(e, modality)?;
    let pieces =
        e.shared(format!("{x}/pieces"), |e| Ok(e.many(Call::new("Split", &[x, &sizes]).int("axis", 1), 2)))?;
    let mut products = vec![];
    for (piece, scale) in pieces.iter().zip([act.visual, act.text]) {
        let call = integer_product(op, e, (piece, scale, 0), weight)?;
        products.push(e.one(call));
    }
    let products: Vec<&str> = products.iter().map(String::as_str).collect();
    let call = Call::new("Concat", &products).int("axis", 1);
    match (e.ops, op.bias) {
        (OpSet::Standard, Some(_)) => {
            let y = e.one(call);
            add_bias(op, e, &y)
        }
        _ => e.result(call, 0),
    }
}

/// The numbers of visual and of text rows; one node for all linears.
fn piece_sizes(e: &mut Emitter<'_>, modality: &str) -> Result<String, OnnxError> {
    let sizes = e.shared(format!("{modality}/sizes"), |e| {
        let (zero, axes) = (e.float(0.0), e.ints(&[0, 1]));
        let visual = e.one(Call::new("Greater", &[modality, &zero]));
        let visual = e.one(Call::new("Cast", &[&visual]).int("to", DataType::Int64 as i64));
        let visual = e.one(Call::new("ReduceSum", &[&visual, &axes]).int("keepdims", 0));
        let rows = e.one(Call::new("Shape", &[modality]).int("start", 1).int("end", 2));
        let text = e.one(Call::new("Sub", &[&rows, &visual]));
        Ok(vec![e.one(Call::new("Concat", &[&visual, &text]).int("axis", 0))])
    })?;
    Ok(sizes.concat())
}

/// The activation scale of every row, `[batch, sequence, 1]`; one node for all linears with this pair of scales.
fn row_scale(e: &mut Emitter<'_>, modality: &str, act: ActScales) -> Result<String, OnnxError> {
    let visual = e.shared(format!("{modality}/visual"), |e| {
        let zero = e.float(0.0);
        Ok(vec![e.one(Call::new("Greater", &[modality, &zero]))])
    })?;
    let key = format!("{modality}/scale_{:08x}_{:08x}", act.visual.to_bits(), act.text.to_bits());
    let scale = e.shared(key, |e| {
        let (visual_scale, text_scale) = (e.float(act.visual), e.float(act.text));
        Ok(vec![e.one(Call::new("Where", &[&visual.concat(), &visual_scale, &text_scale]))])
    })?;
    Ok(scale.concat())
}

/// The scale of every row that puts its largest `|x|` on 127, computed from the row.
fn own_scale(e: &mut Emitter<'_>, x: &str) -> Result<String, OnnxError> {
    let scale = e.shared(format!("{x}/row_scale"), |e| {
        let (axes, levels, smallest) = (e.ints(&[-1]), e.float(127.0), e.float(SMALLEST_ROW_SCALE));
        let abs = e.one(Call::new("Abs", &[x]));
        let max = e.one(Call::new("ReduceMax", &[&abs, &axes]));
        let scale = e.one(Call::new("Div", &[&max, &levels]));
        Ok(vec![e.one(Call::new("Max", &[&scale, &smallest]))])
    })?;
    Ok(scale.concat())
}

/// The product of the input's codes at scale `s`, 0 on the code `zero`, and the weight's codes, in float. Under [`OpSet::Ort`] it includes the bias.
fn integer_product(
    op: &Linear,
    e: &mut Emitter<'_>,
    (x, s, zero): (&str, f32, i8),
    (codes, scales): (&str, &str),
) -> Result<Call, OnnxError> {
    match e.ops {
        OpSet::Ort => {
            let scale = e.float(s);
            // Linears that read one value at one scale share its codes: one pass over the input for q, k and v.
            let key = format!("{x}/codes_{:08x}_{zero}", s.to_bits());
            let zero = e.constant(vec![], &[(128 + i16::from(zero)) as u8]);
            let q = e
                .shared(key, |e| Ok(vec![e.one(Call::new("QuantizeLinear", &[x, &scale, &zero]))]))?
                .concat();
            let bias = op.bias.map(|b| e.float_weight(b)).transpose()?.unwrap_or_default();
            let mut inputs = vec![q.as_str(), codes, &scale, scales, &zero];
            if !bias.is_empty() {
                inputs.extend(["", &bias]);
            }
            Ok(Call::microsoft("MatMulIntegerToFloat", &inputs))
        }
        OpSet::Standard => {
            // ONNX Runtime fuses a Q/DQ pair only when one product reads it, so every linear has its own pair. It also joins equal
            // scale initializers and then equal nodes, but not equal int8 initializers: the zero keeps pairs of one input apart.
            let scale = e.own("scale", vec![], &[s]);
            let zero = e.own("zero", vec![], &[zero]);
            let q = e.one(Call::new("QuantizeLinear", &[x, &scale, &zero]));
            let rounded = e.one(Call::new("DequantizeLinear", &[&q, &scale, &zero]));
            let w = e.one(Call::new("DequantizeLinear", &[codes, scales]).int("axis", 1));
            Ok(Call::new("MatMul", &[&rounded, &w]))
        }
    }
}
