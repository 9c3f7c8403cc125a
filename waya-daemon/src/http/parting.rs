//! A connection that ends so that its last answer can be read, and when nobody reads its answers.
//!
//! To close a connection over a body that is still coming would tear the answer down with it. So what comes once
//! everything is said is read and thrown away, for a moment: the sender of what was refused gets to read why.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// For so long.
const PART_WITHIN: Duration = Duration::from_secs(2);
/// Thrown away at a time, in bytes.
const PIECE: usize = 8 << 10;

/// A connection.
pub(super) struct Parting {
    stream: TcpStream,
    /// Once cancelled, nobody is waited for.
    shutdown: CancellationToken,
    /// All is said; nothing is thrown away any more when this is over.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// How long the other end may take nothing of what waits for it.
    patience: Duration,
    /// It takes nothing until then.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Parting {
    pub(super) const fn new(stream: TcpStream, patience: Duration, shutdown: CancellationToken) -> Self {
        Self { stream, shutdown, over: None, patience, stalled: None }
    }

    /// What came of writing, unless nothing did for too long.
    fn with_patience<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads the answer")))
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.over.as_mut().is_none_or(|over| over.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(());
            }
            let mut bytes = [0; PIECE];
            let mut piece = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece));
            if read.is_err() || piece.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Parting {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Parting {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.with_patience(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.with_patience(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.over.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            let shutdown = this.shutdown.clone();
            this.over = Some(Box::pin(async move {
                let _ = tokio::time::timeout(PART_WITHIN, shutdown.cancelled()).await;
            }));
        }
        this.poll_rest(cx).map(Ok)
    }
}
