//! The people's HTTP client, for media on the emulator's own servers and nothing else: nothing may leave the machine.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, Method, Url};
use whatsapp_rust::http::{HttpClient, HttpRequest, HttpResponse};
use whatsapp_rust::{anyhow, async_trait};

/// A server on this machine that is silent for so long is stuck.
const SILENCE: Duration = Duration::from_secs(30);

/// Asks the emulator, in plain, although the library writes `https` in front of whatever host it is told.
pub(super) struct EmulatorHttp {
    client: Client,
    address: SocketAddr,
}

impl EmulatorHttp {
    pub(super) fn new(address: SocketAddr) -> Result<Self, reqwest::Error> {
        let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).read_timeout(SILENCE);
        Ok(Self { client: client.build()?, address })
    }

    fn url(&self, text: &str) -> anyhow::Result<Url> {
        let mut url = Url::parse(text)?;
        let host = url.host_str().unwrap_or_default();
        let ours = host == "localhost" || host.trim_matches(['[', ']']).parse() == Ok(self.address.ip());
        if !ours || url.port() != Some(self.address.port()) {
            anyhow::bail!("simulated people load nothing from {host}");
        }
        url.set_scheme("http").map_err(|()| anyhow::anyhow!("{text} is no address of a file"))?;
        url.set_ip_host(self.address.ip()).map_err(|()| anyhow::anyhow!("{text} is no address of a file"))?;
        Ok(url)
    }
}

#[async_trait]
impl HttpClient for EmulatorHttp {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let method = Method::from_bytes(request.method.as_bytes())?;
        let mut asked = self.client.request(method, self.url(&request.url)?);
        for (name, value) in &request.headers {
            asked = asked.header(name, value);
        }
        if let Some(body) = request.body {
            asked = asked.body(body);
        }
        let answer = asked.send().await?;
        let status_code = answer.status().as_u16();
        Ok(HttpResponse { status_code, body: answer.bytes().await?.to_vec() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_emulator_is_asked() {
        let http = EmulatorHttp::new(([127, 0, 0, 1], 4000).into()).unwrap();
        for ours in ["https://127.0.0.1:4000/v/x?oh=1", "https://localhost:4000/v/x?oh=1"] {
            assert_eq!(http.url(ours).unwrap().as_str(), "http://127.0.0.1:4000/v/x?oh=1");
        }
        for other in ["https://mmg.whatsapp.net/v/x", "https://127.0.0.1/v/x", "https://127.0.0.1:4001/v/x", "x"] {
            assert!(http.url(other).is_err(), "{other}");
        }
    }
}
