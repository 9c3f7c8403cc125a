//! How something is posted to a URL.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;

use crate::net::Proxy;

/// How long a delivery may take in all.
pub const POST_WITHIN: Duration = Duration::from_secs(15);

/// One request.
#[derive(Clone)]
pub struct Post {
    /// Where to.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// The bytes.
    pub body: Vec<u8>,
}

/// There was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PostError(pub String);

/// Posts; follows no redirects, and reads no more of an answer than its head.
#[async_trait]
pub trait Poster: Debug + Send + Sync {
    /// The status of the answer.
    ///
    /// # Errors
    /// There was none; why, in words without the URL's secrets.
    async fn post(&self, post: Post) -> Result<u16, PostError>;
}

/// By HTTP. The proxies of the environment are ignored: `network.proxy` is the one way.
#[derive(Debug)]
pub struct HttpPoster {
    client: reqwest::Client,
}

impl HttpPoster {
    /// Through `proxy`, if there is one.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(proxy: Option<&Proxy>) -> reqwest::Result<Self> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(POST_WITHIN)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(2);
        if let Some(proxy) = proxy {
            let through = reqwest::Proxy::all(proxy.url())?;
            builder = builder.proxy(match proxy.credentials() {
                Some(credentials) => through.basic_auth(&credentials.user, &credentials.password),
                None => through,
            });
        }
        Ok(Self { client: builder.build()? })
    }
}

#[async_trait]
impl Poster for HttpPoster {
    async fn post(&self, post: Post) -> Result<u16, PostError> {
        let mut request = self.client.post(&post.url).body(post.body);
        for (name, value) in post.headers {
            request = request.header(name, value);
        }
        match request.send().await {
            Ok(answer) => Ok(answer.status().as_u16()),
            Err(error) => Err(PostError(words(&error))),
        }
    }
}

/// The deepest cause says most; the URL may hold a token.
fn words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("it did not answer within {} s", POST_WITHIN.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let what = if error.is_connect() { "cannot connect" } else { "the request failed" };
    if std::ptr::eq(cause, error as &dyn std::error::Error) { what.to_owned() } else { format!("{what}: {cause}") }
}

/// Without address and content, because debug output reaches logs.
impl Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}
