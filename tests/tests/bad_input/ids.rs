//! Ids that do not exist, and places in the journal that are not there yet.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reqwest::{Method, StatusCode};
use serde_json::json;
use waya_tests::{BUDI, World, answer};

use crate::{assert_nothing_queued, refused, send, waya};

#[tokio::test]
async fn ids_that_do_not_exist_are_not_found() -> Result<()> {
    let world = World::start()?;
    for id in
        ["01980000-0000-7000-8000-000000000000", "3EB0C431C26A1916E07A", "order-7", "%E2%9C%93", "..%2F..%2Fapi-key"]
    {
        for (method, path, body) in [
            (Method::GET, "/api/message-status/{}", None),
            (Method::GET, "/api/message-status/{}?wait=read&timeout=1", None),
            (Method::GET, "/api/queue/{}", None),
            (Method::DELETE, "/api/queue/{}", None),
            (Method::GET, "/api/messages/{}/media", None),
            (Method::DELETE, "/api/messages/{}", None),
            (Method::PATCH, "/api/messages/{}", Some(json!({"message": "lain"}))),
            (Method::PUT, "/api/messages/{}/reaction", Some(json!({"emoji": "👍"}))),
            (Method::DELETE, "/api/messages/{}/reaction", None),
            (Method::POST, "/api/messages/{}/forward", Some(json!({"number": BUDI}))),
            (Method::GET, "/api/requests/{}", None),
        ] {
            let path = path.replace("{}", id);
            let request = world.api.request(method.clone(), &path);
            let request = if let Some(body) = body { request.json(&body) } else { request };
            let answer = answer(request).await?;
            assert_eq!(answer.0, StatusCode::NOT_FOUND, "{method} {path}: {}", answer.1);
            refused(&answer, 404, "not_found", None);
        }
    }
    let quotes = send(&world, json!({"number": BUDI, "message": "Halo", "quoted": "3EB0NONE"})).await?;
    refused(&quotes, 422, "invalid_field", Some("quoted"));
    let reacts = json!({"number": BUDI, "reaction": {"messageId": "3EB0NONE", "emoji": "👍"}});
    refused(&send(&world, reacts).await?, 422, "invalid_field", Some("reaction.messageId"));
    assert_nothing_queued(&world).await?;
    for arguments in [
        &["message", "3EB0NONE"][..],
        &["message", "media", "3EB0NONE"],
        &["message", "forward", "3EB0NONE", BUDI],
        &["queue", "cancel", "3EB0NONE"],
        &["queue", "retry", "3EB0NONE"],
        &["queue", "show", "3EB0NONE"],
        &["react", "3EB0NONE", "👍"],
        &["edit", "3EB0NONE", "lain"],
        &["revoke", "3EB0NONE"],
    ] {
        let (code, words) = waya(&world, arguments)?;
        assert!(
            code == 4 && words.starts_with("error: ") && words.contains("3EB0NONE"),
            "{arguments:?}: {code} {words}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_cursor_from_the_future_is_refused() -> Result<()> {
    let world = World::start()?;
    let (_, page) = world.api.get("/api/events?limit=1000").await?;
    let newest = page["next"].as_str().context("no cursor")?;
    let future = format!("c{:x}", u64::from_str_radix(newest.trim_start_matches('c'), 16)? + 1_000);
    for (path, words) in [
        (format!("/api/events?after={future}"), "is ahead of this journal"),
        (format!("/api/events?after={future}&wait=20"), "is ahead of this journal"),
        (format!("/api/events?after={future}&stream=1"), "is ahead of this journal"),
        ("/api/events?after=cffffffffffffffff".to_owned(), "is ahead of this journal"),
        ("/api/events?after=c10000000000000000".to_owned(), "is not a cursor"),
        ("/api/events?after=yesterday".to_owned(), "is not a cursor"),
        ("/api/events?after=-1".to_owned(), "is not a cursor"),
    ] {
        let begun = Instant::now();
        let words_said = refused(&world.api.get(&path).await?, 422, "invalid_field", Some("after"));
        assert!(words_said.contains(words), "{path}: {words_said}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{path} was waited for");
    }
    let resumes = world.api.request(Method::GET, "/api/events?stream=1").header("Last-Event-ID", &future);
    refused(&answer(resumes).await?, 422, "invalid_field", Some("after"));
    for follow in [&["events", "--after", &future][..], &["events", "--after", &future, "--follow"]] {
        let (code, words) = waya(&world, follow)?;
        assert!(code == 4 && words.contains("is ahead of this journal"), "{code}: {words}");
    }
    Ok(())
}
