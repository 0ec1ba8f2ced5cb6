//! F32, F16 and BF16: one rounding per value, to nearest with ties to even (`ggml_fp32_to_fp16_row`, `ggml_fp32_to_bf16_row_ref`), except that F16 stays
//! infinite above 65504.

use half::{bf16, f16};

use super::BlockType;

/// Writes a row in a float type.
pub fn round_row(x: &[f32], kind: BlockType, out: &mut [u8]) {
    match kind {
        BlockType::F16 => each(x, out, |x| f16::from_f32(x).to_le_bytes()),
        BlockType::Bf16 => each(x, out, |x| bf16::from_f32(x).to_le_bytes()),
        _ => each(x, out, f32::to_le_bytes),
    }
}

/// The values of a row in a float type.
pub fn dequantize(row: &[u8], kind: BlockType, out: &mut [f32]) {
    match kind {
        BlockType::F16 => all(row, out, |b| f16::from_le_bytes(b).to_f32()),
        BlockType::Bf16 => all(row, out, |b| bf16::from_le_bytes(b).to_f32()),
        _ => all(row, out, f32::from_le_bytes),
    }
}

fn each<const N: usize>(x: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    out.chunks_exact_mut(N).zip(x).for_each(|(out, x)| out.copy_from_slice(&bytes(*x)));
}

fn all<const N: usize>(row: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let mut own = [0; N];
    for (bytes, x) in row.chunks_exact(N).zip(out) {
        own.copy_from_slice(bytes);
        *x = value(own);
    }
}
