//! How far a group's message got: who was in the group as it left, and which of them have it, have read it, have
//! played it.

use serde::{Deserialize, Serialize};

use super::{Ack, ChatId, ChatKind, ReceiptKind};

/// Members of larger groups are not counted; WhatsApp's own limit.
pub const MAX_MEMBERS: usize = 1024;
/// Phones have fifteen digits at the most, and LIDs no more.
const MAX_DIGITS: usize = 15;

/// A person by one of their addresses, small enough to be kept a thousand times: the digits, and whether it is a LID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(u64);

impl Member {
    /// From a person's chat; `None` for what is no person.
    #[must_use]
    pub fn of(chat: &ChatId) -> Option<Self> {
        let is_lid = match chat.kind() {
            ChatKind::Phone => false,
            ChatKind::Lid => true,
            ChatKind::Group | ChatKind::Status | ChatKind::Newsletter => return None,
        };
        let digits = Some(chat.user()).filter(|digits| digits.len() <= MAX_DIGITS)?;
        digits.parse::<u64>().ok().map(|number| Self(number << 1 | u64::from(is_lid)))
    }
}

/// Who was in a group, the own account left out: each person once, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster(Vec<Member>);

impl Roster {
    /// Of these people; `None` when they are too many, or cannot all be told apart.
    #[must_use]
    pub fn new(people: &[ChatId]) -> Option<Self> {
        let members: Option<Vec<Member>> = people.iter().map(Member::of).collect();
        let mut members = members?;
        members.sort_unstable();
        members.dedup();
        (members.len() <= MAX_MEMBERS).then_some(Self(members))
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which of them somebody is who may be known by several addresses.
    #[must_use]
    pub fn position(&self, addresses: &[Member]) -> Option<usize> {
        addresses.iter().find_map(|address| self.0.binary_search(address).ok())
    }

    /// As small numbers: each is how far it lies behind the one before.
    #[must_use]
    pub fn to_steps(&self) -> Vec<u64> {
        let before = std::iter::once(0).chain(self.0.iter().map(|member| member.0));
        self.0.iter().zip(before).map(|(member, before)| member.0 - before).collect()
    }

    /// From [`Roster::to_steps`]; `None` when that makes no sense.
    #[must_use]
    pub fn from_steps(steps: &[u64]) -> Option<Self> {
        let mut members = Vec::with_capacity(steps.len().min(MAX_MEMBERS));
        let mut last = 0_u64;
        for (n, step) in steps.iter().enumerate() {
            last = last.checked_add(*step).filter(|_| n < MAX_MEMBERS && (n == 0 || *step > 0))?;
            members.push(Member(last));
        }
        Some(Self(members))
    }
}

/// Some of the members, a bit for each, by their place in the [`Roster`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Marks(Vec<u8>);

impl Marks {
    /// As kept.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// To be kept; empty while nobody is marked.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn set(&mut self, place: usize) {
        let (byte, bit) = (place / 8, 1 << (place % 8));
        if self.0.len() <= byte {
            self.0.resize(byte + 1, 0);
        }
        self.0[byte] |= bit;
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }
}

/// What members of a group have said of one message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Receipts {
    /// How many were in the group as the message left, the own account left out.
    pub members: u32,
    /// Who has it on a device.
    pub delivered: Marks,
    /// Who has read it.
    pub read: Marks,
    /// Who has played it.
    pub played: Marks,
}

impl Receipts {
    /// Of a message to so many; nobody has said anything yet.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self { members: u32::try_from(members).unwrap_or(u32::MAX), ..Self::default() }
    }

    /// A member's word, which says the weaker ones too. Said again it changes nothing.
    pub fn note(&mut self, member: usize, kind: ReceiptKind) {
        if member >= self.members as usize {
            return;
        }
        self.delivered.set(member);
        if kind != ReceiptKind::Delivered {
            self.read.set(member);
        }
        if kind == ReceiptKind::Played {
            self.played.set(member);
        }
    }

    /// How many have it.
    #[must_use]
    pub fn delivered(&self) -> u32 {
        self.delivered.count()
    }

    /// How many have read it.
    #[must_use]
    pub fn read(&self) -> u32 {
        self.read.count()
    }

    /// How far it got with all of them.
    #[must_use]
    pub fn ack(&self) -> Ack {
        let all = |marks: &Marks| self.members > 0 && marks.count() >= self.members;
        let levels = [(&self.played, Ack::Played), (&self.read, Ack::Read), (&self.delivered, Ack::Device)];
        levels.into_iter().find(|(marks, _)| all(marks)).map_or(Ack::Server, |(_, ack)| ack)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn people() -> impl Strategy<Value = Vec<ChatId>> {
        let person = (prop::bool::ANY, "[1-9][0-9]{4,14}")
            .prop_map(|(by_lid, digits)| if by_lid { ChatId::lid(&digits) } else { ChatId::phone(&digits) });
        prop::collection::vec(person, 0..60)
    }

    proptest! {
        #[test]
        fn a_roster_comes_back_and_finds_everybody(people in people()) {
            let roster = Roster::new(&people).unwrap();
            prop_assert_eq!(Roster::from_steps(&roster.to_steps()), Some(roster.clone()));
            let mut places: Vec<usize> = people
                .iter()
                .map(|person| roster.position(&[Member::of(person).unwrap()]).unwrap())
                .collect();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places, (0..roster.len()).collect::<Vec<_>>());
        }

        #[test]
        fn counts_only_grow_and_all_means_all(
            members in 0_usize..20,
            said in prop::collection::vec((0_usize..25, 0_usize..3), 0..80),
        ) {
            let kinds = [ReceiptKind::Delivered, ReceiptKind::Read, ReceiptKind::Played];
            let mut receipts = Receipts::new(members);
            for (member, kind) in said {
                let before = receipts.clone();
                receipts.note(member, kinds[kind]);
                let (delivered, read) = (receipts.delivered(), receipts.read());
                prop_assert!(delivered >= before.delivered() && read >= before.read() && receipts.ack() >= before.ack());
                prop_assert!(read <= delivered && delivered <= receipts.members);
                prop_assert_eq!(receipts.ack() >= Ack::Device, members > 0 && delivered == receipts.members);
                prop_assert_eq!(receipts.ack() >= Ack::Read, members > 0 && read == receipts.members);
                let once = receipts.clone();
                receipts.note(member, kinds[kind]);
                prop_assert_eq!(&receipts, &once, "the same word twice");
            }
        }

        #[test]
        fn steps_from_anywhere_never_panic(steps in prop::collection::vec(any::<u64>(), 0..40)) {
            let _ = Roster::from_steps(&steps);
        }
    }

    #[test]
    fn a_person_is_found_by_either_address() {
        let (phone, lid) = (ChatId::phone("6281200000002"), ChatId::lid("123456789012345"));
        let both = [Member::of(&phone).unwrap(), Member::of(&lid).unwrap()];
        for kept in [&phone, &lid] {
            let roster = Roster::new(&[ChatId::phone("6281200000001"), kept.clone()]).unwrap();
            assert!(roster.position(&both).is_some());
        }
        // The digits of a phone may be those of somebody else's LID.
        let same = [Member::of(&ChatId::phone("12345")).unwrap(), Member::of(&ChatId::lid("12345")).unwrap()];
        assert_ne!(same[0], same[1]);
        assert_eq!(Member::of(&ChatId::group("120363")), None);
    }

    #[test]
    fn too_many_are_not_counted_and_the_rest_takes_little_room() {
        let people =
            |count: u64| (0..count).map(|n| ChatId::lid(&format!("{}", 100_000_000_000_000 + n * 877_000_000_000)));
        assert_eq!(Roster::new(&people(1025).collect::<Vec<_>>()), None);
        assert!(Roster::new(&people(1024).collect::<Vec<_>>()).is_some());
        assert_eq!(Roster::new(&[ChatId::phone(&"9".repeat(16))]), None);
    }
}
