//! The link to WhatsApp, and the daemon as a whole.

use serde::Serialize;

use super::QueueSummary;
use crate::model::Timestamp;

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
