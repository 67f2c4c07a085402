//! Ends a process: its exit code, and the line about the error that ended it.

use std::io::Write as _;
use std::process::ExitCode;

use crate::errors::chain::chain;

/// Returns the exit code of a program, and says its error as [`failed`] does.
#[must_use]
pub fn done(program: &str, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(program, &error),
    }
}

/// Says an error with its causes on stderr, in one line that begins with the program's name.
pub fn failed(program: &str, error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{program}: {}", chain(error));
    ExitCode::FAILURE
}
