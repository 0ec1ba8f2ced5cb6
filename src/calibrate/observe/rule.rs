//! How a static activation scale is chosen from what calibration saw: the value of the recipe key `observer`.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// What a range is taken from. In YAML `min_max`, `mse`, or `percentile: 99.99`.
#[derive(Clone, Copy, Debug, Default, PartialEq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum RangeRule {
    /// The largest value seen: nothing is clipped (the paper's choice, arXiv 2502.00425).
    #[default]
    MinMax,
    /// The magnitude that this percentage of the values does not exceed; above 0, at most 100.
    Percentile(#[schemars(extend("exclusiveMinimum" = 0, "maximum" = 100))] f64),
    /// The range with the least expected squared error of rounding and clipping.
    Mse,
}

const EXPECTED: &str = "min_max, mse, or percentile: a number above 0 and at most 100";

impl Serialize for RangeRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::MinMax => serializer.serialize_str("min_max"),
            Self::Mse => serializer.serialize_str("mse"),
            Self::Percentile(percent) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("percentile", percent)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for RangeRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RuleVisitor)
    }
}

/// By hand, because a derived enum wants YAML tags (`!percentile 99`) and an untagged one says nothing useful in its errors.
struct RuleVisitor;

impl<'de> Visitor<'de> for RuleVisitor {
    type Value = RangeRule;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<RangeRule, E> {
        match name {
            "min_max" => Ok(RangeRule::MinMax),
            "mse" => Ok(RangeRule::Mse),
            _ => Err(E::invalid_value(de::Unexpected::Str(name), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RangeRule, A::Error> {
        let Some((key, percent)) = map.next_entry::<String, f64>()? else {
            return Err(de::Error::invalid_length(0, &self));
        };
        if key != "percentile" {
            return Err(de::Error::invalid_value(de::Unexpected::Str(&key), &self));
        }
        if !(percent > 0.0 && percent <= 100.0) {
            return Err(de::Error::invalid_value(de::Unexpected::Float(percent), &self));
        }
        match map.next_key::<String>()? {
            Some(more) => Err(de::Error::invalid_value(de::Unexpected::Str(&more), &self)),
            None => Ok(RangeRule::Percentile(percent)),
        }
    }
}

impl fmt::Display for RangeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min_max"),
            Self::Percentile(percent) => write!(f, "percentile {percent}"),
            Self::Mse => f.write_str("mse"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, JsonSchema)]
    struct Holder {
        observer: RangeRule,
    }

    #[test]
    fn yaml_and_json_round_trip() {
        let rules = [
            ("observer: min_max\n", RangeRule::MinMax),
            ("observer: mse\n", RangeRule::Mse),
            ("observer:\n  percentile: 99.99\n", RangeRule::Percentile(99.99)),
        ];
        for (yaml, observer) in rules {
            let holder = Holder { observer };
            assert_eq!(serde_norway::from_str::<Holder>(yaml).unwrap(), holder);
            assert_eq!(serde_norway::to_string(&holder).unwrap(), yaml);
            let json = serde_json::to_string(&holder).unwrap();
            assert_eq!(serde_json::from_str::<Holder>(&json).unwrap(), holder);
        }
        let whole: Holder = serde_norway::from_str("observer: {percentile: 100}").unwrap();
        assert_eq!(whole.observer, RangeRule::Percentile(100.0));
    }

    #[test]
    fn errors_say_what_was_expected() {
        let values = [
            "max",
            "7",
            "{}",
            "{percentile: 0}",
            "{percentile: 100.5}",
            "{percentile: .nan}",
            "{percentile: many}",
            "{centile: 9}",
            "{percentile: 9, mse: 1}",
        ];
        for value in values {
            let e = serde_norway::from_str::<Holder>(&format!("observer: {value}")).unwrap_err().to_string();
            assert!(e.contains("observer"), "{value}: {e}");
            assert!(e.contains(EXPECTED) || e.contains("f64"), "{value}: {e}");
        }
    }

    #[test]
    fn the_schema_allows_what_is_read() {
        let schema = serde_json::to_value(schemars::schema_for!(RangeRule)).unwrap();
        let text = schema.to_string();
        for part in ["\"min_max\"", "\"mse\"", "\"percentile\"", "\"exclusiveMinimum\":0", "\"maximum\":100"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
