//! The people's way to the emulator: a plain WebSocket without Nagle's algorithm, which would hold
//! a message back for 40 ms whenever it follows a receipt.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_websockets::ClientBuilder;
use whatsapp_rust::async_channel::Receiver;
use whatsapp_rust::transport::{Transport, TransportEvent, TransportFactory, from_websocket};
use whatsapp_rust::{anyhow, async_trait};

/// Makes connections to one emulator.
pub(super) struct Dial {
    pub(super) address: SocketAddr,
    pub(super) url: String,
}

#[async_trait]
impl TransportFactory for Dial {
    async fn create_transport(&self) -> anyhow::Result<(Arc<dyn Transport>, Receiver<TransportEvent>)> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (socket, _) = ClientBuilder::new().uri(&self.url)?.connect_on(stream).await?;
        Ok(from_websocket(socket))
    }
}
