//! `run`: the answer of an exported folder, as it comes.

use serde::Serialize;

use super::SCHEMA_VERSION;
use super::args::RunArgs;
use super::error::CliError;
use super::format::{count, plural};
use super::printer::Printer;
use super::resolve;
use crate::pipeline::{self, RunReport};

/// Answers the question.
///
/// # Errors
/// [`CliError::Pipeline`] when the folder, an image or the runtime cannot be used.
pub fn run(args: &RunArgs, printer: &mut Printer) -> Result<(), CliError> {
    let (mut text, mut unwritten) = (String::new(), None);
    let report = pipeline::run(&resolve::run(args), &mut |piece| {
        text.push_str(piece);
        if args.json {
            return true;
        }
        unwritten = printer.text(piece).err();
        unwritten.is_none()
    })?;
    if let Some(e) = unwritten {
        return Err(e);
    }
    let seen = RunSeen::new(text, &report);
    if args.json {
        return printer.result(&seen, |_| vec![]);
    }
    printer.text("\n")?;
    printer.note(&seen.line());
    Ok(())
}

/// An answer.
#[derive(Debug, Serialize)]
struct RunSeen {
    schema_version: u32,
    text: String,
    /// What ran the files, with its version and how.
    runtime: &'static str,
    version: String,
    detail: String,
    prompt_tokens: usize,
    /// The one that ends the answer included.
    new_tokens: usize,
    /// `end` when the model ended the answer, otherwise `limit`.
    stop: &'static str,
    /// From the question to the first token, loading not included.
    first_token_seconds: f64,
    /// Tokens behind the first, per second; absent without any.
    tokens_per_second: Option<f64>,
}

impl RunSeen {
    fn new(text: String, report: &RunReport) -> Self {
        let after = report.total.saturating_sub(report.first_token).as_secs_f64();
        let behind = report.new_tokens.saturating_sub(1);
        Self {
            schema_version: SCHEMA_VERSION,
            text,
            runtime: report.about.kind.name(),
            version: report.about.version.clone(),
            detail: report.about.detail.clone(),
            prompt_tokens: report.prompt_tokens,
            new_tokens: report.new_tokens,
            stop: if report.ended { "end" } else { "limit" },
            first_token_seconds: report.first_token.as_secs_f64(),
            tokens_per_second: (behind > 0 && after > 0.0).then(|| behind as f64 / after),
        }
    }

    /// For people.
    fn line(&self) -> String {
        let speed = self.tokens_per_second.map(|s| format!(", {s:.1} tokens/s")).unwrap_or_default();
        format!(
            "{} {} ({}): {} in the prompt, first token after {:.2} s, {} in the answer{speed}{}",
            self.runtime,
            self.version,
            self.detail,
            plural(self.prompt_tokens, "token"),
            self.first_token_seconds,
            count(self.new_tokens as u64),
            if self.stop == "limit" { ", cut off by --max-new-tokens" } else { "" },
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::verify::runner::{About, RunnerKind};

    #[test]
    fn speed_is_that_of_the_tokens_behind_the_first() {
        let about =
            About { kind: RunnerKind::LlamaCpp, version: "b7000".into(), detail: "llama-server".into() };
        let report = |new_tokens, ended| RunReport {
            about: about.clone(),
            prompt_tokens: 1234,
            new_tokens,
            ended,
            first_token: Duration::from_millis(1500),
            total: Duration::from_millis(2500),
        };
        let seen = RunSeen::new("Hi".into(), &report(21, true));
        let line = "llama.cpp b7000 (llama-server): 1,234 tokens in the prompt, first token after 1.50 s, 21 in the answer";
        assert_eq!(seen.line(), format!("{line}, 20.0 tokens/s"));
        let cut = RunSeen::new("H".into(), &report(1, false));
        assert_eq!((cut.tokens_per_second, cut.stop), (None, "limit"));
        assert!(cut.line().ends_with("1 in the answer, cut off by --max-new-tokens"), "{}", cut.line());
    }
}
