//! Keeps a line running for each webhook that is enabled, and for no other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Parts;
use super::line::{Line, Wires};
use crate::model::{Webhook, WebhookId};
use crate::store::webhooks::StandingWebhook;

/// Lines that ended by themselves are begun anew this often.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// What is asked of the lines.
#[derive(Debug)]
pub(super) enum Command {
    /// The rows were changed: the lines become as they say.
    Look,
    /// Parked notices of this one wait again.
    Reload(WebhookId),
    /// This one's line is to end, until the next look; told when it has.
    End(WebhookId, oneshot::Sender<()>),
}

struct Running {
    webhook: watch::Sender<Webhook>,
    reload: Arc<Notify>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All lines of one account.
pub(super) struct Lines {
    parts: Arc<Parts>,
    running: HashMap<WebhookId, Running>,
    /// These have no line for the moment: somebody works on their rows.
    held: HashSet<WebhookId>,
}

impl Lines {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        Self { parts, running: HashMap::new(), held: HashSet::new() }
    }

    /// Until `shutdown`; then the lines end, all at once.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>, shutdown: CancellationToken) {
        loop {
            let looked = tokio::select! {
                looked = self.look() => looked,
                () = shutdown.cancelled() => break,
            };
            tokio::select! {
                Some(command) = commands.recv() => self.obey(command).await,
                () = tokio::time::sleep(LOOK_EVERY), if !looked || !self.running.is_empty() || !self.held.is_empty() => {
                    self.held.clear();
                }
                () = shutdown.cancelled() => break,
            }
        }
        // Whoever comes now gets no answer, which is one too.
        commands.close();
        for running in self.running.values() {
            running.stop.cancel();
        }
        for (_, running) in self.running {
            let _ = running.task.await;
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Look => self.held.clear(),
            Command::Reload(id) => {
                if let Some(running) = self.running.get(&id) {
                    running.reload.notify_one();
                }
            }
            Command::End(id, ended) => {
                self.end(&id).await;
                self.held.insert(id);
                let _ = ended.send(());
            }
        }
    }

    async fn end(&mut self, id: &WebhookId) {
        if let Some(running) = self.running.remove(id) {
            running.stop.cancel();
            let _ = running.task.await;
        }
    }

    /// Compares what runs with the rows; `false` when they cannot be read.
    async fn look(&mut self) -> bool {
        let all = match self.parts.store.webhooks.all().await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "the webhooks cannot be read");
                return false;
            }
        };
        let wanted: HashMap<WebhookId, StandingWebhook> = all
            .into_iter()
            .filter(|standing| standing.webhook.enabled && !self.held.contains(&standing.webhook.id))
            .map(|standing| (standing.webhook.id.clone(), standing))
            .collect();
        let over = |(id, running): &(&WebhookId, &Running)| !wanted.contains_key(id) || running.task.is_finished();
        let over: Vec<WebhookId> = self.running.iter().filter(over).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.end(&id).await;
        }
        for (id, standing) in wanted {
            match self.running.get(&id) {
                Some(running) => drop(running.webhook.send_if_modified(|webhook| {
                    let changed = *webhook != standing.webhook;
                    *webhook = standing.webhook;
                    changed
                })),
                None => drop(self.running.insert(id, self.begin(standing))),
            }
        }
        true
    }

    fn begin(&self, standing: StandingWebhook) -> Running {
        let StandingWebhook { webhook, place } = standing;
        let (webhook, watched) = watch::channel(webhook);
        let (reload, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let wires = Wires { webhook: watched, reload: Arc::clone(&reload), stop: stop.clone() };
        let line = Line::new(Arc::clone(&self.parts), wires, place);
        Running { webhook, reload, stop, task: tokio::spawn(line.run()) }
    }
}
