//! One export, stage by stage. See [`super`] for what a run promises.

use std::path::Path;

use super::card::model_card;
use super::emit;
use super::error::PipelineError;
use super::manifest::{
    Calibration, FileHash, GgufForm, MANIFEST_FILE, MANIFEST_VERSION, Manifest, Placeholder, Source, Tool,
    hash_file, hash_files, linears,
};
use super::output::{Output, write_text};
use super::prepare::{Prepared, prepare};
use super::progress::{Counted, Progress, Stage, Warning};
use super::report::{ExportReport, REPORT_VERSION};
use super::request::{ExportRequest, Format};
use crate::checkpoint::Checkpoint;
use crate::export::onnx::{self, MsqForm};
use crate::family::{CheckpointWeights, Library, Resolved, resolve};
use crate::graph::dump;
use crate::passes::order_by_modality;
use crate::passes::rewrite::RewrittenWeights;
use crate::quantize::{
    self, CalibrationSample, Decided, QuantizeError, Quantized, QuantizedWeights, RotationNote, Target,
    Transformed, Workspace,
};

/// A checkpoint read and understood, and what the recipe means for it. Nothing has been computed.
#[derive(Debug)]
pub struct Plan {
    checkpoint: Checkpoint,
    resolved: Resolved,
    transformed: Transformed,
    target: Target,
    /// Precision of every linear.
    pub linears: quantize::Plan,
}

impl Plan {
    /// The model described by the checkpoint.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What the recipe rotates.
    pub fn rotations(&self) -> &[RotationNote] {
        &self.transformed.notes
    }

    /// Parameters of the source model.
    pub fn parameters(&self) -> u64 {
        self.checkpoint.total_parameters()
    }

    /// The canonical float graphs as text.
    pub fn ir(&self) -> String {
        dump(&self.resolved.model)
    }
}

/// Reads a checkpoint and plans an export without computing anything.
///
/// # Errors
/// [`PipelineError`] when the checkpoint, its family or the recipe do not fit together.
pub fn plan(request: &ExportRequest) -> Result<Plan, PipelineError> {
    let checkpoint = Checkpoint::open(&request.model)?;
    let library = match &request.family_file {
        Some(file) => Library::from_file(file)?,
        None => Library::built_in()?,
    };
    let resolved = resolve(&library, &checkpoint)?;
    let target = match &request.format {
        Format::Onnx(_) => Target::Onnx,
        Format::Gguf(_) => Target::Gguf(emit::gguf::graph(&resolved.description)?),
    };
    request.recipe.fits(target)?;
    let transformed = quantize::transform(&resolved.model, &request.recipe.rotation, target)?;
    let linears = quantize::plan(&transformed.model, &request.recipe, target)?;
    if request.recipe.needs_calibration() && request.calibration.is_none() {
        return Err(PipelineError::NeedsCalibration { recipe: request.recipe.name.clone() });
    }
    Ok(Plan { checkpoint, resolved, transformed, target, linears })
}

/// Runs one export. On any error nothing is left behind.
///
/// # Errors
/// [`PipelineError`]; see [`PipelineError::is_user_error`].
pub fn export(request: &ExportRequest, progress: &mut dyn Progress) -> Result<ExportReport, PipelineError> {
    let mut run = Run { request, progress, warnings: vec![] };
    run.progress.begin(Stage::Read, 1);
    let plan = plan(request)?;
    let output = Output::begin(&request.out, request.force)?;
    for file in plan.checkpoint.unread_weights() {
        run.warn(Warning::UnreadWeights { file });
    }
    if request.calibration.is_some() && !request.recipe.needs_calibration() {
        run.warn(Warning::UnusedCalibration { recipe: request.recipe.name.clone() });
    }
    run.progress.end();
    let stored = CheckpointWeights::new(&plan.checkpoint, &plan.resolved.bindings);
    let (prepared, decided) = decide(&plan, request, run.progress)?;
    let samples = prepared.as_ref().map_or(&[][..], |p| &p.samples);
    let weights = RewrittenWeights::new(&stored, &decided.rewrites);
    run.prove(&plan, &decided, (&stored, &weights), samples)?;
    let mut quantized = run.quantize(&decided, &weights, samples, output.path())?;
    if let Format::Onnx(options) = &request.format
        && options.msq == MsqForm::Split
        && emit::onnx::carries_modality(&quantized)
    {
        quantized.model = order_by_modality(quantized.model).map_err(QuantizeError::from)?;
    }
    run.missing_rows(&quantized);
    let origin = run.origin(&plan, prepared)?;
    let weights = QuantizedWeights::new(&quantized.codes, &weights);
    let gguf = run.emit(&plan, (&decided, &quantized), &weights, &origin, output.path())?;
    run.finish(plan, decided, quantized, (origin, gguf), output)
}

/// Calibration samples as tensors, if the recipe needs them, and what is decided from them before anything is rounded.
pub(super) fn decide(
    plan: &Plan,
    request: &ExportRequest,
    progress: &mut dyn Progress,
) -> Result<(Option<Prepared>, Decided), PipelineError> {
    let prepared = match &request.calibration {
        Some(data) if request.recipe.needs_calibration() => {
            Some(prepare(data, &plan.checkpoint, &plan.resolved, progress)?)
        }
        _ => None,
    };
    let samples = prepared.as_ref().map_or(&[][..], |p| &p.samples);
    let stored = CheckpointWeights::new(&plan.checkpoint, &plan.resolved.bindings);
    let mut counted = Counted::new(progress, Stage::Calibrate);
    let decided = quantize::decide(
        &plan.resolved.model,
        &stored,
        &request.recipe,
        plan.target,
        samples,
        &mut counted.step(),
    );
    counted.end();
    Ok((prepared, decided?))
}

/// What an artifact is made from, by content.
#[derive(Debug)]
pub(super) struct Origin {
    /// The checkpoint.
    pub source: Source,
    /// Calibration data.
    pub calibration: Option<Calibration>,
}

/// One export under way.
struct Run<'a> {
    request: &'a ExportRequest,
    progress: &'a mut dyn Progress,
    warnings: Vec<String>,
}

impl Run<'_> {
    fn warn(&mut self, warning: Warning) {
        self.progress.warn(&warning);
        self.warnings.push(warning.to_string());
    }

    /// Compares the changed model with the stored one on a prompt, with an image if there is one.
    fn prove(
        &mut self,
        plan: &Plan,
        decided: &Decided,
        (stored, rewritten): (&CheckpointWeights<'_>, &RewrittenWeights<'_>),
        samples: &[CalibrationSample],
    ) -> Result<(), PipelineError> {
        let with_image = samples.iter().find(|s| !s.grids.is_empty());
        let Some(sample) = with_image.or(samples.first()) else { return Ok(()) };
        if !self.request.recipe.changes_weights() {
            return Ok(());
        }
        self.progress.begin(Stage::Prove, 1);
        let (before, after) = ((&plan.resolved.model, stored as _), (&decided.model, rewritten as _));
        let proof = quantize::prove(before, after, sample)?;
        let told = format!("gap {:.0e} in f32, {:.0e} in f64", proof.single, proof.double);
        self.progress.at(1, &told);
        self.progress.end();
        Ok(())
    }

    /// Scales and codes of every planned linear.
    fn quantize(
        &mut self,
        decided: &Decided,
        weights: &RewrittenWeights<'_>,
        samples: &[CalibrationSample],
        dir: &Path,
    ) -> Result<Quantized, PipelineError> {
        let mut counted = Counted::new(self.progress, Stage::Quantize);
        let space = Workspace { dir, activation_memory: self.request.activation_memory };
        let recipe = &self.request.recipe;
        let quantized = quantize::quantize(decided, weights, recipe, samples, space, &mut counted.step());
        counted.end();
        Ok(quantized?)
    }

    /// Warns of linears that saw rows of one modality only.
    fn missing_rows(&mut self, quantized: &Quantized) {
        let in_decoder = |role: &str| role.starts_with("decoder.");
        let observed = |o: &&quantize::Outcome| in_decoder(&o.role) && o.precision.activations.are_static();
        for note in quantized.outcomes.iter().filter(observed) {
            let linear = note.role.clone();
            if note.range.visual.rows == 0 {
                self.warn(Warning::NoRows { linear, modality: "visual" });
            } else if note.range.text.rows == 0 {
                self.warn(Warning::NoRows { linear, modality: "text" });
            }
        }
    }

    /// What the artifact is made from.
    fn origin(&mut self, plan: &Plan, prepared: Option<Prepared>) -> Result<Origin, PipelineError> {
        self.progress.begin(Stage::Hash, 1);
        let files = hash_files(&plan.checkpoint.input_files())?;
        let calibration = match (&self.request.calibration, prepared) {
            (Some(data), Some(prepared)) => {
                Some(Calibration { file: hash_file(&data.path)?, samples: prepared.items })
            }
            _ => None,
        };
        self.progress.at(1, "source hashes");
        self.progress.end();
        Ok(Origin { source: Source { revision: revision(&self.request.model), files }, calibration })
    }

    /// The files that a runtime loads.
    fn emit(
        &mut self,
        plan: &Plan,
        (decided, quantized): (&Decided, &Quantized),
        weights: &QuantizedWeights<'_>,
        origin: &Origin,
        dir: &Path,
    ) -> Result<Option<GgufForm>, PipelineError> {
        let (gguf, warnings) = match &self.request.format {
            Format::Onnx(options) => {
                let warning = emit::onnx::write(plan, quantized, weights, (options, dir), self.progress)?;
                (None, Vec::from_iter(warning))
            }
            Format::Gguf(options) => {
                let recipe = &self.request.recipe;
                let made = emit::gguf::Made { plan, decided, quantized, weights, recipe, origin };
                let (form, warnings) = made.write(options, dir, self.progress)?;
                (Some(form), warnings)
            }
        };
        warnings.into_iter().for_each(|w| self.warn(w));
        self.progress.end();
        Ok(gguf)
    }

    /// Hashes, manifest, model card, final name.
    fn finish(
        &mut self,
        plan: Plan,
        decided: Decided,
        quantized: Quantized,
        made: (Origin, Option<GgufForm>),
        output: Output,
    ) -> Result<ExportReport, PipelineError> {
        self.progress.begin(Stage::Finish, 1);
        let mut manifest = self.manifest(&plan, &decided, &quantized, made);
        write_text(output.path(), "README.md", &model_card(&plan.resolved, &manifest))?;
        manifest.files = hash_folder(output.path())?;
        self.progress.at(1, "artifact hashes");
        let text = serde_json::to_string_pretty(&manifest).map(|t| t + "\n");
        let manifest_path = output.path().join(MANIFEST_FILE);
        let text = text.map_err(|e| PipelineError::Io { path: manifest_path, source: e.into() })?;
        write_text(output.path(), MANIFEST_FILE, &text)?;
        let artifact_bytes = manifest.files.iter().map(|f| f.bytes).sum::<u64>() + text.len() as u64;
        let artifact = output.finish(self.request.force)?;
        self.progress.end();
        let ignored = plan.resolved.ignored.iter().map(|i| (i.tensor.clone(), i.reason.clone()));
        Ok(ExportReport {
            schema_version: REPORT_VERSION,
            artifact,
            parameters: plan.parameters(),
            tensors_used: plan.resolved.tensors_used(),
            tensors_ignored: ignored.collect(),
            linears_quantized: decided.plan.quantized(),
            linears: decided.plan.linears.len(),
            calibration_samples: manifest.calibration.as_ref().map_or(0, |c| c.samples.len()),
            source_bytes: manifest.source.files.iter().map(|f| f.bytes).sum(),
            artifact_bytes,
            warnings: std::mem::take(&mut self.warnings),
            decisions: decided.decisions,
            family: plan.resolved.description.family,
            recipe: self.request.recipe.name.clone(),
        })
    }

    /// The manifest, still without the files of the artifact.
    fn manifest(
        &self,
        plan: &Plan,
        decided: &Decided,
        quantized: &Quantized,
        (origin, gguf): (Origin, Option<GgufForm>),
    ) -> Manifest {
        let prompt = &plan.resolved.description.prompt;
        Manifest {
            schema_version: MANIFEST_VERSION,
            tool: Tool::this(),
            family: plan.resolved.description.family.clone(),
            format: self.request.format.name().into(),
            onnx: self.request.format.onnx().map(|o| emit::onnx::form(quantized, o)),
            gguf,
            graphs: self.request.format.onnx().map_or(vec![], |o| onnx::signatures(&quantized.model, o)),
            placeholder: Placeholder {
                image_token_id: prompt.image_token_id,
                image_token: prompt.image_token.clone(),
            },
            eos_token_ids: prompt.eos_token_ids.clone(),
            recipe: self.request.recipe.clone(),
            source: origin.source,
            calibration: origin.calibration,
            rotations: decided.rotations.clone(),
            decisions: decided.decisions.clone(),
            linears: linears(quantized, &decided.plan, self.request.format.onnx()),
            files: vec![],
        }
    }
}

/// The hub revision, when the folder is `.../snapshots/<revision>` of a hub cache.
fn revision(model: &Path) -> Option<String> {
    let model = model.canonicalize().ok()?;
    let parent = model.parent()?.file_name()?;
    (parent == "snapshots").then(|| model.file_name().map(|n| n.to_string_lossy().into_owned()))?
}

/// Hashes of all files of a flat folder, by name.
fn hash_folder(dir: &Path) -> Result<Vec<FileHash>, PipelineError> {
    let io = |source| PipelineError::Io { path: dir.to_path_buf(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    hash_files(&paths)
}
