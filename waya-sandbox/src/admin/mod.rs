//! The admin HTTP under `/admin`: JSON in, JSON out, on the emulator's own loopback listener.
//!
//! Every handler is one call of [`SandboxControl`]. Bodies are read as JSON whatever content type
//! they claim, so that a bare `curl -d` works.

mod error;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::{self, Next};
use axum::response::{Json, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::control::{
    ClockRequest, ClockView, ControlError, FaultRequest, GroupRequest, InboxList, PeopleList, PersonRequest,
    SandboxControl, SayRequest, TypingList,
};
use error::{AdminError, no_such_method, no_such_path, parse};

/// A file that a person sends comes in base64.
const MAX_SAID: usize = 96 << 20;

type Control = State<Arc<dyn SandboxControl>>;
type Answer<T> = Result<Json<T>, AdminError>;

/// The routes, for the emulator to serve.
pub fn router(control: Arc<dyn SandboxControl>) -> Router {
    Router::new()
        .route("/admin/people", get(people).post(person))
        .route("/admin/inbox/{who}", get(inbox))
        .route("/admin/inbox/{who}/{id}/media", get(load))
        .route("/admin/typing/{who}", get(typing))
        .route("/admin/say", post(say).layer(DefaultBodyLimit::max(MAX_SAID)))
        .route("/admin/rename", post(rename))
        .route("/admin/group", post(group))
        .route("/admin/read", post(read))
        .route("/admin/autoread", post(autoread))
        .route("/admin/offline", post(offline))
        .route("/admin/online", post(online))
        .route("/admin/fault", post(fault))
        .route("/admin/faults", get(faults).delete(clear_faults))
        .route("/admin/phone", post(phone))
        .route("/admin/clock", get(look_at_clock).post(move_clock))
        .route("/admin/stats", get(stats))
        .route("/admin/mock-phone/scan-qr", post(scan_qr))
        .route("/admin/mock-phone/enter-code", post(enter_code))
        .layer(middleware::from_fn(programs_only))
        .method_not_allowed_fallback(no_such_method)
        .fallback(no_such_path)
        .with_state(control)
}

/// Turns browsers away: a page from anywhere could otherwise make people speak, or read what they got.
async fn programs_only(request: Request, next: Next) -> Result<Response, AdminError> {
    if !is_from_a_program(request.headers()) {
        let error = "this is for programs on this machine, not for pages in a browser".to_owned();
        return Err(AdminError::new(403, "forbidden", error));
    }
    Ok(next.run(request).await)
}

/// Browsers say which page asks; and a name that was made to point here is not ours.
fn is_from_a_program(headers: &HeaderMap) -> bool {
    let asked_for = headers.get(HOST).map_or("localhost", |host| host.to_str().unwrap_or_default());
    let port = asked_for.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let name = port.map_or(asked_for, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let local = name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
    local && !headers.contains_key(ORIGIN)
}

#[derive(Deserialize)]
struct Who {
    who: String,
}

#[derive(Deserialize)]
struct Rename {
    who: String,
    name: String,
}

#[derive(Deserialize)]
struct Read {
    who: String,
    #[serde(default)]
    play: bool,
}

#[derive(Deserialize)]
struct Autoread {
    who: String,
    on: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    Online,
    Offline,
}

#[derive(Deserialize)]
struct Phone {
    state: Switch,
    who: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    target: Option<String>,
}

#[derive(Deserialize)]
struct ScanFor {
    phone: Option<String>,
}

#[derive(Deserialize)]
struct Code {
    phone: String,
    code: String,
}

/// An answer with `"success": true` in front.
#[derive(Serialize)]
struct Done<T> {
    success: bool,
    #[serde(flatten)]
    answer: T,
}

fn done<T>(answer: T) -> Json<Done<T>> {
    Json(Done { success: true, answer })
}

async fn people(State(control): Control) -> Answer<PeopleList> {
    Ok(Json(control.people().await?))
}

async fn inbox(State(control): Control, Path(who): Path<String>) -> Answer<InboxList> {
    Ok(Json(control.inbox(&who).await?))
}

async fn typing(State(control): Control, Path(who): Path<String>) -> Answer<TypingList> {
    Ok(Json(control.typing(&who).await?))
}

async fn load(
    State(control): Control,
    Path((who, id)): Path<(String, String)>,
) -> Result<([(HeaderName, &'static str); 1], Vec<u8>), AdminError> {
    Ok(([(CONTENT_TYPE, "application/octet-stream")], control.load(&who, &id).await?))
}

async fn say(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let request: SayRequest = parse(&body)?;
    Ok(done(control.say(request).await?))
}

async fn person(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let request: PersonRequest = parse(&body)?;
    Ok(done(control.person(request).await?))
}

async fn rename(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let Rename { who, name } = parse(&body)?;
    let person = control.rename(&who, &name).await?;
    Ok(done(json!({ "person": person })))
}

async fn group(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let request: GroupRequest = parse(&body)?;
    Ok(done(control.group(request).await?))
}

async fn read(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let Read { who, play } = parse(&body)?;
    Ok(done(control.read(&who, play).await?))
}

async fn autoread(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let Autoread { who, on } = parse(&body)?;
    let person = control.set_autoread(&who, on).await?;
    Ok(done(json!({ "person": person, "autoread": on })))
}

async fn offline(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let Who { who } = parse(&body)?;
    let person = control.set_online(&who, false).await?;
    Ok(done(json!({ "person": person, "online": false })))
}

async fn online(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let Who { who } = parse(&body)?;
    let person = control.set_online(&who, true).await?;
    Ok(done(json!({ "person": person, "online": true })))
}

async fn fault(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let request: FaultRequest = parse(&body)?;
    Ok(done(control.fault(request).await?))
}

async fn faults(State(control): Control) -> Answer<impl Serialize> {
    let list = FaultRequest { kind: "list".to_owned(), ..FaultRequest::default() };
    Ok(Json(control.fault(list).await?))
}

async fn clear_faults(State(control): Control, target: Query<Target>) -> Answer<impl Serialize> {
    let off = FaultRequest { kind: "off".to_owned(), target: target.0.target, ..FaultRequest::default() };
    Ok(done(control.fault(off).await?))
}

async fn phone(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let Phone { state, who } = parse(&body)?;
    let online = matches!(state, Switch::Online);
    control.set_phone_online(who.as_deref(), online).await?;
    Ok(done(json!({ "online": online })))
}

async fn look_at_clock(State(control): Control) -> Answer<ClockView> {
    Ok(Json(control.clock(ClockRequest::default()).await?))
}

async fn move_clock(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let request: ClockRequest = parse(&body)?;
    Ok(done(control.clock(request).await?))
}

async fn stats(State(control): Control) -> Answer<Value> {
    Ok(Json(control.stats().await?))
}

async fn scan_qr(
    State(control): Control,
    Query(ScanFor { phone }): Query<ScanFor>,
    body: String,
) -> Answer<impl Serialize> {
    Ok(done(control.scan_qr(&body, phone.as_deref()).await?))
}

async fn enter_code(State(control): Control, body: Bytes) -> Answer<impl Serialize> {
    let Code { phone, code } = parse(&body)?;
    Ok(done(control.enter_code(&phone, &code).await?))
}

impl From<ControlError> for AdminError {
    fn from(error: ControlError) -> Self {
        if error.status() >= 500 {
            tracing::warn!(%error, "an admin request failed");
        }
        Self::new(error.status(), error.code(), error.to_string()).about(error.field())
    }
}
