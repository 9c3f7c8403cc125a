//! People who send files, answer and react, by the admin HTTP.
#![allow(clippy::unwrap_used)]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{inbox_once, sandbox};
use reqwest::Client;
use serde_json::{Value, json};
use waya_sandbox::Sandbox;

async fn say(sandbox: &Sandbox, body: Value) -> (u16, Value) {
    let client = Client::builder().no_proxy().build().unwrap();
    let response = client.post(format!("{}/say", sandbox.admin_url())).body(body.to_string()).send().await.unwrap();
    (response.status().as_u16(), serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

async fn said(sandbox: &Sandbox, body: Value) -> Value {
    let (status, answer) = say(sandbox, body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_file_arrives_as_what_it_is() {
    let sandbox = sandbox(None).await;
    let content = vec![7; 3_000_000];
    for (mimetype, voice, kind) in [
        ("image/png", false, "image"),
        ("image/webp", false, "sticker"),
        ("video/mp4", false, "video"),
        ("audio/mpeg", false, "audio"),
        ("audio/ogg; codecs=opus", true, "voice"),
        ("application/pdf", false, "document"),
    ] {
        let media = json!({"data": STANDARD.encode(&content), "mimetype": mimetype, "voice": voice, "filename": "a.x"});
        let words = if ["image", "video", "document"].contains(&kind) { kind } else { "" };
        said(&sandbox, json!({"from": "Budi", "to": "Siti", "text": words, "media": media})).await;
        let inbox = inbox_once(&sandbox, "Siti", |inbox| inbox.iter().any(|row| row.content.kind == kind)).await;
        let row = inbox.last().unwrap();
        let media = row.content.media.clone().unwrap();
        assert_eq!((media.mimetype.as_deref(), media.size), (Some(mimetype), Some(3_000_000)), "{kind}");
        assert_eq!(row.content.caption.as_deref().unwrap_or_default(), words);
        assert_eq!(media.filename.as_deref(), (kind == "document").then_some("a.x"));
    }
    let (status, answer) = say(&sandbox, json!({"from": "Budi", "to": "Siti", "media": {"data": "not base64!"}})).await;
    assert_eq!(
        (status, &answer["code"], &answer["field"]),
        (422, &json!("invalid_field"), &json!("media")),
        "{answer}"
    );
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_reactions_go_to_where_the_message_was() {
    let sandbox = sandbox(None).await;
    let group = sandbox.emulator().groups()[0].clone();
    for place in [json!({"to": "Siti"}), json!({"group": group.subject})] {
        let mut body = json!({"from": "Budi", "text": "Halo?"});
        body.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        let asked = said(&sandbox, body).await;
        let id = asked["id"].as_str().unwrap().to_owned();
        inbox_once(&sandbox, "Siti", |inbox| inbox.iter().any(|row| row.id == id)).await;
        let answer = said(&sandbox, json!({"from": "Siti", "text": "Halo!", "quoted": id})).await;
        let reaction = said(&sandbox, json!({"from": "Siti", "text": "👍", "react": id})).await;
        let ids = [answer["id"].as_str().unwrap(), reaction["id"].as_str().unwrap()].map(str::to_owned);
        let inbox = inbox_once(&sandbox, "Budi", |inbox| ids.iter().all(|id| inbox.iter().any(|row| row.id == *id)));
        let inbox = inbox.await;
        for (wanted, kind, text) in [(&ids[0], "text", "Halo!"), (&ids[1], "reaction", "👍")] {
            let row = inbox.iter().find(|row| row.id == *wanted).unwrap();
            assert_eq!((row.content.kind.as_str(), row.content.text.as_deref()), (kind, Some(text)));
            assert_eq!(row.content.quoted.as_deref(), Some(id.as_str()));
            if place.get("group").is_some() {
                assert_eq!(row.chat, group.jid);
            }
        }
    }
    let (status, answer) = say(&sandbox, json!({"from": "Siti", "text": "?", "quoted": "nothing"})).await;
    assert_eq!((status, &answer["field"]), (422, &json!("quoted")), "{answer}");
    sandbox.shutdown().await.unwrap();
}
