//! The binaries as processes that can be killed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// How long a process may take to get ready on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a process may take to end after a polite request; the contract says 10 s.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// One of the project's binaries, as built beside this test.
#[derive(Debug, Clone)]
pub struct Binary(PathBuf);

impl Binary {
    /// Finds `name` in the target folder; has it built when it is not there.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn find(package: &str, name: &str) -> Result<Self> {
        let test = std::env::current_exe()?;
        let profile = test.parent().and_then(Path::parent).context("the test runner has no folder")?;
        let path = profile.join(name);
        if !path.exists() {
            let status = Command::new(env!("CARGO")).args(["build", "--package", package, "--bin", name]).status()?;
            if !status.success() || !path.exists() {
                bail!("{name} is not built; run cargo build --package {package}");
            }
        }
        Ok(Self(path))
    }

    /// The command line.
    ///
    /// # Errors
    /// As [`Binary::find`].
    pub fn waya() -> Result<Self> {
        Self::find("waya-cli", "waya")
    }

    /// The sandbox.
    ///
    /// # Errors
    /// As [`Binary::find`].
    pub fn sandbox() -> Result<Self> {
        Self::find("waya-sandbox", "waya-sandbox")
    }

    /// A command with none of this process's own `WAYA_*` variables.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WAYA_") {
                command.env_remove(name);
            }
        }
        command
    }
}

/// A server that has said that it is ready; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
    /// Its ready line.
    pub ready: Value,
}

impl Running {
    /// Starts `command`, its log going to `log`, and waits for its ready line.
    ///
    /// # Errors
    /// With the end of the log when it does not get ready.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let _ = sender.send(line);
            // Drained, so that the process never blocks on it.
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
        });
        let line = receiver.recv_timeout(READY_WITHIN).unwrap_or_default();
        let mut running = Self { child, log: log.to_owned(), ready: Value::Null };
        running.ready = serde_json::from_str(&line)
            .with_context(|| format!("no ready line but {line:?}; the log ends with:\n{}", running.log_tail()))?;
        Ok(running)
    }

    /// A text of the ready line.
    ///
    /// # Errors
    /// When it has none of that name.
    pub fn ready_text(&self, field: &str) -> Result<String> {
        let text = self.ready.get(field).and_then(Value::as_str);
        Ok(text.with_context(|| format!("the ready line has no {field}: {}", self.ready))?.to_owned())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `SIGKILL`, and gone when this returns.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// `SIGTERM`; how it ended and how long that took.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(mut self) -> Result<(std::process::ExitStatus, Duration)> {
        let start = Instant::now();
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        while start.elapsed() < STOP_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, start.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("it did not end within {STOP_WITHIN:?}:\n{}", self.log_tail())
    }

    /// The end of its log, for a failing test.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(&self.log) {
            let _ = file.read_to_string(&mut text);
        }
        let skip = text.lines().count().saturating_sub(40);
        text.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of a process in use, and the most it ever used, in bytes.
///
/// # Errors
/// It does not run.
pub fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
