//! Bad input as callers of the real daemon send it: each refused in words that help, with nothing queued and nobody else
//! held up. `http.rs` has what is wrong with JSON and keys, `waya-daemon/src/http/tests/inside.rs` files from addresses
//! that lead inside by names.

#![expect(clippy::print_stdout, reason = "the figures are for who reads the output")]

mod bodies;
mod files;
mod ids;
mod recipients;

use anyhow::{Result, ensure};
use reqwest::multipart::Form;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use waya_tests::{World, answer};

const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
/// A group that nobody is in.
const NO_GROUP: &str = "120363000000000000@g.us";
/// What a body of too many bytes has.
const TOO_MANY: usize = 200 << 20;

type Answer = (StatusCode, Value);

async fn send(world: &World, body: Value) -> Result<Answer> {
    world.api.post("/api/send-message", &body).await
}

async fn send_form(world: &World, form: Form) -> Result<Answer> {
    answer(world.api.request(Method::POST, "/api/send-message").multipart(form)).await
}

/// The refusal's words, when status, code and field are these.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, field: Option<&str>) -> String {
    let (got, body) = answer;
    let seen = (got.as_u16(), body["code"].as_str(), body["field"].as_str(), body["success"].as_bool());
    assert_eq!(seen, (status, Some(code), field, Some(false)), "{body}");
    let words = body["error"].as_str().unwrap_or_default().to_owned();
    assert!(words.len() > 10, "{body}");
    words
}

async fn assert_nothing_queued(world: &World) -> Result<()> {
    let (_, queue) = world.api.get("/api/queue").await?;
    ensure!(queue["messages"] == json!([]), "{queue}");
    Ok(())
}

/// Of `waya`: its exit code and what it says.
fn waya(world: &World, arguments: &[&str]) -> Result<(i32, String)> {
    let output = world.waya(arguments)?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned()))
}
