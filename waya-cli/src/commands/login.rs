//! `waya login`: shows what the phone needs until the account is linked. Ctrl-C ends it.

use std::io;
use std::path::PathBuf;

use clap::Args;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use waya_proto::v1::session_service_client::SessionServiceClient;
use waya_proto::v1::{AnswerPasskeyRequest, ConfirmPasskeyRequest, LinkState, LoginRequest, LoginResponse, Session};

use super::{Context, passkey};
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::json;
use crate::output::{Output, printable};
use crate::qr;

/// What `login` takes.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Link with a code typed on this phone instead of a QR code: digits with country code
    #[arg(long, value_name = "PHONE")]
    code: Option<String>,
    /// Hand in the passkey's answer that WhatsApp asks for: a file with WebAuthn's PublicKeyCredential as JSON, - for
    /// standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["code", "passkey_confirm"])]
    passkey_assertion: Option<PathBuf>,
    /// Confirm that the phone shows this code, the one that is shown after the passkey's answer
    #[arg(long, value_name = "CODE", conflicts_with = "code")]
    passkey_confirm: Option<String>,
}

/// The daemon's end of it.
type Daemon = SessionServiceClient<Channel>;

pub async fn run(args: LoginArgs, context: &mut Context) -> Result<ExitCode, CliError> {
    let asker = match &args.passkey_assertion {
        Some(file) if !context.output.json => passkey::Asker::for_answer_in(file),
        _ => passkey::Asker::nobody(),
    };
    let assertion = args.passkey_assertion.as_deref().map(passkey::read).transpose()?;
    let mut daemon = Daemon::new(context.daemon().await?);
    let states = match (assertion, args.passkey_confirm) {
        (Some(assertion), _) => daemon.answer_passkey(Request::new(AnswerPasskeyRequest { assertion })).await?,
        (None, Some(code)) => daemon.confirm_passkey(Request::new(ConfirmPasskeyRequest { code })).await?,
        (None, None) => daemon.login(Request::new(LoginRequest { phone: args.code })).await?,
    };
    let states = states.into_inner();
    let last = if context.output.json {
        print(states, &mut context.output).await?
    } else {
        watch(states, &mut daemon, &asker, context).await?
    };
    let Some(session) = last else { return Err(interrupted()) };
    ended(&session, &mut context.output)
}

/// One object a line.
async fn print(mut states: Streaming<LoginResponse>, output: &mut Output) -> Result<Option<Session>, CliError> {
    let mut last = None;
    while let Some(answer) = states.message().await? {
        let session = answer.session.unwrap_or_default();
        output.json(&json::session::Session::from(session.clone()))?;
        last = Some(session);
    }
    Ok(last)
}

async fn watch(
    mut states: Streaming<LoginResponse>,
    daemon: &mut Daemon,
    asker: &passkey::Asker,
    context: &mut Context,
) -> Result<Option<Session>, CliError> {
    let width = terminal_width();
    let mut screen = Screen::default();
    let mut last = None;
    while let Some(answer) = states.message().await? {
        let session = answer.session.unwrap_or_default();
        let lines = lines(&session, &context.output, width);
        screen.show(&lines, &mut context.output)?;
        if let Some(passkey) = &session.passkey {
            // A long request fills an unknown number of rows; what comes next goes below it.
            screen = Screen::default();
            if let Some(code) = &passkey.code {
                asker.compare(code, daemon).await?;
            }
        }
        last = Some(session);
    }
    Ok(last)
}

/// What was drawn last, so that the next drawing takes its place.
#[derive(Default)]
struct Screen {
    lines: usize,
}

impl Screen {
    fn show(&mut self, lines: &[String], output: &mut Output) -> io::Result<()> {
        if output.terminal && self.lines > 0 {
            output.raw(&format!("\x1b[{}A\x1b[J", self.lines))?;
        }
        for line in lines {
            output.line(line)?;
        }
        self.lines = lines.len();
        output.flush()
    }
}

/// What the user needs to see in this state.
fn lines(session: &Session, output: &Output, width: Option<usize>) -> Vec<String> {
    match (session.state(), &session.qr, &session.pairing_code) {
        (LinkState::Pairing, Some(code), _) => {
            let until =
                code.expires_at.map_or_else(String::new, |at| format!(" (this code holds until {})", output.time(at)));
            let how = format!("On the phone: WhatsApp → Linked devices → Link a device{until}");
            let drawn = qr::lines(&code.text, output.colour)
                .unwrap_or_else(|| vec!["the code cannot be drawn; use `waya login --code PHONE`".to_owned()]);
            let wide = drawn.first().map_or(0, |line| line.chars().filter(|c| "█▀▄ ".contains(*c)).count());
            let narrow = width.filter(|width| *width < wide).map(|width| {
                format!("the window has {width} columns, the code needs {wide}: widen it, or use --code PHONE")
            });
            drawn.into_iter().chain([how]).chain(narrow).collect()
        }
        (LinkState::Pairing, None, Some(code)) => vec![
            format!("code: {}", grouped(code)),
            "On the phone: WhatsApp → Linked devices → Link a device → Link with phone number instead".to_owned(),
        ],
        (LinkState::Pairing, None, None) => vec!["waiting for a code …".to_owned()],
        (LinkState::PasskeyRequired, ..) => {
            session.passkey.as_ref().map(|passkey| passkey::lines(passkey, output)).unwrap_or_default()
        }
        (LinkState::Connecting, ..) => vec!["connecting …".to_owned()],
        (LinkState::Offline, ..) => {
            let reason = printable(session.reason.as_deref().unwrap_or("no connection"));
            let again = session.retry_at.map_or_else(String::new, |at| format!("; tried again at {}", output.time(at)));
            vec![format!("offline: {reason}{again}")]
        }
        // How it ended is told below.
        _ => Vec::new(),
    }
}

/// `ABCD1234` as the phone asks for it: `ABCD-1234`.
fn grouped(code: &str) -> String {
    match code.split_at_checked(4) {
        Some((head, tail)) if code.len() == 8 => format!("{head}-{tail}"),
        _ => printable(code),
    }
}

fn ended(session: &Session, output: &mut Output) -> Result<ExitCode, CliError> {
    let reason = |otherwise: &str| session.reason.as_deref().map_or_else(|| otherwise.to_owned(), printable);
    match session.state() {
        LinkState::Connected => {
            if !output.json {
                let me = session.me.clone().unwrap_or_default();
                output.note(format!("linked as {} ({})", printable(&me.number), printable(&me.name)))?;
            }
            Ok(ExitCode::Done)
        }
        LinkState::Unpaired => Err(CliError::new(
            ExitCode::TimedOut,
            "the codes expired before the phone used one",
            "run `waya login` again when the phone is at hand",
        )),
        LinkState::Pairing | LinkState::Connecting | LinkState::Offline => Err(interrupted()),
        LinkState::PasskeyRequired if session.passkey.is_some() => Err(interrupted()),
        _ => Err(CliError::plain(ExitCode::NotConnected, reason("the account was not linked"))),
    }
}

fn interrupted() -> CliError {
    CliError::new(
        ExitCode::Unreachable,
        "the daemon stopped before the account was linked",
        "start it again, then run `waya login`",
    )
}

fn terminal_width() -> Option<usize> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;
    use waya_proto::v1::{Account, QrCode};

    fn pairing(qr: Option<&str>, code: Option<&str>) -> Session {
        Session {
            state: LinkState::Pairing.into(),
            qr: qr.map(|text| QrCode {
                text: text.to_owned(),
                expires_at: Some(1_700_000_000_000),
                ..QrCode::default()
            }),
            pairing_code: code.map(str::to_owned),
            ..Session::default()
        }
    }

    #[test]
    fn a_fresh_code_takes_the_place_of_the_old_one_on_a_terminal_only() {
        for terminal in [true, false] {
            let (mut output, written) = testing::output(false);
            output.terminal = terminal;
            let mut screen = Screen::default();
            for text in ["2@one", "2@two"] {
                let lines = lines(&pairing(Some(text), None), &output, None);
                screen.show(&lines, &mut output).unwrap();
            }
            let height = lines(&pairing(Some("2@two"), None), &output, None).len();
            assert_eq!(written.text().contains(&format!("\x1b[{height}A\x1b[J")), terminal);
            assert!(written.text().contains("this code holds until 2023-11-14 22:13:20"));
        }
    }

    #[test]
    fn a_window_too_narrow_for_the_code_is_told() {
        let (output, _) = testing::output(false);
        let shown = |width| lines(&pairing(Some("2@x"), None), &output, Some(width)).join("\n");
        assert!(shown(20).contains("the window has 20 columns, the code needs 25"), "{}", shown(20));
        assert!(!shown(80).contains("columns"));
    }

    #[test]
    fn a_pairing_code_is_shown_as_the_phone_asks_for_it() {
        let (output, _) = testing::output(false);
        assert_eq!(lines(&pairing(None, Some("ABCD1234")), &output, None)[0], "code: ABCD-1234");
        assert_eq!(grouped("ABCD-1234"), "ABCD-1234");
        assert_eq!(lines(&pairing(None, None), &output, None), ["waiting for a code …"]);
    }

    #[test]
    fn every_end_has_its_exit_code() {
        let end = |state: LinkState| {
            let (mut output, written) = testing::output(false);
            let me = Some(Account { number: "628".to_owned(), lid: None, name: "Toko".to_owned() });
            let session = Session { state: state.into(), me, ..Session::default() };
            (ended(&session, &mut output).unwrap_or_else(|error| error.exit_code()), written.text())
        };
        assert_eq!(end(LinkState::Connected), (ExitCode::Done, "linked as 628 (Toko)\n".to_owned()));
        assert_eq!(end(LinkState::Unpaired).0, ExitCode::TimedOut);
        assert_eq!(end(LinkState::Banned).0, ExitCode::NotConnected);
        assert_eq!(end(LinkState::PasskeyRequired).0, ExitCode::NotConnected);
        assert_eq!(end(LinkState::Pairing).0, ExitCode::Unreachable);
    }
}
