//! `GET /api/events`.

use serde::Serialize;
use waya_proto::v1;

/// A page of the journal.
#[derive(Debug, Clone, Serialize)]
pub struct Events {
    events: Vec<Event>,
    next: String,
}

/// One event.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    cursor: String,
    at: i64,
    #[serde(flatten)]
    body: Option<Body>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Body {
    Message { message: Incoming },
    Status { status: StatusChanged },
    Link { link: Link },
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    id: String,
    body: String,
    from: String,
    chat_id: String,
    author: Option<String>,
    sender_lid: Option<String>,
    sender_name: Option<String>,
    from_me: bool,
    #[serde(rename = "type")]
    kind: String,
    timestamp: i64,
    is_group: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusChanged {
    id: String,
    #[serde(rename = "reference_id")]
    reference_id: Option<String>,
    number: String,
    chat_id: String,
    status: String,
    ack: String,
    error: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Link {
    state: String,
    reason: Option<String>,
}

impl From<v1::ReadResponse> for Events {
    fn from(page: v1::ReadResponse) -> Self {
        Self { events: page.events.into_iter().map(Event::from).collect(), next: page.next }
    }
}

impl From<v1::Event> for Event {
    fn from(event: v1::Event) -> Self {
        use v1::event::Body as Told;
        let body = event.body.map(|body| match body {
            Told::Message(message) => Body::Message { message: message.into() },
            Told::Status(status) => Body::Status { status: status.into() },
            Told::Link(link) => Body::Link { link: Link { state: super::link_state(link.state), reason: link.reason } },
        });
        Self { cursor: event.cursor, at: event.at, body }
    }
}

impl From<v1::IncomingMessage> for Incoming {
    fn from(message: v1::IncomingMessage) -> Self {
        // In a group the message comes from the group, and `author` is the person.
        let from = if message.is_group { &message.chat_id } else { &message.sender };
        Self {
            from: from.clone(),
            author: message.is_group.then_some(message.sender),
            id: message.id,
            body: message.body,
            chat_id: message.chat_id,
            sender_lid: message.sender_lid,
            sender_name: message.sender_name,
            from_me: message.from_me,
            kind: message.r#type,
            timestamp: message.timestamp,
            is_group: message.is_group,
        }
    }
}

impl From<v1::StatusChanged> for StatusChanged {
    fn from(changed: v1::StatusChanged) -> Self {
        Self {
            id: changed.id,
            reference_id: changed.reference_id,
            number: changed.number,
            chat_id: changed.chat_id,
            status: super::status(changed.status),
            ack: super::ack(changed.ack),
            error: changed.error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::event::Body as Told;

    fn json(body: Told) -> serde_json::Value {
        let event = v1::Event { cursor: "c1".to_owned(), at: 5, body: Some(body) };
        serde_json::to_value(Event::from(event)).unwrap()
    }

    #[test]
    fn a_group_message_comes_from_the_group_and_names_its_author() {
        let message = v1::IncomingMessage {
            id: "3A".to_owned(),
            chat_id: "1203@g.us".to_owned(),
            sender: "628@c.us".to_owned(),
            r#type: "chat".to_owned(),
            body: "Halo".to_owned(),
            timestamp: 4,
            is_group: true,
            ..v1::IncomingMessage::default()
        };
        insta::assert_json_snapshot!(json(Told::Message(message.clone())), @r#"
        {
          "at": 5,
          "cursor": "c1",
          "message": {
            "author": "628@c.us",
            "body": "Halo",
            "chatId": "1203@g.us",
            "from": "1203@g.us",
            "fromMe": false,
            "id": "3A",
            "isGroup": true,
            "senderLid": null,
            "senderName": null,
            "timestamp": 4,
            "type": "chat"
          },
          "type": "message"
        }
        "#);
        let private = v1::IncomingMessage { is_group: false, chat_id: "628@c.us".to_owned(), ..message };
        let json = json(Told::Message(private));
        assert_eq!((&json["message"]["from"], &json["message"]["author"]), (&"628@c.us".into(), &().into()));
    }

    #[test]
    fn statuses_and_link_states() {
        let status = v1::StatusChanged {
            id: "0192".to_owned(),
            chat_id: "628@c.us".to_owned(),
            number: "628".to_owned(),
            status: v1::Status::Sent.into(),
            ack: v1::Ack::Read.into(),
            ..v1::StatusChanged::default()
        };
        insta::assert_json_snapshot!(json(Told::Status(status)), @r#"
        {
          "at": 5,
          "cursor": "c1",
          "status": {
            "ack": "read",
            "chatId": "628@c.us",
            "error": null,
            "id": "0192",
            "number": "628",
            "reference_id": null,
            "status": "sent"
          },
          "type": "status"
        }
        "#);
        let link = v1::LinkChanged { state: v1::LinkState::Offline.into(), reason: Some("no network".to_owned()) };
        insta::assert_json_snapshot!(json(Told::Link(link)), @r#"
        {
          "at": 5,
          "cursor": "c1",
          "link": {
            "reason": "no network",
            "state": "offline"
          },
          "type": "link"
        }
        "#);
    }
}
