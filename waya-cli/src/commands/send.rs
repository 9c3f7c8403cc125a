//! `waya send`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tonic::transport::Channel;
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::{self, SendRequest, SendResponse};

use super::wait::{self, WaitFor};
use super::{ANSWER_TIMEOUT, Context, call_within, files, table, text};
use crate::args;
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Output, printable};

/// The daemon gives up on a file after two minutes of fetching, and two of converting.
const A_FILE_TAKES: Duration = Duration::from_secs(250);

/// What `send` takes.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Whom to: digits with country code, a chat id, `main`, or several with commas between; left out with --csv
    #[arg(value_name = "TO", required_unless_present = "csv")]
    to: Option<String>,
    /// The text; `-`, or none with a pipe, reads standard input (less one line end at its end)
    #[arg(value_name = "TEXT|-")]
    text: Option<String>,
    #[arg(hide = true)]
    rest: Vec<String>,
    /// One more recipient
    #[arg(long = "to", value_name = "TO")]
    more: Vec<String>,
    /// One message for each row of a CSV file; TEXT may name its columns as {{column}}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["more", "quoted", "mention", "location", "contact", "poll"])]
    csv: Option<PathBuf>,
    /// Send a file, or what is behind an address; may be given several times
    #[arg(long, value_name = "FILE|URL")]
    media: Vec<String>,
    /// The text that goes with the first file, instead of TEXT
    #[arg(long, value_name = "TEXT", requires = "media", conflicts_with = "text")]
    caption: Option<String>,
    /// The name that recipients see of a document
    #[arg(long, value_name = "NAME", requires = "media")]
    filename: Option<String>,
    /// Send sound as a voice note
    #[arg(long, requires = "media", conflicts_with = "document")]
    voice: bool,
    /// Send the file as a document, whatever it is
    #[arg(long, requires = "media")]
    document: bool,
    /// Answer this message: id, reference, or WhatsApp's id
    #[arg(long = "quote", value_name = "ID")]
    quoted: Option<String>,
    /// Somebody whom the text names with @
    #[arg(long, value_name = "NUMBER")]
    mention: Vec<String>,
    /// Send a place: its latitude and longitude, and behind another comma a name for it
    #[arg(long, value_name = "LAT,LON[,NAME]", allow_hyphen_values = true, value_parser = location, conflicts_with_all = ["media", "contact", "poll"])]
    location: Option<v1::Location>,
    /// Send somebody's card: NUMBER,NAME
    #[arg(long, value_name = "NUMBER,NAME", value_parser = contact, conflicts_with_all = ["media", "poll"])]
    contact: Option<v1::ContactCard>,
    /// Send a poll: TEXT is its question, each --poll one option
    #[arg(long, value_name = "OPTION", conflicts_with = "media")]
    poll: Vec<String>,
    /// How many options one person may choose; 0: any number
    #[arg(long, value_name = "N", requires = "poll", default_value = "1")]
    selectable: u32,
    /// Show no preview of a link in the text
    #[arg(long)]
    no_preview: bool,
    /// An id of your own, to find the message by
    #[arg(long = "ref", value_name = "ID")]
    reference_id: Option<String>,
    /// Not before this time: RFC 3339 (without an offset on this machine's clock), or epoch milliseconds
    #[arg(long, value_name = "TIME", value_parser = args::time)]
    at: Option<i64>,
    /// How urgent it is
    #[arg(long, value_enum, default_value = "normal")]
    priority: Priority,
    /// Queue it once only, however often the same command runs with this key within 24 hours
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until it got this far
    #[arg(long, value_enum)]
    wait: Option<WaitFor>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = args::duration, requires = "wait")]
    timeout: Duration,
    /// Check everything, queue nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Priority {
    High,
    Normal,
    Low,
}

pub async fn run(args: SendArgs, context: &mut Context) -> Result<ExitCode, CliError> {
    let (waiting, wait_timeout, dry_run) = (args.wait, args.timeout, args.dry_run);
    let channel = context.daemon().await?;
    let request = request(args, &channel).await?;
    let mut daemon = QueueServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let timeout = answer_timeout(&request);
    let answer = daemon.send(call_within(request, timeout)).await?.into_inner();
    let Some(target) = waiting else {
        let output = &mut context.output;
        if output.json {
            output.json(&json::queue::SendAnswer::new(answer, dry_run))?;
        } else {
            show(&answer, dry_run, output)?;
        }
        return Ok(ExitCode::Done);
    };
    let output = &mut context.output;
    if !output.json {
        show(&answer, false, output)?;
        output.flush()?;
    }
    let ids = answer.messages.into_iter().map(|accepted| accepted.id).collect();
    let outcome = wait::for_all(channel, ids, target, wait_timeout, output).await?;
    if output.json {
        output.json(&json::queue::WaitedAnswer::new(outcome.messages, answer.duplicates))?;
    }
    outcome.error.map_or(Ok(ExitCode::Done), Err)
}

/// How long the daemon may take over it: it fetches and converts the files before it answers.
fn answer_timeout(request: &SendRequest) -> Duration {
    let files = request.media.len() + request.personal.iter().map(|personal| personal.media.len()).sum::<usize>();
    ANSWER_TIMEOUT + A_FILE_TAKES.saturating_mul(u32::try_from(files).unwrap_or(u32::MAX))
}

/// The request with its files handed over.
async fn request(args: SendArgs, channel: &Channel) -> Result<SendRequest, CliError> {
    let files = args.media.clone();
    let hints = (args.filename.clone(), args.voice, args.document);
    let mut request = bare_request(args)?;
    for written in files {
        let mut input = files::input(channel, &written).await?;
        input.filename = hints.0.clone().or(input.filename);
        (input.voice, input.document) = (hints.1, hints.2);
        request.media.push(input);
    }
    let media = if request.personal.is_empty() { Vec::new() } else { std::mem::take(&mut request.media) };
    for personal in &mut request.personal {
        personal.media.clone_from(&media);
    }
    Ok(request)
}

/// The request but for its files.
fn bare_request(mut args: SendArgs) -> Result<SendRequest, CliError> {
    if args.csv.is_some() && args.text.is_none() {
        // There is no TO beside a table: the first word is the text.
        args.text = args.to.take();
    }
    let to = args.to.take();
    let command = format!("waya send {}", printable(to.as_deref().unwrap_or_default()));
    text::no_stray(&args.rest, &command, args.text.as_deref())?;
    // An empty entry stays: the daemon says what is wrong with it.
    let recipients = to.into_iter().chain(args.more).flat_map(|list| split(&list)).collect();
    let text = match (args.caption, args.text) {
        (Some(caption), _) => caption,
        // What is sent is there without a text; a pipe is not waited for.
        (None, None) if !args.media.is_empty() || args.location.is_some() || args.contact.is_some() => String::new(),
        (None, text) => text::resolve(text)?,
    };
    let personal = args.csv.map_or_else(|| Ok(Vec::new()), |file| table::messages(&file, &text))?;
    let (message, poll) = match (personal.is_empty(), args.poll.is_empty()) {
        (false, _) => (String::new(), None),
        (true, true) => (text, None),
        (true, false) => {
            (String::new(), Some(v1::Poll { question: text, options: args.poll, selectable: args.selectable }))
        }
    };
    let priority = match args.priority {
        Priority::High => v1::Priority::High,
        Priority::Normal => v1::Priority::Normal,
        Priority::Low => v1::Priority::Low,
    };
    Ok(SendRequest {
        recipients,
        message,
        poll,
        personal,
        media: Vec::new(),
        quoted: args.quoted,
        mentions: args.mention,
        location: args.location,
        contact: args.contact,
        no_preview: args.no_preview,
        reference_id: args.reference_id,
        idempotency_key: args.idempotency_key,
        priority: priority.into(),
        scheduled_at: args.at,
        dry_run: args.dry_run,
    })
}

/// `LATITUDE,LONGITUDE[,NAME]`
fn location(text: &str) -> Result<v1::Location, String> {
    let mut parts = text.splitn(3, ',').map(str::trim);
    let mut degrees = || parts.next().and_then(|part| part.parse::<f64>().ok());
    let (Some(latitude), Some(longitude)) = (degrees(), degrees()) else {
        return Err("expected LATITUDE,LONGITUDE[,NAME], e.g. -6.1754,106.8272,Monas".to_owned());
    };
    let name = parts.next().filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(v1::Location { latitude, longitude, name, address: None })
}

/// `NUMBER,NAME`
fn contact(text: &str) -> Result<v1::ContactCard, String> {
    let (number, name) = text.split_once(',').ok_or("expected NUMBER,NAME, e.g. 6281200000002,Budi")?;
    Ok(v1::ContactCard { name: name.trim().to_owned(), number: number.trim().to_owned() })
}

pub(super) fn split(list: &str) -> Vec<String> {
    list.split(',').map(|one| one.trim().to_owned()).collect()
}

pub(super) fn show(answer: &SendResponse, dry_run: bool, output: &mut Output) -> io::Result<()> {
    for accepted in &answer.messages {
        let number = printable(&accepted.number);
        if dry_run {
            output.note(format!("would be queued for {number}"))?;
        } else {
            output.note(format!("queued for {number} as {}, position {}", accepted.id, accepted.position))?;
        }
    }
    if !answer.duplicates.is_empty() {
        output.note(format!("named twice and left out: {}", printable(&answer.duplicates.join(", "))))?;
    }
    if let Some(fits) = &answer.fits {
        output.note(fit(fits, output))?;
    }
    Ok(())
}

/// When those of a dry run would leave.
fn fit(fits: &v1::Fits, output: &Output) -> String {
    let mut parts = vec![format!("{} would leave today", fits.today)];
    if fits.later > 0 {
        parts.push(format!("{} on later days", fits.later));
    }
    if fits.cold_contact > 0 {
        parts.push(format!("{} once WhatsApp lets this account write to strangers again", fits.cold_contact));
    }
    let last = fits.last_leaves_at.map_or_else(String::new, |at| format!("; the last one at {}", output.time(at)));
    format!("{}{last}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use crate::commands::Command;
    use crate::output::testing;
    use clap::Parser as _;

    fn parsed(line: &[&str]) -> SendArgs {
        match Arguments::try_parse_from(["waya", "send"].iter().chain(line)).unwrap().command {
            Command::Send(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_becomes_one_request() {
        let args = parsed(&[
            "628, +62 813",
            " Halo\n",
            "--to",
            "1203@g.us",
            "--ref",
            "order-7",
            "--priority",
            "low",
            "--at",
            "1786924800000",
            "--idempotency-key",
            "k",
            "--dry-run",
        ]);
        assert_eq!(
            bare_request(args).unwrap(),
            SendRequest {
                recipients: vec!["628".to_owned(), "+62 813".to_owned(), "1203@g.us".to_owned()],
                message: " Halo\n".to_owned(),
                reference_id: Some("order-7".to_owned()),
                idempotency_key: Some("k".to_owned()),
                priority: v1::Priority::Low.into(),
                scheduled_at: Some(1_786_924_800_000),
                dry_run: true,
                ..SendRequest::default()
            }
        );
    }

    #[test]
    fn places_cards_polls_and_files_need_no_text() {
        let place = bare_request(parsed(&["628", "--location", "-6.1754,106.8272,Monas, Jakarta"])).unwrap();
        let location = place.location.unwrap();
        assert_eq!((location.latitude, location.name.as_deref()), (-6.1754, Some("Monas, Jakarta")));
        let card = bare_request(parsed(&["628", "--contact", "629,Budi Jaya"])).unwrap().contact.unwrap();
        assert_eq!((card.number.as_str(), card.name.as_str()), ("629", "Budi Jaya"));
        let poll = bare_request(parsed(&["628", "Jadi?", "--poll", "Ya", "--poll", "Tidak"])).unwrap();
        let question = poll.poll.unwrap();
        assert_eq!((question.question.as_str(), question.options.len(), question.selectable), ("Jadi?", 2, 1));
        assert_eq!(poll.message, "");
        let file = bare_request(parsed(&["628", "--media", "x.jpg", "--caption", "lihat"])).unwrap();
        assert_eq!(file.message, "lihat");
        assert!(Arguments::try_parse_from(["waya", "send", "628", "--location", "here"]).is_err());
    }

    #[test]
    fn the_daemon_has_time_for_every_file() {
        let mut request = bare_request(parsed(&["628", "Halo"])).unwrap();
        assert_eq!(answer_timeout(&request), ANSWER_TIMEOUT);
        request.media = vec![v1::MediaInput::default(); 2];
        let takes = answer_timeout(&request);
        assert!(takes >= Duration::from_mins(2 * 4), "{takes:?}");
        assert_eq!(call_within((), takes).metadata().get("grpc-timeout").unwrap(), "530000m");
        let personal = v1::PersonalMessage { media: std::mem::take(&mut request.media), ..Default::default() };
        request.personal = vec![personal; 3];
        assert!(answer_timeout(&request) >= takes * 2);
    }

    #[test]
    fn an_unquoted_text_is_a_usage_error() {
        let error = bare_request(parsed(&["628", "Halo", "dunia"])).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert_eq!(error.hint(), Some("put the text in quotes: waya send 628 \"Halo dunia\""));
    }

    #[test]
    fn a_text_may_begin_with_a_dash_after_two_of_them() {
        assert_eq!(parsed(&["628", "--", "-5 °C"]).text.as_deref(), Some("-5 °C"));
    }

    #[test]
    fn waiting_has_a_default_timeout_and_excludes_a_dry_run() {
        let args = parsed(&["628", "Halo", "--wait", "read"]);
        assert_eq!((args.wait, args.timeout), (Some(WaitFor::Read), Duration::from_mins(1)));
        let both = ["waya", "send", "628", "Halo", "--wait", "read", "--dry-run"];
        assert_eq!(Arguments::try_parse_from(both).unwrap_err().exit_code(), 2);
        let alone = ["waya", "send", "628", "Halo", "--timeout", "5s"];
        assert_eq!(Arguments::try_parse_from(alone).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn confirmations() {
        let accepted =
            v1::Accepted { id: "0192".to_owned(), number: "628".to_owned(), position: 3, ..v1::Accepted::default() };
        let answer = SendResponse { messages: vec![accepted], duplicates: vec!["+628".to_owned()], fits: None };
        let (mut output, written) = testing::output(false);
        show(&answer, false, &mut output).unwrap();
        assert_eq!(written.text(), "queued for 628 as 0192, position 3\nnamed twice and left out: +628\n");
        let fits = v1::Fits { today: 1, later: 2, last_leaves_at: Some(1_700_000_000_000), cold_contact: 3 };
        assert_eq!(
            fit(&fits, &output),
            "1 would leave today, 2 on later days, 3 once WhatsApp lets this account write to strangers again; \
             the last one at 2023-11-14 22:13:20"
        );
        output.quiet = true;
        show(&answer, true, &mut output).unwrap();
        assert_eq!(written.text().lines().count(), 2);
    }
}
