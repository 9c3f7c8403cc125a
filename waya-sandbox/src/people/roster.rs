//! Who the simulated people are: names and numbers that are the same on every start.
//!
//! Pure: no I/O, no state.

/// The phone number of the account that the user of the sandbox links.
pub const OWN_PHONE: &str = "6281200000001";
/// The push name of that account.
pub const OWN_NAME: &str = "Waya";
/// The name of the first group: the own account and the first three people.
pub const GROUP_SUBJECT: &str = "Keluarga";
/// How many of the people are in the first group.
pub const GROUP_PEOPLE: usize = 3;
/// The most people one sandbox simulates.
pub const MAX_PEOPLE: usize = 500;

/// The longest name of a person, in characters: WhatsApp's own limit.
pub const MAX_NAME: usize = 25;

/// The number of the first person; the others follow.
pub(super) const FIRST_PERSON: u64 = 6_281_200_000_002;
const NAMES: [&str; 20] = [
    "Budi", "Siti", "Agus", "Dewi", "Rina", "Joko", "Ayu", "Eko", "Putri", "Hadi", "Lestari", "Bayu", "Wulan", "Tono",
    "Maya", "Rudi", "Sari", "Iwan", "Indah", "Fajar",
];

/// Name and number of one simulated person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The push name, unique among the people.
    pub name: String,
    /// Digits with the country code.
    pub phone: String,
}

impl Profile {
    /// Whether `who` (a name in any case, or a number however it is written) means this person.
    pub fn is(&self, who: &str) -> bool {
        let who = who.trim();
        self.name.eq_ignore_ascii_case(who) || digits(who).as_deref() == Some(&self.phone)
    }
}

/// The person at `index`, counted from 0: after the last name they start again with a number.
pub fn person(index: usize) -> Profile {
    let name = NAMES[index % NAMES.len()];
    let name = match index / NAMES.len() {
        0 => name.to_owned(),
        round => format!("{name} {}", round + 1),
    };
    Profile { name, phone: (FIRST_PERSON + index as u64).to_string() }
}

/// The digits of a phone number as people write or WhatsApp shows it (`+62 812-…`, `62812…@c.us`);
/// `None` when it is anything else.
pub fn digits(text: &str) -> Option<String> {
    let text = text.trim();
    let bare = text.strip_suffix("@c.us").or_else(|| text.strip_suffix("@s.whatsapp.net")).unwrap_or(text);
    let mut digits = String::with_capacity(bare.len());
    for c in bare.chars() {
        match c {
            '0'..='9' => digits.push(c),
            '+' | '-' | ' ' | '(' | ')' => {}
            _ => return None,
        }
    }
    (7..=15).contains(&digits.len()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_never_repeat() {
        let people: Vec<_> = (0..MAX_PEOPLE).map(person).collect();
        let names: std::collections::HashSet<_> = people.iter().map(|p| &p.name).collect();
        let phones: std::collections::HashSet<_> = people.iter().map(|p| &p.phone).collect();
        assert_eq!(names.len(), MAX_PEOPLE);
        assert_eq!(phones.len(), MAX_PEOPLE);
        assert!(!phones.contains(&OWN_PHONE.to_owned()));
        assert_eq!(people[0], Profile { name: "Budi".into(), phone: "6281200000002".into() });
        assert_eq!(people[20].name, "Budi 2");
    }

    #[test]
    fn a_person_is_found_by_name_and_by_number() {
        let budi = person(0);
        for who in ["Budi", "bUDI ", "6281200000002", "+62 812-0000-0002", "6281200000002@c.us"] {
            assert!(budi.is(who), "{who}");
        }
        for who in ["", "Bud", "Budi 2", "6281200000003", "Budi6281200000002"] {
            assert!(!budi.is(who), "{who}");
        }
    }
}
