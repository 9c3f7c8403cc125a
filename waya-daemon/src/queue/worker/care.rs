//! Care for the account, carried out: who is a stranger, when one of them is tried, what counts for a day.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::civil::Date;
use tokio::sync::watch;

use super::{Input, Worker};
use crate::model::{Change, ChatId, Lane, MessageId, NackReason, Timestamp};
use crate::queue::care::limits::{Closed, Limits, Used};
use crate::queue::care::lock::Lock;
use crate::queue::care::tally::Tally;
use crate::queue::care::{linked, marks};
use crate::queue::courier::Courier;
use crate::queue::flights::Stage;
use crate::queue::ledger::Ledger;
use crate::queue::policy::Attempt;
use crate::settings::Snapshot;
use crate::store::ListFilter;

/// WhatsApp has so long to say until when it lets this account write to no strangers.
const LOCK_ANSWER_TAKES: Duration = Duration::from_secs(10);
/// So many of the newest messages are looked at for who was written to when.
const LOOKED_BACK: usize = 5_000;

/// What the worker knows of limits and strangers.
pub(super) struct Care {
    pub(super) limits: Limits,
    pub(super) lock: Option<Lock>,
    /// The message to a stranger that is being tried.
    pub(super) trial: Option<MessageId>,
    /// For which day each that is not finished was counted.
    counted: HashMap<MessageId, Date>,
    tally: Arc<Tally>,
    mark: watch::Sender<Option<Lock>>,
    /// Whose messages these are.
    phone: Option<String>,
}

impl Care {
    /// Goes on where the last run of the daemon left off.
    pub(super) async fn open(ledger: &Ledger, settings: &Snapshot, tally: Arc<Tally>) -> Self {
        let mut limits = Limits::new(settings);
        limits.resume(marks::read::<Used>(ledger, marks::USED).await);
        let lock: Option<Lock> = marks::read(ledger, marks::COLD_CONTACT).await;
        let (mark, marked) = watch::channel(lock);
        tokio::spawn(write_down(ledger.clone(), marked));
        Self { limits, lock, trial: None, counted: HashMap::new(), tally, mark, phone: None }
    }

    /// Why nothing that we start leaves.
    pub(super) fn closed(&self, now: Timestamp) -> Option<Closed> {
        if self.limits.any() { self.limits.closed(now) } else { None }
    }

    /// Whether one message to a stranger is to be tried now.
    pub(super) fn may_try(&self, now: Timestamp) -> bool {
        self.trial.is_none() && self.lock.is_some_and(|lock| lock.may_try(now))
    }

    /// One sets off. Going again on the same day it counts once.
    pub(super) fn sets_off(&mut self, id: MessageId, lane: Lane, now: Timestamp) {
        if lane == Lane::Reply {
            return;
        }
        if self.counted.get(&id) != Some(&self.limits.used(now).day) {
            let day = self.limits.count(now);
            self.counted.insert(id, day);
        }
        self.publish(now);
    }

    /// It did not leave after all.
    pub(super) fn never_left(&mut self, id: MessageId, now: Timestamp) {
        if let Some(day) = self.counted.remove(&id) {
            self.limits.uncount(day);
            self.publish(now);
        }
    }

    /// It is finished.
    pub(super) fn forget(&mut self, id: MessageId) {
        self.counted.remove(&id);
        self.trial = self.trial.filter(|trial| *trial != id);
    }

    fn publish(&self, now: Timestamp) {
        self.tally.set(self.limits.counts().then(|| self.limits.used(now)));
    }

    fn set_lock(&mut self, lock: Option<Lock>) {
        self.lock = lock;
        self.mark.send_replace(lock);
    }
}

impl Worker {
    /// What the last run left: strangers are kept, and who was written to lately is known.
    pub(super) async fn begin_care(&mut self) {
        let now = self.now();
        let gap = self.settings.borrow().recipient_gap;
        self.state.keep_gap(gap, now);
        let typing = self.settings.borrow().typing;
        self.state.type_answers(typing, now);
        if !gap.is_zero() {
            let filter = ListFilter { limit: LOOKED_BACK, ..ListFilter::default() };
            let lately = self.courier.ledger.store.outbox.list(filter).await.unwrap_or_default();
            for message in lately.into_iter().filter(|message| message.claimed && message.lane != Lane::Reply) {
                if let Some(at) = message.sent_at.or(message.finished_at).filter(|at| at.plus(gap) > now) {
                    self.state.left(&message.chat, message.id, at, now);
                }
            }
        }
        if self.care.lock.is_some() {
            self.state.keep_strangers(true, now);
            self.look_up(self.state.people_waited_for());
        }
    }

    /// Limits may have changed.
    pub(super) fn settings_changed(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        self.care.limits.set(&settings);
        self.state.keep_gap(settings.recipient_gap, self.now());
        self.state.type_answers(settings.typing, self.now());
    }

    /// Finds out who of these has written to us, while that matters.
    pub(super) fn look_up(&mut self, chats: Vec<ChatId>) {
        let chats: Vec<_> = chats.into_iter().filter(ChatId::is_person).collect();
        if self.care.lock.is_none() || chats.is_empty() {
            return;
        }
        let Courier { ledger, inputs, .. } = self.courier.clone();
        self.couriers.spawn(async move {
            let mut warm = Vec::new();
            for chat in chats {
                if has_written(&ledger, &chat).await {
                    warm.push(chat);
                }
            }
            let _ = inputs.send(Input::Warm(warm));
        });
    }

    /// WhatsApp counts the recipient as a stranger, and lets us write to none.
    pub(super) fn locked_out(&mut self, id: MessageId) {
        let now = self.now();
        let was_trial = self.care.trial == Some(id);
        match self.care.lock {
            None => {
                tracing::warn!("WhatsApp lets this account write to no strangers for a while; those messages wait");
                self.care.set_lock(Some(Lock::begin(now)));
                self.state.keep_strangers(true, now);
                self.look_up(self.state.people_waited_for());
                self.ask_until_when();
            }
            Some(mut lock) if was_trial => {
                self.care.trial = None;
                lock.refused_again(now);
                self.care.set_lock(Some(lock));
                self.ask_until_when();
            }
            // It had left before that was known.
            Some(_) => {}
        }
        // One that waits is kept where it waits.
        let Some(entry) = self.state.entry(id).filter(|_| self.flights.get(id).is_some()) else { return };
        let chat = entry.chat.clone();
        let stranger = entry.lane != Lane::Reply && chat.is_person();
        if !stranger {
            return self.attempt_ended(id, &Attempt::Refused(NackReason::ReachOutTimelock));
        }
        let Courier { ledger, inputs, .. } = self.courier.clone();
        self.couriers.spawn(async move {
            let wrote = has_written(&ledger, &chat).await;
            let _ = inputs.send(Input::LockedOut(id, wrote));
        });
    }

    /// The same, now that it is known whether the recipient has written to us.
    pub(super) fn kept_or_tried(&mut self, id: MessageId, wrote: bool) {
        let Some(flight) = self.flights.get(id).filter(|flight| flight.stage != Stage::Settling) else { return };
        let Some(chat) = self.state.entry(id).map(|entry| entry.chat.clone()) else { return };
        let (now, attempts) = (self.now(), flight.attempts);
        // Right behind what somebody writes comes what makes them known to WhatsApp: soon it may take it.
        if wrote && attempts < self.settings.borrow().max_attempts {
            self.state.warm([chat], now);
            return self.attempt_ended(id, &Attempt::Refused(NackReason::ReachOutTimelock));
        }
        if wrote {
            self.state.refuse(&chat, now);
        }
        // Not a trouble of its own, and no attempt: it waits with the others.
        let reason = NackReason::ReachOutTimelock.to_string();
        self.settle(id, Change::Postpone { at: now, reason });
    }

    /// The refusal does not say how long it holds, and the user wants to know.
    fn ask_until_when(&mut self) {
        let Courier { session, inputs, .. } = self.courier.clone();
        self.couriers.spawn(async move {
            let answer = AssertUnwindSafe(session.reach_out_locked_until()).catch_unwind();
            let until = match tokio::time::timeout(LOCK_ANSWER_TAKES, answer).await {
                Ok(Ok(until)) => until,
                Ok(Err(_)) | Err(_) => None,
            };
            let _ = inputs.send(Input::LockedUntil(until));
        });
    }

    pub(super) fn locked_until(&mut self, until: Option<Timestamp>) {
        let now = self.now();
        if let Some(mut lock) = self.care.lock {
            lock.told(until, now);
            self.care.set_lock(Some(lock));
        }
    }

    /// The one that was tried got through.
    pub(super) fn unlock(&mut self) {
        if self.care.lock.is_some() {
            tracing::info!("WhatsApp lets this account write to strangers again");
        }
        self.care.trial = None;
        self.care.set_lock(None);
        self.state.keep_strangers(false, self.now());
    }

    /// It is back in its line; as a trial it said nothing.
    pub(super) fn came_back(&mut self, id: MessageId) {
        if self.care.trial == Some(id) {
            self.care.trial = None;
            if let Some(mut lock) = self.care.lock {
                lock.unclear(self.now());
                self.care.set_lock(Some(lock));
            }
        }
    }

    /// Another account may be linked now.
    pub(super) fn look_who_is_linked(&mut self) {
        let phone = self.link.borrow().me.as_ref().map(|me| me.phone.clone());
        let Some(phone) = phone.filter(|phone| self.care.phone.as_ref() != Some(phone)) else { return };
        self.care.phone = Some(phone.clone());
        let Courier { ledger, inputs, .. } = self.courier.clone();
        self.couriers.spawn(async move {
            let since = linked::since(&ledger, &phone).await;
            let _ = inputs.send(Input::Linked(phone, since));
        });
    }

    pub(super) fn linked(&mut self, phone: &str, since: Timestamp) {
        if self.care.phone.as_deref() == Some(phone) {
            self.care.limits.linked(Some(since));
        }
    }

    /// The account is gone, and with it what WhatsApp held against it.
    pub(super) fn account_gone(&mut self) {
        self.unlock();
        self.care.phone = None;
        self.care.limits.linked(None);
        let ledger = self.courier.ledger.clone();
        self.couriers.spawn(async move { linked::forget(&ledger).await });
    }

    /// What we started for this person is given up.
    pub(super) fn give_up(&mut self, chat: &ChatId, reason: &str) {
        for id in self.state.started_for(chat) {
            self.settle(id, Change::Failed { reason: reason.to_owned() });
        }
    }
}

/// Whether this person has ever written to us, as far as is known.
async fn has_written(ledger: &Ledger, chat: &ChatId) -> bool {
    let contacts = &ledger.store.contacts;
    loop {
        let contact = match chat.phone_number() {
            Some(phone) => contacts.by_phone(phone).await,
            None => contacts.by_lid(chat.user()).await,
        };
        match contact {
            Ok(contact) => return contact.is_some_and(|contact| contact.wrote_at.is_some()),
            Err(crate::store::StoreError::Damaged(_)) => return false,
            Err(error) => ledger.wait(&error).await,
        }
    }
}

/// Keeps the mark in the store as it should be; ends with the worker.
async fn write_down(ledger: Ledger, mut mark: watch::Receiver<Option<Lock>>) {
    while mark.changed().await.is_ok() {
        let lock = *mark.borrow_and_update();
        marks::write(&ledger, marks::COLD_CONTACT, lock.as_ref()).await;
    }
}
