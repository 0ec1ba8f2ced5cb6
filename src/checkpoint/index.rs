//! `model.safetensors.index.json`: which shard holds which tensor, and the comparison of that promise with the shards.
//! Shards are opened in `open.rs`.
//!
//! Form (transformers `save_pretrained`): `{"metadata": {...}, "weight_map": {"tensor name": "shard file name"}}`.
//! `metadata.total_size` is not compared: released checkpoints get it wrong (tied weights, other dtypes).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::folder::is_plain_name;
use super::problem::Problem;

/// Name of the index file.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The index file as written; unknown keys are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct RawIndex {
    weight_map: Pairs,
}

/// The entries of a JSON object of strings in file order, duplicate keys included.
#[derive(Debug)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that maps tensor names to shard file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// The promise of the index: tensor name -> shard.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// `None` where the shard's name was refused: the tensor is listed, but there is nowhere to look.
    by_tensor: BTreeMap<String, Option<String>>,
}

impl Index {
    /// Checks the form of `raw`: plain file names, no duplicates, not empty.
    pub(super) fn new(raw: RawIndex, problems: &mut Vec<Problem>) -> Self {
        let mut index = Self::default();
        if raw.weight_map.0.is_empty() {
            problems.push(Problem::NoTensors { file: INDEX.to_owned() });
        }
        for (tensor, shard) in raw.weight_map.0 {
            if index.by_tensor.contains_key(&tensor) {
                problems.push(Problem::DuplicateInIndex { index: INDEX.to_owned(), tensor });
            } else if is_plain_name(&shard) {
                index.by_tensor.insert(tensor, Some(shard));
            } else {
                index.by_tensor.insert(tensor.clone(), None);
                problems.push(Problem::ShardName { index: INDEX.to_owned(), tensor, shard });
            }
        }
        index
    }

    /// Names of all shards in order, each with its tensors in order (at least one).
    pub(super) fn shards(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in self.entries() {
            shards.entry(shard).or_default().push(tensor);
        }
        shards
    }

    /// Compares the index with what the readable shards hold: `found` lists (shard, its tensors). Shards that could
    /// not be read are absent from `found`, have a problem of their own, and their tensors are not reported again.
    pub(super) fn compare(&self, found: &[(&str, Vec<&str>)], problems: &mut Vec<Problem>) {
        let mut holder: HashMap<&str, &str> = HashMap::new();
        for (shard, tensors) in found {
            for tensor in tensors {
                match holder.insert(tensor, shard) {
                    Some(first) => problems.push(Problem::InTwoShards {
                        tensor: (*tensor).to_owned(),
                        first: first.to_owned(),
                        second: (*shard).to_owned(),
                    }),
                    None if !self.by_tensor.contains_key(*tensor) => problems.push(Problem::NotInIndex {
                        shard: (*shard).to_owned(),
                        tensor: (*tensor).to_owned(),
                        index: INDEX.to_owned(),
                    }),
                    None => {}
                }
            }
        }
        let held: HashSet<(&str, &str)> = found
            .iter()
            .flat_map(|(shard, tensors)| tensors.iter().map(move |tensor| (*tensor, *shard)))
            .collect();
        let readable: HashSet<&str> = found.iter().map(|(shard, _)| *shard).collect();
        for (tensor, shard) in self.entries() {
            if readable.contains(shard) && !held.contains(&(tensor, shard)) {
                problems.push(Problem::NotInShard {
                    shard: shard.to_owned(),
                    tensor: tensor.to_owned(),
                    index: INDEX.to_owned(),
                    found: holder.get(tensor).map_or("no shard", |other| other).to_owned(),
                });
            }
        }
    }

    /// All (tensor, shard) whose shard has a usable name, in order of tensors.
    fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_tensor.iter().filter_map(|(tensor, shard)| Some((tensor.as_str(), shard.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(json: &str) -> (Index, Vec<String>) {
        let mut problems = Vec::new();
        let index = Index::new(serde_json::from_str(json).unwrap(), &mut problems);
        (index, problems.iter().map(Problem::to_string).collect())
    }

    fn compare(found: &[(&str, Vec<&str>)]) -> Vec<String> {
        let (index, problems) = index(r#"{"weight_map": {"a": "1", "b": "2", "c": "2"}}"#);
        assert!(problems.is_empty());
        let mut problems = Vec::new();
        index.compare(found, &mut problems);
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn groups_tensors_by_shard() {
        let (index, _) = index(r#"{"weight_map": {"b": "2", "a": "1", "c": "2"}, "metadata": {}}"#);
        assert_eq!(index.shards().into_iter().collect::<Vec<_>>(), [("1", vec!["a"]), ("2", vec!["b", "c"])]);
    }

    #[test]
    fn refuses_paths_duplicates_and_emptiness() {
        let (kept, problems) = index(r#"{"weight_map": {"a": "../x", "b": "/x", "c": "y", "c": "y"}}"#);
        assert_eq!(kept.shards().into_iter().collect::<Vec<_>>(), [("y", vec!["c"])]);
        assert!(problems[0].contains("\"a\"") && problems[0].contains("\"../x\""), "{problems:?}");
        assert!(problems[1].contains("\"b\"") && problems[2].contains("\"c\": listed twice"), "{problems:?}");
        assert!(index(r#"{"weight_map": {}}"#).1[0].contains("holds no tensors"));
        for bad in ["{}", "[]", r#"{"weight_map": 3}"#, r#"{"weight_map": {"a": 3}}"#] {
            assert!(serde_json::from_str::<RawIndex>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn compares_with_the_shards() {
        assert!(compare(&[("1", vec!["a"]), ("2", vec!["c", "b"])]).is_empty());
        let lost = compare(&[("1", vec!["a"]), ("2", vec!["b"])]);
        assert_eq!(lost.len(), 1);
        assert!(lost[0].starts_with("2: tensor \"c\": missing") && lost[0].ends_with("no shard"), "{lost:?}");
        let extra = compare(&[("1", vec!["a", "z"]), ("2", vec!["b", "c"])]);
        assert!(extra.len() == 1 && extra[0].starts_with("1: tensor \"z\": extra"), "{extra:?}");
        let moved = compare(&[("1", vec!["a", "b"]), ("2", vec!["c"])]);
        assert!(moved.len() == 1 && moved[0].ends_with("found in 1"), "{moved:?}");
        let twice = compare(&[("1", vec!["a", "b"]), ("2", vec!["b", "c"])]);
        assert!(twice.len() == 1 && twice[0].starts_with("2: tensor \"b\": also in 1"), "{twice:?}");
    }

    #[test]
    fn unreadable_shards_are_not_reported_again() {
        assert!(compare(&[("1", vec!["a"])]).is_empty());
        let (index, _) = index(r#"{"weight_map": {"a": "../1", "b": "2"}}"#);
        let mut problems = Vec::new();
        index.compare(&[("2", vec!["a", "b"])], &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
    }
}
