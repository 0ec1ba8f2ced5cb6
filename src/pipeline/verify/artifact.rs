//! The files of an artifact that are run, and what is said of them without running.

use std::path::Path;

use super::configuration;
use crate::calibrate::Preparer;
use crate::checkpoint::{Checkpoint, SideFiles};
use crate::export::gguf::GgufFile;
use crate::export::onnx::GraphSignature;
use crate::family::inputs::gguf::GgufPlan;
use crate::family::{Description, Library, Resolved, describe};
use crate::pipeline::emit::gguf::route;
use crate::pipeline::error::{PipelineError, VerifyError};
use crate::pipeline::manifest::Manifest;
use crate::pipeline::prepare::preparer;
use crate::pipeline::run::artifact_files;
use crate::quantize::Target;
use crate::verify::select::ArtifactFiles;

/// The files that a runtime loads.
pub(super) enum Files<'a> {
    /// Graphs, with what goes in and out.
    Onnx(&'a [GraphSignature]),
    /// Models in blocks of ggml.
    Gguf(Box<Models<'a>>),
}

/// The GGUF files and what they were written by.
pub(super) struct Models<'a> {
    pub text: GgufFile,
    pub mmproj: Option<GgufFile>,
    pub plan: &'a GgufPlan,
}

impl<'a> Files<'a> {
    /// Opens the files of an artifact of the family that `description` describes.
    pub fn open(
        dir: &Path,
        manifest: &'a Manifest,
        description: &'a Description,
    ) -> Result<Self, PipelineError> {
        match artifact_files(dir, manifest)? {
            ArtifactFiles::Onnx { .. } if manifest.graphs.is_empty() => {
                Err(VerifyError::Incomplete { artifact: dir.to_path_buf(), what: "graphs" }.into())
            }
            ArtifactFiles::Onnx { .. } => Ok(Files::Onnx(&manifest.graphs)),
            ArtifactFiles::Gguf(files) => {
                let text = GgufFile::open(&files.text)?;
                let mmproj = files.mmproj.as_deref().map(GgufFile::open).transpose()?;
                Ok(Files::Gguf(Box::new(Models { text, mmproj, plan: route(description)? })))
            }
        }
    }

    /// Whether prompts may have images.
    pub fn shows_images(&self) -> bool {
        match self {
            Files::Onnx(_) => true,
            Files::Gguf(models) => models.mmproj.is_some(),
        }
    }

    /// What the weights were changed for.
    pub fn target(&self, description: &Description) -> Result<Target, PipelineError> {
        match self {
            Files::Onnx(_) => Ok(Target::Onnx),
            Files::Gguf(_) => Ok(Target::Gguf(crate::pipeline::emit::gguf::graph(description)?)),
        }
    }

    /// What prepares prompts for these files: their own, or where they have none the checkpoint's. Files that do not fit together are an error here; what differs in them
    /// is told by [`differences`](Self::differences).
    pub fn preparer(
        &self,
        dir: &Path,
        library: &Library,
        (checkpoint, description): (&Checkpoint, &Description),
    ) -> Result<Preparer, PipelineError> {
        match self {
            Files::Onnx(_) => {
                let files = SideFiles::open(dir)?;
                preparer(&files, &describe(library, &files)?)
            }
            Files::Gguf(_) => preparer(checkpoint.files(), description),
        }
    }

    /// What their small files say otherwise than the checkpoint's.
    pub fn differences(
        &self,
        dir: &Path,
        manifest: &Manifest,
        checkpoint: &Checkpoint,
        resolved: &Resolved,
    ) -> Result<Vec<String>, PipelineError> {
        let description = &resolved.description;
        match self {
            Files::Onnx(_) => configuration::of_onnx(dir, manifest, checkpoint, description),
            Files::Gguf(m) => {
                configuration::of_gguf(&m.text, m.mmproj.as_ref(), m.plan, checkpoint, description)
            }
        }
    }
}
