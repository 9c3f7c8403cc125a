//! What the phone hands over once an account is linked: names, the chat list and the chats' disappearing timers. Messages are skipped over while the
//! bytes are read, so that none is ever held or kept.
//!
//! Woken by each chunk; reads one at a time, on a blocking thread. Tokens and number pairs of the same chunk are the
//! client library's business, which has taken them already.

use std::sync::Arc;

use tokio::sync::mpsc;
use whatsapp_rust::Jid;
use whatsapp_rust::types::events::LazyHistorySync;
use whatsapp_rust::wacore::history_sync::HistorySyncError;
use whatsapp_rust::waproto::whatsapp::history_sync::HistorySyncType;

use super::context::Context;
use super::convert;
use crate::model::{ChatId, ListedChat, PushName, Timestamp, clean_name};
use crate::session::{History, Person, WaEvent};

/// More chats, or people, of one chunk are left out; a phone sends several chunks.
const MAX_ROWS: usize = 20_000;
/// A time of more seconds than this was given in milliseconds.
const SECONDS_END: u64 = 100_000_000_000;

/// The kinds of chunks that hold names or chats.
const KINDS: [HistorySyncType; 4] =
    [HistorySyncType::INITIAL_BOOTSTRAP, HistorySyncType::FULL, HistorySyncType::RECENT, HistorySyncType::PUSH_NAME];

/// A conversation's envelope. What is not named here, its messages above all, is skipped by the decoder.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint64, optional, tag = "5")]
    last_message: Option<u64>,
    #[prost(uint32, optional, tag = "9")]
    disappears_after: Option<u32>,
    #[prost(uint64, optional, tag = "12")]
    last_activity: Option<u64>,
    #[prost(string, optional, tag = "13")]
    name: Option<String>,
    #[prost(bool, optional, tag = "16")]
    archived: Option<bool>,
    #[prost(uint32, optional, tag = "24")]
    pinned: Option<u32>,
    #[prost(uint64, optional, tag = "25")]
    muted_until: Option<u64>,
    #[prost(string, optional, tag = "38")]
    display_name: Option<String>,
    #[prost(string, optional, tag = "39")]
    phone: Option<String>,
    #[prost(string, optional, tag = "42")]
    lid: Option<String>,
}

/// Until the client's events end.
pub async fn run(context: Arc<Context>, mut chunks: mpsc::UnboundedReceiver<LazyHistorySync>) {
    while let Some(chunk) = chunks.recv().await {
        if !KINDS.iter().any(|kind| *kind as i32 == chunk.sync_type()) {
            continue;
        }
        match tokio::task::spawn_blocking(move || read(&chunk)).await {
            Ok(Ok(read)) => {
                read.warn();
                tracing::debug!(people = read.people.len(), chats = read.chats.len(), "history");
                context.timers.learn_of_history(read.timers).await;
                context.tell(WaEvent::History(History { people: read.people, chats: read.chats }));
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a part of the phone's history cannot be read; its names and chats stay unknown");
            }
            Err(error) if error.is_panic() => {
                tracing::error!("a part of the phone's history was given up by an internal error");
            }
            // The process ends.
            Err(_) => return,
        }
    }
}

/// What a chunk tells.
#[derive(Debug, Default)]
struct Read {
    people: Vec<Person>,
    chats: Vec<ListedChat>,
    /// Seconds after which what is said there disappears.
    timers: Vec<(ChatId, u32)>,
    unreadable: usize,
    left_out: usize,
}

impl Read {
    fn warn(&self) {
        let Self { unreadable, left_out, .. } = self;
        if *unreadable > 0 {
            tracing::warn!(unreadable, "some chats of the phone's history cannot be read");
        }
        if *left_out > 0 {
            tracing::warn!(left_out, "the phone's history has more rows than are taken at once");
        }
    }

    fn person(&mut self, person: Person) {
        if self.people.len() < MAX_ROWS {
            self.people.push(person);
        } else {
            self.left_out += 1;
        }
    }

    fn chat(&mut self, bytes: &[u8]) {
        let Ok(envelope) = <Envelope as prost::Message>::decode(bytes) else {
            self.unreadable += 1;
            return;
        };
        let timer = envelope.disappears_after.filter(|seconds| *seconds > 0);
        match envelope.chat() {
            Some(_) if self.chats.len() == MAX_ROWS => self.left_out += 1,
            Some(chat) => {
                self.timers.extend(timer.map(|seconds| (chat.id.clone(), seconds)));
                self.chats.push(chat);
            }
            // The status chat, broadcast lists, bots.
            None => {}
        }
    }
}

/// All or nothing of a chunk, so that a garbled one leaves no half of a list. Inflates as it goes: the largest
/// conversation is what it holds at once, besides the rows.
fn read(chunk: &LazyHistorySync) -> Result<Read, HistorySyncError> {
    let mut read = Read::default();
    let mut stream = chunk.stream();
    while let Some(conversation) = stream.next_conversation_bytes()? {
        read.chat(conversation);
    }
    let rest = stream.remainder()?;
    for pair in rest.phone_number_to_lid_mappings {
        if let (Some(phone), Some(lid)) = (pair.pn_jid, pair.lid_jid)
            && let (phone @ Some(_), lid @ Some(_)) = phone_and_lid(&phone, Some(&lid))
        {
            read.person(Person { phone, lid, push_name: None });
        }
    }
    for named in rest.pushnames {
        let name = named.pushname.as_deref().and_then(clean_name);
        let (phone, lid) = named.id.as_deref().map_or((None, None), |id| phone_and_lid(id, None));
        if let Some(text) = name
            && (phone.is_some() || lid.is_some())
        {
            // Nobody knows how old it is: what a message says is newer.
            let push_name = Some(PushName { text, at: Timestamp::default() });
            read.person(Person { phone, lid, push_name });
        }
    }
    Ok(read)
}

fn phone_and_lid(address: &str, other: Option<&str>) -> (Option<String>, Option<String>) {
    let other = other.and_then(|other| other.parse::<Jid>().ok());
    let digits = |user: Option<String>| user.filter(|user| user.bytes().all(|b| b.is_ascii_digit()));
    let known = address.parse::<Jid>().ok().map(|jid| convert::phone_and_lid(&jid, other.as_ref()));
    known.map_or((None, None), |(phone, lid)| (digits(phone), digits(lid)))
}

impl Envelope {
    fn chat(self) -> Option<ListedChat> {
        let (id, lid) = self.address()?;
        let names = [self.name.as_deref(), self.display_name.as_deref()];
        Some(ListedChat {
            id,
            lid,
            name: names.into_iter().flatten().find_map(clean_name),
            last_activity: self.last_activity.max(self.last_message).filter(|at| *at > 0).map(time),
            archived: self.archived,
            pinned_at: self.pinned.map(|at| time(at.into())),
            muted_until: self.muted_until.map(time),
        })
    }

    /// By phone whenever one is told, and the LID; `None` for what is no chat of the list.
    fn address(&self) -> Option<(ChatId, Option<String>)> {
        let other = self.phone.as_deref().filter(|phone| !phone.is_empty()).or(self.lid.as_deref());
        let (phone, lid) = phone_and_lid(&self.id, other);
        match (phone, lid) {
            (Some(phone), lid) => Some((ChatId::phone(&phone), lid)),
            (None, Some(lid)) => Some((ChatId::lid(&lid), Some(lid))),
            (None, None) => {
                let listed = self.id.ends_with("@g.us") || self.id.ends_with("@newsletter");
                Some((self.id.parse().ok().filter(|_| listed)?, None))
            }
        }
    }
}

/// WhatsApp's seconds, of which a few senders make milliseconds; the greatest numbers mean for good.
fn time(at: u64) -> Timestamp {
    let millis = if at < SECONDS_END { at.saturating_mul(1_000) } else { at };
    Timestamp::from_millis(if i64::try_from(millis).is_ok() { millis } else { u64::MAX })
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
