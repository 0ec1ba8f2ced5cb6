//! Models in several files: which tensors go where, the names of the files and the keys that hold them together, as `tools/gguf-split` of
//! llama.cpp has them. The first file has all metadata; the others have what is needed to read them.

use std::ops::Range;

use super::error::Problem;
use super::layout::{find, wrong_type};
use super::value::ValueType;
use super::{Metadata, Value};

/// Number of this file, from 0: `uint16`.
pub const NUMBER_KEY: &str = "split.no";
/// Number of files: `uint16`.
pub const COUNT_KEY: &str = "split.count";
/// Tensors in all files: `int32`.
pub const TENSORS_KEY: &str = "split.tensors.count";

/// Where one file stands among those of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// From 0.
    pub number: u16,
    /// At least 1.
    pub count: u16,
    /// Tensors in all files.
    pub tensors: i32,
}

impl Split {
    /// The keys of this file.
    pub fn metadata(self) -> Metadata {
        vec![
            (NUMBER_KEY.into(), Value::U16(self.number)),
            (COUNT_KEY.into(), Value::U16(self.count)),
            (TENSORS_KEY.into(), Value::I32(self.tensors)),
        ]
    }

    /// What the metadata of a file says; None for a model in one file.
    ///
    /// # Errors
    /// The [`Problem`] of a key that is missing, of another type, or out of range.
    pub fn of(metadata: &Metadata) -> Result<Option<Self>, Problem> {
        let count = match find(metadata, COUNT_KEY) {
            None | Some(Value::U16(0..=1)) => return Ok(None),
            Some(Value::U16(count)) => *count,
            Some(other) => return Err(wrong_type(COUNT_KEY, ValueType::U16, other)),
        };
        let missing = |key| Problem::key(key, format!("missing, though {COUNT_KEY:?} says {count} shards"));
        let number = match find(metadata, NUMBER_KEY) {
            Some(Value::U16(number)) if *number < count => *number,
            Some(Value::U16(number)) => {
                let what = format!("{number} is out of range; {count} shards are counted from 0");
                return Err(Problem::key(NUMBER_KEY, what));
            }
            Some(other) => return Err(wrong_type(NUMBER_KEY, ValueType::U16, other)),
            None => return Err(missing(NUMBER_KEY)),
        };
        let tensors = match find(metadata, TENSORS_KEY) {
            Some(Value::I32(tensors)) => *tensors,
            Some(other) => return Err(wrong_type(TENSORS_KEY, ValueType::I32, other)),
            None => return Err(missing(TENSORS_KEY)),
        };
        Ok(Some(Self { number, count, tensors }))
    }
}

/// Name of a file: number from 0, of `count`.
pub fn file_name(stem: &str, number: u16, count: u16) -> String {
    format!("{stem}{}", suffix(number, count))
}

fn suffix(number: u16, count: u16) -> String {
    format!("-{:05}-of-{count:05}.gguf", u32::from(number) + 1)
}

/// The stem of a file's name; None where the name is not that of shard `number`.
pub fn stem(name: &str, number: u16, count: u16) -> Option<&str> {
    name.strip_suffix(&suffix(number, count)).filter(|stem| !stem.is_empty())
}

/// Whether the name of a file is that of the second or a later shard: the first opens them all.
pub fn is_later_shard(name: &str) -> bool {
    let numbers = name.strip_suffix(".gguf").and_then(|rest| {
        let (rest, count) = rest.rsplit_once("-of-")?;
        Some((rest.rsplit_once('-')?.1.parse::<u16>().ok()?, count.parse::<u16>().ok()?))
    });
    numbers.is_some_and(|(number, count)| number > 1 && number <= count)
}

/// Which tensors go into which file: in order, as many as have at most `limit` bytes together, padding included. A larger one has a file of its own.
pub fn plan(sizes: &[u64], alignment: u64, limit: Option<u64>) -> Vec<Range<usize>> {
    let limit = limit.unwrap_or(u64::MAX);
    let (mut shards, mut start, mut used) = (Vec::new(), 0, 0u64);
    for (i, size) in sizes.iter().enumerate() {
        let padded = size.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        let next = used.saturating_add(padded);
        if i > start && next > limit {
            shards.push(start..i);
            (start, used) = (i, padded);
        } else {
            used = next;
        }
    }
    shards.push(start..sizes.len());
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_filled_in_order_up_to_the_limit() {
        let sizes = [10, 30, 100, 1, 1, 32];
        // Padded to 32, 32, 128, 32, 32, 32.
        assert_eq!(plan(&sizes, 32, Some(64)), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(plan(&sizes, 32, Some(63)), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6]);
        assert_eq!(plan(&sizes, 32, Some(288)), vec![0..6]);
        assert_eq!(plan(&sizes, 32, None), vec![0..6]);
        assert_eq!(plan(&[], 32, Some(1)), vec![0..0]);
        assert_eq!(plan(&[u64::MAX, u64::MAX], 32, Some(u64::MAX)), vec![0..2]);
    }

    #[test]
    fn names_are_made_and_recognized() {
        assert_eq!(file_name("m-F16", 0, 12), "m-F16-00001-of-00012.gguf");
        assert_eq!(stem("m-F16-00001-of-00012.gguf", 0, 12), Some("m-F16"));
        assert_eq!(stem("m-F16-00002-of-00012.gguf", 0, 12), None);
        let later = [
            "m-00001-of-00012.gguf",
            "m-00002-of-00012.gguf",
            "m.gguf",
            "a-2-of-b.gguf",
            "m-00002-of-00012.bin",
        ];
        assert_eq!(later.map(is_later_shard), [false, true, false, false, false]);
        assert_eq!(stem("-00001-of-00012.gguf", 0, 12), None);
        assert_eq!(file_name("m", u16::MAX - 1, u16::MAX), "m-65535-of-65535.gguf");
    }
}
