//! Connections: accepted up to a limit, held to their times, drained at the end.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::edge::client::Peer;
use super::error::HttpError;
use super::parting::Parting;
use super::{Door, Options, edge, router};
use crate::api::Api;

/// More than this of a request's head is refused.
const MAX_HEAD: usize = 64 << 10;
/// How long to leave the listener alone when the system has no more files to give.
const REST: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then lets requests under way finish within the drain time and returns.
pub async fn serve(listener: TcpListener, api: Api, options: Options, shutdown: CancellationToken) {
    let permits = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
    let drain_timeout = options.drain_timeout;
    let door = Door::new(api, options);
    let router = router(door.clone());
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let (stream, permit) = tokio::select! {
            next = accept(&listener, &permits) => next,
            () = shutdown.cancelled() => break,
        };
        let connection = connection(stream, door.clone(), router.clone(), shutdown.clone());
        let cut = cut.clone();
        connections.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "HTTP connections are cut: they did not finish in time");
        cut.cancel();
        connections.wait().await;
    }
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> ((TcpStream, Peer), Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return ((stream, Peer(peer.ip())), permit),
            Err(error) => {
                tracing::warn!(%error, "no HTTP connection could be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn connection((stream, peer): (TcpStream, Peer), door: Door, router: Router, shutdown: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let options = Arc::clone(&door.options);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let (door, router) = (door.clone(), router.clone());
        async move { answer(edge::pass(&door, router, request)).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Parting::new(stream, options.write_timeout, shutdown.clone())), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// One request; a panic of ours costs this request only.
async fn answer(request: impl Future<Output = Response>) -> Result<Response, Infallible> {
    let answer = AssertUnwindSafe(request).catch_unwind().await;
    Ok(match answer {
        Ok(response) => with_options(response),
        Err(_) => HttpError::Internal.into_response(),
    })
}

/// The router lists the methods that have a handler; `OPTIONS` is answered without one.
fn with_options(mut response: Response) -> Response {
    if let Some(allow) = response.headers().get(header::ALLOW).and_then(|allow| allow.to_str().ok()) {
        let listed = allow.split(',').map(str::trim).filter(|method| !method.is_empty());
        let listed: Vec<_> = listed.chain(["OPTIONS"]).collect();
        if let Ok(allow) = HeaderValue::from_str(&listed.join(", ")) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_panic_costs_one_request_only() {
        let broken = async {
            assert!(std::env::args().next().is_none(), "a fault of ours");
            unreachable!("it has a name");
        };
        let Ok(response) = super::answer(broken).await;
        assert_eq!(response.status().as_u16(), 500);
        assert_eq!(response.headers()["content-type"], "application/json");
    }
}
