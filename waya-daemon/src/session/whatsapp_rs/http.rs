//! HTTP for the client library (media, the client's version), on the one HTTP stack of the daemon.
//!
//! The proxies of the environment are ignored: `network.proxy` is the one way. A build that may speak to this machine only (see `guard`) asks by
//! plain HTTP, because the library writes `https` in front of whatever host it is told, and the emulator has no
//! certificate that anybody would believe.

use std::io::{self, Read};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use reqwest::{Client, Method, Url};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use whatsapp_rust::http::{HttpClient, HttpRequest, HttpResponse};
use whatsapp_rust::wacore::net::{StreamingHttpResponse, UploadBody};

use super::guard::Guard;
use crate::net::Proxy;

/// The largest answer that is kept in memory as a whole: media come as streams.
const LARGEST_ANSWER: usize = 128 * 1024 * 1024;
/// An answer that stops coming for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
const UPLOAD_PIECE: usize = 64 * 1024;

/// The client library's HTTP client.
#[derive(Debug)]
pub struct Http {
    client: Client,
    guard: Guard,
    runtime: Handle,
}

impl Http {
    /// Within a tokio runtime, on whose threads the requests run. All of them go through `proxy`, if there is one; it
    /// was checked by the guard.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(guard: Guard, proxy: Option<&Proxy>) -> reqwest::Result<Self> {
        let mut builder = Client::builder().no_proxy();
        if let Some(proxy) = proxy {
            builder = builder.proxy(proxy.for_every_request()?);
        }
        let client = builder
            .connect_timeout(Duration::from_secs(15))
            .read_timeout(SILENCE)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .redirect(reqwest::redirect::Policy::custom(move |attempt| {
                match guard.check_host(attempt.url().host_str().unwrap_or_default()) {
                    Err(forbidden) => attempt.error(forbidden),
                    Ok(()) if attempt.previous().len() > 5 => attempt.stop(),
                    Ok(()) => attempt.follow(),
                }
            }))
            .build()?;
        Ok(Self { client, guard, runtime: Handle::current() })
    }

    fn request(&self, request: HttpRequest) -> anyhow::Result<reqwest::RequestBuilder> {
        let mut url = Url::parse(&request.url)?;
        self.guard.check_host(url.host_str().unwrap_or_default())?;
        if self.guard.is_loopback_only() && url.scheme() == "https" {
            // A port that was left out would silently become another one.
            let port = url.port_or_known_default();
            url.set_scheme("http").and_then(|()| url.set_port(port)).map_err(|()| anyhow::anyhow!("bad media URL"))?;
        }
        let mut built = self.client.request(Method::from_bytes(request.method.as_bytes())?, url);
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        Ok(match request.body {
            Some(body) => built.body(body),
            None => built,
        })
    }
}

async fn collect(mut response: reqwest::Response) -> anyhow::Result<HttpResponse> {
    let status_code = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        anyhow::ensure!(body.len() + piece.len() <= LARGEST_ANSWER, "the answer is larger than {LARGEST_ANSWER} bytes");
        body.extend_from_slice(&piece);
    }
    Ok(HttpResponse { status_code, body })
}

#[async_trait]
impl HttpClient for Http {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        collect(self.request(request)?.send().await?).await
    }

    fn supports_streaming(&self) -> bool {
        true
    }

    fn execute_streaming(&self, request: HttpRequest) -> anyhow::Result<StreamingHttpResponse> {
        let response = self.runtime.block_on(self.request(request)?.send())?;
        let status_code = response.status().as_u16();
        let body = Body { response, piece: Bytes::new(), runtime: self.runtime.clone() };
        Ok(StreamingHttpResponse { status_code, body: Box::new(body) })
    }

    fn supports_upload_streaming(&self) -> bool {
        true
    }

    fn execute_upload(
        &self,
        mut request: HttpRequest,
        mut body: UploadBody,
        content_length: u64,
    ) -> anyhow::Result<HttpResponse> {
        request.body = None;
        let (pieces, received) = mpsc::channel::<io::Result<Bytes>>(2);
        let stream = tokio_stream::wrappers::ReceiverStream::new(received);
        let request = self
            .request(request)?
            .header(reqwest::header::CONTENT_LENGTH, content_length)
            .body(reqwest::Body::wrap_stream(stream));
        let answer = self.runtime.spawn(async move { collect(request.send().await?).await });
        feed(&mut body, content_length, &pieces);
        drop(pieces);
        self.runtime.block_on(answer)?
    }
}

/// Hands the body over piece by piece, exactly as long as was promised; stops when nobody takes it any more.
fn feed(body: &mut UploadBody, length: u64, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let mut body = body.take(length);
    loop {
        let mut piece = vec![0; UPLOAD_PIECE];
        let read = body.read(&mut piece);
        let sent = match read {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                pieces.blocking_send(Ok(piece.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let _ = pieces.blocking_send(Err(error));
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// An answer's body as a reader, for the library's threads that may block.
struct Body {
    response: reqwest::Response,
    piece: Bytes,
    runtime: Handle,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.response.chunk()).map_err(io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
