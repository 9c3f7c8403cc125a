//! `waya status`.

use std::io;

use waya_proto::v1::session_service_client::SessionServiceClient;
use waya_proto::v1::{GetStatusRequest, GetStatusResponse, LinkState, QueueSummary, Session};

use super::{Context, call};
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Cell, Colour, Output};

pub async fn run(context: &mut Context) -> Result<ExitCode, CliError> {
    let mut daemon = SessionServiceClient::new(context.daemon().await?);
    let status = daemon.get_status(call(GetStatusRequest {})).await?.into_inner();
    let connected = status.session.as_ref().is_some_and(|session| session.state() == LinkState::Connected);
    if context.output.json {
        context.output.json(&json::session::DaemonStatus::from(status))?;
    } else {
        show(&status, &mut context.output)?;
    }
    Ok(if connected { ExitCode::Done } else { ExitCode::NotConnected })
}

fn show(status: &GetStatusResponse, output: &mut Output) -> io::Result<()> {
    let session = status.session.clone().unwrap_or_default();
    let mut pairs = vec![("session", session_cell(&session))];
    if let Some(me) = &session.me {
        pairs.push(("account", format!("{} ({})", me.number, me.name).into()));
    }
    if session.since > 0 {
        pairs.push(("since", output.time(session.since).into()));
    }
    if let Some(reason) = &session.reason {
        pairs.push(("reason", reason.into()));
    }
    if let Some(retry_at) = session.retry_at {
        pairs.push(("next try", output.time(retry_at).into()));
    }
    let queue = status.queue.unwrap_or_default();
    pairs.push(("queue", summary_cell(&queue)));
    if let Some(oldest) = queue.oldest_pending_at {
        pairs.push(("waiting since", output.time(oldest).into()));
    }
    let traffic = status.last_traffic_at.map_or_else(|| "none yet".to_owned(), |at| output.time(at));
    pairs.push(("last traffic", traffic.into()));
    if !status.store_ready {
        pairs.push(("store", Cell::coloured("accepts no work; see the daemon's log", Colour::Red)));
    }
    pairs.push(("known", format!("{} people, {} chats", status.people, status.chats).into()));
    pairs.push(("http", status.http.as_deref().unwrap_or("off").into()));
    pairs.push(("daemon", format!("{}, profile {}, {}", status.version, status.profile, status.kind).into()));
    pairs.push(("started", output.time(status.started_at).into()));
    output.pairs(pairs)
}

/// The link's state in its colour.
pub fn session_cell(session: &Session) -> Cell {
    let word = json::link_state(session.state);
    match session.state() {
        LinkState::Connected => Cell::coloured(word, Colour::Green),
        LinkState::Connecting | LinkState::Pairing | LinkState::Offline => Cell::coloured(word, Colour::Yellow),
        _ => Cell::coloured(word, Colour::Red),
    }
}

/// How many messages stand where.
pub fn summary_cell(queue: &QueueSummary) -> Cell {
    let counts = format!(
        "{} pending, {} sending, {} sent, {} failed, {} cancelled",
        queue.pending, queue.sending, queue.sent, queue.failed, queue.cancelled
    );
    if queue.paused { Cell::coloured(format!("paused: {counts}"), Colour::Yellow) } else { counts.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;
    use waya_proto::v1::Account;

    #[test]
    fn a_connected_daemon_and_one_in_trouble() {
        let account = Account { number: "6281200000001".to_owned(), lid: None, name: "Toko".to_owned() };
        let mut status = GetStatusResponse {
            session: Some(Session {
                state: LinkState::Connected.into(),
                since: 1_700_000_000_000,
                me: Some(account),
                ..Session::default()
            }),
            queue: Some(QueueSummary { pending: 1, sent: 2, ..QueueSummary::default() }),
            last_traffic_at: Some(1_700_000_001_000),
            version: "0.1.0".to_owned(),
            profile: "default".to_owned(),
            started_at: 1_700_000_000_000,
            http: Some("127.0.0.1:7200".to_owned()),
            kind: "real".to_owned(),
            store_ready: true,
            people: 7,
            chats: 2,
        };
        let (mut output, written) = testing::output(false);
        show(&status, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        session       connected
        account       6281200000001 (Toko)
        since         2023-11-14 22:13:20
        queue         1 pending, 0 sending, 2 sent, 0 failed, 0 cancelled
        last traffic  2023-11-14 22:13:21
        known         7 people, 2 chats
        http          127.0.0.1:7200
        daemon        0.1.0, profile default, real
        started       2023-11-14 22:13:20
        ");
        status.session = Some(Session {
            state: LinkState::Offline.into(),
            reason: Some("no network".to_owned()),
            retry_at: Some(1_700_000_005_000),
            ..Session::default()
        });
        status.queue = Some(QueueSummary { paused: true, ..QueueSummary::default() });
        (status.last_traffic_at, status.http, status.store_ready) = (None, None, false);
        let (mut output, written) = testing::output(false);
        show(&status, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        session       offline
        reason        no network
        next try      2023-11-14 22:13:25
        queue         paused: 0 pending, 0 sending, 0 sent, 0 failed, 0 cancelled
        last traffic  none yet
        store         accepts no work; see the daemon's log
        known         7 people, 2 chats
        http          off
        daemon        0.1.0, profile default, real
        started       2023-11-14 22:13:20
        ");
    }
}
