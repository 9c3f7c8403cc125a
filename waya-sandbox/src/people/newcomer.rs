//! People who come, or change their name, while the sandbox runs. Where it keeps its data they are there again at the next start: their folder
//! is, and the emulator knows their name.

use std::sync::Arc;

use super::roster::{FIRST_PERSON, MAX_NAME, MAX_PEOPLE, OWN_NAME, OWN_PHONE, Profile, digits};
use super::{People, PeopleError, Person};
use crate::emulator::AccountInfo;

impl People {
    /// Somebody new comes, offline at first. Without a number it is the next one that no account has.
    pub fn join(&self, name: &str, number: Option<&str>) -> Result<Arc<Person>, PeopleError> {
        let name = a_name(name)?;
        let accounts = self.0.emulator.accounts();
        let phone = match number {
            Some(number) => a_number(number)?,
            None => next_number(&accounts),
        };
        let everybody = self.all();
        let mut known = everybody.iter().map(|person| person.profile());
        if let Some(taken) = known.find(|profile| profile.is(name) || profile.is(&phone)) {
            return Err(PeopleError::Taken { name: taken.name, number: taken.phone });
        }
        if phone == OWN_PHONE {
            return Err(PeopleError::Taken { name: OWN_NAME.to_owned(), number: phone });
        }
        if everybody.len() >= MAX_PEOPLE {
            return Err(PeopleError::TooMany { asked: everybody.len() + 1 });
        }
        self.open_one(Profile { name: name.to_owned(), phone })
    }

    /// Somebody is called otherwise from now on; their linked devices are told.
    pub fn rename(&self, person: &Person, name: &str) -> Result<(), PeopleError> {
        let (name, before) = (a_name(name)?, person.profile());
        let everybody = self.all();
        let mut others = everybody.iter().map(|person| person.profile()).filter(|other| other.phone != before.phone);
        if let Some(taken) = others.find(|profile| profile.is(name)) {
            return Err(PeopleError::Taken { name: taken.name, number: taken.phone });
        }
        if !self.0.emulator.rename(&before.phone, name) {
            return Err(PeopleError::NotRenamed(before.name));
        }
        person.call(name);
        Ok(())
    }

    /// Those who came while an earlier process ran.
    pub(super) fn open_newcomers(&self) -> Result<(), PeopleError> {
        let Some(folder) = self.0.data_dir.as_deref().map(|dir| dir.join("people")) else { return Ok(()) };
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(PeopleError::Folder { path: folder, source }),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut phones: Vec<_> = names.filter(|name| self.find(name).is_none()).collect();
        phones.sort_unstable();
        let accounts = self.0.emulator.accounts();
        for account in accounts.into_iter().filter(|account| phones.contains(&account.phone)) {
            // A smaller crowd than last time: those it had then stay away.
            if !is_of_the_roster(&account.phone) {
                self.open_one(Profile { name: account.name, phone: account.phone })?;
            }
        }
        Ok(())
    }
}

fn is_of_the_roster(phone: &str) -> bool {
    phone.parse().is_ok_and(|number: u64| (FIRST_PERSON..FIRST_PERSON + MAX_PEOPLE as u64).contains(&number))
}

/// A name that means one person, and nothing else where people are named.
fn a_name(text: &str) -> Result<&str, PeopleError> {
    let name = text.trim();
    let reserved = ["me", "all", OWN_NAME].iter().any(|taken| name.eq_ignore_ascii_case(taken));
    if reserved || name.is_empty() || name.chars().count() > MAX_NAME || digits(name).is_some() {
        return Err(PeopleError::BadName { name: name.to_owned() });
    }
    Ok(name)
}

fn a_number(text: &str) -> Result<String, PeopleError> {
    let good = digits(text).filter(|digits| (7..=15).contains(&digits.len()));
    good.ok_or_else(|| PeopleError::BadNumber { number: text.to_owned() })
}

/// Behind those that the roster may ever give away.
fn next_number(accounts: &[AccountInfo]) -> String {
    let first = FIRST_PERSON + MAX_PEOPLE as u64;
    let taken = |number: &u64| accounts.iter().any(|account| account.phone == number.to_string());
    // One of so many is free.
    let last = first + accounts.len() as u64;
    (first..=last).find(|number| !taken(number)).unwrap_or(last).to_string()
}
