//! The one listener: `/ws/chat` for WhatsApp clients, their media, everything else to the router given.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::config::EmulatorError;
use super::media::{self, TlsListener};
use super::{Emulator, wire};

/// Path of the WebSocket.
pub(super) const PATH: &str = "/ws/chat";

/// Bytes that each connection reads at once. The usual 128 KiB are most of what a connection costs.
const READ_BUFFER: usize = 8 << 10;
/// How long requests under way have to end; nothing of theirs is lost, the emulator keeps its state as it goes.
const LINGER: Duration = Duration::from_secs(2);

pub(super) async fn serve(
    emulator: Emulator,
    listener: TcpListener,
    rest: Router,
    shutdown: CancellationToken,
) -> Result<(), EmulatorError> {
    let stopping = emulator.stopping();
    let (listener, accepting) = TlsListener::new(listener, emulator.address(), emulator.media().tls().clone());
    let router = Router::new().route(PATH, any(upgrade)).merge(media::routes()).with_state(emulator).merge(rest);
    let stop = {
        let shutdown = shutdown.clone();
        async move {
            shutdown.cancelled().await;
            stopping.cancel();
        }
    };
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let served = tokio::select! {
        served = axum::serve(listener, router).with_graceful_shutdown(stop) => served.map_err(EmulatorError::Serve),
        () = overdue => {
            tracing::warn!("stopping with requests under way");
            Ok(())
        }
    };
    // Whoever starts anew at this address finds it free.
    let _ = accepting.await;
    served
}

async fn upgrade(State(emulator): State<Emulator>, upgrade: WebSocketUpgrade) -> Response {
    if emulator.fault_rules().refuses_everybody() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let upgrade = upgrade.read_buffer_size(READ_BUFFER);
    upgrade.on_upgrade(async move |socket| {
        wire::accept(emulator.clone(), socket).await;
        emulator.0.leftovers.left();
    })
}
