//! The files of an ONNX artifact: graphs, what GenAI must be told, the checkpoint's side files.

use std::path::{Path, PathBuf};

use super::super::error::PipelineError;
use super::super::export::Plan;
use super::super::manifest::OnnxForm;
use super::super::output::write_text;
use super::super::progress::{Progress, Stage, Warning};
use crate::checkpoint::Checkpoint;
use crate::export::onnx::{self, OnnxOptions, genai::GenaiInput};
use crate::family::{Description, Resolved};
use crate::quantize::{Quantized, QuantizedWeights};

/// Hugging Face's description of a tokenizer.
pub(in crate::pipeline) const TOKENIZER_FILE: &str = "tokenizer.json";

/// Graphs, runtime configuration and tokenizer files. The warning says that GenAI cannot run them.
pub(in crate::pipeline) fn write(
    plan: &Plan,
    quantized: &Quantized,
    weights: &QuantizedWeights<'_>,
    (options, dir): (&OnnxOptions, &Path),
    progress: &mut dyn Progress,
) -> Result<Option<Warning>, PipelineError> {
    let nodes: usize = quantized.model.graphs.iter().map(|g| g.nodes.len()).sum();
    progress.begin(Stage::Emit, nodes as u64);
    let (mut before, mut last) = (0, (String::new(), 0));
    onnx::write(&quantized.model, weights, dir, options, &mut |graph, done, total| {
        if last.0 != graph {
            before += last.1;
            last = (graph.to_string(), total);
        }
        progress.at((before + done) as u64, graph);
    })?;
    let (checkpoint, resolved) = (plan.checkpoint(), plan.resolved());
    copy_side_files(checkpoint, resolved, dir)?;
    // After the copies: a checkpoint may have a processor_config.json of its own, which GenAI cannot read.
    let share_buffer = onnx::shares_cache_buffer(&quantized.model, options);
    match genai_input(&resolved.description, crate::exec::feature_width(&quantized.model), share_buffer) {
        Ok(input) => {
            onnx::genai::write(&input, dir)?;
            Ok(None)
        }
        Err(reason) => {
            write_text(dir, onnx::GENERATE_FILE, onnx::GENERATE)?;
            let family = resolved.description.title.clone();
            Ok(Some(Warning::NoGenai { family, reason: reason.clone() }))
        }
    }
}

/// What the manifest says of the graphs.
pub(in crate::pipeline) fn form(quantized: &Quantized, options: &OnnxOptions) -> OnnxForm {
    let modality_channel = carries_modality(quantized);
    OnnxForm {
        ops: options.ops.name().into(),
        form: options.form_name().into(),
        store: options.stored().name().into(),
        modality_channel,
        msq_form: modality_channel.then(|| options.msq.name().into()),
    }
}

/// Whether features and embeddings have the modality channel.
pub(in crate::pipeline) fn carries_modality(quantized: &Quantized) -> bool {
    let width = quantized.model.spec.decoder.width;
    let features = crate::exec::feature_width(&quantized.model);
    features != width
}

/// What GenAI must be told, or why it cannot run the family.
/// `hidden_size` are the channels of features and embeddings.
pub(in crate::pipeline) fn genai_input(
    description: &Description,
    hidden_size: usize,
    share_buffer: bool,
) -> Result<GenaiInput, &String> {
    let genai = description.genai.as_ref()?;
    let d = &description.spec.decoder;
    Ok(GenaiInput {
        model_type: genai.model_type.clone(),
        processor: genai.processor.clone(),
        image_token_id: description.prompt.image_token_id,
        vision_start_token_id: genai.vision_start_token_id,
        video_token_id: Some(genai.video_token_id),
        eos_token_ids: description.prompt.eos_token_ids.clone(),
        bos_token_id: genai.bos_token_id,
        // Without a padding token nothing may be masked.
        pad_token_id: genai.pad_token_id.unwrap_or(-1),
        vocab_size: d.vocab,
        context_length: d.max_positions,
        hidden_size,
        head_size: d.head_dim,
        num_attention_heads: d.heads,
        num_key_value_heads: d.kv_heads,
        num_hidden_layers: d.layers,
        patch_size: description.image.rows.patch,
        merge_size: description.image.rows.merge,
        temporal_patch_size: description.image.rows.temporal,
        image: description.image.clone(),
        share_buffer,
    })
}

/// Copies what belongs to the model besides its weights. The `tokenizer.json` is always that of the tokenizer in use, so that what runs an
/// artifact needs no reader of other formats; where the checkpoint's own is read, it is the same text.
fn copy_side_files(checkpoint: &Checkpoint, resolved: &Resolved, dir: &Path) -> Result<(), PipelineError> {
    for path in side_files(checkpoint) {
        // Read and written apart, so that an error names the file it belongs to.
        let bytes =
            std::fs::read(&path).map_err(|source| PipelineError::Io { path: path.clone(), source })?;
        let target = dir.join(path.file_name().unwrap_or_default());
        std::fs::write(&target, bytes).map_err(|source| PipelineError::Io { path: target, source })?;
    }
    write_text(dir, TOKENIZER_FILE, resolved.description.tokenizer.json())
}

/// Files of the checkpoint that travel with the artifact: all but the weights.
fn side_files(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let is_weights = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
    };
    checkpoint.input_files().into_iter().filter(|p| !is_weights(p)).collect()
}
