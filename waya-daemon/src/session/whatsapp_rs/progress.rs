//! How far a connection got, and what went wrong with it: the client library would only log that.
//!
//! The dialler writes down each step before it is taken, so that there is a reason also when the time runs out.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How far a connection got, and what went wrong with it.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Steps>);

#[derive(Debug, Default, Clone)]
struct Steps {
    trouble: Option<String>,
    open: bool,
    answered: bool,
    closed_by_peer: bool,
    through: bool,
}

impl Progress {
    fn steps(&self) -> std::sync::MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection begins.
    pub fn begin(&self) {
        *self.steps() = Steps::default();
    }

    /// What went wrong, in words; the first word counts, what follows is its consequence.
    pub fn blame(&self, trouble: impl Into<String>) {
        self.steps().trouble.get_or_insert_with(|| trouble.into());
    }

    /// The handshake is behind it: WhatsApp spoke to us.
    pub fn through(&self) {
        self.steps().through = true;
    }

    /// Logged in: what went wrong on the way there is of no interest any more.
    pub fn logged_in(&self) {
        let mut steps = self.steps();
        steps.through = true;
        steps.trouble = None;
    }

    /// Why the connection ended; `None` when somebody wanted it to.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let steps = self.steps().clone();
        match steps {
            Steps { trouble: Some(trouble), .. } => Some(trouble),
            Steps { through: true, .. } => None,
            Steps { open: false, .. } => Some("the connection to WhatsApp could not be made".to_owned()),
            Steps { closed_by_peer: true, .. } => {
                Some("WhatsApp closed the connection during the handshake".to_owned())
            }
            Steps { answered: true, .. } => Some(
                "WhatsApp's answer in the handshake was not accepted; something in between may be reading along"
                    .to_owned(),
            ),
            Steps { .. } => Some("WhatsApp did not answer the handshake".to_owned()),
        }
    }

    /// The step that is under way when the library gives up on dialling.
    pub fn attempt(&self, step: String) {
        self.steps().trouble = Some(step);
    }

    /// The WebSocket stands.
    pub fn opened(&self) {
        *self.steps() = Steps { open: true, ..Steps::default() };
    }
}

/// Notes how far the peer came.
pub struct Watched {
    /// The way to the peer.
    pub inner: TcpStream,
    /// Where that is noted.
    pub progress: Arc<Progress>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(result) = &polled {
            let mut steps = self.progress.steps();
            let nothing = result.is_err() || buf.filled().len() == before;
            steps.closed_by_peer |= nothing;
            steps.answered |= !nothing && steps.open;
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_says_how_far_it_got() {
        let progress = Progress::default();
        let said = || progress.trouble().unwrap_or_default();
        assert!(said().contains("could not be made"));
        progress.attempt("no answer from example".to_owned());
        assert!(said().contains("no answer from example"));
        progress.opened();
        assert!(said().contains("did not answer the handshake"));
        progress.steps().answered = true;
        assert!(said().contains("was not accepted"));
        progress.steps().closed_by_peer = true;
        assert!(said().contains("closed the connection during the handshake"));
        progress.through();
        assert_eq!(progress.trouble(), None);
        progress.blame("first");
        progress.blame("second");
        assert_eq!(said(), "first");
        progress.logged_in();
        assert_eq!(progress.trouble(), None);
    }
}
