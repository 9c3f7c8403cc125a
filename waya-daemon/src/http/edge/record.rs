//! Notes every `/api/` request for the request log, as it passes; what is made of the notes happens elsewhere.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::client::Client;
use super::frame::RequestId;
use crate::api::{Api, Passed, Seen};
use crate::http::Door;
use crate::http::auth::Caller;
use crate::model::MessageId;

/// The messages that a request put into the queue, told by its handler beside the answer.
#[derive(Debug, Clone)]
pub(in crate::http) struct Queued(pub(in crate::http) Arc<[MessageId]>);

/// Notes the request, and hands the notes over with the last byte of the answer.
pub(in crate::http) async fn record(
    door: &Door,
    request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    if !request.uri().path().starts_with("/api/") {
        return next(request).await;
    }
    let (head, body) = request.into_parts();
    let client = head.extensions.get::<Client>().copied();
    let Some((client, id)) = client.zip(head.extensions.get::<RequestId>().cloned()) else {
        return next(Request::from_parts(head, body)).await;
    };
    let seen = Arc::new(Mutex::new(Some(Seen::new(&head.headers))));
    let passed = Passed {
        request_id: id.as_str().to_owned(),
        at: door.api.now(),
        took: std::time::Duration::ZERO,
        method: head.method.clone(),
        uri: head.uri.clone(),
        status: None,
        ip: client.0,
        key: None,
        headers: head.headers.clone(),
        body: Seen::new(&HeaderMap::new()),
        answer_headers: HeaderMap::new(),
        answer_body: Seen::new(&HeaderMap::new()),
        messages: None,
    };
    let mut notes =
        Notes { api: door.api.clone(), since: Instant::now(), body: Arc::clone(&seen), passed: Some(Box::new(passed)) };
    let request = Request::from_parts(head, Body::new(Asked { body, seen }));
    let (mut head, body) = next(request).await.into_parts();
    if let Some(passed) = &mut notes.passed {
        passed.status = Some(head.status.as_u16());
        passed.key = head.extensions.remove::<Caller>().map(|caller| Arc::clone(&caller.0.name));
        passed.messages = head.extensions.remove::<Queued>().map(|queued| queued.0);
        passed.answer_body = Seen::new(&head.headers);
        passed.answer_headers = head.headers.clone();
    }
    Response::from_parts(head, Body::new(Answered { body, notes }))
}

/// What is known of a request so far. Handed over when it ends, also when its caller goes away.
struct Notes {
    api: Api,
    since: Instant,
    body: Arc<Mutex<Option<Seen>>>,
    passed: Option<Box<Passed>>,
}

impl Notes {
    fn hand_over(&mut self) {
        let Some(mut passed) = self.passed.take() else { return };
        passed.took = self.since.elapsed();
        if let Some(seen) = self.body.lock().unwrap_or_else(PoisonError::into_inner).take() {
            passed.body = seen;
        }
        self.api.request_log().record(passed);
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// The request's body on its way in.
struct Asked {
    body: Body,
    seen: Arc<Mutex<Option<Seen>>>,
}

/// The answer's body on its way out.
struct Answered {
    body: Body,
    notes: Notes,
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Some(data) = data(&polled)
            && let Some(seen) = &mut *this.seen.lock().unwrap_or_else(PoisonError::into_inner)
        {
            seen.feed(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let (Some(data), Some(passed)) = (data(&polled), &mut this.notes.passed) {
            passed.answer_body.feed(data);
        }
        // Before the last bytes leave: who has the whole answer finds its request in the log.
        if this.body.is_end_stream() || matches!(polled, Poll::Ready(None)) {
            this.notes.hand_over();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn data(polled: &Poll<Option<Result<Frame<Bytes>, axum::Error>>>) -> Option<&Bytes> {
    match polled {
        Poll::Ready(Some(Ok(frame))) => frame.data_ref(),
        _ => None,
    }
}
