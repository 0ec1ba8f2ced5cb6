//! Evaluation data: questions as the checkpoint's files and as the artifact's files prepare them, kept apart from calibration data.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::request::VerifyRequest;
use crate::calibrate::{Content, Message, Preparer, Sample, load};
use crate::calibrate::{DataError, LoadOptions};
use crate::pipeline::error::{PipelineError, VerifyError};
use crate::pipeline::manifest::Manifest;
use crate::verify::runner::Question;
use crate::verify::score::Metric;

/// Samples named in an error.
const NAMED: usize = 5;

/// The evaluation data as questions.
pub(super) struct Questions {
    /// As the checkpoint's files prepare them; what is fed is the expected answer.
    pub reference: Vec<Question>,
    /// As the artifact's files prepare them.
    pub artifact: Vec<Question>,
    /// How each answer is scored.
    pub metrics: Vec<Metric>,
    /// Expected answers, where there are any.
    pub expected: Vec<Option<Vec<String>>>,
}

/// Loads the data, and refuses samples that the artifact was calibrated on.
pub(super) fn samples(request: &VerifyRequest, manifest: &Manifest) -> Result<Vec<Sample>, PipelineError> {
    let options = LoadOptions { allow_outside: request.data.allow_outside, limit: request.data.limit };
    let samples = load(&request.data.path, &options).map_err(evaluation)?.samples;
    let seen = manifest.calibration.iter().flat_map(|c| c.samples.iter().map(|s| s.sha256.as_str()));
    let seen: BTreeSet<&str> = seen.collect();
    let overlap: Vec<&str> =
        samples.iter().filter(|s| seen.contains(s.sha256.as_str())).map(|s| s.id.as_str()).collect();
    if overlap.is_empty() {
        return Ok(samples);
    }
    let (count, all) = (overlap.len(), samples.len());
    let ids = overlap.into_iter().take(NAMED).map(String::from).collect::<Vec<_>>().join(", ");
    Err(VerifyError::Overlap { count, all, ids, data: request.data.path.clone() }.into())
}

fn evaluation(e: DataError) -> PipelineError {
    VerifyError::Data(Box::new(e)).into()
}

/// Samples whose prompts the artifact can take: all, or those without images where it has no vision side.
pub(super) fn usable(
    samples: Vec<Sample>,
    shows_images: bool,
) -> Result<(Vec<Sample>, usize), PipelineError> {
    if shows_images {
        return Ok((samples, 0));
    }
    let all = samples.len();
    let text: Vec<Sample> = samples.into_iter().filter(|s| s.images().next().is_none()).collect();
    let left = all - text.len();
    if text.is_empty() { Err(VerifyError::OnlyImages.into()) } else { Ok((text, left)) }
}

/// Questions of samples.
pub(super) fn questions(
    request: &VerifyRequest,
    samples: &[Sample],
    reference: &Preparer,
    artifact: &Preparer,
) -> Result<Questions, PipelineError> {
    let metrics = samples.iter().map(|s| metric(request, s)).collect::<Result<Vec<_>, _>>()?;
    let by = |preparer: &Preparer, samples: &[Sample]| -> Result<Vec<Question>, PipelineError> {
        samples.par_iter().map(|s| question(preparer, s)).collect()
    };
    let expected = |s: &Sample| s.answer.as_deref().map(crate::verify::score::expected_answers);
    Ok(Questions {
        reference: by(reference, samples)?,
        artifact: by(artifact, samples)?,
        metrics,
        expected: samples.iter().map(expected).collect(),
    })
}

/// One question; fed is the expected answer.
pub(super) fn question(preparer: &Preparer, sample: &Sample) -> Result<Question, PipelineError> {
    let prompt = preparer.prepare_sample(sample).map_err(evaluation)?;
    let fed = prompt.answer_ids.clone().unwrap_or_default();
    Ok(Question { sample: sample.clone(), prompt, fed })
}

fn metric(request: &VerifyRequest, sample: &Sample) -> Result<Metric, PipelineError> {
    match (request.metric, &sample.metric) {
        (Some(metric), _) => Ok(metric),
        (None, None) => Ok(Metric::default()),
        (None, Some(name)) => Metric::named(name).ok_or_else(|| {
            let known = Metric::ALL.map(Metric::name).join(", ");
            VerifyError::Metric { sample: sample.id.clone(), found: name.clone(), known }.into()
        }),
    }
}

/// A sample without its images.
pub(super) fn without_images(sample: &Sample) -> Sample {
    let text = |m: &Message| Message {
        content: m.content.iter().filter(|c| matches!(c, Content::Text(_))).cloned().collect(),
        ..m.clone()
    };
    Sample { messages: sample.messages.iter().map(text).collect(), ..sample.clone() }
}

/// A sample with the images of another, which has as many; none where their images are the same or differ in number.
pub(super) fn with_images_of(sample: &Sample, other: &Sample) -> Option<Sample> {
    let images: Vec<_> = other.images().cloned().collect();
    let own: Vec<_> = sample.images().cloned().collect();
    let bytes = |image: &crate::calibrate::ImageSource| match image {
        crate::calibrate::ImageSource::File(path) => std::fs::read(path).unwrap_or_default(),
        crate::calibrate::ImageSource::Bytes { bytes, .. } => bytes.to_vec(),
    };
    let same = own.iter().map(bytes).eq(images.iter().map(bytes));
    if own.is_empty() || own.len() != images.len() || same {
        return None;
    }
    let mut images = images.into_iter();
    let mut swapped = sample.clone();
    for content in swapped.messages.iter_mut().flat_map(|m| &mut m.content) {
        if let Content::Image(image) = content
            && let Some(other) = images.next()
        {
            *image = other;
        }
    }
    Some(swapped)
}

/// The texts of the last message of the user.
pub(super) fn asked(sample: &Sample) -> String {
    let texts = sample.messages.last().into_iter().flat_map(|m| &m.content);
    let texts = texts.filter_map(|c| match c {
        Content::Text(text) => Some(text.trim()),
        Content::Image(_) => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}
