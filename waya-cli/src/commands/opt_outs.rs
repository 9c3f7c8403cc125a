//! `waya opt-outs`.

use std::io;

use clap::{Args, Subcommand};
use waya_proto::v1::opt_out_service_client::OptOutServiceClient;
use waya_proto::v1::{AddOptOutRequest, ListOptOutsRequest, OptOut, RemoveOptOutRequest};

use super::{Context, call};
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Cell, Output, printable};

/// What can be done with the do-not-send list.
#[derive(Debug, Subcommand)]
pub enum OptOutsCommand {
    /// Show who is on it, the newest first
    List,
    /// Put people on it; what waits for them fails
    Add(PeopleArgs),
    /// Take people off it
    Remove(PeopleArgs),
}

/// Whom.
#[derive(Debug, Args)]
pub struct PeopleArgs {
    /// Digits with country code, or a chat id
    #[arg(value_name = "NUMBER", required = true)]
    numbers: Vec<String>,
}

pub async fn run(command: OptOutsCommand, context: &mut Context) -> Result<ExitCode, CliError> {
    let mut daemon = OptOutServiceClient::new(context.daemon().await?).max_decoding_message_size(MAX_ANSWER);
    let output = &mut context.output;
    match command {
        OptOutsCommand::List => {
            let list = daemon.list(call(ListOptOutsRequest {})).await?.into_inner();
            if output.json {
                output.json(&json::opt_outs::OptOuts::from(list))?;
            } else {
                table(&list.opt_outs, output)?;
            }
        }
        OptOutsCommand::Add(PeopleArgs { numbers }) => {
            for number in numbers {
                let added = daemon.add(call(AddOptOutRequest { number })).await?.into_inner();
                let added = added.opt_out.unwrap_or_default();
                if output.json {
                    output.json(&json::opt_outs::OptOut::from(added))?;
                } else {
                    output.note(format!("{} gets no more messages", printable(&added.number)))?;
                }
            }
        }
        OptOutsCommand::Remove(PeopleArgs { numbers }) => {
            for number in numbers {
                daemon.remove(call(RemoveOptOutRequest { number: number.clone() })).await?;
                if output.json {
                    output.json(&json::opt_outs::Removed { success: true })?;
                } else {
                    output.note(format!("{} gets messages again", printable(&number)))?;
                }
            }
        }
    }
    Ok(ExitCode::Done)
}

fn table(opt_outs: &[OptOut], output: &mut Output) -> io::Result<()> {
    let row = |one: &OptOut| vec![Cell::from(&one.number), output.time(one.since).into(), (&one.by).into()];
    let rows: Vec<Vec<Cell>> = opt_outs.iter().map(row).collect();
    output.table(&["NUMBER", "SINCE", "BY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn a_list_says_who_and_since_when() {
        let (mut output, written) = testing::output(false);
        let one = OptOut {
            number: "6281200000002".to_owned(),
            chat_id: "6281200000002@c.us".to_owned(),
            since: 1_700_000_000_000,
            by: "person".to_owned(),
        };
        table(&[one], &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        NUMBER         SINCE                BY
        6281200000002  2023-11-14 22:13:20  person
        ");
    }
}
