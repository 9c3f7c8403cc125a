//! A group: its name and its members, by phone number.

use super::record::GroupRecord;
use crate::emulator::view::GroupInfo;

/// One group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) record: GroupRecord,
}

impl Group {
    pub(crate) fn has(&self, phone: &str) -> bool {
        self.record.members.iter().any(|member| member == phone)
    }

    /// Who made it: the first member.
    pub(crate) fn creator(&self) -> &str {
        self.record.members.first().map_or("", String::as_str)
    }

    pub(crate) fn info(&self) -> GroupInfo {
        GroupInfo {
            jid: format!("{}@g.us", self.record.id),
            subject: self.record.subject.clone(),
            members: self.record.members.clone(),
        }
    }
}
