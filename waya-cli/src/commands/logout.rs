//! `waya logout`.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use waya_proto::v1::LogoutRequest;
use waya_proto::v1::session_service_client::SessionServiceClient;

use super::{Context, call};
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;

/// What only the user can finish.
const STILL_LISTED: &str = "WhatsApp did not confirm it, so this device is still listed on the phone; remove it there \
                            under Linked devices";

/// What `logout` takes.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(args: &LogoutArgs, context: &mut Context) -> Result<ExitCode, CliError> {
    if !args.yes && !confirmed()? {
        return Err(CliError::plain(ExitCode::Unexpected, "nothing was done"));
    }
    let mut daemon = SessionServiceClient::new(context.daemon().await?);
    let answer = daemon.logout(call(LogoutRequest {})).await?.into_inner();
    if context.output.json {
        context.output.json(&json::session::Logout::from(answer))?;
        return Ok(ExitCode::Done);
    }
    context.output.note("logged out; the session's keys are deleted")?;
    if answer.still_listed {
        context.output.line(STILL_LISTED)?;
    }
    Ok(ExitCode::Done)
}

fn confirmed() -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::usage("logging out needs a confirmation", "give --yes where nobody can be asked"));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "Unlink the WhatsApp account and delete its session? Queued messages stay. [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes" | "ya"))
}
