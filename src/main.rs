//! The program: everything is in [`mquant_export::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    mquant_export::cli::run(std::env::args_os()).into()
}
