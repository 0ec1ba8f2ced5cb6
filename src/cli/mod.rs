//! The command line: raw flags (`args`) become a resolved request (`resolve`), a command runs (`export`, `inspect`, `preprocess`, `run`), and whatever
//! it tells goes out through the one `printer`. Results are on stdout; progress, warnings and errors on stderr.
//! No conversion, no file format of models and no arithmetic here: that is [`crate::pipeline`] and what lies below it.

mod args;
mod error;
mod explain;
mod export;
mod failure;
mod format;
mod forms;
mod inspect;
mod plan;
mod preprocess;
mod printer;
mod resolve;
mod run;
mod verify;
pub mod verify_text;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::{CommandFactory, Parser};

use args::{Args, Command};
pub use error::{CliError, ExitStatus};
use failure::Failure;
use printer::{Mode, Printer};

/// Version of the JSON objects that only the command line makes (errors, `inspect`, `preprocess`, `run`, `--dry-run`, `--dump-ir`).
const SCHEMA_VERSION: u32 = 1;

/// Runs the program with the arguments `argv` (the program's name first) and says how it ended. All output is done.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitStatus {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let mut printer = Printer::new(Mode::of(&argv));
    let args = match Args::try_parse_from(&argv) {
        Ok(args) => args,
        Err(e) => return refuse(&e, &mut printer),
    };
    // A panic is a fault of this program; the printer is used afterwards only to say so.
    match catch_unwind(AssertUnwindSafe(|| dispatch(&args, &mut printer))) {
        Ok(Ok(status)) => status,
        Ok(Err(e)) => printer.failure(&Failure::of(&e)),
        Err(panic) => printer.failure(&Failure::of_panic(panic.as_ref())),
    }
}

fn dispatch(args: &Args, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    match (&args.command, &args.export) {
        (Some(Command::Verify(a)), _) => return verify::run(a, printer),
        (Some(Command::Inspect(a)), _) => inspect::run(a, printer)?,
        (Some(Command::Preprocess(a)), _) => preprocess::run(a, printer)?,
        (Some(Command::Run(a)), _) => run::run(a, printer)?,
        (Some(Command::Completions { shell }), _) => completions(*shell, printer)?,
        (None, Some(a)) => return export::run(a, &args.how, printer),
        // The parser asks for MODEL when there is no command; help is what is left to say.
        (None, None) => printer.text(&Args::command().render_help().ansi().to_string())?,
    }
    Ok(ExitStatus::Success)
}

/// Help and version are results; everything else the parser reports is a mistake in the arguments.
fn refuse(error: &clap::Error, printer: &mut Printer) -> ExitStatus {
    let text = error.render().ansi().to_string();
    if error.use_stderr() {
        return printer.usage(&text, &Failure::of_usage(error));
    }
    match printer.text(&text) {
        Ok(()) => ExitStatus::Success,
        Err(e) => printer.failure(&Failure::of(&e)),
    }
}

fn completions(shell: clap_complete::Shell, printer: &mut Printer) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), args::NAME, &mut script);
    printer.text(&String::from_utf8_lossy(&script))
}
