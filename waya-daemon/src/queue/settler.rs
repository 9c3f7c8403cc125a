//! Carries out what is decided about rows, in the order of the decisions and many at a time, so that they share
//! commits and what is announced of a message never goes back.

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::ledger::Ledger;
use super::worker::Input;
use crate::model::{Change, Member, MessageId, Status, Timestamp, WhatsAppId};
use crate::store::Changed;

/// So many changes are under way at once.
const AT_ONCE: usize = 256;

/// Which row.
#[derive(Debug)]
pub(super) enum Target {
    /// By its queue id.
    Row(MessageId),
    /// One that is not in the worker's memory: finished long ago, or not a message of this queue at all.
    Sent(WhatsAppId),
}

/// What is to become of a row.
#[derive(Debug)]
pub(super) struct Settle {
    pub(super) target: Target,
    /// The member of a group on whose word; by every address known.
    pub(super) from: Vec<Member>,
    pub(super) change: Change,
    /// When it was decided.
    pub(super) at: Timestamp,
}

/// Where a row stands after a change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    pub(super) id: MessageId,
    /// `None`: there is no such row.
    pub(super) status: Option<Status>,
    /// When it is to be tried again.
    pub(super) retry_at: Option<Timestamp>,
}

/// Works until nobody can ask any more and everything asked for is done.
pub(super) async fn run(ledger: Ledger, asked: mpsc::UnboundedReceiver<Settle>, inputs: mpsc::UnboundedSender<Input>) {
    let settled = UnboundedReceiverStream::new(asked).map(|asked| settle(&ledger, asked)).buffered(AT_ONCE);
    let mut settled = std::pin::pin!(settled);
    while let Some(settled) = settled.next().await {
        let Some((settled, changed)) = settled else { continue };
        // The worker first: whoever sees the announcement and asks for a retry must not be ahead of it.
        let _ = inputs.send(Input::Settled(settled));
        ledger.announce(&changed);
    }
}

async fn settle(ledger: &Ledger, asked: Settle) -> Option<(Settled, Changed)> {
    let Settle { target, from, change, at } = asked;
    let id = match target {
        Target::Row(id) => id,
        // Ids of other devices of this account, and of messages pruned long ago, are nobody's here.
        Target::Sent(whatsapp_id) => ledger.by_whatsapp_id(&whatsapp_id).await?,
    };
    let retry_at = match &change {
        Change::Retry { at, .. } | Change::Postpone { at, .. } => Some(*at),
        _ => None,
    };
    let changed = ledger.change(id, of_member(ledger, id, &from, change).await, at).await;
    let status = match &changed {
        Changed::Yes(message) | Changed::Already(message) => Some(message.status),
        Changed::Refused(refusal) => Some(refusal.status),
        Changed::Unknown => None,
    };
    Some((Settled { id, status, retry_at }, changed))
}

/// A receipt with which of those who were in the group as the message left it is of.
async fn of_member(ledger: &Ledger, id: MessageId, from: &[Member], change: Change) -> Change {
    let Change::Receipt { kind, at } = change else { return change };
    if from.is_empty() {
        return change;
    }
    let roster = ledger.roster(id).await;
    match roster.and_then(|roster| roster.position(from)) {
        Some(member) => Change::MemberReceipt { kind, at, member },
        None => change,
    }
}
