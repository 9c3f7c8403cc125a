//! What a chat sees while an answer to it is typed, carried out: when that begins, so that the message is ready when
//! its turn comes, and when it ends.
//!
//! The message waits in its line meanwhile, on disk as pending: it can be taken back, a crash finds it as it was, and
//! others leave in its stead. What is shown is a task of its own; when it fails, nothing else does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Worker;
use crate::model::{ChatId, Lane, MessageId};
use crate::queue::pace::Turn;
use crate::session::{ChatState, WhatsApp};

/// So many are typed at once; where there is no pace, the rest goes without.
const AT_ONCE: usize = 16;
/// What is shown fades by itself on the other side; it is said again this often …
const SAID_AGAIN: Duration = Duration::from_secs(8);
/// … so many times: whatever holds a message longer, nobody types for that long.
const SAID_AT_MOST: usize = 4;
/// How long saying it may take.
const SAYING_TAKES: Duration = Duration::from_secs(5);

/// One that is being typed, or was and waits for its turn.
#[derive(Debug)]
struct Shown {
    lane: Lane,
    /// Typed by then.
    until: Instant,
    /// When it will leave, as far as the pace is known.
    leaves: Instant,
    typed: bool,
    /// Ends what the chat sees.
    _until_dropped: DropGuard,
}

/// What chats see.
#[derive(Debug, Default)]
pub(super) struct Typists(HashMap<MessageId, Shown>);

impl Typists {
    /// It has left, or does not leave.
    pub(super) fn end(&mut self, id: MessageId) {
        self.0.remove(&id);
    }

    /// Nobody sees anything any more.
    pub(super) fn end_all(&mut self) {
        self.0.clear();
    }

    fn next_typed(&self) -> Option<Instant> {
        self.0.values().filter(|shown| !shown.typed).map(|shown| shown.until).min()
    }
}

impl Worker {
    /// Ends what is typed, and begins with what leaves next.
    pub(super) fn type_ahead(&mut self, now: Instant) {
        let wall = self.now();
        if !self.may_send() {
            for (id, _) in self.typists.0.drain() {
                self.state.interrupt_typing(id, wall);
            }
            return;
        }
        let typed = self.typists.0.iter_mut().filter(|(_, shown)| !shown.typed && shown.until <= now);
        for (id, shown) in typed {
            shown.typed = true;
            self.state.end_typing(*id, wall);
        }
        for lane in Lane::ALL {
            while let Some((id, leaves)) =
                self.next_typist(lane, now).filter(|(_, _, begins)| *begins <= now).map(|(id, leaves, _)| (id, leaves))
            {
                self.begin_typing(id, lane, leaves, now);
            }
        }
    }

    /// Who is typed next in a lane, when it will leave, and when that begins.
    fn next_typist(&self, lane: Lane, now: Instant) -> Option<(MessageId, Instant, Instant)> {
        let id = self.state.next_to_type(lane)?;
        let closed = lane != Lane::Reply && self.care.closed(self.now()).is_some();
        if closed || !self.has_room(lane) || self.rest_until.is_some_and(|until| until > now) {
            return None;
        }
        let gaps = self.gaps();
        let turn = match self.pace.turn(lane, gaps, now) {
            Turn::Now => now,
            Turn::At(at) => at,
            Turn::AfterThis => return None,
        };
        let takes = self.state.entry(id)?.typing?.takes(0.5);
        let is_reply = |lane: Lane| lane == Lane::Reply;
        let same = self.typists.0.values().filter(|shown| is_reply(shown.lane) == is_reply(lane));
        let leaves = slot(turn.max(now + takes), gaps.usual(lane), same.map(|shown| shown.leaves).collect());
        Some((id, leaves, leaves.checked_sub(takes).unwrap_or(now)))
    }

    fn begin_typing(&mut self, id: MessageId, lane: Lane, leaves: Instant, now: Instant) {
        let entry = self.state.entry(id).and_then(|entry| Some((entry.chat.clone(), entry.typing?)));
        let Some((chat, typing)) = entry.filter(|_| self.typists.0.len() < AT_ONCE) else {
            return self.state.end_typing(id, self.now());
        };
        self.state.begin_typing(id);
        let what = if typing.recording { ChatState::Recording } else { ChatState::Typing };
        let ended = CancellationToken::new();
        tokio::spawn(show(Arc::clone(&self.courier.session), chat, what, ended.clone()));
        // Chance moves the end a little, and nobody's place.
        let until = now + typing.takes(rand::random());
        self.typists.0.insert(id, Shown { lane, until, leaves, typed: false, _until_dropped: ended.drop_guard() });
    }

    /// When time brings the next thing here.
    pub(super) fn next_typing(&self, now: Instant) -> Option<Instant> {
        let begins = Lane::ALL.into_iter().filter_map(|lane| self.next_typist(lane, now)).map(|(_, _, begins)| begins);
        begins.chain(self.typists.next_typed()).min()
    }
}

/// When one leaves that could at `earliest`, behind those that leave before it. One that is typed for longer is not
/// waited for: whoever is ready first takes the turn.
fn slot(earliest: Instant, gap: Duration, mut others: Vec<Instant>) -> Instant {
    others.sort_unstable();
    others.into_iter().fold(earliest, |leaves, other| if other <= leaves { leaves.max(other + gap) } else { leaves })
}

/// Shows it until `ended`, and that it is over then.
async fn show(session: Arc<dyn WhatsApp>, chat: ChatId, what: ChatState, ended: CancellationToken) {
    for _ in 0..SAID_AT_MOST {
        if !say(&*session, &chat, what).await {
            break;
        }
        if ended.run_until_cancelled(tokio::time::sleep(SAID_AGAIN)).await.is_none() {
            break;
        }
    }
    say(&*session, &chat, ChatState::Paused).await;
}

async fn say(session: &dyn WhatsApp, chat: &ChatId, what: ChatState) -> bool {
    match tokio::time::timeout(SAYING_TAKES, session.show(chat, what)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, ?what, "a chat is not shown what is done for it");
            false
        }
        Err(_) => false,
    }
}
