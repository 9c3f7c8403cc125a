//! Media through TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use whatsapp_rust::anyhow;
use whatsapp_rust::http::{HttpClient, HttpRequest, HttpResponse};

use super::World;

/// Loads through TLS, and trusts the emulator's authority alone.
#[derive(Clone)]
pub struct Https {
    pub client: reqwest::Client,
    /// Bytes sent as bodies.
    pub uploaded: Arc<AtomicU64>,
}

impl Https {
    pub fn new(world: &World) -> Self {
        let pem = std::fs::read(world.emulator.media_authority()).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .https_only(true)
            .tls_built_in_root_certs(false)
            .add_root_certificate(reqwest::Certificate::from_pem(&pem).unwrap())
            .build()
            .unwrap();
        Self { client, uploaded: Arc::default() }
    }
}

#[async_trait]
impl HttpClient for Https {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let method = request.method.parse()?;
        let mut asked = self.client.request(method, &request.url);
        for (name, value) in &request.headers {
            asked = asked.header(name, value);
        }
        if let Some(body) = request.body {
            self.uploaded.fetch_add(body.len() as u64, Ordering::SeqCst);
            asked = asked.body(body);
        }
        let answer = asked.send().await?;
        let status_code = answer.status().as_u16();
        Ok(HttpResponse { status_code, body: answer.bytes().await?.to_vec() })
    }
}
