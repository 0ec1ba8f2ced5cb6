//! What the report says besides what was measured: what was verified, with what, and the worst samples.

use super::data::{Questions, asked};
use super::request::VerifyRequest;
use crate::calibrate::Preparer;
use crate::family::Resolved;
use crate::pipeline::error::PipelineError;
use crate::pipeline::manifest::{MANIFEST_FILE, Manifest, hash_file, hash_files};
use crate::verify::attribution::Expectation;
use crate::verify::compare::SampleDifference;
use crate::verify::report::{ArtifactAbout, DataAbout, ReferenceAbout, ScalePair, WorstSample};
use crate::verify::runner::Question;
use crate::verify::thumbnail::thumbnail;

/// Samples that are shown.
const WORST: usize = 8;

/// Name of a folder or file without the way to it.
fn plain_name(path: &std::path::Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    whole.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn artifact(request: &VerifyRequest, manifest: &Manifest) -> Result<ArtifactAbout, PipelineError> {
    let hash = hash_file(&request.artifact.join(MANIFEST_FILE))?;
    Ok(ArtifactAbout {
        name: plain_name(&request.artifact),
        format: manifest.format.clone(),
        family: manifest.family.clone(),
        recipe: manifest.recipe.name.clone(),
        recipe_description: manifest.recipe.description.clone(),
        bytes: manifest.files.iter().map(|f| f.bytes).sum::<u64>() + hash.bytes,
        manifest_sha256: hash.sha256,
    })
}

/// The checkpoint, and whether it is the one that was exported.
pub(super) fn reference(
    request: &VerifyRequest,
    manifest: &Manifest,
    files: &[std::path::PathBuf],
) -> Result<ReferenceAbout, PipelineError> {
    let mut hashes = hash_files(files)?;
    let mut source = manifest.source.files.clone();
    hashes.sort_by(|a, b| a.name.cmp(&b.name));
    source.sort_by(|a, b| a.name.cmp(&b.name));
    let weights = hashes.iter().filter(|f| f.name.ends_with(".safetensors"));
    Ok(ReferenceAbout {
        name: plain_name(&request.reference),
        bytes: weights.map(|f| f.bytes).sum(),
        is_source: hashes == source,
    })
}

pub(super) fn data(request: &VerifyRequest, questions: &Questions) -> Result<DataAbout, PipelineError> {
    let hash = hash_file(&request.data.path)?;
    let first = questions.metrics.first().copied().unwrap_or_default();
    let mixed = questions.metrics.iter().any(|m| *m != first);
    Ok(DataAbout {
        name: hash.name,
        sha256: hash.sha256,
        samples: questions.reference.len(),
        with_images: questions.reference.iter().filter(|q| !q.prompt.grids.is_empty()).count(),
        metric: if mixed { "mixed".into() } else { first.name().into() },
    })
}

/// Static activation scales of the artifact.
pub(super) fn scales(manifest: &Manifest) -> Vec<ScalePair> {
    let pair = |l: &crate::pipeline::manifest::QuantizedLinear| {
        Some(ScalePair { role: l.role.clone(), visual: l.visual_scale?, text: l.text_scale? })
    };
    manifest.linears.iter().filter_map(pair).collect()
}

/// What the export expected of a linear, where it measured it.
pub(super) fn expectation(manifest: &Manifest, role: &str) -> Option<Expectation> {
    let linear = manifest.linears.iter().find(|l| l.role == role)?;
    let decision = manifest.decisions.iter().find(|d| d.role == role);
    let chosen = decision.and_then(|d| d.candidates.get(d.chosen));
    let rounding = linear.rounding.map_or(0.0, |r| r.error);
    let error = chosen.map_or(rounding, |c| c.error.max(rounding));
    if error == 0.0 {
        // Rounded without being measured.
        return None;
    }
    let candidates = decision.into_iter().flat_map(|d| &d.candidates);
    let better = candidates
        .filter(|c| chosen.is_some_and(|chosen| c.error < chosen.error))
        .min_by(|a, b| a.error.total_cmp(&b.error));
    let activations = serde_json::to_value(linear.activations);
    let activations = activations.ok().and_then(|a| a.as_str().map(String::from)).unwrap_or_default();
    let better = better.map(|c| {
        let remedy = if c.remedy == "none" { String::new() } else { format!(", inputs: {}", c.remedy) };
        format!(
            "{} weights ({:.1} bits{remedy}) were expected to leave {:.2} % instead of {:.2} %: add `{{match: {role}, weights: {}, activations: {}}}` to the recipe's overrides.",
            c.weights, c.bits, 100.0 * c.error, 100.0 * error, c.weights, activations
        )
    });
    Some(Expectation { error, better })
}

/// Answers of one sample.
pub(super) struct Answers {
    /// Of the float model.
    pub float: Vec<i64>,
    /// Of the artifact.
    pub own: Vec<i64>,
}

/// The samples with the largest difference.
pub(super) fn worst(
    questions: &Questions,
    differences: &[SampleDifference],
    answers: &[Answers],
    (preparer, resolved): (&Preparer, &Resolved),
) -> Vec<WorstSample> {
    let mut order: Vec<usize> = (0..differences.len()).collect();
    order.sort_by(|&a, &b| {
        let key = |i: usize| (differences[i].flipped(), differences[i].mean());
        let ((a_flip, a_kld), (b_flip, b_kld)) = (key(a), key(b));
        b_flip.cmp(&a_flip).then(b_kld.total_cmp(&a_kld)).then(a.cmp(&b))
    });
    let text = |ids: &[i64]| decode(preparer, resolved, ids);
    let one = |i: usize| {
        let sample = &questions.reference[i].sample;
        WorstSample {
            id: sample.id.clone(),
            question: asked(sample),
            expected: sample.answer.clone(),
            float_answer: text(&answers[i].float),
            answer: text(&answers[i].own),
            kld: differences[i].mean(),
            flipped: differences[i].flipped(),
            images: pictures(preparer, &questions.reference[i]),
        }
    };
    order.into_iter().take(WORST).map(one).collect()
}

/// The text of an answer, without the token that ends it.
pub(super) fn decode(preparer: &Preparer, resolved: &Resolved, ids: &[i64]) -> String {
    let stop = &resolved.description.prompt.eos_token_ids;
    let kept: Vec<i64> = ids.iter().copied().filter(|id| !stop.contains(id)).collect();
    // Ids come from the model: one that the tokenizer does not know is shown, not refused.
    preparer.tokenizer().decode(&kept, true).unwrap_or_else(|_| format!("{kept:?}"))
}

fn pictures(preparer: &Preparer, question: &Question) -> Vec<crate::verify::report::Thumbnail> {
    // The images were decoded before to be shown to the model.
    let images = preparer.decode_images(&question.sample).unwrap_or_default();
    images.iter().filter_map(thumbnail).collect()
}
