//! One WhatsApp account: its store, settings, queue and session, built by one function.
//!
//! Nothing here is global, so that one process could hold several.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Payloads;
use crate::bus::Bus;
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::Seams;
use crate::deliver::{self, Deliver, HttpPoster, Patience};
use crate::dispatch::{self, JournalInbox};
use crate::intake;
use crate::media::{Limits, Media};
use crate::model::Kind;
use crate::net::Fetcher;
use crate::queue::{self, Queue};
use crate::session::WhatsApp;
use crate::session::whatsapp_rs::{self, SessionConfig};
use crate::settings::{Settings, Snapshot};
use crate::store::Store;
use crate::store::sled::{self, OpenOptions};

/// How long the connection may take to close.
const SESSION_CLOSES_WITHIN: Duration = Duration::from_secs(3);
/// So much of a stop is left for the session and what it tells, however long the queue takes.
const KEPT_FOR_THE_SESSION: Duration = Duration::from_secs(2);
/// How long the store may take to close.
const STORE_CLOSES_WITHIN: Duration = Duration::from_secs(1);
/// How long the last of what it told may take to be written.
const DISPATCH_ENDS_WITHIN: Duration = Duration::from_millis(500);

/// Everything that belongs to one account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) session: Arc<dyn WhatsApp>,
    pub(crate) queue: Queue,
    pub(crate) media: Media,
    pub(crate) deliver: Deliver,
    pub(crate) bus: Bus,
    store_handle: sled::Handle,
    stop: CancellationToken,
    tasks: TaskTracker,
    dispatch: (JoinHandle<()>, CancellationToken),
}

impl Account {
    /// Opens the account in `dir`; does not wait for the network.
    pub(crate) async fn open(config: &Config, seams: &Seams, dir: &Path) -> Result<Self> {
        let options = OpenOptions {
            cache_capacity: config.store_cache,
            free_space_watermark: config.store_min_free,
            ..OpenOptions::new(dir.join("store"))
        };
        let opened =
            tokio::task::spawn_blocking(move || sled::open(options)).await?.context("cannot open the store")?;
        let (store, store_handle) = (opened.store, opened.handle);
        let settings = Settings::load(Arc::clone(&store.values), config.pins.clone()).await?;
        let bus = Bus::default();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());

        let policy = part(&settings, &tasks, stop.clone(), |settings| settings.network.clone());
        let fetcher = Fetcher::new(policy, config.network_proxy.clone());

        let (told, events) = mpsc::unbounded_channel();
        let (queue_is, there_is) = watch::channel(None);
        let inbox = Arc::new(JournalInbox::new(Arc::clone(&store.journal), settings.watch(), there_is));
        let session = SessionConfig {
            presence_online: Some(part(&settings, &tasks, stop.clone(), |settings| settings.presence_online)),
            ..session_config(config, seams, dir)
        };
        let session = whatsapp_rs::open(session, inbox, told, Arc::clone(&seams.clock)).await?;
        let clock: Arc<dyn Clock> = Arc::clone(&seams.clock);
        let limits = part(&settings, &tasks, stop.clone(), media_limits);
        let media_dir = dir.join("media");
        let is_real = seams.kind != Kind::Sandbox;
        // Nothing leaves the machine of a sandbox by itself.
        let previews = part(&settings, &tasks, stop.clone(), move |settings| {
            settings.previews && (is_real || !settings.network.allow_hosts.is_empty())
        });
        let media = Media::open(&media_dir, limits, fetcher.clone(), previews)
            .with_context(|| format!("cannot use {}", media_dir.display()))?;
        let parts = queue::Parts {
            store: store.clone(),
            session: Arc::clone(&session),
            media: media.clone(),
            settings: settings.watch(),
            clock: Arc::clone(&clock),
            bus: bus.clone(),
        };
        let queue = Queue::start(parts, &tasks, stop.clone()).await?;
        let parts = intake::Parts {
            store: store.clone(),
            session: Arc::clone(&session),
            media: media.clone(),
            settings: settings.watch(),
            clock: Arc::clone(&clock),
        };
        intake::start(parts, &tasks, stop.clone()).await?;
        queue_is.send_replace(Some(queue.clone()));
        let (old_writers, stopped) = (dispatch::learn_old_writers(store.clone()), stop.clone());
        tasks.spawn(async move { stopped.run_until_cancelled(old_writers).await });
        let deliver = deliver::Setup {
            store: store.clone(),
            clock: Arc::clone(&clock),
            poster: Arc::new(HttpPoster(fetcher)),
            render: Arc::new(Payloads(store.clone())),
            link: session.link(),
            session_name: config.profile.clone(),
            patience: Patience::default(),
        };
        let deliver = Deliver::start(deliver, &tasks, stop.clone()).await?;
        let oldest_waiting = queue.clone();
        let watched = deliver::alerts::Watched {
            settings: settings.watch(),
            oldest_waiting: Arc::new(move || oldest_waiting.oldest_pending()),
        };
        tasks.spawn(deliver::alerts::run(deliver.clone(), watched, stop.clone()));
        // It does not stop with the queue: how the session ended is still to be told.
        let last_call = CancellationToken::new();
        let dispatch = dispatch::run(events, queue.clone(), store.clone(), bus.clone(), clock, last_call.clone());
        let dispatch = (tokio::spawn(dispatch), last_call);
        Ok(Self { store, settings, session, queue, media, deliver, bus, store_handle, stop, tasks, dispatch })
    }

    /// Lets what is on its way come to an end and closes the connection, by `deadline`; then closes the store.
    pub(crate) async fn close(self, deadline: Instant) {
        let Self { session, store_handle, stop, tasks, dispatch: (dispatch, last_call), .. } = self;
        stop.cancel();
        tasks.close();
        if tokio::time::timeout_at(deadline - KEPT_FOR_THE_SESSION, tasks.wait()).await.is_err() {
            tracing::warn!("the queue did not stop in time; what was on its way is put back at the next start");
        }
        let session_deadline = (Instant::now() + SESSION_CLOSES_WITHIN).min(deadline - DISPATCH_ENDS_WITHIN);
        if tokio::time::timeout_at(session_deadline, session.shutdown()).await.is_err() {
            tracing::warn!("the connection to WhatsApp did not close in time");
        }
        last_call.cancel();
        if tokio::time::timeout(DISPATCH_ENDS_WITHIN, dispatch).await.is_err() {
            tracing::warn!("the last words of the connection are not written down");
        }
        let closing = tokio::task::spawn_blocking(move || store_handle.close());
        match tokio::time::timeout(STORE_CLOSES_WITHIN, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the store did not close cleanly"),
            // All that was answered is on disk.
            Err(_) => tracing::warn!("the store did not close in time"),
        }
    }
}

fn session_config(config: &Config, seams: &Seams, dir: &Path) -> SessionConfig {
    SessionConfig {
        data_dir: dir.to_owned(),
        url: seams.whatsapp_url.clone(),
        proxy: config.network_proxy.clone(),
        version: config.whatsapp_version,
        sandbox: seams.kind == Kind::Sandbox,
        presence_online: None,
        push_name: seams.push_name.clone(),
    }
}

fn media_limits(settings: &Snapshot) -> Limits {
    Limits { media: settings.max_media, document: settings.max_document, download: settings.max_download }
}

/// One part of the settings, as it changes.
fn part<T: PartialEq + Send + Sync + 'static>(
    settings: &Settings,
    tasks: &TaskTracker,
    stop: CancellationToken,
    of: impl Fn(&Snapshot) -> T + Send + 'static,
) -> watch::Receiver<T> {
    let mut settings = settings.watch();
    let (part, watched) = watch::channel(of(&settings.borrow_and_update()));
    tasks.spawn(async move {
        loop {
            tokio::select! {
                changed = settings.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            let wanted = of(&settings.borrow_and_update());
            part.send_if_modified(|part| {
                let changed = *part != wanted;
                *part = wanted;
                changed
            });
        }
    });
    watched
}
