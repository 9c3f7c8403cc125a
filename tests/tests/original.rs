//! The examples of the API of the product that Waya replaces, from its own documentation (`original/api.txt`), run as
//! they stand there; only the placeholders are filled in. curl and Node run for real; of the examples in Dart the bodies
//! are posted, since no Dart is needed for anything else here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use waya_tests::{BUDI, Options, SITI, World, until};

const EXAMPLES: &str = include_str!("original/api.txt");
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
const PDF: &[u8] = b"%PDF-1.4\n1 0 obj<</Type/Pages/Count 1>>endobj\ntrailer<<>>\n%%EOF";
/// Runs a Dart example: its URL and its body, read as the JavaScript that they happen to be.
const DART: &str = r"
const source = require('fs').readFileSync(process.argv[2], 'utf8');
const bytes = require('fs').readFileSync('document.pdf');
const base64Encode = bytes => bytes.toString('base64');
const url = source.match(/'(http:[^']*)'/)[1];
const key = source.match(/'X-API-Key': '([^']*)'/)[1];
const from = /data: \{|jsonEncode\(\{/.exec(source);
let body;
if (from) {
  let at = from.index + from[0].length - 1, depth = 0, end = at;
  do { if (source[end] === '{') depth++; if (source[end] === '}') depth--; end++; } while (depth > 0);
  body = JSON.stringify(eval('(' + source.slice(at, end) + ')'));
}
fetch(url, { method: body ? 'POST' : 'GET', body, headers: { 'Content-Type': 'application/json', 'X-API-Key': key } })
  .then(async answer => { console.log(await answer.text()); if (!answer.ok) process.exit(1); });
";

/// One example.
#[derive(Debug)]
struct Example {
    language: &'static str,
    code: String,
}

/// The examples in their order: each begins with its language's first word.
fn examples() -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut imports = false;
    let mut open = false;
    for line in EXAMPLES.lines() {
        let language = match line {
            _ if line.starts_with("curl ") => Some("curl"),
            _ if line.starts_with("fetch(") => Some("fetch"),
            _ if line.starts_with("const axios") => Some("axios"),
            _ if line.starts_with("import ") && !imports => Some("dart"),
            _ => None,
        };
        imports = line.starts_with("import ");
        // What is neither code nor its continuation is prose.
        let ends = line.starts_with("\"number\" for")
            || line.starts_with("GET ")
            || line.starts_with("// Same")
            || line == "{";
        if let Some(language) = language {
            found.push(Example { language, code: String::new() });
            open = true;
        } else if ends {
            open = false;
        }
        if let (Some(example), true) = (found.last_mut(), open) {
            example.code.push_str(line);
            example.code.push('\n');
        }
    }
    found
}

/// A server on this machine that has the photo.
async fn photo_server() -> Result<(String, tokio::task::JoinHandle<()>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/photo.jpg", listener.local_addr()?);
    let picture = STANDARD.decode(PNG)?;
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\r\n", picture.len());
            let _ = stream.write_all(&[head.as_bytes(), &picture].concat()).await;
        }
    });
    Ok((url, server))
}

/// What the examples need beside a shell.
struct Bench {
    folder: tempfile::TempDir,
    with_axios: bool,
}

impl Bench {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("document.pdf"), PDF)?;
        std::fs::write(folder.path().join("dart.cjs"), DART)?;
        let npm = ["install", "axios@1", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
        let with_axios =
            Command::new("npm").args(npm).current_dir(folder.path()).status().is_ok_and(|status| status.success());
        if !with_axios {
            waya_tests::skipped("the examples with axios, since npm could not get it")?;
        }
        Ok(Self { folder, with_axios })
    }

    fn run(&self, example: &Example, code: &str) -> Result<Option<String>> {
        let (program, extension, arguments): (&str, &str, &[&str]) = match example.language {
            "curl" => ("bash", "sh", &["-e"]),
            "axios" if !self.with_axios => return Ok(None),
            "dart" => ("node", "dart", &["dart.cjs"]),
            _ => ("node", "cjs", &[]),
        };
        let file = self.folder.path().join(format!("example.{extension}"));
        // curl shows refusals and says nothing of them.
        let code = code.replace("curl ", "curl -sS --fail-with-body ");
        std::fs::write(&file, code)?;
        let output = Command::new(program).args(arguments).arg(&file).current_dir(self.folder.path()).output()?;
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {told}\n{}", example.language, example.code);
        Ok(Some(told))
    }
}

fn has_node() -> bool {
    Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The people and groups that an example names, by the placeholders of the documentation.
fn named(code: &str, groups: &BTreeMap<&'static str, String>) -> Vec<(String, &'static str)> {
    let mut named = Vec::new();
    if code.contains("6282146727409") || code.contains("\"main\"") || code.contains("'main'") {
        named.push((format!("{}@c.us", waya_tests::OWN_PHONE), BUDI));
    }
    if code.contains("628xxx") {
        named.push((format!("{}@c.us", waya_tests::OWN_PHONE), SITI));
    }
    for (placeholder, id) in groups {
        if code.contains(placeholder) {
            named.push((id.clone(), BUDI));
        }
    }
    named
}

/// The words of an example: what stands behind `message`.
fn words(code: &str) -> Option<String> {
    let (_, rest) = code
        .split_once("message\":")
        .or_else(|| code.split_once("message:"))
        .or_else(|| code.split_once("'message':"))?;
    let quote = rest.trim_start().chars().next()?;
    rest.trim_start()[1..].split(quote).next().map(str::to_owned)
}

// The photo is served while the examples run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_of_the_documentation_does_what_it_says() -> Result<()> {
    if !has_node() {
        return waya_tests::skipped("there is no Node here");
    }
    let world = World::with(Options::default().env("WAYA_NETWORK_ALLOW_HOSTS", "127.0.0.1"))?;
    let (photo, server) = photo_server().await?;
    ensure!(world.waya(&["settings", "set", "main_number", BUDI])?.status.success());
    let mut groups = BTreeMap::new();
    for (placeholder, subject) in [("120363xxx@g.us", "Satu"), ("120363yyy@g.us", "Dua")] {
        let members = json!({"subject": subject, "members": ["me", BUDI, SITI]});
        let (status, made) = world.admin.post("/group", &members).await?;
        ensure!(status.is_success(), "{made}");
        groups.insert(placeholder, made["id"].as_str().context("no group id")?.to_owned());
    }
    let key = std::fs::read_to_string(world.data_dir().join("api-key"))?.trim().to_owned();
    let filled = |code: &str| {
        let mut code = code
            .replace("{{ baseUrl }}", world.api.base())
            .replace("{{ apiKeyValue }}", &key)
            .replace("YOUR_API_KEY", &key)
            .replace("YOUR_REFERENCE_ID", "order-12345")
            .replace("6282146727409", BUDI)
            .replace("628xxx", SITI)
            .replace("https://example.com/photo.jpg", &photo)
            .replace("BASE64_ENCODED_DATA", &STANDARD.encode(PDF));
        for (placeholder, id) in &groups {
            code = code.replace(placeholder, id);
        }
        code
    };
    let bench = Bench::new()?;
    // The status examples at the beginning ask for a message of that reference.
    let first = json!({"number": SITI, "message": "first", "reference_id": "order-12345"});
    world.api.post("/api/send-message", &first).await?;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::from([(BUDI, 0), (SITI, 1)]);
    world.until_received(SITI, 1).await?;
    let mut ran = BTreeMap::new();
    for example in examples() {
        let Some(told) = bench.run(&example, &filled(&example.code))? else { continue };
        *ran.entry(example.language).or_insert(0) += 1;
        if example.code.contains("message-status") {
            assert!(told.contains("order-12345") && told.contains("sentAt"), "{told}");
            continue;
        }
        check(&world, &example, &named(&example.code, &groups), &mut seen).await?;
    }
    assert!(ran["curl"] >= 9 && ran["fetch"] >= 8 && ran["dart"] >= 16, "{ran:?}");
    assert!(!bench.with_axios || ran["axios"] >= 8, "{ran:?}");
    server.abort();
    Ok(())
}

/// The people's clients show what the example says.
async fn check(
    world: &World,
    example: &Example,
    named: &[(String, &'static str)],
    seen: &mut BTreeMap<&'static str, usize>,
) -> Result<()> {
    ensure!(!named.is_empty(), "nobody is named in {example:?}");
    for who in [BUDI, SITI] {
        // Both are in both groups.
        let expected: Vec<&String> = named
            .iter()
            .filter(|(chat, person)| *person == who || chat.ends_with("@g.us"))
            .map(|(chat, _)| chat)
            .collect();
        let before = seen[who];
        let inbox = until("everything arrived", || async {
            let inbox = world.inbox(who).await?;
            ensure!(
                inbox.len() >= before + expected.len(),
                "{who} has {} of {}: {example:?}",
                inbox.len(),
                before + expected.len()
            );
            Ok(inbox)
        })
        .await?;
        assert_eq!(inbox.len(), before + expected.len(), "{example:?}");
        for message in &inbox[before..] {
            let chat = message["chat"].as_str().context("no chat")?;
            assert!(expected.iter().any(|expected| *expected == chat), "{message}");
            check_content(world, who, example, message).await?;
        }
        seen.insert(who, inbox.len());
    }
    Ok(())
}

async fn check_content(world: &World, who: &str, example: &Example, message: &Value) -> Result<()> {
    let words = words(&example.code);
    if example.code.contains("photo.jpg") {
        assert_eq!(
            (message["kind"].as_str(), message["caption"].as_str()),
            (Some("image"), words.as_deref()),
            "{message}"
        );
        assert_eq!(world.received_file(who, message).await?, STANDARD.decode(PNG)?);
    } else if example.code.contains("document.pdf") {
        assert_eq!(
            (message["kind"].as_str(), message["caption"].as_str()),
            (Some("document"), words.as_deref()),
            "{message}"
        );
        assert_eq!(message["media"]["filename"], "document.pdf");
        assert_eq!(world.received_file(who, message).await?, PDF);
    } else {
        assert_eq!((message["kind"].as_str(), message["text"].as_str()), (Some("text"), words.as_deref()), "{message}");
    }
    Ok(())
}

#[test]
fn all_examples_are_found() {
    let found = examples();
    let count = |language| found.iter().filter(|example| example.language == language).count();
    assert!(Path::new(file!()).ends_with("original.rs"));
    assert!(found.iter().all(|example| !example.code.contains("Only \"number\"")));
    assert_eq!(["curl", "fetch", "axios", "dart"].map(count), [10, 10, 9, 18]);
}
