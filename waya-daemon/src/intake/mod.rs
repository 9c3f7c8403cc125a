//! Files of incoming messages that are fetched without anybody asking, when `media.auto_download` says so.
//!
//! Owns the place in the journal up to which that is done. The journal's row is all that is kept of a file to be
//! fetched, so nothing is written before a message is acknowledged to WhatsApp, and what was not fetched when the daemon
//! stopped is fetched after the next start. Woken by the journal's newest cursor, by fetches that end, by the link, by
//! settings and by time. It never holds anybody up, and never fetches what came while the setting was off.

mod load;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use load::{LoadError, load};

use crate::clock::Clock;
use crate::media::Media;
use crate::model::{Cursor, Event, EventBody, Incoming};
use crate::session::{Link, SendError, WhatsApp};
use crate::settings::Snapshot;
use crate::store::{Store, StoreError};
use window::{Outcome, Verdict, Window};

/// Where the store keeps the place.
const PLACE: (&str, &str) = ("marks", "media.auto_download");
/// So many files are fetched at once.
const AT_ONCE: usize = 3;
/// Events read at a time.
const PAGE: usize = 64;
/// A place that moved so far without a file on its way is written down.
const WRITE_PLACE_EVERY: u64 = 1_000;
/// WhatsApp keeps files for some weeks; what is older is not asked for.
const OLDEST: Duration = Duration::from_hours(30 * 24);
/// How long the last words may take at the end.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// What it stands on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The journal, and the place.
    pub store: Store,
    /// Where files come from.
    pub session: Arc<dyn WhatsApp>,
    /// Where they go.
    pub media: Media,
    /// What is wanted.
    pub settings: watch::Receiver<Snapshot>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Starts to fetch; to be called before anything can come in, so that nothing is missed. Ends with `stop`.
///
/// # Errors
/// When the store cannot be read or written.
pub async fn start(parts: Parts, tasks: &TaskTracker, stop: CancellationToken) -> Result<(), StoreError> {
    let stored = parts.store.values.get(PLACE.0, PLACE.1).await?;
    let place = stored.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
    let mut intake = Intake::new(parts, place);
    intake.follow_setting().await?;
    tasks.spawn(intake.run(stop));
    Ok(())
}

/// What became of a fetch, and of which message's file.
struct Fetched {
    cursor: Cursor,
    id: String,
    outcome: Outcome,
}

struct Intake {
    parts: Parts,
    link: watch::Receiver<Link>,
    newest: watch::Receiver<Cursor>,
    /// Nothing while the setting is off.
    window: Option<Window>,
    /// The place as it is on disk.
    written: Option<Cursor>,
    /// A file came, or was given up, since.
    moved: bool,
    fetches: JoinSet<Fetched>,
}

impl Intake {
    fn new(parts: Parts, place: Option<Cursor>) -> Self {
        Self {
            link: parts.session.link(),
            newest: parts.store.journal.newest(),
            window: place.map(Window::new),
            written: place,
            moved: false,
            fetches: JoinSet::new(),
            parts,
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        while let Some(worked) = stop.run_until_cancelled(self.work()).await {
            if let Err(error) = worked {
                tracing::debug!(%error, "fetching files waits for the store");
                // A second at the most.
                self.parts.store.come_back().await;
                continue;
            }
            let sleep = self.window.as_ref().filter(|_| self.may_fetch()).and_then(Window::next_due);
            let reads = self.window.as_ref().is_some_and(Window::has_room);
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = self.parts.settings.changed() => {}
                Ok(()) = self.link.changed() => {}
                Ok(()) = self.newest.changed(), if reads => {}
                Some(ended) = self.fetches.join_next(), if !self.fetches.is_empty() => self.settle(ended),
                () = sleep_until(sleep) => {}
            }
        }
        // What was under way leaves nothing, and is fetched anew.
        self.fetches.abort_all();
        let _ = tokio::time::timeout(ENDS_WITHIN, self.write_place(true)).await;
    }

    async fn work(&mut self) -> Result<(), StoreError> {
        self.follow_setting().await?;
        self.read().await?;
        self.set_off();
        self.write_place(false).await
    }

    fn is_wanted(&self) -> bool {
        !self.parts.settings.borrow().auto_download.is_empty()
    }

    /// Turned on, it begins with what comes from now on; turned off, it forgets what waits.
    async fn follow_setting(&mut self) -> Result<(), StoreError> {
        match (self.is_wanted(), self.window.is_some()) {
            (true, false) => {
                let now = *self.newest.borrow();
                self.put_place(Some(now)).await?;
                self.window = Some(Window::new(now));
            }
            (false, true) => {
                self.put_place(None).await?;
                self.window = None;
                self.fetches = JoinSet::new();
            }
            _ => {}
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        let newest = *self.newest.borrow_and_update();
        let kinds = self.parts.settings.borrow().auto_download.clone();
        let Some(window) = &mut self.window else { return Ok(()) };
        while window.has_room() && window.read_up_to() < newest {
            let page = self.parts.store.journal.after(window.read_up_to(), PAGE).await?;
            let with_file = |event: &&Event| with_file(event, &kinds).is_some();
            page.events.iter().filter(with_file).for_each(|event| window.add(event.cursor));
            if page.next <= window.read_up_to() {
                break;
            }
            window.read(page.next);
        }
        Ok(())
    }

    /// Whether one more could be fetched now. Where it could not, time alone changes nothing: the link does, or the end
    /// of another fetch.
    fn may_fetch(&self) -> bool {
        self.fetches.len() < AT_ONCE && self.link.borrow().state.is_connected()
    }

    fn set_off(&mut self) {
        self.link.mark_unchanged();
        while self.may_fetch() {
            let Some(cursor) = self.window.as_mut().and_then(|window| window.next(Instant::now())) else { return };
            let parts = self.parts.clone();
            self.fetches.spawn(async move { fetch(&parts, cursor).await });
        }
    }

    fn settle(&mut self, ended: Result<Fetched, tokio::task::JoinError>) {
        let Some(window) = &mut self.window else { return };
        match ended {
            Ok(Fetched { cursor, id, outcome }) => match window.settle(cursor, outcome, Instant::now()) {
                Verdict::Waits => {}
                Verdict::Over => self.moved = true,
                Verdict::GivenUp(reason) => {
                    tracing::info!(id, reason, "the file of a message is not fetched");
                    self.moved = true;
                }
            },
            Err(error) => {
                tracing::error!(%error, "an internal error while a file was fetched; it is tried again");
                window.nothing_is_under_way(Instant::now());
                self.fetches = JoinSet::new();
            }
        }
    }

    /// A place that lags behind costs a look at files that are there.
    async fn write_place(&mut self, at_the_end: bool) -> Result<(), StoreError> {
        let Some(place) = self.window.as_ref().map(Window::done_up_to) else { return Ok(()) };
        let written = self.written.unwrap_or_default();
        let far = place.0.saturating_sub(written.0) >= WRITE_PLACE_EVERY;
        if place > written && (self.moved || far || at_the_end) {
            self.put_place(Some(place)).await?;
            self.moved = false;
        }
        Ok(())
    }

    async fn put_place(&mut self, place: Option<Cursor>) -> Result<(), StoreError> {
        let value = place.map(|place| place.to_string().into_bytes());
        self.parts.store.values.put(PLACE.0, PLACE.1, value).await?;
        self.written = place;
        Ok(())
    }
}

/// The message of an event, when it came in with a file of these kinds.
fn with_file<'a>(event: &'a Event, kinds: &[&str]) -> Option<&'a Incoming> {
    match &event.body {
        EventBody::Message(incoming) if !incoming.from_me && kinds.contains(&incoming.kind.as_str()) => Some(incoming),
        EventBody::Message(_) | EventBody::Status(_) | EventBody::Link(_) => None,
    }
}

/// Fetches the file of the message at a place of the journal.
async fn fetch(parts: &Parts, cursor: Cursor) -> Fetched {
    let nobodys = |outcome| Fetched { cursor, id: String::new(), outcome };
    let before = Cursor(cursor.0.saturating_sub(1));
    let event = match parts.store.journal.after(before, 1).await {
        Ok(page) => page.events.into_iter().next().filter(|event| event.cursor == cursor),
        Err(StoreError::Damaged(_)) => None,
        Err(_) => return nobodys(Outcome::NotNow),
    };
    // Without an event: retention took it.
    let Some(EventBody::Message(incoming)) = event.map(|event| event.body) else { return nobodys(Outcome::Done) };
    Fetched { cursor, id: incoming.id.clone(), outcome: fetch_of(parts, *incoming).await }
}

async fn fetch_of(parts: &Parts, incoming: Incoming) -> Outcome {
    let Some(told) = parts.session.file_of(&incoming.raw) else {
        return Outcome::GivenUp("it says nothing of where the file is".to_owned());
    };
    if let Some(hash) = told.hash
        && parts.media.stored(hash).await.is_ok()
    {
        return Outcome::Done;
    }
    let limit = parts.settings.borrow().auto_download_size.min(parts.media.limits().download);
    if let Some(size) = told.size.filter(|size| *size > limit) {
        return Outcome::GivenUp(format!(
            "it has {size} bytes, more than the {limit} that media.auto_download_size allows"
        ));
    }
    if parts.clock.now().since(incoming.timestamp) > OLDEST {
        return Outcome::GivenUp("it is too old".to_owned());
    }
    // On a disk that is almost full messages come first.
    if parts.store.outbox.accepts().is_err() {
        return Outcome::NotNow;
    }
    match load(&parts.media, &*parts.session, incoming.raw, limit).await {
        Ok(_) => Outcome::Done,
        Err(LoadError::WhatsApp(SendError::Offline)) => Outcome::NotNow,
        Err(LoadError::WhatsApp(SendError::Permanent(reason))) => Outcome::GivenUp(reason),
        Err(error) => Outcome::Again(error.to_string()),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("window", &self.window).finish_non_exhaustive()
    }
}
