//! How something is posted to a URL.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::net::{Fetcher, Limits, Request, Trust};

/// How long a delivery may take in all.
pub const POST_WITHIN: Duration = Duration::from_secs(15);
/// Of that, how long until there is a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(8);

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

/// By the one guarded way out. The URL is the administrator's word: inner addresses are fine, `network.deny_hosts` holds.
#[derive(Debug)]
pub struct HttpPoster(pub Fetcher);

#[async_trait]
impl Poster for HttpPoster {
    async fn post(&self, post: Post) -> Result<u16, PostError> {
        let mut headers = HeaderMap::new();
        for (name, value) in post.headers {
            let value = HeaderValue::try_from(value).map_err(|_| PostError(format!("{name} cannot be sent")))?;
            headers
                .insert(HeaderName::from_bytes(name.as_bytes()).map_err(|error| PostError(error.to_string()))?, value);
        }
        let limits = Limits { connect: CONNECT_WITHIN, idle: POST_WITHIN, total: POST_WITHIN, size: 0 };
        let request =
            Request { headers, limits, redirects: 0, ..Request::post(post.url, Trust::Administrator, post.body) };
        let answer = self.0.fetch(request).await.map_err(|error| PostError(error.to_string()))?;
        Ok(answer.status().as_u16())
    }
}

/// Without address and content, because debug output reaches logs.
impl Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{HostPattern, Policy};
    use tokio::sync::watch;

    #[tokio::test]
    async fn a_denied_host_is_not_asked_and_a_refused_connection_is_told() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook?token=t0ken", listener.local_addr().unwrap());
        let post = |policy: Policy| {
            let poster = HttpPoster(Fetcher::new(watch::channel(policy).1, None));
            let post = Post { url: url.clone(), headers: vec![("X-A", "b".to_owned())], body: b"{}".to_vec() };
            async move { poster.post(post).await.unwrap_err().to_string() }
        };
        let denied = Policy { deny_hosts: vec!["127.0.0.0/8".parse::<HostPattern>().unwrap()], ..Policy::default() };
        assert_eq!(post(denied).await, "refused: 127.0.0.1 is in network.deny_hosts");
        drop(listener);
        let refused = post(Policy::default()).await;
        assert!(refused.starts_with("cannot connect to 127.0.0.1") && !refused.contains("t0ken"), "{refused}");
    }
}
