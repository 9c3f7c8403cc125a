//! Proxies and servers that say what a test has them say, and remember what they were told; names that are where a test
//! has them.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
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
        Self::start_at("127.0.0.1:0".parse().unwrap(), answers, then).await
    }

    /// The same, at an address of one's own choice.
    pub async fn start_at(address: SocketAddr, answers: &[&[u8]], then: Then) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
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

    /// Whether nobody has come so far. Somebody comes now: connections are taken in their order.
    pub async fn saw_nobody(&self) -> bool {
        let before = self.told.lock().unwrap().len();
        let mut knock = TcpStream::connect(self.address).await.unwrap();
        knock.write_all(b"knock").await.unwrap();
        while !self.told().iter().any(|told| told.as_slice() == b"knock") {
            tokio::task::yield_now().await;
        }
        before == 0 && self.told().len() == 1
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

/// Where names are, as a test says; nothing is asked of anybody.
#[derive(Debug, Default)]
pub struct Names {
    rows: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// Each name with one answer, which may hold several addresses between spaces.
    pub fn new(rows: &[(&str, &str)]) -> Arc<Self> {
        let names = Self::default();
        rows.iter().for_each(|(name, addresses)| names.then(name, addresses));
        Arc::new(names)
    }

    /// One more answer, for when all others were given; the last one stays.
    pub fn then(&self, name: &str, addresses: &str) {
        let addresses = addresses.split_whitespace().map(|address| address.parse().unwrap()).collect();
        self.rows.lock().unwrap().entry(name.to_owned()).or_default().push_back(addresses);
    }

    /// Every question so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl super::Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let mut rows = self.rows.lock().unwrap();
        let answers = rows.get_mut(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name"))?;
        if answers.len() > 1 { Ok(answers.pop_front().unwrap()) } else { Ok(answers[0].clone()) }
    }
}
