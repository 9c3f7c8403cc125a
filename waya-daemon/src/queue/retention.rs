//! Removes what retention does not keep: looks every so often, goes in bounded steps, holds nobody up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::settings::Snapshot;
use crate::store::{Store, StoreError};

/// The start of the daemon has better things to do.
const FIRST_LOOK: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_mins(10);
/// Between two steps others get their turn at the store.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// Looks until `shutdown`.
pub(super) async fn run(
    store: Store,
    settings: watch::Receiver<Snapshot>,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    let look = async {
        tokio::time::sleep(FIRST_LOOK).await;
        loop {
            let pause = match step(&store, &settings, &*clock).await {
                Ok(0) => LOOK_EVERY,
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

async fn step(store: &Store, settings: &watch::Receiver<Snapshot>, clock: &dyn Clock) -> Result<usize, StoreError> {
    let keep = settings.borrow().keep();
    let messages = store.outbox.prune(keep, clock.now()).await?;
    let events = store.journal.prune_events(keep, clock.now()).await?;
    Ok(messages + events)
}
