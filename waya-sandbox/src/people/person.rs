//! One simulated person: what the sandbox can ask of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use whatsapp_rust::download::Downloadable;
use whatsapp_rust::prelude::{Client, Jid, MessageExt, SendOptions, wa};
use whatsapp_rust::waproto::codec;

use super::PeopleError;
use super::acks::Acks;
use super::inbox::{Inbox, Received};
use super::keys::Keys;
use super::link::{Link, LinkState};
use super::reader::Reader;
use super::roster::Profile;
use super::speech::Speech;
use super::typing::{Typing, TypingSeen};
use super::who::Who;
use crate::emulator::Emulator;

/// How long a request waits for the person's connection to come (back) up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a person waits for the server's answer to a message on a standing connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long after a failed send the end of its connection shows.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A handle on one person; the connection itself lives in a task.
pub struct Person {
    who: Who,
    inbox: Arc<Inbox>,
    reader: Arc<Reader>,
    state: Arc<watch::Sender<LinkState>>,
    acks: Arc<Acks>,
    typing: Arc<TypingSeen>,
    wanted: watch::Sender<bool>,
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The message id.
    pub id: String,
    /// Whether the server's ack came.
    pub acknowledged: bool,
}

impl Person {
    /// Opens what is kept of the person in `folder` and returns the task that connects them.
    pub(super) fn open(
        profile: Profile,
        folder: Option<&Path>,
        emulator: &Emulator,
        shutdown: CancellationToken,
    ) -> Result<(Self, Link), PeopleError> {
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)
                .map_err(|source| PeopleError::Folder { path: folder.to_owned(), source })?;
        }
        let file = |name: &str| folder.map(|folder| folder.join(name));
        let inbox = Arc::new(Inbox::open(file("inbox.log").as_deref())?);
        let reader = Arc::new(Reader::new(inbox.clone(), emulator.clock().clone()));
        let state = Arc::new(watch::Sender::new(LinkState::Offline));
        let acks = Arc::new(Acks::default());
        let typing = Arc::new(TypingSeen::default());
        let wanted = watch::Sender::new(false);
        let who = Who::new(profile);
        let link = Link {
            who: who.clone(),
            emulator: emulator.clone(),
            keys: Keys::new(file("keys.db")),
            inbox: inbox.clone(),
            reader: reader.clone(),
            state: state.clone(),
            acks: acks.clone(),
            typing: typing.clone(),
            wanted: wanted.clone(),
            shutdown,
        };
        Ok((Self { who, inbox, reader, state, acks, typing, wanted }, link))
    }

    /// Name and number.
    pub fn profile(&self) -> Profile {
        self.who.profile()
    }

    /// They are called so from now on.
    pub(super) fn call(&self, name: &str) {
        self.who.rename(name);
    }

    /// What the person received.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Whom the person saw typing or recording since the process started, the newest last.
    pub fn typing(&self) -> Vec<Typing> {
        self.typing.all()
    }

    /// Whether the person is connected at this moment.
    pub fn is_online(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Online(_))
    }

    /// Comes online: pairs if need be, and returns once messages flow.
    pub async fn go_online(&self) -> Result<(), PeopleError> {
        self.wanted.send_replace(true);
        self.client().await.map(drop)
    }

    /// Goes offline and returns once the connection is closed; the server queues from then on.
    pub async fn go_offline(&self) -> Result<(), PeopleError> {
        self.wanted.send_replace(false);
        let mut state = self.state.subscribe();
        let offline = state.wait_for(|state| matches!(state, LinkState::Offline));
        timeout(CONNECT_TIMEOUT, offline).await.map(drop).map_err(|_| self.stuck())
    }

    /// Sends something and returns once the server has taken it. A connection that ends
    /// before that makes the person send it again under the same id. When the server stays silent
    /// on a standing connection, it counts as said after three seconds.
    pub async fn say(&self, to: Jid, speech: Speech) -> Result<Told, PeopleError> {
        let client = self.client().await?;
        let id = client.generate_message_id();
        let message = timeout(CONNECT_TIMEOUT, speech.message(&client)).await.map_err(|_| self.stuck())??;
        let said = timeout(CONNECT_TIMEOUT, async {
            loop {
                let client = self.client().await?;
                let mut state = self.state.subscribe();
                if !matches!(*state.borrow_and_update(), LinkState::Online(_)) {
                    continue;
                }
                tokio::select! {
                    _ = state.changed() => {}
                    sent = self.hand_over(&client, &to, &message, &id) => {
                        // A send that fails because the connection ends is often the first to know.
                        if sent.is_ok() || timeout(END_TIMEOUT, state.changed()).await.is_err() {
                            return sent;
                        }
                    }
                }
            }
        });
        let said = said.await.unwrap_or_else(|_| Err(self.stuck()));
        self.acks.forget(&id);
        said.map(|acknowledged| Told { id, acknowledged })
    }

    /// Returns whether the server's ack came.
    async fn hand_over(&self, client: &Client, to: &Jid, message: &wa::Message, id: &str) -> Result<bool, PeopleError> {
        let answer = self.acks.expect(id);
        let options = SendOptions::default().with_message_id(id);
        client
            .send_message_with_options(to.clone(), message.clone(), options)
            .await
            .map_err(|error| PeopleError::NotSent(error.to_string()))?;
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Err(code))) => Err(PeopleError::NotSent(format!("the server refused it with {code}"))),
            Ok(Ok(Ok(()))) => Ok(true),
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }

    /// Loads the file of a received message, as this person's client decrypts it.
    pub async fn load(&self, received: &Received) -> Result<Vec<u8>, PeopleError> {
        let failed = |problem: &str| PeopleError::NotLoaded(problem.to_owned());
        let named_by = received.content.media.as_ref().and_then(|media| media.named_by.as_ref());
        let named_by = named_by.ok_or_else(|| failed("the message has no file"))?;
        let encoded = STANDARD.decode(named_by).map_err(|error| failed(&error.to_string()))?;
        let message = codec::message_decode(&encoded).map_err(|error| failed(&error.to_string()))?;
        let base = message.get_base_message();
        let file: Option<&dyn Downloadable> = base.image_message.as_option().map(|file| file as _);
        let file = file
            .or_else(|| base.video_message.as_option().map(|file| file as _))
            .or_else(|| base.audio_message.as_option().map(|file| file as _))
            .or_else(|| base.document_message.as_option().map(|file| file as _))
            .or_else(|| base.sticker_message.as_option().map(|file| file as _))
            .ok_or_else(|| failed("the message has no file"))?;
        let client = self.client().await?;
        let loaded = timeout(CONNECT_TIMEOUT, client.download(file)).await.map_err(|_| self.stuck())?;
        loaded.map_err(|error| failed(&format!("{error:#}")))
    }

    /// Reads everything unread and returns how many messages that were; voice messages are played then, if wanted.
    pub async fn read(&self, play: bool) -> Result<usize, PeopleError> {
        let client = self.client().await?;
        let read = async {
            let read = self.reader.read(&client, false).await?;
            if play {
                self.reader.play(&client).await?;
            }
            Ok(read)
        };
        timeout(CONNECT_TIMEOUT, read).await.map_err(|_| self.stuck())?
    }

    /// Switches reading at once on or off; switched on, what is unread is read now if the person is
    /// online, else when they come back.
    pub async fn set_autoread(&self, on: bool) -> Result<(), PeopleError> {
        self.inbox.set_autoread(on)?;
        if on && *self.wanted.borrow() {
            self.read(false).await?;
        }
        Ok(())
    }

    /// The connected client, waited for while the person is meant to be online.
    async fn client(&self) -> Result<Arc<Client>, PeopleError> {
        let mut wanted = self.wanted.subscribe();
        let mut state = self.state.subscribe();
        let online = async {
            let state = state.wait_for(|state| matches!(state, LinkState::Online(_))).await;
            match state.as_deref() {
                Ok(LinkState::Online(client)) => Some(client.clone()),
                _ => None,
            }
        };
        let found = tokio::select! {
            biased;
            _ = wanted.wait_for(|on| !*on) => return Err(PeopleError::Offline(self.who.name())),
            found = timeout(CONNECT_TIMEOUT, online) => found,
        };
        found.ok().flatten().ok_or_else(|| self.stuck())
    }

    fn stuck(&self) -> PeopleError {
        PeopleError::Stuck(self.who.name())
    }
}
