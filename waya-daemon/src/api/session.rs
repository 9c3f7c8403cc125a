//! The link to WhatsApp, and the daemon as a whole.

use tokio::sync::watch;

use super::view::{KnownView, LogoutView, SessionView, StatusView};
use super::{Api, ApiError};
use crate::model::{Kind, LinkState, PairingMethod, Timestamp};
use crate::session::{Link, SessionError, Unlinked};

/// What the daemon tells of itself.
#[derive(Debug, Clone)]
pub struct DaemonInfo {
    /// The version.
    pub version: &'static str,
    /// The profile's name.
    pub profile: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Where HTTP is served; none when it is off.
    pub http: Option<String>,
    /// Whether its messages reach real people.
    pub kind: Kind,
}

impl Api {
    /// The link as it stands.
    #[must_use]
    pub fn session(&self) -> SessionView {
        SessionView::from(&*self.0.whatsapp.link().borrow())
    }

    /// The daemon as a whole.
    ///
    /// # Errors
    /// The store.
    pub async fn status(&self) -> Result<StatusView, ApiError> {
        let info = &self.0.info;
        Ok(StatusView {
            session: self.session(),
            queue: self.queue_summary().await?,
            last_traffic_at: self.0.whatsapp.last_traffic(),
            version: info.version,
            profile: info.profile.clone(),
            started_at: info.started_at,
            http: info.http.clone(),
            kind: info.kind.as_str(),
            store_ready: self.ready().is_ok(),
            known: KnownView { people: self.0.store.contacts.count().await?, chats: self.0.store.chats.count().await? },
        })
    }

    /// Whether the store accepts work, whatever the link.
    ///
    /// # Errors
    /// It does not.
    pub fn ready(&self) -> Result<(), ApiError> {
        Ok(self.0.store.outbox.accepts()?)
    }

    /// Starts linking an account, or takes back a connection that another client took over.
    ///
    /// # Errors
    /// [`SessionError::AlreadyLinked`], or why WhatsApp cannot be asked.
    pub async fn login(&self, method: PairingMethod) -> Result<Login, ApiError> {
        let mut link = self.0.whatsapp.link();
        let (connected, takes_back) = {
            let now = link.borrow_and_update();
            let takes_back = match now.state {
                LinkState::Replaced => true,
                LinkState::Unpaired | LinkState::LoggedOut { .. } => false,
                _ => now.me.is_some(),
            };
            (now.state.is_connected(), takes_back)
        };
        if connected {
            return Err(SessionError::AlreadyLinked.into());
        }
        if takes_back {
            self.0.whatsapp.reconnect().await?;
        } else {
            self.0.whatsapp.pair(method).await?;
        }
        Ok(Login { api: self.clone(), link, told: None })
    }

    /// Unlinks the account and deletes its keys.
    ///
    /// # Errors
    /// Nothing is linked, or the session could not be ended.
    pub async fn logout(&self) -> Result<LogoutView, ApiError> {
        let unlinked = self.0.whatsapp.logout().await?;
        Ok(LogoutView { session: self.session(), still_listed: unlinked == Unlinked::HereOnly })
    }
}

/// A linking under way: what to show, one after the other.
#[derive(Debug)]
pub struct Login {
    api: Api,
    link: watch::Receiver<Link>,
    told: Option<Told>,
}

/// What was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// More will come.
    Progress,
    /// How it ended.
    End,
}

impl Login {
    /// Tells only what comes after what `link` has shown so far.
    pub(super) const fn following(api: Api, link: watch::Receiver<Link>) -> Self {
        Self { api, link, told: Some(Told::Progress) }
    }

    /// What to show next; `None` after it was told how it ended: `connected`, or a state that only the user can leave
    /// (`unpaired` means that nobody scanned the code in time). A passkey that is asked for is no end as long as it can
    /// be answered. Ends early when the daemon stops.
    pub async fn next(&mut self) -> Option<SessionView> {
        if self.told == Some(Told::End) {
            return None;
        }
        loop {
            let changed = self.link.has_changed().unwrap_or(false);
            let (ends, view) = {
                let link = self.link.borrow_and_update();
                (ends(&link.state), SessionView::from(&*link))
            };
            // What stood there before the linking began says nothing about it.
            let stale = !changed && (ends || self.told.is_some());
            if !stale {
                self.told = Some(if ends { Told::End } else { Told::Progress });
                return Some(view);
            }
            tokio::select! {
                changed = self.link.changed() => changed.ok()?,
                () = self.api.0.shutdown.cancelled() => return None,
            }
            self.link.mark_changed();
        }
    }
}

/// Nothing more comes of the linking by itself.
fn ends(state: &LinkState) -> bool {
    match state {
        LinkState::Connected | LinkState::Banned { .. } => true,
        LinkState::Pairing { .. } | LinkState::Connecting | LinkState::Offline { .. } => false,
        // Here the user has something to do, and then more comes.
        LinkState::PasskeyRequired { step } => !step.is_open(),
        state => state.needs_the_user(),
    }
}
