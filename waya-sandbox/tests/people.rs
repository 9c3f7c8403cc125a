//! What simulated people do: they talk, receive, read, go away and come back.
#![allow(clippy::unwrap_used)]

mod common;

use common::{all_confirmed, all_read, inbox_once, sandbox, say};
use waya_sandbox::control::{ControlError, SandboxControl, SayRequest};
use waya_sandbox::emulator::{Fault, FaultTarget};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_arrives_decrypted_and_is_read_at_once() {
    let sandbox = sandbox(None).await;
    let id = say(&sandbox.control(), "Budi", "siti", "Halo Siti 👋").await;

    let inbox = inbox_once(&sandbox, "Siti", |inbox| !inbox.is_empty() && all_read(inbox)).await;
    assert_eq!(inbox.len(), 1);
    assert_eq!(inbox[0].id, id);
    assert_eq!(inbox[0].content.kind, "text");
    assert_eq!(inbox[0].content.text.as_deref(), Some("Halo Siti 👋"));
    assert_eq!(inbox[0].chat, "6281200000002@c.us");
    assert_eq!(inbox[0].from, "6281200000002@c.us");
    assert_eq!(inbox[0].copies, 1);

    all_confirmed(&sandbox).await;
    assert!(sandbox.people().find("Budi").unwrap().inbox().entries().is_empty(), "own words are not received");
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_answer_each_other_over_the_same_sessions() {
    let sandbox = sandbox(None).await;
    let control = sandbox.control();
    for round in 0..3 {
        say(&control, "Budi", "Siti", &format!("tanya {round}")).await;
        inbox_once(&sandbox, "Siti", |inbox| inbox.len() == round + 1).await;
        say(&control, "Siti", "6281200000002", &format!("jawab {round}")).await;
        inbox_once(&sandbox, "Budi", |inbox| inbox.len() == round + 1).await;
    }
    let texts: Vec<_> = sandbox
        .people()
        .find("Budi")
        .unwrap()
        .inbox()
        .entries()
        .into_iter()
        .filter_map(|entry| entry.content.text)
        .collect();
    assert_eq!(texts, ["jawab 0", "jawab 1", "jawab 2"]);
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_autoread_off_reading_waits_for_the_word() {
    let sandbox = sandbox(None).await;
    let control = sandbox.control();
    control.set_autoread("Siti", false).await.unwrap();
    say(&control, "Budi", "Siti", "satu").await;
    say(&control, "Agus", "Siti", "dua").await;
    inbox_once(&sandbox, "Siti", |inbox| inbox.len() == 2 && inbox.iter().all(|entry| entry.receipts == ["delivered"]))
        .await;

    assert_eq!(control.read("Siti", false).await.unwrap().read, 2);
    assert_eq!(control.read("Siti", false).await.unwrap().read, 0, "nothing is read twice");
    inbox_once(&sandbox, "Siti", all_read).await;

    say(&control, "Budi", "Siti", "tiga").await;
    inbox_once(&sandbox, "Siti", |inbox| inbox.len() == 3).await;
    control.set_autoread("Siti", true).await.unwrap();
    inbox_once(&sandbox, "Siti", all_read).await;
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_offline_gets_everything_once_on_coming_back() {
    let sandbox = sandbox(None).await;
    let control = sandbox.control();
    control.set_online("Siti", false).await.unwrap();
    assert!(!sandbox.people().find("Siti").unwrap().is_online());
    for number in 0..5 {
        say(&control, "Budi", "Siti", &format!("pesan {number}")).await;
    }
    let refused = control
        .say(SayRequest { from: "Siti".into(), text: "Halo".into(), to: Some("Budi".into()), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!((refused.code(), refused.status()), ("person_offline", 409), "{refused}");
    assert!(sandbox.people().find("Siti").unwrap().inbox().entries().is_empty());

    control.set_online("Siti", true).await.unwrap();
    let inbox = inbox_once(&sandbox, "Siti", |inbox| inbox.len() == 5 && all_read(inbox)).await;
    assert!(inbox.iter().all(|entry| entry.copies == 1), "{inbox:#?}");
    all_confirmed(&sandbox).await;
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_in_the_group_reaches_every_other_member() {
    let sandbox = sandbox(None).await;
    let control = sandbox.control();
    let group = control.people().await.unwrap().groups.remove(0);
    assert_eq!(group.members, ["6281200000001", "6281200000002", "6281200000003", "6281200000004"]);

    say(&control, "Budi", "group:keluarga", "Halo semua").await;
    for who in ["Siti", "Agus"] {
        let inbox = inbox_once(&sandbox, who, |inbox| !inbox.is_empty() && all_read(inbox)).await;
        assert_eq!(inbox.len(), 1);
        assert_eq!(inbox[0].chat, group.id);
        assert_eq!(inbox[0].from, "6281200000002@c.us");
        assert_eq!(inbox[0].content.text.as_deref(), Some("Halo semua"));
    }
    say(&control, "Siti", &format!("group:{}", group.id), "Halo Budi").await;
    inbox_once(&sandbox, "Budi", |inbox| inbox.len() == 1 && all_read(inbox)).await;
    inbox_once(&sandbox, "Agus", |inbox| inbox.len() == 2 && all_read(inbox)).await;
    all_confirmed(&sandbox).await;
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_come_back_by_themselves() {
    let sandbox = sandbox(None).await;
    let control = sandbox.control();
    for round in 0..3 {
        sandbox.emulator().set_fault(Fault::Cut, FaultTarget::All);
        say(&control, "Budi", "Siti", &format!("setelah putus {round}")).await;
    }
    let inbox = inbox_once(&sandbox, "Siti", |inbox| !inbox.is_empty() && all_read(inbox)).await;
    // A person whose ack was cut off hands the message over again, under its id.
    let stats = sandbox.emulator().stats();
    let handed = |id: &str| stats.senders["6281200000002"].repeated_ids.get(id).copied().unwrap_or(1);
    assert!(inbox.iter().all(|entry| entry.copies as u64 <= handed(&entry.id)), "{inbox:#?}");
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_unlinked_links_again() {
    let sandbox = sandbox(None).await;
    let control = sandbox.control();
    sandbox.emulator().set_fault(Fault::LoggedOut, FaultTarget::Phone("6281200000003".into()));
    let siti = sandbox.people().find("Siti").unwrap();
    say(&control, "Siti", "Budi", "sebelum").await;
    siti.go_online().await.unwrap();
    let linked = sandbox.emulator().accounts().into_iter().find(|account| account.phone == "6281200000003").unwrap();
    assert_eq!(linked.devices.len(), 1, "{linked:?}");
    say(&control, "Budi", "Siti", "selamat datang").await;
    inbox_once(&sandbox, "Siti", |inbox| inbox.len() == 1).await;
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_with_the_way_out() {
    let sandbox = sandbox(None).await;
    let control = sandbox.control();
    let refused = control.inbox("Nobody").await.unwrap_err();
    assert_eq!(refused.to_string(), r#"there is no "Nobody" here: ask Budi, Siti, Agus"#);
    assert_eq!(refused.status(), 404);

    let say = |group: Option<&str>, to: Option<&str>, text: &str| {
        control.say(SayRequest {
            from: "Budi".into(),
            text: text.into(),
            group: group.map(str::to_owned),
            to: to.map(str::to_owned),
            ..Default::default()
        })
    };
    assert_eq!(say(None, None, "").await.unwrap_err().code(), "nothing_to_send");
    assert_eq!(say(Some("Kantor"), None, "x").await.unwrap_err().status(), 404);
    assert!(matches!(say(None, Some("Budi"), "x").await, Err(ControlError::Invalid { field: "to", .. })));
    assert!(matches!(
        say(Some("Keluarga"), Some("Siti"), "x").await,
        Err(ControlError::Invalid { field: "group", .. })
    ));
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_again_and_again_gets_everything_once() {
    const MESSAGES: usize = 60;
    let sandbox = sandbox(None).await;
    let control = sandbox.control();
    let siti = FaultTarget::Phone("6281200000003".into());
    for number in 0..MESSAGES {
        say(&control, "Budi", "Siti", &number.to_string()).await;
        if number % 3 == 0 {
            // Somewhere between the arrival of a message and its confirmation.
            sandbox.emulator().set_fault(Fault::Cut, siti.clone());
        }
    }
    let inbox = inbox_once(&sandbox, "Siti", |inbox| inbox.len() == MESSAGES && all_read(inbox)).await;
    assert!(inbox.iter().all(|entry| entry.copies == 1), "{inbox:#?}");
    all_confirmed(&sandbox).await;
    sandbox.shutdown().await.unwrap();
}
