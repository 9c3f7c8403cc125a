//! The gRPC door on a Unix socket: what `waya` speaks to.
//!
//! Owns the socket's file and its connections; every decision is `api`'s. It is woken by its clients only. Whoever may
//! connect may do everything: the socket's permissions and the peer's uid are the whole of its access control.

mod convert;
mod error;
mod events;
mod media;
mod not_a_sandbox;
mod opt_outs;
mod queue;
mod requests;
mod send;
mod session;
mod settings;
mod socket;
mod streams;
#[cfg(test)]
mod tests;
mod webhooks;

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use waya_proto::v1::events_service_server::EventsServiceServer;
use waya_proto::v1::opt_out_service_server::OptOutServiceServer;
use waya_proto::v1::queue_service_server::QueueServiceServer;
use waya_proto::v1::requests_service_server::RequestsServiceServer;
use waya_proto::v1::session_service_server::SessionServiceServer;
use waya_proto::v1::settings_service_server::SettingsServiceServer;
use waya_proto::v1::webhooks_service_server::WebhooksServiceServer;

pub use socket::{BoundSocket, SocketError, SocketOptions, bind};

use crate::api::Api;

/// A connection that is silent for so long is asked whether anybody is there: a stopped client frees its streams.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// How long calls under way may take once the daemon stops.
const DRAIN: Duration = Duration::from_millis(1500);

/// The door broke.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be used.
    #[error("the socket cannot be served: {0}")]
    Socket(#[from] std::io::Error),
    /// The compiled contract cannot be read back.
    #[error("the reflection service cannot be built: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport gave up.
    #[error("gRPC cannot be served: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `shutdown`, then ends all streams, lets calls under way finish, removes the socket and returns.
///
/// `more` are the sandbox's services; without them such calls are told that this is none.
///
/// # Errors
/// [`ServeError`]; a client's misbehaviour is none.
pub async fn serve(
    socket: BoundSocket,
    api: Api,
    more: Option<Routes>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<SessionServiceServer<session::Sessions>>().await;
    health.set_serving::<QueueServiceServer<queue::Queues>>().await;
    health.set_serving::<EventsServiceServer<events::Journal>>().await;
    health.set_serving::<OptOutServiceServer<opt_outs::DoNotSend>>().await;
    health.set_serving::<SettingsServiceServer<settings::LiveSettings>>().await;
    health.set_serving::<RequestsServiceServer<requests::Requests>>().await;
    health.set_serving::<WebhooksServiceServer<webhooks::Hooks>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(waya_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;

    let routes = more
        .unwrap_or_else(|| Routes::new(not_a_sandbox::NotASandbox))
        .add_service(SessionServiceServer::new(session::Sessions::new(api.clone())))
        .add_service(QueueServiceServer::new(queue::Queues::new(api.clone())))
        .add_service(EventsServiceServer::new(events::Journal::new(api.clone(), shutdown.clone())))
        .add_service(OptOutServiceServer::new(opt_outs::DoNotSend::new(api.clone())))
        .add_service(RequestsServiceServer::new(requests::Requests::new(api.clone())))
        .add_service(SettingsServiceServer::new(settings::LiveSettings::new(api.clone())))
        .add_service(WebhooksServiceServer::new(webhooks::Hooks::new(api)))
        .add_service(health_service)
        .add_service(reflection);
    let clients = socket.into_clients()?;
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(clients, shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving => ended?,
        // Somebody who never hangs up does not keep the daemon.
        () = overdue => tracing::warn!("gRPC connections are cut: they did not finish in time"),
    }
    Ok(())
}
