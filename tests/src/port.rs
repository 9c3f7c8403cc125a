//! A port for a server that ends and starts anew.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A loopback port that nobody else is given: bound and never listened on, which leaves it free to whoever names it
/// and to nobody who asks for any.
#[derive(Debug)]
pub struct Port {
    _socket: TcpSocket,
    /// Where to listen.
    pub address: SocketAddr,
}

impl Port {
    /// Any that is free.
    ///
    /// # Errors
    /// When none is.
    pub fn any() -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }
}
