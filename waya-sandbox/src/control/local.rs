//! Commands on the emulator and the people of this process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use whatsapp_rust::prelude::Jid;

use super::{
    ClockRequest, ClockView, ControlError, FaultList, FaultRequest, FaultView, GroupRequest, GroupView, InboxList,
    Linked, PeopleList, PersonRequest, PersonView, ReadDone, Said, SandboxControl, SayMedia, SayRequest, TypingList,
    clock,
};
use crate::emulator::{Emulator, FAULT_KINDS, Fault, FaultError, FaultLimit, FaultTarget};
use crate::people::inbox::Received;
use crate::people::roster::{MAX_NAME, OWN_NAME, OWN_PHONE, digits};
use crate::people::speech::{File, Speech};
use crate::people::{People, PeopleError, Person};

/// Emulator and people at hand.
#[derive(Clone)]
pub struct Local {
    emulator: Emulator,
    people: People,
}

impl Local {
    /// Commands these two.
    pub fn new(emulator: Emulator, people: People) -> Self {
        Self { emulator, people }
    }

    fn find(&self, who: &str) -> Result<Arc<Person>, ControlError> {
        self.people.find(who).ok_or_else(|| self.unknown(who))
    }

    fn unknown(&self, who: &str) -> ControlError {
        let names: Vec<_> = self.people.all().iter().map(|person| person.profile().name).collect();
        let known = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        ControlError::UnknownPerson { who: who.to_owned(), known }
    }

    fn view(&self, person: &Person) -> PersonView {
        self.account(&person.profile().phone)
    }

    fn account(&self, phone: &str) -> PersonView {
        PersonView::from(&self.emulator.account(phone).unwrap_or_default())
    }

    /// The number that a name, a number or `me` stands for.
    fn number(&self, who: &str) -> Result<String, ControlError> {
        let who = who.trim();
        if who.eq_ignore_ascii_case("me") || who.eq_ignore_ascii_case(OWN_NAME) {
            return Ok(OWN_PHONE.to_owned());
        }
        if let Some(person) = self.people.find(who) {
            return Ok(person.profile().phone);
        }
        digits(who).ok_or_else(|| self.unknown(who))
    }

    fn group(&self, asked: &str) -> Result<GroupView, ControlError> {
        let groups: Vec<GroupView> = self.emulator.groups().into_iter().map(Into::into).collect();
        let asked = asked.trim();
        let is_meant = |group: &&GroupView| group.id == asked || group.subject.to_lowercase() == asked.to_lowercase();
        if let Some(group) = groups.iter().find(is_meant) {
            return Ok(group.clone());
        }
        let known: Vec<_> = groups.iter().map(|group| group.subject.as_str()).collect();
        Err(ControlError::UnknownGroup { group: asked.to_owned(), known: known.join(", ") })
    }

    /// Where a text goes: the address on the wire, and the chat as it is shown.
    fn destination(&self, speaker: &Person, request: &SayRequest) -> Result<(Jid, String), ControlError> {
        let Some(asked) = &request.group else {
            let number = self.number(request.to.as_deref().unwrap_or("me"))?;
            if number == speaker.profile().phone {
                let problem = "people do not talk to themselves: name somebody else".to_owned();
                return Err(ControlError::Invalid { field: "to", problem });
            }
            return Ok((Jid::pn(number.as_str()), format!("{number}@c.us")));
        };
        if request.to.is_some() {
            let problem = "give either group or to, not both".to_owned();
            return Err(ControlError::Invalid { field: "group", problem });
        }
        let group = self.group(asked)?;
        if !group.members.contains(&speaker.profile().phone) {
            let problem = format!("{} is not in {}", speaker.profile().name, group.subject);
            return Err(ControlError::Invalid { field: "group", problem });
        }
        let jid = group
            .id
            .parse()
            .map_err(|_| ControlError::Invalid { field: "group", problem: format!("{} is no group id", group.id) })?;
        Ok((jid, group.id))
    }

    /// Whom a fault hits. The people come back from everything but these two, so by default those
    /// are for the accounts under test.
    fn targets(&self, fault: Fault, target: Option<&str>) -> Result<Vec<FaultTarget>, ControlError> {
        match target.map(str::trim).filter(|target| !target.is_empty()) {
            Some(all) if all.eq_ignore_ascii_case("all") => Ok(vec![FaultTarget::All]),
            Some(who) => Ok(vec![self.one(who)?]),
            None if matches!(fault, Fault::Replaced | Fault::LoggedOut) => Ok(self
                .emulator
                .accounts()
                .into_iter()
                .filter(|account| self.people.find(&account.phone).is_none())
                .map(|account| FaultTarget::Phone(account.phone))
                .collect()),
            None => Ok(vec![FaultTarget::All]),
        }
    }

    /// A person, or one linked device of theirs: `Budi`, `6281…`, `me:2`.
    fn one(&self, who: &str) -> Result<FaultTarget, ControlError> {
        let device = who.rsplit_once(':').and_then(|(who, device)| Some((who, device.parse().ok()?)));
        Ok(match device {
            Some((who, device)) => FaultTarget::Device(self.number(who)?, device),
            None => FaultTarget::Phone(self.number(who)?),
        })
    }

    fn clear(&self, target: Option<&str>) -> Result<(), ControlError> {
        let target = match target.map(str::trim) {
            None | Some("" | "all") => FaultTarget::All,
            Some(who) => self.one(who)?,
        };
        self.emulator.clear_faults(&target);
        Ok(())
    }

    fn active(&self) -> FaultList {
        let faults = self.emulator.faults().into_iter().map(FaultView::from).collect();
        FaultList { faults, kinds: Vec::new() }
    }

    fn switch_on(&self, request: &FaultRequest, text: &str) -> Result<(), ControlError> {
        let invalid = |problem: FaultError| {
            let field = if matches!(problem, FaultError::NoDevice(_)) { "target" } else { "kind" };
            ControlError::Invalid { field, problem: problem.to_string() }
        };
        let fault: Fault = text.parse().map_err(invalid)?;
        let limit = FaultLimit { times: request.times, time: request.seconds.map(Duration::from_secs) };
        for target in self.targets(fault, request.target.as_deref())? {
            self.emulator.set_limited_fault(fault, target, limit).map_err(invalid)?;
        }
        Ok(())
    }
}

/// A message in the person's inbox.
fn received(person: &Person, field: &'static str, id: Option<&str>) -> Result<Option<Received>, ControlError> {
    let Some(id) = id else { return Ok(None) };
    let problem = || format!("{} has received no message {id:?}: take an id of their inbox", person.profile().name);
    person.inbox().find(id).map(Some).ok_or_else(|| ControlError::Invalid { field, problem: problem() })
}

/// An answer goes to where the message was.
fn where_it_was(received: &Received, request: &SayRequest) -> Result<(Jid, String), ControlError> {
    if request.group.is_some() || request.to.is_some() {
        let problem = "an answer goes to where the message was: leave out group and to".to_owned();
        return Err(ControlError::Invalid { field: "to", problem });
    }
    let jid = received.address.chat.parse();
    let jid =
        jid.map_err(|_| ControlError::Invalid { field: "quoted", problem: "that chat has no address".to_owned() });
    Ok((jid?, received.chat.clone()))
}

fn file(media: SayMedia) -> Result<File, ControlError> {
    let content = STANDARD
        .decode(media.data.trim())
        .map_err(|error| ControlError::Invalid { field: "media", problem: format!("data is not base64 ({error})") })?;
    let mimetype = media.mimetype.unwrap_or_else(|| "application/octet-stream".to_owned());
    Ok(File { content, mimetype, name: media.filename, voice: media.voice })
}

#[async_trait]
impl SandboxControl for Local {
    async fn people(&self) -> Result<PeopleList, ControlError> {
        let people = self.people.all().iter().map(|person| self.view(person)).collect();
        let mut groups: Vec<GroupView> = self.emulator.groups().into_iter().map(Into::into).collect();
        groups.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(PeopleList { people, groups })
    }

    async fn inbox(&self, who: &str) -> Result<InboxList, ControlError> {
        Ok(InboxList { messages: self.find(who)?.inbox().entries() })
    }

    async fn typing(&self, who: &str) -> Result<TypingList, ControlError> {
        Ok(TypingList { typing: self.find(who)?.typing() })
    }

    async fn load(&self, who: &str, id: &str) -> Result<Vec<u8>, ControlError> {
        let person = self.find(who)?;
        let problem = || format!("{} has received no message {id:?}", person.profile().name);
        let found = person.inbox().find(id).ok_or_else(|| ControlError::Invalid { field: "id", problem: problem() })?;
        Ok(person.load(&found).await?)
    }

    async fn say(&self, request: SayRequest) -> Result<Said, ControlError> {
        let speaker = self.find(&request.from)?;
        let (answers, reacts_to) = (
            received(&speaker, "quoted", request.quoted.as_deref())?,
            received(&speaker, "react", request.react.as_deref())?,
        );
        let (jid, chat) = match answers.as_ref().or(reacts_to.as_ref()) {
            Some(received) => where_it_was(received, &request)?,
            None => self.destination(&speaker, &request)?,
        };
        let file = request.media.map(file).transpose()?;
        if request.text.is_empty() && file.is_none() && reacts_to.is_none() {
            return Err(ControlError::NothingToSay);
        }
        let said = speaker.say(jid, Speech { text: request.text, file, answers, reacts_to }).await?;
        Ok(Said { id: said.id, chat, acknowledged: said.acknowledged })
    }

    async fn person(&self, request: PersonRequest) -> Result<PersonView, ControlError> {
        let person = self.people.join(&request.name, request.number.as_deref())?;
        person.go_online().await?;
        if request.business {
            self.emulator.set_business(&person.profile().phone, true);
        }
        Ok(self.view(&person))
    }

    async fn rename(&self, who: &str, name: &str) -> Result<PersonView, ControlError> {
        if self.number(who).is_ok_and(|number| number == OWN_PHONE) {
            let name = name.trim();
            if name.is_empty() || name.chars().count() > MAX_NAME {
                return Err(PeopleError::BadName { name: name.to_owned() }.into());
            }
            if !self.emulator.rename(OWN_PHONE, name) {
                return Err(PeopleError::NotRenamed(OWN_NAME.to_owned()).into());
            }
            return Ok(self.account(OWN_PHONE));
        }
        let person = self.find(who)?;
        self.people.rename(&person, name)?;
        Ok(self.view(&person))
    }

    async fn group(&self, request: GroupRequest) -> Result<GroupView, ControlError> {
        if request.subject.trim().is_empty() {
            return Err(ControlError::Invalid { field: "subject", problem: "give the group a name".to_owned() });
        }
        let members: Vec<_> = request.members.iter().map(|who| self.number(who)).collect::<Result<_, _>>()?;
        if members.is_empty() {
            return Err(ControlError::Invalid { field: "members", problem: "name at least one member".to_owned() });
        }
        Ok(self.emulator.ensure_group(&request.subject, &members).into())
    }

    async fn read(&self, who: &str, play: bool) -> Result<ReadDone, ControlError> {
        let person = self.find(who)?;
        let read = person.read(play).await?;
        Ok(ReadDone { person: self.view(&person), read })
    }

    async fn set_autoread(&self, who: &str, on: bool) -> Result<PersonView, ControlError> {
        let person = self.find(who)?;
        person.set_autoread(on).await?;
        Ok(self.view(&person))
    }

    async fn set_online(&self, who: &str, online: bool) -> Result<PersonView, ControlError> {
        let person = self.find(who)?;
        if online {
            person.go_online().await?;
        } else {
            person.go_offline().await?;
        }
        Ok(self.view(&person))
    }

    async fn fault(&self, request: FaultRequest) -> Result<FaultList, ControlError> {
        match request.text().as_str() {
            "off" => self.clear(request.target.as_deref())?,
            "list" => {
                return Ok(FaultList { kinds: FAULT_KINDS.map(Into::into).to_vec(), ..self.active() });
            }
            text => self.switch_on(&request, text)?,
        }
        Ok(self.active())
    }

    async fn set_phone_online(&self, who: Option<&str>, online: bool) -> Result<(), ControlError> {
        let phone = who.map_or_else(|| Ok(OWN_PHONE.to_owned()), |who| self.number(who))?;
        if self.emulator.set_handset_online(&phone, online) {
            return Ok(());
        }
        let problem = format!("{phone} has no account here, or cannot be switched now");
        Err(ControlError::Invalid { field: "who", problem })
    }

    async fn clock(&self, request: ClockRequest) -> Result<ClockView, ControlError> {
        clock::turn(self.emulator.clock(), &request)
    }

    async fn stats(&self) -> Result<serde_json::Value, ControlError> {
        Ok(serde_json::to_value(self.emulator.stats())?)
    }

    async fn scan_qr(&self, qr: &str, phone: Option<&str>) -> Result<Linked, ControlError> {
        Ok(self.emulator.scan_qr(qr.trim(), phone).await?.into())
    }

    async fn enter_code(&self, phone: &str, code: &str) -> Result<Linked, ControlError> {
        Ok(self.emulator.enter_pair_code(phone, code).await?.into())
    }
}
