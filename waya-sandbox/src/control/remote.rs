//! Commands on a sandbox in another process, over its admin HTTP.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    ClockRequest, ClockView, ControlError, FaultList, FaultRequest, GroupRequest, GroupView, InboxList, Linked,
    PeopleList, PersonRequest, PersonView, ReadDone, Said, SandboxControl, SayRequest, TypingList,
};

/// Longer than anything the other side waits for.
const TIMEOUT: Duration = Duration::from_secs(45);

/// A sandbox reached over HTTP.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client,
    admin: Url,
}

/// The body of a refusal.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    code: String,
}

/// The body of an answer about one person.
#[derive(Deserialize)]
struct About {
    person: PersonView,
}

impl Remote {
    /// The sandbox that serves this WhatsApp address (`ws://127.0.0.1:PORT/ws/chat`). Nothing is
    /// sent yet. Addresses other than loopback are refused.
    pub fn new(whatsapp: &str) -> Result<Self, ControlError> {
        let admin = admin_of(whatsapp)?;
        // No proxy: the sandbox is on this machine, whatever the environment says.
        let client = Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| ControlError::Unreachable { address: admin.to_string(), problem: error.to_string() })?;
        Ok(Self { client, admin })
    }

    /// The admin address, without a slash at its end.
    pub fn admin(&self) -> &str {
        self.admin.as_str()
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.admin.clone();
        // An http address can always be a base.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        url
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ControlError> {
        self.send(self.client.get(self.url(path))).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ControlError> {
        self.send(self.client.post(self.url(&[path])).json(body)).await
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ControlError> {
        let body = self.bytes(request).await?;
        let unreachable = |problem: String| ControlError::Unreachable { address: self.admin.to_string(), problem };
        serde_json::from_slice(&body).map_err(|error| unreachable(error.to_string()))
    }

    async fn bytes(&self, request: RequestBuilder) -> Result<Vec<u8>, ControlError> {
        let unreachable = |problem: String| ControlError::Unreachable { address: self.admin.to_string(), problem };
        // A refused connection is told by the innermost cause alone.
        let failed = |error: reqwest::Error| unreachable(root_cause(&error));
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let body = response.bytes().await.map_err(failed)?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { error: message, code }) => {
                Err(ControlError::Refused { status: status.as_u16(), code, message })
            }
            Err(_) => Err(unreachable(format!("it answered {status}"))),
        }
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}

fn admin_of(whatsapp: &str) -> Result<Url, ControlError> {
    let invalid = |problem: &str| ControlError::Invalid {
        field: "connect",
        problem: format!("{whatsapp:?} {problem}: give ws://127.0.0.1:PORT/ws/chat"),
    };
    let address = Url::parse(whatsapp).map_err(|_| invalid("is no address"))?;
    if address.scheme() != "ws" {
        return Err(invalid("is no ws:// address"));
    }
    let host = address.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if !ip.is_ok_and(|ip| ip.is_loopback()) {
        return Err(invalid("is not a loopback address"));
    }
    let port = address.port().unwrap_or(80);
    Url::parse(&format!("http://{host}:{port}/admin")).map_err(|_| invalid("is no address"))
}

#[async_trait]
impl SandboxControl for Remote {
    async fn people(&self) -> Result<PeopleList, ControlError> {
        self.get(&["people"]).await
    }

    async fn inbox(&self, who: &str) -> Result<InboxList, ControlError> {
        self.get(&["inbox", who]).await
    }

    async fn typing(&self, who: &str) -> Result<TypingList, ControlError> {
        self.get(&["typing", who]).await
    }

    async fn load(&self, who: &str, id: &str) -> Result<Vec<u8>, ControlError> {
        self.bytes(self.client.get(self.url(&["inbox", who, id, "media"]))).await
    }

    async fn person(&self, request: PersonRequest) -> Result<PersonView, ControlError> {
        self.send(self.client.post(self.url(&["people"])).json(&request)).await
    }

    async fn rename(&self, who: &str, name: &str) -> Result<PersonView, ControlError> {
        let about: About = self.post("rename", &json!({ "who": who, "name": name })).await?;
        Ok(about.person)
    }

    async fn group(&self, request: GroupRequest) -> Result<GroupView, ControlError> {
        self.send(self.client.post(self.url(&["group"])).json(&request)).await
    }

    async fn say(&self, request: SayRequest) -> Result<Said, ControlError> {
        self.send(self.client.post(self.url(&["say"])).json(&request)).await
    }

    async fn read(&self, who: &str, play: bool) -> Result<ReadDone, ControlError> {
        self.post("read", &json!({ "who": who, "play": play })).await
    }

    async fn set_autoread(&self, who: &str, on: bool) -> Result<PersonView, ControlError> {
        let about: About = self.post("autoread", &json!({ "who": who, "on": on })).await?;
        Ok(about.person)
    }

    async fn set_online(&self, who: &str, online: bool) -> Result<PersonView, ControlError> {
        let path = if online { "online" } else { "offline" };
        let about: About = self.post(path, &json!({ "who": who })).await?;
        Ok(about.person)
    }

    async fn fault(&self, request: FaultRequest) -> Result<FaultList, ControlError> {
        self.send(self.client.post(self.url(&["fault"])).json(&request)).await
    }

    async fn set_phone_online(&self, who: Option<&str>, online: bool) -> Result<(), ControlError> {
        let state = if online { "online" } else { "offline" };
        let _: Value = self.post("phone", &json!({ "state": state, "who": who })).await?;
        Ok(())
    }

    async fn clock(&self, request: ClockRequest) -> Result<ClockView, ControlError> {
        self.send(self.client.post(self.url(&["clock"])).json(&request)).await
    }

    async fn stats(&self) -> Result<Value, ControlError> {
        self.get(&["stats"]).await
    }

    async fn scan_qr(&self, qr: &str, phone: Option<&str>) -> Result<Linked, ControlError> {
        let mut url = self.url(&["mock-phone", "scan-qr"]);
        if let Some(phone) = phone {
            url.query_pairs_mut().append_pair("phone", phone);
        }
        self.send(self.client.post(url).body(qr.to_owned())).await
    }

    async fn enter_code(&self, phone: &str, code: &str) -> Result<Linked, ControlError> {
        let url = self.url(&["mock-phone", "enter-code"]);
        self.send(self.client.post(url).json(&json!({ "phone": phone, "code": code }))).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_taken() {
        let admin = |text| Remote::new(text).map(|remote| remote.admin().to_owned());
        assert_eq!(admin("ws://127.0.0.1:9/ws/chat").unwrap(), "http://127.0.0.1:9/admin");
        assert_eq!(admin("ws://[::1]:9/ws/chat").unwrap(), "http://[::1]:9/admin");
        for bad in ["", "127.0.0.1:9", "wss://web.whatsapp.com/ws/chat", "ws://10.0.0.1:9/ws/chat", "ws://x:9"] {
            assert!(admin(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn names_are_escaped_in_paths() {
        let remote = Remote::new("ws://127.0.0.1:9/ws/chat").unwrap();
        assert_eq!(remote.url(&["inbox", "Budi 2"]).path(), "/admin/inbox/Budi%202");
    }
}
