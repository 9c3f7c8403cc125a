//! The records of the journal: every change that outlives the process, one message each.
//!
//! Field numbers are never reused. Keys are private halves; the public ones are derived.

use bytes::Bytes;

/// One change of the state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// What changed.
    #[prost(oneof = "Change", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18")]
    pub change: Option<Change>,
}

/// The changes there are.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Change {
    /// An account was made, or its name or handset changed.
    #[prost(message, tag = "1")]
    Account(AccountRecord),
    /// A device was linked, or its registration changed.
    #[prost(message, tag = "2")]
    Device(DeviceRecord),
    /// A device was unlinked.
    #[prost(message, tag = "3")]
    DeviceGone(DeviceKey),
    /// A device handed in one-time keys.
    #[prost(message, tag = "4")]
    PreKeys(PreKeysRecord),
    /// A one-time key was given away.
    #[prost(message, tag = "5")]
    PreKeyTaken(PreKeyTaken),
    /// A group was made or changed.
    #[prost(message, tag = "6")]
    Group(GroupRecord),
    /// A message was taken from its sender: counted, and queued for every recipient.
    #[prost(message, tag = "7")]
    Relayed(RelayedRecord),
    /// Other stanzas were queued.
    #[prost(message, tag = "8")]
    Queued(QueuedRecord),
    /// Queued stanzas were confirmed by their recipient.
    #[prost(message, tag = "9")]
    Confirmed(ConfirmedRecord),
    /// The handset's app-state keys were queued for a device.
    #[prost(message, tag = "10")]
    KeysShared(DeviceKey),
    /// How often a sender handed over each id (written when the journal is rewritten).
    #[prost(message, tag = "11")]
    Counts(CountsRecord),
    /// Somebody asked for an account's devices.
    #[prost(message, tag = "12")]
    Knows(KnowsRecord),
    /// A device changed what its account's devices share.
    #[prost(message, tag = "13")]
    AppStatePatch(AppStatePatchRecord),
    /// A collection of what they share (written when the journal is rewritten).
    #[prost(message, tag = "14")]
    AppState(AppStateRecord),
    /// A newsletter was made, or it or its followers changed.
    #[prost(message, tag = "15")]
    Newsletter(NewsletterRecord),
    /// Something was published in a newsletter.
    #[prost(message, tag = "16")]
    NewsletterPost(NewsletterPostRecord),
    /// Something waits for a handset that is off.
    #[prost(message, tag = "17")]
    HandsetWaits(HandsetWaitsRecord),
    /// A handset that came back confirmed all that waited for it.
    #[prost(message, tag = "18")]
    HandsetCaughtUp(HandsetCaughtUpRecord),
}

/// A device of an account.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DeviceKey {
    /// The account's phone number.
    #[prost(string, tag = "1")]
    pub phone: String,
    /// The device number; 0 is the handset.
    #[prost(uint32, tag = "2")]
    pub device: u32,
}

/// An account and its handset.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AccountRecord {
    #[prost(string, tag = "1")]
    pub phone: String,
    #[prost(string, tag = "2")]
    pub lid: String,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(bytes = "bytes", tag = "4")]
    pub identity_private: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub signed_pre_key_private: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pub signed_pre_key_signature: Bytes,
    #[prost(uint32, tag = "7")]
    pub registration_id: u32,
    #[prost(uint32, tag = "8")]
    pub raw_id: u32,
    #[prost(bytes = "bytes", tag = "9")]
    pub app_state_key: Bytes,
    #[prost(bool, tag = "10")]
    pub handset_online: bool,
    #[prost(uint32, tag = "11")]
    pub last_device: u32,
    #[prost(int64, tag = "12")]
    pub created: i64,
    #[prost(message, optional, tag = "13")]
    pub about: Option<About>,
    /// Whom it does not want to hear of, in the order they were blocked.
    #[prost(message, repeated, tag = "14")]
    pub blocked: Vec<Stamp>,
    /// Privacy settings that differ from `all`, by category.
    #[prost(btree_map = "string, string", tag = "15")]
    pub privacy: std::collections::BTreeMap<String, String>,
    #[prost(message, optional, tag = "16")]
    pub picture: Option<Picture>,
    /// It is a business account.
    #[prost(bool, tag = "17")]
    pub business: bool,
}

/// A picture of somebody or of a group.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Picture {
    /// Changes with the picture.
    #[prost(string, tag = "1")]
    pub id: String,
    /// SHA-256 of its file.
    #[prost(bytes = "bytes", tag = "2")]
    pub hash: Bytes,
}

/// What somebody says about himself.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct About {
    #[prost(string, tag = "1")]
    pub text: String,
    #[prost(int64, tag = "2")]
    pub at: i64,
}

/// A linked device, without its one-time keys and its queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceRecord {
    #[prost(message, required, tag = "1")]
    pub key: DeviceKey,
    #[prost(uint32, tag = "2")]
    pub key_index: u32,
    #[prost(bytes = "bytes", tag = "3")]
    pub noise_public: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub identity_public: Bytes,
    #[prost(uint32, tag = "5")]
    pub registration_id: u32,
    #[prost(uint32, tag = "6")]
    pub signed_pre_key_id: u32,
    #[prost(bytes = "bytes", tag = "7")]
    pub signed_pre_key_public: Bytes,
    #[prost(bytes = "bytes", tag = "8")]
    pub signed_pre_key_signature: Bytes,
    /// `ADVSignedDeviceIdentity` with the account's signature key in it.
    #[prost(bytes = "bytes", tag = "9")]
    pub device_identity: Bytes,
    /// It wanted history when it was linked.
    #[prost(bool, tag = "10")]
    pub wants_history: bool,
    /// In files only, not inside messages.
    #[prost(bool, tag = "11")]
    pub history_in_files: bool,
}

/// A one-time key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreKey {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub public: Bytes,
}

/// One-time keys a device handed in.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreKeysRecord {
    #[prost(message, required, tag = "1")]
    pub key: DeviceKey,
    #[prost(message, repeated, tag = "2")]
    pub pre_keys: Vec<PreKey>,
}

/// A one-time key that was given away.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreKeyTaken {
    #[prost(message, required, tag = "1")]
    pub key: DeviceKey,
    #[prost(uint32, tag = "2")]
    pub id: u32,
}

/// A group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupRecord {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub subject: String,
    /// Phone numbers, in the order they came in.
    #[prost(string, repeated, tag = "3")]
    pub members: Vec<String>,
    #[prost(int64, tag = "4")]
    pub created: i64,
    /// Who made it; empty in old records: the first member.
    #[prost(string, tag = "5")]
    pub creator: String,
    /// Members that were made admins; the creator is one without standing here.
    #[prost(string, repeated, tag = "6")]
    pub admins: Vec<String>,
    /// Who gave it its present name; the creator if nobody did since.
    #[prost(message, optional, tag = "7")]
    pub subject_set: Option<Stamp>,
    #[prost(message, optional, tag = "8")]
    pub description: Option<Description>,
    /// Only admins may write.
    #[prost(bool, tag = "9")]
    pub announcement: bool,
    /// Only admins may change subject, description and the messages' lifetime.
    #[prost(bool, tag = "10")]
    pub locked: bool,
    /// Lifetime of messages in seconds; 0: they stay.
    #[prost(uint32, tag = "11")]
    pub ephemeral: u32,
    /// Only admins may add.
    #[prost(bool, tag = "12")]
    pub only_admins_add: bool,
    /// Who comes by the invite link has to be let in by an admin.
    #[prost(bool, tag = "13")]
    pub approval: bool,
    /// The invite link's code; empty until somebody asks for it.
    #[prost(string, tag = "14")]
    pub invite: String,
    /// Codes of links that were taken back.
    #[prost(string, repeated, tag = "15")]
    pub revoked_invites: Vec<String>,
    /// Those that ask to be let in, oldest first.
    #[prost(message, repeated, tag = "16")]
    pub requests: Vec<Stamp>,
    /// Changes so far.
    #[prost(uint64, tag = "17")]
    pub version: u64,
    #[prost(message, optional, tag = "18")]
    pub picture: Option<Picture>,
    /// Other groups belong to it.
    #[prost(bool, tag = "19")]
    pub community: bool,
    /// Members of the community may make groups in it.
    #[prost(bool, tag = "20")]
    pub open_to_new_groups: bool,
    /// The community it belongs to, or nothing.
    #[prost(string, tag = "21")]
    pub parent: String,
    /// It is that community's group for announcements.
    #[prost(bool, tag = "22")]
    pub default_of_parent: bool,
    /// Those that nobody may add, and who were asked to come.
    #[prost(message, repeated, tag = "23")]
    pub invitations: Vec<Invitation>,
}

/// Somebody was asked into a group.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Invitation {
    #[prost(string, tag = "1")]
    pub phone: String,
    #[prost(string, tag = "2")]
    pub code: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    pub expires: i64,
}

/// Who did something, and when (seconds).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stamp {
    #[prost(string, tag = "1")]
    pub phone: String,
    #[prost(int64, tag = "2")]
    pub at: i64,
}

/// A group's description.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Description {
    /// Given by the client that wrote it; the next one has to name it.
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub body: String,
    #[prost(message, required, tag = "3")]
    pub set: Stamp,
}

/// A stanza kept for one device until it confirms it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueueEntry {
    #[prost(message, required, tag = "1")]
    pub key: DeviceKey,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// `message`, `receipt` or `notification`.
    #[prost(string, tag = "3")]
    pub class: String,
    #[prost(string, tag = "4")]
    pub id: String,
    /// The `from` the recipient sees; its confirmation names it in `to`.
    #[prost(string, tag = "5")]
    pub from: String,
    /// The stanza as it goes out, marshalled.
    #[prost(bytes = "bytes", tag = "6")]
    pub stanza: Bytes,
}

/// A message taken from its sender.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RelayedRecord {
    #[prost(string, tag = "1")]
    pub sender: String,
    #[prost(string, tag = "2")]
    pub id: String,
    #[prost(message, repeated, tag = "3")]
    pub entries: Vec<QueueEntry>,
    /// The accounts that have it on a handset that is off.
    #[prost(string, repeated, tag = "4")]
    pub handsets: Vec<String>,
    /// How it waits for those.
    #[prost(message, optional, tag = "5")]
    pub waits: Option<HandsetMessage>,
}

/// Something that waits for a handset.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HandsetMessage {
    /// The phone number of who sent it.
    #[prost(string, tag = "1")]
    pub sender: String,
    #[prost(string, tag = "2")]
    pub id: String,
    /// Where it went, as its sender named that; empty for a request.
    #[prost(string, tag = "3")]
    pub chat: String,
    /// Its people are named by LID there.
    #[prost(bool, tag = "4")]
    pub by_lid: bool,
    /// What a device asks of its handset alone: the stanza as it came, marshalled.
    #[prost(bytes = "bytes", tag = "5")]
    pub request: Bytes,
    /// Which device asks.
    #[prost(uint32, tag = "6")]
    pub device: u32,
}

/// What waits for one handset, oldest first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HandsetWaitsRecord {
    #[prost(string, tag = "1")]
    pub phone: String,
    #[prost(message, repeated, tag = "2")]
    pub messages: Vec<HandsetMessage>,
}

/// Nothing waits for a handset any more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HandsetCaughtUpRecord {
    #[prost(string, tag = "1")]
    pub phone: String,
    /// The receipts it sent.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<QueueEntry>,
}

/// Stanzas queued that are no counted messages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueuedRecord {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<QueueEntry>,
}

/// Stanzas a device confirmed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfirmedRecord {
    #[prost(message, required, tag = "1")]
    pub key: DeviceKey,
    #[prost(uint64, repeated, tag = "2")]
    pub sequences: Vec<u64>,
}

/// Who asked for an account's devices and hears of their changes from then on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KnowsRecord {
    #[prost(string, tag = "1")]
    pub phone: String,
    #[prost(string, tag = "2")]
    pub watcher: String,
}

/// Counts of one sender.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CountsRecord {
    #[prost(string, tag = "1")]
    pub sender: String,
    /// Ids relayed more than once, with how often; in older journals all of them.
    #[prost(map = "string, uint64", tag = "2")]
    pub ids: std::collections::HashMap<String, u64>,
    /// Digests of all ids.
    #[prost(fixed64, repeated, tag = "3")]
    pub digests: Vec<u64>,
}

impl From<Change> for Record {
    fn from(change: Change) -> Self {
        Self { change: Some(change) }
    }
}

/// A change of one app-state collection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AppStatePatchRecord {
    #[prost(string, tag = "1")]
    pub phone: String,
    #[prost(string, tag = "2")]
    pub collection: String,
    /// The collection's version after it.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// `SyncdPatch`.
    #[prost(bytes = "bytes", tag = "4")]
    pub patch: Bytes,
}

/// An app-state collection as a whole.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AppStateRecord {
    #[prost(string, tag = "1")]
    pub phone: String,
    #[prost(string, tag = "2")]
    pub collection: String,
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// `SyncdRecord`s.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub records: Vec<Bytes>,
    /// The newest patch's word on all records together.
    #[prost(bytes = "bytes", tag = "5")]
    pub snapshot_mac: Bytes,
    /// Which key that was made with.
    #[prost(bytes = "bytes", tag = "6")]
    pub key_id: Bytes,
    /// The newest `SyncdPatch`es, up to `version`.
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub patches: Vec<Bytes>,
    /// Not all records are known: some came in a file.
    #[prost(bool, tag = "8")]
    pub incomplete: bool,
}

/// A newsletter, which users know as a channel.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NewsletterRecord {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub description: String,
    /// Who made it and writes in it.
    #[prost(string, tag = "4")]
    pub owner: String,
    #[prost(int64, tag = "5")]
    pub created: i64,
    /// The invite link's code.
    #[prost(string, tag = "6")]
    pub invite: String,
    /// Who follows it, in the order they came.
    #[prost(string, repeated, tag = "7")]
    pub followers: Vec<String>,
    /// Those that asked to hear nothing of it.
    #[prost(string, repeated, tag = "8")]
    pub muted: Vec<String>,
}

/// What was published in a newsletter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NewsletterPostRecord {
    #[prost(string, tag = "1")]
    pub newsletter: String,
    /// Counts up in each newsletter.
    #[prost(uint64, tag = "2")]
    pub server_id: u64,
    /// Given by its author.
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(int64, tag = "4")]
    pub at: i64,
    /// `text`, `media`, …
    #[prost(string, tag = "5")]
    pub kind: String,
    /// A `Message`, not encrypted: newsletters are public.
    #[prost(bytes = "bytes", tag = "6")]
    pub plaintext: Bytes,
}
