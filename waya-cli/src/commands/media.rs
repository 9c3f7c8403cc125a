//! `waya message media`: a message's file, to a file or to standard output.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use tonic::Request;
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::{MediaInfo, MediaRequest, media_response::Part};

use super::Context;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::output::printable;

/// What `message media` takes.
#[derive(Debug, Args)]
pub struct MediaArgs {
    /// The message: id, reference, or WhatsApp's id
    id: String,
    /// Where to write it; `-` for standard output; without, its own name in this folder
    file: Option<PathBuf>,
}

pub async fn run(args: MediaArgs, context: &mut Context) -> Result<ExitCode, CliError> {
    let mut daemon = QueueServiceClient::new(context.daemon().await?);
    let mut parts = daemon.media(Request::new(MediaRequest { id: args.id })).await?.into_inner();
    let Some(Part::Info(info)) = parts.message().await?.and_then(|answer| answer.part) else {
        return Err(CliError::new(ExitCode::Unexpected, "the daemon did not say what the file is", "update waya"));
    };
    let to_stdout = args.file.as_ref().is_some_and(|file| file.as_os_str() == "-");
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(CliError::usage("a file does not belong on a terminal", "give a file name, or pipe it"));
    }
    let path = args.file.unwrap_or_else(|| PathBuf::from(own_name(&info)));
    let mut file: Box<dyn std::io::Write> = if to_stdout {
        Box::new(std::io::stdout().lock())
    } else {
        let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
        Box::new(made.map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            CliError::new(ExitCode::Refused, message, "give another file name")
        })?)
    };
    while let Some(answer) = parts.message().await? {
        if let Some(Part::Content(content)) = answer.part {
            file.write_all(&content)?;
        }
    }
    file.flush()?;
    drop(file);
    if !to_stdout {
        let path = path.display().to_string();
        let output = &mut context.output;
        if output.json {
            output.json(&serde_json::json!({
                "file": path, "mimetype": info.mimetype, "filename": info.filename, "size": info.size,
            }))?;
        } else {
            output.note(format!("{} ({}, {} bytes)", printable(&path), printable(&info.mimetype), info.size))?;
        }
    }
    Ok(ExitCode::Done)
}

/// The name its sender gave it, without folders: what others send must not choose where it goes.
fn own_name(info: &MediaInfo) -> String {
    let name = info.filename.as_deref().and_then(|name| name.rsplit(['/', '\\']).next()).unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    match name.trim_start_matches('.').trim() {
        "" => {
            let subtype = info.mimetype.split(';').next().and_then(|kind| kind.split('/').nth(1)).unwrap_or("bin");
            format!("media.{}", subtype.replace(|c: char| !c.is_ascii_alphanumeric(), ""))
        }
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_does_not_choose_the_folder() {
        let named = |filename: Option<&str>, mimetype: &str| {
            own_name(&MediaInfo { mimetype: mimetype.to_owned(), filename: filename.map(str::to_owned), size: 1 })
        };
        assert_eq!(named(Some("../../.bashrc"), "text/plain"), "bashrc");
        assert_eq!(named(Some(r"C:\x\nota.pdf"), "application/pdf"), "nota.pdf");
        assert_eq!(named(None, "image/jpeg"), "media.jpeg");
        assert_eq!(named(Some(".."), "audio/ogg; codecs=opus"), "media.ogg");
    }
}
