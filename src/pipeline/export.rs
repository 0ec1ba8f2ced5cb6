//! One export, stage by stage. See [`super`] for what a run promises.

use std::path::{Path, PathBuf};

use super::card::model_card;
use super::error::PipelineError;
use super::manifest::{
    Calibration, FileHash, MANIFEST_FILE, MANIFEST_VERSION, Manifest, OnnxForm, Placeholder, Source, Tool,
    hash_file, hash_files, linears,
};
use super::output::Output;
use super::prepare::{Prepared, prepare};
use super::progress::{Counted, Progress, Stage, Warning};
use super::report::{ExportReport, REPORT_VERSION};
use super::request::ExportRequest;
use crate::checkpoint::Checkpoint;
use crate::export::onnx::{self, MsqForm, genai::GenaiInput};
use crate::family::{CheckpointWeights, Library, Resolved, resolve};
use crate::graph::dump;
use crate::passes::order_by_modality;
use crate::passes::rewrite::RewrittenWeights;
use crate::quantize::{
    self, CalibrationSample, Decided, QuantizeError, Quantized, QuantizedWeights, RotationNote, Target, Transformed,
    Workspace,
};

/// Hugging Face's description of a tokenizer.
const TOKENIZER_FILE: &str = "tokenizer.json";

/// A checkpoint read and understood, and what the recipe means for it. Nothing has been computed.
#[derive(Debug)]
pub struct Plan {
    checkpoint: Checkpoint,
    resolved: Resolved,
    transformed: Transformed,
    /// Precision of every linear.
    pub linears: quantize::Plan,
}

impl Plan {
    /// The model described by the checkpoint.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
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
    let transformed = quantize::transform(&resolved.model, &request.recipe.rotation, Target::Onnx)?;
    let linears = quantize::plan(&transformed.model, &request.recipe, Target::Onnx)?;
    if request.recipe.needs_calibration() && request.calibration.is_none() {
        return Err(PipelineError::NeedsCalibration { recipe: request.recipe.name.clone() });
    }
    Ok(Plan { checkpoint, resolved, transformed, linears })
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
    if request.onnx.msq == MsqForm::Split && carries_modality(&quantized) {
        quantized.model = order_by_modality(quantized.model).map_err(QuantizeError::from)?;
    }
    run.missing_rows(&quantized);
    run.emit(&plan, &quantized, &QuantizedWeights::new(&quantized.codes, &weights), output.path())?;
    run.finish(plan, decided, quantized, prepared, output)
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
    let decided =
        quantize::decide(&plan.resolved.model, &stored, &request.recipe, Target::Onnx, samples, &mut counted.step());
    counted.end();
    Ok((prepared, decided?))
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

    /// Graphs, runtime configuration and tokenizer files.
    fn emit(
        &mut self,
        plan: &Plan,
        quantized: &Quantized,
        weights: &QuantizedWeights<'_>,
        dir: &Path,
    ) -> Result<(), PipelineError> {
        let nodes: usize = quantized.model.graphs.iter().map(|g| g.nodes.len()).sum();
        self.progress.begin(Stage::Emit, nodes as u64);
        let (mut before, mut last) = (0, (String::new(), 0));
        let progress = &mut *self.progress;
        onnx::write(&quantized.model, weights, dir, &self.request.onnx, &mut |graph, done, total| {
            if last.0 != graph {
                before += last.1;
                last = (graph.to_string(), total);
            }
            progress.at((before + done) as u64, graph);
        })?;
        copy_side_files(plan, dir)?;
        // After the copies: a checkpoint may have a processor_config.json of its own, which GenAI cannot read.
        let share_buffer = onnx::shares_cache_buffer(&quantized.model, &self.request.onnx);
        match genai_input(&plan.resolved, quantized, share_buffer) {
            Ok(input) => {
                onnx::genai::write(&input, dir)?;
            }
            Err(reason) => {
                write(dir, onnx::GENERATE_FILE, onnx::GENERATE)?;
                let family = plan.resolved.description.title.clone();
                self.warn(Warning::NoGenai { family, reason: reason.clone() });
            }
        }
        self.progress.end();
        Ok(())
    }

    /// Hashes, manifest, model card, final name.
    fn finish(
        &mut self,
        plan: Plan,
        decided: Decided,
        quantized: Quantized,
        prepared: Option<Prepared>,
        output: Output,
    ) -> Result<ExportReport, PipelineError> {
        self.progress.begin(Stage::Finish, 2);
        let mut manifest = self.manifest(&plan, &decided, &quantized, prepared.as_ref())?;
        self.progress.at(1, "source hashes");
        write(output.path(), "README.md", &model_card(&plan.resolved, &manifest))?;
        manifest.files = hash_folder(output.path())?;
        self.progress.at(2, "artifact hashes");
        let text = serde_json::to_string_pretty(&manifest).map(|t| t + "\n");
        let manifest_path = output.path().join(MANIFEST_FILE);
        let text = text.map_err(|e| PipelineError::Io { path: manifest_path, source: e.into() })?;
        write(output.path(), MANIFEST_FILE, &text)?;
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
            calibration_samples: prepared.map_or(0, |p| p.samples.len()),
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
        prepared: Option<&Prepared>,
    ) -> Result<Manifest, PipelineError> {
        let files = hash_files(&plan.checkpoint.input_files())?;
        let calibration = match (&self.request.calibration, prepared) {
            (Some(data), Some(prepared)) => {
                Some(Calibration { file: hash_file(&data.path)?, samples: prepared.items.clone() })
            }
            _ => None,
        };
        let prompt = &plan.resolved.description.prompt;
        Ok(Manifest {
            schema_version: MANIFEST_VERSION,
            tool: Tool::this(),
            family: plan.resolved.description.family.clone(),
            format: "onnx".into(),
            onnx: OnnxForm {
                ops: self.request.onnx.ops.name().into(),
                form: self.request.onnx.form_name().into(),
                store: self.request.onnx.stored().name().into(),
                modality_channel: carries_modality(quantized),
                msq_form: carries_modality(quantized).then(|| self.request.onnx.msq.name().into()),
            },
            graphs: onnx::signatures(&quantized.model, &self.request.onnx),
            placeholder: Placeholder {
                image_token_id: prompt.image_token_id,
                image_token: prompt.image_token.clone(),
            },
            eos_token_ids: prompt.eos_token_ids.clone(),
            recipe: self.request.recipe.clone(),
            source: Source { revision: revision(&self.request.model), files },
            calibration,
            rotations: decided.rotations.clone(),
            decisions: decided.decisions.clone(),
            linears: linears(quantized, &decided.plan, &self.request.onnx),
            files: vec![],
        })
    }
}

/// Whether features and embeddings have the modality channel.
fn carries_modality(quantized: &Quantized) -> bool {
    let width = quantized.model.spec.decoder.width;
    let features = crate::exec::feature_width(&quantized.model);
    features != width
}

/// What GenAI must be told, or why it cannot run the family.
fn genai_input<'a>(
    resolved: &'a Resolved,
    quantized: &Quantized,
    share_buffer: bool,
) -> Result<GenaiInput, &'a String> {
    let genai = resolved.description.genai.as_ref()?;
    let d = &quantized.model.spec.decoder;
    Ok(GenaiInput {
        model_type: genai.model_type.clone(),
        processor: genai.processor.clone(),
        image_token_id: resolved.description.prompt.image_token_id,
        vision_start_token_id: genai.vision_start_token_id,
        video_token_id: Some(genai.video_token_id),
        eos_token_ids: resolved.description.prompt.eos_token_ids.clone(),
        bos_token_id: genai.bos_token_id,
        // Without a padding token nothing may be masked.
        pad_token_id: genai.pad_token_id.unwrap_or(-1),
        vocab_size: d.vocab,
        context_length: d.max_positions,
        hidden_size: crate::exec::feature_width(&quantized.model),
        head_size: d.head_dim,
        num_attention_heads: d.heads,
        num_key_value_heads: d.kv_heads,
        num_hidden_layers: d.layers,
        patch_size: resolved.description.image.rows.patch,
        merge_size: resolved.description.image.rows.merge,
        temporal_patch_size: resolved.description.image.rows.temporal,
        image: resolved.description.image.clone(),
        share_buffer,
    })
}

/// Copies what belongs to the model besides its weights. The `tokenizer.json` is always that of the tokenizer in use, so that what runs an
/// artifact needs no reader of other formats; where the checkpoint's own is read, it is the same text.
fn copy_side_files(plan: &Plan, dir: &Path) -> Result<(), PipelineError> {
    for path in side_files(&plan.checkpoint) {
        // Read and written apart, so that an error names the file it belongs to.
        let bytes =
            std::fs::read(&path).map_err(|source| PipelineError::Io { path: path.clone(), source })?;
        let target = dir.join(path.file_name().unwrap_or_default());
        std::fs::write(&target, bytes).map_err(|source| PipelineError::Io { path: target, source })?;
    }
    write(dir, TOKENIZER_FILE, plan.resolved.description.tokenizer.json())
}

/// Files of the checkpoint that travel with the artifact: all but the weights.
fn side_files(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let is_weights = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
    };
    checkpoint.input_files().into_iter().filter(|p| !is_weights(p)).collect()
}

/// The hub revision, when the folder is `.../snapshots/<revision>` of a hub cache.
fn revision(model: &Path) -> Option<String> {
    let model = model.canonicalize().ok()?;
    let parent = model.parent()?.file_name()?;
    (parent == "snapshots").then(|| model.file_name().map(|n| n.to_string_lossy().into_owned()))?
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), PipelineError> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|source| PipelineError::Io { path, source })
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
