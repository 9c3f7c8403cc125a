//! Messages that come in: in the journal before they are acknowledged.

use waya_daemon::model::ChatId;
use waya_daemon::session::{Person, WaEvent};
use waya_sandbox::emulator::Fault;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_journalled_under_the_phone_of_who_wrote_it() {
    let mut world = World::connected(1).await;
    let text = " Halo\n\u{1f44b} ";
    let id = world.say(0, text, None).await;
    let row = world.journal.rows(1).await.remove(0);
    let name = world.sandbox.people().all()[0].profile().name.clone();
    assert_eq!((row.id, row.text.as_str(), row.kind.as_str()), (id, text, "chat"));
    assert_eq!((row.chat, row.sender), (world.chat(0), world.chat(0)), "the phone is known, so it is shown");
    assert_eq!(row.push_name, Some(name.clone()));
    assert!(row.sender_lid.is_some() && !row.from_me && !row.raw.is_empty());
    assert!(row.timestamp <= row.received_at.plus(std::time::Duration::from_secs(2)));
    world.nothing_queued().await;

    let phone = world.phone(0);
    let told = world.event(|event| match event {
        WaEvent::Person(Person { phone: Some(known), lid: Some(_), push_name: Some(name) }) if *known == phone => {
            Some(name.text.clone())
        }
        _ => None,
    });
    assert_eq!(told.await, name);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_message_names_group_and_sender() {
    let world = World::connected(2).await;
    let group = world.emulator().groups()[0].clone();
    world.say(1, "Halo grup", Some(&group.jid)).await;
    let row = world.journal.rows(1).await.remove(0);
    assert_eq!(row.chat, group.jid.parse::<ChatId>().unwrap());
    assert_eq!(row.sender, world.chat(1));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_meanwhile_comes_in_order_after_a_restart() {
    let mut world = World::connected(1).await;
    world.say(0, "sebelum", None).await;
    world.journal.rows(1).await;
    world.session.shutdown().await;
    for text in ["satu", "dua", "tiga"] {
        world.say(0, text, None).await;
    }
    world.restart().await;
    let texts: Vec<_> = world.journal.rows(4).await.into_iter().map(|row| row.text).collect();
    assert_eq!(texts, ["sebelum", "satu", "dua", "tiga"]);
    world.until("connected").await;
    world.nothing_queued().await;
    world.end().await;
}

/// The journal fails, so the message is not acknowledged; when the journal works again, the connection is renewed by
/// itself and the server gets rid of what it kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_journal_keeps_the_acknowledgement_back_until_it_works() {
    let world = World::connected(1).await;
    world.journal.set_failing(true);
    world.say(0, "penting", None).await;
    world.journal.refused(2).await;
    assert_eq!(world.devices()[0].queued, 1, "the server still has it");

    world.journal.set_failing(false);
    let rows = world.journal.rows(1).await;
    assert_eq!(rows[0].text, "penting");
    world.nothing_queued().await;
    world.until("connected").await;
    world.say(0, "lagi", None).await;
    let texts: Vec<_> = world.journal.rows(2).await.into_iter().map(|row| row.text).collect();
    assert_eq!(texts, ["penting", "lagi"], "each once");
    world.end().await;
}

/// The same with the connection lost in between: what was not acknowledged comes again at the next login.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_stored_comes_again_at_the_next_login() {
    let mut world = World::connected(1).await;
    world.journal.set_failing(true);
    world.say(0, "penting", None).await;
    world.journal.refused(1).await;
    world.session.shutdown().await;
    world.journal.set_failing(false);
    world.restart().await;
    assert_eq!(world.journal.rows(1).await[0].text, "penting");
    world.nothing_queued().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_loses_nothing_and_doubles_nothing() {
    let world = World::connected(1).await;
    world.say(0, "satu", None).await;
    world.fault(Fault::Cut);
    world.say(0, "dua", None).await;
    world.until("connected").await;
    world.say(0, "tiga", None).await;
    let texts: Vec<_> = world.journal.rows(3).await.into_iter().map(|row| row.text).collect();
    assert_eq!(texts, ["satu", "dua", "tiga"]);
    world.nothing_queued().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_between_decryption_and_journal_lose_nothing_and_double_nothing() {
    const MESSAGES: usize = 30;
    let world = World::connected(1).await;
    for number in 0..MESSAGES {
        world.say(0, &number.to_string(), None).await;
        if number % 3 == 0 {
            // Somewhere between the arrival of a message and its confirmation.
            world.fault(Fault::Cut);
        }
    }
    let texts: Vec<_> = world.journal.rows(MESSAGES).await.into_iter().map(|row| row.text).collect();
    let said: Vec<_> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(texts, said);
    world.nothing_queued().await;
    world.end().await;
}
