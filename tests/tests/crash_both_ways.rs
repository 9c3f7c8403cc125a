//! `kill -9` of the daemon again and again while everything goes on at once: texts and files leave, people answer with
//! texts and pictures, a reader follows the journal, and a webhook's receiver, slow and now and then unwilling, is told
//! of all of it. In the end the books of all sides agree.
//!
//! `crash.rs` has more kills and kills the emulator too, with texts alone. A request whose answer a kill took is sent
//! again under its idempotency key, a form with files as well.

#![expect(clippy::print_stdout, reason = "the figures are for who reads the output")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use waya_tests::apart::{Address, Apart};
use waya_tests::receiver::{Arrival, Manner, Receiver, SECRET};
use waya_tests::{Api, OWN_PHONE, answer, until};

const REQUESTS: usize = 75;
const KILLS: usize = 25;
/// Requests let go before each kill, so that each finds work.
const SHARE: usize = 2;
/// What people say before each kill.
const WORDS: usize = 4;
const ACK_DELAY: Duration = Duration::from_millis(150);
/// How long the webhook's receiver takes for an answer, so that kills find deliveries under way.
const RECEIVER_PAUSE: Duration = Duration::from_millis(60);
/// People whose receipts go nowhere, of five.
const SILENT: usize = 2;
/// For whatever waits out a webhook's retries.
const PATIENCE: Duration = Duration::from_secs(120);
/// A picture of one red pixel; what comes behind its end makes it another file.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

fn picture(n: usize) -> Vec<u8> {
    let mut bytes = STANDARD.decode(PNG).unwrap_or_default();
    bytes.extend((0..20_000).map(|at| ((at * 31 + n * 7 + at / 251) % 256) as u8));
    bytes.extend(n.to_be_bytes());
    bytes
}

fn pdf(n: usize) -> Vec<u8> {
    format!("%PDF-1.4\n1 0 obj<</Type/Pages/Count 3>>endobj\n% {n}\ntrailer<<>>\n%%EOF").into_bytes()
}

/// One message as the person is to have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    to: String,
    words: String,
    file: Option<Vec<u8>>,
}

/// The `n`th request, and what comes of it, in the order of the answer's messages.
struct Order {
    n: usize,
    recipients: Vec<String>,
    words: String,
    files: Vec<Vec<u8>>,
    as_form: bool,
}

impl Order {
    fn new(n: usize, people: &[String]) -> Self {
        let some = |count: usize| (0..count).map(|at| people[(n + at) % people.len()].clone()).collect();
        // The last two have a file in common with all of their kind: it is uploaded once.
        let (recipients, files, as_form) = match n % 5 {
            0 => (some(1), vec![], false),
            1 => (some(3), vec![picture(n)], false),
            2 => (some(1), vec![picture(n), pdf(n)], false),
            3 => (some(1), vec![picture(0)], true),
            _ => (some(2), vec![pdf(n), picture(0)], true),
        };
        Self { n, recipients, words: format!("pesan {n}"), files, as_form }
    }

    fn expected(&self) -> Vec<Expected> {
        let rows = self.recipients.iter().flat_map(|to| {
            let mut files: Vec<_> = self.files.iter().cloned().map(Some).collect();
            if files.is_empty() {
                files.push(None);
            }
            // The first file has the words.
            let words = |at: usize| if at == 0 { self.words.clone() } else { String::new() };
            let row = move |(at, file)| Expected { to: to.clone(), words: words(at), file };
            files.into_iter().enumerate().map(row).collect::<Vec<_>>()
        });
        rows.collect()
    }

    fn request(&self, api: &Api) -> RequestBuilder {
        let request = api.request(Method::POST, "/api/send-message");
        let request = request.header("Idempotency-Key", format!("order-{}", self.n));
        if self.as_form {
            return request.multipart(self.form());
        }
        let media: Vec<_> = self.files.iter().map(|file| json!({"data": STANDARD.encode(file)})).collect();
        let mut body = json!({"message": self.words, "recipients": self.recipients});
        if !media.is_empty() {
            body["media"] = json!(media);
        }
        request.json(&body)
    }

    fn form(&self) -> Form {
        let form = Form::new().text("message", self.words.clone());
        let form = self.recipients.iter().fold(form, |form, to| form.text("recipients", to.clone()));
        let part = |(at, file): (usize, &Vec<u8>)| Part::bytes(file.clone()).file_name(format!("{at}"));
        self.files.iter().enumerate().map(part).fold(form, |form, part| form.part("file", part))
    }
}

/// Posts every request until it is accepted, through all the deaths of the daemon; queue id → what is to come of it.
async fn produce(address: Address, people: Vec<String>, allowed: Arc<Semaphore>) -> Result<BTreeMap<String, Expected>> {
    let mut accepted = BTreeMap::new();
    for n in 0..REQUESTS {
        allowed.acquire().await?.forget();
        let order = Order::new(n, &people);
        let (status, answer) = address.ask(|api| order.request(api)).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
        let messages = answer["messages"].as_array().context("no messages")?;
        let expected = order.expected();
        ensure!(messages.len() == expected.len(), "{answer} for {} messages", expected.len());
        for (message, expected) in messages.iter().zip(expected) {
            ensure!(message["number"] == expected.to.as_str(), "{message} is for {}", expected.to);
            let again = accepted.insert(message["id"].as_str().context("no id")?.to_owned(), expected);
            ensure!(again.is_none(), "{message} has an id that another one has");
        }
    }
    Ok(accepted)
}

/// What a person said, and its id.
#[derive(Debug)]
struct Said {
    id: String,
    from: String,
    words: String,
    file: Option<Vec<u8>>,
}

/// Has people speak, whether the daemon lives or not.
async fn speak(admin: Api, people: Vec<String>, allowed: Arc<Semaphore>, count: usize) -> Result<Vec<Said>> {
    let mut all = Vec::new();
    for n in 0..count {
        allowed.acquire().await?.forget();
        let (from, words) = (people[n % people.len()].clone(), format!("jawab {n}"));
        let file = (n % 3 == 2).then(|| picture(1_000 + n));
        let mut said = json!({"from": from, "text": words});
        if let Some(file) = &file {
            said["media"] = json!({"data": STANDARD.encode(file), "mimetype": "image/png"});
        }
        let (status, answer) = admin.post("/say", &said).await?;
        ensure!(status.is_success() && answer["acknowledged"] == true, "{answer}");
        all.push(Said { id: answer["id"].as_str().context("no id")?.to_owned(), from, words, file });
    }
    Ok(all)
}

/// Follows the journal with a cursor of its own, through all the deaths of the daemon, until it has read `enough`.
async fn follow(address: Address, enough: Arc<Semaphore>) -> Result<Vec<Value>> {
    let (mut after, mut read) = ("0".to_owned(), Vec::new());
    loop {
        // Asked for before the look: what happened until then is seen by it.
        let last = enough.available_permits() > 0;
        let path = format!("/api/events?after={after}&limit=20&wait={}", u8::from(!last));
        let (status, page) = address.ask(|api| api.request(Method::GET, &path)).await?;
        ensure!(status == StatusCode::OK, "{status}: {page}");
        let events = page["events"].as_array().context("no events")?;
        if last && events.is_empty() {
            return Ok(read);
        }
        read.extend(events.iter().cloned());
        page["next"].as_str().context("no cursor")?.clone_into(&mut after);
    }
}

/// What stays the same of an event, whoever reads it when.
fn gist(event: &Value) -> String {
    let status = &event["status"];
    let ids = (&event["message"]["id"], &status["id"], &status["status"], &status["ack"], &event["link"]["state"]);
    format!("{} {} {ids:?}", event["cursor"], event["type"])
}

async fn add_webhook(world: &Apart, receiver: &Receiver) -> Result<()> {
    let mut command = waya_tests::Binary::waya()?.command();
    command.arg("--socket").arg(world.socket()).args(["webhooks", "add", &receiver.url(), "--secret", SECRET]);
    let output = tokio::task::spawn_blocking(move || waya_tests::world::run(command, None)).await??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_agree_after_kills_with_files_answers_and_webhooks() -> Result<()> {
    let root = tempfile::tempdir()?;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let begun = Instant::now();
    let mut world = Apart::start(root.path(), ACK_DELAY, SILENT).await?;
    let receiver = Receiver::slow(RECEIVER_PAUSE).await?;
    add_webhook(&world, &receiver).await?;
    let (orders, words, enough) =
        (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let producer = tokio::spawn(produce(world.address.clone(), world.people.clone(), Arc::clone(&orders)));
    let speaker =
        tokio::spawn(speak(world.admin.clone(), world.people.clone(), Arc::clone(&words), WORDS * (KILLS + 1)));
    let follower = tokio::spawn(follow(world.address.clone(), Arc::clone(&enough)));

    let mut between = 0;
    for kill in 0..KILLS {
        orders.add_permits(SHARE);
        words.add_permits(WORDS);
        receiver.behave(match kill % 6 {
            2 => Manner::Refuses,
            4 => Manner::Forgets,
            _ => Manner::Takes,
        });
        // Most kills wait for something in flight; every fourth comes at any moment, also while starting.
        if kill % 4 == 3 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
        } else {
            world.until_in_flight().await?;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
        }
        between += usize::from(world.kill_daemon().await?);
        world.start_daemon()?;
    }
    receiver.behave(Manner::Takes);
    orders.add_permits(REQUESTS);
    words.add_permits(WORDS);
    let (accepted, said) = (producer.await??, speaker.await??);
    println!("{between} of {KILLS} kills between hand-over and ack, {:?}", begun.elapsed());
    ensure!(between >= KILLS / 3, "the interesting state was hardly hit: {between} of {KILLS} kills");

    let verdict = async {
        let messages = all_sent(&world, &accepted).await?;
        everybody_has_theirs(&world, &accepted, &messages).await?;
        let journal = everything_said_is_journalled(&world, &said).await?;
        enough.add_permits(1);
        let followed = follower.await??;
        let gists = |events: &[Value]| events.iter().map(gist).collect::<Vec<_>>();
        // Receipts may still come while both read.
        let seen = followed.len().min(journal.len());
        ensure!(gists(&followed[..seen]) == gists(&journal[..seen]), "who followed saw another journal");
        ensure!(said.len() + accepted.len() <= seen, "the journal holds {seen} events only");
        everything_is_told(&world, &receiver, &messages, &said).await
    };
    verdict.await.with_context(|| format!("seed {seed}"))?;
    println!("{:?} in all", begun.elapsed());
    Ok(())
}

/// Every accepted message as it ends.
async fn all_sent(world: &Apart, accepted: &BTreeMap<String, Expected>) -> Result<Vec<Value>> {
    let api = world.address.now().context("no daemon runs")?;
    let mut messages = Vec::new();
    for (id, expected) in accepted {
        let (_, message) = api.get(&format!("/api/message-status/{id}?wait=sent&timeout=120")).await?;
        ensure!(message["status"] == "sent" && message["ack"] != "none", "{message}");
        ensure!(
            message["message"] == expected.words.as_str() && message["number"] == expected.to.as_str(),
            "{message}"
        );
        messages.push(message);
    }
    Ok(messages)
}

/// Each message is in its person's inbox once, with its words and the bytes of its file, and nothing else is.
async fn everybody_has_theirs(world: &Apart, accepted: &BTreeMap<String, Expected>, messages: &[Value]) -> Result<()> {
    let mut inboxes: HashMap<(String, String), Value> = HashMap::new();
    for person in &world.people {
        for row in world.inbox(person).await? {
            let key = (person.clone(), row["id"].as_str().context("no id")?.to_owned());
            let twice = inboxes.insert(key, row);
            ensure!(twice.is_none(), "{twice:?} stands twice in an inbox");
        }
    }
    ensure!(inboxes.len() == messages.len(), "{} messages arrived, {} were sent", inboxes.len(), messages.len());
    for message in messages {
        let expected = &accepted[message["id"].as_str().context("no id")?];
        let id = message["whatsappId"].as_str().context("no WhatsApp id")?;
        let row =
            inboxes.get(&(expected.to.clone(), id.to_owned())).with_context(|| format!("{message} is nowhere"))?;
        let (copies, kills) = (row["copies"].as_u64().unwrap_or(0), world.kills_of(id));
        ensure!(copies <= 1 + kills, "{row} arrived too often, with {kills} kills on its way");
        let words = row["text"].as_str().or(row["caption"].as_str()).unwrap_or_default();
        ensure!(words == expected.words, "{row} is not what {message} says");
        ensure!(row["media"].is_object() == expected.file.is_some(), "{row} for {message}");
        if let Some(file) = &expected.file {
            let request = world.admin.request(Method::GET, &format!("/inbox/{}/{id}/media", expected.to));
            let bytes = request.send().await?.error_for_status()?.bytes().await?;
            ensure!(bytes == file, "the file of {row} is another one: {} bytes for {}", bytes.len(), file.len());
        }
    }
    let (_, stats) = world.admin.get("/stats").await?;
    ensure!(stats["senders"][OWN_PHONE]["distinct_ids"] == messages.len(), "more ids than messages: {stats}");
    Ok(())
}

/// The whole journal, in which each thing that was said stands once, in its chat's order, with its file behind it.
async fn everything_said_is_journalled(world: &Apart, said: &[Said]) -> Result<Vec<Value>> {
    let api = world.address.now().context("no daemon runs")?;
    let journal = until("everything said is in the journal", || async {
        let journal = read_all(&api).await?;
        let ids: HashSet<_> = journal.iter().filter_map(|event| event["message"]["id"].as_str()).collect();
        let missing: Vec<_> = said.iter().filter(|said| !ids.contains(said.id.as_str())).collect();
        ensure!(missing.is_empty(), "missing: {:?}", missing.iter().map(|said| &said.words).collect::<Vec<_>>());
        Ok(journal)
    })
    .await?;
    let cursors: HashSet<_> = journal.iter().map(|event| event["cursor"].to_string()).collect();
    ensure!(cursors.len() == journal.len(), "two events have one cursor");
    let mut chats: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in journal.iter().filter(|event| event["type"] == "message") {
        let message = &event["message"];
        let chat = message["chatId"].as_str().context("no chat")?.trim_end_matches("@c.us").to_owned();
        chats.entry(chat).or_default().push(format!("{} {}", message["id"], message["body"]));
    }
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for said in said {
        wanted.entry(said.from.clone()).or_default().push(format!("{:?} {:?}", said.id, said.words));
    }
    ensure!(chats == wanted, "the journal has {chats:?}, and people said {wanted:?}");
    for said in said {
        let Some(file) = &said.file else { continue };
        let request = api.request(Method::GET, &format!("/api/messages/{}/media", said.id));
        let bytes = request.send().await?.error_for_status()?.bytes().await?;
        ensure!(bytes == file, "the picture of {:?} came as another one", said.words);
    }
    Ok(journal)
}

async fn read_all(api: &Api) -> Result<Vec<Value>> {
    let (mut after, mut all) = ("0".to_owned(), Vec::new());
    loop {
        let (_, page) = answer(api.request(Method::GET, &format!("/api/events?after={after}&limit=200"))).await?;
        let events = page["events"].as_array().with_context(|| page.to_string())?;
        if events.is_empty() {
            return Ok(all);
        }
        all.extend(events.iter().cloned());
        page["next"].as_str().context("no cursor")?.clone_into(&mut after);
    }
}

/// The steps of an outgoing message, in order.
const STEPS: [&str; 3] = ["message.sent", "message.delivered", "message.read"];

/// Each step of each message, and each thing that was said, was told; under one id, however often, and in order.
async fn everything_is_told(world: &Apart, receiver: &Receiver, messages: &[Value], said: &[Said]) -> Result<()> {
    let api = world.address.now().context("no daemon runs")?;
    let begun = Instant::now();
    loop {
        match all_told(&api, &receiver.told(), messages, said).await {
            Ok(()) => break,
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    ensure!(receiver.unverified() == 0, "{} deliveries were not signed right", receiver.unverified());
    let arrivals = receiver.arrivals();
    let again = one_id_each(&arrivals)?;
    in_order(&arrivals)?;
    println!("{} deliveries, {again} of which had been taken already, {:?} later", arrivals.len(), begun.elapsed());
    ensure!(again > 0, "no kill made a webhook's event be told again: the interesting state was never hit");
    Ok(())
}

async fn all_told(api: &Api, told: &[Value], messages: &[Value], said: &[Said]) -> Result<()> {
    let told: HashSet<_> = told.iter().map(what).collect();
    for message in messages {
        // How far it got by now: a receipt may have come since.
        let (_, message) =
            api.get(&format!("/api/message-status/{}", message["id"].as_str().unwrap_or_default())).await?;
        let steps = match message["ack"].as_str() {
            Some("read") => 3,
            Some("device") => 2,
            _ => 1,
        };
        for step in &STEPS[..steps] {
            let what = format!("{step} {}", message["id"]);
            ensure!(told.contains(&what), "{what} is not told");
        }
    }
    for said in said {
        let what = format!("message.incoming {:?}", said.id);
        ensure!(told.contains(&what), "{what} is not told");
    }
    Ok(())
}

fn what(body: &Value) -> String {
    format!("{} {}", body["event"].as_str().unwrap_or_default(), body["payload"]["id"])
}

/// An event has one id, and an id is one event's; how many deliveries had been taken before, and came again.
fn one_id_each(arrivals: &[Arrival]) -> Result<usize> {
    let mut ids: HashMap<String, String> = HashMap::new();
    let mut events: HashMap<String, String> = HashMap::new();
    let (mut taken, mut again) = (HashSet::new(), 0);
    for Arrival { body, manner } in arrivals {
        let (what, id) = (what(body), body["id"].to_string());
        again += usize::from(taken.contains(&id));
        if *manner == Manner::Takes {
            taken.insert(id.clone());
        }
        if body["event"] == "session.state" {
            continue;
        }
        let first = events.entry(id.clone()).or_insert_with(|| what.clone());
        ensure!(*first == what, "{id} is {first} and {what}");
        let first = ids.entry(what.clone()).or_insert_with(|| id.clone());
        ensure!(*first == id, "{what} is told as {first} and as {id}");
    }
    Ok(again)
}

/// A step is told only once the steps before it were taken.
fn in_order(arrivals: &[Arrival]) -> Result<()> {
    let mut taken: HashMap<String, usize> = HashMap::new();
    for Arrival { body, manner } in arrivals {
        let Some(step) = STEPS.iter().position(|step| body["event"] == *step) else { continue };
        let reached = taken.entry(body["payload"]["id"].to_string()).or_default();
        ensure!(step <= *reached, "{} came when only {reached} steps before it were taken", what(body));
        if *manner == Manner::Takes {
            *reached = (*reached).max(step + 1);
        }
    }
    Ok(())
}
