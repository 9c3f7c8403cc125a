//! Status, queue, events, session.

use serde_json::{Value, json};

use super::{Door, assert_refused, masked};
use crate::api::testing::incoming;
use crate::model::{Change, EventBody, LinkState, MessageId, OfflineReason, ReceiptKind, Timestamp};

fn id(text: &str) -> MessageId {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_status_tells_everything() {
    let door = Door::open().await;
    let body = json!({ "number": "6281200000002", "message": "Halo", "reference_id": "order-7" });
    let sent = door.post(body).await.1["id"].as_str().unwrap().to_owned();
    door.world.change(id(&sent), Change::Claim).await;
    door.world.change(id(&sent), Change::Acked).await;
    let at = Timestamp::from_millis(1_800_000_000_000);
    door.world.change(id(&sent), Change::Receipt { kind: ReceiptKind::Read, at }).await;
    let (status, body) = door.get(&format!("/api/message-status/{sent}")).await;
    assert_eq!(status, 200);
    insta::assert_json_snapshot!(masked(&body, &["/id", "/createdAt", "/sentAt", "/whatsappId"]));
    assert_eq!(door.get("/api/message-status/order-7").await.1, body);
}

#[tokio::test]
async fn a_shared_reference_gives_the_newest_and_all() {
    let door = Door::open().await;
    let body = json!({ "recipients": ["6281200000002", "6281200000003"], "message": "Halo", "reference_id": "a/b ?" });
    let (_, accepted) = door.post(body).await;
    let (status, body) = door.get("/api/message-status/a%2Fb%20%3F").await;
    assert_eq!((status, &body["id"]), (200, &accepted["messages"][1]["id"]));
    let ids: Vec<&Value> = body["messages"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, [&accepted["messages"][1]["id"], &accepted["messages"][0]["id"]]);
    for unknown in ["nothing", "018f0000-0000-7000-8000-000000000000"] {
        let refused = door.get(&format!("/api/message-status/{unknown}")).await;
        assert_refused(&refused, 404, "not_found", None);
    }
}

#[tokio::test]
async fn waiting_ends_when_it_is_reached() {
    let door = Door::open().await;
    let sent = door.sent("Halo").await;
    let wait = |what: &str| format!("/api/message-status/{sent}?wait={what}&timeout=100");
    let (path, other) = (wait("delivered"), wait("sent"));
    let waiting = async { tokio::join!(door.get(&path), door.get(&other)) };
    let doing = async {
        door.world.change(id(&sent), Change::Claim).await;
        door.world.change(id(&sent), Change::Acked).await;
        let at = Timestamp::from_millis(1_800_000_000_000);
        door.world.change(id(&sent), Change::Receipt { kind: ReceiptKind::Delivered, at }).await;
    };
    let ((delivered, acked), ()) = tokio::join!(waiting, doing);
    assert_eq!((&delivered.1["ack"], &acked.1["status"]), (&json!("device"), &json!("sent")));
    // Reached already: at once.
    assert_eq!(door.get(&wait("delivered")).await.1, delivered.1);
}

#[tokio::test]
async fn waiting_ends_when_the_message_fails_or_time_is_up() {
    let door = Door::open().await;
    let sent = door.sent("Halo").await;
    let (status, body) = door.get(&format!("/api/message-status/{sent}?wait=read&timeout=1")).await;
    assert_eq!((status, &body["status"]), (200, &json!("pending")));
    let path = format!("/api/message-status/{sent}?wait=read&timeout=100");
    let fail = Change::Failed { reason: "6281200000002 is not on WhatsApp".to_owned() };
    let ((_, body), _) = tokio::join!(door.get(&path), door.world.change(id(&sent), fail));
    assert_eq!(body["error"], "6281200000002 is not on WhatsApp");
    for query in ["wait=soon", "wait=sent&timeout=0", "wait=sent&timeout=121", "wait=sent&timeout=x"] {
        let (status, body) = door.get(&format!("/api/message-status/{sent}?{query}")).await;
        assert_eq!((status, &body["code"]), (422, &json!("invalid_field")), "{query}");
    }
}

#[tokio::test]
async fn the_queue_is_listed_and_messages_are_taken_back() {
    let door = Door::open().await;
    let (first, second) = (door.sent("a").await, door.sent("b").await);
    let (_, page) = door.get("/api/queue?limit=1").await;
    assert_eq!(
        (&page["pending"], &page["messages"][0]["id"], &page["next"]),
        (&json!(2), &json!(second), &json!(second))
    );
    let (_, page) = door.get(&format!("/api/queue?limit=5&before={second}")).await;
    assert_eq!((&page["messages"][0]["id"], &page["next"]), (&json!(first), &Value::Null));

    let cancel = |id: &str| super::answer(door.request("DELETE", &format!("/api/queue/{id}")));
    let (status, body) = cancel(&first).await;
    assert_eq!((status, &body["status"]), (200, &json!("cancelled")));
    assert_eq!(cancel(&first).await.0, 200);
    door.world.change(id(&second), Change::Claim).await;
    assert_refused(&cancel(&second).await, 409, "not_cancellable", None);
    assert_refused(&cancel("order-7").await, 404, "not_found", None);
    let (_, page) = door.get("/api/queue?status=cancelled,failed").await;
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    for query in ["status=lost", "limit=0", "limit=1001", "before=x"] {
        assert_eq!(door.get(&format!("/api/queue?{query}")).await.0, 422, "{query}");
    }
}

#[tokio::test]
async fn events_are_read_by_cursor() {
    let door = Door::open().await;
    let journal = &door.world.store.journal;
    journal.record_incoming(vec![incoming("A1", "Halo\u{0}")]).await.unwrap();
    let offline = LinkState::Offline { reason: OfflineReason("no route".to_owned()), retry_at: None };
    journal.append(EventBody::Link(offline), Timestamp::from_millis(1_800_000_001_000)).await.unwrap();
    let (status, page) = door.get("/api/events?after=0").await;
    assert_eq!(status, 200);
    insta::assert_json_snapshot!(page);
    let (_, rest) =
        door.get(&format!("/api/events?after={}&limit=1", page["events"][0]["cursor"].as_str().unwrap())).await;
    assert_eq!(rest["events"][0], page["events"][1]);
    for query in ["after=x", "after=c", "after=c9999", "limit=0", "wait=121", "wait=-1"] {
        assert_eq!(door.get(&format!("/api/events?{query}")).await.0, 422, "{query}");
    }
}

#[tokio::test]
async fn a_long_poll_ends_with_the_first_event_or_when_the_daemon_stops() {
    let door = Door::open().await;
    let journal = &door.world.store.journal;
    let (page, recorded) =
        tokio::join!(door.get("/api/events?after=0&wait=100"), journal.record_incoming(vec![incoming("A1", "Halo")]));
    recorded.unwrap();
    assert_eq!(page.1["events"][0]["message"]["body"], "Halo");
    let next = page.1["next"].as_str().unwrap();
    let path = format!("/api/events?after={next}&wait=100");
    let stop = async {
        // The request must be under way, or the listener is gone before it.
        door.world.memory.wait_for_reader().await;
        door.stop.cancel();
    };
    let (page, ()) = tokio::join!(door.get(&path), stop);
    assert_eq!((page.0, &page.1["next"]), (200, &json!(next)));
    door.server.await.unwrap();
}

#[tokio::test]
async fn the_session_shows_what_to_scan() {
    let door = Door::open().await;
    let (_, body) = door.get("/api/session").await;
    insta::assert_json_snapshot!(body);
    door.world.whatsapp.set_link(LinkState::Pairing {
        qr: Some("2@abc,def,ghi".to_owned()),
        code: None,
        expires_at: Some(Timestamp::from_millis(1_800_000_020_000)),
    });
    let (_, body) = door.get("/api/session").await;
    insta::assert_json_snapshot!("session_with_a_code", masked(&body, &["/qr/png"]));
    let (_, body) = door.get("/api/status").await;
    insta::assert_json_snapshot!("status", masked(&body, &["/qr/png"]));
}
