//! A group: its members by phone number, who may do what in it, and how that changes.
//!
//! Pure: what a change is allowed to be is decided here, who hears of it elsewhere.

use super::record::{GroupRecord, Invitation, Stamp};
use crate::emulator::view::GroupInfo;

/// One group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) record: GroupRecord,
}

/// What can be done with somebody in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberChange {
    Add,
    Remove,
    Promote,
    Demote,
}

/// Codes by which a change of one participant is refused, as in its `error` attribute.
pub(crate) mod participant_error {
    /// Nobody of that name, or not in the group.
    pub(crate) const NOT_FOUND: u16 = 404;
    /// The group's creator stays what he is.
    pub(crate) const NOT_ACCEPTABLE: u16 = 406;
    /// Is in it already.
    pub(crate) const CONFLICT: u16 = 409;
}

impl Group {
    pub(crate) fn has(&self, phone: &str) -> bool {
        self.record.members.iter().any(|member| member == phone)
    }

    /// Who made it.
    pub(crate) fn creator(&self) -> &str {
        if self.record.creator.is_empty() {
            return self.record.members.first().map_or("", String::as_str);
        }
        &self.record.creator
    }

    /// How a member stands, as in the `type` of a participant; `None` for one like any other.
    pub(crate) fn rank(&self, phone: &str) -> Option<&'static str> {
        if !self.has(phone) {
            return None;
        }
        if self.creator() == phone {
            return Some("superadmin");
        }
        self.record.admins.iter().any(|admin| admin == phone).then_some("admin")
    }

    pub(crate) fn is_admin(&self, phone: &str) -> bool {
        self.rank(phone).is_some()
    }

    pub(crate) fn admins(&self) -> impl Iterator<Item = &String> {
        self.record.members.iter().filter(|member| self.is_admin(member))
    }

    /// Whether this member may change subject, description and lifetime.
    pub(crate) fn may_edit(&self, phone: &str) -> bool {
        self.is_admin(phone) || (self.has(phone) && !self.record.locked)
    }

    /// Whether this member may write.
    pub(crate) fn may_write(&self, phone: &str) -> bool {
        self.is_admin(phone) || (self.has(phone) && !self.record.announcement)
    }

    /// Whether this member may do this with others.
    pub(crate) fn may_change(&self, phone: &str, change: MemberChange) -> bool {
        let open = change == MemberChange::Add && !self.record.only_admins_add;
        self.is_admin(phone) || (open && self.has(phone))
    }

    /// Changes one participant.
    ///
    /// # Errors
    /// The code for the participant's `error` attribute.
    pub(crate) fn change_member(&mut self, change: MemberChange, phone: &str) -> Result<(), u16> {
        let known = self.has(phone);
        match change {
            MemberChange::Add if known => return Err(participant_error::CONFLICT),
            MemberChange::Add => self.let_in(phone),
            _ if !known => return Err(participant_error::NOT_FOUND),
            MemberChange::Remove | MemberChange::Demote if self.creator() == phone => {
                return Err(participant_error::NOT_ACCEPTABLE);
            }
            MemberChange::Remove => self.take_out(phone),
            MemberChange::Promote if !self.is_admin(phone) => self.record.admins.push(phone.to_owned()),
            MemberChange::Promote => {}
            MemberChange::Demote => self.record.admins.retain(|admin| admin != phone),
        }
        Ok(())
    }

    fn let_in(&mut self, phone: &str) {
        self.keep_creator();
        self.record.members.push(phone.to_owned());
        self.record.requests.retain(|request| request.phone != phone);
    }

    fn take_out(&mut self, phone: &str) {
        self.keep_creator();
        self.record.members.retain(|member| member != phone);
        self.record.admins.retain(|admin| admin != phone);
    }

    /// Somebody leaves. When that was the last admin, the longest member becomes one and is returned.
    pub(crate) fn leave(&mut self, phone: &str) -> Option<String> {
        self.take_out(phone);
        if self.admins().next().is_some() {
            return None;
        }
        let heir = self.record.members.first()?.clone();
        self.record.admins.push(heir.clone());
        Some(heir)
    }

    /// Somebody asks to be let in; false if that was asked before.
    pub(crate) fn ask(&mut self, phone: &str, at: i64) -> bool {
        if self.record.requests.iter().any(|request| request.phone == phone) {
            return false;
        }
        self.record.requests.push(Stamp { phone: phone.to_owned(), at });
        true
    }

    /// Asks somebody in who may not just be added; what was asked before is void.
    pub(crate) fn invite(&mut self, phone: &str, code: String, expires: i64) {
        self.record.invitations.retain(|invitation| invitation.phone != phone);
        self.record.invitations.push(Invitation { phone: phone.to_owned(), code, expires });
    }

    /// Takes up an invitation; false if there is none with this code, or no more.
    pub(crate) fn accept(&mut self, phone: &str, code: &str, at: i64) -> bool {
        let before = self.record.invitations.len();
        self.record
            .invitations
            .retain(|invitation| invitation.phone != phone || invitation.code != code || invitation.expires <= at);
        self.record.invitations.len() < before
    }

    /// Old records name no creator: it must not become whoever is first once that one is gone.
    fn keep_creator(&mut self) {
        if self.record.creator.is_empty() {
            self.record.creator = self.creator().to_owned();
        }
    }

    pub(crate) fn info(&self) -> GroupInfo {
        GroupInfo {
            jid: format!("{}@g.us", self.record.id),
            subject: self.record.subject.clone(),
            members: self.record.members.clone(),
            admins: self.admins().cloned().collect(),
            description: self.record.description.as_ref().map(|description| description.body.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(members: &[&str]) -> Group {
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        Group { record: GroupRecord { members, ..Default::default() } }
    }

    #[test]
    fn an_old_record_keeps_its_first_member_as_creator_whoever_goes() {
        let mut old = group(&["ani", "budi", "citra"]);
        assert_eq!(old.rank("ani"), Some("superadmin"));
        assert_eq!(old.leave("ani"), Some("budi".to_owned()), "somebody has to be admin");
        assert_eq!((old.creator(), old.rank("budi"), old.rank("citra")), ("ani", Some("admin"), None));
        assert_eq!(old.leave("citra"), None);
        assert_eq!(old.leave("budi"), None);
        assert!(old.record.members.is_empty() && old.record.admins.is_empty());
    }

    #[test]
    fn a_change_is_refused_with_the_code_of_its_reason() {
        use MemberChange::{Add, Demote, Promote, Remove};
        let mut team = group(&["ani", "budi"]);
        assert_eq!(team.change_member(Add, "budi"), Err(409));
        assert_eq!(team.change_member(Promote, "citra"), Err(404));
        assert_eq!(team.change_member(Remove, "ani"), Err(406));
        assert_eq!(team.change_member(Demote, "ani"), Err(406));
        assert!(team.ask("citra", 1) && !team.ask("citra", 2));
        assert_eq!(team.change_member(Add, "citra"), Ok(()));
        assert!(team.record.requests.is_empty(), "who is in it asks no more");
        assert_eq!(team.change_member(Promote, "citra"), Ok(()));
        assert!(team.is_admin("citra"));
        assert_eq!(team.change_member(Demote, "citra"), Ok(()));
        assert!(!team.is_admin("citra"));
    }

    #[test]
    fn an_invitation_is_for_one_once_and_for_a_time() {
        let mut team = group(&["ani"]);
        team.invite("budi", "first".to_owned(), 100);
        team.invite("budi", "second".to_owned(), 100);
        assert!(!team.accept("budi", "first", 1), "a newer one took its place");
        assert!(!team.accept("citra", "second", 1));
        assert!(!team.accept("budi", "second", 100), "too late");
        assert!(team.accept("budi", "second", 99));
        assert!(!team.accept("budi", "second", 99), "taken up already");
    }

    #[test]
    fn who_may_do_what_follows_the_settings() {
        let mut team = group(&["ani", "budi"]);
        assert!(team.may_edit("budi") && team.may_write("budi") && team.may_change("budi", MemberChange::Add));
        assert!(!team.may_change("budi", MemberChange::Remove));
        (team.record.locked, team.record.announcement, team.record.only_admins_add) = (true, true, true);
        assert!(!team.may_edit("budi") && !team.may_write("budi") && !team.may_change("budi", MemberChange::Add));
        assert!(team.may_edit("ani") && team.may_write("ani") && team.may_change("ani", MemberChange::Add));
        assert!(!team.may_edit("citra") && !team.may_write("citra"));
    }
}
