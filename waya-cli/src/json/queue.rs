//! `POST /api/send-message`, `GET /api/message-status/:id` and `GET /api/queue`.

use serde::Serialize;
use waya_proto::v1;

use super::session::QueueSummary;

/// What was accepted.
#[derive(Debug, Clone, Serialize)]
pub struct SendAnswer {
    success: bool,
    id: Option<String>,
    reference_id: Option<String>,
    status: String,
    #[serde(rename = "dryRun", skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    messages: Vec<Accepted>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<Fits>,
}

/// When the messages of a dry run would leave.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fits {
    today: u64,
    later: u64,
    last_leaves_at: Option<i64>,
    held: HeldUp,
}

#[derive(Debug, Clone, Serialize)]
struct HeldUp {
    cold_contact: u64,
}

/// How many messages were taken back.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cleared {
    /// So many.
    pub cleared: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Accepted {
    id: Option<String>,
    reference_id: Option<String>,
    number: String,
    #[serde(rename = "chatId")]
    chat_id: String,
    status: String,
    position: u64,
}

impl SendAnswer {
    /// The answer of a request, which may have been a dry run.
    pub fn new(answer: v1::SendResponse, dry_run: bool) -> Self {
        let messages: Vec<Accepted> = answer.messages.into_iter().map(Accepted::from).collect();
        let first = messages.first();
        Self {
            success: true,
            id: first.and_then(|first| first.id.clone()),
            reference_id: first.and_then(|first| first.reference_id.clone()),
            status: first.map_or_else(|| "pending".to_owned(), |first| first.status.clone()),
            dry_run,
            messages,
            duplicates: answer.duplicates,
            fits: answer.fits.map(|fits| Fits {
                today: fits.today,
                later: fits.later,
                last_leaves_at: fits.last_leaves_at,
                held: HeldUp { cold_contact: fits.cold_contact },
            }),
        }
    }
}

impl From<v1::Accepted> for Accepted {
    fn from(accepted: v1::Accepted) -> Self {
        Self {
            id: Some(accepted.id).filter(|id| !id.is_empty()),
            reference_id: accepted.reference_id,
            number: accepted.number,
            chat_id: accepted.chat_id,
            status: super::status(accepted.status),
            position: accepted.position,
        }
    }
}

/// What was accepted, and how far it got while it was waited for: the first message's status with all of them below.
#[derive(Debug, Clone, Serialize)]
pub struct WaitedAnswer {
    success: bool,
    #[serde(flatten)]
    first: Option<Message>,
    messages: Vec<Message>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<String>,
}

impl WaitedAnswer {
    /// The messages in the order they were accepted.
    pub fn new(messages: Vec<v1::Message>, duplicates: Vec<String>) -> Self {
        let messages: Vec<Message> = messages.into_iter().map(Message::from).collect();
        Self { success: true, first: messages.first().cloned(), messages, duplicates }
    }
}

/// One message.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    id: String,
    #[serde(rename = "reference_id")]
    reference_id: Option<String>,
    number: String,
    chat_id: String,
    #[serde(rename = "message")]
    text: String,
    status: String,
    error: Option<String>,
    created_at: i64,
    sent_at: Option<i64>,
    delivered_at: Option<i64>,
    read_at: Option<i64>,
    ack: String,
    receipts: Option<Receipts>,
    whatsapp_id: String,
    source: String,
    attempts: u32,
    hold: Option<Hold>,
    position: u64,
    estimated_at: Option<i64>,
}

#[derive(Debug, Clone, Serialize)]
struct Receipts {
    members: u32,
    delivered: u32,
    read: u32,
}

#[derive(Debug, Clone, Serialize)]
struct Hold {
    reason: String,
    until: Option<i64>,
}

impl From<v1::Receipts> for Receipts {
    fn from(seen: v1::Receipts) -> Self {
        Self { members: seen.members, delivered: seen.delivered, read: seen.read }
    }
}

impl From<v1::Message> for Message {
    fn from(message: v1::Message) -> Self {
        Self {
            id: message.id,
            reference_id: message.reference_id,
            number: message.number,
            chat_id: message.chat_id,
            text: message.message,
            status: super::status(message.status),
            error: message.error,
            created_at: message.created_at,
            sent_at: message.sent_at,
            delivered_at: message.delivered_at,
            read_at: message.read_at,
            ack: super::ack(message.ack),
            receipts: message.receipts.map(Receipts::from),
            whatsapp_id: message.whatsapp_id,
            source: message.source,
            attempts: message.attempts,
            hold: message.hold.map(|hold| Hold { reason: hold.reason, until: hold.until }),
            position: message.position,
            estimated_at: message.estimated_at,
        }
    }
}

/// One message, and all that share its reference when there are several.
#[derive(Debug, Clone, Serialize)]
pub struct MessageStatus {
    #[serde(flatten)]
    message: Message,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
}

impl From<v1::GetMessageResponse> for MessageStatus {
    fn from(answer: v1::GetMessageResponse) -> Self {
        Self {
            message: answer.message.unwrap_or_default().into(),
            messages: answer.messages.into_iter().map(Message::from).collect(),
            total: answer.total,
        }
    }
}

/// A page of the queue.
#[derive(Debug, Clone, Serialize)]
pub struct Queue {
    #[serde(flatten)]
    summary: QueueSummary,
    messages: Vec<Message>,
    next: Option<String>,
}

impl From<v1::ListResponse> for Queue {
    fn from(list: v1::ListResponse) -> Self {
        Self {
            summary: list.summary.unwrap_or_default().into(),
            messages: list.messages.into_iter().map(Message::from).collect(),
            next: list.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> v1::Message {
        v1::Message {
            id: "0192".to_owned(),
            number: "6281200000002".to_owned(),
            chat_id: "6281200000002@c.us".to_owned(),
            message: "Halo".to_owned(),
            status: v1::Status::Pending.into(),
            created_at: 1,
            ack: v1::Ack::None.into(),
            whatsapp_id: "3EB0".to_owned(),
            source: "cli".to_owned(),
            hold: Some(v1::Hold { reason: "offline".to_owned(), until: None }),
            position: 3,
            ..v1::Message::default()
        }
    }

    #[test]
    fn an_acceptance() {
        let accepted = v1::Accepted {
            id: "0192".to_owned(),
            reference_id: Some("order-7".to_owned()),
            number: "6281200000002".to_owned(),
            chat_id: "6281200000002@c.us".to_owned(),
            status: v1::Status::Pending.into(),
            position: 1,
        };
        let answer = v1::SendResponse { messages: vec![accepted.clone()], ..v1::SendResponse::default() };
        insta::assert_json_snapshot!(SendAnswer::new(answer, false), @r#"
        {
          "success": true,
          "id": "0192",
          "reference_id": "order-7",
          "status": "pending",
          "messages": [
            {
              "id": "0192",
              "reference_id": "order-7",
              "number": "6281200000002",
              "chatId": "6281200000002@c.us",
              "status": "pending",
              "position": 1
            }
          ]
        }
        "#);
        let dry = v1::Accepted { id: String::new(), position: 0, ..accepted };
        let answer = v1::SendResponse {
            messages: vec![dry],
            duplicates: vec!["+62 812".to_owned()],
            fits: Some(v1::Fits::default()),
        };
        let json = serde_json::to_value(SendAnswer::new(answer, true)).unwrap();
        assert_eq!((&json["id"], &json["dryRun"]), (&serde_json::Value::Null, &true.into()));
        assert_eq!(json["duplicates"][0], "+62 812");
        assert_eq!(json["fits"].to_string(), r#"{"held":{"cold_contact":0},"lastLeavesAt":null,"later":0,"today":0}"#);
    }

    #[test]
    fn a_message() {
        let answer = v1::GetMessageResponse { message: Some(message()), messages: vec![], total: None };
        insta::assert_json_snapshot!(MessageStatus::from(answer), @r#"
        {
          "id": "0192",
          "reference_id": null,
          "number": "6281200000002",
          "chatId": "6281200000002@c.us",
          "message": "Halo",
          "status": "pending",
          "error": null,
          "createdAt": 1,
          "sentAt": null,
          "deliveredAt": null,
          "readAt": null,
          "ack": "none",
          "receipts": null,
          "whatsappId": "3EB0",
          "source": "cli",
          "attempts": 0,
          "hold": {
            "reason": "offline",
            "until": null
          },
          "position": 3,
          "estimatedAt": null
        }
        "#);
        let shared =
            v1::GetMessageResponse { message: Some(message()), messages: vec![message(), message()], total: Some(2) };
        let json = serde_json::to_value(MessageStatus::from(shared)).unwrap();
        assert_eq!(json["messages"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn what_was_waited_for_has_the_fields_of_both_answers() {
        let json = serde_json::to_value(WaitedAnswer::new(vec![message(), message()], vec![])).unwrap();
        assert_eq!(json["success"], true);
        assert_eq!((&json["id"], &json["ack"]), (&"0192".into(), &"none".into()));
        assert_eq!(json["messages"][1]["hold"]["reason"], "offline");
    }

    #[test]
    fn a_page_of_the_queue_has_the_counts_beside_the_messages() {
        let list = v1::ListResponse { messages: vec![message()], ..v1::ListResponse::default() };
        let json = serde_json::to_value(Queue::from(list)).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["cancelled", "failed", "messages", "next", "oldestPendingAt", "paused", "pending", "sending", "sent"]
        );
    }
}
