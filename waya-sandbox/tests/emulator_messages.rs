//! Direct messages through the emulator, between real clients.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use support::{Person, World, until};
use whatsapp_rust::NodeFilter;
use whatsapp_rust::async_channel::{Receiver, unbounded};
use whatsapp_rust::transport::{TokioWebSocketTransportFactory, Transport, TransportEvent, TransportFactory};
use whatsapp_rust::wacore::iq::prekeys::PreKeyCountSpec;
use whatsapp_rust::wacore::store::traits::{ProtocolStore, SignalStore};
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore::types::jid::JidExt;
use whatsapp_rust::wacore_binary::Jid;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_goes_both_ways_and_is_confirmed() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;

    let id = ani.say(BUDI, "Halo Budi").await;
    assert_eq!(ani.ack(&id).await, None);
    let received = budi.text().await;
    assert_eq!((received.text.as_str(), received.id.as_str()), ("Halo Budi", id.as_str()));
    ani.receipt(&id).await;

    let id = budi.say(&received.chat, "Halo Ani").await;
    assert_eq!(ani.text().await.text, "Halo Ani");
    budi.receipt(&id).await;

    let stats = world.emulator.stats();
    assert_eq!((stats.relayed, stats.acked, stats.nacked), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_to_an_absent_client_waits_for_it_in_order() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    ani.say(BUDI, "still here?").await;
    budi.text().await;
    let keys = budi.leave().await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(ani.say(BUDI, &format!("number {number}")).await);
    }
    until("the acks", || world.emulator.stats().acked == 21).await;
    let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
    let got: Vec<_> = budi.texts(20).await.into_iter().map(|received| received.id).collect();
    assert_eq!(got, ids);
    until("the queues to be empty", || world.emulator.stats().queued == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_sent_twice_is_relayed_twice_and_counted() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    ani.say_with_id(BUDI, "once", "AAAA0001").await;
    ani.say_with_id(BUDI, "twice", "AAAA0002").await;
    ani.say_with_id(BUDI, "twice", "AAAA0002").await;
    let got: Vec<_> = budi.texts(3).await.into_iter().map(|received| received.id).collect();
    assert_eq!(got, ["AAAA0001", "AAAA0002", "AAAA0002"]);
    let stats = &world.emulator.stats().senders[ANI];
    assert_eq!((stats.messages, stats.distinct_ids), (3, 2));
    assert_eq!(stats.repeated_ids.iter().collect::<Vec<_>>(), [(&"AAAA0002".to_owned(), &2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_without_an_account_are_not_on_whatsapp() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    world.emulator.ensure_account(BUDI, "Budi");
    let asked = [Jid::pn(BUDI), Jid::pn("6289999999999")];
    let answers = ani.client.contacts().is_on_whatsapp(&asked).await.unwrap();
    let on = |number: &str| answers.iter().find(|answer| answer.jid.user == number).map(|answer| answer.is_registered);
    assert_eq!((on(BUDI), on("6289999999999")), (Some(true), Some(false)));
    assert!(answers.iter().any(|answer| answer.lid.is_some()));
    assert!(answers.iter().all(|answer| !answer.is_business));
    assert!(world.emulator.set_business(BUDI, true));
    assert!(ani.client.contacts().is_on_whatsapp(&asked[..1]).await.unwrap()[0].is_business);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handset_that_is_on_confirms_what_reaches_it() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    world.emulator.ensure_account(BUDI, "Budi");
    assert!(world.emulator.set_handset_online(BUDI, true));
    let id = ani.say(BUDI, "to the phone").await;
    ani.receipt(&id).await;
    assert!(!world.emulator.set_handset_online("620000000", true));
}

/// The client asks for its pages; what comes meanwhile waits behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_absence_is_caught_up_in_order_also_with_what_comes_meanwhile() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let hello = ani.say(BUDI, "hello").await;
    budi.text().await;
    ani.receipt(&hello).await;
    let keys = budi.leave().await;
    let mut ids = Vec::new();
    for number in 0..700 {
        ids.push(ani.say(BUDI, &format!("number {number}")).await);
    }
    until("the acks", || world.emulator.stats().acked == 701).await;
    let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
    let mut got = budi.texts(1).await;
    for number in 700..720 {
        ids.push(ani.say(BUDI, &format!("number {number}")).await);
    }
    got.extend(budi.texts(720 - got.len()).await);
    let got: Vec<_> = got.into_iter().map(|received| received.id).collect();
    assert_eq!(got, ids);
    until("the queues to be empty", || world.emulator.stats().queued == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_presence_and_reading_are_passed_on() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let id = ani.say(BUDI, "read me").await;
    let received = budi.text().await;
    let chat: Jid = received.chat.parse().unwrap();

    // Who is not there himself is not told who is.
    budi.client.presence().set_available().await.unwrap();
    budi.client.presence().subscribe(&chat).await.unwrap();
    ani.client.presence().set_unavailable().await.unwrap();
    ani.client.presence().set_available().await.unwrap();
    budi.wait("presence", |event| match event {
        Event::Presence(presence) => (!presence.unavailable).then_some(()),
        _ => None,
    })
    .await;
    budi.client.chatstate().send_composing(&chat).await.unwrap();
    ani.wait("typing", |event| matches!(event, Event::ChatPresence(_)).then_some(())).await;
    budi.client.mark_as_read(&chat, None, &[&id]).await.unwrap();
    ani.wait("being read", |event| match event {
        Event::Receipt(receipt) => (format!("{:?}", receipt.r#type) == "Read").then_some(()),
        _ => None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_still_types_is_told_to_who_comes_back_and_who_stopped_long_ago_is_not() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut keys = world.link(BUDI, "Budi").await.leave().await;
    for (seconds_later, told) in [(60, false), (10, true)] {
        until("Budi to be gone", || !world.is_there(BUDI)).await;
        ani.client.chatstate().send_composing(&Jid::pn(BUDI)).await.unwrap();
        // The text is behind it.
        ani.say(BUDI, "are you there?").await;
        world.emulator.clock().set_ahead(world.emulator.clock().ahead_millis() + seconds_later * 1_000);
        let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
        budi.text().await;
        ani.say(BUDI, "now").await;
        let typed = |event: &Event| matches!(event, Event::ChatPresence(_)).then_some(true);
        let now = |event: &Event| match event {
            Event::Messages(batch) => batch.messages.iter().any(|message| !message.info.is_offline).then_some(false),
            _ => None,
        };
        let heard = budi.wait("typing, or the next text", |event| typed(event).or_else(|| now(event))).await;
        assert_eq!(heard, told, "{seconds_later} s later");
        keys = budi.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_runs_out_of_keys_is_told_and_hands_more_in() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    ani.client.validate_digest_key().await.unwrap();
    let told = ani.client.wait_for_node(NodeFilter::tag("notification").attr("type", "encrypt"));
    // Everybody who begins to talk takes one of thirty.
    for number in 0..21 {
        let other = world.link(&format!("62813{number:08}"), "One of many").await;
        other.say(ANI, "hello").await;
        other.leave().await;
    }
    tokio::time::timeout(support::LIMIT, told).await.expect("nobody told").unwrap();
    let more = async {
        while ani.client.execute(PreKeyCountSpec::new()).await.unwrap().count <= 30 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::LIMIT, more).await.expect("no keys came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_key_is_replaced_by_a_newer_one() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let budi = world.link(BUDI, "Budi").await;
    ani.client.rotate_signed_pre_key().await.unwrap();
    ani.client.validate_digest_key().await.unwrap();
    budi.say(ANI, "by the new key").await;
    assert_eq!(ani.text().await.text, "by the new key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_talked_vouch_for_each_other() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    ani.say(BUDI, "trust me").await;
    budi.text().await;
    let lid = world.emulator.accounts()[0].lid.clone();
    let search = async {
        loop {
            if let Some(token) = budi.backend.get_tc_token(&lid).await.unwrap() {
                return token;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let token = tokio::time::timeout(support::LIMIT, search).await.expect("no token came");
    assert_eq!(token.token.len(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_is_mended_by_a_retry() {
    let world = World::start().await;
    let ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    ani.say(BUDI, "before").await;
    let before = budi.text().await;
    budi.say(&before.chat, "answer").await;
    let mut ani = ani;
    ani.text().await;

    let keys = budi.leave().await;
    let account = &world.emulator.accounts()[0];
    for jid in [Jid::pn_device(ANI, 1), Jid::lid_device(account.lid.as_str(), 1)] {
        keys.delete_session(&jid.to_protocol_address_string()).await.unwrap();
    }
    let id = ani.say(BUDI, "after").await;
    let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
    budi.wait("a message that does not open", |event| matches!(event, Event::UndecryptableMessage(_)).then_some(()))
        .await;
    let mended = budi.text().await;
    assert_eq!((mended.text.as_str(), mended.id), ("after", id));
    assert_eq!(world.emulator.stats().relayed, 3, "a resend for one device is no new message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_crosses_the_wire_in_the_clear() {
    let world = World::start().await;
    let tap = Tap::default();
    let mut ani = Person::tapped(&world.emulator.whatsapp_url(), "Ani", tap.clone()).await;
    ani.scan(&world.emulator, Some(ANI)).await;
    ani.connected().await;
    let mut budi = world.link(BUDI, "Budi").await;
    ani.say(BUDI, "a very secret text").await;
    let received = budi.text().await;
    assert_eq!(received.text, "a very secret text");
    budi.say(&received.chat, "a very secret answer").await;
    assert_eq!(ani.text().await.text, "a very secret answer");
    assert!(tap.holds(b"WA\x06\x03"), "the tap sees what is sent");
    assert!(!tap.holds(b"a very secret"));
}

/// Keeps every byte a client hands to its WebSocket or gets from it.
#[derive(Clone, Default)]
pub struct Tap(Arc<Mutex<Vec<u8>>>);

impl Tap {
    fn take(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }

    fn holds(&self, text: &[u8]) -> bool {
        self.0.lock().unwrap().windows(text.len()).any(|window| window == text)
    }
}

struct Tapped(Arc<dyn Transport>, Tap);

#[async_trait]
impl Transport for Tapped {
    async fn send(&self, data: Bytes) -> whatsapp_rust::anyhow::Result<()> {
        self.1.take(&data);
        self.0.send(data).await
    }

    async fn disconnect(&self) {
        self.0.disconnect().await;
    }
}

pub struct TappedFactory(TokioWebSocketTransportFactory, Tap);

#[async_trait]
impl TransportFactory for TappedFactory {
    async fn create_transport(&self) -> whatsapp_rust::anyhow::Result<(Arc<dyn Transport>, Receiver<TransportEvent>)> {
        let (transport, events) = self.0.create_transport().await?;
        let (sender, tapped) = unbounded();
        let tap = self.1.clone();
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if let TransportEvent::DataReceived(bytes) = &event {
                    tap.take(bytes);
                }
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        Ok((Arc::new(Tapped(transport, self.1.clone())), tapped))
    }
}

impl Person {
    async fn tapped(url: &str, name: &str, tap: Tap) -> Self {
        let factory = TokioWebSocketTransportFactory::new().with_url(url);
        Self::through(TappedFactory(factory, tap), name).await
    }
}
