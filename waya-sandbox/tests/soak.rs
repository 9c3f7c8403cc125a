//! Mixed traffic while everything goes wrong, and then the books: every message that was accepted was delivered once to
//! everybody it was for.
//!
//! A short form by itself; `tests/soak SECONDS PEOPLE` goes on for longer. It drives `serve` as a process of its own, by
//! its admin HTTP; the people in it are real clients.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;
use waya_sandbox::control::{ControlError, FaultRequest, GroupRequest, Remote, SandboxControl, SayRequest};

/// Time that everything gets to arrive when the trouble is over.
const PATIENCE: Duration = Duration::from_secs(120);
/// Copies of one message that a reader may have beyond what its sender handed over: a resend that was under way at a cut
/// is asked for again, and both arrive.
const RESENDS: u64 = 5;
/// What goes wrong, for one person and a few times.
const TROUBLE: [&str; 14] = [
    "garble",
    "stale-prekeys",
    "drop",
    "double",
    "reorder",
    "slow 50",
    "ack-delay 300",
    "ack-lost",
    "nack 479",
    "no-receipts",
    "clock-skew 3600",
    "refuse-logins 503",
    "media 500",
    "cut-mid-frame",
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[derive(Debug, Default)]
struct Books {
    /// Each accepted message.
    accepted: BTreeMap<String, Accepted>,
    /// Texts that no ack answered, or a refusal: they may have gone out, once.
    refused: BTreeSet<String>,
}

#[derive(Debug)]
struct Accepted {
    from: String,
    /// A person, or a group's subject.
    to: String,
    readers: BTreeSet<String>,
}

struct Soak {
    control: Remote,
    people: Vec<String>,
    groups: Vec<(String, Vec<String>)>,
    books: Mutex<Books>,
    until: Instant,
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
            let (request, readers) = self.speech(&from, &text);
            let to = request.group.clone().or_else(|| request.to.clone()).unwrap_or_default();
            let said = self.control.say(request).await;
            let mut books = self.books.lock().unwrap();
            match said {
                Ok(said) if said.acknowledged => {
                    books.accepted.insert(said.id, Accepted { from, to, readers });
                }
                Ok(_) | Err(ControlError::Refused { .. }) => drop(books.refused.insert(text)),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn speech(&self, from: &str, text: &str) -> (SayRequest, BTreeSet<String>) {
        let own: Vec<_> = self.groups.iter().filter(|(_, members)| members.contains(&from.to_owned())).collect();
        let random = &mut rand::rng();
        let request = SayRequest { from: from.to_owned(), text: text.to_owned(), ..SayRequest::default() };
        if let Some((group, members)) = own.choose(random).filter(|_| rand::rng().random_bool(0.3)) {
            let readers = members.iter().filter(|member| *member != from).cloned().collect();
            return (SayRequest { group: Some(group.clone()), ..request }, readers);
        }
        let to = self.people.iter().filter(|person| *person != from).choose(random).unwrap().clone();
        (SayRequest { to: Some(to.clone()), ..request }, BTreeSet::from([to]))
    }

    /// Something goes wrong, again and again.
    async fn trouble(&self) {
        let mut round = 0;
        while Instant::now() < self.until {
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
    async fn audit(&self) -> Vec<String> {
        let stats = self.stats().await;
        let mut wrong = Vec::new();
        let mut seen = BTreeMap::<(String, String), u64>::new();
        for who in &self.people {
            for row in self.control.inbox(who).await.unwrap().messages {
                let sender = row.from.trim_end_matches("@c.us");
                let repeats = stats["senders"][sender]["repeated_ids"][&row.id].as_u64().unwrap_or(1);
                if row.copies as u64 > repeats + RESENDS {
                    wrong.push(format!("{who} has {} copies of {}, sent {repeats} times", row.copies, row.id));
                }
                let text = row.content.text.unwrap_or_default();
                let books = self.books.lock().unwrap();
                let meant = books.accepted.get(&row.id).is_some_and(|accepted| accepted.readers.contains(who));
                if !meant && !books.refused.contains(&text) {
                    wrong.push(format!("{who} has {} ({text:?}), which was not for them", row.id));
                }
                *seen.entry((who.clone(), row.id)).or_default() += 1;
            }
        }
        let books = self.books.lock().unwrap();
        for (id, accepted) in &books.accepted {
            for reader in &accepted.readers {
                match seen.get(&(reader.clone(), id.clone())) {
                    Some(1) => {}
                    Some(more) => wrong.push(format!("{reader} has {id} {more} times")),
                    None => {
                        let Accepted { from, to, .. } = accepted;
                        wrong.push(format!("{reader} never got {id}, said by {from} to {to}"));
                    }
                }
            }
        }
        wrong
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_the_books_balance() {
    let (seconds, people) = (setting("WAYA_SOAK_SECONDS", 15), setting("WAYA_SOAK_PEOPLE", 10));
    let folder = tempfile::tempdir().unwrap();
    let mut served = Command::new(env!("CARGO_BIN_EXE_waya-sandbox"))
        .args(["serve", "--listen", "127.0.0.1:0", "--people", &people.to_string(), "--data-dir"])
        .arg(folder.path())
        // What the clients say of broken messages would fill the screen.
        .env("WAYA_LOG_FILTER", std::env::var("WAYA_LOG_FILTER").unwrap_or_else(|_| "off".to_owned()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let line = BufReader::new(served.stdout.take().unwrap()).lines().next_line().await.unwrap().unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let control = Remote::new(ready["whatsapp"].as_str().unwrap()).unwrap();
    let names: Vec<_> = control.people().await.unwrap().people.into_iter().map(|person| person.number).collect();
    let mut groups = Vec::new();
    for number in 0..people.div_ceil(5) {
        let members: Vec<_> = names.iter().cloned().choose_multiple(&mut rand::rng(), 5);
        let subject = format!("Group {number}");
        control.group(GroupRequest { subject: subject.clone(), members: members.clone() }).await.unwrap();
        groups.push((subject, members));
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let soak = Arc::new(Soak { control, people: names, groups, books: Mutex::default(), until });

    let mut going = JoinSet::new();
    for speaker in 0..usize::try_from(people.div_ceil(2)).unwrap() {
        let soak = soak.clone();
        going.spawn(async move { soak.speak(speaker).await });
    }
    let troubled = soak.clone();
    going.spawn(async move { troubled.trouble().await });
    going.join_all().await;

    soak.settle().await;
    let wrong = soak.audit().await;
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
