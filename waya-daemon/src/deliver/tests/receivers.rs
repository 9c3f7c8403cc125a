//! Receivers that check what they get, and behave as badly as they are told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{SECRET, until};
use crate::deliver::envelope::signature;
use crate::model::Secret;

/// How a receiver answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// With this status.
    Status(u16),
    /// Not at all.
    Hang,
    /// With a body that never ends.
    Endless,
    /// With a redirect to this place.
    Redirect(String),
}

/// What a receiver got, as it came.
#[derive(Debug, Clone)]
pub struct Got {
    pub id: String,
    pub event: String,
    pub subject: String,
    pub body: Value,
    pub answered: Answer,
}

#[derive(Default)]
struct Behaviour {
    /// These come first, one each …
    next: VecDeque<Answer>,
    /// … and then this.
    then: Option<Answer>,
    /// Or by what comes.
    refuses: Option<(String, Answer)>,
    got: Vec<Got>,
}

/// One of them; gone when dropped.
pub struct Receiver {
    address: std::net::SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    _server: AbortOnDropHandle<()>,
}

impl Receiver {
    /// Takes everything.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let behaviour = Arc::<Mutex<Behaviour>>::default();
        let app = Router::new().route("/hook", post(take)).with_state(Arc::clone(&behaviour));
        let server = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }));
        Self { address, behaviour, _server: server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The next ones are answered like this.
    pub fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.behaviour.lock().unwrap().next.extend(answers);
    }

    /// From now on; `None` takes everything.
    pub fn then(&self, answer: Option<Answer>) {
        self.behaviour.lock().unwrap().then = answer;
    }

    /// What concerns this subject is answered like this from now on.
    pub fn refuses(&self, subject: Option<(&str, Answer)>) {
        self.behaviour.lock().unwrap().refuses = subject.map(|(subject, answer)| (subject.to_owned(), answer));
    }

    /// All that came.
    pub fn got(&self) -> Vec<Got> {
        self.behaviour.lock().unwrap().got.clone()
    }

    /// What it took, as `(event, subject)`.
    pub fn took(&self) -> Vec<(String, String)> {
        let got = self.got();
        let taken = got.into_iter().filter(|got| got.answered == Answer::Status(200));
        taken.map(|got| (got.event, got.subject)).collect()
    }

    /// Waits until so many were taken; all of them.
    pub async fn until_took(&self, count: usize) -> Vec<(String, String)> {
        until(&format!("{count} were taken"), async || self.took().len() >= count).await;
        self.took()
    }

    /// Waits until so many came, taken or not.
    pub async fn until_got(&self, count: usize) -> Vec<Got> {
        until(&format!("{count} came"), async || self.got().len() >= count).await;
        self.got()
    }
}

async fn take(State(behaviour): State<Arc<Mutex<Behaviour>>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    assert_eq!(header("X-Webhook-Hmac"), signature(&Secret(SECRET.to_owned()), &body), "the signature does not fit");
    assert_eq!(header("X-Webhook-Hmac-Algorithm"), "sha512");
    assert_eq!(header("Content-Type"), "application/json");
    assert!(header("User-Agent").starts_with("Waya/"));
    assert!(header("X-Webhook-Timestamp").parse::<u64>().unwrap() > 1_700_000_000_000);
    let body: Value = serde_json::from_slice(&body).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id = text(&body["id"]);
    assert_eq!(header("X-Webhook-Request-Id"), id);
    let (event, subject) = (text(&body["event"]), text(&body["payload"]["subject"]));
    let answer = {
        let mut behaviour = behaviour.lock().unwrap();
        let refused = behaviour.refuses.clone().filter(|(refused, _)| *refused == subject).map(|(_, answer)| answer);
        let planned = behaviour.next.pop_front().or_else(|| behaviour.then.clone());
        let answered = refused.or(planned).unwrap_or(Answer::Status(200));
        behaviour.got.push(Got { id, event, subject, body, answered: answered.clone() });
        answered
    };
    match answer {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Hang => std::future::pending().await,
        Answer::Redirect(to) => (StatusCode::FOUND, [("Location", to)]).into_response(),
        Answer::Endless => {
            let chunks =
                futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096])));
            Response::new(Body::from_stream(chunks))
        }
    }
}
