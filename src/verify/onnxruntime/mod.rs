//! ONNX artifacts in ONNX Runtime, at its default optimisation level. The library is the user's: it is found and loaded when the program runs, see
//! [`library`]. No binary is linked or downloaded.

mod graphs;
pub mod library;
mod providers;

use std::path::{Path, PathBuf};

use crate::export::onnx::GraphSignature;

use super::distribution::log_softmax;
use super::runner::{About, Distribution, Question, Runner, RunnerError, RunnerKind, Scored, Until};
use graphs::{Graphs, Step};
use library::Library;

/// How ONNX Runtime is to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// Execution provider, `cpu` where absent. Nodes that it does not have run on the CPU.
    pub provider: Option<String>,
    /// Threads within a node; absent: as many as the machine has cores.
    pub threads: Option<usize>,
    /// The shared library; absent: it is looked for, see [`library::find`].
    pub library: Option<PathBuf>,
}

/// The files of an ONNX artifact in ONNX Runtime.
pub struct OnnxRuntime {
    about: About,
    graphs: Graphs,
}

/// Finds and loads the library, without a model.
///
/// # Errors
/// [`RunnerError::Unavailable`].
pub fn available(options: &RuntimeOptions) -> Result<(), RunnerError> {
    load(options).map(|_| ())
}

/// The library, loaded, and its version.
fn load(options: &RuntimeOptions) -> Result<String, RunnerError> {
    let found = match &options.library {
        Some(path) => Library { path: path.clone(), by: "name" },
        None => library::find(&|name| std::env::var_os(name))?,
    };
    library::load(&found)?;
    Ok(library::version(&found.path).unwrap_or_else(|| "of unknown version".into()))
}

impl OnnxRuntime {
    /// Loads the three graphs of an artifact; `signatures` as its manifest has them.
    ///
    /// # Errors
    /// [`RunnerError::Unavailable`] without the library, [`RunnerError::Unsupported`] for a provider that it does not have,
    /// [`RunnerError::Refused`] when it refuses a file, or a graph lacks what generation needs.
    pub fn open(
        folder: &Path,
        signatures: &[GraphSignature],
        options: &RuntimeOptions,
    ) -> Result<Self, RunnerError> {
        let version = load(options)?;
        let name = options.provider.as_deref().unwrap_or(providers::CPU);
        let provider = providers::provider(name)?;
        let graphs = Graphs::open(folder, signatures, provider.as_ref(), options.threads)?;
        let threads = options.threads.map(|n| format!(", threads: {n}")).unwrap_or_default();
        let detail = format!("execution provider {name}, default optimisation level{threads}");
        Ok(Self { about: About { kind: RunnerKind::OnnxRuntime, version, detail }, graphs })
    }

    fn score_one(&mut self, question: &Question) -> ort::Result<Scored> {
        let prompt = &question.prompt;
        let features = self.graphs.features(prompt)?;
        let ids = [&prompt.input_ids[..], &question.fed].concat();
        let after = prompt.next_position()..prompt.next_position() + question.fed.len() as i64;
        let positions: Vec<Vec<i64>> = prompt
            .position_ids
            .iter()
            .map(|axis| axis.iter().copied().chain(after.clone()).collect())
            .collect();
        let embeds = self.graphs.embed(&ids, features.as_ref())?;
        let step = Step { rows: ids.len(), positions: &positions, prompt_length: prompt.input_ids.len() };
        let logits = self.graphs.decoder.logits(embeds, &step)?;
        let rows = (prompt.input_ids.len().saturating_sub(1)..logits.rows()).map(|r| logits.row(r));
        let rows = rows.map(|row| Distribution::Full(log_softmax(row))).collect();
        Ok(Scored { rows, features })
    }

    fn generate_one(
        &mut self,
        question: &Question,
        until: Until<'_>,
        each: &mut dyn FnMut(i64) -> bool,
    ) -> ort::Result<Vec<i64>> {
        let (prompt, mut tokens) = (&question.prompt, Vec::new());
        if until.max_new == 0 {
            return Ok(tokens);
        }
        let features = self.graphs.features(prompt)?;
        let prompt_length = prompt.input_ids.len();
        let mut positions = prompt.position_ids.clone();
        let mut embeds = self.graphs.embed(&prompt.input_ids, features.as_ref())?;
        let mut rows = prompt_length;
        let mut next = prompt.next_position();
        self.graphs.decoder.reset();
        loop {
            let step = Step { rows, positions: &positions, prompt_length };
            let logits = self.graphs.decoder.advance(embeds, &step)?;
            let token = best(logits.row(logits.rows().saturating_sub(1)));
            tokens.push(token);
            let stopped = tokens.len() == until.max_new || until.stop.contains(&token);
            if !each(token) || stopped {
                return Ok(tokens);
            }
            embeds = self.graphs.embed(&[token], None)?;
            positions = vec![vec![next]; prompt.position_ids.len()];
            next += 1;
            rows = 1;
        }
    }
}

impl Runner for OnnxRuntime {
    fn about(&self) -> &About {
        &self.about
    }

    fn score(
        &mut self,
        questions: &[Question],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Scored>, RunnerError> {
        let mut scored = Vec::with_capacity(questions.len());
        for question in questions {
            scored.push(self.score_one(question).map_err(|e| failed(question, &e))?);
            done(scored.len());
        }
        Ok(scored)
    }

    fn generate(
        &mut self,
        question: &Question,
        until: Until<'_>,
        each: &mut dyn FnMut(i64) -> bool,
    ) -> Result<Vec<i64>, RunnerError> {
        let tokens = self.generate_one(question, until, each);
        self.graphs.decoder.reset();
        tokens.map_err(|e| failed(question, &e))
    }
}

fn failed(question: &Question, error: &ort::Error) -> RunnerError {
    RunnerError::Question {
        kind: RunnerKind::OnnxRuntime,
        sample: question.sample.id.clone(),
        reason: error.message().to_string(),
    }
}

/// The most likely token; the lowest id among equals.
fn best(row: &[f32]) -> i64 {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as i64
}
