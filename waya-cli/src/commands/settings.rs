//! `waya settings`.

use std::io;

use clap::{Args, Subcommand};
use waya_proto::v1::settings_service_client::SettingsServiceClient;
use waya_proto::v1::{GetSettingRequest, ListSettingsRequest, SetSettingRequest, Setting};

use super::api_key::{self, ApiKeyCommand};
use super::{Context, call};
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Cell, Colour, Output, printable};

/// What can be done with settings.
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Show all settings
    List,
    /// Print a setting's value
    Get {
        /// Such as `queue.delay`
        key: String,
    },
    /// Change a setting
    Set(SetArgs),
    /// The keys of the HTTP API
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
}

/// What `settings set` takes.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Such as `queue.delay`
    key: String,
    /// The new value; lists with commas between
    #[arg(required_unless_present = "default", conflicts_with = "default")]
    value: Option<String>,
    /// Go back to the default
    #[arg(long)]
    default: bool,
}

pub async fn run(command: SettingsCommand, context: &mut Context) -> Result<ExitCode, CliError> {
    let mut daemon = SettingsServiceClient::new(context.daemon().await?);
    let output = &mut context.output;
    match command {
        SettingsCommand::List => {
            let list = daemon.list(call(ListSettingsRequest {})).await?.into_inner();
            if output.json {
                output.json(&json::settings::Settings::from(list))?;
            } else {
                show(&list.settings, output)?;
            }
        }
        SettingsCommand::Get { key } => {
            let setting = daemon.get(call(GetSettingRequest { key })).await?.into_inner().setting.unwrap_or_default();
            if output.json {
                output.json(&json::settings::Setting::from(setting))?;
            } else {
                output.line(printable(&setting.value))?;
            }
        }
        SettingsCommand::Set(SetArgs { key, value, .. }) => {
            let answer = daemon.set(call(SetSettingRequest { key, value })).await?.into_inner();
            let setting = answer.setting.unwrap_or_default();
            if output.json {
                output.json(&json::settings::Setting::from(setting))?;
            } else {
                output.note(format!("{} = {}", setting.key, printable(&setting.value)))?;
            }
        }
        SettingsCommand::ApiKey(command) => api_key::run(command, daemon, output).await?,
    }
    Ok(ExitCode::Done)
}

fn show(settings: &[Setting], output: &mut Output) -> io::Result<()> {
    let rows: Vec<Vec<Cell>> = settings
        .iter()
        .map(|setting| {
            let origin = match setting.origin.as_str() {
                "default" => Cell::coloured("default", Colour::Grey),
                origin if setting.pinned => Cell::coloured(format!("{origin} (pinned)"), Colour::Yellow),
                origin => origin.into(),
            };
            vec![(&setting.key).into(), (&setting.value).into(), origin, (&setting.description).into()]
        })
        .collect();
    output.table(&["KEY", "VALUE", "ORIGIN", "DESCRIPTION"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use crate::output::testing;
    use clap::Parser as _;

    #[test]
    fn a_pinned_setting_shows() {
        let setting = |key: &str, origin: &str, pinned| Setting {
            key: key.to_owned(),
            value: "5s".to_owned(),
            origin: origin.to_owned(),
            description: "how long".to_owned(),
            pinned,
            ..Setting::default()
        };
        let (mut output, written) = testing::output(false);
        let settings = [setting("queue.delay", "default", false), setting("queue.jitter", "/etc/w.toml:3", true)];
        show(&settings, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        KEY           VALUE  ORIGIN                  DESCRIPTION
        queue.delay   5s     default                 how long
        queue.jitter  5s     /etc/w.toml:3 (pinned)  how long
        ");
    }

    #[test]
    fn setting_needs_a_value_or_the_default() {
        assert!(Arguments::try_parse_from(["waya", "settings", "set", "queue.delay", "1s"]).is_ok());
        assert!(Arguments::try_parse_from(["waya", "settings", "set", "queue.delay", "--default"]).is_ok());
        for wrong in [&["queue.delay"][..], &["queue.delay", "1s", "--default"]] {
            let line = ["waya", "settings", "set"].iter().chain(wrong);
            assert_eq!(Arguments::try_parse_from(line).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
