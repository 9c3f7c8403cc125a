//! Proxies that say what a test has them say, and remember what they were told.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a connection after the last answer.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// It is closed.
    HangsUp,
    /// It stays, and nothing more is said.
    IsSilent,
    /// Bytes keep coming, forever, and never a line's end.
    Trickles,
}

/// Stopped when dropped.
#[derive(Debug)]
pub struct Scripted {
    pub address: SocketAddr,
    told: Arc<Mutex<Vec<Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    /// On every connection: reads something, gives the next of `answers`, and so on.
    pub async fn start(answers: &[&[u8]], then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers: Arc<[Vec<u8>]> = answers.iter().map(|answer| answer.to_vec()).collect();
        let told: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let heard = Arc::clone(&told);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                heard.lock().unwrap().push(Vec::new());
                let place = heard.lock().unwrap().len() - 1;
                tokio::spawn(play(stream, Arc::clone(&answers), then, Arc::clone(&heard), place));
            }
        });
        Self { address, told, task }
    }

    /// What each connection brought, before the last answer.
    pub fn told(&self) -> Vec<Vec<u8>> {
        self.told.lock().unwrap().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn play(
    mut stream: TcpStream,
    answers: Arc<[Vec<u8>]>,
    then: Then,
    told: Arc<Mutex<Vec<Vec<u8>>>>,
    place: usize,
) {
    for answer in answers.iter() {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap_or_default();
        told.lock().unwrap()[place].extend_from_slice(&piece[..count]);
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
    match then {
        Then::HangsUp => {}
        Then::IsSilent => std::future::pending().await,
        Then::Trickles => {
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}
