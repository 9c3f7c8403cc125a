//! Mixed traffic while everything goes wrong, and then the books: every message that was accepted was delivered once to
//! everybody it was for.
//!
//! A short form by itself; `tests/soak SECONDS PEOPLE` goes on for longer. It drives `serve` as a process of its own, by
//! its admin HTTP, and kills it once; the people in it are real clients, and some of them have a second device here.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng as _;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use serde_json::{Value, json};
use support::{Person, Port};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::{JoinHandle, JoinSet};
use waya_sandbox::control::{ControlError, FaultRequest, GroupRequest, Remote, SandboxControl, SayMedia, SayRequest};
use whatsapp_rust::wacore::types::events::Event;

/// Time that everything gets to arrive when the trouble is over.
const PATIENCE: Duration = Duration::from_secs(120);
/// What goes wrong, for one person and a few times.
const TROUBLE: [&str; 21] = [
    "garble",
    "stale-prekeys",
    "drop",
    "double",
    "reorder",
    "slow 50",
    "ack-delay 300",
    "ack-lost",
    "nack 463",
    "nack 479",
    "nack 503",
    "no-receipts",
    "clock-skew 3600",
    "refuse-logins 503",
    "media 403",
    "media 410",
    "media 500",
    "garble-bundles",
    "strangers",
    "refuse",
    "cut-mid-frame",
];
/// One of so many people has a second device.
const PEOPLE_A_SECOND_DEVICE: usize = 5;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[derive(Debug, Default)]
struct Books {
    /// Each accepted message.
    accepted: BTreeMap<String, Accepted>,
    /// Texts that no ack answered, or a refusal: they may have gone out, once.
    refused: BTreeSet<String>,
    /// How often messages had been sent again for one device at the kill, which nobody else remembers.
    resent: BTreeMap<String, u64>,
}

impl Books {
    /// Everybody and the server were killed. What was sent again between the stats and the kill is one copy at most.
    fn killed(&mut self, stats: &Value) {
        for sender in stats["senders"].as_object().unwrap().values() {
            let resent = sender["resent_ids"].as_object().unwrap();
            self.resent.extend(resent.iter().map(|(id, times)| (id.clone(), times.as_u64().unwrap())));
        }
        self.accepted.values_mut().for_each(|accepted| accepted.before_kill = true);
    }
}

/// How often a message was handed over by its sender, as the server counted.
#[derive(Debug, Default)]
struct HandedOver(BTreeMap<String, u64>);

impl HandedOver {
    fn new(stats: &Value, books: &Books) -> Self {
        let mut times = books.resent.clone();
        for sender in stats["senders"].as_object().unwrap().values() {
            for (id, count) in sender["repeated_ids"].as_object().unwrap() {
                *times.entry(id.clone()).or_default() += count.as_u64().unwrap() - 1;
            }
            for (id, count) in sender["resent_ids"].as_object().unwrap() {
                *times.entry(id.clone()).or_default() += count.as_u64().unwrap();
            }
        }
        Self(times)
    }

    /// A device may have as many copies of a message. What a reader had on its way when it was killed comes again.
    fn times(&self, id: &str, books: &Books) -> u64 {
        let at_kill = books.accepted.get(id).is_none_or(|accepted| accepted.before_kill);
        1 + self.0.get(id).copied().unwrap_or_default() + u64::from(at_kill)
    }
}

#[derive(Debug)]
struct Accepted {
    from: String,
    /// A person, or a group's subject.
    to: String,
    group: Option<String>,
    readers: BTreeSet<String>,
    /// Everybody was killed after it.
    before_kill: bool,
}

impl Accepted {
    fn new(from: &str, to: &str, group: Option<String>, readers: BTreeSet<String>) -> Self {
        Self { from: from.to_owned(), to: to.to_owned(), group, readers, before_kill: false }
    }
}

/// A device of a person that nobody speaks on.
struct SecondDevice {
    phone: String,
    heard: Arc<Mutex<Heard>>,
    tasks: [JoinHandle<()>; 2],
}

/// Ids of what a second device was handed.
#[derive(Default)]
struct Heard {
    read: BTreeMap<String, u64>,
    /// What it could not read. The client asks others for another copy, its own devices never.
    broken: BTreeSet<String>,
}

impl SecondDevice {
    async fn link(control: &Remote, url: &str, phone: &str) -> Self {
        let mut person = Person::start(url, "Second device").await;
        let scan = format!("{}/mock-phone/scan-qr?phone={phone}", control.admin());
        let scanned = reqwest::Client::new().post(scan).body(person.qr().await).send().await.unwrap();
        assert!(scanned.status().is_success(), "{}", scanned.text().await.unwrap());
        person.connected().await;
        let staying = person.come_back_at_once();
        let heard = Arc::<Mutex<Heard>>::default();
        let told = heard.clone();
        let listening = tokio::spawn(async move {
            while let Some(event) = person.next().await {
                let mut told = told.lock().unwrap();
                match &*event {
                    Event::Messages(batch) => {
                        for message in &*batch.messages {
                            *told.read.entry(message.info.id.clone()).or_default() += 1;
                        }
                    }
                    Event::UndecryptableMessage(lost) => drop(told.broken.insert(lost.info.id.clone())),
                    _ => {}
                }
            }
        });
        Self { phone: phone.to_owned(), heard, tasks: [listening, staying] }
    }

    /// What it should have and has not, or has too often.
    fn audit(&self, books: &Books, handed_over: &HandedOver) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let had = |id: &String, own: bool| heard.read.contains_key(id) || own && heard.broken.contains(id);
        let missing = books.accepted.iter().filter(|(id, accepted)| {
            let own = accepted.from == self.phone;
            (own || accepted.readers.contains(&self.phone)) && !had(id, own)
        });
        let missing =
            missing.map(|(id, accepted)| format!("the second device of {} never got {id}: {accepted:?}", self.phone));
        let repeated = heard.read.iter().filter(|(id, copies)| **copies > handed_over.times(id, books));
        let repeated =
            repeated.map(|(id, copies)| format!("the second device of {} got {id} {copies} times", self.phone));
        missing.chain(repeated).collect()
    }
}

struct Soak {
    control: Remote,
    people: Vec<String>,
    groups: Vec<(String, Vec<String>)>,
    books: Mutex<Books>,
    begun: Instant,
    until: Instant,
    served: tokio::sync::Mutex<Option<Served>>,
}

/// `serve`, as long as it lives.
struct Served {
    process: Child,
    people: u64,
    folder: std::path::PathBuf,
    /// Kept from everybody else while it starts again.
    port: Port,
}

impl Served {
    /// Starts it, or starts it again; gives its WebSocket's address once it is ready.
    async fn start(people: u64, folder: &std::path::Path, port: Port) -> (Self, String) {
        for _ in 0..3 {
            if let Some((process, url)) = Self::try_start(people, folder, &port).await {
                return (Self { process, people, folder: folder.to_owned(), port }, url);
            }
        }
        panic!("it does not start");
    }

    /// `None` when it is not ready in time: on a busy machine people may not all get a connection.
    async fn try_start(people: u64, folder: &std::path::Path, port: &Port) -> Option<(Child, String)> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_waya-sandbox"))
            .args(["serve", "--listen", &port.address().to_string(), "--people", &people.to_string(), "--data-dir"])
            .arg(folder)
            .args(support::config().pn_only.then_some("--pn-only"))
            // What the clients say of broken messages would fill the screen.
            .env("WAYA_LOG_FILTER", std::env::var("WAYA_LOG_FILTER").unwrap_or_else(|_| "off".to_owned()))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let line = BufReader::new(process.stdout.take().unwrap()).lines().next_line().await.unwrap()?;
        let ready: Value = serde_json::from_str(&line).unwrap();
        Some((process, ready["whatsapp"].as_str().unwrap().to_owned()))
    }

    /// Ends it as a power cut would end a process, and starts it again.
    async fn kill(self) -> Self {
        let Self { mut process, people, folder, port } = self;
        process.kill().await.unwrap();
        Self::start(people, &folder, port).await.0
    }
}

impl Soak {
    fn someone(&self) -> String {
        self.people.choose(&mut rand::rng()).unwrap().clone()
    }

    /// One speaks after another, as long as it lasts.
    async fn speak(&self, speaker: usize) {
        for number in 0.. {
            if Instant::now() > self.until {
                return;
            }
            let text = format!("{speaker}-{number}");
            let from = self.someone();
            let (request, accepted) = self.speech(&from, &text);
            let said = self.control.say(request).await;
            let away = matches!(said, Err(ControlError::Unreachable { .. }));
            {
                let mut books = self.books.lock().unwrap();
                match said {
                    Ok(said) if said.acknowledged => drop(books.accepted.insert(said.id, accepted)),
                    Ok(_) | Err(ControlError::Refused { .. } | ControlError::Unreachable { .. }) => {
                        books.refused.insert(text);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            if away {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Something to say: words, a file, an answer or a reaction.
    fn speech(&self, from: &str, text: &str) -> (SayRequest, Accepted) {
        let random = &mut rand::rng();
        let request = SayRequest { from: from.to_owned(), text: text.to_owned(), ..SayRequest::default() };
        if random.random_bool(0.2)
            && let Some((id, group, readers)) = self.heard_by(from)
        {
            let to = group.clone().unwrap_or_else(|| readers.iter().next().cloned().unwrap_or_default());
            let accepted = Accepted::new(from, &to, group, readers);
            let (quoted, react) = if random.random_bool(0.5) { (Some(id), None) } else { (None, Some(id)) };
            let request = SayRequest { quoted, react, ..request };
            return (request, accepted);
        }
        let media = random.random_bool(0.15).then(|| SayMedia {
            data: STANDARD.encode(text.repeat(100)),
            mimetype: Some("application/pdf".to_owned()),
            filename: Some(format!("{text}.pdf")),
            voice: false,
        });
        let request = SayRequest { media, ..request };
        let own: Vec<_> = self.groups.iter().filter(|(_, members)| members.contains(&from.to_owned())).collect();
        if let Some((group, members)) = own.choose(random).filter(|_| rand::rng().random_bool(0.3)) {
            let readers = members.iter().filter(|member| *member != from).cloned().collect();
            let accepted = Accepted::new(from, group, Some(group.clone()), readers);
            return (SayRequest { group: Some(group.clone()), ..request }, accepted);
        }
        let to = self.people.iter().filter(|person| *person != from).choose(random).unwrap().clone();
        let readers = BTreeSet::from([to.clone()]);
        let accepted = Accepted::new(from, &to, None, readers);
        (SayRequest { to: Some(to), ..request }, accepted)
    }

    /// Something that was said to somebody: its id, its group, and who hears an answer.
    fn heard_by(&self, who: &str) -> Option<(String, Option<String>, BTreeSet<String>)> {
        let books = self.books.lock().unwrap();
        let heard = books.accepted.iter().filter(|(_, accepted)| accepted.readers.contains(who));
        let (id, accepted) = heard.choose(&mut rand::rng())?;
        let mut readers = accepted.readers.clone();
        readers.remove(who);
        readers.insert(accepted.from.clone());
        Some((id.clone(), accepted.group.clone(), readers))
    }

    /// Something goes wrong, again and again.
    async fn trouble(&self) {
        let mut round = 0;
        let mut killed = false;
        while Instant::now() < self.until {
            if !killed && self.begun.elapsed() > (self.until - self.begun) / 2 {
                killed = true;
                let mut served = self.served.lock().await;
                let alive = served.take().unwrap();
                let stats = self.stats().await;
                *served = Some(alive.kill().await);
                self.books.lock().unwrap().killed(&stats);
            }
            let pause = rand::rng().random_range(100..500);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            round += 1;
            let who = self.someone();
            match round % 20 {
                0 => self.fault("restart", None, None).await,
                5 => self.fault("cut", None, None).await,
                10 => {
                    self.control.set_online(&who, false).await.unwrap();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let _ = self.control.set_online(&who, true).await;
                }
                13 => self.fault("stream-error 503", Some(who), None).await,
                16 => {
                    // The first of somebody's devices; it does not come back by itself.
                    self.fault("replaced", Some(format!("{who}:1")), None).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let _ = self.control.set_online(&who, true).await;
                }
                _ => {
                    let kind = *TROUBLE.choose(&mut rand::rng()).unwrap();
                    let times = (kind != "cut-mid-frame").then(|| rand::rng().random_range(1..=2));
                    self.fault(kind, Some(who), times).await;
                }
            }
        }
    }

    async fn fault(&self, kind: &str, target: Option<String>, times: Option<u32>) {
        let request = FaultRequest { kind: kind.to_owned(), target, times, ..FaultRequest::default() };
        self.control.fault(request).await.unwrap();
    }

    async fn stats(&self) -> Value {
        self.control.stats().await.unwrap()
    }

    /// No more trouble: what was lost on the way comes with a new connection.
    async fn settle(&self) {
        self.fault("off", None, None).await;
        self.fault("cut", None, None).await;
        let begun = Instant::now();
        for who in &self.people {
            while self.control.set_online(who, true).await.is_err() {
                assert!(begun.elapsed() < PATIENCE, "{who} does not come back");
            }
        }
        while self.stats().await["queued"] != 0 {
            assert!(begun.elapsed() < PATIENCE, "something is never confirmed: {}", self.stats().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What is wrong with the books.
    async fn audit(&self, second_devices: &[SecondDevice]) -> Vec<String> {
        let stats = self.stats().await;
        let mut inboxes = Vec::new();
        for who in &self.people {
            inboxes.push((who, self.control.inbox(who).await.unwrap().messages));
        }
        let books = self.books.lock().unwrap();
        let handed_over = HandedOver::new(&stats, &books);
        let mut wrong = Vec::new();
        let mut seen = BTreeSet::new();
        let mut refused = BTreeSet::new();
        for (who, rows) in inboxes {
            for row in rows {
                let most = handed_over.times(&row.id, &books);
                if row.copies as u64 > most {
                    wrong.push(format!("{who} has {} copies of {}, handed over {most} times", row.copies, row.id));
                }
                let text = row.content.text.or(row.content.caption).unwrap_or_default();
                let meant = books.accepted.get(&row.id).is_some_and(|accepted| accepted.readers.contains(who));
                let may_be = meant || books.refused.contains(&text) && refused.insert((who, text.clone()));
                if !may_be {
                    wrong.push(format!("{who} has {} ({text:?}), which was not for them, or twice", row.id));
                }
                if !seen.insert((who, row.id.clone())) {
                    wrong.push(format!("{who} has two rows of {}", row.id));
                }
            }
        }
        for (id, accepted) in &books.accepted {
            let Accepted { from, to, readers, .. } = accepted;
            let missing = readers.iter().filter(|reader| !seen.contains(&(*reader, id.clone())));
            wrong.extend(missing.map(|reader| format!("{reader} never got {id}, said by {from} to {to}")));
        }
        wrong.extend(second_devices.iter().flat_map(|device| device.audit(&books, &handed_over)));
        wrong
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_the_books_balance() {
    support::tell_if_asked();
    let (seconds, people) = (setting("WAYA_SOAK_SECONDS", 15), setting("WAYA_SOAK_PEOPLE", 10));
    let folder = tempfile::tempdir().unwrap();
    let (served, url) = Served::start(people, folder.path(), Port::any()).await;
    let control = Remote::new(&url).unwrap();
    let names: Vec<_> = control.people().await.unwrap().people.into_iter().map(|person| person.number).collect();
    let mut groups = Vec::new();
    for number in 0..people.div_ceil(5) {
        let members: Vec<_> = names.iter().cloned().choose_multiple(&mut rand::rng(), 5);
        let subject = format!("Group {number}");
        control.group(GroupRequest { subject: subject.clone(), members: members.clone() }).await.unwrap();
        groups.push((subject, members));
    }
    let mut second_devices = Vec::new();
    for phone in names.iter().step_by(PEOPLE_A_SECOND_DEVICE) {
        second_devices.push(SecondDevice::link(&control, &url, phone).await);
    }
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let served = tokio::sync::Mutex::new(Some(served));
    let soak = Arc::new(Soak { control, people: names, groups, books: Mutex::default(), begun, until, served });

    let mut going = JoinSet::new();
    for speaker in 0..usize::try_from(people.div_ceil(2)).unwrap() {
        let soak = soak.clone();
        going.spawn(async move { soak.speak(speaker).await });
    }
    let troubled = soak.clone();
    going.spawn(async move { troubled.trouble().await });
    going.join_all().await;

    soak.settle().await;
    let wrong = soak.audit(&second_devices).await;
    second_devices.iter().flat_map(|device| &device.tasks).for_each(JoinHandle::abort);
    let (accepted, refused) = {
        let books = soak.books.lock().unwrap();
        (books.accepted.len(), books.refused.len())
    };
    let stats = soak.stats().await;
    eprintln!("{accepted} messages accepted, {refused} refused, {} relayed", stats["relayed"]);
    assert!(wrong.is_empty(), "of {accepted}: {wrong:#?}");
    assert!(
        accepted > people as usize,
        "hardly anything was said: {}",
        json!({"accepted": accepted, "refused": refused})
    );
}
