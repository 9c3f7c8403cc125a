//! `waya requests`.

use std::io;

use clap::{Args, Subcommand};
use waya_proto::v1::requests_service_client::RequestsServiceClient;
use waya_proto::v1::{
    ClearRequestsRequest, GetRequestRequest, GetRequestResponse, ListRequestsRequest, LoggedRequest, RequestSide,
};

use super::{Context, call};
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Cell, Colour, Output, printable};

/// What can be done with the log of HTTP requests.
#[derive(Debug, Subcommand)]
pub enum RequestsCommand {
    /// Show the newest requests
    List(ListArgs),
    /// Show one request with its headers and bodies
    Show {
        /// Its id, its X-Request-Id, or the id of a message that it queued
        id: String,
    },
    /// Forget them all
    Clear,
}

/// What `requests list` takes.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only older than this one
    #[arg(long, value_name = "ID")]
    before: Option<String>,
}

pub async fn run(command: RequestsCommand, context: &mut Context) -> Result<ExitCode, CliError> {
    let mut daemon = RequestsServiceClient::new(context.daemon().await?).max_decoding_message_size(MAX_ANSWER);
    let output = &mut context.output;
    match command {
        RequestsCommand::List(ListArgs { limit, before }) => {
            let list = daemon.list(call(ListRequestsRequest { before, limit })).await?.into_inner();
            if output.json {
                output.json(&json::requests::Requests::from(list))?;
            } else {
                table(&list.requests, output)?;
                if let Some(next) = list.next {
                    output.note(format!("for older ones add --before {next}"))?;
                }
            }
        }
        RequestsCommand::Show { id } => {
            let row = daemon.get(call(GetRequestRequest { id })).await?.into_inner();
            if output.json {
                output.json(&json::requests::Row::from(row))?;
            } else {
                show(row, output)?;
            }
        }
        RequestsCommand::Clear => {
            let answer = daemon.clear(call(ClearRequestsRequest {})).await?.into_inner();
            if output.json {
                output.json(&json::requests::Cleared::from(answer))?;
            } else {
                output.note(format!("{} requests are forgotten", answer.cleared))?;
            }
        }
    }
    Ok(ExitCode::Done)
}

fn table(rows: &[LoggedRequest], output: &mut Output) -> io::Result<()> {
    let rows: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            let key = row.key.as_deref().unwrap_or("-");
            vec![
                (&row.id).into(),
                output.time(row.at).into(),
                status(row),
                (&row.method).into(),
                (&row.url).into(),
                format!("{} ms", row.duration_ms).into(),
                (&row.ip).into(),
                key.into(),
            ]
        })
        .collect();
    output.table(&["ID", "AT", "STATUS", "METHOD", "URL", "TOOK", "FROM", "KEY"], &rows)
}

fn status(row: &LoggedRequest) -> Cell {
    match row.status {
        None => Cell::coloured("-", Colour::Grey),
        Some(status) if status < 400 => Cell::coloured(status, Colour::Green),
        Some(status) if status < 500 => Cell::coloured(status, Colour::Yellow),
        Some(status) => Cell::coloured(status, Colour::Red),
    }
}

fn show(row: GetRequestResponse, output: &mut Output) -> io::Result<()> {
    let summary = row.summary.unwrap_or_default();
    output.pairs(vec![
        ("id", (&summary.id).into()),
        ("request id", (&summary.request_id).into()),
        ("at", output.time(summary.at).into()),
        ("status", status(&summary)),
        ("took", format!("{} ms", summary.duration_ms).into()),
        ("from", (&summary.ip).into()),
        ("key", summary.key.as_deref().unwrap_or("-").into()),
    ])?;
    output.line("")?;
    output.line(printable(&format!("{} {}", summary.method, summary.url)))?;
    side(row.request.unwrap_or_default(), output)?;
    output.line("")?;
    output.line(
        summary.status.map_or_else(|| "no answer: the caller went away".to_owned(), |status| status.to_string()),
    )?;
    side(row.response.unwrap_or_default(), output)
}

fn side(side: RequestSide, output: &mut Output) -> io::Result<()> {
    let mut headers: Vec<_> = side.headers.into_iter().collect();
    headers.sort();
    for (name, value) in headers {
        output.line(printable(&format!("{name}: {value}")))?;
    }
    if let Some(body) = side.body {
        output.line("")?;
        for line in body.lines() {
            output.line(printable(line))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn a_request_is_shown_as_it_was() {
        let summary = LoggedRequest {
            id: "17".to_owned(),
            request_id: "order-7".to_owned(),
            at: 1_700_000_000_000,
            method: "POST".to_owned(),
            url: "/api/send-message?x=\u{1b}".to_owned(),
            status: Some(202),
            duration_ms: 3,
            ip: "127.0.0.1".to_owned(),
            key: Some("shop".to_owned()),
        };
        let sides = |headers: &[(&str, &str)], body: Option<&str>| RequestSide {
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: body.map(str::to_owned),
            size: 0,
        };
        let (mut output, written) = testing::output(false);
        let gone = LoggedRequest { id: "16".to_owned(), status: None, key: None, ..summary.clone() };
        table(&[summary.clone(), gone], &mut output).unwrap();
        let row = GetRequestResponse {
            summary: Some(summary),
            request: Some(sides(&[("x-api-key", "***"), ("accept", "*/*")], Some("{\"number\":\"628\"}"))),
            response: Some(sides(&[], None)),
        };
        show(row, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r#"
        ID  AT                   STATUS  METHOD  URL                         TOOK  FROM       KEY
        17  2023-11-14 22:13:20  202     POST    /api/send-message?x=\u{1b}  3 ms  127.0.0.1  shop
        16  2023-11-14 22:13:20  -       POST    /api/send-message?x=\u{1b}  3 ms  127.0.0.1  -
        id          17
        request id  order-7
        at          2023-11-14 22:13:20
        status      202
        took        3 ms
        from        127.0.0.1
        key         shop

        POST /api/send-message?x=\u{1b}
        accept: */*
        x-api-key: ***

        {"number":"628"}

        202
        "#);
    }
}
