//! The rows behind a prompt and behind each token fed after it.
//!
//! One request has them all: a grammar of token ids (`root ::= <[39]> <[22]>`, `grammars/README.md` of llama.cpp) forces the tokens that are fed, and
//! `n_probs` tells each row's probabilities before any sampling, which a grammar does not touch. Where tokens cannot be forced (the end of an answer; an
//! older server), a request continues the prompt by the text of the tokens and has one row.

use serde_json::{Value as Json, json};

use super::http::HttpError;
use super::prompt::Rendered;
use super::{FULL_VOCABULARY, LlamaCpp, TOP_TOKENS, greedy, question};
use crate::verify::runner::{Distribution, Question, RunnerError};

/// Any token of plain characters: what is sampled does not matter where one row is wanted, but rows of tokens that end inside a character are left out.
const ANY: &str = "root ::= [ -~]+";

/// Logarithm of the least positive f32. The server computes probabilities in f32, where less is 0.
const LEAST: f32 = -103.278_93;

/// Rows that one request gave.
struct Rows {
    rows: Vec<Distribution>,
    /// Tokens of its prompt, images included.
    prompt_tokens: usize,
}

impl LlamaCpp {
    /// One row more than tokens are fed.
    pub(super) fn rows(&mut self, asked: &Question) -> Result<Vec<Distribution>, RunnerError> {
        let (id, fed) = (&asked.sample.id, &asked.fed);
        let rendered = self.compared(asked)?;
        let mut rows: Vec<Distribution> = Vec::with_capacity(fed.len() + 1);
        let (mut forces, mut prompt_tokens) = (true, None);
        while rows.len() <= fed.len() {
            let done = rows.len();
            let prompt = self.continued(&rendered, asked, done).map_err(|e| self.failed(id, &e))?;
            let forced = if forces { self.forced(&prompt, &fed[done..], done) } else { Ok(None) };
            let found = match forced.map_err(|e| self.failed(id, &e))? {
                Some(found) => found,
                None => {
                    forces = false;
                    self.one(&prompt, done).map_err(|e| self.failed(id, &e))?
                }
            };
            let first = *prompt_tokens.get_or_insert(found.prompt_tokens);
            if found.prompt_tokens != first + done {
                return Err(question(id, unlike(&fed[..done], found.prompt_tokens.saturating_sub(first))));
            }
            if found.rows.is_empty() {
                return Err(question(id, "the server tells no probabilities".into()));
            }
            rows.extend(found.rows);
        }
        self.compare_length(asked, prompt_tokens.unwrap_or(0));
        rows.truncate(fed.len() + 1);
        Ok(rows)
    }

    /// The prompt with the first `done` of the fed tokens behind it. Behind images the server takes text only.
    fn continued(&self, rendered: &Rendered, asked: &Question, done: usize) -> Result<Json, HttpError> {
        let fed = &asked.fed[..done];
        if !rendered.has_images() {
            return Ok(json!([&asked.prompt.input_ids[..], fed].concat()));
        }
        if fed.is_empty() {
            return Ok(rendered.prompt(""));
        }
        // Special tokens are written as their text, which is read as such again.
        let told = self.client.post("/detokenize", &json!({ "tokens": fed }))?;
        Ok(rendered.prompt(told["content"].as_str().unwrap_or_default()))
    }

    /// The rows behind a prompt and behind those of `tokens` that can be forced; `None` where none can. `done` tokens were fed before.
    fn forced(&mut self, prompt: &Json, tokens: &[i64], done: usize) -> Result<Option<Rows>, HttpError> {
        let count = tokens.iter().take_while(|t| !self.ends.contains(t)).count();
        let tokens = &tokens[..count];
        if tokens.is_empty() {
            return Ok(None);
        }
        let grammar: String = tokens.iter().map(|t| format!(" <[{t}]>")).collect();
        let request = self.request(prompt, &format!("root ::={grammar}"), count + 1, done);
        // A token that ends answers, one that is part of a character, or a grammar that is not understood is told by a status.
        let answer = match self.client.post("/completion", &request) {
            Ok(answer) => answer,
            Err(HttpError::Status { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        let found: Vec<i64> =
            answer["tokens"].as_array().into_iter().flatten().filter_map(Json::as_i64).collect();
        if answer["stop_type"] == "eos" {
            self.ends.extend(found.last());
        }
        let rows = self.read(&answer);
        let as_forced = found.len() > count && found[..count] == *tokens && rows.rows.len() == found.len();
        Ok(as_forced.then_some(rows))
    }

    /// The row behind a prompt.
    fn one(&self, prompt: &Json, done: usize) -> Result<Rows, HttpError> {
        let answer = self.client.post("/completion", &self.request(prompt, ANY, 1, done))?;
        let mut rows = self.read(&answer);
        rows.rows.truncate(1);
        Ok(rows)
    }

    fn request(&self, prompt: &Json, grammar: &str, count: usize, done: usize) -> Json {
        let mut request = greedy(count);
        request["prompt"] = prompt.clone();
        request["grammar"] = json!(grammar);
        request["n_probs"] = json!(self.top_tokens().unwrap_or(self.identity.vocabulary));
        // The prompt itself is computed anew, so that its rows do not depend on what was asked before; what continues it is not.
        request["cache_prompt"] = json!(done > 0);
        request
    }

    fn read(&self, answer: &Json) -> Rows {
        let rows = answer["completion_probabilities"].as_array().into_iter().flatten();
        Rows {
            rows: rows.map(|row| distribution(&row["top_logprobs"], self.identity.vocabulary)).collect(),
            prompt_tokens: answer["tokens_evaluated"].as_u64().unwrap_or(0) as usize,
        }
    }
}

fn distribution(tokens: &Json, vocabulary: usize) -> Distribution {
    let pair = |t: &Json| Some((t["id"].as_i64()?, (t["logprob"].as_f64()? as f32).max(LEAST)));
    let pairs: Vec<(i64, f32)> = tokens.as_array().into_iter().flatten().filter_map(pair).collect();
    if vocabulary > FULL_VOCABULARY {
        return Distribution::Top(pairs.into_iter().take(TOP_TOKENS).collect());
    }
    let mut full = vec![LEAST; vocabulary];
    for (id, logarithm) in pairs {
        if let Some(place) = usize::try_from(id).ok().and_then(|i| full.get_mut(i)) {
            *place = logarithm;
        }
    }
    Distribution::Full(full)
}

/// Why a prompt cannot be continued by tokens.
fn unlike(tokens: &[i64], found: usize) -> String {
    format!(
        "the answer cannot be fed to llama.cpp: the text of its tokens {tokens:?} is {found} tokens there. Behind images it takes text only, which does not \
         tell tokens that end inside a character\nhint: leave this sample out"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_vocabularies_are_full_and_what_is_less_than_any_f32_is_finite() {
        let told = json!([{ "id": 2, "logprob": -0.5 }, { "id": 0, "logprob": f32::MIN }, { "id": 9, "logprob": -1.0 }]);
        assert_eq!(distribution(&told, 3), Distribution::Full(vec![LEAST, LEAST, -0.5]));
        let top = Distribution::Top(vec![(2, -0.5), (0, LEAST), (9, -1.0)]);
        assert_eq!(distribution(&told, FULL_VOCABULARY + 1), top);
        assert!((f64::from(f32::from_bits(1)).ln() - f64::from(LEAST)).abs() < 1e-5);
    }
}
