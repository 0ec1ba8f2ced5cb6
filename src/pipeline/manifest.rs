//! The manifest `mquant.json`: what an artifact is, what it was made from and how, with the hash of every file. It holds no time, no path
//! and no machine, so the same run writes the same bytes. Its JSON schema is `schemas/manifest.schema.json`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::PipelineError;
use crate::export::onnx::{GraphSignature, LinearForm, OnnxOptions};
use crate::graph::ops::Rounding;
use crate::quantize::recipe::{Activations, Recipe, Weights};
use crate::quantize::{self, LinearDecision, Outcome, Quantized, RotationNote, WeightOutcome};

/// Name of the manifest inside an artifact.
pub const MANIFEST_FILE: &str = "mquant.json";

/// Version of the manifest format.
pub const MANIFEST_VERSION: u32 = 1;

/// Everything there is to know of an artifact besides its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version.
    pub schema_version: u32,
    /// Program that wrote it.
    pub tool: Tool,
    /// Family of the source checkpoint.
    pub family: String,
    /// Artifact format: `onnx` or `gguf`.
    pub format: String,
    /// Form of ONNX graphs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<OnnxForm>,
    /// The GGUF files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gguf: Option<GgufForm>,
    /// The ONNX files, in the order in which they run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graphs: Vec<GraphSignature>,
    /// How images stand in prompts.
    pub placeholder: Placeholder,
    /// Token ids that end generation.
    pub eos_token_ids: Vec<i64>,
    /// The recipe, whole.
    pub recipe: Recipe,
    /// The checkpoint.
    pub source: Source,
    /// Calibration data; absent when the recipe needs none.
    pub calibration: Option<Calibration>,
    /// Quantized linears.
    pub linears: Vec<QuantizedLinear>,
    /// Rotations fused into the weights, and those asked for and left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<RotationNote>,
    /// What was weighed for linears that had a choice of remedy or grid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<LinearDecision>,
    /// Every other file of the artifact, by name.
    pub files: Vec<FileHash>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
}

/// Form of ONNX graphs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnnxForm {
    /// `ort` or `standard`.
    pub ops: String,
    /// Form asked for: `int8-gemm`, `matmulnbits`, `portable`, or `default`; every linear says which it has.
    pub form: String,
    /// What the files hold of weights below 8 bits in int8-gemm: `int8`, or `int4`, which becomes int8 at load.
    pub store: String,
    /// Whether image features and embeddings carry the modality as one more channel: 1 for visual rows, 0 for text.
    pub modality_channel: bool,
    /// Form of linears with two activation scales, `row-scale` or `split`; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msq_form: Option<String>,
}

/// The files of a GGUF artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GgufForm {
    /// `general.architecture` of the text model.
    pub architecture: String,
    /// Files of the text model, in order; llama.cpp is given the first.
    pub text: Vec<String>,
    /// `clip.projector_type` of the projector; absent where llama.cpp has no graph for the vision side.
    pub projector: Option<String>,
    /// Files of the projector, in order.
    pub mmproj: Vec<String>,
}

/// How an image stands in `input_ids`: each decoder row of it (each row of `image_features`) is one placeholder. What stands around and
/// between them differs between families; `mquant-export preprocess` writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Placeholder {
    /// Id of the placeholder token.
    pub image_token_id: i64,
    /// Its text.
    pub image_token: String,
}

/// The source checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Hub revision, when the folder is a hub cache snapshot.
    pub revision: Option<String>,
    /// Every file read.
    pub files: Vec<FileHash>,
}

/// A file by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileHash {
    /// Plain name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
}

/// Calibration data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Hash of the data set file.
    pub file: FileHash,
    /// Samples used, in order.
    pub samples: Vec<CalibrationItem>,
}

/// One calibration sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationItem {
    /// Id in the data set.
    pub id: String,
    /// SHA-256 of what the model was shown (roles, texts, image bytes).
    pub sha256: String,
}

/// One quantized linear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuantizedLinear {
    /// Role without `.weight`.
    pub role: String,
    /// Grid of its weight.
    pub weights: Weights,
    /// Arithmetic of its input by the recipe; only the form `int8-gemm` rounds it so.
    pub activations: Activations,
    /// Its form in the graph: `int8-gemm`, `float-gemm` (weights become floats at load), `matmulnbits` or `portable`; in GGUF files `ggml`, whose kernels
    /// round inputs by themselves.
    pub form: String,
    /// Static scale of visual rows; none where there are no static scales.
    pub visual_scale: Option<f32>,
    /// Static scale of text rows.
    pub text_scale: Option<f32>,
    /// Code of 0 in int8.
    pub zero: i8,
    /// Largest absolute visual input in calibration.
    pub visual_max: f32,
    /// Largest absolute text input in calibration.
    pub text_max: f32,
    /// What rounding did to the weight, where it was measured.
    pub rounding: Option<WeightOutcome>,
}

impl Tool {
    /// This program.
    pub fn this() -> Self {
        Self { name: env!("CARGO_PKG_NAME").into(), version: env!("CARGO_PKG_VERSION").into() }
    }
}

impl QuantizedLinear {
    fn of(outcome: &Outcome, form: String) -> Self {
        let (visual_scale, text_scale, zero) = match outcome.rounding {
            Some(Rounding::Static(s)) => (Some(s.visual), Some(s.text), 0),
            Some(Rounding::Asymmetric { scale, zero }) => (Some(scale), Some(scale), zero),
            Some(Rounding::PerRow) | None => (None, None, 0),
        };
        Self {
            role: outcome.role.clone(),
            weights: outcome.precision.weights,
            activations: outcome.precision.activations,
            form,
            visual_scale,
            text_scale,
            zero,
            visual_max: outcome.range.visual.max,
            text_max: outcome.range.text.max,
            rounding: outcome.weight,
        }
    }
}

impl Manifest {
    /// Reads the manifest of an artifact folder.
    ///
    /// # Errors
    /// [`PipelineError::Output`] when it is absent, broken or of another version.
    pub fn read(artifact: &Path) -> Result<Self, PipelineError> {
        let bad = |reason: String| PipelineError::Output { path: artifact.to_path_buf(), reason };
        let text = std::fs::read_to_string(artifact.join(MANIFEST_FILE))
            .map_err(|e| bad(format!("{MANIFEST_FILE} cannot be read: {e}")))?;
        let manifest: Self = serde_json::from_str(&text)
            .map_err(|e| bad(format!("{MANIFEST_FILE} is not a manifest: {e}")))?;
        if manifest.schema_version != MANIFEST_VERSION {
            let found = manifest.schema_version;
            return Err(bad(format!(
                "{MANIFEST_FILE} has version {found}, this program reads {MANIFEST_VERSION}"
            )));
        }
        Ok(manifest)
    }

    /// Names of files that are absent or changed since the manifest was written.
    ///
    /// # Errors
    /// [`PipelineError::Output`] when a name leads out of the folder, [`PipelineError::Io`] when a file exists and cannot be read.
    pub fn changed_files(&self, artifact: &Path) -> Result<Vec<String>, PipelineError> {
        let mut changed = Vec::new();
        for file in &self.files {
            if Path::new(&file.name).file_name().is_none_or(|n| n != file.name.as_str()) {
                let reason = format!("{MANIFEST_FILE} lists {:?}, which is not a plain file name", file.name);
                return Err(PipelineError::Output { path: artifact.to_path_buf(), reason });
            }
            let path = artifact.join(&file.name);
            if !path.is_file() || hash_file(&path)? != *file {
                changed.push(file.name.clone());
            }
        }
        Ok(changed)
    }
}

/// All quantized linears of a plan, in the forms that `options` give them.
pub(super) fn linears(
    quantized: &Quantized,
    plan: &quantize::Plan,
    onnx: Option<&OnnxOptions>,
) -> Vec<QuantizedLinear> {
    let cols: BTreeMap<&str, usize> = plan.linears.iter().map(|l| (l.role.as_str(), l.input)).collect();
    let form = |o: &Outcome| {
        if o.precision.weights.blocks().is_some() {
            return onnx.map(OnnxOptions::block_form);
        }
        let grid = o.precision.weights.grid()?;
        let cols = cols.get(o.role.as_str()).copied().unwrap_or(0);
        onnx?.linear_form(grid, cols, o.rounding.is_some()).ok()
    };
    let otherwise = if onnx.is_some() { "float" } else { "ggml" };
    let name = |o: &Outcome| form(o).map_or(otherwise, LinearForm::name).to_string();
    quantized.outcomes.iter().map(|o| QuantizedLinear::of(o, name(o))).collect()
}

/// Hashes of files, in the order given.
///
/// # Errors
/// [`PipelineError::Io`] for the first that cannot be read.
pub(in crate::pipeline) fn hash_files(paths: &[PathBuf]) -> Result<Vec<FileHash>, PipelineError> {
    paths.par_iter().map(|p| hash_file(p)).collect()
}

/// Hash of one file.
///
/// # Errors
/// [`PipelineError::Io`] when it cannot be read.
pub(in crate::pipeline) fn hash_file(path: &Path) -> Result<FileHash, PipelineError> {
    let io = |source| PipelineError::Io { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(io)?;
    let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0u8; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).map_err(io)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(FileHash { name, bytes, sha256: format!("{:x}", hasher.finalize()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_outside_the_artifact_are_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::load("float").unwrap();
        for name in ["../secret", "/etc/passwd", "a/b", "..", ""] {
            let file = FileHash { name: name.into(), bytes: 0, sha256: String::new() };
            let manifest = Manifest {
                schema_version: MANIFEST_VERSION,
                tool: Tool::this(),
                family: String::new(),
                format: "onnx".into(),
                onnx: Some(OnnxForm {
                    ops: "ort".into(),
                    form: "default".into(),
                    store: "int8".into(),
                    modality_channel: false,
                    msq_form: None,
                }),
                gguf: None,
                graphs: vec![],
                placeholder: Placeholder { image_token_id: 0, image_token: String::new() },
                eos_token_ids: vec![],
                recipe: recipe.clone(),
                source: Source { revision: None, files: vec![] },
                calibration: None,
                decisions: vec![],
                linears: vec![],
                rotations: vec![],
                files: vec![file],
            };
            let e = manifest.changed_files(dir.path()).unwrap_err().to_string();
            assert!(e.contains("not a plain file name"), "{e}");
        }
    }
}
