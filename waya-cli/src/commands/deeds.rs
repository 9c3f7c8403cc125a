//! `waya react|edit|revoke|forward`: what is done to messages that are there.

use clap::{Args, Subcommand};
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::{EditRequest, ForwardRequest, ReactRequest, RevokeRequest, SendResponse};

use super::{Context, call, send, text};
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;

/// What to do to which message. Messages are named by id, by reference, or by WhatsApp's id.
#[derive(Debug, Subcommand)]
pub enum Deed {
    /// Put an emoji under a message; none takes it back
    React(ReactArgs),
    /// Replace the text of a message that was sent
    Edit(EditArgs),
    /// Take a message back for everybody
    Revoke(RevokeArgs),
    /// Pass a message on
    Forward(ForwardArgs),
}

/// What `react` takes.
#[derive(Debug, Args)]
pub struct ReactArgs {
    /// The message
    id: String,
    /// The emoji; none takes it back
    emoji: Option<String>,
}

/// What `edit` takes.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// The message
    id: String,
    /// The new text; `-`, or none with a pipe, reads standard input
    #[arg(value_name = "TEXT|-")]
    text: Option<String>,
}

/// What `revoke` takes.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The message
    id: String,
}

/// What `forward` takes.
#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// The message
    id: String,
    /// Whom to: as for `waya send`
    #[arg(required = true, value_name = "TO")]
    to: Vec<String>,
}

pub async fn run(deed: Deed, context: &mut Context) -> Result<ExitCode, CliError> {
    let mut daemon = QueueServiceClient::new(context.daemon().await?).max_decoding_message_size(MAX_ANSWER);
    let answer: SendResponse = match deed {
        Deed::React(ReactArgs { id, emoji }) => {
            daemon.react(call(ReactRequest { id, emoji: emoji.unwrap_or_default() })).await
        }
        Deed::Edit(EditArgs { id, text }) => daemon.edit(call(EditRequest { id, message: text::resolve(text)? })).await,
        Deed::Revoke(RevokeArgs { id }) => daemon.revoke(call(RevokeRequest { id })).await,
        Deed::Forward(ForwardArgs { id, to }) => {
            let recipients = to.iter().flat_map(|list| send::split(list)).collect();
            daemon.forward(call(ForwardRequest { id, recipients })).await
        }
    }?
    .into_inner();
    let output = &mut context.output;
    if output.json {
        output.json(&json::queue::SendAnswer::new(answer, false))?;
    } else {
        send::show(&answer, false, output)?;
    }
    Ok(ExitCode::Done)
}
