//! `multipart/form-data`: the fields of the JSON body as parts, and files, which go straight to disk.
//!
//! ```text
//! curl -F number=6281… -F message=Halo -F file=@foto.jpg …/api/send-message
//! ```

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest as _, Multipart, Request};
use serde_json::{Map, Value, json};

use super::send::header_key;
use super::send_body;
use crate::api::{ApiError, Content, MAX_FILES, MediaInput, MediaSource, SendRequest, What};
use crate::http::Door;
use crate::http::body::Patience;
use crate::http::error::HttpError;
use crate::model::MediaHints;

/// No field but a file is longer, in bytes.
const LONGEST_FIELD: usize = 1 << 20;
/// No form has more parts.
const MOST_PARTS: usize = 10_100;
/// Fields that may come several times, or as a JSON array.
const LISTS: [&str; 2] = ["recipients", "mentions"];
/// Fields that hold JSON.
const OBJECTS: [&str; 5] = ["messages", "location", "contact", "poll", "reaction"];
/// Fields that say yes or no.
const FLAGS: [&str; 2] = ["dry_run", "preview"];

/// What the form is about, file by file.
#[derive(Default)]
struct Form {
    fields: Map<String, Value>,
    files: Vec<MediaInput>,
    hashes: Vec<Value>,
    hints: MediaHints,
    /// Length of all fields but files.
    text: usize,
}

/// Reads a form.
pub(super) async fn read(door: &Door, mut request: Request) -> Result<SendRequest, HttpError> {
    let key = header_key(request.headers())?.map(str::to_owned);
    // Its parts have limits of ours.
    DefaultBodyLimit::disable().apply(&mut request);
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|error| HttpError::InvalidJson(format!("the form cannot be read: {}", error.body_text())))?;
    Form::read(door, &mut parts).await?.request(key.as_deref())
}

impl Form {
    async fn read(door: &Door, parts: &mut Multipart) -> Result<Self, HttpError> {
        let mut patience = Patience::new(&door.options);
        let mut form = Self::default();
        let mut count = 0;
        while let Some(part) = in_time(&patience, parts.next_field()).await? {
            count += 1;
            if count > MOST_PARTS {
                return Err(ApiError::field_error("body", "has too many parts").into());
            }
            form.take(door, part, &mut patience).await?;
        }
        Ok(form)
    }

    async fn take(&mut self, door: &Door, part: Field<'_>, patience: &mut Patience) -> Result<(), HttpError> {
        let name = part.name().unwrap_or_default().to_owned();
        let filename = part.file_name().map(str::to_owned);
        let has_type = part.content_type().is_some();
        if is_file(&name, filename.is_some(), has_type) {
            return self.take_file(door, part, filename, patience).await;
        }
        let text = text(&name, part, patience).await?;
        self.text += name.len() + text.len();
        if self.text > door.options.body_limit {
            return Err(HttpError::TooLarge(door.options.body_limit));
        }
        match name.as_str() {
            // What forms send for a field that nobody filled in.
            _ if text.is_empty() => {}
            "caption" => self.set("message", text.into()),
            "voice" => self.hints.voice = flag(&name, &text)?,
            "document" | "document_only" | "as_document" => self.hints.document = flag(&name, &text)?,
            "filename" => self.hints.filename = Some(text),
            "mimetype" => self.hints.mimetype = Some(text),
            name if LISTS.contains(&name) => self.add(name, &text)?,
            name if OBJECTS.contains(&name) => self.set(name, json_of(name, &text)?),
            name if FLAGS.contains(&name) => {
                let flag = flag(name, &text)?;
                self.set(name, flag.into());
            }
            // An address, or what the JSON body would have.
            "media" if text.trim_start().starts_with(['{', '[']) => self.set("media", json_of("media", &text)?),
            name => self.set(name, text.into()),
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    fn add(&mut self, name: &str, text: &str) -> Result<(), HttpError> {
        let more = if text.trim_start().starts_with('[') { json_of(name, text)? } else { json!([text]) };
        let list = self.fields.entry(name).or_insert_with(|| json!([]));
        if let (Value::Array(list), Value::Array(more)) = (list, more) {
            list.extend(more);
        }
        Ok(())
    }

    async fn take_file(
        &mut self,
        door: &Door,
        mut part: Field<'_>,
        filename: Option<String>,
        patience: &mut Patience,
    ) -> Result<(), HttpError> {
        if self.files.len() == MAX_FILES {
            return Err(ApiError::field_error("media", format!("has more than {MAX_FILES} files")).into());
        }
        let field = format!("media[{}]", self.files.len());
        let mimetype = part.content_type().map(str::to_owned);
        // curl and browsers write this where they do not know.
        let mimetype = mimetype.filter(|kind| kind != "application/octet-stream");
        let mut writer = door.api.take_file()?;
        while let Some(piece) = in_time(patience, part.chunk()).await? {
            patience.came(piece.len());
            let written = writer.write(&piece);
            written.map_err(|problem| ApiError::InvalidMedia { field: field.clone(), problem })?;
        }
        let (hash, _) = door.api.kept(&field, writer).await?;
        self.hashes.push(hash.to_string().into());
        let hints =
            MediaHints { mimetype, filename: filename.filter(|name| !name.is_empty()), ..MediaHints::default() };
        self.files.push(MediaInput { source: MediaSource::Kept(hash), hints });
        Ok(())
    }

    fn request(mut self, key: Option<&str>) -> Result<SendRequest, HttpError> {
        // The files are part of what makes a repeat the same; the reader of the body skips what it does not know.
        let hashes = Value::Array(std::mem::take(&mut self.hashes));
        self.set("$files", hashes);
        let has_text = self.fields.contains_key("message");
        if !has_text && !self.files.is_empty() {
            self.set("message", "".into());
        }
        let body = Value::Object(self.fields).to_string();
        let mut request = send_body::read(body.as_bytes(), key)?;
        let hints = self.hints;
        let files = self.files.into_iter().map(|file| MediaInput {
            hints: MediaHints {
                mimetype: hints.mimetype.clone().or(file.hints.mimetype),
                filename: hints.filename.clone().or(file.hints.filename),
                voice: hints.voice,
                document: hints.document,
            },
            ..file
        });
        match &mut request.content {
            Content::One { message, .. } | Content::Many { message, .. } => add_files(message, files),
            Content::Each(_) if files.len() > 0 => {
                return Err(ApiError::field_error("media", "goes into each entry of messages; send JSON").into());
            }
            Content::Each(_) => {}
        }
        Ok(request)
    }
}

/// Whether a part is a file, by its name and by what stands above its content.
fn is_file(name: &str, has_filename: bool, has_type: bool) -> bool {
    match name {
        _ if has_filename => true,
        "file" | "image" | "video" | "audio" => true,
        // Bare, `document` is the word of the JSON body: whether the files are to be documents.
        "media" | "document" => has_type,
        _ => false,
    }
}

fn add_files(message: &mut What, files: impl Iterator<Item = MediaInput>) {
    message.media.extend(files);
}

async fn text(name: &str, mut part: Field<'_>, patience: &mut Patience) -> Result<String, HttpError> {
    let mut bytes = Vec::new();
    while let Some(piece) = in_time(patience, part.chunk()).await? {
        patience.came(piece.len());
        if bytes.len() + piece.len() > LONGEST_FIELD {
            return Err(HttpError::TooLarge(LONGEST_FIELD));
        }
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).map_err(|_| ApiError::field_error(name.to_owned(), "is not valid UTF-8").into())
}

fn json_of(name: &str, text: &str) -> Result<Value, HttpError> {
    serde_json::from_str(text)
        .map_err(|error| ApiError::field_error(name.to_owned(), format!("must be JSON: {error}")).into())
}

fn flag(name: &str, text: &str) -> Result<bool, HttpError> {
    match text.trim() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(ApiError::field_error(name.to_owned(), "must be true or false").into()),
    }
}

/// The next part or piece, or a word on why there is none.
async fn in_time<T>(
    patience: &Patience,
    step: impl Future<Output = Result<T, MultipartError>>,
) -> Result<T, HttpError> {
    patience
        .wait(step)
        .await?
        .map_err(|error| HttpError::InvalidJson(format!("the form ended early or is broken: {}", error.body_text())))
}
