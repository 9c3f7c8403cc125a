//! The passkey that WhatsApp may ask for while an account is linked: the request as it is shown, the answer as it is
//! read, and the code that the user compares.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::Path;

use tonic::Request;
use tonic::transport::Channel;
use waya_proto::v1::session_service_client::SessionServiceClient;
use waya_proto::v1::{ConfirmPasskeyRequest, LogoutRequest, Passkey};

use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::output::{Output, printable};

/// More bytes than any answer of a passkey; the daemon takes as many.
const MAX_ANSWER: u64 = 64 << 10;

/// The answer in this file, or on standard input for `-`. What it says is for the daemon to judge.
pub fn read(file: &Path) -> Result<String, CliError> {
    if file.as_os_str() == "-" {
        return read_from(io::stdin().lock());
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        refused(
            format!("cannot read {}: {error}", printable(&file.to_string_lossy())),
            "give a file with the answer, or -",
        )
    };
    let opened = File::open(file).map_err(|error| unreadable(&error))?;
    read_from(opened).map_err(|error| match error {
        CliError::Io(error) => unreadable(&error),
        error => error,
    })
}

fn read_from(input: impl Read) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    input.take(MAX_ANSWER + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_ANSWER {
        return Err(refused("the passkey's answer is longer than 64 KiB", "real ones have about a thousand bytes"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        refused(format!("the passkey's answer is not valid UTF-8 (byte {at})"), "give the JSON text as it is")
    })
}

fn refused(message: impl Into<String>, hint: &str) -> CliError {
    CliError::new(ExitCode::Refused, message, hint)
}

/// What the user needs to see at this step.
pub fn lines(passkey: &Passkey, output: &Output) -> Vec<String> {
    if let Some(code) = &passkey.code {
        let printable = printable(code);
        return vec![
            format!("code: {printable}"),
            format!(
                "If the phone shows the same code: `waya login --passkey-confirm {printable}`. If not: `waya logout`."
            ),
        ];
    }
    let Some(request) = &passkey.request else {
        return vec!["WhatsApp has the passkey's answer; waiting for the phone …".to_owned()];
    };
    let until = passkey.expires_at.map_or_else(String::new, |at| format!(" (until {})", output.time(at)));
    vec![
        format!("WhatsApp asks for the account's passkey before it links{until}. Have it sign this request:"),
        printable(request),
        "In a browser that has the passkey, on a page of the site named by rpId:".to_owned(),
        "  navigator.credentials.get({publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(REQUEST)})".to_owned(),
        "and save JSON.stringify of what it gives; then `waya login --passkey-assertion FILE`".to_owned(),
    ]
}

/// Whoever can be asked whether two codes are the same.
pub enum Asker {
    /// The user, at this terminal.
    Terminal,
    /// Nobody: the code is confirmed by a command of its own.
    Nobody,
}

impl Asker {
    /// Whoever handed the answer in, unless standard input was needed for it.
    pub fn for_answer_in(file: &Path) -> Self {
        if file.as_os_str() != "-" && io::stdin().is_terminal() { Self::Terminal } else { Self::Nobody }
    }

    /// Nobody.
    pub const fn nobody() -> Self {
        Self::Nobody
    }

    /// Asks whether the phone shows this code, and tells the daemon. A no ends the pairing: somebody else may be at the
    /// other end.
    pub async fn compare(&self, code: &str, daemon: &mut SessionServiceClient<Channel>) -> Result<(), CliError> {
        if matches!(self, Self::Nobody) {
            return Ok(());
        }
        let asked = tokio::task::spawn_blocking(is_same).await;
        if asked.map_err(io::Error::other)?? {
            daemon.confirm_passkey(Request::new(ConfirmPasskeyRequest { code: code.to_owned() })).await?;
            return Ok(());
        }
        daemon.logout(super::call(LogoutRequest {})).await?;
        Err(refused("the codes differ, so nothing was linked", "start again with `waya login`, and look at the phone"))
    }
}

fn is_same() -> io::Result<bool> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "Does the phone show the same code? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes" | "ya"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;

    #[test]
    fn an_answer_is_read_up_to_its_limit() {
        let most = "x".repeat(64 << 10);
        assert_eq!(read_from(most.as_bytes()).unwrap(), most);
        for (input, words) in [(format!("{most}x").into_bytes(), "64 KiB"), (vec![b'a', 0xff], "UTF-8 (byte 1)")] {
            let error = read_from(input.as_slice()).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Refused);
            assert!(error.to_string().contains(words), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        for missing in [folder.path().join("none"), folder.path().to_owned()] {
            let error = read(&missing).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Refused);
            assert!(error.to_string().contains(&*missing.to_string_lossy()), "{error}");
        }
    }

    #[test]
    fn every_step_says_what_to_do() {
        let (output, _) = testing::output(false);
        let asked = Passkey {
            step: "asked".to_owned(),
            request: Some("{\"challenge\":\"x\"}".to_owned()),
            expires_at: Some(1_700_000_000_000),
            code: None,
        };
        let shown = lines(&asked, &output).join("\n");
        for part in ["{\"challenge\":\"x\"}", "until 2023-11-14 22:13:20", "--passkey-assertion FILE"] {
            assert!(shown.contains(part), "{shown}");
        }
        let compare = Passkey { step: "compare".to_owned(), code: Some("ABCD-EFGH".to_owned()), ..Passkey::default() };
        assert!(lines(&compare, &output).join("\n").contains("--passkey-confirm ABCD-EFGH"));
        let answered = Passkey { step: "answered".to_owned(), ..Passkey::default() };
        assert!(lines(&answered, &output)[0].contains("waiting for the phone"));
    }
}
