//! Calibration data to model inputs, with the checkpoint's own tokenizer, chat template and preprocessing.

use rayon::prelude::*;

use super::error::PipelineError;
use super::manifest::CalibrationItem;
use super::progress::{Progress, Silent, Stage};
use super::request::SampleFile;
use crate::calibrate::chat::{ChatTemplate, SpecialTokens, template_source};
use crate::calibrate::{DataError, LoadOptions, Preparer, Sample, load};
use crate::checkpoint::{Checkpoint, SideFiles};
use crate::family::inputs::TemplateSource;
use crate::family::{Description, Resolved};
use crate::quantize::CalibrationSample;

/// Samples prepared together; their decoded images are alive at once.
const CHUNK: usize = 16;

/// Calibration samples as tensors, and their names for the manifest.
#[derive(Debug)]
pub(super) struct Prepared {
    pub samples: Vec<CalibrationSample>,
    pub items: Vec<CalibrationItem>,
}

/// Loads and prepares a data set.
pub(super) fn prepare(
    data: &SampleFile,
    checkpoint: &Checkpoint,
    resolved: &Resolved,
    progress: &mut dyn Progress,
) -> Result<Prepared, PipelineError> {
    let options = LoadOptions { allow_outside: data.allow_outside, limit: data.limit };
    let dataset = load(&data.path, &options)?;
    let preparer = preparer(checkpoint.files(), &resolved.description)?;
    progress.begin(Stage::Prepare, dataset.samples.len() as u64);
    let mut samples = Vec::with_capacity(dataset.samples.len());
    for chunk in dataset.samples.chunks(CHUNK) {
        let prepared: Result<Vec<_>, DataError> = chunk.par_iter().map(|s| one(&preparer, s)).collect();
        samples.extend(prepared?);
        progress.at(samples.len() as u64, chunk.last().map_or("", |s| s.id.as_str()));
    }
    progress.end();
    let item = |s: &Sample| CalibrationItem { id: s.id.clone(), sha256: s.sha256.clone() };
    Ok(Prepared { samples, items: dataset.samples.iter().map(item).collect() })
}

/// The samples of a data set as model inputs, for callers outside an export.
///
/// # Errors
/// [`PipelineError`] when the data or the checkpoint's prompt files cannot be used.
pub fn calibration_samples(
    data: &SampleFile,
    checkpoint: &Checkpoint,
    resolved: &Resolved,
) -> Result<Vec<CalibrationSample>, PipelineError> {
    Ok(prepare(data, checkpoint, resolved, &mut Silent)?.samples)
}

/// The prompt machinery of a checkpoint or an exported folder.
///
/// # Errors
/// [`PipelineError`] when tokenizer or chat template are missing or do not fit the model.
pub fn preparer(files: &SideFiles, description: &Description) -> Result<Preparer, PipelineError> {
    let Description { image, prompt, tokenizer, .. } = description;
    let (special, content) = (special_tokens(files)?, prompt.content.clone());
    let template = match &prompt.template {
        TemplateSource::Checkpoint => ChatTemplate::new(&chat_template(files)?, special, content),
        TemplateSource::Text(text) => ChatTemplate::of_family(text, special, content),
    };
    let template = template.map_err(|e| PipelineError::inputs(DataError::Plan(e)))?;
    Preparer::new(image.clone(), prompt.clone(), template, tokenizer.clone()).map_err(PipelineError::inputs)
}

/// The chat template, looked for where transformers does, in its order.
fn chat_template(files: &SideFiles) -> Result<String, PipelineError> {
    if let Some(text) = files.text("chat_template.jinja")? {
        return Ok(text);
    }
    for file in ["chat_template.json", "tokenizer_config.json"] {
        let json = files.json(file)?;
        let source = template_source(json.as_ref().and_then(|j| j.get("chat_template")));
        if let Some(text) = source.map_err(|e| PipelineError::inputs(DataError::Plan(e)))? {
            return Ok(text);
        }
    }
    Err(PipelineError::MissingFile {
        dir: files.dir().to_path_buf(),
        file: "chat_template.jinja, chat_template.json or the key chat_template of tokenizer_config.json",
        purpose: "turning chat messages into a prompt",
    })
}

/// Special tokens that templates print: strings, or objects with their text under `content`.
fn special_tokens(files: &SideFiles) -> Result<SpecialTokens, PipelineError> {
    let config = files.json("tokenizer_config.json")?.unwrap_or_default();
    let text = |key: &str| {
        let value = config.get(key)?;
        value.as_str().or_else(|| value.get("content")?.as_str()).map(String::from)
    };
    Ok(SpecialTokens { bos: text("bos_token"), eos: text("eos_token") })
}

/// One sample with its expected answer behind the prompt.
fn one(preparer: &Preparer, sample: &Sample) -> Result<CalibrationSample, DataError> {
    let p = preparer.prepare_sample(sample)?;
    let next = p.next_position();
    let answer = p.answer_ids.unwrap_or_default();
    let mut positions = p.position_ids;
    for axis in &mut positions {
        axis.extend((0..answer.len() as i64).map(|i| next + i));
    }
    let ids = [p.input_ids, answer].concat();
    Ok(CalibrationSample { ids, positions, pixels: p.pixel_values, grids: p.grids })
}
