//! Uploading and downloading over HTTP, as client libraries do it.
//!
//! ```text
//! POST /mms/{kind}/{hash}?auth=…[&resume=1 | &file_offset=N]      {"url","direct_path"} or {"resume":"N"}
//! GET  /v/{bucket}/{hash}.enc?…oh=…&oe=…                          the bytes, or the range asked for
//! ```

use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use futures_util::StreamExt as _;
use serde::Serialize;
use tower_http::services::ServeFile;

use super::files::{Hash, Received};
use super::signing::{BadAddress, parameter};
use crate::emulator::Emulator;
use crate::emulator::faults::Whom;

/// WhatsApp takes documents of up to 2 GiB; nobody needs to try that here.
const MAX_BYTES: u64 = 256 << 20;
/// The folder of all addresses.
const BUCKET: &str = "/v/t62.7118-24";

/// Names of files come with and without padding.
const NAME: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The routes of the media servers.
pub(in crate::emulator) fn routes() -> Router<Emulator> {
    let mut router = Router::new().route("/v/{bucket}/{name}", get(download));
    for path in ["/mms/{kind}/{hash}", "/newsletter/{kind}/{hash}", "/product/{kind}/{hash}"] {
        router = router.route(path, post(upload));
    }
    router.layer(axum::extract::DefaultBodyLimit::disable())
}

#[derive(Serialize, Default)]
struct Uploaded {
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direct_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

/// A refusal, with words for who develops the client.
fn refused(status: StatusCode, why: impl Into<String>) -> Response {
    (status, Json(serde_json::json!({ "error": why.into() }))).into_response()
}

async fn upload(
    State(emulator): State<Emulator>,
    Path((_, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Response {
    let query = query.unwrap_or_default();
    let media = emulator.media();
    let auth = parameter(&query, "auth").unwrap_or_default();
    let Some((phone, device)) = media.signer.owner(auth, media.clock.now()) else {
        return refused(
            StatusCode::UNAUTHORIZED,
            "the auth token is none of ours, or has ended: ask for media_conn again",
        );
    };
    if let Some(status) = emulator.fault_rules().media_failure(Some(Whom(phone, Some(device)))) {
        return refused(status, "a fault is switched on");
    }
    let Some(hash) = NAME.decode(&name).ok().and_then(|bytes| Hash::try_from(bytes).ok()) else {
        return refused(StatusCode::BAD_REQUEST, "the path ends with the base64url of a SHA-256");
    };
    if parameter(&query, "resume") == Some("1") {
        return Json(standing(&emulator, &hash)).into_response();
    }
    let offset = match parameter(&query, "file_offset").map(str::parse).transpose() {
        Ok(offset) => offset.unwrap_or(0),
        Err(_) => return refused(StatusCode::BAD_REQUEST, "file_offset is no number"),
    };
    receive(&emulator, hash, offset, body).await
}

/// How far an upload has come.
fn standing(emulator: &Emulator, hash: &Hash) -> Uploaded {
    if emulator.media().files.is_whole(hash) {
        return Uploaded { resume: Some("complete".to_owned()), ..address(emulator, hash) };
    }
    Uploaded { resume: Some(emulator.media().files.received(hash).to_string()), ..Uploaded::default() }
}

/// Where an encrypted file can be loaded from, from now on.
fn address(emulator: &Emulator, hash: &Hash) -> Uploaded {
    named(emulator, &format!("{}.enc", URL_SAFE_NO_PAD.encode(hash)))
}

/// Where an encrypted file that is here can be loaded from, from now on: its path.
pub(in crate::emulator) fn address_again(emulator: &Emulator, hash: &[u8]) -> Option<String> {
    let hash = Hash::try_from(hash).ok()?;
    emulator.media().files.is_whole(&hash).then(|| address(emulator, &hash).direct_path).flatten()
}

/// Where a picture of the server's own can be loaded from, from now on: URL and path.
pub(in crate::emulator) fn picture_address(emulator: &Emulator, hash: &Hash) -> (String, String) {
    let address = named(emulator, &format!("{}.jpg", URL_SAFE_NO_PAD.encode(hash)));
    (address.url.unwrap_or_default(), address.direct_path.unwrap_or_default())
}

fn named(emulator: &Emulator, name: &str) -> Uploaded {
    let media = emulator.media();
    let until = media.clock.now().saturating_add(i64::try_from(media.lifetime.as_secs()).unwrap_or(i64::MAX));
    let direct_path = format!("{BUCKET}/{name}?{}", media.signer.query(name, until));
    let url = format!("https://{}{direct_path}&mms3=true", emulator.address());
    Uploaded { url: Some(url), direct_path: Some(direct_path), resume: None }
}

/// Keeps a file of the server's own, and says where it can be loaded from.
pub(in crate::emulator) fn keep(emulator: &Emulator, hash: Hash, bytes: &[u8]) -> std::io::Result<String> {
    emulator.media().files.keep(&hash, bytes)?;
    Ok(address(emulator, &hash).direct_path.unwrap_or_default())
}

async fn receive(emulator: &Emulator, hash: Hash, offset: u64, body: Body) -> Response {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidInput => refused(StatusCode::BAD_REQUEST, error.to_string()),
        _ => refused(StatusCode::INSUFFICIENT_STORAGE, error.to_string()),
    };
    let mut upload = match emulator.media().files.receive(hash, offset) {
        Ok(upload) => upload,
        Err(error) => return failed(error),
    };
    let mut came = offset;
    let mut body = body.into_data_stream();
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else {
            // The client is gone, or was cut: it may go on later.
            let _ = upload.pause().await;
            return refused(StatusCode::BAD_REQUEST, "the body ended too early");
        };
        came = came.saturating_add(chunk.len() as u64);
        if came > MAX_BYTES {
            return refused(StatusCode::PAYLOAD_TOO_LARGE, format!("no more than {MAX_BYTES} bytes are taken"));
        }
        if let Err(error) = upload.write(&chunk).await {
            return failed(error);
        }
    }
    match upload.finish().await {
        Ok(Received::Whole) => Json(address(emulator, &hash)).into_response(),
        Ok(Received::WrongHash) => {
            refused(StatusCode::BAD_REQUEST, "the bytes are not those whose SHA-256 the path ends with")
        }
        Err(error) => failed(error),
    }
}

async fn download(
    State(emulator): State<Emulator>,
    Path((_, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let query = query.unwrap_or_default();
    let media = emulator.media();
    let owner = parameter(&query, "auth").and_then(|auth| media.signer.owner(auth, media.clock.now()));
    let whom = owner.map(|(phone, device)| Whom(phone, Some(device)));
    if let Some(status) = emulator.fault_rules().media_failure(whom) {
        return refused(status, "a fault is switched on");
    }
    match media.signer.check(&name, &query, media.clock.now()) {
        Ok(()) => {}
        Err(BadAddress::Forged) => return refused(StatusCode::FORBIDDEN, "URL signature mismatch"),
        Err(BadAddress::Expired) => return refused(StatusCode::GONE, "URL signature expired"),
    }
    let (name, content_type) = match name.rsplit_once('.') {
        Some((name, "enc")) => (name, "application/octet-stream"),
        Some((name, "jpg")) => (name, "image/jpeg"),
        _ => ("", ""),
    };
    let hash = NAME.decode(name).ok();
    let Some(hash) = hash.and_then(|bytes| Hash::try_from(bytes).ok()) else {
        return refused(StatusCode::NOT_FOUND, "there is no such file");
    };
    let served = ServeFile::new(media.files.path(&hash)).try_call(request).await;
    let mut served = match served {
        Ok(served) => served.map(Body::new),
        Err(error) => return refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let headers = served.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(HeaderName::from_static("access-control-allow-origin"), HeaderValue::from_static("*"));
    served
}
