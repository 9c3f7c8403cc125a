//! The part of the link-state machine that speaks of the passkey which WhatsApp may ask for while it links an account.
//!
//! ```text
//!  pairing ──asked──▶ asked ──answered──▶ answered ──code──▶ compare ──confirmed──▶ answered ──linked──▶ connecting
//!                       └──────────────────┴── failed, ended, too late ──┴──▶ over
//! ```
//!
//! Up to `over` the connection stays: the answer is of use on it alone. `over` rests until somebody asks to pair anew,
//! for a new request needs the phone again, and whoever was to answer should read why it came to nothing.

use super::words::PasskeyInput;
use super::{Machine, PAIRING_LASTS};
use crate::model::{LinkState, PasskeyStep, Timestamp};

impl Machine {
    /// How far an answer has come that may still be of use.
    const fn open_step(&self) -> Option<&PasskeyStep> {
        match &self.link {
            LinkState::PasskeyRequired { step } if step.is_open() && self.pairing.is_some() => Some(step),
            _ => None,
        }
    }

    /// WhatsApp waits for a passkey, or we wait for what comes of it.
    pub(super) const fn is_passkey_open(&self) -> bool {
        self.open_step().is_some()
    }

    /// What is not in its place speaks of an attempt that is over.
    pub(super) fn passkey(&mut self, input: PasskeyInput, now: Timestamp) {
        let next = match (input, self.open_step()) {
            (PasskeyInput::Asked { request, expires_at }, _) => {
                // Whoever fetches the passkey gets as long as whoever fetches the phone.
                let Some(pairing) = &mut self.pairing else { return };
                pairing.until = now.plus(PAIRING_LASTS);
                PasskeyStep::Asked { request, expires_at }
            }
            (PasskeyInput::Answered, Some(PasskeyStep::Asked { .. }))
            | (PasskeyInput::Confirmed, Some(PasskeyStep::Compare { .. })) => PasskeyStep::Answered,
            // It may overtake the word that the answer was taken.
            (PasskeyInput::Code(code), Some(_)) => PasskeyStep::Compare { code },
            _ => return,
        };
        self.link = LinkState::PasskeyRequired { step: next };
    }

    /// It came to nothing.
    pub(super) fn passkey_over(&mut self, reason: String) {
        self.pairing = None;
        self.link = LinkState::PasskeyRequired { step: PasskeyStep::Over { reason } };
    }
}
