//! `waya send`.

use std::io;
use std::time::Duration;

use clap::{Args, ValueEnum};
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::{self, SendRequest, SendResponse};

use super::wait::{self, WaitFor};
use super::{Context, call, text};
use crate::args;
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Output, printable};

/// What `send` takes.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Whom to: digits with country code, a chat id, `main`, or several with commas between
    #[arg(value_name = "TO")]
    to: String,
    /// The text; `-`, or none with a pipe, reads standard input (less one line end at its end)
    #[arg(value_name = "TEXT|-")]
    text: Option<String>,
    #[arg(hide = true)]
    rest: Vec<String>,
    /// One more recipient
    #[arg(long = "to", value_name = "TO")]
    more: Vec<String>,
    /// An id of your own, to find the message by
    #[arg(long = "ref", value_name = "ID")]
    reference_id: Option<String>,
    /// Not before this time: RFC 3339 (without an offset on this machine's clock), or epoch milliseconds
    #[arg(long, value_name = "TIME", value_parser = args::time)]
    at: Option<i64>,
    /// How urgent it is
    #[arg(long, value_enum, default_value = "normal")]
    priority: Priority,
    /// Queue it once only, however often the same command runs with this key within 24 hours
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until it got this far
    #[arg(long, value_enum)]
    wait: Option<WaitFor>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = args::duration, requires = "wait")]
    timeout: Duration,
    /// Check everything, queue nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Priority {
    High,
    Normal,
    Low,
}

pub async fn run(args: SendArgs, context: &mut Context) -> Result<ExitCode, CliError> {
    let (waiting, timeout, dry_run) = (args.wait, args.timeout, args.dry_run);
    let request = request(args)?;
    let channel = context.daemon().await?;
    let mut daemon = QueueServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let answer = daemon.send(call(request)).await?.into_inner();
    let Some(target) = waiting else {
        let output = &mut context.output;
        if output.json {
            output.json(&json::queue::SendAnswer::new(answer, dry_run))?;
        } else {
            show(&answer, dry_run, output)?;
        }
        return Ok(ExitCode::Done);
    };
    let output = &mut context.output;
    if !output.json {
        show(&answer, false, output)?;
        output.flush()?;
    }
    let ids = answer.messages.into_iter().map(|accepted| accepted.id).collect();
    let outcome = wait::for_all(channel, ids, target, timeout, output).await?;
    if output.json {
        output.json(&json::queue::WaitedAnswer::new(outcome.messages, answer.duplicates))?;
    }
    outcome.error.map_or(Ok(ExitCode::Done), Err)
}

fn request(args: SendArgs) -> Result<SendRequest, CliError> {
    text::no_stray(&args.rest, &format!("waya send {}", printable(&args.to)), args.text.as_deref())?;
    // An empty entry stays: the daemon says what is wrong with it.
    let recipients = std::iter::once(args.to).chain(args.more).flat_map(|list| split(&list)).collect();
    let priority = match args.priority {
        Priority::High => v1::Priority::High,
        Priority::Normal => v1::Priority::Normal,
        Priority::Low => v1::Priority::Low,
    };
    Ok(SendRequest {
        recipients,
        message: text::resolve(args.text)?,
        reference_id: args.reference_id,
        idempotency_key: args.idempotency_key,
        priority: priority.into(),
        scheduled_at: args.at,
        dry_run: args.dry_run,
    })
}

fn split(list: &str) -> Vec<String> {
    list.split(',').map(|one| one.trim().to_owned()).collect()
}

fn show(answer: &SendResponse, dry_run: bool, output: &mut Output) -> io::Result<()> {
    for accepted in &answer.messages {
        let number = printable(&accepted.number);
        if dry_run {
            output.note(format!("would be queued for {number}"))?;
        } else {
            output.note(format!("queued for {number} as {}, position {}", accepted.id, accepted.position))?;
        }
    }
    if !answer.duplicates.is_empty() {
        output.note(format!("named twice and left out: {}", printable(&answer.duplicates.join(", "))))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use crate::commands::Command;
    use crate::output::testing;
    use clap::Parser as _;

    fn parsed(line: &[&str]) -> SendArgs {
        match Arguments::try_parse_from(["waya", "send"].iter().chain(line)).unwrap().command {
            Command::Send(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_becomes_one_request() {
        let args = parsed(&[
            "628, +62 813",
            " Halo\n",
            "--to",
            "1203@g.us",
            "--ref",
            "order-7",
            "--priority",
            "low",
            "--at",
            "1786924800000",
            "--idempotency-key",
            "k",
            "--dry-run",
        ]);
        assert_eq!(
            request(args).unwrap(),
            SendRequest {
                recipients: vec!["628".to_owned(), "+62 813".to_owned(), "1203@g.us".to_owned()],
                message: " Halo\n".to_owned(),
                reference_id: Some("order-7".to_owned()),
                idempotency_key: Some("k".to_owned()),
                priority: v1::Priority::Low.into(),
                scheduled_at: Some(1_786_924_800_000),
                dry_run: true,
            }
        );
    }

    #[test]
    fn an_unquoted_text_is_a_usage_error() {
        let error = request(parsed(&["628", "Halo", "dunia"])).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert_eq!(error.hint(), Some("put the text in quotes: waya send 628 \"Halo dunia\""));
    }

    #[test]
    fn a_text_may_begin_with_a_dash_after_two_of_them() {
        assert_eq!(parsed(&["628", "--", "-5 °C"]).text.as_deref(), Some("-5 °C"));
    }

    #[test]
    fn waiting_has_a_default_timeout_and_excludes_a_dry_run() {
        let args = parsed(&["628", "Halo", "--wait", "read"]);
        assert_eq!((args.wait, args.timeout), (Some(WaitFor::Read), Duration::from_mins(1)));
        let both = ["waya", "send", "628", "Halo", "--wait", "read", "--dry-run"];
        assert_eq!(Arguments::try_parse_from(both).unwrap_err().exit_code(), 2);
        let alone = ["waya", "send", "628", "Halo", "--timeout", "5s"];
        assert_eq!(Arguments::try_parse_from(alone).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn confirmations() {
        let accepted =
            v1::Accepted { id: "0192".to_owned(), number: "628".to_owned(), position: 3, ..v1::Accepted::default() };
        let answer = SendResponse { messages: vec![accepted], duplicates: vec!["+628".to_owned()] };
        let (mut output, written) = testing::output(false);
        show(&answer, false, &mut output).unwrap();
        assert_eq!(written.text(), "queued for 628 as 0192, position 3\nnamed twice and left out: +628\n");
        output.quiet = true;
        show(&answer, true, &mut output).unwrap();
        assert_eq!(written.text().lines().count(), 2);
    }
}
