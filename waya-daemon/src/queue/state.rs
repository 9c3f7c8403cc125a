//! What waits and what is on its way, in memory: enough to choose the next message without asking the store. Pure.
//!
//! Within a lane, a chat's messages leave in the order of acceptance and one at a time: only the oldest of a chat is a
//! candidate, and none while one is on its way. One that backs off stays at the head, so it holds its own chat only. One
//! with a time of its own joins its chat's line when that has come.

mod kept;
mod line;
mod people;
mod typed;

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::hold::Place;
use super::policy::BACKOFF_LONGEST;
use super::ranks::Ranks;
use crate::model::{ChatId, Lane, MessageId, Timestamp, Typing, WhatsAppId};
use crate::store::OpenMessage;
use kept::Kept;
use line::Line;
use people::People;
use typed::Typed;

/// What is known of one unfinished message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// In whose line it stands: the person's phone whenever that is known, however the message is addressed.
    pub chat: ChatId,
    /// Its lane.
    pub lane: Lane,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Not before this time.
    pub not_before: Option<Timestamp>,
    /// When its next attempt is due.
    pub retry_at: Option<Timestamp>,
    /// On its way.
    pub in_flight: bool,
    /// How often the connection was lost while it was on its way.
    pub cuts: u32,
    /// How often a question about its number found no answer.
    pub unanswered: u32,
    /// How long it has waited offline or backing off, in milliseconds.
    pub troubled: u64,
    /// The id WhatsApp knows it by, from its first attempt on.
    pub whatsapp_id: Option<WhatsAppId>,
    /// It failed or was cancelled before, and the user wants it tried again.
    pub by_hand: bool,
    /// How it is typed; `None` for what nobody types.
    pub typing: Option<Typing>,
    /// It has been typed, or goes without.
    pub typed: bool,
}

/// Everything unfinished.
#[derive(Debug, Default)]
pub struct State {
    entries: HashMap<MessageId, Entry>,
    by_whatsapp_id: HashMap<WhatsAppId, MessageId>,
    /// Those in a line, by lane.
    waiting: [Ranks; 4],
    lines: HashMap<(Lane, ChatId), Line>,
    /// The candidates: the head of each line that waits for nothing but its turn.
    ready: BTreeSet<(Lane, MessageId)>,
    /// Heads that back off.
    backing_off: BTreeSet<(Timestamp, MessageId)>,
    /// Heads to strangers, who may not be written to.
    cold: BTreeSet<(Lane, MessageId)>,
    /// Heads that leave some time after the last message to the same person, and when.
    spaced: BTreeSet<(Timestamp, MessageId)>,
    spaced_until: HashMap<MessageId, Timestamp>,
    /// Not in a line before their time.
    scheduled: BTreeSet<(Timestamp, MessageId)>,
    kept: Kept,
    people: People,
    typed: Typed,
}

impl State {
    /// Takes a message in; one that is here already is left as it is.
    pub fn insert(&mut self, open: OpenMessage, now: Timestamp) {
        if self.entries.contains_key(&open.id) {
            return;
        }
        let entry = Entry {
            chat: self.people.admit(open.id, open.chat),
            lane: open.lane,
            created_at: open.created_at,
            not_before: open.not_before,
            retry_at: open.retry_at,
            in_flight: false,
            cuts: 0,
            unanswered: 0,
            troubled: 0,
            whatsapp_id: None,
            by_hand: false,
            typing: open.typing,
            typed: false,
        };
        let scheduled = entry.not_before.filter(|at| *at > now);
        let key = (entry.lane, entry.chat.clone());
        self.entries.insert(open.id, entry);
        match scheduled {
            Some(at) => drop(self.scheduled.insert((at, open.id))),
            // As if it came back just now.
            None if open.claimed => self.put_back(open.id, open.retry_at, now),
            None => self.join(&key, open.id, now),
        }
    }

    /// Takes one in that the user wants tried again: what it waited through before does not count any more.
    pub fn insert_again(&mut self, open: OpenMessage, now: Timestamp) {
        let id = open.id;
        self.remove(id, now);
        self.insert(OpenMessage { not_before: open.not_before.max(Some(now)), ..open }, now);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.by_hand = true;
        }
    }

    fn join(&mut self, key: &(Lane, ChatId), id: MessageId, now: Timestamp) {
        self.unhead(key);
        self.waiting[key.0 as usize].insert(id);
        self.lines.entry(key.clone()).or_default().waiting.insert(id);
        self.head(key, now);
    }

    /// Takes the head of a line out of the candidates, before the line changes.
    fn unhead(&mut self, key: &(Lane, ChatId)) {
        let Some(head) = self.lines.get(key).and_then(Line::head) else { return };
        self.ready.remove(&(key.0, head));
        self.cold.remove(&(key.0, head));
        self.typed.waits.remove(&(key.0, head));
        if let Some(at) = self.spaced_until.remove(&head) {
            self.spaced.remove(&(at, head));
        }
        if let Some(at) = self.entries.get(&head).and_then(|entry| entry.retry_at) {
            self.backing_off.remove(&(at, head));
        }
    }

    /// Puts the head of a line among the candidates, after the line changed; an empty line goes.
    fn head(&mut self, key: &(Lane, ChatId), now: Timestamp) {
        let Some(line) = self.lines.get(key) else { return };
        match line.head() {
            _ if line.is_empty() => drop(self.lines.remove(key)),
            Some(head) if !line.is_on_its_way() => {
                let backs_off = self.entries.get(&head).and_then(|entry| entry.retry_at).filter(|at| *at > now);
                if let Some(at) = backs_off {
                    self.backing_off.insert((at, head));
                } else if self.kept.is_cold(key) {
                    self.cold.insert((key.0, head));
                } else if let Some(at) = self.kept.spaced(key, head, now) {
                    self.spaced.insert((at, head));
                    self.spaced_until.insert(head, at);
                } else if self.entries.get(&head).is_some_and(|entry| self.typed.holds(head, entry, now)) {
                    if !self.typed.is_under_way(head) {
                        self.typed.waits.insert((key.0, head));
                    }
                } else {
                    self.ready.insert((key.0, head));
                }
            }
            _ => {}
        }
    }

    /// Lets those whose time has come join.
    pub fn wake(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.scheduled.first().copied().filter(|(at, _)| *at <= now) {
            self.scheduled.remove(&(at, id));
            if let Some(key) = self.key(id) {
                self.join(&key, id, now);
            }
        }
        while let Some((at, id)) = self.backing_off.first().copied().filter(|(at, _)| *at <= now) {
            self.backing_off.remove(&(at, id));
            if let Some(key) = self.key(id) {
                self.head(&key, now);
            }
        }
        while let Some((at, id)) = self.spaced.first().copied().filter(|(at, _)| *at <= now) {
            self.spaced.remove(&(at, id));
            self.spaced_until.remove(&id);
            if let Some(key) = self.key(id) {
                self.head(&key, now);
            }
        }
        // Nothing backs off for that long: the clock went back.
        let longest = now.plus(BACKOFF_LONGEST);
        while let Some((at, id)) = self.backing_off.last().copied().filter(|(at, _)| *at > longest) {
            self.backing_off.remove(&(at, id));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.retry_at = None;
            }
            if let Some(key) = self.key(id) {
                self.head(&key, now);
            }
        }
    }

    fn key(&self, id: MessageId) -> Option<(Lane, ChatId)> {
        self.entries.get(&id).map(|entry| (entry.lane, entry.chat.clone()))
    }

    /// The next candidate of the lanes that `may_leave`, best lane first.
    #[must_use]
    pub fn next(&self, may_leave: impl Fn(Lane) -> bool) -> Option<MessageId> {
        // Lanes are few: from each, its oldest.
        Lane::ALL.into_iter().filter(|lane| may_leave(*lane)).find_map(|lane| self.first_of(lane))
    }

    fn first_of(&self, lane: Lane) -> Option<MessageId> {
        let least = MessageId(uuid::Uuid::nil());
        self.ready.range((lane, least)..).next().filter(|(found, _)| *found == lane).map(|(_, id)| *id)
    }

    /// Whether a lane has a candidate.
    #[must_use]
    pub fn has_ready(&self, lane: Lane) -> bool {
        self.first_of(lane).is_some()
    }

    /// When the next one that waits for a time becomes a candidate.
    #[must_use]
    pub fn next_time(&self) -> Option<Timestamp> {
        let first = |set: &BTreeSet<(Timestamp, MessageId)>| set.first().map(|(at, _)| *at);
        [first(&self.scheduled), first(&self.backing_off), first(&self.spaced)].into_iter().flatten().min()
    }

    /// One sets off, or leaves its line because its fate is being settled.
    pub fn start(&mut self, id: MessageId) {
        let Some(key) = self.key(id) else { return };
        self.unschedule(id);
        self.unhead(&key);
        self.waiting[key.0 as usize].remove(id);
        if let Some(line) = self.lines.get_mut(&key) {
            line.set_off(id);
        }
        self.typed.forget(id);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.in_flight = true;
        }
    }

    /// It is back in its line, to be tried at `retry_at` or at once.
    pub fn put_back(&mut self, id: MessageId, retry_at: Option<Timestamp>, now: Timestamp) {
        let Some(key) = self.key(id) else { return };
        self.leave_flight(id, &key);
        self.unhead(&key);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.retry_at = retry_at;
            // After the clock went back it seems longer.
            let backs_off = retry_at.map_or(Duration::ZERO, |at| at.since(now).min(BACKOFF_LONGEST));
            entry.troubled += u64::try_from(backs_off.as_millis()).unwrap_or(u64::MAX);
        }
        self.waiting[key.0 as usize].insert(id);
        self.lines.entry(key.clone()).or_default().come_back(id);
        self.head(&key, now);
    }

    /// It is finished, or gone.
    pub fn remove(&mut self, id: MessageId, now: Timestamp) {
        let Some(key) = self.key(id) else { return };
        self.leave_flight(id, &key);
        self.unschedule(id);
        self.unhead(&key);
        self.waiting[key.0 as usize].remove(id);
        if let Some(line) = self.lines.get_mut(&key) {
            line.leave(id);
        }
        self.people.forget(id, &key.1);
        self.typed.forget(id);
        if let Some(whatsapp_id) = self.entries.remove(&id).and_then(|entry| entry.whatsapp_id) {
            self.by_whatsapp_id.remove(&whatsapp_id);
        }
        self.head(&key, now);
    }

    fn unschedule(&mut self, id: MessageId) {
        if let Some(at) = self.entries.get(&id).and_then(|entry| entry.not_before) {
            self.scheduled.remove(&(at, id));
        }
    }

    /// The id that WhatsApp knows it by is in use from now on.
    pub fn identify(&mut self, id: MessageId, whatsapp_id: WhatsAppId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.by_whatsapp_id.insert(whatsapp_id.clone(), id);
            entry.whatsapp_id = Some(whatsapp_id);
        }
    }

    /// Which unfinished message WhatsApp means.
    #[must_use]
    pub fn by_whatsapp_id(&self, whatsapp_id: &WhatsAppId) -> Option<MessageId> {
        self.by_whatsapp_id.get(whatsapp_id).copied()
    }

    fn leave_flight(&mut self, id: MessageId, key: &(Lane, ChatId)) {
        if let Some(line) = self.lines.get_mut(key) {
            line.land(id);
        }
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.in_flight = false;
        }
    }

    /// Counts a lost connection; how many there were.
    pub fn cut(&mut self, id: MessageId) -> u32 {
        self.entries.get_mut(&id).map_or(0, |entry| {
            entry.cuts += 1;
            entry.cuts
        })
    }

    /// Counts a question that found no answer; how many there were.
    pub fn unanswered(&mut self, id: MessageId) -> u32 {
        self.entries.get_mut(&id).map_or(1, |entry| {
            entry.unanswered += 1;
            entry.unanswered
        })
    }

    /// Whether it has waited longer than `most`, offline or backing off; no limit when that is zero.
    #[must_use]
    pub fn has_waited(&self, id: MessageId, most: Duration) -> bool {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        most > 0 && self.entries.get(&id).is_some_and(|entry| entry.troubled > most)
    }

    /// Adds time spent offline to everything that waited through it and was due; who has had more than `most` now.
    pub fn add_trouble(&mut self, from: Timestamp, to: Timestamp, most: Duration) -> Vec<MessageId> {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        let mut over = Vec::new();
        for (id, entry) in self.entries.iter_mut().filter(|(_, entry)| !entry.in_flight) {
            // Waiting before its own time, or before it was accepted, is no trouble.
            let due =
                [Some(from), Some(entry.created_at), entry.not_before].into_iter().flatten().max().unwrap_or(from);
            entry.troubled += u64::try_from(to.since(due).as_millis()).unwrap_or(u64::MAX);
            if most > 0 && entry.troubled > most && entry.not_before.is_none_or(|at| at <= to) {
                over.push(*id);
            }
        }
        over.sort_unstable();
        over
    }

    /// What is known of one message.
    #[must_use]
    pub fn entry(&self, id: MessageId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// How many are on their way.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.entries.values().filter(|entry| entry.in_flight).count()
    }

    /// Acceptance time of the oldest one that waits for more than a time of its own.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        let oldest = self.waiting.iter().filter_map(Ranks::first).min()?;
        self.entry(oldest).map(|entry| entry.created_at)
    }

    /// How many of a lane stand in line.
    #[must_use]
    pub fn waiting(&self, lane: Lane) -> u64 {
        self.waiting[lane as usize].len() as u64
    }

    /// How many wait for a time of their own.
    #[must_use]
    pub fn scheduled(&self) -> usize {
        self.scheduled.len()
    }

    /// Whether nothing stands in line.
    #[must_use]
    pub fn nothing_waits(&self) -> bool {
        self.waiting.iter().all(|lane| lane.len() == 0)
    }

    /// How many leave before this one, and itself, by lane, then by age; zero when it does not stand in line.
    #[must_use]
    pub fn position(&self, id: MessageId) -> u64 {
        let Some(lane) = self.entries.get(&id).map(|entry| entry.lane as usize) else { return 0 };
        let Some(before) = self.waiting[lane].before(id) else { return 0 };
        let better: usize = self.waiting[..lane].iter().map(Ranks::len).sum();
        (better + before + 1) as u64
    }

    /// Where the messages stand, as of `now`, for whoever asks for many of them.
    #[must_use]
    pub fn places(&self, now: Timestamp) -> Places<'_> {
        Places { state: self, now, held: OnceCell::new() }
    }

    /// Those in the lines whose head waits for more than its turn, sorted, by lane.
    fn held(&self, now: Timestamp) -> [Vec<MessageId>; 4] {
        let mut held: [Vec<MessageId>; 4] = Default::default();
        let later = self.backing_off.iter().chain(&self.spaced).filter(|(at, _)| *at > now).map(|(_, head)| *head);
        for head in later.chain(self.cold.iter().map(|(_, head)| *head)) {
            let Some(key) = self.key(head) else { continue };
            held[key.0 as usize].extend(self.lines.get(&key).into_iter().flat_map(|line| &line.waiting));
        }
        held.iter_mut().for_each(|ids| ids.sort_unstable());
        held
    }
}

/// Where the messages stand.
#[derive(Debug)]
pub struct Places<'a> {
    state: &'a State,
    now: Timestamp,
    /// [`State::held`], for those who ask for a place behind others.
    held: OnceCell<[Vec<MessageId>; 4]>,
}

impl Places<'_> {
    /// The lane and place of one that waits; `None` for one that does not.
    #[must_use]
    pub fn of(&self, id: MessageId) -> Option<(Lane, Place)> {
        let entry = self.state.entry(id).filter(|entry| !entry.in_flight)?;
        let lane = entry.lane;
        let due = entry.not_before.filter(|at| self.state.scheduled.contains(&(*at, id)));
        let place = match due {
            Some(at) => Place::Scheduled(at),
            None => self.in_line(id, entry)?,
        };
        Some((lane, place))
    }

    fn in_line(&self, id: MessageId, entry: &Entry) -> Option<Place> {
        let lane = entry.lane as usize;
        let head = self.state.lines.get(&(entry.lane, entry.chat.clone())).and_then(Line::head)?;
        let backs_off = self.state.entry(head).and_then(|head| head.retry_at).filter(|at| *at > self.now);
        if let Some(at) = backs_off {
            return Some(Place::BackingOff(at));
        }
        if self.state.cold.contains(&(entry.lane, head)) {
            return Some(Place::Cold);
        }
        if let Some(at) = self.state.spaced_until.get(&head).filter(|at| **at > self.now) {
            return Some(Place::Spaced(*at));
        }
        // Those that are held leave some time, not now. Replies have a pace of their own.
        let held = &self.held.get_or_init(|| self.state.held(self.now))[lane];
        let before = self.state.waiting[lane].before(id)? - held.partition_point(|held| *held < id);
        let better = if entry.lane == Lane::Reply { 0 } else { self.moving(Lane::High as usize..lane) };
        Some(Place::InLine { ahead: (better + before) as u64, ready: self.state.ready.contains(&(entry.lane, id)) })
    }

    /// How many of some lanes leave in their turn, as things stand.
    fn moving(&self, lanes: std::ops::Range<usize>) -> usize {
        let held = self.held.get_or_init(|| self.state.held(self.now));
        lanes.map(|lane| self.state.waiting[lane].len() - held[lane].len()).sum()
    }

    /// How many that share its pace would leave before one that joined this lane now.
    #[must_use]
    pub fn ahead_of_a_new_one(&self, lane: Lane) -> u64 {
        let first = if lane == Lane::Reply { Lane::Reply } else { Lane::High };
        self.moving(first as usize..lane as usize + 1) as u64
    }
}
