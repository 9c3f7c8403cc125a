//! `waya events`.

use clap::Args;
use tonic::Request;
use tonic::transport::Channel;
use waya_proto::v1::event::Body;
use waya_proto::v1::events_service_client::EventsServiceClient;
use waya_proto::v1::{Event, FollowRequest, IncomingMessage, ReadRequest};

use super::{Context, call};
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Output, printable};

/// What `events` takes.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only what came after this cursor; 0 is the oldest kept [default: 0, with --follow from now on]
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on with what comes
    #[arg(long, short, conflicts_with = "limit")]
    follow: bool,
}

pub async fn run(args: EventsArgs, context: &mut Context) -> Result<ExitCode, CliError> {
    let daemon = EventsServiceClient::new(context.daemon().await?).max_decoding_message_size(MAX_ANSWER);
    if args.follow { follow(args, daemon, context).await } else { read(args, daemon, context).await }
}

async fn read(
    args: EventsArgs,
    mut daemon: EventsServiceClient<Channel>,
    context: &mut Context,
) -> Result<ExitCode, CliError> {
    let request = ReadRequest { after: args.after.unwrap_or_else(|| "0".to_owned()), limit: args.limit };
    let page = daemon.read(call(request)).await?.into_inner();
    let output = &mut context.output;
    if output.json {
        output.json(&json::events::Events::from(page))?;
        return Ok(ExitCode::Done);
    }
    for event in &page.events {
        let line = line(event, output);
        output.line(line)?;
    }
    if page.events.len() >= args.limit as usize {
        output.note(format!("for more use --after {}", page.next))?;
    }
    Ok(ExitCode::Done)
}

async fn follow(
    args: EventsArgs,
    mut daemon: EventsServiceClient<Channel>,
    context: &mut Context,
) -> Result<ExitCode, CliError> {
    let mut events = daemon.follow(Request::new(FollowRequest { after: args.after })).await?.into_inner();
    while let Some(answer) = events.message().await? {
        let event = answer.event.unwrap_or_default();
        let output = &mut context.output;
        if output.json {
            output.json(&json::events::Event::from(event))?;
        } else {
            let line = line(&event, output);
            output.line(line)?;
            output.flush()?;
        }
    }
    Ok(ExitCode::Done)
}

fn line(event: &Event, output: &Output) -> String {
    let what = match &event.body {
        Some(Body::Message(message)) => incoming(message),
        Some(Body::Status(changed)) => {
            let why = changed.error.as_deref().map_or_else(String::new, |error| format!(" ({})", printable(error)));
            let ack = json::ack(changed.ack);
            format!(
                "status   {} to {}: {}, ack {ack}{why}",
                changed.id,
                printable(&changed.number),
                json::status(changed.status)
            )
        }
        Some(Body::Link(link)) => {
            let why = link.reason.as_deref().map_or_else(String::new, |reason| format!(" ({})", printable(reason)));
            format!("link     {}{why}", json::link_state(link.state))
        }
        None => "(unknown to this version)".to_owned(),
    };
    format!("{}  {}  {what}", output.time(event.at), event.cursor)
}

fn incoming(message: &IncomingMessage) -> String {
    let sender = match &message.sender_name {
        _ if message.from_me => "me".to_owned(),
        Some(name) if !name.is_empty() => format!("{} ({})", printable(name), printable(&message.sender)),
        _ => printable(&message.sender),
    };
    let place = if message.is_group || message.from_me {
        format!(" in {}", printable(&message.chat_id))
    } else {
        String::new()
    };
    let kind = if message.r#type == "chat" { String::new() } else { format!(" [{}]", printable(&message.r#type)) };
    format!("message  {sender}{place}{kind}: {}", printable(&message.body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;
    use waya_proto::v1::{Ack, LinkChanged, LinkState, Status, StatusChanged};

    #[test]
    fn events_are_lines() {
        let message = IncomingMessage {
            chat_id: "1203@g.us".to_owned(),
            sender: "628@c.us".to_owned(),
            sender_name: Some("Budi\u{1b}[2J".to_owned()),
            r#type: "image".to_owned(),
            body: "lihat\nini".to_owned(),
            is_group: true,
            ..IncomingMessage::default()
        };
        let own = IncomingMessage { from_me: true, is_group: false, r#type: "chat".to_owned(), ..message.clone() };
        let status = StatusChanged {
            id: "0192".to_owned(),
            number: "628".to_owned(),
            status: Status::Failed.into(),
            ack: Ack::None.into(),
            error: Some("not on WhatsApp".to_owned()),
            ..StatusChanged::default()
        };
        let link = LinkChanged { state: LinkState::LoggedOut.into(), reason: Some("unlinked on the phone".to_owned()) };
        let (output, _) = testing::output(false);
        let lines: Vec<String> = [Body::Message(message), Body::Message(own), Body::Status(status), Body::Link(link)]
            .into_iter()
            .map(|body| line(&Event { cursor: "c1".to_owned(), at: 1_700_000_000_000, body: Some(body) }, &output))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        2023-11-14 22:13:20  c1  message  Budi\u{1b}[2J (628@c.us) in 1203@g.us [image]: lihat⏎ini
        2023-11-14 22:13:20  c1  message  me in 1203@g.us: lihat⏎ini
        2023-11-14 22:13:20  c1  status   0192 to 628: failed, ack none (not on WhatsApp)
        2023-11-14 22:13:20  c1  link     logged_out (unlinked on the phone)
        ");
    }
}
