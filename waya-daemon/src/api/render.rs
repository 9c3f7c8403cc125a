//! The payloads of webhooks: the same JSON that the other answers show.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::view::{IncomingView, MessageView, SessionView, StatusChangedView};
use crate::deliver::Render;
use crate::model::{Event, EventBody, Incoming, LinkState, Message, Status, StatusChanged, Timestamp, Topic};
use crate::queue::Outlook;
use crate::session::Link;
use crate::store::{ByPhone, Store, StoreError};

/// Makes them from the store's rows.
#[derive(Debug, Clone)]
pub struct Payloads(pub Store);

#[async_trait]
impl Render for Payloads {
    async fn payload(&self, topic: Topic, event: Event) -> Result<Value, StoreError> {
        let at = event.at;
        match event.body {
            EventBody::Message(incoming) => self.incoming(*incoming).await,
            EventBody::Status(changed) => self.status(topic, changed).await,
            EventBody::Link(state) => Ok(session(state, at)),
        }
    }
}

impl Payloads {
    /// As `GET /api/events` shows it.
    async fn incoming(&self, mut incoming: Incoming) -> Result<Value, StoreError> {
        let mut by_phone = ByPhone::new(&self.0);
        by_phone.name(&mut incoming.chat).await;
        by_phone.name(&mut incoming.sender).await;
        Ok(json!(IncomingView::from(incoming)))
    }

    /// As `GET /api/message-status/:id` shows it, as it was when this happened.
    async fn status(&self, topic: Topic, mut changed: StatusChanged) -> Result<Value, StoreError> {
        ByPhone::new(&self.0).name(&mut changed.chat).await;
        if let Some(ack) = topic.ack() {
            changed.ack = changed.ack.min(ack);
        }
        let row = match self.0.outbox.message(changed.id).await {
            Err(StoreError::Damaged(_)) => None,
            row => row?,
        };
        Ok(match row {
            Some(row) => json!(MessageView::new(as_of(row, changed), Outlook::default())),
            // Retention took it: what the journal has is what there is.
            None => json!(StatusChangedView::from(changed)),
        })
    }
}

/// The row without what happened later.
fn as_of(row: Message, changed: StatusChanged) -> Message {
    let StatusChanged { chat, status, ack, error, .. } = changed;
    let when = |topic: Topic, at: Option<Timestamp>| at.filter(|_| topic.ack().is_some_and(|needed| ack >= needed));
    Message {
        chat,
        status,
        ack,
        error,
        sent_at: row.sent_at.filter(|_| status == Status::Sent),
        delivered_at: when(Topic::Delivered, row.delivered_at),
        read_at: when(Topic::Read, row.read_at),
        ..row
    }
}

/// As `GET /api/session` shows it; who is linked stands in the envelope.
fn session(state: LinkState, at: Timestamp) -> Value {
    json!(SessionView::from(&Link { state, since: at, me: None }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::testing::{World, incoming};
    use crate::model::{Ack, Change, ChatId, Cursor, OfflineReason, ReceiptKind};

    async fn payload(world: &World, topic: Topic, body: EventBody) -> Value {
        let event = Event { cursor: Cursor(1), at: Timestamp::from_millis(7), body };
        Payloads(world.store.clone()).payload(topic, event).await.unwrap()
    }

    #[tokio::test]
    async fn a_message_is_shown_as_it_was_then() {
        let world = World::new().await;
        let id = world.accept("6281200000002", "Halo").await;
        world.change(id, Change::Claim).await;
        world.change(id, Change::Receipt { kind: ReceiptKind::Read, at: Timestamp::from_millis(5) }).await;
        let row = world.store.outbox.message(id).await.unwrap().unwrap();
        let changed = |status, ack| StatusChanged {
            id,
            reference_id: None,
            chat: ChatId::phone("6281200000002"),
            status,
            ack,
            error: None,
            before: Some(Ack::None),
        };
        let sent = payload(&world, Topic::Sent, EventBody::Status(changed(Status::Sent, Ack::Read))).await;
        assert_eq!(
            (&sent["status"], &sent["ack"], &sent["message"]),
            (&json!("sent"), &json!("server"), &json!("Halo"))
        );
        assert_eq!((&sent["sentAt"], &sent["readAt"]), (&json!(row.sent_at), &Value::Null));
        let read = payload(&world, Topic::Read, EventBody::Status(changed(Status::Sent, Ack::Read))).await;
        assert_eq!((&read["ack"], &read["readAt"]), (&json!("read"), &json!(row.read_at)));
        let failed = payload(&world, Topic::Failed, EventBody::Status(changed(Status::Failed, Ack::None))).await;
        assert_eq!(
            (&failed["status"], &failed["sentAt"], &failed["hold"]),
            (&json!("failed"), &Value::Null, &Value::Null)
        );
        let gone = StatusChanged {
            id: "0192e5a0-0000-7000-8000-000000000000".parse().unwrap(),
            ..changed(Status::Sent, Ack::Server)
        };
        let gone = payload(&world, Topic::Sent, EventBody::Status(gone)).await;
        assert_eq!((&gone["ack"], &gone["number"]), (&json!("server"), &json!("6281200000002")));
    }

    #[tokio::test]
    async fn what_came_in_and_the_session_look_as_elsewhere() {
        let world = World::new().await;
        let came = payload(&world, Topic::Incoming, EventBody::Message(Box::new(incoming("A", "Halo")))).await;
        insta::assert_json_snapshot!(came, @r#"
        {
          "author": "6281200000002@c.us",
          "body": "Halo",
          "chatId": "120363@g.us",
          "from": "120363@g.us",
          "fromMe": false,
          "id": "A",
          "isGroup": true,
          "senderLid": "991",
          "senderName": "Budi",
          "timestamp": 1800000000000,
          "type": "chat"
        }
        "#);
        let offline = LinkState::Offline { reason: OfflineReason("no network".to_owned()), retry_at: None };
        insta::assert_json_snapshot!(payload(&world, Topic::Session, EventBody::Link(offline)).await, @r#"
        {
          "me": null,
          "pairingCode": null,
          "passkey": null,
          "qr": null,
          "reason": "no network",
          "retryAt": null,
          "since": 7,
          "state": "offline"
        }
        "#);
    }
}
