//! The steps of a verification.

use super::answers::greedy;
use super::artifact::Files;
use super::data::{self, Questions, questions, samples, usable, with_images_of, without_images};
use super::request::VerifyRequest;
use super::summary::{self, Answers, decode, expectation};
use crate::calibrate::Preparer;
use crate::checkpoint::Checkpoint;
use crate::family::{CheckpointWeights, Library, Resolved, resolve};
use crate::graph::Part;
use crate::passes::rewrite::RewrittenWeights;
use crate::pipeline::error::{PipelineError, VerifyError};
use crate::pipeline::manifest::{Manifest, Tool};
use crate::pipeline::prepare::preparer;
use crate::pipeline::progress::{Progress, Stage};
use crate::pipeline::run::artifact_files;
use crate::quantize::{Transformed, transform};
use crate::verify::attribution::{Asked, Subject, attribute};
use crate::verify::checks;
use crate::verify::compare::{Alike, SampleDifference, Summary};
use crate::verify::coordinates::Coordinates;
use crate::verify::gguf::GgufWeights;
use crate::verify::model::ModelRunner;
use crate::verify::onnx::{EmbeddedOnnx, Look, Rounding, Weights};
use crate::verify::report::{Attribution, Check, Measured, RuntimeAbout, VERIFY_VERSION, VerifyReport};
use crate::verify::runner::{About, Distribution, Question, Runner, RunnerKind, Scored, Until};
use crate::verify::select::{self, Wanted};
use crate::verify::trace::Traced;

/// Pairs of samples whose images are exchanged.
const SWAPS: usize = 8;

/// Samples that are asked without their images.
const TEXT_ONLY: usize = 4;

/// What the files hold, to be looked into.
struct Looks<'a> {
    /// Computed as the files declare.
    declared: &'a dyn Traced,
    /// With activations that are not rounded, where the files round any.
    floating: Option<&'a dyn Traced>,
}

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
    let mut different = files.differences(&request.artifact, &manifest, &checkpoint, &resolved)?;
    let preparers = Preparers::of(request, &files, &library, (&checkpoint, &resolved), &mut different)?;
    let questions = questions(request, &samples, &preparers.reference, &preparers.artifact)?;
    progress.at(1, "hashes, configuration, data");
    progress.end();
    let rule = manifest.recipe.rotation.done(&manifest.rotations);
    let transformed = transform(&resolved.model, &rule, files.target(&resolved.description)?)?;
    let mut run = Run {
        request,
        manifest: &manifest,
        checkpoint: &checkpoint,
        resolved: &resolved,
        preparers,
        questions,
        transformed,
        progress,
        not_checked: vec![],
    };
    if left > 0 {
        run.not_checked.push(format!("{left} samples with images: the artifact has no vision side."));
    }
    run.with_files(&files, &different)
}

/// Bytes of an artifact up to which the interpreter keeps its weights.
const KEPT_BYTES: u64 = 2 << 30;

fn fits(manifest: &Manifest) -> bool {
    manifest.files.iter().map(|f| f.bytes).sum::<u64>() <= KEPT_BYTES
}

/// Whether the files round activations.
fn rounds(manifest: &Manifest) -> bool {
    manifest.linears.iter().any(|l| l.form == "int8-gemm")
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

impl Preparers {
    /// Those of a verification. `different` says where the artifact's files differ from the checkpoint's, and is told where they make no prompts at all.
    fn of(
        request: &VerifyRequest,
        files: &Files<'_>,
        library: &Library,
        (checkpoint, resolved): (&Checkpoint, &Resolved),
        different: &mut Vec<String>,
    ) -> Result<Self, PipelineError> {
        let reference = || preparer(checkpoint.files(), &resolved.description);
        let artifact = match files.preparer(&request.artifact, library, (checkpoint, &resolved.description)) {
            // Files that make no prompts are a finding where it is known what is wrong with them: the rest is verified with the checkpoint's.
            Err(e) if !different.is_empty() => {
                different.push(format!(
                    "no prompt can be made with them ({e}), so that the checkpoint's were used"
                ));
                reference()?
            }
            found => found?,
        };
        Ok(Self { reference: reference()?, artifact })
    }
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
    /// What was left out, in sentences.
    not_checked: Vec<String>,
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

    /// Opens the files for the reference executor, and for the real runtime where it is to run them.
    fn with_files(&mut self, files: &Files<'_>, different: &[String]) -> Result<VerifyReport, PipelineError> {
        let runtime = self.runtime()?;
        let resolved = self.resolved;
        let weights = CheckpointWeights::new(self.checkpoint, &resolved.bindings);
        match files {
            Files::Onnx(graphs) => {
                let kept = if fits(self.manifest) { Weights::Keep } else { Weights::Stream };
                let open = || EmbeddedOnnx::open(&self.request.artifact, graphs, kept);
                let (mut embedded, copy) = (open()?, open()?);
                let look = |rounding| Look::new(&copy, rounding, resolved.description.spec.decoder.width);
                let (declared, floating) = (look(Rounding::Declared), look(Rounding::Float));
                let floating = rounds(self.manifest).then_some(&floating as &dyn Traced);
                let looks = Looks { declared: &declared, floating };
                self.finish(&weights, (&mut embedded, looks), runtime, different)
            }
            Files::Gguf(m) => {
                let held = GgufWeights::new(&resolved.model, m.plan, &m.text, m.mmproj.as_ref());
                let detail = "reference executor on the blocks of the GGUF files";
                let new = || ModelRunner::new(&resolved.model, &held, detail);
                let (mut embedded, copy) = (new(), new());
                let looks = Looks { declared: &copy, floating: None };
                self.finish(&weights, (&mut embedded, looks), runtime, different)
            }
        }
    }

    /// The real runtime, unless the reference executor was asked for or has to stand in.
    fn runtime(&mut self) -> Result<Option<Box<dyn Runner>>, PipelineError> {
        let files = artifact_files(&self.request.artifact, self.manifest)?;
        let (wanted, mut options) = (self.request.runtime, self.request.options.clone());
        let kind = select::kind(&files, wanted, &options)?;
        if kind == RunnerKind::Embedded {
            self.not_checked
                .push("No real runtime: --runtime embedded asked for the reference executor.".into());
            return Ok(None);
        }
        options.context = Some(self.context());
        match select::available(kind, &options) {
            Ok(()) => Ok(Some(select::runner(&files, wanted, &options)?)),
            Err(e) if wanted == Wanted::Auto => {
                let what = e.to_string().replace("\nhint: ", "; ");
                self.not_checked.push(format!("How the files run in {}: {what}.", kind.name()));
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Room for the longest prompt with its answer, and for a runtime that makes images larger than our preparation does.
    fn context(&self) -> usize {
        let longest = self.questions.artifact.iter().map(|q| q.prompt.input_ids.len()).max().unwrap_or(0);
        2 * longest + self.request.max_new_tokens
    }

    /// Asks, measures, checks, attributes. `embedded` answers and `looks` is looked into, where no real runtime answers or beside it.
    fn finish(
        &mut self,
        weights: &CheckpointWeights<'_>,
        (embedded, looks): (&mut dyn Runner, Looks<'_>),
        mut runtime: Option<Box<dyn Runner>>,
        different: &[String],
    ) -> Result<VerifyReport, PipelineError> {
        let mut reference =
            ModelRunner::new(&self.resolved.model, weights, "reference executor on the checkpoint");
        let truth = self.ask_reference(&mut reference)?;
        let real = runtime.is_some();
        let runner: &mut dyn Runner = match &mut runtime {
            Some(runtime) => runtime.as_mut(),
            None => &mut *embedded,
        };
        let said = self.ask_artifact(runner, truth)?;
        let measured = self.measure(&said);
        let limits = self.request.thresholds.or(self.manifest.recipe.verify);
        let mut checks = checks::thresholds(&limits, &measured);
        checks.push(checks::configuration(different));
        checks.push(self.preprocessing());
        checks.push(checks::finite(&said.differences));
        self.progress.begin(Stage::Sanity, 2);
        checks.push(self.image_swap(&mut reference, runner, &said)?);
        checks.push(checks::degenerate(said.answers.iter().map(|a| (&a.float[..], &a.own[..]))));
        self.progress.at(1, "images exchanged");
        let (about, notes) = (runner.about().clone(), runner.notes());
        checks.push(match &mut runtime {
            Some(runtime) => self.text_only(embedded, runtime.as_mut())?,
            None => checks::text_only(None, 0),
        });
        self.not_checked.extend(notes);
        self.progress.at(2, "no images");
        self.progress.end();
        let attribution = match self.request.attribution {
            0 => None,
            n => Some(self.attribute((&reference, weights), looks, (&said, real), n)?),
        };
        checks.push(checks::structure(attribution.as_ref()));
        // Failed ones first; otherwise as they come.
        checks.sort_by_key(|c| c.passed);
        self.report(about, said, measured, checks, attribution)
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
    fn ask_artifact(&mut self, runner: &mut dyn Runner, truth: Vec<Scored>) -> Result<Said, PipelineError> {
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

    /// The same questions with images of another sample, to both models.
    fn image_swap(
        &self,
        reference: &mut ModelRunner<'_>,
        runner: &mut dyn Runner,
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
    fn text_only(&self, embedded: &mut dyn Runner, runtime: &mut dyn Runner) -> Result<Check, PipelineError> {
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
        looks: Looks<'_>,
        (said, real): (&Said, bool),
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
            artifact: looks.declared,
            weights_only: looks.floating,
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
                runtime: real.then_some(&said.artifact[i]),
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
        about: About,
        said: Said,
        measured: Measured,
        checks: Vec<Check>,
        attribution: Option<Attribution>,
    ) -> Result<VerifyReport, PipelineError> {
        let tool = Tool::this();
        let top = said.artifact.iter().flat_map(|s| &s.rows).find_map(|r| match r {
            Distribution::Top(top) => Some(top.len()),
            Distribution::Full(_) => None,
        });
        Ok(VerifyReport {
            schema_version: VERIFY_VERSION,
            passed: checks.iter().all(|c| c.passed),
            tool: format!("{} {}", tool.name, tool.version),
            artifact: summary::artifact(self.request, self.manifest)?,
            reference: summary::reference(self.request, self.manifest, &self.checkpoint.input_files())?,
            data: summary::data(self.request, &self.questions)?,
            runtime: RuntimeAbout {
                runner: about.kind,
                version: about.version,
                detail: about.detail,
                runtime_checked: about.kind != RunnerKind::Embedded,
                not_checked: self.not_checked.clone(),
                top_tokens: top,
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
