//! Matrix products. Every tile of the result is computed by one thread in an order that the shapes alone decide.

use faer::{MatMut, MatRef};
use rayon::prelude::*;

use super::broadcast;
use super::quantize::codes;
use super::{Call, Results, one};
use crate::numeric::gemm::{matmul_nn_seq, matmul_nt_seq, tiles};
use crate::verify::onnx::array::{Array, elements};
use crate::verify::onnx::error::Fault;
use crate::verify::onnx::value::Value;

/// The two last axes of a shape.
fn matrix(shape: &[usize]) -> Option<(&[usize], usize, usize)> {
    let (&columns, rest) = shape.split_last()?;
    let (&rows, leading) = rest.split_last()?;
    Some((leading, rows, columns))
}

/// MatMul of float tensors with two axes or more.
pub fn matmul(call: &Call<'_>) -> Results {
    let (a, b) = (call.of::<f32>(0)?, call.of::<f32>(1)?);
    let misfit = || Fault::shape("[.., n, k] and [.., k, m]", (a.shape(), b.shape()));
    let (before_a, n, k) = matrix(a.shape()).ok_or_else(misfit)?;
    let (before_b, _, m) = matrix(b.shape()).filter(|(_, rows, _)| *rows == k).ok_or_else(misfit)?;
    let batches = broadcast::shape(before_a, before_b)?;
    let shape = [batches.as_slice(), &[n, m]].concat();
    let mut out = vec![0.0; elements(&shape)?];
    if out.is_empty() || k == 0 {
        return one(Array::new(shape, out)?);
    }
    if before_b.iter().all(|d| *d == 1) {
        // One right operand: all rows of the left are one matrix.
        let b = MatRef::from_row_major_slice(b.data(), k, m);
        tiles(&mut out, (a.len() / k, m), |rows, columns, out| {
            let a = MatRef::from_row_major_slice(&a.data()[rows.start * k..rows.end * k], rows.len(), k);
            matmul_nn_seq(out, a, b.subcols(columns.start, columns.len()));
        });
        return one(Array::new(shape, out)?);
    }
    // Numbers of the matrices that meet, in the order of the results.
    let numbers =
        |shape: &[usize]| Array::new(shape.to_vec(), (0..shape.iter().product()).collect::<Vec<usize>>());
    let pairs = broadcast::zip(&numbers(before_a)?, &numbers(before_b)?, |i, j| (i, j))?;
    out.par_chunks_mut(n * m).zip(pairs.data()).for_each(|(out, (i, j))| {
        let a = MatRef::from_row_major_slice(&a.data()[i * n * k..(i + 1) * n * k], n, k);
        let b = MatRef::from_row_major_slice(&b.data()[j * k * m..(j + 1) * k * m], k, m);
        matmul_nn_seq(MatMut::from_row_major_slice_mut(out, n, m), a, b);
    });
    one(Array::new(shape, out)?)
}

/// The only element of a tensor, or one for each of `n` columns.
#[derive(Clone, Copy)]
struct PerColumn<'a>(&'a [f32]);

impl<'a> PerColumn<'a> {
    fn new(what: &str, data: &'a [f32], n: usize) -> Result<Self, Fault> {
        match data.len() {
            len if len == 1 || len == n => Ok(Self(data)),
            len => Err(Fault::shape(format!("1 or {n} {what}"), len)),
        }
    }

    fn at(self, column: usize) -> f32 {
        self.0[if self.0.len() == 1 { 0 } else { column }]
    }
}

/// Sums of whole numbers that `f32` holds exactly, in any order.
const EXACT: f32 = (1 << 24) as f32;

/// com.microsoft.MatMulIntegerToFloat: the product of codes less their zeros, exact in whole numbers (int32, as in the runtime), times both scales, plus the
/// bias. Codes of an activation that was not rounded are multiplied as the numbers they are.
///
/// Whole products are computed by the float kernel on runs of input channels so short that no sum leaves the range in which `f32` holds all whole numbers.
pub fn matmul_integer_to_float(call: &Call<'_>) -> Results {
    let integer = |i: usize, rounded: bool| match call.input(i)? {
        Value::I8(_) | Value::U8(_) => Ok(()),
        Value::F32(_) if !rounded => Ok(()),
        _ => Err(call.wrong_type(i, "int8 or uint8")),
    };
    integer(0, call.rounding == super::Rounding::Declared)?;
    integer(1, true)?;
    let (a, b) = (call.input(0)?, call.input(1)?);
    let misfit = || Fault::shape("[.., n, k] and [k, m]", (a.shape(), b.shape()));
    let (_, _, k) = matrix(a.shape()).ok_or_else(misfit)?;
    let &[rows, m] = b.shape() else { return Err(misfit()) };
    if rows != k || k == 0 {
        return Err(misfit());
    }
    let zero_a = match call.optional(4) {
        Some(zero) => codes(zero).filter(|z| z.len() == 1).map(|z| z[0]).ok_or_else(misfit)?,
        None => 0.0,
    };
    let zeros_b = call.optional(5).and_then(codes).unwrap_or_default().into_owned();
    let zeros_b = PerColumn::new("zeros", if zeros_b.is_empty() { &[0.0] } else { &zeros_b }, m)?;
    let scale = call.one::<f32>(2)?;
    let scales = PerColumn::new("scales", call.of::<f32>(3)?.data(), m)?;
    let bias = call.optional(6).map(|_| call.of::<f32>(6)).transpose()?;
    let bias = bias.map(|b| PerColumn::new("biases", b.data(), m)).transpose()?;
    let left: Vec<f32> = codes(a).ok_or_else(misfit)?.iter().map(|c| c - zero_a).collect();
    // Input channels whose whole products add up exactly.
    let run =
        largest(a, &[zero_a]).map(|of_a| (EXACT / (of_a * largest(b, zeros_b.0).unwrap_or(1.0))) as usize);
    let n = left.len() / k;
    let mut shape = a.shape().to_vec();
    shape.pop();
    shape.push(m);
    let mut out = vec![0.0; elements(&shape)?];
    tiles(&mut out, (n, m), |rows, columns, mut out| {
        let right = columns_of(b, (k, m), columns.clone(), zeros_b);
        let left = MatRef::from_row_major_slice(&left[rows.start * k..rows.end * k], rows.len(), k);
        let right = MatRef::from_row_major_slice(&right, k, columns.len());
        match run {
            Some(run) => whole_product(out.as_mut(), left, right, run.max(1)),
            None => matmul_nn_seq(out.as_mut(), left, right),
        }
        for (j, column) in columns.enumerate() {
            let (by, plus) = (scale * scales.at(column), bias.map_or(0.0, |b| b.at(column)));
            (0..rows.len()).for_each(|i| out[(i, j)] = out[(i, j)] * by + plus);
        }
    });
    one(Array::new(shape, out)?)
}

/// Codes less their zeros, of some columns of a `k x m` matrix.
fn columns_of(
    b: &Value,
    (k, m): (usize, usize),
    columns: std::ops::Range<usize>,
    zeros: PerColumn<'_>,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(k * columns.len());
    for row in 0..k {
        let run = row * m + columns.start..row * m + columns.end;
        match b {
            Value::I8(b) => out.extend(b.data()[run].iter().map(|c| f32::from(*c))),
            Value::U8(b) => out.extend(b.data()[run].iter().map(|c| f32::from(*c))),
            // Its type was looked at before.
            _ => out.extend(columns.clone().map(|_| 0.0)),
        }
    }
    if zeros.0.iter().any(|z| *z != 0.0) {
        for row in out.chunks_exact_mut(columns.len().max(1)) {
            row.iter_mut().zip(columns.clone()).for_each(|(c, column)| *c -= zeros.at(column));
        }
    }
    out
}

/// The largest distance of a code from its zero; none for a value that is not rounded.
fn largest(codes: &Value, zeros: &[f32]) -> Option<f32> {
    let (low, high) = match codes {
        Value::I8(_) => (-128.0, 127.0),
        Value::U8(_) => (0.0, 255.0),
        _ => return None,
    };
    Some(zeros.iter().fold(1.0f32, |most, zero| most.max((low - zero).abs()).max((high - zero).abs())))
}

/// The product of matrices of whole numbers, exact where it fits int32; sums of `run` products fit `f32`.
fn whole_product(mut out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, run: usize) {
    let k = a.ncols();
    if k <= run {
        return matmul_nn_seq(out, a, b);
    }
    let (n, m) = (out.nrows(), out.ncols());
    let (mut sums, mut part) = (vec![0i32; n * m], vec![0.0f32; n * m]);
    for first in (0..k).step_by(run) {
        let length = run.min(k - first);
        let some = MatMut::from_row_major_slice_mut(&mut part, n, m);
        matmul_nn_seq(some, a.subcols(first, length), b.subrows(first, length));
        sums.iter_mut().zip(&part).for_each(|(s, p)| *s = s.wrapping_add(*p as i32));
    }
    for (i, row) in sums.chunks_exact(m).enumerate() {
        row.iter().enumerate().for_each(|(j, s)| out[(i, j)] = *s as f32);
    }
}

/// Codes and scales of a MatMulNBits.
struct NBits<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    k: usize,
    block: usize,
    bits: usize,
}

impl NBits<'_> {
    /// Rows of the weight, `[rows, k]`: codes around the middle of their range times the scale of their block.
    fn rows(&self, rows: std::ops::Range<usize>) -> Vec<f32> {
        let blocks = self.k.div_ceil(self.block);
        let bytes = self.block * self.bits / 8;
        let mut out = Vec::with_capacity(self.k * rows.len());
        for row in rows {
            for block in row * blocks..(row + 1) * blocks {
                let (scale, codes) = (self.scales[block], &self.codes[block * bytes..(block + 1) * bytes]);
                let length = self.block.min(self.k - (block - row * blocks) * self.block);
                let code = |i: usize| match self.bits {
                    8 => f32::from(codes[i]) - 128.0,
                    _ => f32::from((codes[i / 2] >> (4 * (i % 2))) & 0x0f) - 8.0,
                };
                out.extend((0..length).map(|i| code(i) * scale));
            }
        }
        out
    }
}

/// com.microsoft.MatMulNBits with symmetric codes of 4 or 8 bits: float rows times weights that are codes times the scales of their blocks.
///
/// That is what the operator is defined as. At `accuracy_level` 4 ONNX Runtime's kernel also rounds each block of a row to int8; other kernels do not, and
/// here it is not done either.
pub fn matmul_nbits(call: &Call<'_>) -> Results {
    let (x, b, scales) = (call.of::<f32>(0)?, call.of::<u8>(1)?, call.of::<f32>(2)?);
    let (k, n) = (call.node.size("K")?, call.node.size("N")?);
    let bits = call.node.int_among("bits", 4, &[4, 8])? as usize;
    let block = call.node.size("block_size")?;
    let blocks = k.div_ceil(block);
    for (i, what) in [(3, "no zero points"), (4, "no order of columns")] {
        if let Some(found) = call.optional(i) {
            return Err(Fault::shape(what, found.describe()));
        }
    }
    if x.cols() != k || x.shape().is_empty() || !(block * bits).is_multiple_of(8) {
        return Err(Fault::shape(format!("rows of {k} channels"), x.shape()));
    }
    if b.shape() != [n, blocks, block * bits / 8] || scales.len() != n * blocks {
        let expected = format!("codes [{n}, {blocks}, {}] and {} scales", block * bits / 8, n * blocks);
        return Err(Fault::shape(expected, (b.shape(), scales.shape())));
    }
    let bias = call.optional(5).map(|_| call.of::<f32>(5)).transpose()?;
    let bias = bias.map(|b| PerColumn::new("biases", b.data(), n)).transpose()?;
    let weight = NBits { codes: b.data(), scales: scales.data(), k, block, bits };
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.push(n);
    let mut out = vec![0.0; elements(&shape)?];
    tiles(&mut out, (x.rows(), n), |rows, columns, mut out| {
        let w = weight.rows(columns.clone());
        let w = MatRef::from_row_major_slice(&w, columns.len(), k);
        let x = MatRef::from_row_major_slice(&x.data()[rows.start * k..rows.end * k], rows.len(), k);
        matmul_nt_seq(out.as_mut(), x, w);
        if let Some(bias) = bias {
            for (j, column) in columns.enumerate() {
                (0..rows.len()).for_each(|i| out[(i, j)] += bias.at(column));
            }
        }
    });
    one(Array::new(shape, out)?)
}
