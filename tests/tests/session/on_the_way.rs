//! Messages that are lost, doubled, overtaken, broken or late between the server and this session.

use std::time::Duration;

use waya_daemon::model::Incoming;
use waya_daemon::session::WaEvent;
use waya_sandbox::emulator::{Fault, FaultLimit, FaultTarget};

use crate::world::World;

impl World {
    /// Makes something go wrong so many times.
    fn fault_times(&self, fault: Fault, times: u32) {
        let target = FaultTarget::Phone(self.sandbox.own_phone().to_owned());
        self.emulator().set_limited_fault(fault, target, FaultLimit::times(times)).unwrap();
    }

    /// Says `texts`, and waits for as many rows; what is not confirmed afterwards would come a second time.
    async fn hear(&self, texts: &[&str]) -> Vec<String> {
        for text in texts {
            self.say(0, text, None).await;
        }
        self.journal.rows(texts.len()).await.into_iter().map(|row| row.text).collect()
    }

    /// Nothing is left to come: what was told is all.
    async fn nothing_more(&mut self, rows: usize) {
        self.nothing_queued().await;
        assert_eq!(self.journal.rows(rows).await.len(), rows);
        assert_eq!(self.session.link().borrow().state.name(), "connected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_lost_on_the_way_comes_with_the_next_connection() {
    for cut in [Fault::Cut, Fault::CutMidFrame] {
        let mut world = World::connected(1).await;
        world.fault_times(Fault::Drop, 1);
        world.say(0, "lost", None).await;
        assert_eq!(world.hear(&["heard"]).await, ["heard"]);
        world.fault(cut);
        let texts: Vec<_> = world.journal.rows(2).await.into_iter().map(|row| row.text).collect();
        assert_eq!(texts, ["heard", "lost"], "{cut}");
        world.until("connected").await;
        world.nothing_more(2).await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubled_message_is_journalled_once() {
    let mut world = World::connected(1).await;
    world.fault_times(Fault::Double, 2);
    assert_eq!(world.hear(&["one", "two", "three"]).await, ["one", "two", "three"]);
    world.nothing_more(3).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overtaken_message_is_not_lost() {
    let mut world = World::connected(1).await;
    assert_eq!(world.hear(&["before"]).await, ["before"]);
    world.fault_times(Fault::Reorder, 1);
    world.say(0, "first", None).await;
    world.say(0, "second", None).await;
    let texts: Vec<_> = world.journal.rows(3).await.into_iter().map(|row| row.text).collect();
    assert_eq!(texts, ["before", "second", "first"]);
    world.nothing_more(3).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_message_is_asked_for_again_and_journalled_once() {
    let mut world = World::connected(1).await;
    world.fault_times(Fault::Garble, 1);
    assert_eq!(world.hear(&["broken", "whole"]).await.len(), 2);
    let mut texts: Vec<_> = world.journal.rows(2).await.into_iter().map(|row| row.text).collect();
    texts.sort();
    assert_eq!(texts, ["broken", "whole"]);
    world.nothing_more(2).await;
    world.end().await;
}

/// The first message from a group brings its sender's key along, those behind it do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_message_from_a_group_is_asked_for_again_and_journalled_once() {
    let mut world = World::connected(2).await;
    let group = world.emulator().groups()[0].clone();
    for (number, text) in ["with the key", "without it"].into_iter().enumerate() {
        world.fault_times(Fault::Garble, 1);
        world.say(1, text, Some(&group.jid)).await;
        let row = world.journal.rows(number + 1).await.remove(number);
        assert_eq!((row.text.as_str(), row.chat, row.sender), (text, group.jid.parse().unwrap(), world.chat(1)));
        assert!(world.emulator().faults().is_empty(), "{text}: it did not strike");
        world.nothing_more(number + 1).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_encrypted_with_an_old_key_is_asked_for_again() {
    let mut world = World::connected(1).await;
    world.fault_times(Fault::StalePreKeys, 1);
    assert_eq!(world.hear(&["with an old key"]).await, ["with an old key"]);
    assert!(world.emulator().faults().is_empty(), "nobody asked for a key");
    world.nothing_more(1).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_is_a_link() {
    let mut world = World::connected(1).await;
    world.fault(Fault::Slow { ms: 300 });
    assert_eq!(world.hear(&["one", "two", "three"]).await, ["one", "two", "three"]);
    let chat = world.chat(0);
    world.send("3EB0000000000000000001", &chat, "and back").await.unwrap();
    let acked = |event: &WaEvent| matches!(event, WaEvent::ServerAck { refused: None, .. }).then_some(());
    world.event(acked).await;
    world.mend();
    world.nothing_more(3).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_wrong_dates_messages_and_nothing_else() {
    let mut world = World::connected(1).await;
    world.fault(Fault::ClockSkew { seconds: 86_400 });
    world.say(0, "from tomorrow", None).await;
    let Incoming { timestamp, received_at, .. } = world.journal.rows(1).await.remove(0);
    assert!(timestamp > received_at.plus(Duration::from_hours(23)), "{timestamp:?} {received_at:?}");
    world.session.shutdown().await;
    world.say(0, "while away", None).await;
    world.restart().await;
    world.until("connected").await;
    let chat = world.chat(0);
    world.send("3EB0000000000000000001", &chat, "still here").await.unwrap();
    assert_eq!(world.arrived(0, "still here").await, 1);
    world.nothing_more(2).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_anew_finds_the_session_again() {
    let mut world = World::connected(1).await;
    assert_eq!(world.hear(&["before"]).await, ["before"]);
    world.emulator().set_fault(Fault::Restart, FaultTarget::All);
    world.until_state(|state| state.name() != "connected").await.unwrap();
    world.until("connected").await;
    assert_eq!(world.hear(&["after"]).await.len(), 1);
    assert_eq!(world.journal.rows(2).await[1].text, "after");
    world.nothing_more(2).await;
    world.end().await;
}
