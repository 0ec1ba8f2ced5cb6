//! Element types of the safetensors format: names and sizes. Conversion to `f32` lives in `tensor.rs`.

use std::fmt;

/// Element type of a stored tensor, as the format names it (safetensors README, "Format", and its `Dtype`).
///
/// Types this tool cannot convert are known too: a checkpoint may hold integer buffers that a family ignores, and
/// their byte ranges are checked like all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 double.
    F64,
    /// IEEE 754 single.
    F32,
    /// IEEE 754 half.
    F16,
    /// The upper half of an IEEE 754 single.
    Bf16,
    /// 8-bit float, 4 exponent bits.
    F8E4m3,
    /// 8-bit float, 5 exponent bits.
    F8E5m2,
    /// 8-bit power-of-two scale of the OCP microscaling formats.
    F8E8m0,
    /// 6-bit float, 2 exponent bits, packed.
    F6E2m3,
    /// 6-bit float, 3 exponent bits, packed.
    F6E3m2,
    /// 4-bit float, packed.
    F4,
    /// Pair of singles (real, imaginary).
    C64,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte per boolean.
    Bool,
}

/// Every type with its name in the header and its size in bits: the one table the methods read.
const TABLE: [(Dtype, &str, usize); 20] = [
    (Dtype::F64, "F64", 64),
    (Dtype::F32, "F32", 32),
    (Dtype::F16, "F16", 16),
    (Dtype::Bf16, "BF16", 16),
    (Dtype::F8E4m3, "F8_E4M3", 8),
    (Dtype::F8E5m2, "F8_E5M2", 8),
    (Dtype::F8E8m0, "F8_E8M0", 8),
    (Dtype::F6E2m3, "F6_E2M3", 6),
    (Dtype::F6E3m2, "F6_E3M2", 6),
    (Dtype::F4, "F4", 4),
    (Dtype::C64, "C64", 64),
    (Dtype::I64, "I64", 64),
    (Dtype::I32, "I32", 32),
    (Dtype::I16, "I16", 16),
    (Dtype::I8, "I8", 8),
    (Dtype::U64, "U64", 64),
    (Dtype::U32, "U32", 32),
    (Dtype::U16, "U16", 16),
    (Dtype::U8, "U8", 8),
    (Dtype::Bool, "BOOL", 8),
];

impl Dtype {
    /// The type the header calls `name`; `None` when the format has no such type.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Name in the header.
    pub fn name(self) -> &'static str {
        TABLE.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// Size of one element in bits (types below 8 bits are stored packed).
    pub fn bits(self) -> usize {
        TABLE.iter().find(|row| row.0 == self).map_or(0, |row| row.2)
    }

    /// Bytes that `elements` elements take; `None` when that overflows or is not a whole number of bytes.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let bits = elements.checked_mul(self.bits())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// True for the types `TensorRef::to_f32` converts: F64, F32, F16 and BF16.
    pub fn converts_to_f32(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_name_and_by_type() {
        for (dtype, name, bits) in TABLE {
            assert_eq!(Dtype::from_name(name), Some(dtype));
            assert_eq!((dtype.name(), dtype.bits()), (name, bits));
        }
        assert_eq!(Dtype::from_name("bf16"), None);
    }

    #[test]
    fn byte_sizes_are_whole_and_checked() {
        assert_eq!(Dtype::Bf16.bytes_for(3), Some(6));
        assert_eq!(Dtype::F4.bytes_for(3), None);
        assert_eq!(Dtype::F6E2m3.bytes_for(4), Some(3));
        assert_eq!(Dtype::F64.bytes_for(usize::MAX / 8), None);
    }

    /// The names and sizes agree with the `safetensors` crate, whose header text is the format's reference.
    #[test]
    fn agrees_with_the_safetensors_crate() {
        use safetensors::Dtype as Theirs;
        let all = [
            Theirs::BOOL,
            Theirs::F4,
            Theirs::F6_E2M3,
            Theirs::F6_E3M2,
            Theirs::U8,
            Theirs::I8,
            Theirs::F8_E5M2,
            Theirs::F8_E4M3,
            Theirs::F8_E8M0,
            Theirs::I16,
            Theirs::U16,
            Theirs::F16,
            Theirs::BF16,
            Theirs::I32,
            Theirs::U32,
            Theirs::F32,
            Theirs::F64,
            Theirs::I64,
            Theirs::U64,
        ];
        for theirs in all {
            let ours = Dtype::from_name(&theirs.to_string()).unwrap();
            assert_eq!(ours.bits(), theirs.bitsize(), "{theirs}");
        }
    }
}
