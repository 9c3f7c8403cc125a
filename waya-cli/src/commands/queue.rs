//! `waya queue`.

use clap::{Args, Subcommand, ValueEnum};
use tonic::Request;
use tonic::transport::Channel;
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::{
    self, CancelRequest, ClearRequest, ListRequest, PauseRequest, QueueSummary, ResumeRequest, RetryRequest,
    WatchRequest,
};

use super::message::{self, MessageArgs};
use super::{Context, call, confirm, status};
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;

/// What can be done with the queue.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Show messages, newest first
    List(ListArgs),
    /// Show one message
    Show(OneArgs),
    /// Take pending messages back
    Cancel(IdArgs),
    /// Try failed or cancelled messages again
    Retry(IdArgs),
    /// Take back all that are pending, or delete all that are sent, failed or cancelled
    Clear(ClearArgs),
    /// Let nothing leave until `resume`; a restart does not change that
    Pause,
    /// Let messages leave again
    Resume,
}

/// What `queue list` takes.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only these, with commas between
    #[arg(long, value_enum, value_delimiter = ',')]
    status: Vec<StatusWord>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// Only older than this one
    #[arg(long, value_name = "ID", conflicts_with = "follow")]
    before: Option<String>,
    /// Show messages as they change, from now on
    #[arg(long, short, conflicts_with = "limit")]
    follow: bool,
}

/// What `queue clear` takes.
#[derive(Debug, Args)]
pub struct ClearArgs {
    /// Which ones
    #[arg(long, value_enum)]
    status: Clearable,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What is on its way can be neither taken back nor deleted.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Clearable {
    Pending,
    Sent,
    Failed,
    Cancelled,
}

impl Clearable {
    const fn proto(self) -> v1::Status {
        match self {
            Self::Pending => v1::Status::Pending,
            Self::Sent => v1::Status::Sent,
            Self::Failed => v1::Status::Failed,
            Self::Cancelled => v1::Status::Cancelled,
        }
    }

    /// What is asked before, what it is called, and what is told after.
    const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Pending => ("Cancel all pending messages?", "cancelling all pending messages", "cancelled"),
            Self::Sent => ("Delete all sent messages from the queue?", "deleting all sent messages", "deleted"),
            Self::Failed => ("Delete all failed messages from the queue?", "deleting all failed messages", "deleted"),
            Self::Cancelled => {
                ("Delete all cancelled messages from the queue?", "deleting all cancelled messages", "deleted")
            }
        }
    }
}

/// Which message.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The message's id, or its reference
    #[arg(value_name = "ID|REF")]
    id: String,
}

/// Which messages.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// The messages' ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StatusWord {
    Pending,
    Sending,
    Sent,
    Failed,
    Cancelled,
}

impl StatusWord {
    const fn proto(self) -> v1::Status {
        match self {
            Self::Pending => v1::Status::Pending,
            Self::Sending => v1::Status::Sending,
            Self::Sent => v1::Status::Sent,
            Self::Failed => v1::Status::Failed,
            Self::Cancelled => v1::Status::Cancelled,
        }
    }
}

pub async fn run(command: QueueCommand, context: &mut Context) -> Result<ExitCode, CliError> {
    if let QueueCommand::Show(OneArgs { id }) = command {
        return message::run(MessageArgs::new(id), context).await;
    }
    if let QueueCommand::Clear(ClearArgs { status, yes: false }) = &command {
        let (question, what, _) = status.words();
        if !confirm::asked(question, what)? {
            return Err(CliError::plain(ExitCode::Unexpected, "nothing was done"));
        }
    }
    let mut daemon = QueueServiceClient::new(context.daemon().await?).max_decoding_message_size(MAX_ANSWER);
    match command {
        QueueCommand::List(args) if args.follow => follow(&args, daemon, context).await,
        QueueCommand::List(args) => list(args, daemon, context).await,
        QueueCommand::Cancel(IdArgs { ids }) => change(ids, Change::Cancel, daemon, context).await,
        QueueCommand::Retry(IdArgs { ids }) => change(ids, Change::Retry, daemon, context).await,
        QueueCommand::Clear(ClearArgs { status, .. }) => {
            // However many there are: each is on disk before this ends.
            let request = ClearRequest { status: status.proto().into() };
            let cleared = daemon.clear(Request::new(request)).await?.into_inner().cleared;
            if context.output.json {
                context.output.json(&json::queue::Cleared { cleared })?;
            } else {
                context.output.note(format!("{cleared} {}", status.words().2))?;
            }
            Ok(ExitCode::Done)
        }
        QueueCommand::Pause => {
            let answer = daemon.pause(call(PauseRequest {})).await?.into_inner();
            summary(answer.summary.unwrap_or_default(), "paused", context)
        }
        QueueCommand::Resume => {
            let answer = daemon.resume(call(ResumeRequest {})).await?.into_inner();
            summary(answer.summary.unwrap_or_default(), "running", context)
        }
        // Done above.
        QueueCommand::Show(_) => Ok(ExitCode::Done),
    }
}

async fn list(
    args: ListArgs,
    mut daemon: QueueServiceClient<Channel>,
    context: &mut Context,
) -> Result<ExitCode, CliError> {
    let request = ListRequest { statuses: statuses(&args), limit: args.limit.unwrap_or_default(), before: args.before };
    let answer = daemon.list(call(request)).await?.into_inner();
    let output = &mut context.output;
    if output.json {
        output.json(&json::queue::Queue::from(answer))?;
        return Ok(ExitCode::Done);
    }
    output.pairs(vec![("queue", status::summary_cell(&answer.summary.unwrap_or_default()))])?;
    if !answer.messages.is_empty() {
        message::table(&answer.messages, output)?;
    }
    if let Some(next) = answer.next {
        output.note(format!("for older ones add --before {next}"))?;
    }
    Ok(ExitCode::Done)
}

async fn follow(
    args: &ListArgs,
    mut daemon: QueueServiceClient<Channel>,
    context: &mut Context,
) -> Result<ExitCode, CliError> {
    let request = Request::new(WatchRequest { statuses: statuses(args) });
    let mut changes = daemon.watch(request).await?.into_inner();
    while let Some(change) = changes.message().await? {
        let message = change.message.unwrap_or_default();
        let output = &mut context.output;
        if output.json {
            output.json(&json::queue::Message::from(message))?;
        } else {
            output.line(message::line(&message))?;
            output.flush()?;
        }
    }
    Ok(ExitCode::Done)
}

#[derive(Clone, Copy)]
enum Change {
    Cancel,
    Retry,
}

/// Every id is tried; the first refusal is what the command ends with.
async fn change(
    ids: Vec<String>,
    change: Change,
    mut daemon: QueueServiceClient<Channel>,
    context: &mut Context,
) -> Result<ExitCode, CliError> {
    let mut refused = None;
    for id in ids {
        let answer = match change {
            Change::Cancel => daemon.cancel(call(CancelRequest { id })).await.map(|answer| answer.into_inner().message),
            Change::Retry => daemon.retry(call(RetryRequest { id })).await.map(|answer| answer.into_inner().message),
        };
        match answer {
            Ok(message) => {
                let message = message.unwrap_or_default();
                if context.output.json {
                    context.output.json(&json::queue::Message::from(message))?;
                } else {
                    context.output.note(message::line(&message))?;
                }
            }
            Err(status) => refused = refused.or(Some(CliError::from(status))),
        }
    }
    refused.map_or(Ok(ExitCode::Done), Err)
}

fn summary(summary: QueueSummary, word: &str, context: &mut Context) -> Result<ExitCode, CliError> {
    if context.output.json {
        context.output.json(&json::session::QueueSummary::from(summary))?;
    } else {
        let waiting = summary.pending;
        context.output.note(format!("the queue is {word}; {waiting} pending"))?;
    }
    Ok(ExitCode::Done)
}

fn statuses(args: &ListArgs) -> Vec<i32> {
    args.status.iter().map(|status| status.proto().into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use crate::commands::Command;
    use clap::Parser as _;

    #[test]
    fn statuses_are_a_list() {
        let line = ["waya", "queue", "list", "--status", "pending,failed", "--status", "sent"];
        let Command::Queue(QueueCommand::List(args)) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("not a list")
        };
        assert_eq!(statuses(&args), [v1::Status::Pending as i32, v1::Status::Failed as i32, v1::Status::Sent as i32]);
        for wrong in [
            &["waya", "queue", "list", "--status", "gone"][..],
            &["waya", "queue", "cancel"],
            &["waya", "queue", "list", "--limit", "0"],
            &["waya", "queue", "clear"],
            &["waya", "queue", "clear", "--status", "sending"],
        ] {
            assert_eq!(Arguments::try_parse_from(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
