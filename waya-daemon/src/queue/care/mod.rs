//! Care for the account: what holds messages that we start, beyond their turn.
//!
//! Owns the decisions about WhatsApp's refusal of messages to strangers (463), about limits by day and hour, about when
//! what waits will leave, and the list of people who want nothing more from us; all but that list are pure. The worker
//! wakes them and carries out what they say. They never touch answers.

pub mod day;
pub mod forecast;
pub mod limits;
pub mod linked;
pub mod lock;
pub mod marks;
pub mod opt_outs;
pub mod tally;

use std::sync::Arc;

use super::ledger::Ledger;
use super::policy::Attempt;
use crate::model::{Lane, Message};
use opt_outs::{OPTED_OUT, OptOuts};
use tally::Tally;

#[cfg(test)]
mod forecast_tests;
#[cfg(test)]
mod opt_out_tests;

/// What is looked at once more right before a message leaves.
#[derive(Debug, Clone)]
pub struct CareOnTheWay {
    /// Who wants nothing.
    pub opt_outs: OptOuts,
    /// The day's count.
    pub tally: Arc<Tally>,
}

impl CareOnTheWay {
    /// Whether it may leave: its recipient may have opted out since it was accepted, and what it answers may have been
    /// written before that.
    ///
    /// # Errors
    /// When it may not.
    pub async fn allows(&self, ledger: &Ledger, message: &Message) -> Result<(), Attempt> {
        let answers = message.content.answers;
        let is_automatic = message.lane == Lane::Reply && answers.is_none();
        if is_automatic || message.content.takes_back(&message.text) {
            return Ok(());
        }
        loop {
            match self.opt_outs.refuses(&message.chat, answers).await {
                Ok(false) => return Ok(()),
                Ok(true) => return Err(Attempt::Permanent(OPTED_OUT.to_owned())),
                Err(error) => ledger.wait(&error).await,
            }
        }
    }

    /// Returns once its count is safe.
    pub async fn counted(&self, ledger: &Ledger, message: &Message) {
        if message.lane != Lane::Reply {
            self.tally.secure(ledger).await;
        }
    }
}
