//! The files of a GGUF artifact: the text model and, where llama.cpp has a graph for it, the projector.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::error::PipelineError;
use super::super::export::{Origin, Plan};
use super::super::manifest::{FileHash, GgufForm, Tool};
use super::super::progress::{Progress, Stage, Warning};
use crate::export::gguf::emit::{self, FileKind, FloatType, Options, file_type};
use crate::export::gguf::mquant::{MQUANT_VERSION, MquantMetadata};
use crate::export::gguf::name::{FileName, size_label};
use crate::export::gguf::write::write as write_file;
use crate::export::gguf::{Blueprint, GgufOptions};
use crate::family::inputs::gguf::{self, GgufPlan, Provenance, TensorSource};
use crate::family::{Description, provenance, vocabulary_keys};
use crate::graph::WeightSource;
use crate::graph::ops::Rounding;
use crate::numeric::ggml::BlockType;
use crate::quantize::recipe::{Mix, Recipe};
use crate::quantize::{Decided, GgufGraph, Quantized};

/// Roles of the token table and of the head, which may be one tensor.
const TABLE: &str = "embedding.weight";
const HEAD: &str = "decoder.head.weight";

/// What the files are made of.
pub(in crate::pipeline) struct Made<'a> {
    /// The plan of the export.
    pub plan: &'a Plan,
    /// What was decided.
    pub decided: &'a Decided,
    /// The model with its types.
    pub quantized: &'a Quantized,
    /// Its numbers.
    pub weights: &'a dyn WeightSource,
    /// Its recipe.
    pub recipe: &'a Recipe,
    /// What it is made from.
    pub origin: &'a Origin,
}

/// What the family file says of llama.cpp.
///
/// # Errors
/// [`PipelineError::NoGguf`] with the reason and what to do instead.
pub(in crate::pipeline) fn route(description: &Description) -> Result<&GgufPlan, PipelineError> {
    description
        .gguf
        .as_ref()
        .map_err(|reason| PipelineError::NoGguf { family: description.title.clone(), reason: reason.clone() })
}

/// What llama.cpp's files of a model ask of quantization.
///
/// # Errors
/// As [`route`].
pub(in crate::pipeline) fn graph(description: &Description) -> Result<GgufGraph, PipelineError> {
    let text = &route(description)?.text;
    let of = |word: &str, roles: &[String]| roles.iter().any(|r| r.ends_with(word));
    let fused = |t: &gguf::GgufTensor| match &t.source {
        TensorSource::Roles(roles) => of(".attn.q.weight", roles) && of(".attn.v.weight", roles),
        TensorSource::SinCos { .. } => false,
    };
    Ok(GgufGraph { fused_qkv: text.tensors.iter().any(fused), is_70b: text.is_70b })
}

impl Made<'_> {
    /// Writes the files into `dir`. The warnings say what llama.cpp cannot do with them.
    pub(in crate::pipeline) fn write(
        &self,
        options: &GgufOptions,
        dir: &Path,
        progress: &mut dyn Progress,
    ) -> Result<(GgufForm, Vec<Warning>), PipelineError> {
        let (description, files) = (&self.plan.resolved().description, self.plan.checkpoint().files());
        let route = route(description)?;
        let provenance = provenance(description, files)?;
        let vocabulary = vocabulary_keys(description, files)?;
        let lowered = |file: &gguf::GgufFile, kind: FileKind| {
            let vocabulary = if kind == FileKind::Text { &vocabulary[..] } else { &[] };
            let extra = self.mquant(file).metadata();
            let options = Options {
                float: float_type(self.recipe),
                file_type: file_type(encoding(self.recipe, kind)),
                provenance: &provenance,
                vocabulary,
                extra: &extra,
                tied_head: self.tied_head(),
            };
            emit::lower(&self.quantized.model, file, kind, &options)
        };
        let text = lowered(&route.text, FileKind::Text)?;
        let vision = match &route.vision {
            Ok(file) => Some((file, lowered(file, FileKind::Vision)?)),
            Err(_) => None,
        };
        let tensors = text.tensors.len() + vision.as_ref().map_or(0, |(_, v)| v.tensors.len());
        progress.begin(Stage::Emit, tensors as u64);
        let size = size_label(self.plan.parameters());
        let name = |kind| file_name(&provenance, &size, encoding(self.recipe, kind));
        let mut written = 0;
        let mut put =
            |stem: &str, made: emit::Emission, split: Option<u64>| -> Result<Vec<String>, PipelineError> {
                let blueprint = Blueprint { metadata: made.metadata.clone(), tensors: made.tensors.clone() };
                let mut fill = |i: usize| made.bytes(i, self.weights).map_err(PipelineError::from);
                let mut done = |i: usize| {
                    written += 1;
                    progress.at(written, &made.tensors[i].name);
                };
                write_file(dir, stem, &blueprint, split, &mut fill, &mut done).map(|paths| names(&paths))
            };
        let text_files = put(&name(FileKind::Text).file_stem(), text, options.split)?;
        let (projector, mmproj) = match vision {
            Some((file, made)) => {
                // llama.cpp's loader of projectors (`tools/mtmd/clip.cpp`) looks for no other file.
                (projector_type(file), put(&name(FileKind::Vision).projector_stem(), made, None)?)
            }
            None => (None, vec![]),
        };
        let architecture = route.text.architecture.clone();
        let form = GgufForm { architecture, text: text_files, projector, mmproj };
        Ok((form, self.warnings(route)))
    }

    fn warnings(&self, route: &GgufPlan) -> Vec<Warning> {
        let family = self.plan.resolved().description.title.clone();
        let vision = route.vision.as_ref().err().cloned();
        let vision = vision.map(|reason| Warning::NoProjector { family: family.clone(), reason });
        let limits =
            route.limits.iter().map(|limit| Warning::Limit { family: family.clone(), limit: limit.clone() });
        vision.into_iter().chain(limits).collect()
    }

    /// Whether the head has the numbers of the token table, bit for bit.
    fn tied_head(&self) -> bool {
        let rewrites = &self.decided.rewrites;
        self.quantized.model.spec.decoder.tied_head && rewrites.of(HEAD) == rewrites.of(TABLE)
    }

    /// What is said of the tensors of `file`.
    fn mquant(&self, file: &gguf::GgufFile) -> MquantMetadata {
        let tool = Tool::this();
        let notes = &self.decided.rotations;
        let mut said = MquantMetadata {
            version: MQUANT_VERSION,
            tool: format!("{} {}", tool.name, tool.version),
            recipe: self.recipe.name.clone(),
            method: method(self.recipe).into(),
            rotation_names: notes.iter().map(|n| n.what.clone()).collect(),
            rotation_matrices: notes.iter().map(|n| n.matrix.clone().unwrap_or_default()).collect(),
            msq_names: vec![],
            msq_visual: vec![],
            msq_text: vec![],
            sha256_source: hash_of_hashes(&self.origin.source.files),
            sha256_calibration: self.origin.calibration.as_ref().map(|c| c.file.sha256.clone()),
        };
        for tensor in &file.tensors {
            let TensorSource::Roles(roles) = &tensor.source else { continue };
            // A tensor of several roles holds linears that read one value.
            let of = |o: &&crate::quantize::Outcome| {
                roles.iter().any(|r| r.strip_suffix(".weight") == Some(&o.role))
            };
            let Some(outcome) = self.quantized.outcomes.iter().find(of) else { continue };
            if let Some(Rounding::Static(scales)) = outcome.rounding {
                said.msq_names.push(tensor.name.clone());
                said.msq_visual.push(scales.visual);
                said.msq_text.push(scales.text);
            }
        }
        said
    }
}

/// How weights without a block type are stored: as the recipe stores linears where that is a float type, beside codes in half precision.
fn float_type(recipe: &Recipe) -> FloatType {
    match recipe.components.decoder.weights.blocks() {
        None => FloatType::F32,
        Some(BlockType::Bf16) => FloatType::Bf16,
        Some(_) => FloatType::F16,
    }
}

/// Most of a file's weights: the name of a mix or type. A projector file has no mix.
fn encoding(recipe: &Recipe, kind: FileKind) -> &'static str {
    let c = &recipe.components;
    let (mix, weights) = match kind {
        FileKind::Text => (recipe.mix, c.decoder.weights),
        FileKind::Vision => (None, c.vision.weights),
    };
    mix.map_or_else(|| weights.blocks().unwrap_or(BlockType::F32).name(), Mix::name)
}

/// How weights were rounded, in metadata.
fn method(recipe: &Recipe) -> &'static str {
    match (&recipe.gptq, recipe.importance) {
        (Some(_), _) => "gptq",
        (None, true) => "importance",
        (None, false) => "nearest",
    }
}

/// A name that has its size already, such as `Qwen2-VL-2B-Instruct`, is left as it is.
fn file_name<'a>(provenance: &'a Provenance, size: &'a str, encoding: &'a str) -> FileName<'a> {
    let base = provenance.basename.as_deref().unwrap_or(&provenance.name);
    let sized = base.split(['-', '_', ' ']).any(is_size);
    FileName { base, size: (!sized).then_some(size), encoding, ..FileName::default() }
}

/// Whether a word is a number of parameters: `2B`, `1.5b`, `300M`.
fn is_size(word: &str) -> bool {
    let number = word.strip_suffix(['K', 'M', 'B', 'T', 'k', 'm', 'b', 't']).unwrap_or_default();
    number.starts_with(|c: char| c.is_ascii_digit()) && number.parse::<f64>().is_ok()
}

/// `clip.projector_type` of a projector file.
fn projector_type(file: &gguf::GgufFile) -> Option<String> {
    file.keys.iter().find_map(|(key, value)| match value {
        gguf::KeyValue::Text(text) if key == "clip.projector_type" => Some(text.clone()),
        _ => None,
    })
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned()).collect()
}

/// SHA-256 of the lines that `sha256sum` prints for these files in the order of their names.
fn hash_of_hashes(files: &[FileHash]) -> String {
    let mut lines: Vec<String> = files.iter().map(|f| format!("{}  {}\n", f.sha256, f.name)).collect();
    lines.sort_by(|a, b| a[64.min(a.len())..].cmp(&b[64.min(b.len())..]));
    format!("{:x}", Sha256::digest(lines.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_size() {
        let named = |name: &str| {
            let provenance = Provenance { name: name.into(), ..Provenance::default() };
            file_name(&provenance, "2.2B", "q4_k_m").file_stem()
        };
        assert_eq!(named("Qwen2-VL-2B-Instruct"), "Qwen2-VL-2B-Instruct-Q4_K_M");
        assert_eq!(named("Qwen2-VL"), "Qwen2-VL-2.2B-Q4_K_M");
        assert_eq!(named("MiniCPM-V-2_6"), "MiniCPM-V-2_6-2.2B-Q4_K_M");
        assert!(["2B", "1.5b", "300M"].into_iter().all(is_size));
        assert!(["B", "2", "V2", "InfB", "x2B", ""].into_iter().all(|w| !is_size(w)));
    }

    #[test]
    fn sources_are_hashed_as_sha256sum_lists_them() {
        let file =
            |name: &str, digit: &str| FileHash { name: name.into(), bytes: 1, sha256: digit.repeat(64) };
        let (a, b) = (file("a", "f"), file("b", "0"));
        let lines = format!("{}  a\n{}  b\n", a.sha256, b.sha256);
        let want = format!("{:x}", Sha256::digest(lines));
        assert_eq!(hash_of_hashes(&[b.clone(), a.clone()]), want);
        assert_eq!(hash_of_hashes(&[a, b]), want);
    }
}
