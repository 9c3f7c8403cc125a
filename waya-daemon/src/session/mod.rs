//! The link to WhatsApp: one account's connection, pairing, and the way messages leave and come in.
//!
//! Knows neither the queue nor the rules. What it tells goes two ways: incoming messages through [`Inbox`], which
//! must have them on disk before they are acknowledged, everything else through an unbounded channel of [`WaEvent`].

#[cfg(any(test, feature = "test-util"))]
pub mod fake;
pub mod passkey;
pub mod resting;
pub mod state;
pub mod supervisor;
pub mod whatsapp_rs;

use std::fmt::Debug;
use std::fs::File;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::sync::watch;

#[cfg(doc)]
use crate::model::PasskeyStep;
use crate::model::{
    Attachment, ChatId, Content, Incoming, LinkState, ListedChat, MediaHash, NackReason, PairingMethod, PushName,
    ReceiptKind, Timestamp, WhatsAppId,
};
use passkey::PasskeyAnswer;

/// What leaves.
#[derive(Clone)]
pub struct Outgoing {
    /// The id WhatsApp will know it by.
    pub whatsapp_id: WhatsAppId,
    /// Where it goes.
    pub chat: ChatId,
    /// The text, byte for byte.
    pub text: String,
    /// What it is beside its text.
    pub content: Content,
    /// For a file: what [`WhatsApp::upload`] gave for it. For a message that is passed on: its encoded form.
    pub uploaded: Option<Uploaded>,
    /// What the first link of the text shows.
    pub preview: Option<LinkPreview>,
}

/// What a link shows beside the text.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkPreview {
    /// The link, as it stands in the text.
    pub url: String,
    /// The page's title.
    pub title: String,
    /// What the page says of itself.
    pub description: Option<String>,
    /// A small picture, as JPEG.
    pub thumbnail: Option<Vec<u8>>,
}

/// What a message that came in says of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTold {
    /// Its SHA-256.
    pub hash: Option<MediaHash>,
    /// Its length in bytes.
    pub size: Option<u64>,
    /// Its MIME type.
    pub mimetype: Option<String>,
    /// Its name.
    pub filename: Option<String>,
}

/// A file to be put on WhatsApp's media servers.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Where it lies.
    pub path: PathBuf,
    /// What is known of it.
    pub attachment: Attachment,
    /// A small picture of it, as JPEG.
    pub thumbnail: Option<Vec<u8>>,
}

/// A file on WhatsApp's media servers: the library's own encoded form, to be kept and used again for days.
#[derive(Clone, PartialEq, Eq)]
pub struct Uploaded(pub Vec<u8>);

/// Of its length only: it holds the file's key.
impl Debug for Uploaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Uploaded").field(&self.0.len()).finish()
    }
}

/// What a chat sees this account do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatState {
    /// It types.
    Typing,
    /// It records a voice note.
    Recording,
    /// Neither any more.
    Paused,
}

/// Why a message did not leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no connection; nothing was handed over. Spends no attempt.
    #[error("not connected to WhatsApp")]
    Offline,
    /// It may work later; it may even have left.
    #[error("{0}")]
    Transient(String),
    /// It will never work.
    #[error("{0}")]
    Permanent(String),
}

/// A request to the session was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Already linked.
    #[error("an account is linked already; log out first")]
    AlreadyLinked,
    /// Nothing to log out from.
    #[error("no account is linked")]
    NotLinked,
    /// Not connected, so it cannot be asked.
    #[error("not connected to WhatsApp")]
    Offline,
    /// An answer to a request that is not there.
    #[error("WhatsApp is not asking for a passkey now; `waya login` tells what it asks for")]
    NoPasskeyAsked,
    /// A word on a code that is not there.
    #[error("there is no code to confirm now; it comes after the passkey's answer")]
    NoCodeToConfirm,
    /// WhatsApp said no.
    #[error("WhatsApp refused: {0}")]
    Refused(String),
    /// Something else went wrong.
    #[error("{0}")]
    Other(String),
}

/// How an account was unlinked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlinked {
    /// On both sides; also when nothing was linked yet, or not any more.
    Fully,
    /// Here only: WhatsApp was not told, or did not confirm, so the phone still lists this device.
    HereOnly,
}

/// The account that is linked.
#[derive(Clone, PartialEq, Eq)]
pub struct Me {
    /// Phone digits.
    pub phone: String,
    /// LID digits.
    pub lid: Option<String>,
    /// The account's own name.
    pub push_name: String,
}

/// The link and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The state.
    pub state: LinkState,
    /// Since when.
    pub since: Timestamp,
    /// Who is linked.
    pub me: Option<Me>,
}

/// A person, as far as something was learnt.
#[derive(Clone, PartialEq, Eq)]
pub struct Person {
    /// Phone digits.
    pub phone: Option<String>,
    /// LID digits.
    pub lid: Option<String>,
    /// Their own name for themselves.
    pub push_name: Option<PushName>,
}

/// A part of what the phone knows when an account is linked.
#[derive(Clone, PartialEq, Eq)]
pub struct History {
    /// Names, and pairs of phone and LID.
    pub people: Vec<Person>,
    /// Rows of the chat list.
    pub chats: Vec<ListedChat>,
}

/// What the session tells, but for incoming messages.
#[derive(Clone, PartialEq, Eq)]
pub enum WaEvent {
    /// The server took a message, or refused it.
    ServerAck {
        /// Which.
        id: WhatsAppId,
        /// `None`: taken.
        refused: Option<NackReason>,
    },
    /// A receipt of somebody else's device.
    Receipt {
        /// Which messages.
        ids: Vec<WhatsAppId>,
        /// In which chat.
        chat: ChatId,
        /// Whose device.
        from: ChatId,
        /// That person's LID digits, in a group and when known.
        from_lid: Option<String>,
        /// What it says.
        kind: ReceiptKind,
        /// When, by the server's word.
        at: Timestamp,
    },
    /// Something was learnt about a person: phone and LID belong together, or a name.
    Person(Person),
    /// The phone told of the people and chats it knows.
    History(History),
    /// The account's phone was there then.
    PhoneSeen(Timestamp),
    /// The people and chats told of so far belong to an account that is linked no more.
    Forgotten,
    /// The link changed.
    Link(LinkState),
}

/// Where incoming messages go: on disk, before they are acknowledged to WhatsApp.
#[async_trait]
pub trait Inbox: Debug + Send + Sync {
    /// Commits a batch, all or none; must be safe to run again with the same messages.
    ///
    /// # Errors
    /// Any error keeps the acknowledgement back, so that WhatsApp delivers again.
    async fn commit(&self, batch: Vec<Incoming>) -> anyhow::Result<()>;
}

/// One account's session with WhatsApp.
#[async_trait]
pub trait WhatsApp: Debug + Send + Sync {
    /// The link, as it changes.
    fn link(&self) -> watch::Receiver<Link>;
    /// When anything was last heard from the server.
    fn last_traffic(&self) -> Option<Timestamp>;
    /// Encrypts and hands over. `Ok` means handed over, not delivered: the server's word comes as
    /// [`WaEvent::ServerAck`].
    async fn send(&self, outgoing: Outgoing) -> Result<(), SendError>;
    /// Lets a chat see what is done for it. Nothing is said while there is no connection.
    async fn show(&self, chat: &ChatId, state: ChatState) -> Result<(), SendError>;
    /// Puts a file on WhatsApp's media servers. What comes back can be sent to any number of people, for days.
    async fn upload(&self, upload: Upload) -> Result<Uploaded, SendError>;
    /// Loads the file of a message that came in, given in its encoded form, into `into`, which is emptied first. At
    /// most `limit` bytes.
    async fn download(&self, raw: Vec<u8>, into: File, limit: u64) -> Result<(), SendError>;
    /// What a message that came in, given in its encoded form, says of its file; nothing when it has none.
    fn file_of(&self, raw: &[u8]) -> Option<FileTold>;
    /// Whether this account is in a group; `None` when that cannot be found out now.
    async fn is_in_group(&self, group: &ChatId) -> Option<bool>;
    /// Who is in a group, the own account left out, by phone whenever that is known; `None` when that cannot be found
    /// out now.
    async fn members(&self, group: &ChatId) -> Option<Vec<ChatId>>;
    /// Which of these phone numbers are on WhatsApp, in the same order.
    async fn registered(&self, phones: &[String]) -> Result<Vec<bool>, SendError>;
    /// Until when WhatsApp keeps this account from writing to people who never wrote to it, asked after a
    /// [`NackReason::ReachOutTimelock`]; `None` when it does not say.
    async fn reach_out_locked_until(&self) -> Option<Timestamp>;
    /// Asks the server for a sign of life; reconnects when none comes.
    async fn probe(&self) -> bool;
    /// Starts linking an account; what to show comes as [`LinkState::Pairing`].
    async fn pair(&self, method: PairingMethod) -> Result<(), SessionError>;
    /// Hands in the passkey's answer to the request that [`PasskeyStep::Asked`] shows. `Ok` means that WhatsApp took
    /// it; after a refusal the request still stands.
    async fn answer_passkey(&self, answer: PasskeyAnswer) -> Result<(), SessionError>;
    /// Tells WhatsApp that the code of [`PasskeyStep::Compare`] is the one the phone shows. After a refusal the request
    /// is over.
    async fn confirm_passkey(&self) -> Result<(), SessionError>;
    /// Connects again now: takes a replaced session back, or cuts a wait short.
    async fn reconnect(&self) -> Result<(), SessionError>;
    /// Unlinks the account and deletes its keys; also without a connection, but then WhatsApp is not told.
    async fn logout(&self) -> Result<Unlinked, SessionError>;
    /// Closes the connection for good, keys kept.
    async fn shutdown(&self);
}

/// Without text and number, because debug output reaches logs.
impl Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("whatsapp_id", &self.whatsapp_id)
            .field("chat", &self.chat)
            .finish_non_exhaustive()
    }
}

/// With the number masked, because debug output reaches logs.
impl Debug for Me {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Me").field("chat", &ChatId::phone(&self.phone)).finish_non_exhaustive()
    }
}

/// With the number masked and without the name, because debug output reaches logs.
impl Debug for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let chat = self.phone.as_deref().map(ChatId::phone);
        f.debug_struct("Person").field("chat", &chat).finish_non_exhaustive()
    }
}

/// How much of it, because debug output reaches logs.
impl Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { people, chats } = self;
        f.debug_struct("History").field("people", &people.len()).field("chats", &chats.len()).finish()
    }
}

/// With numbers masked and without names and codes, because debug output reaches logs.
impl Debug for WaEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ServerAck { id, refused } => {
                f.debug_struct("ServerAck").field("id", id).field("refused", refused).finish()
            }
            Self::Receipt { ids, from, kind, .. } => f
                .debug_struct("Receipt")
                .field("ids", ids)
                .field("from", from)
                .field("kind", kind)
                .finish_non_exhaustive(),
            Self::Person(person) => f.debug_tuple("Person").field(person).finish(),
            Self::History(history) => f.debug_tuple("History").field(history).finish(),
            Self::PhoneSeen(at) => f.debug_tuple("PhoneSeen").field(at).finish(),
            Self::Forgotten => f.write_str("Forgotten"),
            Self::Link(state) => f.debug_tuple("Link").field(&state.name()).finish(),
        }
    }
}
