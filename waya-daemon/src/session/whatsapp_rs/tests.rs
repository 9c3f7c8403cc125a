//! The session without a server: addresses, start and stop, and why there is no connection.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::clock::SystemClock;
use crate::model::{Content, Incoming, LinkState, PairingMethod, WhatsAppId};
use crate::session::{Outgoing, SendError, SessionError};

#[derive(Debug)]
struct NoInbox;

#[async_trait]
impl Inbox for NoInbox {
    async fn commit(&self, _: Vec<Incoming>) -> anyhow::Result<()> {
        anyhow::bail!("nothing was to come in")
    }
}

fn config_at(folder: &Path, url: Option<&str>) -> SessionConfig {
    SessionConfig {
        data_dir: folder.to_owned(),
        url: url.map(str::to_owned),
        version: Some(version::DEFAULT),
        sandbox: true,
        ..SessionConfig::default()
    }
}

async fn open_at(folder: &Path, url: Option<&str>) -> Result<Arc<dyn WhatsApp>, OpenError> {
    open(config_at(folder, url), Arc::new(NoInbox), mpsc::unbounded_channel().0, Arc::new(SystemClock)).await
}

/// Why a pairing at `url` has no connection.
async fn reason_at(url: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let session = open_at(folder.path(), Some(url)).await.unwrap();
    session.pair(PairingMethod::Qr).await.unwrap();
    let mut link = session.link();
    let offline = link.wait_for(|link| matches!(link.state, LinkState::Offline { retry_at: Some(_), .. }));
    let state = tokio::time::timeout(Duration::from_secs(20), offline).await.unwrap().unwrap().state.clone();
    session.shutdown().await;
    let LinkState::Offline { reason, .. } = state else { unreachable!() };
    reason.0
}

#[tokio::test]
async fn without_keys_it_waits_to_be_asked() {
    let folder = tempfile::tempdir().unwrap();
    let session = open_at(folder.path(), Some("ws://127.0.0.1:9/ws/chat")).await.unwrap();
    assert_eq!(session.link().borrow().state, LinkState::Unpaired);
    assert_eq!(session.link().borrow().me, None);
    assert_eq!(session.reconnect().await, Err(SessionError::NotLinked));
    assert_eq!(session.logout().await, Err(SessionError::NotLinked));
    assert!(!session.probe().await);
    let outgoing = Outgoing {
        whatsapp_id: WhatsAppId("A".to_owned()),
        chat: crate::model::ChatId::phone("6281200000002"),
        text: "Halo".to_owned(),
        content: Content::default(),
        uploaded: None,
        preview: None,
    };
    assert_eq!(session.send(outgoing).await, Err(SendError::Offline));
    assert_eq!(session.registered(&["6281200000002".to_owned()]).await, Err(SendError::Offline));
    session.shutdown().await;
}

#[tokio::test]
async fn what_is_no_address_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["", "web.whatsapp.com", "https://127.0.0.1/ws", "ws://"] {
        let refused = open_at(folder.path(), Some(url)).await;
        assert!(matches!(refused, Err(OpenError::BadUrl { .. })), "{url:?}");
    }
}

/// Names and other machines are refused by a build without the certificate check, and by no other.
#[tokio::test]
async fn a_build_without_the_certificate_check_refuses_the_real_whatsapp() {
    for url in [None, Some("wss://web.whatsapp.com/ws/chat"), Some("ws://localhost:9/ws"), Some("ws://10.0.0.1/ws")] {
        let folder = tempfile::tempdir().unwrap();
        match open_at(folder.path(), url).await {
            Err(OpenError::Forbidden(_)) if cfg!(feature = "sandbox") => {
                assert!(!folder.path().join("whatsapp.db").exists(), "refused before anything was made");
            }
            Ok(session) if cfg!(not(feature = "sandbox")) => session.shutdown().await,
            other => panic!("{url:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_build_without_the_certificate_check_takes_no_proxy_elsewhere() {
    for proxy in ["http://192.0.2.1:8080", "socks5://localhost:1080", "socks5h://proxy.invalid:1080"] {
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::parse(proxy).unwrap();
        let config = SessionConfig { proxy: Some(proxy), ..config_at(folder.path(), Some("ws://127.0.0.1:9/ws/chat")) };
        match open(config, Arc::new(NoInbox), mpsc::unbounded_channel().0, Arc::new(SystemClock)).await {
            Err(OpenError::Forbidden(_)) if cfg!(feature = "sandbox") => {
                assert!(!folder.path().join("whatsapp.db").exists(), "refused before anything was made");
            }
            Ok(session) if cfg!(not(feature = "sandbox")) => session.shutdown().await,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_dead_port_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let reason = reason_at(&format!("ws://127.0.0.1:{port}/ws/chat")).await;
    assert!(reason.contains(&format!("127.0.0.1:{port}")) && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_server_that_is_no_whatsapp_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws/chat", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let reason = reason_at(&url).await;
    assert!(reason.contains("refused the connection") && reason.contains("404"), "{reason}");
}

/// The version is fixed when a client is built, and the keys remember the newest one.
#[tokio::test]
async fn a_newer_version_is_claimed_by_the_next_client_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let newer = (2, 3000, version::DEFAULT.2 + 7);
    let driver = driver_at(folder.path());
    let first = driver.client().await.unwrap();
    assert!(Arc::ptr_eq(&first, &driver.client().await.unwrap()));

    driver.context.learn_version(newer);
    let second = driver.client().await.unwrap();
    assert!(first.shutdown_signal().is_fired() && !Arc::ptr_eq(&first, &second));
    // What a connection does first.
    let command = whatsapp_rust::wacore::store::commands::DeviceCommand::SetAppVersion(newer);
    second.persistence_manager().process_command(command).await;
    supervisor::Driver::close(&driver).await;

    let driver = driver_at(folder.path());
    driver.client().await.unwrap();
    assert_eq!(driver.context.version(), newer);
}

pub fn driver_at(folder: &Path) -> driver::WaDriver {
    let config = SessionConfig { data_dir: folder.to_owned(), sandbox: true, ..SessionConfig::default() };
    let out = context::Outlets {
        inbox: Arc::new(NoInbox),
        events: mpsc::unbounded_channel().0,
        inputs: mpsc::unbounded_channel().0,
        clock: Arc::new(SystemClock),
    };
    let url = Url::parse("ws://127.0.0.1:9/ws/chat").unwrap();
    driver::WaDriver::new(Arc::new(context::Context::new(config, url, guard::Guard::probe(), out).unwrap()))
}
