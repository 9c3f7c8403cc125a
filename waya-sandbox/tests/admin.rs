//! The admin HTTP: its shapes, and its refusals.
#![allow(clippy::unwrap_used)]

mod common;

use common::{all_read, inbox_once, sandbox};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use waya_sandbox::control::{Remote, SandboxControl, SayRequest};
use waya_sandbox::{Sandbox, SandboxConfig};

async fn call(sandbox: &Sandbox, method: Method, path: &str, body: &str) -> (u16, Value) {
    let url = format!("{}{path}", sandbox.admin_url());
    let client = Client::builder().no_proxy().build().unwrap();
    let response = client.request(method, url).body(body.to_owned()).send().await.unwrap();
    (response.status().as_u16(), serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

async fn get(sandbox: &Sandbox, path: &str) -> Value {
    let (status, body) = call(sandbox, Method::GET, path, "").await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn post(sandbox: &Sandbox, path: &str, body: &Value) -> (u16, Value) {
    call(sandbox, Method::POST, path, &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_and_inboxes_have_the_shapes_of_the_contract() {
    let sandbox = sandbox(None).await;
    let mut people = get(&sandbox, "/people").await;
    for person in people["people"].as_array_mut().unwrap() {
        let lid = person["lid"].take();
        assert!(lid.as_str().unwrap().ends_with("@lid"), "{lid}");
    }
    let group = people["groups"][0]["id"].take();
    assert!(group.as_str().unwrap().ends_with("@g.us"), "{group}");
    insta::assert_json_snapshot!("people", people);

    let (status, said) = post(&sandbox, "/say", &json!({"from": "budi", "to": "Siti", "text": "Halo"})).await;
    assert_eq!((status, &said["success"], &said["chat"]), (200, &json!(true), &json!("6281200000003@c.us")));
    inbox_once(&sandbox, "Siti", |inbox| !inbox.is_empty() && all_read(inbox)).await;
    let mut inbox = get(&sandbox, "/inbox/6281200000003").await;
    assert_eq!(inbox["messages"][0]["id"].take(), said["id"]);
    let said_at = inbox["messages"][0]["ts"].take().as_i64().unwrap();
    assert!(said_at > 1_600_000_000_000);
    for time in inbox["messages"][0]["receiptTimes"].as_array_mut().unwrap() {
        // The time of a message may be told in whole seconds only.
        assert!(time["ts"].take().as_i64().unwrap() >= said_at - 1_000);
    }
    insta::assert_json_snapshot!("inbox", inbox);
    assert_eq!(get(&sandbox, "/inbox/SITI").await, get(&sandbox, "/inbox/Siti").await);

    let stats = get(&sandbox, "/stats").await;
    assert_eq!(stats["senders"]["6281200000002"]["messages"], 1, "{stats}");
    assert_eq!(stats["senders"]["6281200000002"]["repeated_ids"], json!({}), "{stats}");
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switches_answer_what_they_did() {
    let sandbox = sandbox(None).await;
    for (path, body) in [
        ("/autoread", json!({"who": "Siti", "on": false})),
        ("/offline", json!({"who": "Siti"})),
        ("/online", json!({"who": "Siti"})),
        ("/read", json!({"who": "Siti"})),
        ("/phone", json!({"state": "online"})),
        ("/phone", json!({"state": "offline"})),
        ("/phone", json!({"state": "online", "who": "Siti"})),
    ] {
        let (status, answer) = post(&sandbox, path, &body).await;
        assert_eq!((status, &answer["success"]), (200, &json!(true)), "{path} {body}: {answer}");
    }
    let on = json!({"success": true, "faults": [{"fault": "ack-delay 200", "target": "all"}]});
    assert_eq!(post(&sandbox, "/fault", &json!({"kind": "ack-delay", "args": [200]})).await, (200, on));
    let (_, both) = post(&sandbox, "/fault", &json!({"fault": "nack 463", "target": "Budi"})).await;
    assert_eq!(both["faults"].as_array().unwrap().len(), 2);
    assert_eq!(get(&sandbox, "/faults").await["faults"], both["faults"]);
    let off = json!({"success": true, "faults": []});
    assert_eq!(call(&sandbox, Method::DELETE, "/faults", "").await, (200, off));
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_what_is_wrong() {
    let sandbox = sandbox(None).await;
    let mut seen = Vec::new();
    for (method, path, body) in [
        (Method::GET, "/inbox/Nobody", ""),
        (Method::GET, "/nothing", ""),
        (Method::GET, "/say", ""),
        (Method::POST, "/say", "{"),
        (Method::POST, "/say", r#"{"from":"Budi"}"#),
        (Method::POST, "/say", r#"{"from":"Budi","text":""}"#),
        (Method::POST, "/say", r#"{"from":"Budi","text":"x","group":"Kantor"}"#),
        (Method::POST, "/fault", r#"{"kind":"explode"}"#),
        (Method::POST, "/fault", r#"{"kind":"ack-delay"}"#),
        (Method::POST, "/fault", r#"{"kind":"passkey","target":"Budi:2"}"#),
        (Method::POST, "/rename", r#"{"who":"Budi","name":"siti"}"#),
        (Method::POST, "/rename", r#"{"who":"Budi","name":"me"}"#),
        (Method::POST, "/rename", r#"{"who":"Nobody","name":"Vina"}"#),
        (Method::POST, "/rename", r#"{"who":"me","name":" "}"#),
        (Method::POST, "/phone", r#"{"state":"broken"}"#),
        (Method::POST, "/phone", r#"{"state":"online","who":"628999"}"#),
        (Method::POST, "/phone", r#"{"state":"online","who":"Nobody"}"#),
        (Method::POST, "/mock-phone/scan-qr", "not a code"),
        (Method::POST, "/mock-phone/enter-code", r#"{"phone":"6281200000001","code":"ABCD1234"}"#),
    ] {
        let (status, answer) = call(&sandbox, method.clone(), path, body).await;
        assert_eq!(answer["success"], false);
        seen.push(format!("{method} {path} {body} -> {status} {}: {}", answer["code"], answer["error"]));
    }
    insta::assert_snapshot!("refusals", seen.join("\n"));
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_in_another_process_takes_the_same_commands() {
    let sandbox = sandbox(None).await;
    let local = sandbox.control();
    let remote = Remote::new(&sandbox.whatsapp_url()).unwrap();
    assert_eq!(remote.people().await.unwrap(), local.people().await.unwrap());
    let request =
        SayRequest { from: "Budi".into(), text: "Halo".into(), to: Some("Siti".into()), ..Default::default() };
    remote.say(request).await.unwrap();
    inbox_once(&sandbox, "Siti", |inbox| !inbox.is_empty() && all_read(inbox)).await;
    assert_eq!(remote.inbox("siti").await.unwrap(), local.inbox("siti").await.unwrap());

    let refused = remote.inbox("No body").await.unwrap_err();
    assert_eq!((refused.code(), refused.status()), ("not_found", 404));
    assert_eq!(refused.to_string(), local.inbox("No body").await.unwrap_err().to_string());
    sandbox.shutdown().await.unwrap();
    assert_eq!(remote.people().await.unwrap_err().code(), "unreachable");
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let config = SandboxConfig { listen: "0.0.0.0:0".parse().unwrap(), ..SandboxConfig::default() };
    let refused = Sandbox::start(config).await.err().unwrap();
    assert_eq!(refused.to_string(), "0.0.0.0:0 is not a loopback address: listen on 127.0.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_in_a_browser_are_turned_away() {
    let sandbox = sandbox(None).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/people", sandbox.admin_url());
    // A page from anywhere, and a name that was made to point here.
    for (name, value) in [("Origin", "https://example.com"), ("Host", "example.com"), ("Host", "10.0.0.1:80")] {
        let response = client.get(&url).header(name, value).send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!((status, &body["code"]), (403, &json!("forbidden")), "{name}: {value}");
    }
    for host in ["localhost", "localhost:7300", "[::1]:7300"] {
        assert_eq!(client.get(&url).header("Host", host).send().await.unwrap().status(), 200, "{host}");
    }
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_new_comes_talks_and_is_there_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Some(folder.path())).await;
    let (status, tari) = post(&sandbox, "/people", &json!({"name": "Tari"})).await;
    assert_eq!((status, &tari["success"], &tari["name"]), (200, &json!(true), &json!("Tari")), "{tari}");
    let (status, far) = post(&sandbox, "/people", &json!({"name": "Ulfa", "number": "+62 811-555-0001"})).await;
    assert_eq!((status, &far["number"]), (200, &json!("628115550001")), "{far}");
    let (status, said) = post(&sandbox, "/say", &json!({"from": "Tari", "to": "Ulfa", "text": "Halo"})).await;
    assert_eq!(status, 200, "{said}");
    inbox_once(&sandbox, "Ulfa", |inbox| all_read(inbox) && inbox.len() == 1).await;
    for (body, status, code, says) in [
        (json!({"name": "tari"}), 409, "conflict", "somebody called Tari"),
        (json!({"name": "Vina", "number": "628115550001"}), 409, "conflict", "Ulfa"),
        (json!({"name": "Vina", "number": "6281200000001"}), 409, "conflict", "Waya"),
        (json!({"name": " "}), 422, "invalid_field", "1 to 25 characters"),
        (json!({"name": "12345678"}), 422, "invalid_field", "not all of them digits"),
        (json!({"name": "Vina", "number": "123"}), 422, "invalid_field", "7 to 15 digits"),
    ] {
        let (seen, answer) = post(&sandbox, "/people", &body).await;
        assert_eq!((seen, &answer["code"]), (status, &json!(code)), "{body}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    let known = get(&sandbox, "/people").await;
    sandbox.shutdown().await.unwrap();

    let sandbox = common::sandbox(Some(folder.path())).await;
    assert_eq!(get(&sandbox, "/people").await, known);
    assert_eq!(get(&sandbox, "/inbox/Ulfa").await["messages"][0]["text"], "Halo");
    sandbox.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_renamed_is_found_by_the_new_name_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Some(folder.path())).await;
    for (who, name) in [("budi", "Budi Santoso"), ("Budi Santoso", "BUDI"), ("6281200000003", " Sita "), ("me", "Ani")]
    {
        let (status, renamed) = post(&sandbox, "/rename", &json!({"who": who, "name": name})).await;
        assert_eq!((status, &renamed["success"]), (200, &json!(true)), "{who}: {renamed}");
        assert_eq!(renamed["person"]["name"], name.trim(), "{who}");
    }
    let (status, said) = post(&sandbox, "/say", &json!({"from": "Sita", "to": "Budi", "text": "Halo"})).await;
    assert_eq!(status, 200, "{said}");
    inbox_once(&sandbox, "Budi", |inbox| !inbox.is_empty() && all_read(inbox)).await;
    assert_eq!(call(&sandbox, Method::GET, "/inbox/Siti", "").await.0, 404, "nobody is called so any more");
    let people = get(&sandbox, "/people").await;
    let names: Vec<_> = people["people"].as_array().unwrap().iter().map(|person| person["name"].clone()).collect();
    assert_eq!(names, ["BUDI", "Sita", "Agus"]);
    let own = |sandbox: &Sandbox| sandbox.emulator().account("6281200000001").unwrap().name;
    assert_eq!(own(&sandbox), "Ani");
    sandbox.shutdown().await.unwrap();

    let sandbox = common::sandbox(Some(folder.path())).await;
    assert_eq!((get(&sandbox, "/people").await, own(&sandbox)), (people, "Ani".to_owned()));
    assert_eq!(get(&sandbox, "/inbox/budi").await["messages"][0]["text"], "Halo");
    sandbox.shutdown().await.unwrap();
}
