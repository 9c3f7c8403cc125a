//! What the emulator shows of itself to the outside: plain, serialisable snapshots.

use serde::Serialize;

/// An account: one phone number with its handset and linked devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AccountInfo {
    /// Digits, no plus sign.
    pub phone: String,
    /// The account's LID, digits only.
    pub lid: String,
    /// The push name.
    pub name: String,
    /// Whether the emulated handset is switched on (then it confirms what it receives).
    pub handset_online: bool,
    /// What waits for the handset until it is switched on.
    pub handset_queued: usize,
    /// The linked devices, in the order they were linked.
    pub devices: Vec<DeviceInfo>,
}

/// A linked device of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// The device number within the account; the handset itself is 0 and not listed.
    pub device: u16,
    /// Whether it is logged in at this moment.
    pub connected: bool,
    /// Stanzas kept for it until it confirms them.
    pub queued: usize,
}

/// What an account's linked devices say of being there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PresenceInfo {
    /// One of them is shown as online.
    pub available: bool,
    /// How often one of them said that it is online, or that it is not.
    pub said: u64,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupInfo {
    /// `…@g.us`.
    pub jid: String,
    /// The group's name.
    pub subject: String,
    /// Phone numbers of the members, in the order they came in.
    pub members: Vec<String>,
    /// Phone numbers of the members that are admins, the creator among them.
    pub admins: Vec<String>,
    /// What it is about, if that was told.
    pub description: Option<String>,
}

/// A client that was just linked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScannedDevice {
    /// The account it belongs to now.
    pub phone: String,
    /// Its device number.
    pub device: u16,
    /// `PHONE:DEVICE@s.whatsapp.net`.
    pub jid: String,
    /// `LID:DEVICE@lid`.
    pub lid: String,
}

/// How often clients shook hands in each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HandshakeCounts {
    /// Without a known server key.
    pub xx: u64,
    /// With the known server key.
    pub ik: u64,
    /// With the key of another server, answered with this one's.
    pub xx_fallback: u64,
}
