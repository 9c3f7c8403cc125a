//! `waya sandbox`: plays the other side on a waya-sandbox daemon; a plain one refuses.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use waya_proto::v1::sandbox_service_client::SandboxServiceClient;
use waya_proto::v1::{
    ActiveFault, AutoReadRequest, ClockRequest, FaultRequest, FaultResponse, InboxRequest, InboxResponse,
    OnlineRequest, PeopleRequest, PeopleResponse, PersonRequest, PersonResponse, PhoneRequest, SayMedia, SayRequest,
    StatsRequest,
};

use super::{Context, call, text};
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Cell, Output, printable};

/// What can be done with the other side. WHO is a number or a name.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Show the simulated people and groups
    People,
    /// Let a person write to you, or in a group
    Say(SayArgs),
    /// Show what a person's own client decrypted
    Inbox(Who),
    /// Let a person read everything
    Read(Who),
    /// Let a person read at once, or not
    Autoread {
        /// A number or a name
        who: String,
        /// on or off
        switch: Switch,
    },
    /// Take a person's phone offline
    Offline(Who),
    /// Bring a person's phone back
    Online(Who),
    /// Make something go wrong: `ack-delay 200`, `nack 463`, `cut` …; `list` shows what does and what can, `off` ends it
    Fault(FaultArgs),
    /// Show the clock of emulator and daemon, or move it: `set 2027-01-01T07:00:00+07:00`, `set now`, `advance 1h30m`
    Clock {
        #[command(subcommand)]
        turn: Option<Turn>,
    },
    /// Show the emulator's counters
    Stats,
    /// Take somebody's phone offline or online: your own account's unless you name somebody
    Phone {
        /// offline or online
        link: Link,
        /// A number or a name
        who: Option<String>,
    },
}

/// What `sandbox say` takes.
#[derive(Debug, Args)]
pub struct SayArgs {
    /// A number or a name
    who: String,
    /// The text; `-`, or none with a pipe, reads standard input
    #[arg(value_name = "TEXT|-")]
    text: Option<String>,
    #[arg(hide = true)]
    rest: Vec<String>,
    /// In this group: its id or its subject
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// A file to send; the text is its caption, and may be left out
    #[arg(long, value_name = "FILE")]
    media: Option<PathBuf>,
    /// What the file is [default: by its name]
    #[arg(long, value_name = "TYPE", requires = "media")]
    mimetype: Option<String>,
    /// The file is a voice note
    #[arg(long, requires = "media")]
    voice: bool,
    /// Answers this message of the person's inbox
    #[arg(long, value_name = "ID", conflicts_with = "group")]
    quoted: Option<String>,
    /// Reacts to this message of the person's inbox; the text is the emoji, an empty one takes the reaction back
    #[arg(long, value_name = "ID", conflicts_with_all = ["group", "media", "quoted"])]
    react: Option<String>,
}

/// Which person.
#[derive(Debug, Args)]
pub struct Who {
    /// A number or a name
    who: String,
}

/// What `sandbox fault` takes.
#[derive(Debug, Args)]
pub struct FaultArgs {
    /// Which fault
    kind: String,
    /// Its numbers
    #[arg(allow_negative_numbers = true)]
    args: Vec<String>,
    /// Only for this person: a number, a name, or `me`; with `:N` only for their linked device N [default: everybody]
    #[arg(long = "for", value_name = "WHO")]
    who: Option<String>,
    /// Ends after it struck so many times
    #[arg(long, value_name = "N")]
    times: Option<u32>,
    /// Ends after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

/// How `sandbox clock` moves it.
#[derive(Debug, Subcommand)]
pub enum Turn {
    /// To a time, or `now`: to the machine's own
    Set {
        /// RFC 3339, or now
        time: String,
    },
    /// By so much
    Advance {
        /// Seconds, or 90s, 1h30m, 2d; with a minus back
        #[arg(allow_hyphen_values = true)]
        by: String,
    },
}

fn turned(turn: Option<Turn>) -> ClockRequest {
    match turn {
        None => ClockRequest::default(),
        Some(Turn::Set { time }) => ClockRequest { set: Some(time), advance: None },
        Some(Turn::Advance { by }) => ClockRequest { set: None, advance: Some(by) },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Link {
    Offline,
    Online,
}

pub async fn run(command: SandboxCommand, context: &mut Context) -> Result<ExitCode, CliError> {
    let command = match command {
        SandboxCommand::Say(args) => SandboxCommand::Say(args.checked()?),
        other => other,
    };
    let mut daemon = SandboxServiceClient::new(context.daemon().await?).max_decoding_message_size(MAX_ANSWER);
    let output = &mut context.output;
    match command {
        SandboxCommand::People => {
            let answer = daemon.people(call(PeopleRequest {})).await?.into_inner();
            if output.json { output.json(&json::sandbox::People::from(answer))? } else { people(&answer, output)? }
        }
        SandboxCommand::Say(args) => {
            let answer = daemon.say(call(args.request()?)).await?.into_inner();
            if output.json {
                output.json(&json::sandbox::Said::from(answer))?;
            } else {
                output.note(format!("said as {}", printable(&answer.id)))?;
            }
        }
        SandboxCommand::Inbox(Who { who }) => {
            let answer = daemon.inbox(call(InboxRequest { who })).await?.into_inner();
            if output.json { output.json(&json::sandbox::Inbox::from(answer))? } else { inbox(&answer, output)? }
        }
        SandboxCommand::Read(Who { who }) => {
            let answer = daemon.read(call(PersonRequest { who })).await?.into_inner();
            changed(answer, (None, None), "has read everything", output)?;
        }
        SandboxCommand::Autoread { who, switch } => {
            let on = switch == Switch::On;
            let answer = daemon.auto_read(call(AutoReadRequest { who, on })).await?.into_inner();
            let what = if on { "reads at once" } else { "reads when told to" };
            changed(answer, (Some(on), None), what, output)?;
        }
        SandboxCommand::Offline(Who { who }) => {
            let answer = daemon.online(call(OnlineRequest { who, online: false })).await?.into_inner();
            changed(answer, (None, Some(false)), "is offline", output)?;
        }
        SandboxCommand::Online(Who { who }) => {
            let answer = daemon.online(call(OnlineRequest { who, online: true })).await?.into_inner();
            changed(answer, (None, Some(true)), "is online", output)?;
        }
        SandboxCommand::Fault(FaultArgs { kind, args, who, times, seconds }) => {
            let request = FaultRequest { kind, arguments: args, who, times, seconds };
            let answer = daemon.fault(call(request)).await?.into_inner();
            if output.json { output.json(&json::sandbox::FaultState::from(answer))? } else { faults(&answer, output)? }
        }
        SandboxCommand::Clock { turn } => {
            let answer = daemon.clock(call(turned(turn))).await?.into_inner();
            if output.json {
                output.json(&json::sandbox::Clock::from(answer))?;
            } else {
                output.line(printable(&answer.time))?;
            }
        }
        SandboxCommand::Stats => {
            let answer = daemon.stats(call(StatsRequest {})).await?.into_inner();
            // JSON in either dress: its shape is the emulator's.
            output.line(answer.json)?;
        }
        SandboxCommand::Phone { link, who } => {
            let online = link == Link::Online;
            daemon.phone(call(PhoneRequest { online, who })).await?;
            if output.json {
                output.json(&json::sandbox::Phone::new(online))?;
            } else {
                output.note(if online { "the phone is online" } else { "the phone is offline" })?;
            }
        }
    }
    Ok(ExitCode::Done)
}

impl SayArgs {
    /// With its text, from wherever it comes.
    fn checked(mut self) -> Result<Self, CliError> {
        text::no_stray(&self.rest, &format!("waya sandbox say {}", printable(&self.who)), self.text.as_deref())?;
        if self.text.is_some() || self.media.is_none() {
            self.text = Some(text::resolve(self.text.take())?);
        }
        Ok(self)
    }

    fn request(self) -> Result<SayRequest, CliError> {
        let media = self.media.map(|path| media(&path, self.mimetype, self.voice)).transpose()?;
        let Self { who, text, group, quoted, react, .. } = self;
        Ok(SayRequest { who, text: text.unwrap_or_default(), group, media, quoted, react })
    }
}

fn media(path: &Path, mimetype: Option<String>, voice: bool) -> Result<SayMedia, CliError> {
    let content = std::fs::read(path).map_err(|error| {
        let message = format!("cannot read {}: {error}", printable(&path.to_string_lossy()));
        CliError::usage(message, "give the path of a file")
    })?;
    let filename = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let known = path.extension().and_then(|extension| mimetype_of(&extension.to_string_lossy().to_lowercase()));
    Ok(SayMedia { content, mimetype: mimetype.or(known.map(str::to_owned)), filename, voice })
}

/// The usual ones; everything else is a document, whatever it is called.
fn mimetype_of(extension: &str) -> Option<&'static str> {
    Some(match extension {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "mp4" => "video/mp4",
        "3gp" => "video/3gpp",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "ogg" | "opus" => "audio/ogg; codecs=opus",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        _ => return None,
    })
}

fn people(answer: &PeopleResponse, output: &mut Output) -> io::Result<()> {
    let rows: Vec<Vec<Cell>> = answer
        .people
        .iter()
        .map(|person| vec![(&person.name).into(), (&person.number).into(), (&person.lid).into()])
        .collect();
    output.table(&["NAME", "NUMBER", "LID"], &rows)?;
    if answer.groups.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = answer
        .groups
        .iter()
        .map(|group| vec![(&group.subject).into(), (&group.id).into(), group.members.join(", ").into()])
        .collect();
    output.line("")?;
    output.table(&["GROUP", "ID", "MEMBERS"], &rows)
}

fn faults(answer: &FaultResponse, output: &mut Output) -> io::Result<()> {
    answer.active.iter().try_for_each(|active| output.line(printable(&shown(active))))?;
    if answer.kinds.is_empty() {
        return if answer.active.is_empty() { output.note("done; no fault stays on") } else { Ok(()) };
    }
    if answer.active.is_empty() {
        output.note("no fault is on")?;
    }
    output.line("")?;
    let rows: Vec<Vec<Cell>> =
        answer.kinds.iter().map(|kind| vec![(&kind.fault).into(), (&kind.does).into()]).collect();
    output.table(&["FAULT", "WHAT IT DOES"], &rows)
}

/// `ack-delay 200 for 628…, 3 times more, 20 s more`.
fn shown(active: &ActiveFault) -> String {
    let target = if active.target == "all" { String::new() } else { format!(" for {}", active.target) };
    let times = active.times_left.map(|times| format!(", {times} times more")).unwrap_or_default();
    let seconds = active.seconds_left.map(|seconds| format!(", {seconds} s more")).unwrap_or_default();
    format!("{}{target}{times}{seconds}", active.fault)
}

fn inbox(answer: &InboxResponse, output: &mut Output) -> io::Result<()> {
    if answer.messages.is_empty() {
        return output.note("nothing was received");
    }
    let rows: Vec<Vec<Cell>> = answer
        .messages
        .iter()
        .map(|message| {
            vec![
                output.time(message.ts).into(),
                (&message.from).into(),
                (&message.chat).into(),
                (&message.kind).into(),
                message.copies.into(),
                message.receipts.join("+").into(),
                message.text.as_ref().or(message.caption.as_ref()).map_or("", String::as_str).into(),
            ]
        })
        .collect();
    output.table(&["WHEN", "FROM", "CHAT", "KIND", "COPIES", "RECEIPTS", "TEXT"], &rows)
}

fn changed(
    answer: PersonResponse,
    (autoread, online): (Option<bool>, Option<bool>),
    what: &str,
    output: &mut Output,
) -> io::Result<()> {
    if output.json {
        return output.json(&json::sandbox::Changed::new(answer, autoread, online));
    }
    let person = answer.person.unwrap_or_default();
    output.note(format!("{} ({}) {what}", printable(&person.name), printable(&person.number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use crate::commands::Command;
    use crate::output::testing;
    use clap::Parser as _;
    use waya_proto::v1::{InboxMessage, Person, SandboxGroup};

    #[test]
    fn people_and_their_group() {
        let person = |name: &str, number: &str| Person {
            name: name.to_owned(),
            number: number.to_owned(),
            lid: "1000001@lid".to_owned(),
        };
        let group = SandboxGroup {
            id: "1203@g.us".to_owned(),
            subject: "Keluarga".to_owned(),
            members: vec!["6281200000001".to_owned(), "6281200000002".to_owned()],
        };
        let answer = PeopleResponse {
            people: vec![person("Budi", "6281200000002"), person("Siti", "6281200000003")],
            groups: vec![group],
        };
        let (mut output, written) = testing::output(false);
        people(&answer, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        NAME  NUMBER         LID
        Budi  6281200000002  1000001@lid
        Siti  6281200000003  1000001@lid

        GROUP     ID         MEMBERS
        Keluarga  1203@g.us  6281200000001, 6281200000002
        ");
    }

    #[test]
    fn an_inbox_shows_text_and_caption() {
        let message = InboxMessage {
            from: "628@c.us".to_owned(),
            chat: "628@c.us".to_owned(),
            kind: "text".to_owned(),
            text: Some("Halo".to_owned()),
            ts: 1_700_000_000_000,
            copies: 1,
            receipts: vec!["delivered".to_owned(), "read".to_owned()],
            ..InboxMessage::default()
        };
        let image = InboxMessage {
            kind: "image".to_owned(),
            text: None,
            caption: Some("lihat".to_owned()),
            receipts: vec![],
            ..message.clone()
        };
        let (mut output, written) = testing::output(false);
        inbox(&InboxResponse { messages: vec![message, image] }, &mut output).unwrap();
        insta::assert_snapshot!(written.text(), @r"
        WHEN                 FROM      CHAT      KIND   COPIES  RECEIPTS        TEXT
        2023-11-14 22:13:20  628@c.us  628@c.us  text   1       delivered+read  Halo
        2023-11-14 22:13:20  628@c.us  628@c.us  image  1                       lihat
        ");
    }

    #[test]
    fn a_fault_takes_words_and_a_person() {
        let line = ["waya", "sandbox", "fault", "ack-delay", "200", "--for", "me"];
        let Command::Sandbox(SandboxCommand::Fault(args)) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("not a fault")
        };
        assert_eq!(
            (args.kind.as_str(), args.args, args.who.as_deref()),
            ("ack-delay", vec!["200".to_owned()], Some("me"))
        );
    }
}
