//! `waya message`.

use std::io;

use clap::{Args, Subcommand};
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::{Ack, GetMessageRequest, Message, Status};

use super::{Context, call, deeds, media};
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Cell, Colour, Output, printable};

/// What `message` takes.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct MessageArgs {
    #[command(subcommand)]
    command: Option<MessageCommand>,
    /// The message's id, or its reference (then the newest one)
    #[arg(value_name = "ID|REF", required = true)]
    id: Option<String>,
}

#[derive(Debug, Subcommand)]
enum MessageCommand {
    /// Fetch a message's file
    Media(media::MediaArgs),
    #[command(flatten)]
    Deed(deeds::Deed),
}

impl MessageArgs {
    /// The message of an id.
    pub const fn new(id: String) -> Self {
        Self { command: None, id: Some(id) }
    }
}

pub async fn run(args: MessageArgs, context: &mut Context) -> Result<ExitCode, CliError> {
    match args.command {
        Some(MessageCommand::Media(args)) => return media::run(args, context).await,
        Some(MessageCommand::Deed(deed)) => return deeds::run(deed, context).await,
        None => {}
    }
    let mut daemon = QueueServiceClient::new(context.daemon().await?).max_decoding_message_size(MAX_ANSWER);
    let request = GetMessageRequest { id: args.id.unwrap_or_default(), ..GetMessageRequest::default() };
    let answer = daemon.get_message(call(request)).await?.into_inner();
    let output = &mut context.output;
    if output.json {
        output.json(&json::queue::MessageStatus::from(answer))?;
        return Ok(ExitCode::Done);
    }
    show(&answer.message.unwrap_or_default(), output)?;
    if !answer.messages.is_empty() {
        output.line("")?;
        match answer.total.filter(|total| *total > answer.messages.len() as u64) {
            Some(total) => {
                output.line(format!("the newest {} of {total} messages of this reference:", answer.messages.len()))?;
            }
            None => output.line("all messages of this reference, newest first:")?,
        }
        table(&answer.messages, output)?;
    }
    Ok(ExitCode::Done)
}

/// How far a message got, in one word.
pub fn far(message: &Message) -> String {
    match (message.status(), message.ack()) {
        (Status::Sent, Ack::Device) => "delivered".to_owned(),
        (Status::Sent, ack @ (Ack::Read | Ack::Played)) => json::ack(ack.into()),
        (status, _) => json::status(status.into()),
    }
}

const fn colour(status: Status) -> Colour {
    match status {
        Status::Sent => Colour::Green,
        Status::Failed => Colour::Red,
        Status::Cancelled => Colour::Grey,
        _ => Colour::Yellow,
    }
}

/// Everything there is to know of one message.
pub fn show(message: &Message, output: &mut Output) -> io::Result<()> {
    let mut pairs: Vec<(&str, Cell)> = vec![("id", (&message.id).into())];
    if let Some(reference) = &message.reference_id {
        pairs.push(("reference", reference.into()));
    }
    pairs.push(("to", (&message.chat_id).into()));
    pairs.push(("text", (&message.message).into()));
    pairs.push(("status", Cell::coloured(json::status(message.status), colour(message.status()))));
    pairs.push(("ack", json::ack(message.ack).into()));
    if let Some(seen) = &message.receipts {
        let counts = format!("of {} members {} have it, {} read it", seen.members, seen.delivered, seen.read);
        pairs.push(("receipts", counts.into()));
    }
    if let Some(error) = &message.error {
        pairs.push(("error", Cell::coloured(error, Colour::Red)));
    }
    if let Some(hold) = &message.hold {
        let until = hold.until.map_or_else(String::new, |at| format!(", until {}", output.time(at)));
        pairs.push(("held", format!("{}{until}", hold.reason).into()));
    }
    if message.position > 0 {
        pairs.push(("position", message.position.to_string().into()));
    }
    if let Some(at) = message.estimated_at {
        pairs.push(("leaves at", format!("about {}", output.time(at)).into()));
    }
    for (name, at) in [
        ("accepted", Some(message.created_at)),
        ("sent", message.sent_at),
        ("delivered", message.delivered_at),
        ("read", message.read_at),
    ] {
        pairs.extend(at.map(|at| (name, Cell::from(output.time(at)))));
    }
    pairs.push(("attempts", message.attempts.into()));
    pairs.push(("source", (&message.source).into()));
    pairs.push(("whatsapp id", (&message.whatsapp_id).into()));
    output.pairs(pairs)
}

/// Messages, one a row.
pub fn table(messages: &[Message], output: &mut Output) -> io::Result<()> {
    let rows: Vec<Vec<Cell>> = messages.iter().map(|message| row(message, output)).collect();
    output.table(&["ID", "TO", "STATUS", "WAITS FOR", "LEAVES", "ACCEPTED", "TEXT"], &rows)
}

fn row(message: &Message, output: &Output) -> Vec<Cell> {
    vec![
        (&message.id).into(),
        (&message.number).into(),
        Cell::coloured(far(message), colour(message.status())),
        waits_for(message).into(),
        message.estimated_at.map_or_else(String::new, |at| output.time(at)).into(),
        output.time(message.created_at).into(),
        beginning(&message.message).into(),
    ]
}

/// Why it waits, and its place in line.
fn waits_for(message: &Message) -> String {
    let reason = message.hold.as_ref().map_or("", |hold| hold.reason.as_str());
    match message.position {
        0 => reason.to_owned(),
        position if reason.is_empty() => format!("#{position}"),
        position => format!("{reason} #{position}"),
    }
}

/// One line about a message that changed.
pub fn line(message: &Message) -> String {
    let why = message
        .error
        .as_deref()
        .or_else(|| message.hold.as_ref().map(|hold| hold.reason.as_str()))
        .map_or_else(|| counts(message), |why| format!(" ({})", printable(why)));
    format!("{}  {}  {}{why}", message.id, printable(&message.number), far(message))
}

/// How many of a group's members have one that left.
fn counts(message: &Message) -> String {
    let seen = message.receipts.as_ref().filter(|_| message.status() == Status::Sent);
    seen.map_or_else(String::new, |seen| {
        format!(" (delivered {0}/{2}, read {1}/{2})", seen.delivered, seen.read, seen.members)
    })
}

/// As much of a text as a table bears.
fn beginning(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;
    use waya_proto::v1::{Hold, Receipts};

    fn message(status: Status, ack: Ack) -> Message {
        Message {
            id: "0192".to_owned(),
            reference_id: Some("order-7".to_owned()),
            number: "6281200000002".to_owned(),
            chat_id: "6281200000002@c.us".to_owned(),
            message: "Halo\nBudi".to_owned(),
            status: status.into(),
            ack: ack.into(),
            created_at: 1_700_000_000_000,
            whatsapp_id: "3EB0".to_owned(),
            source: "cli".to_owned(),
            ..Message::default()
        }
    }

    #[test]
    fn a_message_that_was_read() {
        let (mut output, written) = testing::output(false);
        let read = Message {
            sent_at: Some(1_700_000_001_000),
            delivered_at: Some(1_700_000_002_000),
            read_at: Some(1_700_000_003_000),
            attempts: 1,
            ..message(Status::Sent, Ack::Read)
        };
        show(&read, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        id           0192
        reference    order-7
        to           6281200000002@c.us
        text         Halo⏎Budi
        status       sent
        ack          read
        accepted     2023-11-14 22:13:20
        sent         2023-11-14 22:13:21
        delivered    2023-11-14 22:13:22
        read         2023-11-14 22:13:23
        attempts     1
        source       cli
        whatsapp id  3EB0
        ");
    }

    #[test]
    fn a_table_says_how_far_each_got() {
        let (mut output, written) = testing::output(false);
        let messages = [
            message(Status::Sent, Ack::Device),
            Message {
                message: "x".repeat(70),
                hold: Some(Hold { reason: "cap".to_owned(), until: None }),
                position: 7,
                estimated_at: Some(1_700_000_060_000),
                ..message(Status::Pending, Ack::None)
            },
        ];
        table(&messages, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        ID    TO             STATUS     WAITS FOR  LEAVES               ACCEPTED             TEXT
        0192  6281200000002  delivered                                  2023-11-14 22:13:20  Halo⏎Budi
        0192  6281200000002  pending    cap #7     2023-11-14 22:14:20  2023-11-14 22:13:20  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        ");
    }

    #[test]
    fn a_change_says_why() {
        let failed = Message { error: Some("not on WhatsApp".to_owned()), ..message(Status::Failed, Ack::None) };
        assert_eq!(line(&failed), "0192  6281200000002  failed (not on WhatsApp)");
        let held = Message {
            hold: Some(Hold { reason: "paused".to_owned(), until: None }),
            ..message(Status::Pending, Ack::None)
        };
        assert_eq!(line(&held), "0192  6281200000002  pending (paused)");
        let group = Message {
            receipts: Some(Receipts { members: 3, delivered: 2, read: 1 }),
            ..message(Status::Sent, Ack::Server)
        };
        assert_eq!(line(&group), "0192  6281200000002  sent (delivered 2/3, read 1/3)");
        let (mut output, written) = testing::output(false);
        show(&group, &mut output).unwrap();
        assert!(written.text().contains("receipts     of 3 members 2 have it, 1 read it"), "{}", written.text());
    }
}
