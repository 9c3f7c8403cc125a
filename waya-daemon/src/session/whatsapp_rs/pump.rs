//! The library's events in the words of the session, one after the other: acks, receipts, and the few messages that
//! the durability hook does not see (channels, and what the phone had to send again).

use std::sync::{Arc, Weak};

use tokio::sync::mpsc;
use whatsapp_rust::Client;
use whatsapp_rust::types::events::{ContactNumberChanged, Event, MessageBatch, Receipt, ServerAck};
use whatsapp_rust::types::presence::ReceiptType;

use super::context::Context;
use super::convert::{self, Address};
use super::phone::is_own;
use crate::model::{NackReason, ReceiptKind, WhatsAppId};
use crate::session::WaEvent;

/// Until the client's events end.
pub async fn run(context: Arc<Context>, client: Weak<Client>, mut events: mpsc::UnboundedReceiver<Arc<Event>>) {
    while let Some(event) = events.recv().await {
        let Some(client) = client.upgrade() else { return };
        match &*event {
            Event::ServerAck(ack) => acked(&context, ack),
            Event::Receipt(receipt) => received(&context, &client, receipt).await,
            Event::Messages(batch) if !batch.hook_committed => unjournalled(&context, &client, batch).await,
            Event::ContactNumberChanged(change) => moved(&context, change),
            Event::GroupUpdate(update) => context.timers.learn_of_group(update).await,
            Event::UndecryptableMessage(_) => {
                tracing::warn!("a message could not be decrypted; its sender was asked to send it again");
            }
            _ => {}
        }
    }
}

fn acked(context: &Context, ack: &ServerAck) {
    if ack.class.as_deref() != Some("message") {
        return;
    }
    let refused = ack.error.as_deref().map(|code| NackReason::from_code(code.parse().unwrap_or_default()));
    context.tell(WaEvent::ServerAck { id: WhatsAppId(ack.id.clone()), refused });
}

/// What a receipt says of somebody else's device. An `inactive` one comes from a device nobody looks at: it has the
/// message all the same.
const fn receipt_kind(kind: &ReceiptType) -> Option<ReceiptKind> {
    match kind {
        ReceiptType::Delivered | ReceiptType::Inactive => Some(ReceiptKind::Delivered),
        ReceiptType::Read => Some(ReceiptKind::Read),
        ReceiptType::Played => Some(ReceiptKind::Played),
        _ => None,
    }
}

async fn received(context: &Context, client: &Arc<Client>, receipt: &Receipt) {
    let source = &receipt.source;
    let at = convert::timestamp(receipt.timestamp.timestamp_millis());
    context
        .phone
        .heard(client, &source.sender, at, context.out.clock.now())
        .into_iter()
        .for_each(|sign| context.tell(sign));
    let Some(kind) = receipt_kind(&receipt.r#type) else { return };
    if is_own(client, &source.sender) {
        return;
    }
    let alternative = source.sender_alt.as_ref();
    let chat = convert::address(client, &source.chat, alternative).await;
    let from = convert::address(client, &source.sender, alternative).await;
    let (Some(chat), Some(from)) = (chat, from) else { return };
    context.people.named(&from).into_iter().for_each(|person| context.tell(person));
    let from_lid = if chat.chat.is_person() { None } else { lid(client, &from).await };
    context.tell(WaEvent::Receipt {
        ids: receipt.message_ids.iter().cloned().map(WhatsAppId).collect(),
        chat: chat.chat,
        from_lid,
        from: from.chat,
        kind,
        at,
    });
}

/// A person's LID: in a group they may be known by it alone.
async fn lid(client: &Client, person: &Address) -> Option<String> {
    if person.lid.is_some() {
        return person.lid.clone();
    }
    let entry = client.get_lid_pn_entry(&convert::jid(&person.chat)).await.ok().flatten()?;
    Some(entry.lid.to_string())
}

/// These were acknowledged already: a failing store loses them.
async fn unjournalled(context: &Context, client: &Arc<Client>, batch: &MessageBatch) {
    let now = context.out.clock.now();
    for message in batch {
        context.people.learn(&message.info, now).into_iter().for_each(|person| context.tell(person));
    }
    let messages = convert::all_incoming(client, &batch.messages, now).await;
    if messages.is_empty() {
        return;
    }
    let count = messages.len();
    if let Err(error) = context.out.inbox.commit(messages).await {
        tracing::error!(%error, count, "messages that WhatsApp will not send again could not be stored");
    }
}

fn moved(context: &Context, change: &ContactNumberChanged) {
    let (phone, lid) = convert::phone_and_lid(&change.new_jid, change.new_lid.as_ref());
    context.people.note(phone, lid, None).into_iter().for_each(|person| context.tell(person));
}
