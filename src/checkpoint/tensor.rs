//! A tensor in a mapped file and its conversion to `f32`. Bytes are decoded where they lie, in the format's
//! little-endian order and at any alignment: nothing is reinterpreted in place.

use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::dtype::Dtype;
use super::error::CheckpointError;

/// Elements decoded at a time: one block stays in the first-level cache for the check that follows its decoding.
const BLOCK: usize = 2048;

/// A tensor that has not been read yet: description and a view of its bytes in the mapped file.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    pub(super) name: &'a str,
    pub(super) file: &'a Path,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
    pub(super) bytes: &'a [u8],
}

impl<'a> TensorRef<'a> {
    /// Name in the checkpoint.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Path of the file that holds it.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// Stored element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The stored bytes: row-major, little-endian, at any alignment.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
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
    /// infinite element.
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
        let bytes = self.float_bytes(start, out.len())?;
        let size = self.dtype.bits() / 8;
        for (i, (src, dst)) in bytes.chunks(BLOCK * size).zip(out.chunks_mut(BLOCK)).enumerate() {
            decode(self.dtype, src, dst);
            if let Some(at) = first_non_finite(dst) {
                return Err(CheckpointError::NonFinite {
                    file: self.file.to_owned(),
                    tensor: self.name.to_owned(),
                    index: start + i * BLOCK + at,
                    value: dst[at],
                });
            }
        }
        Ok(())
    }

    /// Row-major index of the first element that is NaN or infinite as `f32`. Reads every byte, allocates nothing.
    ///
    /// # Errors
    /// [`CheckpointError::NotFloat`] for element types that are not converted.
    pub fn first_non_finite(&self) -> Result<Option<usize>, CheckpointError> {
        let bytes = self.float_bytes(0, self.elements())?;
        let size = self.dtype.bits() / 8;
        let mut block = [0.0; BLOCK];
        for (i, src) in bytes.chunks(BLOCK * size).enumerate() {
            let dst = &mut block[..src.len() / size];
            decode(self.dtype, src, dst);
            if let Some(at) = first_non_finite(dst) {
                return Ok(Some(i * BLOCK + at));
            }
        }
        Ok(None)
    }

    /// Bytes of `count` elements from `start`, once type and range are known to be right.
    fn float_bytes(&self, start: usize, count: usize) -> Result<&'a [u8], CheckpointError> {
        let (file, tensor) = (self.file, self.name);
        if !self.dtype.converts_to_f32() {
            let (file, tensor) = (file.to_owned(), tensor.to_owned());
            return Err(CheckpointError::NotFloat { file, tensor, dtype: self.dtype });
        }
        let size = self.dtype.bits() / 8;
        let range =
            start.checked_add(count).and_then(|end| Some(start.checked_mul(size)?..end.checked_mul(size)?));
        range.and_then(|range| self.bytes.get(range)).ok_or_else(|| CheckpointError::Range {
            file: file.to_owned(),
            tensor: tensor.to_owned(),
            start,
            count,
            elements: self.elements(),
        })
    }
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
        // `float_bytes` let none of the other types through.
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

    fn tensor<'a>(dtype: Dtype, shape: &'a [usize], bytes: &'a [u8]) -> TensorRef<'a> {
        TensorRef { name: "w", file: Path::new("m.safetensors"), dtype, shape, bytes }
    }

    /// Every finite half and bfloat16 value, read from an odd address, against the `half` crate's scalar conversion.
    #[test]
    fn all_finite_16_bit_values_are_exact_at_any_alignment() {
        let halves: Vec<u16> = (0..=u16::MAX).filter(|&b| f16::from_bits(b).is_finite()).collect();
        let brains: Vec<u16> = (0..=u16::MAX).filter(|&b| bf16::from_bits(b).is_finite()).collect();
        for (dtype, bits) in [(Dtype::F16, halves), (Dtype::Bf16, brains)] {
            let mut bytes = vec![0u8];
            bytes.extend(bits.iter().flat_map(|b| b.to_le_bytes()));
            let shape = [bits.len()];
            let got = tensor(dtype, &shape, &bytes[1..]).to_f32().unwrap();
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
        let mut bytes: Vec<u8> = vec![0; 2 * 5000];
        bytes[2 * 4321..][..2].copy_from_slice(&bf16::NAN.to_le_bytes());
        let t = tensor(Dtype::Bf16, &[5000], &bytes);
        assert_eq!(t.first_non_finite().unwrap(), Some(4321));
        let text = t.to_f32().unwrap_err().to_string();
        assert!(text.contains("m.safetensors: tensor \"w\": element 4321") && text.contains("NaN"), "{text}");
        let mut out = [0.0; 10];
        t.read_f32_into(4000, &mut out).unwrap();
        assert!(matches!(
            t.read_f32_into(4315, &mut out),
            Err(CheckpointError::NonFinite { index: 4321, .. })
        ));
    }

    #[test]
    fn doubles_are_rounded_and_overflow_is_non_finite() {
        let bytes: Vec<u8> = [0.1f64, -2.0, 1e300].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(tensor(Dtype::F64, &[2], &bytes[..16]).to_f32().unwrap(), [0.1f32, -2.0]);
        let error = tensor(Dtype::F64, &[3], &bytes).to_f32().unwrap_err();
        assert!(matches!(error, CheckpointError::NonFinite { index: 2, value: f32::INFINITY, .. }));
    }

    #[test]
    fn other_types_and_ranges_are_refused() {
        let t = tensor(Dtype::I64, &[1], &[0; 8]);
        for text in [t.to_f32().unwrap_err().to_string(), t.first_non_finite().unwrap_err().to_string()] {
            assert!(text.contains("m.safetensors: tensor \"w\": element type I64"), "{text}");
        }
        let t = tensor(Dtype::F32, &[2], &[0; 8]);
        let mut out = [0.0; 2];
        assert!(matches!(t.read_f32_into(1, &mut out), Err(CheckpointError::Range { elements: 2, .. })));
        assert!(matches!(t.read_f32_into(usize::MAX, &mut out), Err(CheckpointError::Range { .. })));
        t.read_f32_into(2, &mut []).unwrap();
        assert_eq!(tensor(Dtype::F32, &[], &1.5f32.to_le_bytes()).to_f32().unwrap(), [1.5]);
        assert!(tensor(Dtype::F32, &[0, 3], &[]).to_f32().unwrap().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Any part equals the same part of the whole.
        #[test]
        fn parts_agree_with_the_whole(values in proptest::collection::vec(-1e3f32..1e3, 1..6000), a in 0.0f64..1.0, b in 0.0f64..1.0) {
            let n = values.len();
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let (lo, hi) = ((a.min(b) * n as f64) as usize, (a.max(b) * n as f64) as usize);
            let shape = [n];
            let t = tensor(Dtype::F32, &shape, &bytes);
            let mut part = vec![0.0; hi - lo];
            t.read_f32_into(lo, &mut part).unwrap();
            prop_assert_eq!(&part[..], &values[lo..hi]);
            prop_assert_eq!(t.to_f32().unwrap(), values);
        }
    }
}
