//! A checkpoint: its family, what each component holds, what is not used and why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::cli::SCHEMA_VERSION;
use crate::cli::error::CliError;
use crate::cli::export::describe;
use crate::cli::format::{bytes, count, plural, property, table};
use crate::family::Resolved;
use crate::graph::Component;

/// A checkpoint as seen.
#[derive(Debug, Serialize)]
pub struct CheckpointSeen {
    schema_version: u32,
    kind: &'static str,
    path: PathBuf,
    family: String,
    title: String,
    /// Elements of all stored tensors; tied weights count once.
    parameters: u64,
    /// Bytes of all stored tensors.
    bytes: u64,
    weight_files: Vec<String>,
    components: Vec<ComponentSeen>,
    model: Sizes,
    ignored: Vec<IgnoredSeen>,
    /// Weight files in the folder that are not read.
    unread_files: Vec<String>,
}

/// One component. A tensor that two components share is counted in the first.
#[derive(Debug, Serialize)]
struct ComponentSeen {
    name: &'static str,
    /// What the names of its tensors have in common.
    names: String,
    tensors: usize,
    linears: usize,
    parameters: u64,
    bytes: u64,
    /// Elements by stored type.
    dtypes: BTreeMap<&'static str, u64>,
}

/// The sizes people ask for first.
#[derive(Debug, Serialize)]
struct Sizes {
    vision_blocks: usize,
    vision_width: usize,
    decoder_layers: usize,
    decoder_width: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    max_positions: usize,
    tied_head: bool,
}

#[derive(Debug, Serialize)]
struct IgnoredSeen {
    tensor: String,
    reason: String,
}

/// Looks at the checkpoint in `path`.
///
/// # Errors
/// [`CliError`] when it cannot be opened or fits no family.
pub fn inspect(path: &Path, family_file: Option<&Path>) -> Result<CheckpointSeen, CliError> {
    let (checkpoint, resolved) = describe(path, family_file)?;
    let files: BTreeSet<&Path> = checkpoint.tensors().map(|t| t.file()).collect();
    let name = |f: &&Path| f.file_name().map(|n| n.to_string_lossy().into_owned());
    let ignored =
        resolved.ignored.iter().map(|i| IgnoredSeen { tensor: i.tensor.clone(), reason: i.reason.clone() });
    Ok(CheckpointSeen {
        schema_version: SCHEMA_VERSION,
        kind: "checkpoint",
        path: path.to_path_buf(),
        parameters: checkpoint.total_parameters(),
        bytes: checkpoint.tensors().map(|t| t.stored_bytes()).sum(),
        weight_files: files.iter().filter_map(name).collect(),
        components: components(&checkpoint, &resolved),
        model: sizes(&resolved),
        ignored: ignored.collect(),
        unread_files: checkpoint.unread_weights(),
        family: resolved.description.family,
        title: resolved.description.title,
    })
}

fn components(checkpoint: &Checkpoint, resolved: &Resolved) -> Vec<ComponentSeen> {
    let mut counted = BTreeSet::new();
    let seen = Component::ALL.into_iter().map(|component| {
        let of = |role: &str| Component::of_role(role) == Some(component);
        let bound = resolved.bindings.iter().filter(|(role, _)| of(role)).map(|(_, b)| b.tensor.as_str());
        let names: BTreeSet<&str> = bound.filter(|name| !counted.contains(*name)).collect();
        counted.extend(names.iter().copied());
        let mut seen = ComponentSeen {
            name: component.name(),
            names: common_name(&names),
            tensors: names.len(),
            linears: resolved.model.linears().filter(|(_, node, _)| node.component == component).count(),
            parameters: 0,
            bytes: 0,
            dtypes: BTreeMap::new(),
        };
        for tensor in names.iter().filter_map(|name| checkpoint.tensor(name)) {
            seen.parameters += tensor.elements() as u64;
            seen.bytes += tensor.stored_bytes();
            *seen.dtypes.entry(tensor.dtype().name()).or_default() += tensor.elements() as u64;
        }
        seen
    });
    seen.collect()
}

fn sizes(resolved: &Resolved) -> Sizes {
    let (vision, decoder) = (&resolved.model.spec.vision, &resolved.model.spec.decoder);
    Sizes {
        vision_blocks: vision.depth,
        vision_width: vision.width,
        decoder_layers: decoder.layers,
        decoder_width: decoder.width,
        heads: decoder.heads,
        kv_heads: decoder.kv_heads,
        vocabulary: decoder.vocab,
        max_positions: decoder.max_positions,
        tied_head: decoder.tied_head,
    }
}

/// The dotted words all names begin with, then `*`: tells the layouts of a family's releases apart.
fn common_name(names: &BTreeSet<&str>) -> String {
    // Sorted: what the first and the last have in common, all have.
    let (Some(first), Some(last)) = (names.first(), names.last()) else { return String::new() };
    if first == last {
        return (*first).to_string();
    }
    let words = first.split('.').zip(last.split('.')).take_while(|(a, b)| a == b).map(|(a, _)| a);
    words.chain(["*"]).collect::<Vec<_>>().join(".")
}

impl CheckpointSeen {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let m = &self.model;
        let head = if m.tied_head { "tied head" } else { "own head" };
        let mut lines = vec![
            property("checkpoint", self.path.display().to_string()),
            property("family", format!("{} ({})", self.family, self.title)),
            property("parameters", count(self.parameters)),
            property(
                "weights",
                format!("{} in {}", bytes(self.bytes), plural(self.weight_files.len(), "file")),
            ),
            property("vision", format!("{}, width {}", plural(m.vision_blocks, "block"), m.vision_width)),
            property(
                "decoder",
                format!(
                    "{}, width {}, {} heads ({} for keys and values), vocabulary {}, {head}, at most {} positions",
                    plural(m.decoder_layers, "layer"),
                    m.decoder_width,
                    m.heads,
                    m.kv_heads,
                    count(m.vocabulary as u64),
                    count(m.max_positions as u64)
                ),
            ),
            String::new(),
        ];
        lines.extend(self.component_lines());
        if !self.ignored.is_empty() {
            lines.extend([String::new(), format!("not used: {}", plural(self.ignored.len(), "tensor"))]);
            let rows: Vec<_> =
                self.ignored.iter().map(|i| vec![i.tensor.clone(), i.reason.clone()]).collect();
            lines.extend(table(&rows, &[]));
        }
        if !self.unread_files.is_empty() {
            lines.extend([
                String::new(),
                format!("weight files that are not read: {}", self.unread_files.join(", ")),
            ]);
        }
        lines
    }

    fn component_lines(&self) -> Vec<String> {
        let head = ["component", "parameters", "size", "types", "tensors", "linears", "names"];
        let mut rows = vec![head.map(String::from).to_vec()];
        for c in &self.components {
            let types: Vec<&str> = c.dtypes.keys().copied().collect();
            rows.push(vec![
                c.name.to_string(),
                count(c.parameters),
                bytes(c.bytes),
                types.join(" "),
                c.tensors.to_string(),
                c.linears.to_string(),
                c.names.clone(),
            ]);
        }
        table(&rows, &[1, 2, 4, 5])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> CheckpointSeen {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qwen2_vl");
        inspect(&path, None).unwrap()
    }

    #[test]
    fn components_add_up_to_the_checkpoint() {
        let seen = seen();
        assert!(seen.ignored.is_empty() && seen.model.tied_head, "{seen:?}");
        assert_eq!(seen.components.iter().map(|c| c.parameters).sum::<u64>(), seen.parameters);
        assert_eq!(seen.components.iter().map(|c| c.bytes).sum::<u64>(), seen.bytes);
        assert_eq!(seen.weight_files.len(), 2);
        // The tied head is counted with the token table.
        let embedding = seen.components.iter().find(|c| c.name == "embedding").unwrap();
        assert_eq!((embedding.tensors, embedding.names.as_str()), (1, "model.embed_tokens.weight"));
    }

    #[test]
    fn lines_name_the_family_and_every_component() {
        let text = seen().lines().join("\n");
        for part in ["qwen2_vl (Qwen2-VL)", "tied head", "BF16", "visual.*", "projector", "2 files"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("not used"), "{text}");
    }

    #[test]
    fn names_are_shortened_by_whole_words() {
        let of = |names: &[&str]| common_name(&names.iter().copied().collect());
        assert_eq!(of(&["model.layers.0.a", "model.layers.10.a"]), "model.layers.*");
        assert_eq!(of(&["model.a", "mod.a"]), "*");
        assert_eq!((of(&["one"]), of(&[])), ("one".into(), String::new()));
    }
}
