//! Why a request has no answer, in words for whoever gave the URL: hosts are named, the rest of the URL is not, for it
//! may hold somebody's secret.

use std::time::Duration;

use super::guard::Forbidden;

/// What keeps a text from being a URL that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// The URL parser refuses it.
    #[error("it cannot be read as a URL")]
    Unreadable,
    /// `file:`, `ftp:` …
    #[error("it does not start with http:// or https://")]
    Scheme,
    /// Longer than any server takes.
    #[error("it is longer than 8192 bytes")]
    TooLong,
}

/// There is no answer, or not all of it. A status such as 404 is an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It is nothing to fetch.
    #[error("not a URL to fetch: {0}")]
    BadUrl(#[from] BadUrl),
    /// The settings say no.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// No address for the name.
    #[error("cannot find the address of {host}: {cause}")]
    Resolve {
        /// Whose.
        host: String,
        /// What the system said.
        cause: String,
    },
    /// No connection.
    #[error("cannot connect to {host}: {cause}")]
    Connect {
        /// With whom.
        host: String,
        /// What the system said, or the proxy.
        cause: String,
    },
    /// A connection, and no trust in it.
    #[error("no secure connection to {host}: {cause}")]
    Tls {
        /// With whom.
        host: String,
        /// What is wrong with it.
        cause: String,
    },
    /// One of the request's limits.
    #[error("{host} took longer than {limit:?}")]
    Timeout {
        /// Who.
        host: String,
        /// The limit that passed.
        limit: Duration,
    },
    /// The connection ended before the answer did, or what came is no HTTP.
    #[error("{host} broke off its answer: {cause}")]
    Broken {
        /// Who.
        host: String,
        /// What happened.
        cause: String,
    },
    /// More than was asked for.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The request's limit, in bytes.
        limit: u64,
    },
    /// Compressed, though that was not asked for: how large it becomes is for the sender to know only.
    #[error("{host} sent its answer compressed, which it was not asked for")]
    Encoded {
        /// Who.
        host: String,
    },
    /// In a circle, or nearly.
    #[error("{host} redirects for the {most}th time, which is too often")]
    TooManyRedirects {
        /// The last one.
        host: String,
        /// The request's limit, and one.
        most: usize,
    },
    /// A redirect that is not followed.
    #[error("{host} redirects to where no request goes: {why}")]
    BadRedirect {
        /// Who.
        host: String,
        /// What is wrong with it.
        why: BadRedirect,
    },
    /// TLS cannot be set up on this machine.
    #[error("no request can be made: {0}")]
    Setup(String),
}

/// What is wrong with a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRedirect {
    /// What stands there is no URL for us.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// What was said in private would be said aloud.
    #[error("from https to http, with a password or a body to be sent again")]
    Downgrade,
}

impl FetchError {
    /// The same request may do better later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Resolve { .. } | Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. })
    }
}
