//! Every kind of file as the other side's own client gets it: what it is, what is said of it, and its bytes.
//!
//! ffmpeg makes the files; where it is not installed this says that it is skipped.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde_json::{Value, json};
use waya_tests::{BUDI, Options, World};

const PICTURE: &str = "testsrc=duration=2:size=320x240:rate=10";
const SOUND: &str = "sine=frequency=440:duration=3";

/// Files, each by its name.
struct Files(tempfile::TempDir);

impl Files {
    /// `None` where they cannot be made.
    fn make() -> Result<Option<Self>> {
        let files = Self(tempfile::tempdir()?);
        let recipes: [(&str, &str, &[&str]); 7] = [
            ("photo.png", PICTURE, &["-frames:v", "1"]),
            ("film.mp4", PICTURE, &["-pix_fmt", "yuv420p"]),
            ("dance.gif", PICTURE, &[]),
            ("smile.webp", PICTURE, &["-frames:v", "1"]),
            ("song.mp3", SOUND, &[]),
            ("word.ogg", SOUND, &["-c:a", "libopus"]),
            ("word.wav", SOUND, &[]),
        ];
        for (name, source, arguments) in recipes {
            let mut ffmpeg = Command::new("ffmpeg");
            ffmpeg.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", source]).args(arguments);
            match ffmpeg.arg(files.0.path().join(name)).status() {
                Ok(status) => ensure!(status.success(), "ffmpeg makes no {name}"),
                Err(_) => return waya_tests::skipped("ffmpeg is not installed").map(|()| None),
            }
        }
        Ok(Some(files))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.0.path().join(name))?)
    }
}

/// Sends a file to Budi and gives his row of it.
async fn sent(world: &World, media: &Value, row: usize) -> Result<Value> {
    let (status, answer) = world.api.post("/api/send-message", &json!({"number": BUDI, "media": media})).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
    world.until_received(BUDI, row).await
}

fn encoded(files: &Files, name: &str) -> Result<Value> {
    Ok(json!({"data": STANDARD.encode(files.read(name)?), "filename": name}))
}

/// The sides of a picture in a file, as ffmpeg reads it.
fn sides(folder: &Path, bytes: &[u8]) -> Result<(u64, u64)> {
    let file = folder.join("shown");
    std::fs::write(&file, bytes)?;
    let entries = ["-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height", "-of", "csv=p=0"];
    let told = Command::new("ffprobe").args(entries).arg(&file).output()?;
    let told = String::from_utf8(told.stdout)?;
    let (width, height) = told.trim().split_once(',').context("no picture")?;
    Ok((width.parse()?, height.trim_end_matches(',').parse()?))
}

#[tokio::test]
async fn every_kind_arrives_as_what_it_is() -> Result<()> {
    let Some(files) = Files::make()? else { return Ok(()) };
    let world = World::start()?;
    // What is sent as it is.
    for (row, (name, kind, mimetype)) in [
        ("photo.png", "image", "image/png"),
        ("film.mp4", "video", "video/mp4"),
        ("smile.webp", "sticker", "image/webp"),
        ("song.mp3", "audio", "audio/mpeg"),
        // Not played in place by phones.
        ("word.wav", "document", "audio/wav"),
    ]
    .into_iter()
    .enumerate()
    {
        let got = sent(&world, &encoded(&files, name)?, row + 1).await?;
        assert_eq!((&got["kind"], &got["media"]["mimetype"]), (&json!(kind), &json!(mimetype)), "{name}: {got}");
        assert_eq!(world.received_file(BUDI, &got).await?, files.read(name)?, "{name}");
    }
    let inbox = world.inbox(BUDI).await?;
    let shown = |row: usize| &inbox[row]["media"];
    for row in [0, 1, 2] {
        assert_eq!((&shown(row)["width"], &shown(row)["height"]), (&json!(320), &json!(240)), "{}", inbox[row]);
    }
    for (row, seconds) in [(1, 2), (3, 3)] {
        let told = shown(row)["seconds"].as_u64().context("no length")?;
        ensure!(told.abs_diff(seconds) <= 1, "{told} s: {}", inbox[row]);
    }
    for row in [0, 1] {
        let thumbnail = STANDARD.decode(shown(row)["thumbnail"].as_str().context("no thumbnail")?)?;
        ensure!(thumbnail.starts_with(&[0xff, 0xd8]) && thumbnail.len() < 20_000, "no small JPEG");
        let (width, height) = sides(files.0.path(), &thumbnail)?;
        ensure!(width < 320 && width * 240 == height * 320, "{width}x{height}");
    }
    Ok(())
}

#[tokio::test]
async fn what_whatsapp_takes_in_one_form_only_is_made_into_it() -> Result<()> {
    let Some(files) = Files::make()? else { return Ok(()) };
    let world = World::start()?;
    // Opus in Ogg is a voice note as it is.
    let mut media = encoded(&files, "word.ogg")?;
    media["voice"] = json!(true);
    let got = sent(&world, &media, 1).await?;
    assert_eq!((&got["kind"], &got["media"]["seconds"]), (&json!("voice"), &json!(3)), "{got}");
    assert_eq!(world.received_file(BUDI, &got).await?, files.read("word.ogg")?);
    // Other sound is made into that.
    let mut media = encoded(&files, "song.mp3")?;
    media["voice"] = json!(true);
    let got = sent(&world, &media, 2).await?;
    assert_eq!((&got["kind"], &got["media"]["seconds"]), (&json!("voice"), &json!(3)), "{got}");
    assert_eq!(got["media"]["mimetype"], "audio/ogg; codecs=opus");
    let heard = world.received_file(BUDI, &got).await?;
    ensure!(heard.starts_with(b"OggS") && heard.windows(8).any(|bytes| bytes == b"OpusHead"), "no Opus in Ogg");
    // A GIF becomes a film that plays over and over.
    let got = sent(&world, &encoded(&files, "dance.gif")?, 3).await?;
    assert_eq!((&got["kind"], &got["media"]["mimetype"]), (&json!("gif"), &json!("video/mp4")), "{got}");
    assert_eq!((&got["media"]["width"], &got["media"]["seconds"]), (&json!(320), &json!(2)), "{got}");
    let film = world.received_file(BUDI, &got).await?;
    assert_eq!(sides(files.0.path(), &film)?, (320, 240));
    Ok(())
}

#[tokio::test]
async fn without_the_converter_a_voice_note_is_refused_and_a_gif_goes_as_a_document() -> Result<()> {
    let Some(files) = Files::make()? else { return Ok(()) };
    let world = World::with(Options::default().env("PATH", "/nonexistent"))?;
    let mut media = encoded(&files, "song.mp3")?;
    media["voice"] = json!(true);
    let (status, refused) = world.api.post("/api/send-message", &json!({"number": BUDI, "media": media})).await?;
    assert_eq!((status, &refused["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_media")), "{refused}");
    let words = refused["error"].as_str().unwrap_or_default();
    ensure!(words.contains("install ffmpeg") && words.contains("ogg/opus"), "{words}");
    let got = sent(&world, &encoded(&files, "dance.gif")?, 1).await?;
    assert_eq!((&got["kind"], &got["media"]["mimetype"]), (&json!("document"), &json!("image/gif")), "{got}");
    assert_eq!(world.received_file(BUDI, &got).await?, files.read("dance.gif")?);
    Ok(())
}

#[tokio::test]
async fn a_document_tells_its_pages() -> Result<()> {
    let world = World::start()?;
    let pdf = b"%PDF-1.4\n1 0 obj<</Type/Pages/Count 3>>endobj\ntrailer<<>>\n%%EOF";
    let got = sent(&world, &json!({"data": STANDARD.encode(pdf), "filename": "nota.pdf"}), 1).await?;
    assert_eq!((&got["kind"], &got["media"]["pages"]), (&json!("document"), &json!(3)), "{got}");
    Ok(())
}
