//! The shapes of all answers: exactly the JSON bodies of HTTP and of `waya --json`.

use serde::Serialize;

pub use crate::requests::{Row as RequestView, Side as RequestSideView, Summary as RequestSummaryView};

use crate::model::{Ack, ChatId, MessageId, Source, Status, Timestamp};

/// `POST /api/send-message`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SendAnswer {
    /// Always true: refusals are errors.
    pub success: bool,
    /// The first message's id; none in a dry run.
    pub id: Option<MessageId>,
    /// The first message's reference.
    pub reference_id: Option<String>,
    /// The first message's status.
    pub status: Status,
    /// Nothing was queued: it was only checked.
    #[serde(rename = "dryRun", skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// One row for each recipient.
    pub messages: Vec<AcceptedView>,
    /// Recipients that were named more than once, as written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub duplicates: Vec<String>,
    /// In a dry run: when they would leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fits: Option<FitsView>,
}

/// When the messages of a dry run would leave, as if the link were up and the queue ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FitsView {
    /// So many today.
    pub today: u64,
    /// So many on later days.
    pub later: u64,
    /// When the last one does, as far as anybody can tell.
    pub last_leaves_at: Option<Timestamp>,
    /// How many wait for something else, by its word.
    pub held: HeldView,
}

/// How many wait for something of which nobody knows the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HeldView {
    /// To people who never wrote to this account, while WhatsApp lets it write to none of them.
    pub cold_contact: u64,
}

/// The do-not-send list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptOutsView {
    /// Everybody on it, the newest first.
    pub opt_outs: Vec<OptOutView>,
}

/// Somebody who wants no more messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptOutView {
    /// The phone's digits, else the chat's address.
    pub number: String,
    /// The chat's address.
    pub chat_id: ChatId,
    /// Since when.
    pub since: Timestamp,
    /// Whose word that was: `person` or `hand`.
    pub by: &'static str,
}

/// How many messages were taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClearView {
    /// So many.
    pub cleared: u64,
}

/// One accepted message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceptedView {
    /// The queue id; none in a dry run.
    pub id: Option<MessageId>,
    /// The caller's own id.
    pub reference_id: Option<String>,
    /// The phone's digits, else the chat's address.
    pub number: String,
    /// The chat's address.
    #[serde(rename = "chatId")]
    pub chat_id: ChatId,
    /// Where it stands.
    pub status: Status,
    /// Its place among the waiting ones: 1 leaves next, 0 does not wait any more.
    pub position: u64,
}

/// `GET /api/message-status/:id`; times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageView {
    /// The queue id.
    pub id: MessageId,
    /// The caller's own id.
    #[serde(rename = "reference_id")]
    pub reference_id: Option<String>,
    /// The phone's digits, else the chat's address.
    pub number: String,
    /// The chat's address.
    pub chat_id: ChatId,
    /// The text, byte for byte.
    pub message: String,
    /// Where it stands.
    pub status: Status,
    /// Why it failed, or why the last attempt did not succeed.
    pub error: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When the server's ack was seen.
    pub sent_at: Option<Timestamp>,
    /// When a recipient's device confirmed it.
    pub delivered_at: Option<Timestamp>,
    /// When it was read.
    pub read_at: Option<Timestamp>,
    /// How far it got on the other side; in a group with all of its members.
    pub ack: Ack,
    /// In a group: how many of how many have it; none in private chats, and where nobody counted.
    pub receipts: Option<ReceiptsView>,
    /// The id WhatsApp knows it by.
    pub whatsapp_id: String,
    /// Which door it came through.
    pub source: Source,
    /// Attempts spent.
    pub attempts: u32,
    /// Why it waits, while it does.
    pub hold: Option<HoldView>,
    /// How many stand before it in line, and itself; 0 when it stands in none.
    pub position: u64,
    /// When it will leave, while it waits and as far as anybody can tell.
    pub estimated_at: Option<Timestamp>,
    /// All messages that share the reference, newest first, up to 10,000; empty when there is only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageView>,
    /// How many share the reference, when several do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// How many of a group's members have a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReceiptsView {
    /// How many were in the group as it left, the own account left out.
    pub members: u32,
    /// How many of them have it.
    pub delivered: u32,
    /// How many of them have read it.
    pub read: u32,
}

/// Why a pending message waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HoldView {
    /// `pace`, `offline`, `paused`, `scheduled`, `backoff`, `cap`, `quiet_hours`, `cold_contact`.
    pub reason: &'static str,
    /// Until when, if that is known.
    pub until: Option<Timestamp>,
}

/// How many messages stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueSummary {
    /// Nothing leaves until it is resumed.
    pub paused: bool,
    /// Waiting.
    pub pending: u64,
    /// On their way.
    pub sending: u64,
    /// Acknowledged by the server.
    pub sent: u64,
    /// Given up.
    pub failed: u64,
    /// Taken back.
    pub cancelled: u64,
    /// When the oldest one waiting was accepted.
    pub oldest_pending_at: Option<Timestamp>,
}

/// `GET /api/queue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueView {
    /// How many stand where.
    #[serde(flatten)]
    pub summary: QueueSummary,
    /// Messages, newest first.
    pub messages: Vec<MessageView>,
    /// `before` of the next page, when there may be one.
    pub next: Option<MessageId>,
}

/// `GET /api/session`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    /// The state's word.
    pub state: &'static str,
    /// Since when.
    pub since: Timestamp,
    /// Why it is in this state, in words.
    pub reason: Option<String>,
    /// When the next attempt is due, or a ban ends.
    pub retry_at: Option<Timestamp>,
    /// Who is linked.
    pub me: Option<AccountView>,
    /// The QR code to scan, while there is one.
    pub qr: Option<QrView>,
    /// The code to type on the phone, while there is one.
    pub pairing_code: Option<String>,
    /// The passkey that WhatsApp asks for, while it can be answered.
    pub passkey: Option<PasskeyView>,
}

/// A passkey that WhatsApp asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasskeyView {
    /// Whose turn it is: `asked` (an answer is wanted), `compare` (the code is to be confirmed), `answered` (WhatsApp's).
    pub step: &'static str,
    /// What the passkey is to sign, while an answer is wanted: `PublicKeyCredentialRequestOptions` as JSON.
    pub request: Option<serde_json::Value>,
    /// When the request stops being of use, as far as it says so.
    pub expires_at: Option<Timestamp>,
    /// The code to compare with the one on the phone, while it is to be confirmed.
    pub code: Option<String>,
}

/// What became of a logout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutView {
    /// The link after it.
    pub session: SessionView,
    /// WhatsApp was not told, or did not confirm: the phone still lists this device.
    pub still_listed: bool,
}

/// The linked account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountView {
    /// Digits with country code.
    pub number: String,
    /// LID digits.
    pub lid: Option<String>,
    /// The account's own name.
    pub name: String,
}

/// A QR code to scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QrView {
    /// What it says.
    pub text: String,
    /// A PNG picture of it, in base64.
    pub png: String,
    /// When it stops working; a new one comes then.
    pub expires_at: Option<Timestamp>,
}

/// `GET /api/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// The link to WhatsApp; its fields stand beside the others.
    #[serde(flatten)]
    pub session: SessionView,
    /// The queue.
    pub queue: QueueSummary,
    /// When anything was last heard from WhatsApp.
    pub last_traffic_at: Option<Timestamp>,
    /// The daemon's version.
    pub version: &'static str,
    /// The profile's name.
    pub profile: String,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// Where HTTP is served; none when it is off.
    pub http: Option<String>,
    /// `real` or `sandbox`.
    pub kind: &'static str,
    /// Whether the store accepts work.
    pub store_ready: bool,
    /// How much is known of the account.
    pub known: KnownView,
}

/// How many people and chats are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KnownView {
    /// People, each once, whether known by phone, by LID or by both.
    pub people: u64,
    /// Rows of the chat list.
    pub chats: u64,
}

/// `GET /api/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventsView {
    /// The events, oldest first.
    pub events: Vec<EventView>,
    /// `after` of the next request.
    pub next: String,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// Its place in the journal; opaque.
    pub cursor: String,
    /// When the daemon wrote it down.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBodyView,
}

/// What happened, under a field of the type's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventBodyView {
    /// A message came in, or the owner typed one on another device.
    Message {
        /// The message.
        message: IncomingView,
    },
    /// An outgoing message's status or ack changed.
    Status {
        /// What it became.
        status: StatusChangedView,
    },
    /// The link to WhatsApp changed.
    Link {
        /// What it became.
        link: LinkView,
    },
}

impl EventBodyView {
    /// The type's name.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Message { .. } => "message",
            Self::Status { .. } => "status",
            Self::Link { .. } => "link",
        }
    }
}

/// An incoming message, in the words that scripts use too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncomingView {
    /// WhatsApp's id.
    pub id: String,
    /// The text, or the caption.
    pub body: String,
    /// The chat it came from: in a group the group, else the person.
    pub from: ChatId,
    /// The chat it stands in.
    pub chat_id: ChatId,
    /// In a group: who wrote it.
    pub author: Option<ChatId>,
    /// The LID digits of who wrote it, when known.
    pub sender_lid: Option<String>,
    /// Their own name for themselves.
    pub sender_name: Option<String>,
    /// Typed by the owner on another device.
    pub from_me: bool,
    /// `chat`, `image`, `video`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// WhatsApp's time of sending.
    pub timestamp: Timestamp,
    /// It stands in a group.
    pub is_group: bool,
    /// Who wrote it, wherever it stands.
    #[serde(skip)]
    pub sender: ChatId,
}

/// What an outgoing message became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusChangedView {
    /// The queue id.
    pub id: MessageId,
    /// The caller's own id.
    #[serde(rename = "reference_id")]
    pub reference_id: Option<String>,
    /// The phone's digits, else the chat's address.
    pub number: String,
    /// The chat's address.
    pub chat_id: ChatId,
    /// Where it stands.
    pub status: Status,
    /// How far it got.
    pub ack: Ack,
    /// Why it failed.
    pub error: Option<String>,
}

/// What the link became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkView {
    /// The state's word.
    pub state: &'static str,
    /// Why, in words.
    pub reason: Option<String>,
}

/// All API keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKeysView {
    /// The default one first, then the others by name.
    pub keys: Vec<ApiKeyView>,
}

/// One API key; what it is, nobody can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyView {
    /// What its owner calls it; `default` is the one of the first start.
    pub name: String,
    /// `send`, `read`, `admin`.
    pub scopes: Vec<&'static str>,
    /// When it was made; none for the default one.
    pub created_at: Option<Timestamp>,
}

/// A new API key; it is told only here.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewApiKeyView {
    /// Always true: refusals are errors.
    pub success: bool,
    /// The key itself.
    pub api_key: String,
    /// Its name, and what it may do.
    #[serde(flatten)]
    pub key: ApiKeyView,
}

/// Without the key itself.
impl std::fmt::Debug for NewApiKeyView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApiKeyView").field("key", &self.key).finish_non_exhaustive()
    }
}

/// `GET /api/requests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestsView {
    /// Logged requests, newest first.
    pub requests: Vec<RequestSummaryView>,
    /// `before` of the next page, when there is one.
    pub next: Option<String>,
    /// How many could not be kept since the start.
    pub dropped: u64,
}

/// `DELETE /api/requests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClearedView {
    /// Always true: refusals are errors.
    pub success: bool,
    /// How many were forgotten.
    pub cleared: u64,
}

/// `GET /api/queue/:id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedView {
    /// The message; its fields stand beside the other.
    #[serde(flatten)]
    pub message: MessageView,
    /// The request that put it into the queue, as long as that is logged.
    pub request: Option<QueuedByView>,
}

/// The request that put a message into the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedByView {
    /// Its id in the log.
    pub id: String,
    /// Its headers, by name, secrets masked.
    pub headers: serde_json::Map<String, serde_json::Value>,
    /// Its body, secrets masked, files left out, cut.
    pub body: Option<String>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingView {
    /// Its key.
    pub key: &'static str,
    /// The value that counts; empty when there is none.
    pub value: String,
    /// What it is when nobody says otherwise.
    pub default: &'static str,
    /// `default`, `stored`, or the place that pins it.
    pub origin: String,
    /// Environment or config file decide it; it cannot be changed here.
    pub pinned: bool,
    /// What it does.
    pub description: &'static str,
}

/// A webhook, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookView {
    /// Its id.
    pub id: String,
    /// Where it is told.
    pub url: String,
    /// What it is told of; `*` is all.
    pub events: Vec<&'static str>,
    /// Whether it is told; else it keeps its place.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// How many events wait to be tried again.
    pub waiting: u64,
    /// How many were given up.
    pub parked: u64,
    /// How many retention took before they were told.
    pub missed: u64,
    /// When a delivery was last taken.
    pub succeeded_at: Option<Timestamp>,
    /// When one last was not.
    pub failed_at: Option<Timestamp>,
}

/// One attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryView {
    /// When it ended.
    pub at: Timestamp,
    /// The event's id, as the receiver sees it.
    pub event_id: String,
    /// The event's word.
    pub event: String,
    /// The how-manieth attempt.
    pub attempt: u32,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What the receiver answered.
    pub status: Option<u16>,
    /// Why it counts as failed.
    pub error: Option<String>,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParkedView {
    /// The event's id.
    pub event_id: String,
    /// The event's word.
    pub event: &'static str,
    /// Attempts made.
    pub attempts: u32,
    /// From when on it was to be told.
    pub since: Timestamp,
    /// When it was given up.
    pub parked_at: Timestamp,
    /// Why the last attempt failed.
    pub reason: String,
}
