//! The bytes of one tensor: rows of roles stacked, put in order, columns picked, floats stored in their type. Rows in blocks move as they are.

use half::{bf16, f16};
use rayon::prelude::*;

use super::EmitError;
use crate::export::gguf::TensorInfo;
use crate::family::inputs::gguf::{Column, GgufTensor, TensorSource};
use crate::graph::{WeightData, WeightSource};
use crate::numeric::ggml::BlockType;

/// Values that one thread stores at a time.
const CHUNK: usize = 1 << 14;

/// The bytes of the tensor `info` by its recipe.
pub(super) fn bytes(
    info: &TensorInfo,
    recipe: &GgufTensor,
    source: &dyn WeightSource,
) -> Result<Vec<u8>, EmitError> {
    let fail = |reason: String| EmitError::Numbers { tensor: info.name.clone(), reason };
    let mut stored = match &recipe.source {
        TensorSource::SinCos { side, width, theta } => {
            Stack { rows: side * side, numbers: Numbers::Floats(sin_cos(*side, *width, *theta)) }
        }
        TensorSource::Roles(roles) => stack(info, roles, source)?,
    };
    if let Some(heads) = recipe.rope_heads {
        stored.order(&rope_order(stored.rows, heads));
    }
    let count = info.dims.iter().product::<u64>() as usize;
    match stored.numbers {
        Numbers::Blocks(bytes) => Ok(bytes),
        Numbers::Floats(values) => {
            let values = match &recipe.column {
                Some(column) => pick(&values, column),
                None => values,
            };
            if values.len() != count {
                return Err(fail(format!("{count} values were declared, {} came", values.len())));
            }
            encode(&values, info.kind).map_err(fail)
        }
    }
}

/// Rows of equal width.
struct Stack {
    rows: usize,
    numbers: Numbers,
}

enum Numbers {
    Floats(Vec<f32>),
    Blocks(Vec<u8>),
}

/// The rows of roles, one role's below another's.
fn stack(info: &TensorInfo, roles: &[String], source: &dyn WeightSource) -> Result<Stack, EmitError> {
    let tensor = || info.name.clone();
    let other = |role: &str| {
        let reason =
            format!("the numbers of {role} are not of the type {} that the model declares", info.kind.name());
        EmitError::Numbers { tensor: tensor(), reason }
    };
    let mut whole: Option<Stack> = None;
    for role in roles {
        let data = source.role(role).map_err(|source| EmitError::Weight { tensor: tensor(), source })?;
        let part = match data {
            WeightData::Float(t) if !info.kind.is_quantized() => Stack {
                rows: t.shape().first().copied().unwrap_or(1),
                numbers: Numbers::Floats(t.into_data()),
            },
            // Of a float type: it may be stored in another one, and its columns may be picked.
            WeightData::Blocks(b) if !b.kind.is_quantized() && !info.kind.is_quantized() => {
                Stack { rows: b.rows, numbers: Numbers::Floats(b.dequantize()) }
            }
            WeightData::Blocks(b) if b.kind == info.kind => {
                Stack { rows: b.rows, numbers: Numbers::Blocks(b.bytes) }
            }
            _ => return Err(other(role)),
        };
        whole = Some(match whole {
            None => part,
            Some(mut above) => {
                above.rows += part.rows;
                match (&mut above.numbers, part.numbers) {
                    (Numbers::Floats(a), Numbers::Floats(b)) => a.extend(b),
                    (Numbers::Blocks(a), Numbers::Blocks(b)) => a.extend(b),
                    _ => return Err(other(role)),
                }
                above
            }
        });
    }
    whole.ok_or_else(|| other("no role"))
}

impl Stack {
    /// Puts the rows in the order that lists where each comes from.
    fn order(&mut self, from: &[usize]) {
        self.numbers = match &self.numbers {
            Numbers::Floats(values) => Numbers::Floats(rows_of(values, self.rows, from)),
            Numbers::Blocks(bytes) => Numbers::Blocks(rows_of(bytes, self.rows, from)),
        };
    }
}

fn rows_of<T: Copy>(data: &[T], rows: usize, from: &[usize]) -> Vec<T> {
    let width = data.len() / rows.max(1);
    from.iter().flat_map(|&row| &data[row * width..(row + 1) * width]).copied().collect()
}

/// Where each row comes from when members of a rotary pair, half a head apart, are to be neighbours: row `2 k + j` of a head is its row
/// `j size / 2 + k` (`LlamaModel.permute` of llama.cpp's `conversion/llama.py`).
fn rope_order(rows: usize, heads: usize) -> Vec<usize> {
    let size = rows / heads.max(1);
    let row = |i: usize| (i / size) * size + (i % 2) * (size / 2) + (i % size) / 2;
    (0..rows).map(row).collect()
}

/// Of rows in the shape `of`, the values with index `at` on its axis.
fn pick(values: &[f32], column: &Column) -> Vec<f32> {
    let extent = column.of.get(column.axis).copied().unwrap_or(1);
    let inner: usize = column.of.iter().skip(column.axis + 1).product();
    let runs = values.chunks_exact(inner).skip(column.at).step_by(extent);
    runs.flatten().copied().collect()
}

/// See [`TensorSource::SinCos`]; numpy's order of operations in f32, as in MiniCPM-V's `resampler.py`.
fn sin_cos(side: usize, width: usize, theta: f64) -> Vec<f32> {
    let count = width / 4;
    let frequency = |k: usize| 1.0 / (theta as f32).powf(k as f32 / (width as f32 / 4.0));
    let frequencies: Vec<f32> = (0..count).map(frequency).collect();
    let mut table = Vec::with_capacity(side * side * width);
    for row in 0..side {
        for column in 0..side {
            for position in [column as f32, row as f32] {
                table.extend(frequencies.iter().map(|w| (position * w).sin()));
                table.extend(frequencies.iter().map(|w| (position * w).cos()));
            }
        }
    }
    table
}

/// The bytes of values in a float type, rounded to nearest, halves to even.
fn encode(values: &[f32], kind: BlockType) -> Result<Vec<u8>, String> {
    match kind {
        BlockType::F32 => Ok(store(values, f32::to_le_bytes)),
        BlockType::Bf16 => Ok(store(values, |x| bf16::from_f32(x).to_le_bytes())),
        BlockType::F16 => match values
            .par_iter()
            .find_first(|x| x.is_finite() && f16::from_f32(**x).is_infinite())
        {
            Some(x) => Err(format!("the value {x} does not fit float16 (65504 at most); use bf16 or f32")),
            None => Ok(store(values, |x| f16::from_f32(x).to_le_bytes())),
        },
        other => {
            Err(format!("numbers are to be stored as {}, and were not rounded to its blocks", other.name()))
        }
    }
}

fn store<const N: usize>(values: &[f32], one: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    bytes.par_chunks_mut(CHUNK * N).zip(values.par_chunks(CHUNK)).for_each(|(to, from)| {
        for (slot, x) in to.chunks_exact_mut(N).zip(from) {
            slot.copy_from_slice(&one(*x));
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_rotary_pairs_become_neighbours() {
        // Two heads of 6: pairs (0, 3), (1, 4), (2, 5).
        assert_eq!(rope_order(12, 2), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        let mut blocks = Stack { rows: 4, numbers: Numbers::Blocks(vec![0, 0, 1, 1, 2, 2, 3, 3]) };
        blocks.order(&rope_order(4, 1));
        let Numbers::Blocks(bytes) = blocks.numbers else { panic!("blocks stay blocks") };
        assert_eq!(bytes, [0, 0, 2, 2, 1, 1, 3, 3]);
    }

    #[test]
    fn columns_of_one_index_are_picked() {
        // Two rows of [2, 3, 2].
        let values: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let column = |axis, at| Column { of: vec![2, 3, 2], axis, at };
        assert_eq!(pick(&values, &column(1, 1)), [2.0, 3.0, 8.0, 9.0, 14.0, 15.0, 20.0, 21.0]);
        assert_eq!(pick(&values, &column(2, 0)), (0..12).map(|x| 2.0 * x as f32).collect::<Vec<_>>());
        let first: Vec<f32> = (0..6).chain(12..18).map(|x| x as f32).collect();
        assert_eq!(pick(&values, &column(0, 0)), first);
    }

    #[test]
    fn tables_hold_columns_before_rows() {
        let table = sin_cos(3, 8, 10000.0);
        // Row 5 is grid row 1, column 2; frequencies 1 and 1/100.
        let at = |i: usize| table[5 * 8 + i];
        let want = [
            2f32.sin(),
            0.02f32.sin(),
            2f32.cos(),
            0.02f32.cos(),
            1f32.sin(),
            0.01f32.sin(),
            1f32.cos(),
            0.01f32.cos(),
        ];
        for (i, w) in want.into_iter().enumerate() {
            // The power is rounded once, the product once: 2 ulp.
            assert!((at(i) - w).abs() <= 2.4e-7, "{i}: {} {w}", at(i));
        }
        assert_eq!(table.len(), 72);
    }

    #[test]
    fn floats_are_rounded_to_nearest_even_and_must_fit() {
        let values = [1.0f32, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, -0.0];
        assert_eq!(
            encode(&values, BlockType::F16).unwrap(),
            [0x00, 0x3C, 0x00, 0x3C, 0x02, 0x3C, 0x00, 0x80]
        );
        let values = [1.0f32, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
        assert_eq!(encode(&values, BlockType::Bf16).unwrap(), [0x80, 0x3F, 0x80, 0x3F, 0x82, 0x3F]);
        let e = encode(&[1.0, -70000.0], BlockType::F16).unwrap_err();
        assert!(e.contains("-70000") && e.contains("bf16"), "{e}");
        assert!(encode(&values, BlockType::Q4_0).is_err());
    }

    #[test]
    fn many_values_are_stored_in_order() {
        let values: Vec<f32> = (0..3 * CHUNK + 5).map(|x| x as f32).collect();
        let bytes = encode(&values, BlockType::F32).unwrap();
        let back: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(back, values);
    }
}
