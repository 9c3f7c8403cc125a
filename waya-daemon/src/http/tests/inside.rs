//! Files from addresses that lead inside: refused for whoever may send, before any connection is made, with nothing
//! queued. Names are where this test says; no packet leaves the machine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Answer, Door, assert_refused};
use crate::net::Policy;
use crate::net::testing::{Scripted, Then};

const TO: &str = "6281200000002";

/// An answer with a picture of one red pixel.
fn picture() -> Vec<u8> {
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
    let png = STANDARD.decode(png).unwrap();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\r\n", png.len());
    [head.into_bytes(), png].concat()
}

/// `*.test` may be on this machine, whatever else may not.
async fn open() -> Door {
    let door = Door::open().await;
    let allow_hosts = vec!["*.test".parse().unwrap()];
    door.world.policy.send_replace(Policy { allow_hosts, ..Policy::default() });
    door
}

fn redirect_to(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

async fn send(door: &Door, url: &str) -> Answer {
    door.post(json!({ "number": TO, "message": "Halo", "media": { "url": url } })).await
}

#[track_caller]
fn assert_inside(answer: &Answer, told: &str) {
    assert_refused(answer, 422, "invalid_media", Some("media"));
    let words = answer.1["error"].as_str().unwrap();
    assert!(words.contains("refused: ") && words.contains("network.allow_private"), "{told}: {words}");
}

#[tokio::test]
async fn a_file_that_is_where_it_may_be_is_taken() {
    let door = open().await;
    door.world.names.then("a.test", "127.0.0.1");
    let server = Scripted::start(&[&picture()], Then::HangsUp).await;
    let (status, body) = send(&door, &format!("http://a.test:{}/x.png", server.address.port())).await;
    assert_eq!(status, 202, "{body}");
}

#[tokio::test]
async fn a_redirect_by_number_name_or_ipv6_does_not_lead_inside() {
    let door = open().await;
    for (name, address) in [("a.test", "127.0.0.1"), ("inner.example", "127.0.0.1"), ("six.example", "::1")] {
        door.world.names.then(name, address);
    }
    door.world.names.then("cloud.example", "169.254.169.254");
    let victim = Scripted::start(&[&picture()], Then::HangsUp).await;
    let port = victim.address.port();
    for location in [
        format!("http://127.0.0.1:{port}/x.png"),
        format!("http://2130706433:{port}/x.png"),
        format!("http://[::1]:{port}/x.png"),
        format!("http://[::ffff:127.0.0.1]:{port}/x.png"),
        format!("http://inner.example:{port}/x.png"),
        format!("http://six.example:{port}/x.png"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[::ffff:169.254.169.254]/latest/meta-data/".to_owned(),
        "http://cloud.example/latest/meta-data/".to_owned(),
    ] {
        let front = Scripted::start(&[&redirect_to(&location)], Then::HangsUp).await;
        let answer = send(&door, &format!("http://a.test:{}/x.png", front.address.port())).await;
        assert_inside(&answer, &location);
        assert_eq!(front.told().len(), 1, "{location}");
        // Without the detour it is the same.
        assert_inside(&send(&door, &location).await, &location);
    }
    assert!(victim.saw_nobody().await);
    assert_eq!(door.world.memory.count(), 0);
}

/// A name that is where it may be when it is looked at, and inside a moment later.
#[tokio::test]
async fn a_name_that_changes_its_answer_is_held_to_what_was_looked_at() {
    let door = open().await;
    let victim = Scripted::start(&[&picture()], Then::HangsUp).await;
    let port = victim.address.port();
    let url = format!("http://rebinds.example:{port}/x.png");
    let front = Scripted::start_at(([127, 0, 0, 2], port).into(), &[&redirect_to(&url)], Then::HangsUp).await;
    let allow_hosts = vec!["127.0.0.2".parse().unwrap()];
    door.world.policy.send_replace(Policy { allow_hosts, ..Policy::default() });
    door.world.names.then("rebinds.example", "127.0.0.2");
    door.world.names.then("rebinds.example", "127.0.0.1");
    assert_inside(&send(&door, &url).await, "the second look-up");
    assert_eq!((front.told().len(), door.world.names.asked().len()), (1, 2));
    assert!(victim.saw_nobody().await);
    let (_, queue) = door.get("/api/queue").await;
    assert_eq!(queue["messages"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_file_that_stops_half_way_is_none() {
    let door = open().await;
    door.world.names.then("a.test", "127.0.0.1");
    let (mut told, mut chunked) =
        (picture(), b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n\x89PNG\r\n".to_vec());
    told.pop();
    for half in [&mut told, &mut chunked] {
        let server = Scripted::start(&[half], Then::HangsUp).await;
        let answer = send(&door, &format!("http://a.test:{}/x.png", server.address.port())).await;
        assert_refused(&answer, 422, "invalid_media", Some("media"));
    }
    let empty = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let server = Scripted::start(&[empty], Then::HangsUp).await;
    let answer = send(&door, &format!("http://a.test:{}/x.png", server.address.port())).await;
    assert_refused(&answer, 422, "invalid_media", Some("media"));
    assert!(answer.1["error"].as_str().unwrap().contains("is empty"), "{}", answer.1);
    assert_eq!(door.world.memory.count(), 0);
}

#[tokio::test]
async fn a_file_over_the_limit_is_too_large_also_from_an_address() {
    let door = open().await;
    door.world.names.then("a.test", "127.0.0.1");
    door.world.media_limits.send_replace(crate::media::Limits { media: 20, document: 40, download: 40 });
    let told = b"HTTP/1.1 200 OK\r\ncontent-length: 41\r\n\r\n".to_vec();
    let chunked = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n29\r\n".to_vec(), vec![b'x'; 41]].concat();
    for over in [&told, &chunked] {
        let server = Scripted::start(&[over], Then::HangsUp).await;
        let answer = send(&door, &format!("http://a.test:{}/x.png", server.address.port())).await;
        assert_refused(&answer, 413, "too_large", Some("media"));
        assert!(answer.1["error"].as_str().unwrap().contains("media.max_document_size"), "{}", answer.1);
    }
    assert_eq!(door.world.memory.count(), 0);
}
