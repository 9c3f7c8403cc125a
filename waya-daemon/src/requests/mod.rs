//! The log of HTTP requests: the newest thousand, with secrets masked and bodies cut.
//!
//! Owns the folder `requests` and a thread that writes it, woken by what the HTTP door hands over and by nothing else.
//! Whoever hands over never waits, and the thread rests after its work, so that under a flood of requests most of them are
//! forgotten before anything was made of them: only the newest are kept anyway. What cannot be written is counted. It
//! never keeps a key, a password or a file's content. A killed daemon loses what came during a rest.

mod body;
mod files;
mod line;
mod mask;
mod row;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

pub use body::Seen;
pub use row::{Passed, Row, Side, Summary};

use crate::model::MessageId;
use files::{Files, Index};
use line::{Line, Waiting};

/// The folder, in the data folder.
const FOLDER: &str = "requests";
/// How long the thread rests after its work, unless it is asked for something.
const REST: Duration = Duration::from_millis(500);

/// A cheap handle to the log.
#[derive(Debug, Clone)]
pub struct RequestLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    index: Index,
    dropped: Arc<AtomicU64>,
    line: Arc<Line>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.line.close();
    }
}

/// Asked of the thread; answered when every row before it is written.
enum Command {
    Flush(oneshot::Sender<()>),
    Clear(oneshot::Sender<io::Result<usize>>),
}

/// A page of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Rows, newest first.
    pub rows: Vec<Summary>,
    /// There are older ones.
    pub more: bool,
}

impl RequestLog {
    /// Starts the thread; it reads what is there by itself, so that nobody waits for it.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(data_dir: &Path) -> io::Result<Self> {
        let (dir, line) = (data_dir.join(FOLDER), Arc::<Line>::default());
        let (index, dropped) = (Index::default(), Arc::new(AtomicU64::new(0)));
        let writer = (dir.clone(), Arc::clone(&index), Arc::clone(&dropped), Ends(Arc::clone(&line)));
        std::thread::Builder::new().name("requests".to_owned()).spawn(move || {
            let (dir, index, dropped, ends) = writer;
            write(&ends.0, dir, &index, &dropped);
        })?;
        Ok(Self(Arc::new(Inner { dir, index, dropped, line })))
    }

    /// Hands a request over; does not wait.
    pub fn record(&self, passed: Box<Passed>) {
        if !self.0.line.hand_over(passed) {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests could not be kept since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// The newest rows before the one of this id; none means from the newest on.
    pub async fn list(&self, before: Option<u64>, limit: usize) -> Page {
        self.settle().await;
        let index = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |summary: &Summary| summary.id.parse::<u64>().unwrap_or_default();
        let mut rows: Vec<_> = index
            .iter()
            .rev()
            .map(|entry| &entry.summary)
            .filter(|summary| before.is_none_or(|before| number(summary) < before))
            .take(limit.saturating_add(1))
            .cloned()
            .collect();
        let more = rows.len() > limit;
        rows.truncate(limit);
        Page { rows, more }
    }

    /// A row by its id, by the newest request of this `X-Request-Id`, or by a message that it put into the queue.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn find(&self, id: &str) -> io::Result<Option<Row>> {
        self.settle().await;
        let place = {
            let index = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
            let found = index
                .iter()
                .find(|entry| entry.summary.id == id)
                .or_else(|| index.iter().rev().find(|entry| entry.summary.request_id == id))
                .or_else(|| id.parse().ok().and_then(|id| of_message(&index, id)));
            found.map(|entry| entry.place)
        };
        self.read(place).await
    }

    /// The row of the request that put this message into the queue.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn of_message(&self, id: MessageId) -> io::Result<Option<Row>> {
        self.settle().await;
        let place = {
            let index = self.0.index.lock().unwrap_or_else(PoisonError::into_inner);
            of_message(&index, id).map(|entry| entry.place)
        };
        self.read(place).await
    }

    async fn read(&self, place: Option<files::Place>) -> io::Result<Option<Row>> {
        let Some(place) = place else { return Ok(None) };
        let dir = self.0.dir.clone();
        tokio::task::spawn_blocking(move || files::row(&dir, place)).await.map_err(io::Error::other)?
    }

    /// Forgets everything; how many rows there were.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub async fn clear(&self) -> io::Result<usize> {
        let (answer, answered) = oneshot::channel();
        self.0.line.ask(Command::Clear(answer), false);
        answered.await.map_err(|_| io::Error::other("the request log is closed"))?
    }

    /// Writes what waits and ends the thread; what is handed over afterwards is dropped.
    pub async fn close(&self) {
        self.flush(true).await;
    }

    /// Returns when everything handed over before is there for readers.
    async fn settle(&self) {
        self.flush(false).await;
    }

    async fn flush(&self, last: bool) {
        let (answer, answered) = oneshot::channel();
        self.0.line.ask(Command::Flush(answer), last);
        let _ = answered.await;
    }
}

/// With the thread, however it ends, nobody waits for it any longer.
struct Ends(Arc<Line>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A repeat is answered with the messages of the first request: the oldest is the one.
fn of_message(index: &VecDeque<files::Entry>, id: MessageId) -> Option<&files::Entry> {
    index.iter().find(|entry| entry.marks.as_ref().is_some_and(|marks| marks.has(id)))
}

/// The thread.
fn write(line: &Line, dir: PathBuf, index: &Index, dropped: &AtomicU64) {
    let mut files = Files::open(dir, Arc::clone(index));
    if let Err(error) = &files {
        tracing::warn!(%error, "the request log cannot be opened; requests are not logged");
    }
    let mut working = true;
    loop {
        let Waiting { rows, commands, closed, .. } = line.take();
        let count = rows.len() as u64;
        let written = match &mut files {
            Ok(files) if count > 0 => files.append(rows),
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::from(error.kind())),
        };
        if let Err(error) = &written {
            dropped.fetch_add(count, Ordering::Relaxed);
            if working && files.is_ok() {
                tracing::warn!(%error, "the request log cannot be written; requests are not logged until it can");
            }
        }
        if count > 0 {
            working = written.is_ok();
        }
        for command in commands {
            carry_out(command, &mut files);
        }
        if closed {
            return;
        }
        line.rest(REST);
    }
}

fn carry_out(command: Command, files: &mut io::Result<Files>) {
    match command {
        Command::Flush(answer) => drop(answer.send(())),
        // Rows that came after it in the same batch may be cleared with it.
        Command::Clear(answer) => {
            let cleared = match files {
                Ok(files) => files.clear(),
                Err(error) => Err(io::Error::from(error.kind())),
            };
            drop(answer.send(cleared));
        }
    }
}
