//! `waya`: the command line of the daemon. Parses, makes one call over the daemon's Unix socket, prints the answer.

mod args;
mod commands;
mod connect;
mod error;
mod exit_code;
mod json;
mod output;
mod qr;

use std::io::Write as _;

use clap::Parser as _;

use args::Arguments;
use commands::Context;
use error::CliError;
use exit_code::ExitCode;

fn main() -> std::process::ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, with the code 0.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(ExitCode::Usage as u8).into();
        }
    };
    let code = run(arguments).unwrap_or_else(|error| {
        if error.is_broken_pipe() {
            return ExitCode::Done;
        }
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "error: {error}");
        if let Some(hint) = error.hint() {
            let _ = writeln!(stderr, "hint: {hint}");
        }
        error.exit_code()
    });
    code.into()
}

fn run(arguments: Arguments) -> Result<ExitCode, CliError> {
    let mut context = Context::new(&arguments.global)?;
    // One thread: a command is one call, and more would only cost its start.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(commands::run(arguments.command, &mut context));
    // What was written before an error is part of the answer.
    context.output.flush()?;
    result
}
