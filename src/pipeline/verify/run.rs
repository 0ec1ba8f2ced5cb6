//! The steps of a verification.

use super::answers::greedy;
use super::artifact::Files;
use super::data::{self, Questions, questions, samples, usable, with_images_of, without_images};
use super::request::{RuntimeChoice, VerifyRequest};
use super::summary::{self, Answers, decode, expectation};
use crate::calibrate::Preparer;
use crate::checkpoint::Checkpoint;
use crate::family::{CheckpointWeights, Library, Resolved, resolve};
use crate::graph::{Model, Part};
use crate::passes::rewrite::RewrittenWeights;
use crate::pipeline::error::{PipelineError, VerifyError};
use crate::pipeline::manifest::{Manifest, Tool};
use crate::pipeline::prepare::preparer;
use crate::pipeline::progress::{Progress, Stage};
use crate::quantize::{Transformed, transform};
use crate::verify::attribution::{Asked, Subject, attribute};
use crate::verify::checks;
use crate::verify::compare::{Alike, SampleDifference, Summary};
use crate::verify::coordinates::Coordinates;
use crate::verify::gguf::GgufWeights;
use crate::verify::model::ModelRunner;
use crate::verify::report::{Attribution, Check, Measured, RuntimeAbout, VERIFY_VERSION, VerifyReport};
use crate::verify::runner::{Distribution, Question, Runner, RunnerKind, Scored, Until};
use crate::verify::trace::Traced;

/// Pairs of samples whose images are exchanged.
const SWAPS: usize = 8;

/// Samples that are asked without their images.
const TEXT_ONLY: usize = 4;

/// A model that answers and can be looked into.
pub(super) trait Embedded: Runner + Traced {}

impl<T: Runner + Traced> Embedded for T {}

/// Verifies one artifact.
///
/// # Errors
/// [`PipelineError`] when artifact, checkpoint or data cannot be used, files changed since the export, or a model does not run. A failed check is no error: the report says so.
pub fn verify(request: &VerifyRequest, progress: &mut dyn Progress) -> Result<VerifyReport, PipelineError> {
    progress.begin(Stage::Check, 1);
    let manifest = Manifest::read(&request.artifact)?;
    unchanged(request, &manifest)?;
    let library = request.family_file.as_deref().map_or_else(Library::built_in, Library::from_file)?;
    let checkpoint = Checkpoint::open(&request.reference)?;
    let resolved = resolve(&library, &checkpoint)?;
    if resolved.description.family != manifest.family {
        let (artifact, reference) = (manifest.family.clone(), resolved.description.family);
        return Err(VerifyError::Family { artifact, reference, path: request.reference.clone() }.into());
    }
    let files = Files::open(&request.artifact, &manifest, &resolved.description)?;
    let (samples, left) = usable(samples(request, &manifest)?, files.shows_images())?;
    let described = (&checkpoint, &resolved.description);
    let preparers = Preparers {
        reference: preparer(checkpoint.files(), &resolved.description)?,
        artifact: files.preparer(&request.artifact, &library, described)?,
    };
    let questions = questions(request, &samples, &preparers.reference, &preparers.artifact)?;
    let different = files.differences(&request.artifact, &manifest, &checkpoint, &resolved)?;
    progress.at(1, "hashes, configuration, data");
    progress.end();
    let target = files.target(&resolved.description)?;
    let rule = manifest.recipe.rotation.done(&manifest.rotations);
    let transformed = transform(&resolved.model, &rule, target)?;
    let mut run = Run {
        request,
        manifest: &manifest,
        checkpoint: &checkpoint,
        resolved: &resolved,
        preparers,
        questions,
        transformed,
        progress,
    };
    let weights = CheckpointWeights::new(run.checkpoint, &run.resolved.bindings);
    match &files {
        Files::Onnx(_) => Err(VerifyError::OnlyImages.into()),
        Files::Gguf { text, mmproj, plan } => {
            let held = GgufWeights::new(&resolved.model, plan, text, mmproj.as_ref());
            let mut embedded = ModelRunner::new(
                &resolved.model,
                &held,
                "reference executor on the blocks of the GGUF files",
            );
            run.finish(&weights, &mut embedded, None, (different, left))
        }
    }
}

/// The files are those that the manifest names.
fn unchanged(request: &VerifyRequest, manifest: &Manifest) -> Result<(), PipelineError> {
    let changed = manifest.changed_files(&request.artifact)?;
    if changed.is_empty() {
        return Ok(());
    }
    let count = if changed.len() == 1 { "1 file".to_string() } else { format!("{} files", changed.len()) };
    let artifact = request.artifact.clone();
    Err(VerifyError::Changed { artifact, count, names: changed.join(", ") }.into())
}

/// What makes prompts.
struct Preparers {
    /// By the checkpoint's files.
    reference: Preparer,
    /// By the artifact's files.
    artifact: Preparer,
}

/// One verification on its way.
struct Run<'a> {
    request: &'a VerifyRequest,
    manifest: &'a Manifest,
    checkpoint: &'a Checkpoint,
    resolved: &'a Resolved,
    preparers: Preparers,
    questions: Questions,
    transformed: Transformed,
    progress: &'a mut dyn Progress,
}

/// What was said.
struct Said {
    truth: Vec<Scored>,
    artifact: Vec<Scored>,
    answers: Vec<Answers>,
    differences: Vec<SampleDifference>,
}

impl<'a> Run<'a> {
    fn until(&self) -> Until<'a> {
        Until { max_new: self.request.max_new_tokens, stop: &self.resolved.description.prompt.eos_token_ids }
    }

    /// Asks, measures, checks, attributes. `floating` is the artifact without rounding of activations, where it rounds any.
    fn finish(
        &mut self,
        weights: &CheckpointWeights<'_>,
        embedded: &mut dyn Embedded,
        floating: Option<&dyn Traced>,
        (different, left): (Vec<String>, usize),
    ) -> Result<VerifyReport, PipelineError> {
        let mut reference =
            ModelRunner::new(&self.resolved.model, weights, "reference executor on the checkpoint");
        let truth = self.ask_reference(&mut reference)?;
        let said = self.ask_artifact(embedded, truth)?;
        let measured = self.measure(&said);
        let limits = self.request.thresholds.or(self.manifest.recipe.verify);
        let mut checks = checks::thresholds(&limits, &measured);
        checks.push(checks::configuration(&different));
        checks.push(self.preprocessing());
        checks.push(checks::finite(&said.differences));
        checks.extend(self.sanity(&mut reference, embedded, &said)?);
        let attribution = match self.request.attribution {
            0 => None,
            n => Some(self.attribute((&reference, weights), embedded, floating, &said, n)?),
        };
        // Failed ones first; otherwise as they come.
        checks.sort_by_key(|c| c.passed);
        self.report(embedded, said, measured, checks, attribution, left)
    }

    /// What the float model answers and how sure it is of it.
    fn ask_reference(&mut self, reference: &mut ModelRunner<'_>) -> Result<Vec<Scored>, PipelineError> {
        let until = self.until();
        let Self { questions, progress, .. } = self;
        progress.begin(Stage::Reference, questions.reference.len() as u64);
        let truth = greedy(reference, &mut questions.reference, until, &mut |done| {
            progress.at(done as u64, "float model");
        })?;
        progress.end();
        for (own, float) in questions.artifact.iter_mut().zip(&questions.reference) {
            own.fed = float.fed.clone();
        }
        Ok(truth)
    }

    /// What the artifact says to the float model's answers, and what it answers where that is something else.
    fn ask_artifact(&mut self, runner: &mut dyn Embedded, truth: Vec<Scored>) -> Result<Said, PipelineError> {
        let until = self.until();
        let Self { questions, progress, .. } = self;
        progress.begin(Stage::Artifact, questions.artifact.len() as u64);
        let name = runner.about().kind.name();
        let artifact = runner.score(&questions.artifact, &mut |done| progress.at(done as u64, name))?;
        let mut differences: Vec<SampleDifference> =
            truth.iter().zip(&artifact).map(|(t, a)| SampleDifference::of(t, a)).collect();
        let mut answers = Vec::with_capacity(differences.len());
        for (question, difference) in questions.artifact.iter().zip(&differences) {
            let own = match difference.flipped() {
                true => runner.generate(question, until, &mut |_| true)?,
                false => question.fed.clone(),
            };
            answers.push(Answers { float: question.fed.clone(), own });
        }
        self.progress.end();
        for (i, difference) in differences.iter_mut().enumerate() {
            let Some(expected) = &self.questions.expected[i] else { continue };
            let score = |ids: &[i64]| {
                let text = decode(&self.preparers.reference, self.resolved, ids);
                Some(self.questions.metrics[i].score(&text, expected))
            };
            difference.reference_score = score(&answers[i].float);
            difference.score = score(&answers[i].own);
        }
        Ok(Said { truth, artifact, answers, differences })
    }

    fn measure(&self, said: &Said) -> Measured {
        let summary = Summary::new(&said.differences);
        let mut alike = Alike::default();
        for (reference, found) in said.truth.iter().zip(&said.artifact) {
            if let (Some(reference), Some(found)) = (&reference.features, &found.features) {
                let forth = self.coordinates(Part::Decoder).features_forth(reference);
                alike.add(&forth, found);
            }
        }
        Measured {
            rows: said.truth.iter().map(|s| s.rows.len()).sum(),
            kld_mean: summary.kld_mean(),
            kld_median: summary.kld_percentile(0.5),
            kld_p99: summary.kld_percentile(0.99),
            top1: summary.top1(),
            flips: summary.flips(),
            accuracy_float: summary.accuracy(|s| s.reference_score),
            accuracy: summary.accuracy(|s| s.score),
            features: alike.similarity(),
        }
    }

    fn coordinates(&self, part: Part) -> Coordinates {
        Coordinates::of(&self.resolved.model, &self.transformed, part)
    }

    /// Whether both prepare the same prompts.
    fn preprocessing(&self) -> Check {
        let pairs = || self.questions.reference.iter().zip(&self.questions.artifact);
        let other = |(a, b): &(&Question, &Question)| {
            let (a, b) = (&a.prompt, &b.prompt);
            a.input_ids != b.input_ids || a.grids != b.grids || a.position_ids != b.position_ids
        };
        let ids = pairs().filter(other).count();
        let pixels = pairs().flat_map(|(a, b)| {
            let pixels = a.prompt.pixel_values.data().iter().zip(b.prompt.pixel_values.data());
            pixels.map(|(a, b)| f64::from((a - b).abs()))
        });
        checks::preprocessing(ids, pixels.fold(0.0, f64::max), self.questions.reference.len())
    }

    fn sanity(
        &mut self,
        reference: &mut ModelRunner<'_>,
        runner: &mut dyn Embedded,
        said: &Said,
    ) -> Result<Vec<Check>, PipelineError> {
        self.progress.begin(Stage::Sanity, 2);
        let swap = self.image_swap(reference, runner, said)?;
        self.progress.at(1, "images exchanged");
        let pairs = said.answers.iter().map(|a| (&a.float[..], &a.own[..]));
        let degenerate = checks::degenerate(pairs);
        self.progress.at(2, "no images");
        self.progress.end();
        Ok(vec![swap, degenerate])
    }

    /// The same questions with images of another sample, to both models.
    fn image_swap(
        &self,
        reference: &mut ModelRunner<'_>,
        runner: &mut dyn Embedded,
        said: &Said,
    ) -> Result<Check, PipelineError> {
        let count = self.questions.reference.len();
        let (mut float, mut own, mut chosen) = (vec![], vec![], vec![]);
        for i in 0..count {
            let sample = &self.questions.reference[i].sample;
            let other = (1..count).find_map(|step| {
                with_images_of(sample, &self.questions.reference[(i + step) % count].sample)
            });
            let Some(other) = other else { continue };
            for (preparer, list) in
                [(&self.preparers.reference, &mut float), (&self.preparers.artifact, &mut own)]
            {
                let question = data::question(preparer, &other)?;
                list.push(Question { fed: self.questions.reference[i].fed.clone(), ..question });
            }
            chosen.push(i);
            if chosen.len() == SWAPS {
                break;
            }
        }
        let of = |scored: &[Scored]| chosen.iter().map(|i| scored[*i].clone()).collect::<Vec<_>>();
        let (a, b) = (reference.score(&float, &mut |_| {})?, runner.score(&own, &mut |_| {})?);
        let full =
            |rows: &[Scored]| rows.iter().all(|s| s.rows.iter().all(|r| matches!(r, Distribution::Full(_))));
        let artifact = if full(&b) {
            checks::apart(&of(&said.artifact), &b)
        } else {
            checks::apart(&of(&said.truth), &b)
        };
        Ok(checks::image_swap(checks::apart(&of(&said.truth), &a), artifact, chosen.len()))
    }

    /// Prompts without images: the runtime, which has the vision files at hand, against the text files alone.
    #[allow(dead_code)]
    fn text_only(
        &self,
        embedded: &mut dyn Embedded,
        runtime: Option<&mut dyn Runner>,
    ) -> Result<Check, PipelineError> {
        let Some(runtime) = runtime else { return Ok(checks::text_only(None, 0)) };
        let samples = self.questions.artifact.iter().take(TEXT_ONLY).map(|q| without_images(&q.sample));
        let questions =
            samples.map(|s| data::question(&self.preparers.artifact, &s)).collect::<Result<Vec<_>, _>>()?;
        let alone = embedded.score(&questions, &mut |_| {})?;
        let with = runtime.score(&questions, &mut |_| {})?;
        Ok(checks::text_only(Some(checks::apart(&alone, &with)), questions.len()))
    }

    fn attribute(
        &mut self,
        (reference, weights): (&ModelRunner<'_>, &CheckpointWeights<'_>),
        embedded: &dyn Embedded,
        floating: Option<&dyn Traced>,
        said: &Said,
        count: usize,
    ) -> Result<Attribution, PipelineError> {
        let rewritten = RewrittenWeights::new(weights, &self.transformed.rewrites);
        let structure = ModelRunner::new(&self.transformed.model, &rewritten, "rotated float model");
        let changed = self.manifest.recipe.rotation.done(&self.manifest.rotations).any();
        let (vision, decoder) = (self.coordinates(Part::Vision), self.coordinates(Part::Decoder));
        let form = self.manifest.onnx.as_ref().and_then(|o| o.msq_form.as_deref());
        let subject = Subject {
            reference,
            structure: changed.then_some(&structure as &dyn Traced),
            artifact: &Look(embedded),
            weights_only: floating,
            vision: &vision,
            decoder: &decoder,
            image_token_id: self.resolved.description.prompt.image_token_id,
            by_modality: form == Some("split"),
        };
        let count = count.min(said.truth.len());
        let asked: Vec<Asked<'_>> = (0..count)
            .map(|i| Asked {
                reference: &self.questions.reference[i],
                artifact: &self.questions.artifact[i],
                truth: &said.truth[i],
                runtime: None,
            })
            .collect();
        let manifest = self.manifest;
        let progress = &mut *self.progress;
        progress.begin(Stage::Attribute, count as u64);
        let found = attribute(&subject, &asked, &|role| expectation(manifest, role), &mut |done| {
            progress.at(done as u64, "layers and linears");
        })?;
        progress.end();
        Ok(found)
    }

    fn report(
        &self,
        runner: &dyn Embedded,
        said: Said,
        measured: Measured,
        checks: Vec<Check>,
        attribution: Option<Attribution>,
        left: usize,
    ) -> Result<VerifyReport, PipelineError> {
        let tool = Tool::this();
        let about = runner.about();
        let mut not_checked = vec![];
        if left > 0 {
            not_checked.push(format!("{left} samples with images: the artifact has no vision side."));
        }
        Ok(VerifyReport {
            schema_version: VERIFY_VERSION,
            passed: checks.iter().all(|c| c.passed),
            tool: format!("{} {}", tool.name, tool.version),
            artifact: summary::artifact(self.request, self.manifest)?,
            reference: summary::reference(self.request, self.manifest, &self.checkpoint.input_files())?,
            data: summary::data(self.request, &self.questions)?,
            runtime: RuntimeAbout {
                runner: about.kind,
                version: about.version.clone(),
                detail: about.detail.clone(),
                runtime_checked: about.kind != RunnerKind::Embedded,
                not_checked,
                top_tokens: None,
            },
            checks,
            measured,
            attribution,
            scales: summary::scales(self.manifest),
            worst: summary::worst(
                &self.questions,
                &said.differences,
                &said.answers,
                (&self.preparers.reference, self.resolved),
            ),
        })
    }
}

/// Looks into a runner that is also used otherwise.
struct Look<'a>(&'a dyn Embedded);

impl Traced for Look<'_> {
    fn vision(
        &self,
        question: &Question,
        tap: crate::verify::trace::TraceTap<'_>,
    ) -> Result<crate::verify::trace::Features, crate::verify::runner::RunnerError> {
        self.0.vision(question, tap)
    }

    fn decoder(
        &self,
        question: &Question,
        features: &crate::verify::trace::Features,
        tap: crate::verify::trace::TraceTap<'_>,
    ) -> Result<Vec<Distribution>, crate::verify::runner::RunnerError> {
        self.0.decoder(question, features, tap)
    }
}

/// Reserved for the choice of the runtime.
#[allow(dead_code)]
fn choice(request: &VerifyRequest) -> RuntimeChoice {
    request.runtime
}

/// The model that is verified.
#[allow(dead_code)]
type Verified = Model;
