//! A tensor in a weight file and its conversion to `f32`: read by position, block by block, and decoded in the format's little-endian order.
//! Nothing is reinterpreted in place.

use std::io::ErrorKind;
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::dtype::Dtype;
use super::error::CheckpointError;
use crate::positioned::PositionedFile;

/// Elements decoded at a time: one block stays in the first-level cache for the check that follows its decoding.
const BLOCK: usize = 2048;

/// Bytes read at a time, a whole number of elements of every type. Larger is not faster: 256 MiB of BF16 in the page cache take 0.11 to 0.16 s
/// in blocks of 64 KiB to 4 MiB, and 0.14 to 0.19 s in blocks of 16 KiB.
const READ: usize = 1 << 16;

/// A tensor that has not been read yet: description and place in its file.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    pub(super) name: &'a str,
    pub(super) path: &'a Path,
    pub(super) data: &'a PositionedFile,
    /// First byte in the file.
    pub(super) begin: u64,
    /// One past the last byte in the file.
    pub(super) end: u64,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
}

impl<'a> TensorRef<'a> {
    /// Name in the checkpoint.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Path of the file that holds it.
    pub fn file(&self) -> &'a Path {
        self.path
    }

    /// Stored element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Length of its stored data, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.end - self.begin
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Cannot overflow: the header check multiplied the same extents.
        self.shape.iter().product()
    }

    /// All elements in row-major order as `f32`. BF16, F16 and F32 are exact, F64 is rounded to nearest.
    ///
    /// # Errors
    /// [`CheckpointError::NotFloat`] for other element types; [`CheckpointError::NonFinite`] for the first NaN or
    /// infinite element; [`CheckpointError::CutShort`] and [`CheckpointError::Read`] when the file cannot be read.
    pub fn to_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        let mut out = vec![0.0; self.elements()];
        self.read_f32_into(0, &mut out)?;
        Ok(out)
    }

    /// Elements `start .. start + out.len()` in row-major order, converted as by [`to_f32`](Self::to_f32).
    /// On an error, what `out` holds is unspecified.
    ///
    /// # Errors
    /// Those of [`to_f32`](Self::to_f32), looking at these elements only (the reported index counts from the start of
    /// the tensor), and [`CheckpointError::Range`] when the tensor has fewer elements.
    pub fn read_f32_into(&self, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let size = self.float_size()?;
        self.check_range(start, out.len())?;
        let mut bytes = vec![0; READ.min(size * out.len())];
        for (i, dst) in out.chunks_mut(READ / size).enumerate() {
            let first = start + i * (READ / size);
            let src = &mut bytes[..size * dst.len()];
            self.read(size * first, src)?;
            if let Some(at) = decode_finite(self.dtype, src, dst) {
                return Err(CheckpointError::NonFinite {
                    file: self.path.to_owned(),
                    tensor: self.name.to_owned(),
                    index: first + at,
                    value: dst[at],
                });
            }
        }
        Ok(())
    }

    /// Row-major index of the first element that is NaN or infinite as `f32`. Reads every byte before it, one block at a time.
    ///
    /// # Errors
    /// Those of [`to_f32`](Self::to_f32) but [`CheckpointError::NonFinite`].
    pub fn first_non_finite(&self) -> Result<Option<usize>, CheckpointError> {
        let (elements, per_block) = (self.elements(), READ / self.float_size()?);
        let mut block = vec![0.0; per_block.min(elements)];
        for start in (0..elements).step_by(per_block) {
            let count = per_block.min(elements - start);
            match self.read_f32_into(start, &mut block[..count]) {
                Err(CheckpointError::NonFinite { index, .. }) => return Ok(Some(index)),
                other => other?,
            }
        }
        Ok(None)
    }

    /// Bytes of an element of a type that is converted.
    fn float_size(&self) -> Result<usize, CheckpointError> {
        if self.dtype.converts_to_f32() {
            return Ok(self.dtype.bits() / 8);
        }
        let (file, tensor) = (self.path.to_owned(), self.name.to_owned());
        Err(CheckpointError::NotFloat { file, tensor, dtype: self.dtype })
    }

    /// The tensor has `count` elements from `start` on.
    fn check_range(&self, start: usize, count: usize) -> Result<(), CheckpointError> {
        let elements = self.elements();
        if start.checked_add(count).is_some_and(|end| end <= elements) {
            return Ok(());
        }
        let (file, tensor) = (self.path.to_owned(), self.name.to_owned());
        Err(CheckpointError::Range { file, tensor, start, count, elements })
    }

    /// Fills `bytes` from byte `offset` of the tensor's data on.
    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        let Err(cause) = self.data.read(self.begin + offset as u64, bytes) else { return Ok(()) };
        let (file, tensor) = (self.path.to_owned(), self.name.to_owned());
        match self.data.length() {
            Ok(found) if cause.kind() == ErrorKind::UnexpectedEof => {
                Err(CheckpointError::CutShort { file, tensor, expected: self.end, found })
            }
            _ => Err(CheckpointError::Read { file, tensor, cause }),
        }
    }
}

/// Decodes `src` into `dst`, which has as many elements; the index of the first one that is NaN or infinite.
fn decode_finite(dtype: Dtype, src: &[u8], dst: &mut [f32]) -> Option<usize> {
    let size = dtype.bits() / 8;
    let mut blocks = src.chunks(BLOCK * size).zip(dst.chunks_mut(BLOCK)).enumerate();
    blocks.find_map(|(i, (src, dst))| {
        decode(dtype, src, dst);
        first_non_finite(dst).map(|at| i * BLOCK + at)
    })
}

/// Decodes `src` into `dst` (at most [`BLOCK`] elements, as many as `src` holds).
fn decode(dtype: Dtype, src: &[u8], dst: &mut [f32]) {
    match dtype {
        Dtype::F32 => each(src, dst, f32::from_le_bytes),
        Dtype::Bf16 => each(src, dst, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Dtype::F64 => each(src, dst, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => {
            // Into aligned halves first: `half` then converts the slice with the processor's F16C instructions.
            let mut halves = [f16::ZERO; BLOCK];
            let halves = &mut halves[..dst.len().min(BLOCK)];
            for (h, &b) in halves.iter_mut().zip(src.as_chunks::<2>().0) {
                *h = f16::from_le_bytes(b);
            }
            halves.convert_to_f32_slice(dst);
        }
        // `float_size` let none of the other types through.
        _ => dst.fill(f32::NAN),
    }
}

/// `dst[i] = f(bytes of element i)`; a plain loop over fixed-size arrays, which the compiler vectorises.
fn each<const N: usize>(src: &[u8], dst: &mut [f32], f: impl Fn([u8; N]) -> f32) {
    for (d, &b) in dst.iter_mut().zip(src.as_chunks::<N>().0) {
        *d = f(b);
    }
}

/// Index of the first NaN or infinity. The first pass has no early exit, so that it vectorises.
fn first_non_finite(values: &[f32]) -> Option<usize> {
    let any = values.iter().fold(false, |bad, x| bad | !x.is_finite());
    if any { values.iter().position(|x| !x.is_finite()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    /// `bytes` behind a byte that is not the tensor's, in a file.
    fn stored(bytes: &[u8]) -> PositionedFile {
        let file = PositionedFile::new(tempfile::tempfile().unwrap());
        file.write(1, bytes).unwrap();
        file
    }

    fn tensor<'a>(dtype: Dtype, shape: &'a [usize], data: &'a PositionedFile) -> TensorRef<'a> {
        let (path, end) = (Path::new("m.safetensors"), data.length().unwrap().max(1));
        TensorRef { name: "w", path, data, begin: 1, end, dtype, shape }
    }

    /// Every finite half and bfloat16 value, read from an odd position, against the `half` crate's scalar conversion.
    #[test]
    fn all_finite_16_bit_values_are_exact_at_any_alignment() {
        let halves: Vec<u16> = (0..=u16::MAX).filter(|&b| f16::from_bits(b).is_finite()).collect();
        let brains: Vec<u16> = (0..=u16::MAX).filter(|&b| bf16::from_bits(b).is_finite()).collect();
        for (dtype, bits) in [(Dtype::F16, halves), (Dtype::Bf16, brains)] {
            let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
            let (shape, data) = ([bits.len()], stored(&bytes));
            let got = tensor(dtype, &shape, &data).to_f32().unwrap();
            for (&b, x) in bits.iter().zip(got) {
                let want = if dtype == Dtype::F16 {
                    f16::from_bits(b).to_f32()
                } else {
                    bf16::from_bits(b).to_f32()
                };
                assert_eq!(x.to_bits(), want.to_bits());
            }
        }
    }

    #[test]
    fn non_finite_values_are_named() {
        // In the second block that is read.
        let mut bytes: Vec<u8> = vec![0; 2 * 50_000];
        bytes[2 * 43_210..][..2].copy_from_slice(&bf16::NAN.to_le_bytes());
        let data = stored(&bytes);
        let t = tensor(Dtype::Bf16, &[50_000], &data);
        assert_eq!(t.first_non_finite().unwrap(), Some(43_210));
        let text = t.to_f32().unwrap_err().to_string();
        assert!(
            text.contains("m.safetensors: tensor \"w\": element 43210") && text.contains("NaN"),
            "{text}"
        );
        let mut out = [0.0; 10];
        t.read_f32_into(43_200, &mut out).unwrap();
        assert!(matches!(
            t.read_f32_into(43_205, &mut out),
            Err(CheckpointError::NonFinite { index: 43_210, .. })
        ));
    }

    #[test]
    fn doubles_are_rounded_and_overflow_is_non_finite() {
        let bytes: Vec<u8> = [0.1f64, -2.0, 1e300].iter().flat_map(|x| x.to_le_bytes()).collect();
        let data = stored(&bytes);
        assert_eq!(tensor(Dtype::F64, &[2], &data).to_f32().unwrap(), [0.1f32, -2.0]);
        let error = tensor(Dtype::F64, &[3], &data).to_f32().unwrap_err();
        assert!(matches!(error, CheckpointError::NonFinite { index: 2, value: f32::INFINITY, .. }));
    }

    #[test]
    fn other_types_and_ranges_are_refused() {
        let zeros = stored(&[0; 8]);
        let t = tensor(Dtype::I64, &[1], &zeros);
        for text in [t.to_f32().unwrap_err().to_string(), t.first_non_finite().unwrap_err().to_string()] {
            assert!(text.contains("m.safetensors: tensor \"w\": element type I64"), "{text}");
        }
        let t = tensor(Dtype::F32, &[2], &zeros);
        let mut out = [0.0; 2];
        assert!(matches!(t.read_f32_into(1, &mut out), Err(CheckpointError::Range { elements: 2, .. })));
        assert!(matches!(t.read_f32_into(usize::MAX, &mut out), Err(CheckpointError::Range { .. })));
        t.read_f32_into(2, &mut []).unwrap();
        assert_eq!(tensor(Dtype::F32, &[], &stored(&1.5f32.to_le_bytes())).to_f32().unwrap(), [1.5]);
        assert!(tensor(Dtype::F32, &[0, 3], &stored(&[])).to_f32().unwrap().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_the_tensor() {
        let dir = tempfile::tempdir().unwrap();
        // Open for writing only: reading is refused.
        let data = PositionedFile::new(std::fs::File::create(dir.path().join("a")).unwrap());
        data.write(0, &[0; 9]).unwrap();
        let error = tensor(Dtype::F32, &[2], &data).to_f32().unwrap_err();
        assert!(matches!(error, CheckpointError::Read { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("m.safetensors: tensor \"w\": cannot be read: "), "{text}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Any part equals the same part of the whole.
        #[test]
        fn parts_agree_with_the_whole(values in proptest::collection::vec(-1e3f32..1e3, 1..40_000), a in 0.0f64..1.0, b in 0.0f64..1.0) {
            let n = values.len();
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let (lo, hi) = ((a.min(b) * n as f64) as usize, (a.max(b) * n as f64) as usize);
            let (shape, data) = ([n], stored(&bytes));
            let t = tensor(Dtype::F32, &shape, &data);
            let mut part = vec![0.0; hi - lo];
            t.read_f32_into(lo, &mut part).unwrap();
            prop_assert_eq!(&part[..], &values[lo..hi]);
            prop_assert_eq!(t.to_f32().unwrap(), values);
        }
    }
}
