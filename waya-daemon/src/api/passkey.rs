//! The passkey that WhatsApp may ask for while it links an account: handing its answer in, and confirming the code.

use super::session::Login;
use super::{Api, ApiError};
use crate::model::{LinkState, PasskeyStep};
use crate::session::SessionError;
use crate::session::passkey::{BadAnswer, PasskeyAnswer};

impl Api {
    /// Hands in the passkey's answer (WebAuthn's `PublicKeyCredential` as JSON) to what WhatsApp asks for; the linking
    /// goes on and is told. A refused answer changes nothing: another one can follow.
    ///
    /// # Errors
    /// Nothing is asked for, the answer is wrong or does not fit the request, or WhatsApp does not take it.
    pub async fn answer_passkey(&self, answer: &str) -> Result<Login, ApiError> {
        let (login, step) = self.passkey_step();
        let Some(PasskeyStep::Asked { request, .. }) = step else {
            return Err(SessionError::NoPasskeyAsked.into());
        };
        let answer = PasskeyAnswer::read(answer, &request)?;
        self.0.whatsapp.answer_passkey(answer).await?;
        Ok(login)
    }

    /// Confirms that the code shown here is the one the phone shows; the linking goes on and is told.
    ///
    /// # Errors
    /// No code is shown, it is another one, or WhatsApp refuses.
    pub async fn confirm_passkey(&self, code: &str) -> Result<Login, ApiError> {
        let (login, step) = self.passkey_step();
        let Some(PasskeyStep::Compare { code: shown }) = step else {
            return Err(SessionError::NoCodeToConfirm.into());
        };
        if bare(code) != bare(&shown) {
            let problem = "is not the code that is shown; confirm only what the phone shows as well";
            return Err(ApiError::field_error("code", problem));
        }
        self.0.whatsapp.confirm_passkey().await?;
        Ok(login)
    }

    /// How far the passkey has come, and what tells of everything that follows.
    fn passkey_step(&self) -> (Login, Option<PasskeyStep>) {
        let mut link = self.0.whatsapp.link();
        let step = match &link.borrow_and_update().state {
            LinkState::PasskeyRequired { step } => Some(step.clone()),
            _ => None,
        };
        (Login::following(self.clone(), link), step)
    }
}

/// However it is spelt: `ABCD-EFGH`, `abcd efgh`.
fn bare(code: &str) -> String {
    code.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| c.to_ascii_uppercase()).collect()
}

impl From<BadAnswer> for ApiError {
    fn from(bad: BadAnswer) -> Self {
        match bad {
            BadAnswer::Field { field, problem } => Self::field_error(field, problem),
            BadAnswer::TooLarge(_) => Self::TooLarge(bad.to_string()),
            BadAnswer::NotJson(problem) => Self::field_error("assertion", format!("is no JSON object: {problem}")),
        }
    }
}
