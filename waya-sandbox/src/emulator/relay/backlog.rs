//! What was kept for a device while it was away, handed over in order and in pages before it goes live.
//!
//! As with WhatsApp: a few stanzas at once, then as many as the client asks for with `<offline_batch count=…/>`. Clients
//! that never ask get the next page when they have confirmed all they got, or after two seconds.

use std::time::Duration;

use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::{Node, NodeRef, marshal};

use super::text_attr;
use crate::emulator::Emulator;
use crate::emulator::session::Session;
use crate::emulator::state::record::QueueEntry;
use crate::emulator::state::{Flow, State};
use crate::emulator::wire::ConnectionHandle;

/// Stanzas that come unasked.
const PRIMER: usize = 5;
/// Stanzas of a page that nobody asked for, and the most that can be asked for.
const PAGE: usize = 200;
/// Bytes behind which a page ends: it must fit into what may wait for a client.
const PAGE_BYTES: usize = 1 << 20;
/// How long a client may be silent before it gets the next page anyway.
const PATIENCE: Duration = Duration::from_secs(2);

/// Announces what is kept for a device that just came, and hands over the first of it.
pub(crate) fn begin(emulator: &Emulator, connection: &ConnectionHandle, phone: &str, device: u16) {
    let mut state = emulator.state();
    let Some(known) = state.device_mut(phone, device) else { return };
    match &mut known.session {
        Some(session) if session.connection.id == connection.id && session.flow == Flow::Silent => {
            session.flow = Flow::Backlog { handed: 0, count: 0 };
        }
        _ => return,
    }
    if known.queue.len() > 0 {
        connection.send_node(&preview(known.queue.iter()));
    }
    if hand_over(&mut state, phone, device, PRIMER) {
        return;
    }
    drop(state);
    let (emulator, connection, phone) = (emulator.clone(), connection.clone(), phone.to_owned());
    tokio::spawn(async move { push(&emulator, &connection, &phone, device).await });
}

/// A client asks for the next page.
pub(crate) fn take_request(session: &Session, phone: &str, device: u16, node: &NodeRef<'_>) {
    let Some(request) = node.get_optional_child("offline_batch") else { return };
    let count = text_attr(request, "count").and_then(|count| count.parse().ok()).unwrap_or(PAGE);
    hand_over(&mut session.emulator.state(), phone, device, count.clamp(1, PAGE));
}

/// Hands over the next page once the device has confirmed all it got.
pub(super) fn confirmed(state: &mut State, phone: &str, device: u16) {
    let Some(known) = state.device(phone, device) else { return };
    if let Some(Flow::Backlog { handed, .. }) = known.session.as_ref().map(|session| session.flow)
        && known.queue.is_confirmed_to(handed)
    {
        hand_over(state, phone, device, PAGE);
    }
}

/// Goes on with a client that neither asks nor confirms.
async fn push(emulator: &Emulator, connection: &ConnectionHandle, phone: &str, device: u16) {
    let mut before = None;
    while tokio::time::timeout(PATIENCE, connection.gone()).await.is_err() {
        let mut state = emulator.state();
        let session = state.device(phone, device).and_then(|known| known.session.as_ref());
        let Some(Flow::Backlog { handed, .. }) =
            session.filter(|session| session.connection.id == connection.id).map(|session| session.flow)
        else {
            return;
        };
        if before == Some(handed) && hand_over(&mut state, phone, device, PAGE) {
            return;
        }
        before = Some(handed);
    }
}

/// Hands over the next few; true once the device is live.
fn hand_over(state: &mut State, phone: &str, device: u16, page: usize) -> bool {
    let now = state.now();
    let Some(known) = state.device_mut(phone, device) else { return true };
    let Some(session) = &mut known.session else { return true };
    let Flow::Backlog { mut handed, mut count } = session.flow else { return session.flow == Flow::Live };
    let mut bytes = 0;
    for entry in known.queue.after(handed).take(page) {
        if bytes > PAGE_BYTES {
            break;
        }
        bytes += entry.stanza.len();
        if let Some(stanza) = as_offline(entry) {
            session.connection.send(stanza.into());
        }
        handed = entry.sequence;
        count += 1;
    }
    if known.queue.after(handed).next().is_some() {
        session.flow = Flow::Backlog { handed, count };
        return false;
    }
    session.flow = Flow::Live;
    let connection = session.connection.clone();
    connection.send_node(&info(NodeBuilder::new("offline").attr("count", count).build()));
    for notice in known.missed(now) {
        connection.send(notice);
    }
    true
}

fn as_offline(entry: &QueueEntry) -> Option<Vec<u8>> {
    let mut node = unmarshal_ref(entry.stanza.get(1..)?).ok()?.to_owned();
    node.attrs.insert("offline", "1");
    marshal(&node).ok()
}

fn preview<'a>(entries: impl Iterator<Item = &'a QueueEntry>) -> Node {
    let (mut all, mut messages, mut receipts, mut notifications) = (0, 0, 0, 0);
    for entry in entries {
        all += 1;
        match entry.class.as_str() {
            "message" => messages += 1,
            "receipt" => receipts += 1,
            "notification" => notifications += 1,
            _ => {}
        }
    }
    info(
        NodeBuilder::new("offline_preview")
            .attr("count", all)
            .attr("message", messages)
            .attr("receipt", receipts)
            .attr("notification", notifications)
            .attr("appdata", 0)
            .attr("call", 0)
            .build(),
    )
}

fn info(child: Node) -> Node {
    NodeBuilder::new("ib").attr("from", "s.whatsapp.net").children([child]).build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::emulator::relay::queue_for;
    use crate::emulator::session::trial::{ANI, Trial, sessions};
    use crate::emulator::state::record::DeviceKey;

    /// Ani's device comes, and this many texts have waited for it.
    async fn come_back_to(texts: usize) -> Trial {
        let trial = sessions().await;
        for text in 0..texts {
            let key = DeviceKey { phone: ANI.to_owned(), device: 1 };
            let from = NodeBuilder::new("message").attr("from", "6281200000002@s.whatsapp.net");
            queue_for(&mut trial.emulator.state(), vec![key], "message", &from.attr("id", text).build()).unwrap();
        }
        begin(&trial.emulator, &trial.sessions[0].connection, ANI, 1);
        trial
    }

    /// The ids of the messages among these, and whether they were the last.
    fn messages(told: &[Node]) -> (Vec<usize>, bool) {
        let ids = told.iter().filter(|node| node.tag == "message");
        let ids = ids.map(|node| node.attrs.get("id").unwrap().as_str().parse().unwrap()).collect();
        (ids, told.iter().any(|node| node.get_optional_child("offline").is_some()))
    }

    fn confirm(trial: &Trial, ids: &[usize]) {
        for id in ids {
            let to = NodeBuilder::new("receipt").attr("to", "6281200000002@s.whatsapp.net").attr("id", *id);
            let bytes = marshal(&to.build()).unwrap();
            trial.sessions[0].handle(&unmarshal_ref(&bytes[1..]).unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_confirms_nothing_gets_everything_in_order() {
        let mut trial = come_back_to(300).await;
        assert_eq!(messages(&trial.told(0)), ((0..5).collect(), false));
        let mut came = Vec::new();
        for last in [false, true] {
            tokio::time::sleep(PATIENCE * 5 / 2).await;
            let (ids, ended) = messages(&trial.told(0));
            assert_eq!(ended, last);
            came.extend(ids);
        }
        assert_eq!(came, (5..300).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn who_confirms_gets_the_next_page_at_once() {
        let mut trial = come_back_to(300).await;
        let mut next = 0;
        for (page, last) in [(5, false), (200, false), (95, true)] {
            let (ids, ended) = messages(&trial.told(0));
            assert_eq!((ids.clone(), ended), ((next..next + page).collect(), last));
            confirm(&trial, &ids[1..]);
            assert_eq!(messages(&trial.told(0)), (vec![], false), "one is still unconfirmed");
            confirm(&trial, &ids[..1]);
            next += page;
        }
        assert_eq!(trial.emulator.state().queued(), 0);
    }

    /// Time stands still here, and nothing is confirmed: only the asking brings more.
    #[tokio::test(start_paused = true)]
    async fn who_asks_gets_as_many_as_it_asks_for() {
        let mut trial = come_back_to(500).await;
        assert_eq!(messages(&trial.told(0)), ((0..5).collect(), false));
        let ask = |trial: &Trial, count: Option<&str>| {
            let mut request = NodeBuilder::new("offline_batch").build();
            if let Some(count) = count {
                request.attrs.insert("count", count);
            }
            trial.sessions[0].hand(&NodeBuilder::new("ib").children([request]).build());
        };
        let mut next = 5;
        for (asked, page) in [(Some("20"), 20), (Some("1"), 1), (Some("0"), 1), (None, 200), (Some("9999"), 200)] {
            ask(&trial, asked);
            assert_eq!(messages(&trial.told(0)), ((next..next + page).collect(), false), "asked for {asked:?}");
            next += page;
        }
        ask(&trial, Some("200"));
        assert_eq!(messages(&trial.told(0)), ((next..500).collect(), true));
        ask(&trial, Some("200"));
        assert_eq!(messages(&trial.told(0)), (vec![], false), "who is live is past that");
    }
}
