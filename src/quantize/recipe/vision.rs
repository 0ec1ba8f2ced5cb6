//! How the vision tower's residual is rotated, as recipes spell it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// The rotation of the vision tower's residual. Recipes may write `true` for `keep-mean` and `false` for `none`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(with = "Spelling")]
pub enum VisionRotation {
    /// It stays as it is.
    #[default]
    None,
    /// A rotation that keeps the mean of every row, so LayerNorms stay LayerNorms.
    KeepMean,
    /// The mean is baked into the linears that write the residual, LayerNorms become RMSNorms, and any rotation is exact (MQuant, arXiv 2502.00425 section
    /// 4.2). Where something else reads the mean, the stream stays as it is, with the reason in the report.
    BakeMean,
}

impl VisionRotation {
    /// Whether anything is rotated.
    pub fn any(self) -> bool {
        self != Self::None
    }
}

/// What the JSON schema says of it.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum Spelling {
    /// `true` is `keep-mean`, `false` is `none`.
    Flag(bool),
    /// By name.
    Name(VisionRotationName),
}

/// The rotations of the vision residual by name.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code, reason = "only its schema is used")]
enum VisionRotationName {
    /// The residual stays as it is.
    None,
    /// A rotation that keeps the mean of every row.
    KeepMean,
    /// The mean is baked into the writers, LayerNorms become RMSNorms, and any rotation is exact.
    BakeMean,
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = VisionRotation;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vision rotation: none, keep-mean, bake-mean, true (keep-mean) or false (none)")
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<VisionRotation, E> {
        Ok(if on { VisionRotation::KeepMean } else { VisionRotation::None })
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<VisionRotation, E> {
        match name {
            "none" => Ok(VisionRotation::None),
            "keep-mean" => Ok(VisionRotation::KeepMean),
            "bake-mean" => Ok(VisionRotation::BakeMean),
            _ => Err(E::invalid_value(de::Unexpected::Str(name), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for VisionRotation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_names_are_read_and_names_are_written() {
        let read = |text: &str| serde_norway::from_str::<VisionRotation>(text);
        assert_eq!(read("true").unwrap(), VisionRotation::KeepMean);
        assert_eq!(read("false").unwrap(), VisionRotation::None);
        for rotation in [VisionRotation::None, VisionRotation::KeepMean, VisionRotation::BakeMean] {
            let text = serde_norway::to_string(&rotation).unwrap();
            assert_eq!(read(&text).unwrap(), rotation, "{text}");
        }
        let e = read("bake").unwrap_err().to_string();
        assert!(e.contains("bake-mean") && e.contains("\"bake\""), "{e}");
        let e = read("3").unwrap_err().to_string();
        assert!(e.contains("keep-mean"), "{e}");
    }
}
