//! What a sandbox answers, in the shapes of its admin HTTP.

use serde::Serialize;
use waya_proto::v1;

/// `GET /admin/people`.
#[derive(Debug, Clone, Serialize)]
pub struct People {
    people: Vec<Person>,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Serialize)]
struct Person {
    name: String,
    number: String,
    lid: String,
}

#[derive(Debug, Clone, Serialize)]
struct Group {
    id: String,
    subject: String,
    members: Vec<String>,
}

/// `GET /admin/inbox/WHO`.
#[derive(Debug, Clone, Serialize)]
pub struct Inbox {
    messages: Vec<InboxMessage>,
}

#[derive(Debug, Clone, Serialize)]
struct InboxMessage {
    id: String,
    chat: String,
    from: String,
    kind: String,
    text: Option<String>,
    caption: Option<String>,
    media: Option<serde_json::Value>,
    quoted: Option<String>,
    ts: i64,
    copies: u32,
    receipts: Vec<String>,
    #[serde(rename = "receiptTimes")]
    receipt_times: Vec<ReceiptTime>,
}

#[derive(Debug, Clone, Serialize)]
struct ReceiptTime {
    kind: String,
    ts: i64,
}

/// `POST /admin/say`.
#[derive(Debug, Clone, Serialize)]
pub struct Said {
    success: bool,
    id: String,
}

/// A person after a change; the switch that was set stands beside it.
#[derive(Debug, Clone, Serialize)]
pub struct Changed {
    success: bool,
    person: Option<Person>,
    #[serde(skip_serializing_if = "Option::is_none")]
    autoread: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<bool>,
}

/// `POST /admin/fault`.
#[derive(Debug, Clone, Serialize)]
pub struct FaultState {
    success: bool,
    faults: Vec<ActiveFault>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<Kind>,
}

#[derive(Debug, Clone, Serialize)]
struct ActiveFault {
    fault: String,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    times_left: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
struct Kind {
    fault: String,
    does: String,
}

/// `POST /admin/phone`.
#[derive(Debug, Clone, Serialize)]
pub struct Phone {
    success: bool,
    online: bool,
}

/// `POST /admin/clock`.
#[derive(Debug, Clone, Serialize)]
pub struct Clock {
    success: bool,
    time: String,
    ahead_ms: i64,
}

impl From<v1::ClockResponse> for Clock {
    fn from(answer: v1::ClockResponse) -> Self {
        Self { success: true, time: answer.time, ahead_ms: answer.ahead_ms }
    }
}

impl From<v1::Person> for Person {
    fn from(person: v1::Person) -> Self {
        Self { name: person.name, number: person.number, lid: person.lid }
    }
}

impl From<v1::PeopleResponse> for People {
    fn from(answer: v1::PeopleResponse) -> Self {
        let group = |group: v1::SandboxGroup| Group { id: group.id, subject: group.subject, members: group.members };
        Self {
            people: answer.people.into_iter().map(Person::from).collect(),
            groups: answer.groups.into_iter().map(group).collect(),
        }
    }
}

impl From<v1::InboxResponse> for Inbox {
    fn from(answer: v1::InboxResponse) -> Self {
        Self { messages: answer.messages.into_iter().map(InboxMessage::from).collect() }
    }
}

impl From<v1::InboxMessage> for InboxMessage {
    fn from(message: v1::InboxMessage) -> Self {
        Self {
            id: message.id,
            chat: message.chat,
            from: message.from,
            kind: message.kind,
            text: message.text,
            caption: message.caption,
            media: message.media.map(|json| serde_json::from_str(&json).unwrap_or_else(|_| json.into())),
            quoted: message.quoted,
            ts: message.ts,
            copies: message.copies,
            receipts: message.receipts,
            receipt_times: message.receipt_times.into_iter().map(ReceiptTime::from).collect(),
        }
    }
}

impl From<v1::ReceiptTime> for ReceiptTime {
    fn from(time: v1::ReceiptTime) -> Self {
        Self { kind: time.kind, ts: time.ts }
    }
}

impl From<v1::SayResponse> for Said {
    fn from(answer: v1::SayResponse) -> Self {
        Self { success: true, id: answer.id }
    }
}

impl Changed {
    /// A person who read, or was switched.
    pub fn new(answer: v1::PersonResponse, autoread: Option<bool>, online: Option<bool>) -> Self {
        Self { success: true, person: answer.person.map(Person::from), autoread, online }
    }
}

impl From<v1::FaultResponse> for FaultState {
    fn from(answer: v1::FaultResponse) -> Self {
        let fault = |active: v1::ActiveFault| ActiveFault {
            fault: active.fault,
            target: active.target,
            times_left: active.times_left,
            seconds_left: active.seconds_left,
        };
        let kind = |kind: v1::FaultKind| Kind { fault: kind.fault, does: kind.does };
        Self {
            success: true,
            faults: answer.active.into_iter().map(fault).collect(),
            kinds: answer.kinds.into_iter().map(kind).collect(),
        }
    }
}

impl Phone {
    /// The phone as it was switched.
    pub fn new(online: bool) -> Self {
        Self { success: true, online }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_groups() {
        let person =
            v1::Person { name: "Budi".to_owned(), number: "6281200000002".to_owned(), lid: "1@lid".to_owned() };
        let group = v1::SandboxGroup {
            id: "1203@g.us".to_owned(),
            subject: "Keluarga".to_owned(),
            members: vec!["6281200000002".to_owned()],
        };
        let answer = v1::PeopleResponse { people: vec![person], groups: vec![group] };
        let json = serde_json::to_string(&People::from(answer)).unwrap();
        assert_eq!(
            json,
            r#"{"people":[{"name":"Budi","number":"6281200000002","lid":"1@lid"}],"groups":[{"id":"1203@g.us","subject":"Keluarga","members":["6281200000002"]}]}"#
        );
    }

    #[test]
    fn an_inbox() {
        let message = v1::InboxMessage {
            id: "3EB0".to_owned(),
            chat: "6281@c.us".to_owned(),
            from: "6281@c.us".to_owned(),
            kind: "image".to_owned(),
            caption: Some("Halo".to_owned()),
            media: Some(r#"{"mimetype":"image/png"}"#.to_owned()),
            ts: 7,
            copies: 1,
            receipts: vec!["delivered".to_owned(), "read".to_owned()],
            receipt_times: vec![v1::ReceiptTime { kind: "read".to_owned(), ts: 9 }],
            ..v1::InboxMessage::default()
        };
        insta::assert_json_snapshot!(Inbox::from(v1::InboxResponse { messages: vec![message] }), @r#"
        {
          "messages": [
            {
              "id": "3EB0",
              "chat": "6281@c.us",
              "from": "6281@c.us",
              "kind": "image",
              "text": null,
              "caption": "Halo",
              "media": {
                "mimetype": "image/png"
              },
              "quoted": null,
              "ts": 7,
              "copies": 1,
              "receipts": [
                "delivered",
                "read"
              ],
              "receiptTimes": [
                {
                  "kind": "read",
                  "ts": 9
                }
              ]
            }
          ]
        }
        "#);
    }

    #[test]
    fn faults_name_their_target_and_their_end() {
        let fault = |fault: &str, target: &str| v1::ActiveFault {
            fault: fault.to_owned(),
            target: target.to_owned(),
            ..Default::default()
        };
        let limited = v1::ActiveFault { times_left: Some(2), seconds_left: Some(9), ..fault("drop", "628:1") };
        let answer = v1::FaultResponse { active: vec![fault("ack-delay 200", "all"), limited], kinds: Vec::new() };
        assert_eq!(
            serde_json::to_string(&FaultState::from(answer)).unwrap(),
            r#"{"success":true,"faults":[{"fault":"ack-delay 200","target":"all"},{"fault":"drop","target":"628:1","times_left":2,"seconds_left":9}]}"#
        );
    }
}
