//! An error as it is told: message, causes and hints, as lines for people or as the `error` object of `--json`.

use std::any::Any;
use std::error::Error;

use serde::Serialize;

use super::error::{CliError, ExitStatus};

/// An error taken apart for printing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// `user` or `internal`, as the exit code says.
    kind: &'static str,
    /// What is wrong; may have several lines.
    message: String,
    /// Why, outermost first.
    causes: Vec<String>,
    /// What to do.
    hints: Vec<String>,
    #[serde(skip)]
    status: ExitStatus,
}

impl Failure {
    fn new(status: ExitStatus) -> Self {
        let kind = if status == ExitStatus::InternalError { "internal" } else { "user" };
        Self { kind, message: String::new(), causes: vec![], hints: vec![], status }
    }

    /// An error of a command, with its chain of sources.
    pub fn of(error: &CliError) -> Self {
        let mut failure = Self::new(error.status());
        failure.message = failure.take_hints(&error.to_string());
        let mut told = failure.message.clone();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = failure.take_hints(&cause.to_string());
            // Some errors quote their source in their own text; saying it twice helps nobody.
            if !told.contains(&text) {
                told.push_str(&text);
                failure.causes.push(text);
            }
            source = cause.source();
        }
        failure
    }

    /// A mistake in the arguments.
    pub fn of_usage(error: &clap::Error) -> Self {
        let mut failure = Self::new(ExitStatus::UserError);
        let text = error.render().to_string();
        let mut paragraphs = text.split("\n\n").map(str::trim);
        failure.message = paragraphs.next().map_or("", |p| p.trim_start_matches("error: ")).to_string();
        failure.hints = paragraphs.filter_map(|p| p.strip_prefix("tip: ")).map(String::from).collect();
        failure
    }

    /// A panic; its place was already told on stderr by the panic hook.
    pub fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text =
            text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let mut failure = Self::new(ExitStatus::InternalError);
        failure.message = format!("internal: {text}");
        failure.hints.push(format!(
            "this is a fault of mquant-export {}, not of your input; please report it with the command line and all lines above",
            env!("CARGO_PKG_VERSION")
        ));
        failure
    }

    /// The exit code.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// The lines after the word `error: `.
    pub fn lines(&self) -> Vec<String> {
        let causes = self.causes.iter().map(|c| format!("  caused by: {}", c.replace('\n', "\n    ")));
        let hints = self.hints.iter().map(|h| format!("hint: {h}"));
        std::iter::once(self.message.clone()).chain(causes).chain(hints).collect()
    }

    /// Moves the hint lines of `text` to the end of the report and returns the rest.
    fn take_hints(&mut self, text: &str) -> String {
        let mut rest = Vec::new();
        for line in text.lines() {
            match line.trim_start().strip_prefix("hint: ") {
                Some(hint) if self.hints.iter().any(|h| h == hint) => {}
                Some(hint) => self.hints.push(hint.to_string()),
                None => rest.push(line),
            }
        }
        rest.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::PipelineError;

    #[test]
    fn hints_come_last_and_causes_once() {
        let e = CliError::from(PipelineError::NeedsCalibration { recipe: "w8a8".into() });
        let f = Failure::of(&e);
        let lines = f.lines();
        assert!(lines[0].starts_with("the recipe w8a8") && !lines[0].contains("hint"), "{lines:?}");
        assert!(lines[1].starts_with("hint: pass --calibration FILE"), "{lines:?}");
        assert_eq!((lines.len(), f.status()), (2, ExitStatus::UserError));

        // The text of PipelineError::Io holds its source already.
        let io = std::io::Error::other("disk on fire");
        let e = CliError::from(PipelineError::Io { path: "out/model.onnx".into(), source: io });
        assert_eq!(Failure::of(&e).lines(), ["out/model.onnx: disk on fire"]);

        let e = CliError::Stdout(std::io::Error::other("no space"));
        assert_eq!(Failure::of(&e).lines()[1], "  caused by: no space");
    }

    #[test]
    fn usage_errors_keep_the_tip_and_drop_the_usage() {
        use clap::Parser;
        let e = crate::cli::args::Args::try_parse_from(["x", "m", "--format", "onnx", "--calibratoin", "f"]);
        let f = Failure::of_usage(&e.unwrap_err());
        assert_eq!(f.kind, "user");
        assert!(f.message.contains("--calibratoin") && !f.message.contains("Usage"), "{f:?}");
        assert!(f.hints.iter().any(|h| h.contains("--calibration")), "{f:?}");
    }

    #[test]
    fn panics_are_internal() {
        let panic: Box<dyn Any + Send> = Box::new("index out of bounds".to_string());
        let f = Failure::of_panic(panic.as_ref());
        assert_eq!((f.kind, f.status()), ("internal", ExitStatus::InternalError));
        assert!(f.lines()[0].contains("index out of bounds") && f.lines()[1].contains("report"), "{f:?}");
    }
}
