//! GGUF artifacts in llama.cpp, through the public HTTP interface of `llama-server`: one that the user runs, or one that this program starts and ends.
//!
//! The server renders and tokenizes prompts itself and prepares images itself: that is what users of the files get. The tokens it made of the text are
//! compared with ours, see `prompt`; how rows behind fed tokens are had is in `rows`.

mod http;
mod identity;
mod process;
mod prompt;
mod rows;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::runner::{About, Question, Runner, RunnerError, RunnerKind, Scored, Until};
use crate::calibrate::Sample;
use http::{Client, HttpError};
use identity::Identity;
use process::Process;
use prompt::Rendered;

/// Largest vocabulary whose probabilities are asked for in full.
const FULL_VOCABULARY: usize = 4096;
/// Tokens per row that are asked for otherwise. An answer has about 100 bytes for each.
pub const TOP_TOKENS: usize = 256;

/// The files of a GGUF artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufFiles {
    /// The text model; of several files the first.
    pub text: PathBuf,
    /// The projector, where there is one.
    pub mmproj: Option<PathBuf>,
}

/// Which server is asked, and how one is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerOptions {
    /// Address of a running server, such as `http://127.0.0.1:8080`; absent: one is started.
    pub address: Option<String>,
    /// Threads of a started server; absent: its default.
    pub threads: Option<usize>,
    /// Tokens of prompt and answer together in a started server; absent: 8192.
    pub context: Option<usize>,
    /// The program; absent: `LLAMA_SERVER`, then `llama-server` on `PATH`.
    pub program: Option<PathBuf>,
}

impl ServerOptions {
    fn program(&self) -> Result<PathBuf, RunnerError> {
        match &self.program {
            Some(path) => process::named(path, "the program named"),
            None => process::find(&|name| std::env::var_os(name)),
        }
    }
}

/// An artifact in llama.cpp.
#[derive(Debug)]
pub struct LlamaCpp {
    about: About,
    client: Client,
    identity: Identity,
    /// Tokens that are known to end an answer here. A grammar cannot force them.
    ends: BTreeSet<i64>,
    /// Prompts whose length is not ours: id of the sample, its tokens there, ours.
    longer: Vec<(String, usize, usize)>,
    /// Ends the server with this value.
    _process: Option<Process>,
}

/// What was said to a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Tokens of the prompt, rows of images included.
    pub prompt_tokens: usize,
    /// Tokens of the answer, the one that ends it included.
    pub tokens: usize,
    /// Whether the model ended it.
    pub ended: bool,
}

/// Whether a server can be asked or started; of a running one, whether it answers.
///
/// # Errors
/// [`RunnerError::Unavailable`].
pub fn available(options: &ServerOptions) -> Result<(), RunnerError> {
    match &options.address {
        Some(address) => {
            let client = client(address)?;
            client.get("/health").map(|_| ()).map_err(|e| unreachable(address, &e))
        }
        None => options.program().map(|_| ()),
    }
}

fn client(address: &str) -> Result<Client, RunnerError> {
    Client::new(address).map_err(|reason| RunnerError::Unavailable {
        kind: RunnerKind::LlamaCpp,
        reason,
        hint: "give the address that llama-server prints when it has started".into(),
    })
}

fn unreachable(address: &str, error: &HttpError) -> RunnerError {
    RunnerError::Unavailable {
        kind: RunnerKind::LlamaCpp,
        reason: error.to_string(),
        hint: format!(
            "start llama-server with the artifact's files so that it answers at {address}, or leave --server out"
        ),
    }
}

impl LlamaCpp {
    /// Connects to the server, or starts one with the files and waits until they are loaded.
    ///
    /// # Errors
    /// [`RunnerError::Unavailable`] without a server or program, [`RunnerError::Refused`] when the files do not load, or the running server has
    /// another model than the files.
    pub fn open(files: &GgufFiles, options: &ServerOptions) -> Result<Self, RunnerError> {
        let (process, client) = match &options.address {
            Some(address) => {
                let client = client(address)?;
                client.get("/health").map_err(|e| unreachable(address, &e))?;
                (None, client)
            }
            None => {
                let (process, client) = Process::start(&options.program()?, files, options)?;
                (Some(process), client)
            }
        };
        let identity = Identity::of(&client, files)?;
        let detail = match &options.address {
            Some(_) => format!("llama-server at {}", client.address()),
            None => "llama-server, started for this run".to_string(),
        };
        let about = About { kind: RunnerKind::LlamaCpp, version: identity.version.clone(), detail };
        let (ends, longer) = (identity.end.into_iter().collect(), Vec::new());
        Ok(Self { about, client, identity, ends, longer, _process: process })
    }

    /// Address of the server.
    pub fn address(&self) -> &str {
        self.client.address()
    }

    /// Tokens per row whose probabilities are told; `None` when it is all of them.
    pub fn top_tokens(&self) -> Option<usize> {
        (self.identity.vocabulary > FULL_VOCABULARY).then_some(TOP_TOKENS)
    }

    /// Answers a conversation as the server prepares it, which needs no tokenizer or template here. `each` is told the text as it comes, in whole
    /// characters, and stops the answer by returning `false`.
    ///
    /// # Errors
    /// [`RunnerError::Question`].
    pub fn converse(
        &mut self,
        sample: &Sample,
        max_new: usize,
        each: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Said, RunnerError> {
        let rendered = self.rendered(sample)?;
        let mut request = greedy(max_new);
        request["prompt"] = rendered.prompt("");
        request["stream"] = json!(true);
        let mut said = Said { prompt_tokens: 0, tokens: 0, ended: false };
        self.client
            .stream("/completion", &request, &mut |event| {
                let count = |key: &str| event[key].as_u64().map(|n| n as usize);
                said.tokens = count("tokens_predicted").unwrap_or(said.tokens);
                said.prompt_tokens = count("tokens_evaluated").unwrap_or(said.prompt_tokens);
                said.ended |= event["stop_type"] == "eos";
                event["content"].as_str().is_none_or(|text| text.is_empty() || each(text))
            })
            .map_err(|e| self.failed(&sample.id, &e))?;
        Ok(said)
    }

    fn rendered(&self, sample: &Sample) -> Result<Rendered, RunnerError> {
        Rendered::of(&self.client, &self.identity, sample).map_err(|reason| question(&sample.id, reason))
    }

    fn failed(&self, sample: &str, error: &HttpError) -> RunnerError {
        question(sample, error.to_string())
    }

    /// Remembers where a prompt is as long as ours and where not.
    fn compare_length(&mut self, question: &Question, found: usize) {
        let ours = question.prompt.input_ids.len();
        let id = &question.sample.id;
        if found != ours && !self.longer.iter().any(|(known, ..)| known == id) {
            self.longer.push((id.clone(), found, ours));
        }
    }
}

/// Options of a greedy answer.
fn greedy(max_new: usize) -> Json {
    json!({
        "n_predict": max_new,
        "temperature": 0,
        "samplers": ["top_k"],
        "top_k": 1,
        "repeat_penalty": 1.0,
        // States of earlier prompts would make other batches of the same prompt, and so other last digits.
        "cache_prompt": false,
        "return_tokens": true,
    })
}

fn question(sample: &str, reason: String) -> RunnerError {
    RunnerError::Question { kind: RunnerKind::LlamaCpp, sample: sample.to_string(), reason }
}

impl Runner for LlamaCpp {
    fn about(&self) -> &About {
        &self.about
    }

    fn notes(&self) -> Vec<String> {
        let Some((id, found, ours)) = self.longer.first() else { return vec![] };
        let count = self.longer.len();
        vec![format!(
            "{count} of the prompts have another length in llama.cpp (sample '{id}': {found} tokens there, {ours} by the model's own preprocessing): it \
             shows images at another size"
        )]
    }

    fn score(
        &mut self,
        questions: &[Question],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Scored>, RunnerError> {
        let mut scored = Vec::with_capacity(questions.len());
        for question in questions {
            let rows = self.rows(question)?;
            scored.push(Scored { rows, features: None });
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
        let id = &question.sample.id;
        let rendered = self.compared(question)?;
        // Not streamed: a stream leaves out the ids of tokens that end inside a character.
        let mut request = greedy(until.max_new);
        request["prompt"] = rendered.prompt("");
        let answer = self.client.post("/completion", &request).map_err(|e| self.failed(id, &e))?;
        self.compare_length(question, answer["tokens_evaluated"].as_u64().unwrap_or(0) as usize);
        let mut tokens = Vec::new();
        for token in answer["tokens"].as_array().into_iter().flatten().filter_map(Json::as_i64) {
            if tokens.len() == until.max_new {
                break;
            }
            tokens.push(token);
            if !each(token) || until.stop.contains(&token) {
                break;
            }
        }
        if answer["stop_type"] == "eos" && tokens.len() == answer["tokens"].as_array().map_or(0, Vec::len) {
            self.ends.extend(tokens.last());
        }
        Ok(tokens)
    }
}
