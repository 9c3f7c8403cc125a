//! `waya logout`.

use clap::Args;
use waya_proto::v1::LogoutRequest;
use waya_proto::v1::session_service_client::SessionServiceClient;

use super::{Context, call, confirm};
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;

const QUESTION: &str = "Unlink the WhatsApp account and delete its session? Queued messages stay.";
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
    if !args.yes && !confirm::asked(QUESTION, "logging out")? {
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
