//! Inputs and outputs of the exported files: name, type, shape, and one sentence of meaning each. The graph files and the manifest both
//! say what stands here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OnnxOptions, file_name, shares_cache_buffer};
use crate::graph::{DType, Dim, Graph, Model, Sym, ValueId, ValueInfo};

/// Extent of a cache handed out by a graph that may write it in place: as long as the buffer, not as the tokens in it.
const PRESENT: &str = "present_sequence_length";

/// Sentences by name; the caches of all layers share two of them.
const MEANINGS: &[(&str, &str)] = &[
    (
        "pixel_values",
        "One row per patch, tiles one after another, patches in merge-block order; columns are (channel, time, y, x), normalised.",
    ),
    (
        "image_grid_thw",
        "One row per tile: frames, patch rows, patch columns; their products add up to the rows of pixel_values.",
    ),
    (
        "image_features",
        "One row per image placeholder of the prompt, in their order; no rows for text alone and when decoding.",
    ),
    ("input_ids", "Token ids; each decoder row of an image is one placeholder id."),
    ("inputs_embeds", "One row per token: its embedding, or the image's row in place of a placeholder."),
    ("attention_mask", "1 for each token of the cache and of this run that may be seen, 0 for padding."),
    (
        "position_ids",
        "Position of each new token; with a first axis of 3, along time, height and width. A generated token is at the largest so far plus one.",
    ),
    (
        "prompt_length",
        "Tokens of each prompt, the same number while tokens are generated; it chooses the base of the rotary embedding.",
    ),
    ("logits", "Scores of the token after each new token."),
    (PAST, "Keys or values of the tokens before, of one layer; of length 0 for a prompt."),
    (NOW, "Keys or values of all tokens so far, of one layer: the next run's past_key_values of that layer."),
];

const PAST: &str = "past_key_values.";
const NOW: &str = "present.";

/// An exported file and what goes in and out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphSignature {
    /// Name of the file.
    pub file: String,
    /// Inputs, in the file's order.
    pub inputs: Vec<TensorSignature>,
    /// Outputs, in the file's order.
    pub outputs: Vec<TensorSignature>,
}

impl GraphSignature {
    /// Channels of an input or output, where they are known before it runs.
    pub fn channels(&self, name: &str) -> Option<usize> {
        let tensor = self.inputs.iter().chain(&self.outputs).find(|t| t.name == name)?;
        match tensor.shape.last() {
            Some(Extent::Fixed(n)) => Some(*n),
            _ => None,
        }
    }

    /// Whether it may write the cache that it is given in place, so that past and present are one buffer.
    pub fn shares_cache_buffer(&self) -> bool {
        let in_place = |e: &Extent| matches!(e, Extent::Named(name) if name == PRESENT);
        self.outputs.iter().any(|t| t.shape.iter().any(in_place))
    }
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorSignature {
    /// Name in the file.
    pub name: String,
    /// Type of its elements.
    pub dtype: ElementType,
    /// Extents of its axes.
    pub shape: Vec<Extent>,
    /// What it holds.
    pub meaning: String,
}

/// Type of elements, as numpy calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ElementType {
    /// Real numbers.
    Float32,
    /// Whole numbers.
    Int64,
}

/// Length of an axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Extent {
    /// Always this.
    Fixed(usize),
    /// Chosen at each run; one name is one length within a run (the file's `dim_param`).
    Named(String),
}

/// Signatures of the files of a model, in graph order.
pub fn signatures(model: &Model, options: &OnnxOptions) -> Vec<GraphSignature> {
    model.graphs.iter().map(|graph| signature(model, graph, options)).collect()
}

/// Signature of one file.
pub(super) fn signature(model: &Model, graph: &Graph, options: &OnnxOptions) -> GraphSignature {
    let in_place = shares_cache_buffer(model, options);
    let tensors =
        |ids: &[ValueId], in_place: bool| ids.iter().map(|&v| tensor(graph.value(v), in_place)).collect();
    GraphSignature {
        file: file_name(graph.part).to_string(),
        inputs: tensors(&graph.inputs, false),
        outputs: tensors(&graph.outputs, in_place),
    }
}

fn tensor(info: &ValueInfo, in_place: bool) -> TensorSignature {
    let extent = |d: &Dim| match d {
        Dim::Fixed(n) => Extent::Fixed(*n),
        Dim::Sym(Sym::Total) if in_place => Extent::Named(PRESENT.to_string()),
        Dim::Sym(s) => Extent::Named(s.name().to_string()),
    };
    TensorSignature {
        name: info.name.clone(),
        dtype: match info.dtype {
            DType::Float => ElementType::Float32,
            DType::Int => ElementType::Int64,
        },
        shape: info.shape.iter().map(extent).collect(),
        meaning: meaning(&info.name).to_string(),
    }
}

/// Empty for a name that no model of this program has.
fn meaning(name: &str) -> &'static str {
    let fits = |key: &str| key == name || key.ends_with('.') && name.starts_with(key);
    MEANINGS.iter().find(|(key, _)| fits(key)).map_or("", |(_, meaning)| meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_share_a_meaning_and_others_have_their_own() {
        assert_eq!(meaning("past_key_values.11.key"), meaning("past_key_values.0.value"));
        assert!(meaning("present.0.key").contains("next run"));
        assert_ne!(meaning("logits"), meaning("input_ids"));
        assert_eq!(meaning("logit"), "");
    }

    #[test]
    fn extents_are_numbers_or_names_in_json() {
        let shape = [Extent::Fixed(3), Extent::Named("batch_size".into())];
        let json = serde_json::to_string(&shape).unwrap();
        assert_eq!(json, r#"[3,"batch_size"]"#);
        assert_eq!(serde_json::from_str::<Vec<Extent>>(&json).unwrap(), shape);
    }
}
