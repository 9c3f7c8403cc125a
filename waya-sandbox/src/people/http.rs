//! The people's HTTP client: there is none. They load no media, and their version is fixed, so the
//! library has no reason to ask; were it to, nothing may leave the machine.

use whatsapp_rust::http::{HttpClient, HttpRequest, HttpResponse};
use whatsapp_rust::{anyhow, async_trait};

/// Refuses every request.
pub(super) struct NoHttp;

#[async_trait]
impl HttpClient for NoHttp {
    async fn execute(&self, _request: HttpRequest) -> anyhow::Result<HttpResponse> {
        Err(anyhow::anyhow!("simulated people do not use HTTP"))
    }
}
