//! The public HTTP interface of `llama-server`: JSON to a path, JSON or a stream of events back.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde_json::Value as Json;
use ureq::{Agent, Body};

/// Time to connect: a server is there or it is not.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for an answer to begin. A large image takes minutes on a slow CPU; what takes longer hangs.
const ANSWER: Duration = Duration::from_secs(1800);
/// Longest answer: probabilities of some thousand tokens for some hundred rows.
const ANSWER_BYTES: u64 = 4 << 30;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// There is no connection.
    #[error("{url}: {reason}")]
    Connection {
        /// What was asked.
        url: String,
        /// In words of the system.
        reason: String,
    },
    /// The server refuses.
    #[error("{url}: the server answers {status}: {reason}")]
    Status {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// The server's message.
        reason: String,
    },
    /// The answer is not what this interface gives.
    #[error("{url}: {reason}: is it a llama-server?")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

/// A server by its address.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    address: String,
}

impl Client {
    /// A client of the server at `address`, such as `http://127.0.0.1:8080`. Nothing is sent.
    ///
    /// # Errors
    /// A sentence when the address is none that can be asked.
    pub fn new(address: &str) -> Result<Self, String> {
        if address.starts_with("https://") {
            return Err(format!(
                "{address}: encrypted connections are not supported; give an http:// address"
            ));
        }
        if !address.starts_with("http://") || address.len() == "http://".len() {
            return Err(format!("{address:?} is not an address such as http://127.0.0.1:8080"));
        }
        // Refusals have a body that says why. Proxies of the environment are for the internet.
        let config = Agent::config_builder().http_status_as_error(false).proxy(None);
        let config = config.timeout_connect(Some(CONNECT)).timeout_recv_response(Some(ANSWER)).build();
        Ok(Self { agent: config.into(), address: address.trim_end_matches('/').to_string() })
    }

    /// The address, without a slash at its end.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks for what a path holds.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn get(&self, path: &str) -> Result<Json, HttpError> {
        let url = format!("{}{path}", self.address);
        let body = accepted(&url, self.agent.get(&url).call())?;
        json(&url, body)
    }

    /// Sends JSON to a path.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn post(&self, path: &str, request: &Json) -> Result<Json, HttpError> {
        let url = format!("{}{path}", self.address);
        let body = self.send(&url, request)?;
        json(&url, body)
    }

    /// Sends JSON to a path and hands `each` the events of the answer until there are no more or it returns `false`, which ends the connection and with
    /// it the server's work.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn stream(
        &self,
        path: &str,
        request: &Json,
        each: &mut dyn FnMut(&Json) -> bool,
    ) -> Result<(), HttpError> {
        let url = format!("{}{path}", self.address);
        let body = self.send(&url, request)?;
        let answer = |reason: String| HttpError::Answer { url: url.clone(), reason };
        // One event is one line `data: ...` (server-sent events); other lines are comments and ends of events.
        for line in BufReader::new(body.into_reader()).lines() {
            let line = line.map_err(|e| HttpError::Connection {
                url: url.clone(),
                reason: format!("it broke off: {e}"),
            })?;
            if let Some(error) = line.strip_prefix("error:") {
                return Err(answer(format!("the server stopped with {}", error.trim())));
            }
            let Some(data) = line.strip_prefix("data:").map(str::trim).filter(|d| *d != "[DONE]") else {
                continue;
            };
            let event: Json = serde_json::from_str(data).map_err(|e| answer(format!("not JSON: {e}")))?;
            if let Some(error) = event.get("error") {
                return Err(answer(format!("the server stopped with {}", message(error))));
            }
            if !each(&event) {
                break;
            }
        }
        Ok(())
    }

    fn send(&self, url: &str, request: &Json) -> Result<Body, HttpError> {
        let sent = self.agent.post(url).content_type("application/json").send(request.to_string());
        accepted(url, sent)
    }
}

/// The body of an answer that is no refusal.
fn accepted(url: &str, answer: Result<ureq::http::Response<Body>, ureq::Error>) -> Result<Body, HttpError> {
    let answer = answer.map_err(|e| HttpError::Connection { url: url.to_string(), reason: e.to_string() })?;
    let status = answer.status().as_u16();
    if answer.status().is_success() {
        return Ok(answer.into_body());
    }
    let text = text(url, answer.into_body()).unwrap_or_default();
    let told = serde_json::from_str::<Json>(&text).ok();
    let reason = told.as_ref().and_then(|j| j.get("error")).map_or(text.trim().to_string(), message);
    Err(HttpError::Status { url: url.to_string(), status, reason })
}

/// What an error object says.
fn message(error: &Json) -> String {
    let text = error.get("message").and_then(Json::as_str);
    text.map_or_else(|| error.to_string(), String::from)
}

fn json(url: &str, body: Body) -> Result<Json, HttpError> {
    let text = text(url, body)?;
    serde_json::from_str(&text)
        .map_err(|e| HttpError::Answer { url: url.to_string(), reason: format!("not JSON: {e}") })
}

fn text(url: &str, body: Body) -> Result<String, HttpError> {
    let mut bytes = Vec::new();
    let mut reader = body.into_reader().take(ANSWER_BYTES);
    reader.read_to_end(&mut bytes).map_err(|e| HttpError::Connection {
        url: url.to_string(),
        reason: format!("the answer broke off: {e}"),
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
