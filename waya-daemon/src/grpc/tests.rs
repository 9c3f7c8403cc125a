//! The door as a client sees it: a real socket, the real use cases, a scripted WhatsApp.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use waya_proto::ERROR_CODE;
use waya_proto::v1::events_service_client::EventsServiceClient;
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::requests_service_client::RequestsServiceClient;
use waya_proto::v1::sandbox_service_client::SandboxServiceClient;
use waya_proto::v1::session_service_client::SessionServiceClient;
use waya_proto::v1::settings_service_client::SettingsServiceClient;
use waya_proto::v1::{self, event::Body};

use super::{ServeError, SocketOptions, bind, serve};
use crate::api::testing::{World, incoming};
use crate::api::{Passed, Seen};
use crate::model::{Change, EventBody, LinkState, PairingMethod, PasskeyStep, Timestamp};
use crate::session::WhatsApp as _;

struct Door {
    world: World,
    path: PathBuf,
    server: JoinHandle<Result<(), ServeError>>,
    channel: Channel,
    _folder: tempfile::TempDir,
}

impl Door {
    async fn open() -> Self {
        let world = World::new().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("waya.sock");
        let socket = bind(&path, &SocketOptions::default()).unwrap();
        let server = tokio::spawn(serve(socket, world.api.clone(), None, world.shutdown.clone()));
        let channel = connect(path.clone()).await;
        Self { world, path, server, channel, _folder: folder }
    }

    fn queue(&self) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.channel.clone())
    }

    fn events(&self) -> EventsServiceClient<Channel> {
        EventsServiceClient::new(self.channel.clone())
    }

    fn session(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
    }

    async fn send(&self, request: v1::SendRequest) -> Result<v1::SendResponse, Status> {
        self.queue().send(request).await.map(tonic::Response::into_inner)
    }
}

async fn connect(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://waya").connect_with_connector(connector).await.unwrap()
}

fn request(recipients: &[&str], message: &str) -> v1::SendRequest {
    v1::SendRequest {
        recipients: recipients.iter().map(|&one| one.to_owned()).collect(),
        message: message.to_owned(),
        ..v1::SendRequest::default()
    }
}

fn code(status: &Status) -> &str {
    status.metadata().get(ERROR_CODE).map_or("", |code| code.to_str().unwrap())
}

#[tokio::test]
async fn a_message_is_queued_found_listed_and_cancelled() {
    let door = Door::open().await;
    let text = " a\u{0}b\n\u{1f600} ";
    let answer = door
        .send(v1::SendRequest { reference_id: Some("order-7".to_owned()), ..request(&["+62 812-0000-0002"], text) })
        .await
        .unwrap();
    let accepted = &answer.messages[0];
    assert_eq!((accepted.number.as_str(), accepted.status()), ("6281200000002", v1::Status::Pending));

    let by_reference = v1::GetMessageRequest { id: "order-7".to_owned(), ..Default::default() };
    let message = door.queue().get_message(by_reference).await.unwrap().into_inner().message.unwrap();
    assert_eq!((&message.id, message.message.as_str(), message.source.as_str()), (&accepted.id, text, "cli"));
    assert_eq!(message.hold.unwrap().reason, "offline");

    let pending = v1::ListRequest { statuses: vec![v1::Status::Pending.into()], ..Default::default() };
    let list = door.queue().list(pending.clone()).await.unwrap().into_inner();
    assert_eq!((list.messages.len(), list.summary.unwrap().pending), (1, 1));
    let cancelled = door.queue().cancel(v1::CancelRequest { id: accepted.id.clone() }).await.unwrap().into_inner();
    assert_eq!(cancelled.message.unwrap().status(), v1::Status::Cancelled);
    assert!(door.queue().list(pending).await.unwrap().into_inner().messages.is_empty());
    let again = door.queue().retry(v1::RetryRequest { id: accepted.id.clone() }).await.unwrap().into_inner();
    assert_eq!(again.message.unwrap().status(), v1::Status::Pending);
}

#[tokio::test]
async fn recipients_are_all_or_none_and_repeats_are_told() {
    let door = Door::open().await;
    let refused = door.send(request(&["6281200000002", "budi"], "Halo")).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (Code::InvalidArgument, "invalid_recipient"));
    assert_eq!(refused.metadata().get(waya_proto::ERROR_FIELD).unwrap(), "recipients[1]");
    assert_eq!(door.world.memory.count(), 0);
    let answer = door.send(request(&["6281200000002", "+6281200000002", "6281200000003"], "Halo")).await.unwrap();
    assert_eq!((answer.messages.len(), answer.duplicates), (2, vec!["+6281200000002".to_owned()]));
    let dry = v1::SendRequest { dry_run: true, ..request(&["6281200000004"], "Halo") };
    assert_eq!(door.send(dry).await.unwrap().messages[0].id, "");
    assert_eq!(door.world.memory.count(), 2);
}

#[tokio::test]
async fn a_key_makes_a_repeat_harmless_and_another_request_a_conflict() {
    let door = Door::open().await;
    let keyed =
        |text: &str| v1::SendRequest { idempotency_key: Some("k".to_owned()), ..request(&["6281200000002"], text) };
    let first = door.send(keyed("Halo")).await.unwrap();
    assert_eq!(door.send(keyed("Halo")).await.unwrap(), first);
    let conflict = door.send(keyed("Lain")).await.unwrap_err();
    assert_eq!((conflict.code(), code(&conflict)), (Code::AlreadyExists, "idempotency_conflict"));
    let other_time = v1::SendRequest { scheduled_at: Some(1_900_000_000_000), ..keyed("Halo") };
    assert_eq!(code(&door.send(other_time).await.unwrap_err()), "idempotency_conflict");
    assert_eq!(door.world.memory.count(), 1);
}

#[tokio::test]
async fn bad_input_is_refused_in_words() {
    let door = Door::open().await;
    for (request, expected) in [
        (request(&[], "Halo"), "invalid_field"),
        (request(&["6281200000002"], ""), "nothing_to_send"),
        (request(&["6281200000002"], &"x".repeat(70_000)), "invalid_field"),
        (v1::SendRequest { priority: 77, ..request(&["6281200000002"], "Halo") }, "invalid_field"),
        (v1::SendRequest { scheduled_at: Some(-1), ..request(&["6281200000002"], "Halo") }, "invalid_field"),
    ] {
        let refused = door.send(request).await.unwrap_err();
        assert_eq!((refused.code(), code(&refused)), (Code::InvalidArgument, expected), "{refused:?}");
    }
    let unknown = door.queue().get_message(v1::GetMessageRequest { id: "x".to_owned(), ..Default::default() }).await;
    assert_eq!(code(&unknown.unwrap_err()), "not_found");
    door.world.memory.set_down(true);
    let down = door.send(request(&["6281200000002"], "Halo")).await.unwrap_err();
    assert_eq!((down.code(), code(&down)), (Code::Unavailable, "store_unavailable"));
}

#[tokio::test]
async fn a_watcher_sees_the_statuses_it_wants() {
    let door = Door::open().await;
    let wanted = v1::WatchRequest { statuses: vec![v1::Status::Cancelled.into()] };
    let mut changes = door.queue().watch(wanted).await.unwrap().into_inner();
    let id = door.send(request(&["6281200000002"], "Halo")).await.unwrap().messages[0].id.clone();
    door.queue().cancel(v1::CancelRequest { id: id.clone() }).await.unwrap();
    let message = changes.message().await.unwrap().unwrap().message.unwrap();
    assert_eq!((&message.id, message.status()), (&id, v1::Status::Cancelled));
    let unknown = door.queue().watch(v1::WatchRequest { statuses: vec![42] }).await;
    assert_eq!(code(&unknown.unwrap_err()), "invalid_field");
}

#[tokio::test]
async fn waiting_ends_when_the_message_got_far_enough() {
    let door = Door::open().await;
    let id = door.send(request(&["6281200000002"], "Halo")).await.unwrap().messages[0].id.clone();
    let waiting = v1::GetMessageRequest { id: id.clone(), wait: v1::WaitFor::Sent.into(), timeout_ms: 0 };
    let now = door.queue().get_message(waiting.clone()).await.unwrap().into_inner().message.unwrap();
    assert_eq!(now.status(), v1::Status::Pending);

    let mut queue = door.queue();
    let waiting = v1::GetMessageRequest { timeout_ms: 60_000, ..waiting };
    let (answer, ()) = tokio::join!(queue.get_message(waiting), async {
        door.world.change(id.parse().unwrap(), Change::Cancel).await;
    });
    assert_eq!(answer.unwrap().into_inner().message.unwrap().status(), v1::Status::Cancelled);
}

#[tokio::test]
async fn followers_miss_nothing_however_late_they_read() {
    const EVENTS: usize = 350;
    let door = Door::open().await;
    let journal = door.world.store.journal.clone();
    let write = |n: usize| {
        let journal = journal.clone();
        async move {
            let body = EventBody::Message(Box::new(incoming(&format!("id-{n}"), "Halo")));
            journal.append(body, Timestamp::from_millis(n as u64)).await.unwrap();
        }
    };
    for n in 0..EVENTS / 2 {
        write(n).await;
    }
    let from_start = v1::FollowRequest { after: Some("0".to_owned()) };
    let mut all = door.events().follow(from_start).await.unwrap().into_inner();
    let mut new = door.events().follow(v1::FollowRequest { after: None }).await.unwrap().into_inner();
    for n in EVENTS / 2..EVENTS {
        write(n).await;
    }
    let id = |answer: v1::FollowResponse| match answer.event.unwrap().body {
        Some(Body::Message(message)) => message.id,
        other => panic!("{other:?}"),
    };
    for n in 0..EVENTS {
        assert_eq!(id(all.message().await.unwrap().unwrap()), format!("id-{n}"));
    }
    for n in EVENTS / 2..EVENTS {
        assert_eq!(id(new.message().await.unwrap().unwrap()), format!("id-{n}"));
    }

    let page = door.events().read(v1::ReadRequest { after: String::new(), limit: 3 }).await.unwrap().into_inner();
    assert_eq!((page.events.len(), &page.next), (3, &page.events[2].cursor));
    let Some(Body::Message(message)) = &page.events[0].body else { panic!("{page:?}") };
    assert_eq!((message.chat_id.as_str(), message.sender.as_str()), ("120363@g.us", "6281200000002@c.us"));
    let wrong = door.events().follow(v1::FollowRequest { after: Some("yesterday".to_owned()) }).await;
    assert_eq!(code(&wrong.unwrap_err()), "invalid_field");
}

#[tokio::test]
async fn a_login_tells_each_state_until_it_is_linked() {
    let door = Door::open().await;
    door.world.whatsapp.set_link(LinkState::Unpaired);
    let phone = Some("+62 812 0000 0001".to_owned());
    let mut states = door.session().login(v1::LoginRequest { phone }).await.unwrap().into_inner();
    assert_eq!(door.world.whatsapp.paired(), [PairingMethod::Code("6281200000001".to_owned())]);
    for (state, expected) in [
        (
            LinkState::Pairing {
                qr: Some("2@abc".to_owned()),
                code: None,
                expires_at: Some(Timestamp::from_millis(7)),
            },
            v1::LinkState::Pairing,
        ),
        (LinkState::Connecting, v1::LinkState::Connecting),
        (LinkState::Connected, v1::LinkState::Connected),
    ] {
        door.world.whatsapp.set_link(state);
        let mut session;
        // The state that stood there before may be told first.
        loop {
            session = states.message().await.unwrap().unwrap().session.unwrap();
            if session.state() == expected && (session.qr.is_some() || expected != v1::LinkState::Pairing) {
                break;
            }
        }
        if expected == v1::LinkState::Pairing {
            let qr = session.qr.unwrap();
            assert_eq!((qr.text.as_str(), qr.expires_at), ("2@abc", Some(7)));
            assert!(!qr.png.is_empty());
        }
    }
    assert!(states.message().await.unwrap().is_none());
    let again = door.session().login(v1::LoginRequest { phone: None }).await.unwrap_err();
    assert_eq!((again.code(), code(&again)), (Code::FailedPrecondition, "already_linked"));
}

#[tokio::test]
async fn a_passkey_is_told_and_refused_unless_it_is_asked_for() {
    let door = Door::open().await;
    door.world.whatsapp.logout().await.unwrap();
    let mut session = door.session();
    let answer = |assertion: &str| v1::AnswerPasskeyRequest { assertion: assertion.to_owned() };
    let refused = session.answer_passkey(answer("{}")).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (Code::FailedPrecondition, "passkey_not_asked"));

    let asked = PasskeyStep::Asked { request: r#"{"challenge":"YQ"}"#.to_owned(), expires_at: None };
    door.world.whatsapp.set_link(LinkState::PasskeyRequired { step: asked });
    for (assertion, grpc, expected) in [
        ("{", Code::InvalidArgument, "invalid_field"),
        ("{}", Code::InvalidArgument, "invalid_field"),
        (&*"x".repeat(70_000), Code::InvalidArgument, "too_large"),
    ] {
        let refused = session.answer_passkey(answer(assertion)).await.unwrap_err();
        assert_eq!((refused.code(), code(&refused)), (grpc, expected));
    }
    // A login that comes now is told of it, and goes on to its end.
    let mut states = session.login(v1::LoginRequest { phone: None }).await.unwrap().into_inner();
    let compare = PasskeyStep::Compare { code: "ABCD-EFGH".to_owned() };
    door.world.whatsapp.set_link(LinkState::PasskeyRequired { step: compare });
    loop {
        let told = states.message().await.unwrap().unwrap().session.unwrap();
        if told.passkey.is_some_and(|passkey| passkey.code.as_deref() == Some("ABCD-EFGH")) {
            break;
        }
    }
    let code_shown = v1::ConfirmPasskeyRequest { code: "ABCD-EFGH".to_owned() };
    let mut confirmed = session.confirm_passkey(code_shown).await.unwrap().into_inner();
    let told = confirmed.message().await.unwrap().unwrap().session.unwrap();
    assert_eq!(told.passkey.map(|passkey| passkey.step).as_deref(), Some("answered"));
    let over = PasskeyStep::Over { reason: "the connection ended".to_owned() };
    door.world.whatsapp.set_link(LinkState::PasskeyRequired { step: over });
    let told = confirmed.message().await.unwrap().unwrap().session.unwrap();
    assert!(told.passkey.is_none() && told.reason.is_some_and(|reason| reason.starts_with("the connection ended")));
    assert!(confirmed.message().await.unwrap().is_none());
}

#[tokio::test]
async fn the_status_and_the_settings_are_told() {
    let door = Door::open().await;
    let status = door.session().get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let session = status.session.unwrap();
    assert_eq!((session.state(), session.reason.as_deref()), (v1::LinkState::Offline, Some("no network")));
    assert_eq!((status.kind.as_str(), status.http.as_deref()), ("sandbox", Some("127.0.0.1:7200")));

    let mut settings = SettingsServiceClient::new(door.channel.clone());
    let set = v1::SetSettingRequest { key: "queue.delay".to_owned(), value: Some("2s".to_owned()) };
    let setting = settings.set(set).await.unwrap().into_inner().setting.unwrap();
    assert_eq!((setting.value.as_str(), setting.origin.as_str(), setting.pinned), ("2s", "stored", false));
    let list = settings.list(v1::ListSettingsRequest {}).await.unwrap().into_inner().settings;
    assert!(list.contains(&setting));
    let wrong = v1::SetSettingRequest { key: "queue.delay".to_owned(), value: Some("soon".to_owned()) };
    assert_eq!(code(&settings.set(wrong).await.unwrap_err()), "invalid_field");
    let unknown = settings.get(v1::GetSettingRequest { key: "queue.dealy".to_owned() }).await.unwrap_err();
    assert_eq!((unknown.code(), code(&unknown)), (Code::NotFound, "not_found"));
    let old = door.world.key();
    let new = settings.rotate_api_key(v1::RotateApiKeyRequest {}).await.unwrap().into_inner().api_key;
    assert!(door.world.api.find_key(new.as_bytes()).is_some() && door.world.api.find_key(old.as_bytes()).is_none());
}

#[tokio::test]
async fn logged_requests_are_listed_shown_and_cleared() {
    use axum::http::{HeaderMap, HeaderValue};

    let door = Door::open().await;
    let headers = HeaderMap::from_iter([("x-api-key".parse().unwrap(), HeaderValue::from_static("k"))]);
    let mut body = Seen::new(&headers);
    body.feed(b"{}");
    door.world.api.request_log().record(Box::new(Passed {
        request_id: "order-7".to_owned(),
        at: Timestamp::from_millis(1_800_000_000_000),
        took: Duration::from_millis(7),
        method: "POST".parse().unwrap(),
        uri: "/api/send-message".parse().unwrap(),
        status: Some(202),
        ip: [127, 0, 0, 1].into(),
        key: Some("shop".into()),
        headers,
        body,
        answer_headers: HeaderMap::new(),
        answer_body: Seen::new(&HeaderMap::new()),
        messages: None,
    }));
    let mut requests = RequestsServiceClient::new(door.channel.clone());
    let list = requests.list(v1::ListRequestsRequest::default()).await.unwrap().into_inner();
    assert_eq!((list.requests.len(), list.requests[0].duration_ms, list.dropped), (1, 7, 0));
    let row = requests.get(v1::GetRequestRequest { id: "order-7".to_owned() }).await.unwrap().into_inner();
    assert_eq!(row.summary.unwrap(), list.requests[0]);
    let asked = row.request.unwrap();
    assert_eq!((asked.headers["x-api-key"].as_str(), asked.body.as_deref()), ("***", Some("{}")));
    let unknown = requests.get(v1::GetRequestRequest { id: "9".to_owned() }).await.unwrap_err();
    assert_eq!((unknown.code(), code(&unknown)), (Code::NotFound, "not_found"));
    assert_eq!(requests.clear(v1::ClearRequestsRequest {}).await.unwrap().into_inner().cleared, 1);
}

#[tokio::test]
async fn api_keys_are_made_listed_and_revoked() {
    let door = Door::open().await;
    let mut settings = SettingsServiceClient::new(door.channel.clone());
    let create = |name: &str, scopes: &[&str]| v1::CreateApiKeyRequest {
        name: name.to_owned(),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
    };
    let made = settings.create_api_key(create("shop", &["send"])).await.unwrap().into_inner();
    let key = made.key.unwrap();
    assert_eq!((key.name.as_str(), key.scopes.as_slice()), ("shop", &["send".to_owned()][..]));
    assert!(door.world.api.find_key(made.api_key.as_bytes()).is_some());
    for (name, scopes, field) in
        [("shop", &["read"][..], "name"), ("a b", &["read"], "name"), ("x", &[], "scopes"), ("x", &["all"], "scopes")]
    {
        let refused = settings.create_api_key(create(name, scopes)).await.unwrap_err();
        assert_eq!(refused.metadata().get(waya_proto::ERROR_FIELD).unwrap(), field, "{name} {scopes:?}");
    }
    let list = settings.list_api_keys(v1::ListApiKeysRequest {}).await.unwrap().into_inner().keys;
    let names: Vec<_> = list.iter().map(|key| (key.name.as_str(), key.created_at.is_some())).collect();
    assert_eq!(names, [("default", false), ("shop", true)]);
    let revoke = |name: &str| v1::RevokeApiKeyRequest { name: name.to_owned() };
    settings.revoke_api_key(revoke("shop")).await.unwrap();
    assert!(door.world.api.find_key(made.api_key.as_bytes()).is_none());
    assert_eq!(code(&settings.revoke_api_key(revoke("shop")).await.unwrap_err()), "not_found");
    assert_eq!(code(&settings.revoke_api_key(revoke("default")).await.unwrap_err()), "invalid_field");
}

#[tokio::test]
async fn a_plain_daemon_says_that_it_is_no_sandbox() {
    let door = Door::open().await;
    let mut sandbox = SandboxServiceClient::new(door.channel.clone());
    let refused = sandbox.people(v1::PeopleRequest {}).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (Code::FailedPrecondition, "not_a_sandbox"));
    assert_eq!(refused.message(), "this daemon is not a sandbox; start waya-sandbox");
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let door = Door::open().await;
    let mut health = HealthClient::new(door.channel.clone());
    for service in ["", "waya.v1.QueueService"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(door.channel.clone());
    let mut answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["waya.v1.SessionService", "waya.v1.EventsService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
    }
}

#[tokio::test]
async fn at_the_end_streams_are_ended_and_the_socket_is_gone() {
    let door = Door::open().await;
    let mut events = door.events().follow(v1::FollowRequest { after: None }).await.unwrap().into_inner();
    let mut changes = door.queue().watch(v1::WatchRequest::default()).await.unwrap().into_inner();
    door.world.shutdown.cancel();
    assert_eq!(events.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(changes.message().await.unwrap_err().code(), Code::Unavailable);
    // Well within the time that a daemon may take, though this client never hangs up.
    tokio::time::timeout(Duration::from_secs(5), door.server).await.unwrap().unwrap().unwrap();
    assert!(!door.path.exists());
}
