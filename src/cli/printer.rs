//! The only way out: results to stdout, progress, warnings and errors to stderr. Decides what is shown (`--json`, `--quiet`,
//! terminal or not) so that no command has to. Nothing is said by colour alone.

mod stage;
mod warnings;

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::SCHEMA_VERSION;
use super::error::{CliError, ExitStatus};
use super::failure::Failure;
use crate::pipeline::{Progress, Stage, Warning};
use stage::Running;
use warnings::Told;

/// How often the spinner of a bar moves: a step may take minutes, and a still line looks like a hung program.
const TICK: Duration = Duration::from_millis(200);

/// What the user wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// One JSON object on stdout.
    pub json: bool,
    /// Errors only on stderr.
    pub quiet: bool,
    /// Moving bars instead of lines.
    pub bars: bool,
}

impl Mode {
    /// Reads the mode off the raw arguments: a mistake in the other arguments must be told in the right form too.
    pub fn of(argv: &[OsString]) -> Self {
        let flags = || argv.iter().skip(1).take_while(|a| *a != "--");
        // In a CI log, which may claim to be a terminal, a bar is a thousand lines.
        let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty() && v != "false");
        Self {
            json: json(argv),
            quiet: flags().any(|a| a == "--quiet" || a == "-q"),
            bars: io::stderr().is_terminal() && !ci,
        }
    }
}

/// Whether the result is to be one JSON object on stdout: `--json`, which for `verify` names a file, `-` for stdout.
fn json(argv: &[OsString]) -> bool {
    let flags: Vec<&OsString> = argv.iter().skip(1).take_while(|a| *a != "--").collect();
    if flags.first().is_some_and(|a| *a == "verify") {
        return flags.windows(2).any(|w| w[0] == "--json" && w[1] == "-")
            || flags.iter().any(|a| *a == "--json=-");
    }
    flags.iter().any(|a| *a == "--json")
}

/// Writes for one run of the program.
pub struct Printer {
    mode: Mode,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    stage: Option<Running>,
    bar: Option<ProgressBar>,
    told: Told,
}

impl Printer {
    /// A printer to the standard streams; colour codes are removed where they would not be shown (`NO_COLOR`, files, pipes).
    pub fn new(mode: Mode) -> Self {
        Self::to(mode, Box::new(anstream::stdout()), Box::new(anstream::stderr()))
    }

    fn to(mode: Mode, out: Box<dyn Write>, err: Box<dyn Write>) -> Self {
        Self { mode, out, err, stage: None, bar: None, told: Told::default() }
    }

    /// A result in the form asked for.
    ///
    /// # Errors
    /// [`CliError::Stdout`] when stdout does not take it; a closed pipe is no error.
    pub fn result<T: Serialize>(
        &mut self,
        value: &T,
        lines: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<(), CliError> {
        if self.mode.json {
            let text = serde_json::to_string_pretty(value).map_err(CliError::Json)?;
            return self.text(&(text + "\n"));
        }
        let text: String = lines(value).into_iter().map(|l| l + "\n").collect();
        self.text(&text)
    }

    /// Text that is a result as it stands.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            // The reader (`| head`) has seen enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(CliError::Stdout),
        }
    }

    /// A line about a result, on stderr.
    pub fn note(&mut self, text: &str) {
        if !self.mode.quiet {
            self.line(text);
        }
    }

    /// An error; returns the exit code it leads to.
    pub fn failure(&mut self, failure: &Failure) -> ExitStatus {
        self.clear_bar();
        self.told.rest().into_iter().for_each(|line| self.warning(&line));
        self.labelled("error", AnsiColor::Red, &failure.lines().join("\n"));
        self.error_object(failure)
    }

    /// A mistake in the arguments, as the parser words it.
    pub fn usage(&mut self, text: &str, failure: &Failure) -> ExitStatus {
        self.line(text.trim_end());
        self.error_object(failure)
    }

    /// Says how many warnings were held back.
    pub fn finish_warnings(&mut self) {
        self.told.rest().into_iter().for_each(|line| self.warning(&line));
    }

    fn error_object(&mut self, failure: &Failure) -> ExitStatus {
        #[derive(Serialize)]
        struct ErrorObject<'a> {
            schema_version: u32,
            error: &'a Failure,
        }
        if self.mode.json {
            let object = ErrorObject { schema_version: SCHEMA_VERSION, error: failure };
            // An error about stdout itself cannot be told there; it stands on stderr already.
            let _ = self.result(&object, |_| vec![]);
        }
        failure.status()
    }

    fn warning(&mut self, text: &str) {
        if !self.mode.quiet {
            self.labelled("warning", AnsiColor::Yellow, text);
        }
    }

    fn labelled(&mut self, label: &str, color: AnsiColor, text: &str) {
        let style = Style::new().bold().fg_color(Some(color.into()));
        self.line(&format!("{style}{label}{style:#}: {text}"));
    }

    /// A line on stderr, above the bar if there is one. A closed stderr is nobody's loss.
    fn line(&mut self, text: &str) {
        let err = &mut self.err;
        let mut write = || {
            let _ = writeln!(err, "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn clear_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Printer {
    fn begin(&mut self, stage: Stage, total: u64) {
        self.clear_bar();
        if self.mode.quiet {
            return;
        }
        let running = Running::new(stage, total, Instant::now());
        if self.mode.bars {
            self.bar = Some(new_bar(&running));
        } else {
            self.line(&running.first_line());
        }
        self.stage = Some(running);
    }

    fn at(&mut self, done: u64, what: &str) {
        let Some(running) = &mut self.stage else { return };
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(running.text(Instant::now(), done, what));
        } else if let Some(line) = running.line_at(Instant::now(), done, what) {
            self.line(&line);
        }
    }

    fn end(&mut self) {
        self.clear_bar();
        if let Some(running) = self.stage.take() {
            self.line(&running.last_line(Instant::now()));
        }
    }

    fn warn(&mut self, warning: &Warning) {
        if let Some(text) = self.told.tell(warning) {
            self.warning(&text);
        }
    }
}

fn new_bar(running: &Running) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(running.total()), ProgressDrawTarget::stderr());
    let template = if running.total() == 0 {
        "{spinner} {prefix}: {wide_msg}"
    } else {
        "{spinner} {prefix} {bar:24} {pos}/{len} {wide_msg}"
    };
    // The templates are constant; were one wrong, the default bar shows the same numbers.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_prefix(running.label());
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests;
