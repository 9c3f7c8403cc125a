//! `waya completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Context;
use crate::args::Arguments;
use crate::error::CliError;
use crate::exit_code::ExitCode;

/// What `completions` takes.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, context: &mut Context) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "waya", &mut script);
    context.output.raw(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Done)
}
