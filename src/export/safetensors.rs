//! Writes a few named tensors as one safetensors file. Reading such files is in `checkpoint`.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

/// Bytes the header's length, and with it the first tensor, is a multiple of.
const ALIGNMENT: usize = 8;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Unique name.
    pub name: &'static str,
    /// Extents; their product is the number of elements.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Data<'a>,
}

/// Elements of a tensor.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// 32-bit floats.
    Floats(&'a [f32]),
    /// 64-bit integers.
    Ints(&'a [i64]),
}

impl Data<'_> {
    fn dtype(&self) -> &'static str {
        match self {
            Data::Floats(_) => "F32",
            Data::Ints(_) => "I64",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Data::Floats(x) => size_of_val(*x),
            Data::Ints(x) => size_of_val(*x),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Data::Floats(x) => x.iter().try_for_each(|v| out.write_all(&v.to_le_bytes())),
            Data::Ints(x) => x.iter().try_for_each(|v| out.write_all(&v.to_le_bytes())),
        }
    }
}

/// Writes `tensors`: integers first, so that every tensor is aligned to its elements, otherwise in the order given. The same bytes
/// for the same tensors.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut impl Write, tensors: &[Entry<'_>]) -> io::Result<()> {
    let mut order: Vec<&Entry<'_>> = tensors.iter().collect();
    order.sort_by_key(|entry| matches!(entry.data, Data::Floats(_)));
    let (mut header, mut begin) = (Map::new(), 0);
    for entry in &order {
        let end = begin + entry.data.bytes();
        let value =
            json!({ "dtype": entry.data.dtype(), "shape": entry.shape, "data_offsets": [begin, end] });
        header.insert(entry.name.to_string(), value);
        begin = end;
    }
    let mut header = Value::Object(header).to_string();
    let padded = header.len().next_multiple_of(ALIGNMENT);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    out.write_all(&(padded as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    order.iter().try_for_each(|entry| entry.data.write(out))
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, SafeTensors};

    use super::*;

    #[test]
    fn the_reference_reader_finds_every_tensor() {
        let (floats, ints) = ([1.5f32, -2.0, 0.25], [7i64, -1]);
        let tensors = [
            Entry { name: "f", shape: vec![3, 1], data: Data::Floats(&floats) },
            Entry { name: "none", shape: vec![0, 3], data: Data::Ints(&[]) },
            Entry { name: "i", shape: vec![2], data: Data::Ints(&ints) },
        ];
        let mut bytes = Vec::new();
        write(&mut bytes, &tensors).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let f = file.tensor("f").unwrap();
        assert_eq!(
            (f.dtype(), f.shape(), f.data()),
            (Dtype::F32, &[3, 1][..], &floats.map(f32::to_le_bytes).concat()[..])
        );
        let i = file.tensor("i").unwrap();
        assert_eq!(
            (i.dtype(), i.shape(), i.data()),
            (Dtype::I64, &[2][..], &ints.map(i64::to_le_bytes).concat()[..])
        );
        assert_eq!(file.tensor("none").unwrap().shape(), [0, 3]);
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header % 8, 0);
    }
}
