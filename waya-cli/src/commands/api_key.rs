//! `waya settings api-key`.

use std::io;

use clap::{Args, Subcommand, ValueEnum};
use tonic::transport::Channel;
use waya_proto::v1::settings_service_client::SettingsServiceClient;
use waya_proto::v1::{ApiKey, CreateApiKeyRequest, ListApiKeysRequest, RevokeApiKeyRequest, RotateApiKeyRequest};

use super::call;
use crate::error::CliError;
use crate::json;
use crate::output::{Cell, Colour, Output};

/// What can be done with the API keys.
#[derive(Debug, Subcommand)]
pub enum ApiKeyCommand {
    /// Show all keys: their names, what they may do, since when
    List,
    /// Make a key and print it; nobody can ask for it afterwards
    Create(CreateArgs),
    /// Take a key back; it stops working at once
    Revoke {
        /// The key's name
        name: String,
    },
    /// Make a new default key and print it; the old one stops working at once
    Rotate,
}

/// What `api-key create` takes.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What to call it: letters, digits, dots, dashes, underscores
    name: String,
    /// What it may do, with commas between
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [ScopeWord::Send, ScopeWord::Read])]
    scope: Vec<ScopeWord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScopeWord {
    /// Queue messages, edit them, react to them and take them back, ask what became of one
    Send,
    /// Everything that only looks
    Read,
    /// Everything
    Admin,
}

impl ScopeWord {
    const fn word(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

pub async fn run(
    command: ApiKeyCommand,
    mut daemon: SettingsServiceClient<Channel>,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        ApiKeyCommand::List => {
            let list = daemon.list_api_keys(call(ListApiKeysRequest {})).await?.into_inner();
            if output.json {
                output.json(&json::settings::ApiKeys::from(list))?;
            } else {
                show(&list.keys, output)?;
            }
        }
        ApiKeyCommand::Create(CreateArgs { name, scope }) => {
            let scopes = scope.into_iter().map(|scope| scope.word().to_owned()).collect();
            let made = daemon.create_api_key(call(CreateApiKeyRequest { name, scopes })).await?.into_inner();
            if output.json {
                output.json(&json::settings::MadeApiKey::from(made))?;
            } else {
                output.line(made.api_key)?;
            }
        }
        ApiKeyCommand::Revoke { name } => {
            let answer = daemon.revoke_api_key(call(RevokeApiKeyRequest { name })).await?.into_inner();
            let key = answer.key.unwrap_or_default();
            if output.json {
                output.json(&json::settings::KeyOfApi::from(key))?;
            } else {
                output.note(format!("{} is revoked", key.name))?;
            }
        }
        ApiKeyCommand::Rotate => {
            let answer = daemon.rotate_api_key(call(RotateApiKeyRequest {})).await?.into_inner();
            if output.json {
                output.json(&json::settings::NewApiKey::from(answer))?;
            } else {
                output.line(answer.api_key)?;
            }
        }
    }
    Ok(())
}

fn show(keys: &[ApiKey], output: &mut Output) -> io::Result<()> {
    let rows: Vec<Vec<Cell>> = keys
        .iter()
        .map(|key| {
            let made = key.created_at.map_or_else(|| Cell::coloured("-", Colour::Grey), |at| output.time(at).into());
            vec![(&key.name).into(), key.scopes.join(",").into(), made]
        })
        .collect();
    output.table(&["NAME", "SCOPES", "MADE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use crate::output::testing;
    use clap::Parser as _;

    #[test]
    fn keys_are_listed_without_what_they_are() {
        let key = |name: &str, scopes: &[&str], created_at| ApiKey {
            name: name.to_owned(),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            created_at,
        };
        let (mut output, written) = testing::output(false);
        let keys = [key("default", &["admin"], None), key("shop", &["send", "read"], Some(1_700_000_000_000))];
        show(&keys, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        NAME     SCOPES     MADE
        default  admin      -
        shop     send,read  2023-11-14 22:13:20
        ");
    }

    #[test]
    fn scopes_are_words_with_commas_between() {
        let line = ["waya", "settings", "api-key", "create", "shop"];
        assert!(Arguments::try_parse_from(line).is_ok());
        assert!(Arguments::try_parse_from(line.iter().chain(&["--scope", "send,read"])).is_ok());
        let wrong = Arguments::try_parse_from(line.iter().chain(&["--scope", "all"])).unwrap_err();
        assert_eq!(wrong.exit_code(), 2);
    }
}
