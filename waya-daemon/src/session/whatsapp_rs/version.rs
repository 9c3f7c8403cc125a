//! Which version of WhatsApp Web this client says it is. WhatsApp refuses old ones.

use std::sync::Arc;

use whatsapp_rust::http::HttpClient;
use whatsapp_rust::version::fetch_latest_app_version;

/// A version of WhatsApp Web.
pub type Version = (u32, u32, u32);

/// Current when this was released; newer ones are fetched while connected.
pub const DEFAULT: Version = (2, 3000, 1_042_742_319);

/// What the config says, else the newest known: of this release, or `known` from an earlier run.
#[must_use]
pub fn choose(configured: Option<Version>, known: Version) -> Version {
    configured.unwrap_or_else(|| known.max(DEFAULT))
}

/// WhatsApp's own word for the current one, when it is newer than `than`.
pub async fn newer(http: &Arc<dyn HttpClient>, than: Version) -> Option<Version> {
    match fetch_latest_app_version(http).await {
        // A revision of 0 is a page that says nothing.
        Ok(version) if version.2 != 0 && version > than => Some(version),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, "the current WhatsApp version could not be fetched");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use whatsapp_rust::http::{HttpRequest, HttpResponse};

    use super::*;

    #[test]
    fn the_config_wins_and_else_the_newest_known() {
        let newer = (2, 3000, DEFAULT.2 + 1);
        assert_eq!(choose(Some((2, 3000, 1)), newer), (2, 3000, 1));
        assert_eq!(choose(None, newer), newer);
        assert_eq!(choose(None, (0, 0, 0)), DEFAULT);
    }

    struct Page(u32);

    #[async_trait]
    impl HttpClient for Page {
        async fn execute(&self, _: HttpRequest) -> anyhow::Result<HttpResponse> {
            let body = format!(r#"self.x=JSON.parse("{{\"client_revision\":{}}}")"#, self.0).into_bytes();
            Ok(HttpResponse { status_code: 200, body })
        }
    }

    #[tokio::test]
    async fn only_a_newer_one_counts() {
        let page = |revision| Arc::new(Page(revision)) as Arc<dyn HttpClient>;
        assert_eq!(newer(&page(1_099_999_999), DEFAULT).await, Some((2, 3000, 1_099_999_999)));
        assert_eq!(newer(&page(1_000_000_000), DEFAULT).await, None);
        assert_eq!(newer(&page(0), (0, 0, 0)).await, None);
    }
}
