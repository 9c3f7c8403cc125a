//! A running emulator and real clients of it.

#![allow(dead_code, clippy::unwrap_used)]

pub mod https;
pub mod raw;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waya_sandbox::emulator::{Emulator, EmulatorConfig, ScannedDevice};
use whatsapp_rust::async_channel::Receiver;
use whatsapp_rust::bot::{Bot, BotHandle};
use whatsapp_rust::pair_code::PairCodeOptions;
use whatsapp_rust::transport::{TokioWebSocketTransportFactory, TransportFactory};
use whatsapp_rust::wacore::net::{HttpClient, HttpRequest, HttpResponse};
use whatsapp_rust::wacore::store::{DevicePropsOverride, InMemoryBackend};
use whatsapp_rust::wacore::types::events::{ChannelEventHandler, Event, InboundMessage, Receipt};
use whatsapp_rust::wacore_binary::Jid;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::device_props::HistorySyncConfig;
use whatsapp_rust::{Client, SendOptions};

/// Nothing here takes longer unless it is broken.
pub const LIMIT: Duration = Duration::from_secs(30);

/// What emulator and clients say of themselves, when `WAYA_LOG_FILTER` asks for it.
pub fn tell_if_asked() {
    if std::env::var_os("WAYA_LOG_FILTER").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("WAYA_LOG_FILTER");
        // The first test of a binary speaks for all.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
}

/// An emulator that is being served.
pub struct World {
    pub emulator: Emulator,
    port: Port,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

/// A port that nobody else is given while its world starts anew: bound and never listened on, which leaves it free to
/// whoever names it and to nobody who asks for any.
pub struct Port(TcpSocket);

impl Port {
    pub fn any() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// How tests open an emulator. Accounts are addressed by LID, or by number if `WAYA_TEST_PN_ONLY` says so.
pub fn config() -> EmulatorConfig {
    let pn_only = std::env::var_os("WAYA_TEST_PN_ONLY").is_some_and(|value| value == "1");
    EmulatorConfig { first_stanza_grace: Duration::ZERO, pn_only, ..Default::default() }
}

impl World {
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    pub async fn in_folder(folder: &Path, port: Option<Port>) -> Self {
        let config = EmulatorConfig { data_dir: Some(PathBuf::from(folder)), ..config() };
        Self::on(port.unwrap_or_else(Port::any), config).await
    }

    pub async fn with(config: EmulatorConfig) -> Self {
        Self::on(Port::any(), config).await
    }

    async fn on(port: Port, mut config: EmulatorConfig) -> Self {
        tell_if_asked();
        config.listen = port.address();
        let emulator = Emulator::open(config).await.unwrap();
        let stop = CancellationToken::new();
        let (served, token) = (emulator.clone(), stop.clone());
        let served = tokio::spawn(async move {
            served.serve(axum::Router::new(), token).await.unwrap();
        });
        Self { emulator, port, stop, served }
    }

    /// Ends the emulator and lets go of its folder; the port is kept for the next one.
    pub async fn stop(self) -> Port {
        self.stop.cancel();
        self.served.await.unwrap();
        let alone = self.emulator;
        until("the emulator to be let go of", || alone.is_last_handle()).await;
        self.port
    }

    /// A client linked to this phone by QR, connected.
    pub async fn link(&self, phone: &str, name: &str) -> Person {
        let mut person = Person::start(&self.emulator.whatsapp_url(), name).await;
        person.scan(&self.emulator, Some(phone)).await;
        person.connected().await;
        person
    }

    /// Whether the server believes that a device of this phone is there: it hears of a client's end later than the client.
    pub fn is_there(&self, phone: &str) -> bool {
        let accounts = self.emulator.accounts();
        accounts.iter().any(|known| known.phone == phone && known.devices.iter().any(|device| device.connected))
    }
}

impl World {
    /// The same, with media.
    pub async fn link_with(&self, phone: &str, name: &str, http: &https::Https) -> Person {
        let mut person = Person::with_http(&self.emulator.whatsapp_url(), name, http.clone()).await;
        person.scan(&self.emulator, Some(phone)).await;
        person.connected().await;
        person
    }
}

/// A real client.
pub struct Person {
    pub client: Arc<Client>,
    pub backend: Arc<InMemoryBackend>,
    pub name: String,
    events: Receiver<Arc<Event>>,
    /// Came while something else was waited for: the client handles stanzas side by side, so an ack may be told
    /// after the receipt that crossed the wire behind it.
    told: Vec<Arc<Event>>,
    handle: Option<BotHandle>,
}

impl Person {
    pub async fn start(url: &str, name: &str) -> Self {
        Self::resume(url, name, Arc::new(InMemoryBackend::new())).await
    }

    /// A client on keys that may be linked already.
    pub async fn resume(url: &str, name: &str, backend: Arc<InMemoryBackend>) -> Self {
        Self::build(url, name, backend, None).await
    }

    pub async fn with_code(url: &str, name: &str, phone: &str) -> Self {
        let options = PairCodeOptions { phone_number: phone.to_owned(), ..Default::default() };
        Self::build(url, name, Arc::new(InMemoryBackend::new()), Some(options)).await
    }

    async fn build(url: &str, name: &str, backend: Arc<InMemoryBackend>, code: Option<PairCodeOptions>) -> Self {
        let factory = TokioWebSocketTransportFactory::new().with_url(url);
        Self::build_on(factory, NoHttp, name, backend, code).await
    }

    /// A client that loads media.
    pub async fn with_http(url: &str, name: &str, http: impl HttpClient + 'static) -> Self {
        let factory = TokioWebSocketTransportFactory::new().with_url(url);
        Self::build_on(factory, http, name, Arc::new(InMemoryBackend::new()), None).await
    }

    /// A client on a transport of its own.
    pub async fn through(factory: impl TransportFactory + 'static, name: &str) -> Self {
        Self::build_on(factory, NoHttp, name, Arc::new(InMemoryBackend::new()), None).await
    }

    /// A client that takes history as this says, and loads files if there is something to load them with.
    pub async fn with_history(url: &str, name: &str, history: HistorySyncConfig, http: Option<https::Https>) -> Self {
        let factory = TokioWebSocketTransportFactory::new().with_url(url);
        let backend = Arc::new(InMemoryBackend::new());
        match http {
            Some(http) => Self::build_with(factory, http, name, backend, None, Some(history)).await,
            None => Self::build_with(factory, NoHttp, name, backend, None, Some(history)).await,
        }
    }

    async fn build_on(
        factory: impl TransportFactory + 'static,
        http: impl HttpClient + 'static,
        name: &str,
        backend: Arc<InMemoryBackend>,
        code: Option<PairCodeOptions>,
    ) -> Self {
        Self::build_with(factory, http, name, backend, code, None).await
    }

    async fn build_with(
        factory: impl TransportFactory + 'static,
        http: impl HttpClient + 'static,
        name: &str,
        backend: Arc<InMemoryBackend>,
        code: Option<PairCodeOptions>,
        history: Option<HistorySyncConfig>,
    ) -> Self {
        let builder = Bot::builder()
            .with_backend_arc(backend.clone())
            .with_transport_factory(factory)
            .with_http_client(http)
            .with_version((2, 3000, 1_015_901_307))
            .with_push_name(name)
            .with_wanted_pre_key_count(30);
        let builder = match history {
            Some(history) => builder.with_device_props(DevicePropsOverride::new().with_history_sync_config(history)),
            None => builder.skip_history_sync(),
        };
        let (handler, events) = ChannelEventHandler::new();
        let builder = builder.with_event_handler(Forward(handler));
        let bot = match code {
            Some(code) => builder.with_pair_code(code).build().await.unwrap(),
            None => builder.build().await.unwrap(),
        };
        let client = bot.client();
        let handle = Some(bot.spawn());
        Self { client, backend, name: name.to_owned(), events, told: Vec::new(), handle }
    }

    /// The first event that `pick` takes, of those that came and those to come; none is given twice.
    pub async fn wait<T>(&mut self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        let mut known = self.told.iter().enumerate();
        if let Some((place, found)) = known.find_map(|(place, event)| Some((place, pick(event)?))) {
            self.told.remove(place);
            return found;
        }
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the client is gone");
                match pick(&event) {
                    Some(found) => return found,
                    None => self.told.push(event),
                }
            }
        };
        let found = tokio::time::timeout(LIMIT, search).await;
        found.unwrap_or_else(|_| panic!("{} waited in vain for {what}; but: {:?}", self.name, self.told))
    }

    /// From now on it comes back at once whenever its connection ends. By itself it waits longer after each connection that
    /// did not last, up to a quarter of an hour.
    pub fn come_back_at_once(&mut self) -> JoinHandle<()> {
        let (client, first) = (self.client.clone(), self.handle.take());
        client.enable_auto_reconnect.store(false, Ordering::Relaxed);
        tokio::spawn(async move {
            if let Some(first) = first {
                first.await;
            }
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                client.enable_auto_reconnect.store(false, Ordering::Relaxed);
                client.run().await;
            }
        })
    }

    /// The next event that nobody waited for; `None` when the client is gone.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        if self.told.is_empty() { self.events.recv().await.ok() } else { Some(self.told.remove(0)) }
    }

    pub async fn scan(&mut self, emulator: &Emulator, phone: Option<&str>) -> ScannedDevice {
        let qr = self.qr().await;
        emulator.scan_qr(&qr, phone).await.unwrap()
    }

    pub async fn qr(&mut self) -> String {
        self.wait("a QR code", |event| match event {
            Event::PairingQrCode(qr) => Some(qr.code.clone()),
            _ => None,
        })
        .await
    }

    pub async fn connected(&mut self) {
        self.wait("the connection", |event| matches!(event, Event::Connected(_)).then_some(())).await;
    }

    /// The next message with a text.
    pub async fn text(&mut self) -> Received {
        self.wait("a text", |event| match event {
            Event::Messages(batch) => batch.messages.iter().find_map(Received::read),
            _ => None,
        })
        .await
    }

    /// The next texts, in order.
    pub async fn texts(&mut self, count: usize) -> Vec<Received> {
        let mut texts = Vec::new();
        while texts.len() < count {
            let more = self
                .wait("texts", |event| match event {
                    Event::Messages(batch) => {
                        let texts: Vec<_> = batch.messages.iter().filter_map(Received::read).collect();
                        (!texts.is_empty()).then_some(texts)
                    }
                    _ => None,
                })
                .await;
            texts.extend(more);
        }
        texts
    }

    /// The next message that `pick` takes.
    pub async fn message<T>(&mut self, pick: impl Fn(&wa::Message) -> Option<T>) -> T {
        self.wait("a message", |event| match event {
            Event::Messages(batch) => batch.messages.iter().find_map(|message| pick(&message.message)),
            _ => None,
        })
        .await
    }

    pub async fn receipt(&mut self, id: &str) -> Receipt {
        self.wait("a receipt", |event| match event {
            Event::Receipt(receipt) if receipt.message_ids.iter().any(|known| known == id) => Some(receipt.clone()),
            _ => None,
        })
        .await
    }

    /// The server's word on a message: `None` for an ack, the code for a refusal.
    pub async fn ack(&mut self, id: &str) -> Option<String> {
        self.wait("an ack", |event| match event {
            Event::ServerAck(ack) if ack.id == id && ack.class.as_deref() == Some("message") => Some(ack.error.clone()),
            _ => None,
        })
        .await
    }

    pub async fn say(&self, to: &str, text: &str) -> String {
        let to: Jid = if to.contains('@') { to.parse().unwrap() } else { Jid::pn(to) };
        let message = wa::Message { conversation: Some(text.to_owned()), ..Default::default() };
        let sent = tokio::time::timeout(LIMIT, self.client.send_message(to, message));
        sent.await.expect("the send hangs").unwrap().message_id
    }

    pub async fn say_with_id(&self, to: &str, text: &str, id: &str) {
        let message = wa::Message { conversation: Some(text.to_owned()), ..Default::default() };
        let options = SendOptions::default().with_message_id(id);
        let sent = self.client.send_message_with_options(Jid::pn(to), message, options);
        tokio::time::timeout(LIMIT, sent).await.expect("the send hangs").unwrap();
    }

    /// Goes offline and hands back its keys.
    pub async fn leave(mut self) -> Arc<InMemoryBackend> {
        if let Some(handle) = self.handle.take() {
            handle.shutdown().await;
        }
        self.backend.clone()
    }
}

/// A text that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub id: String,
    pub text: String,
    pub sender: String,
    pub chat: String,
    pub from_me: bool,
}

impl Received {
    fn read(message: &InboundMessage) -> Option<Self> {
        let content = &message.message;
        let text = content
            .conversation
            .clone()
            .or_else(|| content.extended_text_message.as_option().and_then(|extended| extended.text.clone()));
        let sent = content.device_sent_message.as_option();
        let sent = sent.and_then(|sent| sent.message.as_option()?.conversation.clone());
        Some(Self {
            id: message.info.id.clone(),
            text: text.or(sent)?,
            sender: message.info.source.sender.to_non_ad_string(),
            chat: message.info.source.chat.to_non_ad_string(),
            from_me: message.info.source.is_from_me,
        })
    }
}

struct Forward(Arc<ChannelEventHandler>);

impl whatsapp_rust::wacore::types::events::EventHandler for Forward {
    fn handle_event(&self, event: Arc<Event>) {
        self.0.handle_event(event);
    }
}

/// No test here may reach for the network.
struct NoHttp;

#[async_trait]
impl HttpClient for NoHttp {
    async fn execute(&self, request: HttpRequest) -> whatsapp_rust::anyhow::Result<HttpResponse> {
        Err(whatsapp_rust::anyhow::anyhow!("no HTTP here: {}", request.url))
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let search = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, search).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}
