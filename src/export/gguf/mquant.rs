//! What this program says of itself in a GGUF file: keys that begin with `mquant.`, which llama.cpp reads past. They are written and read here, and
//! `schemas/gguf.schema.json` says what a reader may rely on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Array, Metadata, Value};

/// Version of the keys.
pub const MQUANT_VERSION: u32 = 1;

/// All that is said. A reader may rely on every key without "where" in its description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MquantMetadata {
    /// Version of these keys: 1.
    #[serde(rename = "mquant.version")]
    pub version: u32,
    /// Name and version of the program that wrote the file.
    #[serde(rename = "mquant.tool")]
    pub tool: String,
    /// Name of the recipe.
    #[serde(rename = "mquant.recipe")]
    pub recipe: String,
    /// How weights were rounded: `nearest`, `importance` or `gptq`.
    #[serde(rename = "mquant.method")]
    pub method: String,
    /// What is rotated, or was to be: a residual stream, or heads of a size.
    #[serde(rename = "mquant.rotation.names")]
    pub rotation_names: Vec<String>,
    /// The orthogonal matrix of each; empty where it was left out.
    #[serde(rename = "mquant.rotation.matrices")]
    pub rotation_matrices: Vec<String>,
    /// Names of weight tensors of this file whose inputs have static scales.
    #[serde(rename = "mquant.msq.names")]
    pub msq_names: Vec<String>,
    /// Scale of the input of each on visual rows: `round(x / scale)` lies within int8.
    #[serde(rename = "mquant.msq.visual")]
    pub msq_visual: Vec<f32>,
    /// The same on text rows.
    #[serde(rename = "mquant.msq.text")]
    pub msq_text: Vec<f32>,
    /// SHA-256, in hex, of the lines `<sha256>  <name>` of all source files by name, as `sha256sum` prints them.
    #[serde(rename = "mquant.sha256.source")]
    pub sha256_source: String,
    /// SHA-256, in hex, of the calibration file, where there is one.
    #[serde(rename = "mquant.sha256.calibration", default, skip_serializing_if = "Option::is_none")]
    pub sha256_calibration: Option<String>,
}

impl MquantMetadata {
    /// Keys and values, in a fixed order.
    pub fn metadata(&self) -> Metadata {
        let text = |t: &String| Value::String(t.clone());
        let texts = |t: &[String]| Value::Array(Array::String(t.to_vec()));
        let floats = |f: &[f32]| Value::Array(Array::F32(f.to_vec()));
        let pairs = [
            ("mquant.version", Some(Value::U32(self.version))),
            ("mquant.tool", Some(text(&self.tool))),
            ("mquant.recipe", Some(text(&self.recipe))),
            ("mquant.method", Some(text(&self.method))),
            ("mquant.rotation.names", Some(texts(&self.rotation_names))),
            ("mquant.rotation.matrices", Some(texts(&self.rotation_matrices))),
            ("mquant.msq.names", Some(texts(&self.msq_names))),
            ("mquant.msq.visual", Some(floats(&self.msq_visual))),
            ("mquant.msq.text", Some(floats(&self.msq_text))),
            ("mquant.sha256.source", Some(text(&self.sha256_source))),
            ("mquant.sha256.calibration", self.sha256_calibration.as_ref().map(text)),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &Value) -> serde_json::Value {
        match value {
            Value::U32(n) => (*n).into(),
            Value::String(s) => s.clone().into(),
            Value::Array(Array::String(s)) => s.clone().into(),
            Value::Array(Array::F32(f)) => f.clone().into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_keys_written_are_those_of_the_schema() {
        let said = MquantMetadata {
            version: MQUANT_VERSION,
            tool: "t 1".into(),
            recipe: "q4_k_m".into(),
            method: "gptq".into(),
            rotation_names: vec!["decoder".into()],
            rotation_matrices: vec!["H".into()],
            msq_names: vec!["blk.0.attn_q.weight".into()],
            msq_visual: vec![0.5],
            msq_text: vec![0.25],
            sha256_source: "00".into(),
            sha256_calibration: Some("11".into()),
        };
        let written: serde_json::Map<_, _> =
            said.metadata().iter().map(|(k, v)| (k.clone(), json(v))).collect();
        assert_eq!(serde_json::Value::Object(written), serde_json::to_value(&said).unwrap());
        let without = MquantMetadata { sha256_calibration: None, ..said };
        assert_eq!(without.metadata().len(), 10);
    }
}
