//! What is asked of a sandbox and what it answers, in the shapes of the admin HTTP.

use serde::{Deserialize, Serialize};

use crate::emulator::{AccountInfo, ActiveFault, FaultKind, GroupInfo, ScannedDevice};
use crate::people::inbox::InboxEntry;
use crate::people::typing::Typing;

/// The simulated people and the groups. The own account is not among the people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeopleList {
    /// In the order of their numbers.
    pub people: Vec<PersonView>,
    /// The group of the own account and the first people comes first.
    pub groups: Vec<GroupView>,
}

/// One simulated person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonView {
    /// The push name.
    pub name: String,
    /// Digits with the country code.
    pub number: String,
    /// `…@lid`.
    pub lid: String,
}

impl From<&AccountInfo> for PersonView {
    fn from(account: &AccountInfo) -> Self {
        Self { name: account.name.clone(), number: account.phone.clone(), lid: format!("{}@lid", account.lid) }
    }
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// `…@g.us`.
    pub id: String,
    /// Its name.
    pub subject: String,
    /// The members' numbers.
    pub members: Vec<String>,
}

impl From<GroupInfo> for GroupView {
    fn from(group: GroupInfo) -> Self {
        Self { id: group.jid, subject: group.subject, members: group.members }
    }
}

/// Somebody new.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonRequest {
    /// The push name, which nobody else has.
    pub name: String,
    /// The phone number; without it the next one that nobody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// A business account.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub business: bool,
}

/// A group to be made. One of this name that is there gets those members that it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRequest {
    /// Its name.
    pub subject: String,
    /// Names, numbers or `me`; the first one makes it.
    pub members: Vec<String>,
}

/// What one person received, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxList {
    /// One row per chat, sender and id.
    pub messages: Vec<InboxEntry>,
}

/// Whom a person saw typing or recording, the newest last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypingList {
    /// As their client was told.
    pub typing: Vec<Typing>,
}

/// Something for a person to send. With neither `group` nor `to` it goes to the own account, or to where the message
/// was that it answers or reacts to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SayRequest {
    /// Who speaks: a name or a number.
    #[serde(alias = "who")]
    pub from: String,
    /// The text, sent byte for byte; with a file its caption, with `react` the emoji.
    #[serde(default)]
    pub text: String,
    /// A group's id or subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Another person's name or number, `me`, or any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// A file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<SayMedia>,
    /// The id of a message in the person's inbox that this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<String>,
    /// The id of a message in the person's inbox that this one reacts to; an empty text takes the reaction back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub react: Option<String>,
}

/// A file for a person to send.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SayMedia {
    /// Its bytes in base64.
    pub data: String,
    /// MIME type; `image/…`, `video/…` and `audio/…` are shown as such, `image/webp` is a sticker, everything else a
    /// document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mimetype: Option<String>,
    /// Name, shown of documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Sound is a voice note.
    #[serde(default)]
    pub voice: bool,
}

/// A text that is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The message id.
    pub id: String,
    /// The chat it was sent to: `…@c.us` or `…@g.us`.
    pub chat: String,
    /// Whether the server's ack came: without one, nobody knows.
    pub acknowledged: bool,
}

/// What a person read just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDone {
    /// Who.
    pub person: PersonView,
    /// How many messages.
    pub read: usize,
}

/// A fault to switch on. `off` switches all off (of the target, where one is named), `list` nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRequest {
    /// The fault's words, for example `ack-delay 200`; the number may stand in `args` instead.
    #[serde(alias = "fault")]
    pub kind: String,
    /// Further words.
    #[serde(default)]
    pub args: Words,
    /// A name, a number, `me`, or `all`; `:N` behind it means its linked device N alone. Without it the fault hits everybody, but `replaced` and
    /// `logged-out` spare the simulated people.
    #[serde(default, alias = "who", skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// It ends after it struck so many times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// It ends after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// Words given as a list or as one value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Words {
    /// `["200"]` or `[200]`.
    Many(Vec<Word>),
    /// `"200"` or `200`.
    One(Word),
}

impl Default for Words {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

/// A word given as text or as a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// As text.
    Text(String),
    /// As a number.
    Number(u64),
}

impl FaultRequest {
    /// The whole text of the fault, as the emulator reads it.
    pub fn text(&self) -> String {
        let args = match &self.args {
            Words::Many(words) => words.as_slice(),
            Words::One(word) => std::slice::from_ref(word),
        };
        let mut text = self.kind.trim().to_owned();
        for word in args {
            text.push(' ');
            match word {
                Word::Text(word) => text.push_str(word),
                Word::Number(number) => text.push_str(&number.to_string()),
            }
        }
        text
    }
}

/// The faults that are on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultList {
    /// In no particular order.
    pub faults: Vec<FaultView>,
    /// All that there are; told to who asks for the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<KindView>,
}

/// A fault that is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultView {
    /// For example `ack-delay 200`.
    pub fault: String,
    /// `all`, a number, or a number and a device: `628…:2`.
    pub target: String,
    /// How many more times; without it, until it is switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times_left: Option<u32>,
    /// For how many seconds more; without it, until it is switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

impl From<ActiveFault> for FaultView {
    fn from(active: ActiveFault) -> Self {
        Self {
            fault: active.fault.to_string(),
            target: active.target.to_string(),
            times_left: active.left,
            seconds_left: active.ends_in.map(|left| left.as_secs()),
        }
    }
}

/// A fault that can be switched on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindView {
    /// Its name and what it takes, for example `ack-delay MS`.
    pub fault: String,
    /// What it does.
    pub does: String,
}

impl From<FaultKind> for KindView {
    fn from(kind: FaultKind) -> Self {
        let argument = kind.argument.map(|argument| format!(" {argument}")).unwrap_or_default();
        Self { fault: format!("{}{argument}", kind.name), does: kind.does.to_owned() }
    }
}

/// A client that was just linked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// The account it belongs to now.
    pub phone: String,
    /// Its device number.
    pub device: u16,
    /// `PHONE:DEVICE@s.whatsapp.net`.
    pub jid: String,
    /// `LID:DEVICE@lid`.
    pub lid: String,
}

impl From<ScannedDevice> for Linked {
    fn from(device: ScannedDevice) -> Self {
        Self { phone: device.phone, device: device.device, jid: device.jid, lid: device.lid }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_however_its_number_is_given() {
        for body in [
            r#"{"kind":"ack-delay","args":["200"]}"#,
            r#"{"kind":"ack-delay","args":[200]}"#,
            r#"{"kind":"ack-delay","args":200}"#,
            r#"{"kind":"ack-delay","args":"200"}"#,
            r#"{"kind":"ack-delay 200"}"#,
            r#"{"fault":"ack-delay 200"}"#,
        ] {
            let request: FaultRequest = serde_json::from_str(body).unwrap();
            assert_eq!(request.text(), "ack-delay 200", "{body}");
        }
    }
}
