//! How the owner is told: a command, and a URL.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// How long the command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// So much of what it prints is logged, in bytes.
const LOGGED: usize = 4 * 1024;
/// What of our own environment the command keeps, so that `waya` finds this daemon; the rest may hold secrets.
const KEPT: [&str; 3] = ["WAYA_PROFILE", "WAYA_SOCKET", "WAYA_DATA_DIR"];

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this code, or by a signal.
    Code(Option<i32>),
    /// It took too long and was killed, with all that it had started.
    TooLong,
    /// It could not be started.
    NotStarted(String),
}

/// Runs a command line by `sh -c` with the event on its standard input, and logs what it prints.
pub async fn command(line: &str, event: &[u8]) -> Ended {
    command_within(line, event, COMMAND_WITHIN).await
}

async fn command_within(line: &str, event: &[u8], limit: Duration) -> Ended {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("WAYA_") && !KEPT.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    // A group of its own, so that what it starts ends with it.
    command.process_group(0).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ended::NotStarted(error.to_string()),
    };
    let group = child.id();
    let ended = tokio::time::timeout(limit, converse(&mut child, event)).await;
    let (ended, printed) = match ended {
        Ok((code, printed)) => (Ended::Code(code), printed),
        Err(_) => (Ended::TooLong, String::new()),
    };
    if ended == Ended::TooLong {
        kill_group(group);
        let _ = child.wait().await;
    }
    if ended == Ended::Code(Some(0)) {
        tracing::info!(output = printed, "alerts.command ran");
    } else {
        tracing::warn!(?ended, output = printed, "alerts.command failed");
    }
    ended
}

/// Writes the event, reads what is printed, waits for the end.
async fn converse(child: &mut Child, event: &[u8]) -> (Option<i32>, String) {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async move {
        if let Some(mut stdin) = stdin {
            // It may well end without having read it.
            let _ = stdin.write_all(event).await;
        }
    };
    let ((), out, err) = tokio::join!(write, start_of(stdout), start_of(stderr));
    let code = child.wait().await.ok().and_then(|status| status.code());
    (code, [out, err].concat().trim_end().to_owned())
}

/// The beginning of a stream, which is read to its end all the same, so that its writer is never stopped.
async fn start_of(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut start = Vec::new();
    let _ = (&mut stream).take(LOGGED as u64).read_to_end(&mut start).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&start).into_owned()
}

fn kill_group(group: Option<u32>) {
    let group = group.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_event_is_on_standard_input_and_codes_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("event");
        let line = format!("cat > {}; echo done", file.display());
        assert_eq!(command(&line, br#"{"event":"alert.began"}"#).await, Ended::Code(Some(0)));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), r#"{"event":"alert.began"}"#);
        assert_eq!(command("exit 7", b"").await, Ended::Code(Some(7)));
        assert_eq!(command("no-such-command-at-all", b"x").await, Ended::Code(Some(127)));
        // More than a pipe holds, both ways.
        let much = vec![b'x'; 1 << 20];
        assert_eq!(command("cat; head -c 300000 /dev/zero >&2", &much).await, Ended::Code(Some(0)));
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let line = format!("sleep 600 & echo $! > {}; wait", file.display());
        assert_eq!(command_within(&line, b"", Duration::from_millis(500)).await, Ended::TooLong);
        let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        // Killed, and at the most not reaped yet by whoever adopts orphans.
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        for _ in 0..500 {
            if state().is_empty() || state().contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it lives on: {}", state());
    }
}
