//! What runs an artifact or a model, behind one interface: the real runtimes, and the reference executor on what the files hold.

use crate::calibrate::{Prepared, Sample};
use crate::numeric::Tensor;

/// What runs files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub enum RunnerKind {
    /// The reference executor on what the files hold.
    #[serde(rename = "embedded")]
    Embedded,
    /// ONNX Runtime.
    #[serde(rename = "onnxruntime")]
    OnnxRuntime,
    /// llama.cpp.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl RunnerKind {
    /// Name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            RunnerKind::Embedded => "embedded",
            RunnerKind::OnnxRuntime => "onnxruntime",
            RunnerKind::LlamaCpp => "llama.cpp",
        }
    }

    /// Name for people.
    pub fn title(self) -> &'static str {
        match self {
            RunnerKind::Embedded => "Reference executor",
            RunnerKind::OnnxRuntime => "ONNX Runtime",
            RunnerKind::LlamaCpp => "llama.cpp",
        }
    }
}

/// What a runner says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Which kind it is.
    pub kind: RunnerKind,
    /// Version of the runtime, such as `1.32.0`.
    pub version: String,
    /// How it runs: execution providers, library, address. One line for people, without paths of the machine where they are not asked for.
    pub detail: String,
}

/// A prompt and the tokens that are fed behind it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The conversation with its encoded images, for runtimes that prepare prompts by themselves.
    pub sample: Sample,
    /// The same as tensors, as the artifact's own files say: ids with images expanded, pixel rows, grids, positions.
    pub prompt: Prepared,
    /// Tokens fed behind the prompt, whatever the model says: the expected answer, or what the float model answers.
    pub fed: Vec<i64>,
}

/// The distribution of the next token.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// Natural logarithms of the probabilities of all tokens. Whoever compares them normalises them once more in f64; what f32 rounds then counts in the second
    /// order alone.
    Full(Vec<f32>),
    /// The most likely tokens, best first, with the natural logarithms of their probabilities among all tokens.
    Top(Vec<(i64, f32)>),
}

/// What a model says to a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The row behind the prompt and one behind each token fed after it.
    pub rows: Vec<Distribution>,
    /// Rows of the images in the decoder `[rows, width]`, where the runner can tell and the prompt has images.
    pub features: Option<Tensor<f32>>,
}

/// When a generation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until<'a> {
    /// Most tokens.
    pub max_new: usize,
    /// Tokens that end it; the one that does is the last of the answer.
    pub stop: &'a [i64],
}

/// Why a runner cannot be had, or a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The runtime is not there.
    #[error("{runtime} is not available: {reason}\nhint: {hint}", runtime = .kind.name())]
    Unavailable {
        /// Which one.
        kind: RunnerKind,
        /// What was looked for and not found.
        reason: String,
        /// Where to get it.
        hint: String,
    },
    /// The runtime cannot run this kind of artifact.
    #[error("{runtime} cannot run {what}\nhint: {hint}", runtime = .kind.name())]
    Unsupported {
        /// Which one.
        kind: RunnerKind,
        /// What it was given.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// The runtime refuses the files.
    #[error("{runtime} does not load {file}: {reason}", runtime = .kind.name())]
    Refused {
        /// Which one.
        kind: RunnerKind,
        /// Name of the file.
        file: String,
        /// In its words.
        reason: String,
    },
    /// A question was not answered.
    #[error("sample '{sample}' in {runtime}: {reason}", runtime = .kind.name())]
    Question {
        /// Which one.
        kind: RunnerKind,
        /// Id of the sample.
        sample: String,
        /// In its words.
        reason: String,
    },
}

/// Answers questions with one model, from files.
pub trait Runner {
    /// What it is.
    fn about(&self) -> &About;

    /// What was noticed on the way that a reader of the results must know, one sentence each; about all questions so far.
    fn notes(&self) -> Vec<String> {
        vec![]
    }

    /// What the model says to questions, in their order. `done` is told the number of questions answered so far.
    ///
    /// # Errors
    /// [`RunnerError`] for the first that cannot be answered.
    fn score(
        &mut self,
        questions: &[Question],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Scored>, RunnerError>;

    /// Feeds the best token until the answer ends; `each` is told every token when it is known, and stops the generation by returning `false`. `fed` of
    /// the question is not looked at.
    ///
    /// # Errors
    /// [`RunnerError`].
    fn generate(
        &mut self,
        question: &Question,
        until: Until<'_>,
        each: &mut dyn FnMut(i64) -> bool,
    ) -> Result<Vec<i64>, RunnerError>;
}
