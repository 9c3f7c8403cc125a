//! What passes from one device to others: messages, receipts, presence, group changes.

pub(crate) mod group;
pub(crate) mod message;
pub(crate) mod presence;
pub(crate) mod receipt;
