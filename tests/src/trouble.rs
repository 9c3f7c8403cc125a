//! What goes wrong in a world, and what it leaves behind.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{OWN_PHONE, World, until};

impl World {
    /// Switches a fault on for somebody, once.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn fault_once(&self, kind: &str, arguments: &[&str], target: &str) -> Result<()> {
        self.plays("/fault", json!({"kind": kind, "args": arguments, "target": target, "times": 1})).await
    }

    /// Has the emulator do something.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn plays(&self, path: &str, body: Value) -> Result<()> {
        let (status, answer) = self.admin.post(path, &body).await?;
        ensure!(status.is_success(), "{path} {body}: {answer}");
        Ok(())
    }

    /// Has a message accepted and handed over; its recipient confirmed it, and neither that nor an ack comes back. The
    /// faults that see to this stay on.
    ///
    /// # Errors
    /// When it does not get that far.
    pub async fn under_way(&self, number: &str, text: &str) -> Result<String> {
        self.fault("ack-delay", &["60000"]).await?;
        // A receipt tells as well as an ack that the server took it.
        self.fault("no-receipts", &[]).await?;
        let id = self.accept(number, text).await?;
        until("the emulator has it", || async {
            let (_, stats) = self.admin.get("/stats").await?;
            ensure!(stats["senders"][OWN_PHONE]["in_flight"] == 1 && stats["queued"] == 0, "{stats}");
            Ok(())
        })
        .await?;
        Ok(id)
    }

    /// How often the emulator was handed an id by the own account.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn handed_over(&self, id: &str) -> Result<u64> {
        let (_, stats) = self.admin.get("/stats").await?;
        Ok(stats["senders"][OWN_PHONE]["repeated_ids"][id].as_u64().unwrap_or(1))
    }

    /// What somebody has of these words: ids and copies.
    ///
    /// # Errors
    /// When the inbox cannot be asked.
    pub async fn rows(&self, who: &str, text: &str) -> Result<Vec<(String, u64)>> {
        let rows = self.inbox(who).await?.into_iter().filter(|row| row["text"] == text);
        rows.map(|row| Some((row["id"].as_str()?.to_owned(), row["copies"].as_u64()?)))
            .collect::<Option<_>>()
            .context("rows")
    }

    /// Every state that the link has been in, in order.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn link_states(&self) -> Result<Vec<String>> {
        let events = self.events("link").await?;
        Ok(events.iter().filter_map(|event| event["state"].as_str()).map(str::to_owned).collect())
    }

    /// What the journal has of a kind, among its first thousand events.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn events(&self, kind: &str) -> Result<Vec<Value>> {
        let (_, page) = self.api.get("/api/events?after=0&limit=1000").await?;
        let events = page["events"].as_array().with_context(|| page.to_string())?;
        Ok(events.iter().filter(|event| event["type"] == kind).map(|event| event[kind].clone()).collect())
    }

    /// The first group, and its members without the own account.
    ///
    /// # Errors
    /// When there is none.
    pub async fn group(&self) -> Result<(String, Vec<String>)> {
        let (_, people) = self.admin.get("/people").await?;
        let group = &people["groups"][0];
        let id = group["id"].as_str().context("no group")?.to_owned();
        let members = group["members"].as_array().context("no members")?.iter().filter_map(Value::as_str);
        Ok((id, members.filter(|member| *member != OWN_PHONE).map(str::to_owned).collect()))
    }
}
