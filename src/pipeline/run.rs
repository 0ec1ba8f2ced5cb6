//! One conversation with an artifact, in the runtime of its format: what `run` does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::PipelineError;
use super::manifest::{MANIFEST_FILE, Manifest};
use super::prepare::preparer;
use super::preprocess::conversation;
use crate::calibrate::{DataError, Sample};
use crate::checkpoint::SideFiles;
use crate::family::{Library, describe};
use crate::tokenizer::Tokenizer;
use crate::verify::llama_cpp::{GgufFiles, LlamaCpp};
use crate::verify::runner::{About, Question, Runner, RunnerKind, Until};
use crate::verify::select::{self, ArtifactFiles, SelectOptions, Wanted};

/// Tokens that a prompt may have besides the answer's, in a server that is started for it.
const PROMPT_TOKENS: usize = 8192;

/// What is asked, of what.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// Exported folder.
    pub artifact: PathBuf,
    /// Image files, in order; they stand before the text.
    pub images: Vec<PathBuf>,
    /// Text of the user's message.
    pub prompt: String,
    /// Instructions to the model, in a message before.
    pub system: Option<String>,
    /// Most tokens of the answer.
    pub max_new_tokens: usize,
    /// Runtime asked for.
    pub runtime: Wanted,
    /// How it is to run.
    pub options: SelectOptions,
    /// The user's family file instead of the built-in ones.
    pub family_file: Option<PathBuf>,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// What ran the files.
    pub about: About,
    /// Tokens of the prompt, rows of images included.
    pub prompt_tokens: usize,
    /// Tokens of the answer, the one that ends it included.
    pub new_tokens: usize,
    /// Whether the model ended the answer; otherwise the limit did, or the reader.
    pub ended: bool,
    /// From the question to the first token, loading not included.
    pub first_token: Duration,
    /// From the question to the last token.
    pub total: Duration,
}

/// The files of an artifact that runtimes are given.
///
/// # Errors
/// [`PipelineError::Output`] when the manifest does not name them.
pub fn artifact_files(artifact: &Path, manifest: &Manifest) -> Result<ArtifactFiles, PipelineError> {
    let bad = |reason: String| PipelineError::Output { path: artifact.to_path_buf(), reason };
    let place = |name: &str| {
        if Path::new(name).file_name().is_none_or(|n| n != name) {
            return Err(bad(format!("{MANIFEST_FILE} names {name:?}, which is not a plain file name")));
        }
        let path = artifact.join(name);
        if path.is_file() { Ok(path) } else { Err(bad(format!("{name} is missing: export it again"))) }
    };
    match &manifest.gguf {
        Some(gguf) => {
            let text =
                gguf.text.first().ok_or_else(|| bad(format!("{MANIFEST_FILE} names no text model")))?;
            let mmproj = gguf.mmproj.first().map(|name| place(name)).transpose()?;
            Ok(ArtifactFiles::Gguf(GgufFiles { text: place(text)?, mmproj }))
        }
        None => {
            for graph in &manifest.graphs {
                place(&graph.file)?;
            }
            Ok(ArtifactFiles::Onnx { folder: artifact.to_path_buf(), graphs: manifest.graphs.clone() })
        }
    }
}

/// Asks the artifact and hands `each` the text of the answer as it comes, in whole characters; `false` ends the answer.
///
/// # Errors
/// [`PipelineError`] when the folder is no artifact, an image cannot be used, or its runtime is not there or fails.
pub fn run(request: &RunRequest, each: &mut dyn FnMut(&str) -> bool) -> Result<RunReport, PipelineError> {
    let manifest = Manifest::read(&request.artifact)?;
    let files = artifact_files(&request.artifact, &manifest)?;
    let sample = conversation(&request.images, &request.prompt, request.system.as_deref());
    let mut options = request.options.clone();
    options.context.get_or_insert(PROMPT_TOKENS.saturating_add(request.max_new_tokens));
    match (select::kind(&files, request.runtime, &options)?, &files) {
        (RunnerKind::LlamaCpp, ArtifactFiles::Gguf(files)) => {
            let runner = LlamaCpp::open(files, &options.llama_cpp())?;
            converse(runner, &sample, request.max_new_tokens, each)
        }
        _ => {
            // What can be wrong with the question is told before a model is loaded.
            let (question, tokenizer) = prepared(request, sample)?;
            let runner = select::runner(&files, request.runtime, &options)?;
            let until = Until { max_new: request.max_new_tokens, stop: &manifest.eos_token_ids };
            generate(runner, &question, until, &tokenizer, each)
        }
    }
}

/// The prompt as tensors, by the artifact's own files.
fn prepared(request: &RunRequest, sample: Sample) -> Result<(Question, Tokenizer), PipelineError> {
    let files = SideFiles::open(&request.artifact)?;
    let library = request.family_file.as_deref().map_or_else(Library::built_in, Library::from_file)?;
    let description = describe(&library, &files)?;
    let preparer = preparer(&files, &description)?;
    let prompt = preparer.prepare_sample(&sample).map_err(PipelineError::inputs)?;
    Ok((Question { sample, prompt, fed: vec![] }, description.tokenizer))
}

fn converse(
    mut runner: LlamaCpp,
    sample: &Sample,
    max_new: usize,
    each: &mut dyn FnMut(&str) -> bool,
) -> Result<RunReport, PipelineError> {
    let mut clock = Clock::start();
    let said = runner.converse(sample, max_new, &mut |text| {
        clock.token();
        each(text)
    })?;
    let (prompt_tokens, new_tokens) = (said.prompt_tokens, said.tokens);
    Ok(clock.report(runner.about().clone(), prompt_tokens, new_tokens, said.ended))
}

fn generate(
    mut runner: Box<dyn Runner>,
    question: &Question,
    until: Until<'_>,
    tokenizer: &Tokenizer,
    each: &mut dyn FnMut(&str) -> bool,
) -> Result<RunReport, PipelineError> {
    let (mut clock, mut writer) = (Clock::start(), Writer::default());
    let mut failed = None;
    let tokens = runner.generate(question, until, &mut |token| {
        clock.token();
        if until.stop.contains(&token) {
            return true;
        }
        match writer.next(tokenizer, token) {
            Ok(text) => text.is_empty() || each(&text),
            Err(e) => {
                failed = Some(e);
                false
            }
        }
    })?;
    if let Some(e) = failed {
        return Err(e);
    }
    let rest = writer.rest();
    if !rest.is_empty() {
        each(&rest);
    }
    let ended = tokens.last().is_some_and(|token| until.stop.contains(token));
    Ok(clock.report(runner.about().clone(), question.prompt.input_ids.len(), tokens.len(), ended))
}

/// Text of tokens, as far as its characters are whole.
#[derive(Default)]
struct Writer {
    ids: Vec<i64>,
    text: String,
    shown: usize,
}

impl Writer {
    /// What one more token adds that can be shown: nothing while a character is not finished, which decodes to a replacement character at the end.
    fn next(&mut self, tokenizer: &Tokenizer, token: i64) -> Result<String, PipelineError> {
        self.ids.push(token);
        let decoded = tokenizer.decode(&self.ids, true);
        self.text = decoded.map_err(|e| PipelineError::inputs(DataError::Plan(e.into())))?;
        Ok(if self.text.ends_with(char::REPLACEMENT_CHARACTER) { String::new() } else { self.rest() })
    }

    /// What was not shown yet. By characters: bytes that never become one may change those before.
    fn rest(&mut self) -> String {
        let rest: String = self.text.chars().skip(self.shown).collect();
        self.shown += rest.chars().count();
        rest
    }
}

/// Times of one answer.
struct Clock {
    began: Instant,
    first: Option<Duration>,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), first: None }
    }

    fn token(&mut self) {
        self.first.get_or_insert(self.began.elapsed());
    }

    fn report(&self, about: About, prompt_tokens: usize, new_tokens: usize, ended: bool) -> RunReport {
        let total = self.began.elapsed();
        RunReport { about, prompt_tokens, new_tokens, ended, first_token: self.first.unwrap_or(total), total }
    }
}
