//! The line to one webhook: reads the journal, tells what the webhook wants to hear, writes down what came of it.
//!
//! It owns the webhook's [`Window`]. Woken by the journal's newest cursor, by deliveries that end, by time, by changes
//! of the webhook, and when parked notices are to be told again. It never holds anybody up: what it reads is on disk, and
//! what it writes goes to the store in groups. A mark that a crash swallows means that the same event, under the same
//! id, is told again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Parts;
use super::attempt::{self, Attempt, Outcome};
use super::window::{Subject, Window};
use crate::model::{Cursor, Event, Notice, Timestamp, Topic, Webhook};
use crate::store::StoreError;
use crate::store::webhooks::{NoticeFilter, Place, Settled, Settlement};

/// Events read at a time.
const PAGE: usize = 64;
/// Rows read at a time.
const ROWS: usize = 1_000;
/// A place that moved so far without anything to tell is written down.
const WRITE_PLACE_EVERY: u64 = 1_000;
/// Deliveries under way may take so long at the end; what is cut off is told again at the next start.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// A journal that was put together anew from a damaged one leaves a gap as wide as this, where nothing is missing.
const REPAIR_GAP: u64 = 1 << 20;

/// What reaches a line from outside.
#[derive(Debug)]
pub(super) struct Wires {
    /// The webhook as it stands.
    pub(super) webhook: watch::Receiver<Webhook>,
    /// Rows of the store were changed by hand.
    pub(super) reload: Arc<Notify>,
    /// It is to end.
    pub(super) stop: CancellationToken,
}

/// What a line does with the store.
#[derive(Debug, Clone, Copy)]
enum Work {
    Reload,
    Read,
    Write,
}

/// One line's own things.
pub(super) struct Line {
    parts: Arc<Parts>,
    wires: Wires,
    window: Window,
    /// Whose time counts from before this line began counts from here: nothing could be told then.
    began: Timestamp,
    attempts: JoinSet<Attempt>,
    /// Not written yet.
    settled: Settled,
    /// The place as it is on disk.
    written: Cursor,
}

impl Line {
    /// The line of a webhook that stands there.
    pub(super) fn new(parts: Arc<Parts>, wires: Wires, place: Place) -> Self {
        let window = Window::new(place.cursor, parts.patience);
        let began = parts.clock.now();
        Self {
            parts,
            wires,
            window,
            began,
            attempts: JoinSet::new(),
            settled: Settled::default(),
            written: place.cursor,
        }
    }

    /// Until it is told to stop; never in the middle of a write, which would be carried out and then done again.
    pub(super) async fn run(mut self) {
        self.persist(Work::Reload).await;
        while !self.wires.stop.is_cancelled() {
            self.turn().await;
        }
        self.end().await;
    }

    async fn turn(&mut self) {
        let mut newest = self.parts.store.journal.newest();
        let (reload, stop) = (Arc::clone(&self.wires.reload), self.wires.stop.clone());
        // One moment for the choice and for when to look again, so that nothing becomes due between the two.
        let now = self.parts.clock.now();
        self.begin_attempts(now);
        if self.window.has_room() && self.window.read_to() < *newest.borrow_and_update() {
            self.persist(Work::Read).await;
            self.write_if_due().await;
            return;
        }
        self.write_if_due().await;
        let sleep = self.window.wake_at(now).map(|at| at.since(self.parts.clock.now()));
        let mut moves = self.parts.clock.moves();
        tokio::select! {
            Some(ended) = self.attempts.join_next() => {
                self.take(ended);
                while let Some(ended) = self.attempts.try_join_next() {
                    self.take(ended);
                }
            }
            _ = newest.changed(), if self.window.has_room() => {}
            () = reload.notified() => self.persist(Work::Reload).await,
            _ = self.wires.webhook.changed() => {}
            () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
            () = moves.next() => {}
            () = stop.cancelled() => {}
        }
    }

    fn begin_attempts(&mut self, now: Timestamp) {
        while let Some((notice, number)) = self.window.next(now) {
            let webhook = self.wires.webhook.borrow().clone();
            self.attempts.spawn(attempt::carry_out(Arc::clone(&self.parts), webhook, notice, number));
        }
    }

    fn take(&mut self, ended: Result<Attempt, tokio::task::JoinError>) {
        let Ok(Attempt { notice, outcome, delivery }) = ended.inspect_err(|error| {
            tracing::error!(%error, "a webhook's delivery broke off");
        }) else {
            // The line begins anew, from what is on disk.
            self.wires.stop.cancel();
            return;
        };
        let now = self.parts.clock.now();
        let notices = match outcome {
            Outcome::Told => vec![self.window.told(notice, now)],
            Outcome::Gone => {
                self.settled.missed += 1;
                vec![self.window.gone(notice)]
            }
            Outcome::Refused { reason, for_good } => {
                let mut notices = self.window.refused(notice, reason.clone(), for_good, now, rand::random());
                notices.extend(self.window.give_up_overdue(now, &reason));
                notices
            }
        };
        self.settled.notices.extend(notices);
        self.settled.deliveries.extend(delivery);
    }

    /// Reads a page of the journal.
    async fn read(&mut self) -> Result<(), StoreError> {
        let from = self.window.read_to();
        let page = self.parts.store.journal.after(from, PAGE).await?;
        let now = self.parts.clock.now();
        if let Some(first) = page.events.first() {
            self.count_missed(from, first.cursor).await?;
        }
        for event in &page.events {
            self.read_event(event, now);
        }
        self.window.read_up_to(page.next);
        Ok(())
    }

    fn read_event(&mut self, event: &Event, now: Timestamp) {
        let webhook = self.wires.webhook.borrow();
        let wanted = Topic::of(&event.body).into_iter().filter(|topic| webhook.topics.contains(*topic));
        let subject = Subject::of(&event.body);
        for topic in wanted {
            let notice = Notice { cursor: event.cursor, topic };
            let written = self.window.read(notice, subject.clone(), event.at.max(self.began), now);
            self.settled.notices.extend(written);
        }
    }

    /// What the journal's retention took before it was read.
    async fn count_missed(&mut self, from: Cursor, first: Cursor) -> Result<(), StoreError> {
        let between = first.0.saturating_sub(from.0 + 1);
        if between == 0 {
            return Ok(());
        }
        let oldest = self.parts.store.journal.after(Cursor(0), 1).await?.events.first().map(|event| event.cursor);
        // Within the journal only damaged events are missing, which the store tells of by itself.
        if oldest == Some(first) && between < REPAIR_GAP {
            let webhook = self.wires.webhook.borrow().id.clone();
            tracing::warn!(%webhook, events = between, "a webhook was so far behind that retention took what it was to be told");
            self.settled.missed += between;
        }
        Ok(())
    }

    /// Takes over the rows that wait.
    async fn reload(&mut self) -> Result<(), StoreError> {
        let id = self.wires.webhook.borrow().id.clone();
        let mut after = None;
        loop {
            let filter = NoticeFilter { parked: false, after, limit: ROWS };
            let rows = self.parts.store.webhooks.notices(&id, filter).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(last.notice);
            for row in rows {
                if self.window.knows(row.notice) {
                    continue;
                }
                if let Some(event) = self.parts.event(row.notice.cursor).await? {
                    self.window.take_back(row, Subject::of(&event.body));
                } else {
                    self.settled.missed += 1;
                    self.settled.notices.push(Settlement::Done(row.notice));
                }
            }
        }
    }

    async fn write_if_due(&mut self) {
        let moved = self.window.safe().0.saturating_sub(self.written.0);
        let Settled { notices, deliveries, missed, .. } = &self.settled;
        let something = !notices.is_empty() || !deliveries.is_empty() || *missed > 0;
        if something || moved >= WRITE_PLACE_EVERY {
            self.persist(Work::Write).await;
        }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        let place = self.window.safe();
        let id = self.wires.webhook.borrow().id.clone();
        let settled = Settled { cursor: Some(place), ..self.settled.clone() };
        let parks = settled.notices.iter().any(|settlement| matches!(settlement, Settlement::Parked(_)));
        if !self.parts.store.webhooks.settle(&id, settled).await? {
            // It was removed: nothing is to be told any more.
            self.wires.stop.cancel();
        }
        self.settled = Settled::default();
        self.written = place;
        if parks {
            tracing::warn!(webhook = %id, "a webhook's events are parked: nobody took them; see `waya webhooks parked`");
            self.parts.changed.send_modify(|changes| *changes += 1);
        }
        Ok(())
    }

    /// Does it to its end, waiting for the store whenever that does not work.
    async fn persist(&mut self, work: Work) {
        let mut waits = false;
        loop {
            let done = match work {
                Work::Reload => self.reload().await,
                Work::Read => self.read().await,
                Work::Write => self.write().await,
            };
            let Err(error) = done else { return };
            if !std::mem::replace(&mut waits, true) {
                tracing::warn!(%error, ?work, "a webhook waits for the store");
            }
            tokio::select! {
                () = self.parts.store.come_back() => {}
                () = self.wires.stop.cancelled() => return,
            }
        }
    }

    /// Lets what is under way end, and writes down what came of it.
    async fn end(mut self) {
        let waited = async {
            while let Some(ended) = self.attempts.join_next().await {
                self.take(ended);
            }
        };
        let _ = tokio::time::timeout(ENDS_WITHIN, waited).await;
        self.attempts.abort_all();
        if let Err(error) = self.write().await {
            tracing::warn!(%error, "a webhook's last deliveries are not written down; they are told again");
        }
    }
}
