//! `waya webhooks`.

use std::io;
use std::time::Duration;

use clap::{Args, Subcommand};
use tonic::Request;
use tonic::transport::Channel;
use waya_proto::v1::webhooks_service_client::WebhooksServiceClient;
use waya_proto::v1::{
    AddWebhookRequest, Delivery, EditWebhookRequest, GetWebhookRequest, ListWebhooksRequest, ParkedEvent,
    ParkedEventsRequest, RedeliverRequest, RemoveWebhookRequest, TestWebhookRequest, Webhook, WebhookLogsRequest,
};

use super::{Context, call, text};
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json::webhooks as json;
use crate::output::{Cell, Colour, Output, printable};

/// How long a test may take: the receiver has less.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What can be done with webhooks.
#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// Show all webhooks, and how they do
    List,
    /// Show one webhook
    Show(IdArgs),
    /// Have a URL told what happens from now on
    Add(AddArgs),
    /// Change a webhook; what is not named stays as it is
    Edit(EditArgs),
    /// Remove webhooks, with what they were still to be told
    Remove(IdsArgs),
    /// Tell it again, from where it stopped
    Enable(EnableArgs),
    /// Tell it nothing until `enable`; it keeps its place
    Disable(IdArgs),
    /// Post a test event now and show what came of it
    Test(IdArgs),
    /// Show the newest deliveries, newest first
    Logs(LogsArgs),
    /// Show the events that were given up, oldest first
    Parked(LogsArgs),
    /// Have events that were given up told again, under the same ids
    Redeliver(RedeliverArgs),
    /// What has an order has this verb; webhooks have none
    #[command(hide = true)]
    Move {
        #[arg(hide = true)]
        rest: Vec<String>,
    },
}

/// Which webhook.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// The webhook's id
    id: String,
}

/// Which webhooks.
#[derive(Debug, Args)]
pub struct IdsArgs {
    /// The webhooks' ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// What `webhooks add` takes.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Where it is told, http:// or https://
    url: String,
    /// What it is told of, such as message.read; may come again, or with commas between [default: *]
    #[arg(long = "event", value_name = "E", value_delimiter = ',')]
    events: Vec<String>,
    /// What deliveries are signed with; - reads it from standard input [default: a new one, which is printed]
    #[arg(long, value_name = "S")]
    secret: Option<String>,
    /// Tell it nothing until `enable`
    #[arg(long)]
    disabled: bool,
}

/// What `webhooks edit` takes.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// The webhook's id
    id: String,
    /// Where it is told
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// What it is told of, instead of what it was; may come again, or with commas between
    #[arg(long = "event", value_name = "E", value_delimiter = ',')]
    events: Vec<String>,
    /// What deliveries are signed with; - reads it from standard input
    #[arg(long, value_name = "S")]
    secret: Option<String>,
}

/// What `webhooks enable` takes.
#[derive(Debug, Args)]
pub struct EnableArgs {
    /// The webhook's id
    id: String,
    /// Leave out what happened while it was disabled
    #[arg(long)]
    from_now: bool,
}

/// What `webhooks logs` and `webhooks parked` take.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The webhook's id
    id: String,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
}

/// What `webhooks redeliver` takes.
#[derive(Debug, Args)]
pub struct RedeliverArgs {
    /// The webhook's id
    id: String,
    /// The event's id
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    event_id: Option<String>,
    /// All that is parked
    #[arg(long)]
    all: bool,
}

type Daemon = WebhooksServiceClient<Channel>;

pub async fn run(command: WebhooksCommand, context: &mut Context) -> Result<ExitCode, CliError> {
    if matches!(command, WebhooksCommand::Move { .. }) {
        return Err(CliError::usage(
            "webhooks have no order",
            "each is told everything by itself; nothing need be moved",
        ));
    }
    let mut daemon = WebhooksServiceClient::new(context.daemon().await?);
    let output = &mut context.output;
    match command {
        WebhooksCommand::List => {
            let list = daemon.list(call(ListWebhooksRequest {})).await?.into_inner();
            if output.json {
                output.json(&json::Webhooks::from(list))?;
            } else {
                table(&list.webhooks, output)?;
            }
        }
        WebhooksCommand::Show(IdArgs { id }) => {
            let answer = daemon.get(call(GetWebhookRequest { id })).await?.into_inner();
            shown(answer.webhook.unwrap_or_default(), output)?;
        }
        WebhooksCommand::Add(args) => add(args, &mut daemon, output).await?,
        WebhooksCommand::Edit(EditArgs { id, url, events, secret }) => {
            let secret = secret_of(secret)?;
            edit(EditWebhookRequest { id, url, events, secret, ..Default::default() }, &mut daemon, output).await?;
        }
        WebhooksCommand::Enable(EnableArgs { id, from_now }) => {
            let request = EditWebhookRequest { id, enabled: Some(true), from_now, ..Default::default() };
            edit(request, &mut daemon, output).await?;
        }
        WebhooksCommand::Disable(IdArgs { id }) => {
            let request = EditWebhookRequest { id, enabled: Some(false), ..Default::default() };
            edit(request, &mut daemon, output).await?;
        }
        WebhooksCommand::Remove(IdsArgs { ids }) => return remove(ids, &mut daemon, output).await,
        WebhooksCommand::Test(IdArgs { id }) => return test(id, &mut daemon, output).await,
        WebhooksCommand::Logs(LogsArgs { id, limit }) => {
            let request = WebhookLogsRequest { id, limit: limit.unwrap_or_default() };
            let answer = daemon.logs(call(request)).await?.into_inner();
            if output.json {
                output.json(&json::Deliveries::from(answer))?;
            } else {
                deliveries(&answer.deliveries, output)?;
            }
        }
        WebhooksCommand::Parked(LogsArgs { id, limit }) => {
            let request = ParkedEventsRequest { id, limit: limit.unwrap_or_default() };
            let answer = daemon.parked(call(request)).await?.into_inner();
            if output.json {
                output.json(&json::Parked::from(answer))?;
            } else {
                parked(&answer.events, output)?;
            }
        }
        WebhooksCommand::Redeliver(RedeliverArgs { id, event_id, .. }) => {
            let count = daemon.redeliver(call(RedeliverRequest { id, event_id })).await?.into_inner().count;
            if output.json {
                output.json(&json::Done { success: true, count: Some(count) })?;
            } else {
                output.note(format!("{count} to be told again"))?;
            }
        }
        // Refused above.
        WebhooksCommand::Move { .. } => {}
    }
    Ok(ExitCode::Done)
}

/// From standard input, so that it stands in no list of processes and no history of a shell.
fn secret_of(given: Option<String>) -> Result<Option<String>, CliError> {
    given.map(|secret| if secret == "-" { text::resolve(Some(secret)) } else { Ok(secret) }).transpose()
}

async fn add(args: AddArgs, daemon: &mut Daemon, output: &mut Output) -> Result<(), CliError> {
    let AddArgs { url, events, secret, disabled } = args;
    let given = secret.is_some();
    let request = AddWebhookRequest { url, events, secret: secret_of(secret)?, disabled };
    let answer = daemon.add(call(request)).await?.into_inner();
    if output.json {
        output.json(&json::Added::from(answer))?;
        return Ok(());
    }
    output.line(answer.webhook.unwrap_or_default().id)?;
    if !given {
        output.line(format!("secret: {}", answer.secret))?;
        output.note("the secret is shown only now; the receiver checks signatures with it")?;
    }
    Ok(())
}

async fn edit(request: EditWebhookRequest, daemon: &mut Daemon, output: &mut Output) -> Result<(), CliError> {
    let webhook = daemon.edit(call(request)).await?.into_inner().webhook.unwrap_or_default();
    if output.json {
        output.json(&json::Webhook::from(webhook))?;
    } else {
        let state = if webhook.enabled { "enabled" } else { "disabled" };
        output.note(format!("{}: {state}, {}", webhook.id, webhook.events.join(", ")))?;
    }
    Ok(())
}

/// Every id is tried; the first refusal is what the command ends with.
async fn remove(ids: Vec<String>, daemon: &mut Daemon, output: &mut Output) -> Result<ExitCode, CliError> {
    let mut refused = None;
    for id in ids {
        match daemon.remove(call(RemoveWebhookRequest { id: id.clone() })).await {
            Ok(_) if output.json => output.json(&json::Done { success: true, count: None })?,
            Ok(_) => output.note(format!("{id}: removed"))?,
            Err(status) => refused = refused.or(Some(CliError::from(status))),
        }
    }
    refused.map_or(Ok(ExitCode::Done), Err)
}

/// Exits with 4 when the receiver did not take it.
async fn test(id: String, daemon: &mut Daemon, output: &mut Output) -> Result<ExitCode, CliError> {
    let mut request = Request::new(TestWebhookRequest { id });
    request.set_timeout(TEST_TIMEOUT);
    let delivery = daemon.test(request).await?.into_inner().delivery.unwrap_or_default();
    let code = if delivery.error.is_none() { ExitCode::Done } else { ExitCode::Refused };
    if output.json {
        output.json(&json::Delivery::from(delivery))?;
    } else {
        let what = match (&delivery.error, delivery.status) {
            (None, status) => format!("taken with {}", status.unwrap_or_default()),
            (Some(error), _) => format!("not taken: {}", printable(error)),
        };
        output.line(format!("{what} ({} ms)", delivery.ms))?;
    }
    Ok(code)
}

fn shown(webhook: Webhook, output: &mut Output) -> io::Result<()> {
    if output.json {
        return output.json(&json::Webhook::from(webhook));
    }
    let time = |at: Option<i64>| at.map_or_else(|| Cell::from("never"), |at| Cell::from(output.time(at)));
    let pairs = vec![
        ("id", Cell::from(&webhook.id)),
        ("url", Cell::from(&webhook.url)),
        ("events", Cell::from(webhook.events.join(", "))),
        ("state", state(&webhook)),
        ("created", time(Some(webhook.created_at))),
        ("last success", time(webhook.succeeded_at)),
        ("last failure", time(webhook.failed_at)),
        ("waiting", Cell::from(webhook.waiting)),
        ("parked", Cell::from(webhook.parked)),
        ("missed", Cell::from(webhook.missed)),
    ];
    output.pairs(pairs)
}

fn state(webhook: &Webhook) -> Cell {
    match webhook {
        Webhook { enabled: false, .. } => Cell::coloured("disabled", Colour::Grey),
        Webhook { parked: 1.., .. } => Cell::coloured(format!("{} parked", webhook.parked), Colour::Red),
        Webhook { waiting: 1.., .. } => Cell::coloured(format!("{} waiting", webhook.waiting), Colour::Yellow),
        _ => Cell::coloured("ok", Colour::Green),
    }
}

fn table(webhooks: &[Webhook], output: &mut Output) -> io::Result<()> {
    if webhooks.is_empty() {
        return output.note("no webhooks; add one with `waya webhooks add URL`");
    }
    let row = |webhook: &Webhook| {
        vec![(&webhook.id).into(), state(webhook), webhook.events.join(",").into(), (&webhook.url).into()]
    };
    let rows: Vec<Vec<Cell>> = webhooks.iter().map(row).collect();
    output.table(&["ID", "STATE", "EVENTS", "URL"], &rows)
}

fn deliveries(deliveries: &[Delivery], output: &mut Output) -> io::Result<()> {
    let row = |delivery: &Delivery| {
        let result = match (&delivery.error, delivery.status) {
            (None, status) => Cell::coloured(status.unwrap_or_default(), Colour::Green),
            (Some(error), _) => Cell::coloured(error, Colour::Red),
        };
        vec![
            output.time(delivery.at).into(),
            (&delivery.event).into(),
            delivery.attempt.into(),
            delivery.ms.into(),
            (&delivery.event_id).into(),
            result,
        ]
    };
    let rows: Vec<Vec<Cell>> = deliveries.iter().map(row).collect();
    output.table(&["TIME", "EVENT", "ATTEMPT", "MS", "ID", "RESULT"], &rows)
}

fn parked(events: &[ParkedEvent], output: &mut Output) -> io::Result<()> {
    let row = |event: &ParkedEvent| {
        vec![
            output.time(event.parked_at).into(),
            (&event.event).into(),
            event.attempts.into(),
            (&event.event_id).into(),
            (&event.reason).into(),
        ]
    };
    let rows: Vec<Vec<Cell>> = events.iter().map(row).collect();
    output.table(&["PARKED", "EVENT", "ATTEMPTS", "ID", "REASON"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use crate::commands::Command;
    use crate::output::testing;
    use clap::Parser as _;

    fn webhook() -> Webhook {
        Webhook {
            id: "wh_23456789ab".to_owned(),
            url: "https://example.org/hook".to_owned(),
            events: vec!["message.sent".to_owned(), "message.read".to_owned()],
            enabled: true,
            ..Webhook::default()
        }
    }

    #[test]
    fn what_needs_a_look_shows() {
        let (mut output, written) = testing::output(false);
        let parked = Webhook { parked: 3, waiting: 1, ..webhook() };
        let disabled = Webhook { enabled: false, events: vec!["*".to_owned()], ..webhook() };
        table(&[webhook(), parked, disabled], &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        ID             STATE     EVENTS                     URL
        wh_23456789ab  ok        message.sent,message.read  https://example.org/hook
        wh_23456789ab  3 parked  message.sent,message.read  https://example.org/hook
        wh_23456789ab  disabled  *                          https://example.org/hook
        ");
    }

    #[test]
    fn events_are_a_list_and_redelivering_needs_a_word() {
        let line = ["waya", "webhooks", "add", "http://x/", "--event", "message.sent,message.read", "--event", "*"];
        let Command::Webhooks(WebhooksCommand::Add(args)) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("not what was asked for");
        };
        assert_eq!(args.events, ["message.sent", "message.read", "*"]);
        for wrong in [
            &["waya", "webhooks", "redeliver", "wh_1"][..],
            &["waya", "webhooks", "redeliver", "wh_1", "evt_1", "--all"],
            &["waya", "webhooks", "logs", "wh_1", "--limit", "0"],
            &["waya", "webhooks", "add"],
        ] {
            assert_eq!(Arguments::try_parse_from(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
