//! Since when the account is linked: a fresh one warms up.

use serde::{Deserialize, Serialize};

use super::marks;
use crate::model::Timestamp;
use crate::queue::ledger::Ledger;

/// Whose messages these are, and since when.
#[derive(Serialize, Deserialize)]
struct Linked {
    /// Phone digits; empty for an account that is gone.
    phone: String,
    at: Timestamp,
}

/// Since when this account is linked. One that is seen for the first time is linked since now, unless messages of
/// before this was written down say otherwise.
pub async fn since(ledger: &Ledger, phone: &str) -> Timestamp {
    let known: Option<Linked> = marks::read(ledger, marks::LINKED).await;
    if let Some(linked) = known.as_ref().filter(|linked| linked.phone == phone) {
        return linked.at;
    }
    let has_sent = known.is_none() && ledger.store.outbox.counts().await.is_ok_and(|counts| counts.sent > 0);
    let at = if has_sent { Timestamp::default() } else { ledger.clock.now() };
    marks::write(ledger, marks::LINKED, Some(&Linked { phone: phone.to_owned(), at })).await;
    at
}

/// The account is gone; whatever is linked next is fresh.
pub async fn forget(ledger: &Ledger) {
    let gone = Linked { phone: String::new(), at: Timestamp::default() };
    marks::write(ledger, marks::LINKED, Some(&gone)).await;
}
