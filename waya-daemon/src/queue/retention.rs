//! Removes what retention does not keep: looks every so often, goes in bounded steps, holds nobody up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::media::Media;
use crate::settings::Snapshot;
use crate::store::{Store, StoreError};

/// The start of the daemon has better things to do.
const FIRST_LOOK: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_mins(10);
/// Files are looked at less often: they go by the day.
const SWEEP_EVERY: Duration = Duration::from_hours(1);
/// Between two steps others get their turn at the store.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// Looks until `shutdown`.
pub(super) async fn run(
    store: Store,
    media: Media,
    settings: watch::Receiver<Snapshot>,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    let look = async {
        tokio::time::sleep(FIRST_LOOK).await;
        let mut swept: Option<Instant> = None;
        loop {
            let pause = match step(&store, &settings, &*clock).await {
                Ok(0) => {
                    if swept.is_none_or(|at| at.elapsed() >= SWEEP_EVERY) {
                        swept = Some(Instant::now());
                        sweep(&store, &media, &settings).await;
                    }
                    LOOK_EVERY
                }
                Ok(removed) => {
                    tracing::debug!(removed, "old rows removed");
                    STEP_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, "old rows are not removed");
                    LOOK_EVERY
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = look => {}
    }
}

async fn sweep(store: &Store, media: &Media, settings: &watch::Receiver<Snapshot>) {
    let keep = settings.borrow().keep_media;
    // Without knowing what is in use nothing may go.
    let swept = match store.outbox.files_in_use().await {
        Ok(in_use) => media.sweep(in_use, keep).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match swept {
        Ok(0) => {}
        Ok(removed) => tracing::debug!(removed, "old files removed"),
        Err(error) => tracing::warn!(error, "old files are not removed"),
    }
}

async fn step(store: &Store, settings: &watch::Receiver<Snapshot>, clock: &dyn Clock) -> Result<usize, StoreError> {
    let keep = settings.borrow().keep();
    let messages = store.outbox.prune(keep, clock.now()).await?;
    let events = store.journal.prune_events(keep, clock.now()).await?;
    Ok(messages + events)
}
