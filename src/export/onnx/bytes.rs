//! Tensors as little-endian bytes, in the row order or transposed, cut into blocks of bounded size.

use super::error::OnnxError;
use super::external::DataWriter;
use super::proto::tensor_proto::DataType;

/// A number that tensors of an ONNX file hold.
pub trait Element: Copy {
    /// Bytes of one element.
    const SIZE: usize;
    /// Its ONNX type.
    const TYPE: DataType;
    /// Writes the little-endian bytes into `out`, which has [`SIZE`](Self::SIZE) bytes.
    fn put(self, out: &mut [u8]);
}

macro_rules! element {
    ($($t:ty, $onnx:ident;)*) => {
        $(impl Element for $t {
            const SIZE: usize = size_of::<$t>();
            const TYPE: DataType = DataType::$onnx;
            fn put(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
        })*
    };
}
element!(f32, Float; i8, Int8; u8, Uint8; i64, Int64; i32, Int32; f64, Double;);

/// Bytes handed to the file at once: a compromise between calls and memory beside the weight itself.
const BLOCK: usize = 1 << 20;

/// Elements on one side of a transposition tile: 64 rows of one cache line each stay in the first-level cache.
const TILE: usize = 64;

/// All elements in order.
pub fn to_bytes<T: Element>(data: &[T]) -> Vec<u8> {
    let mut out = vec![0; data.len() * T::SIZE];
    data.iter().zip(out.chunks_exact_mut(T::SIZE)).for_each(|(x, b)| x.put(b));
    out
}

/// Appends all elements in order to the data file.
///
/// # Errors
/// [`OnnxError::Io`] naming the file.
pub fn write<T: Element>(file: &mut DataWriter, data: &[T]) -> Result<(), OnnxError> {
    for block in data.chunks(BLOCK / T::SIZE) {
        file.write(&to_bytes(block))?;
    }
    Ok(())
}

/// Appends the transpose of a `rows x cols` matrix (`data.len() == rows * cols`) to the data file: `cols x rows`.
///
/// # Errors
/// [`OnnxError::Io`] naming the file.
pub fn write_transposed<T: Element>(
    file: &mut DataWriter,
    data: &[T],
    rows: usize,
    cols: usize,
) -> Result<(), OnnxError> {
    // At least one cache line of columns per block, else every line of `data` is read many times.
    let step = (BLOCK / T::SIZE / rows.max(1)).max(TILE / T::SIZE);
    let mut out = Vec::new();
    for first in (0..cols).step_by(step) {
        let n = step.min(cols - first);
        out.resize(n * rows * T::SIZE, 0);
        transpose_block(data, (rows, cols), (first, n), &mut out);
        file.write(&out)?;
    }
    Ok(())
}

/// Columns `first .. first + n` of a `rows x cols` matrix as `n` rows of `out`.
fn transpose_block<T: Element>(
    data: &[T],
    (rows, cols): (usize, usize),
    (first, n): (usize, usize),
    out: &mut [u8],
) {
    for top in (0..rows).step_by(TILE) {
        for k in 0..n {
            let line = &mut out[k * rows * T::SIZE..(k + 1) * rows * T::SIZE];
            for r in top..rows.min(top + TILE) {
                data[r * cols + first + k].put(&mut line[r * T::SIZE..(r + 1) * T::SIZE]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transposed<T: Element>(data: &[T], rows: usize, cols: usize) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let mut w = DataWriter::new(&path);
        write_transposed(&mut w, data, rows, cols).unwrap();
        w.finish().unwrap();
        std::fs::read(path).unwrap_or_default()
    }

    #[test]
    fn transposition_is_the_definition_across_tiles_and_blocks() {
        for (rows, cols) in [(1, 1), (3, 5), (65, 130), (1, 70_000), (70_000, 3), (300, 1100)] {
            let data: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
            let want: Vec<f32> = (0..cols * rows).map(|i| data[i % rows * cols + i / rows]).collect();
            assert!(transposed(&data, rows, cols) == to_bytes(&want), "{rows} x {cols}");
        }
    }

    #[test]
    fn transposing_twice_gives_the_codes_back() {
        let (rows, cols) = (67, 129);
        let data: Vec<i8> = (0..rows * cols).map(|i| (i * 37 % 255) as u8 as i8).collect();
        let once: Vec<i8> = transposed(&data, rows, cols).into_iter().map(|b| b as i8).collect();
        assert_eq!(transposed(&once, cols, rows), to_bytes(&data));
    }

    #[test]
    fn bytes_are_little_endian() {
        assert_eq!(to_bytes(&[1.0f32]), [0, 0, 0x80, 0x3f]);
        assert_eq!(to_bytes(&[-2i64]), [0xfe, 255, 255, 255, 255, 255, 255, 255]);
    }
}
