//! The passkey that WhatsApp may ask for while it links: from the library's events to the link's words, and the user's
//! answers back to the library. Woken by those two; it keeps nothing, and checks nothing that needs no connection.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use whatsapp_rust::Client;
use whatsapp_rust::passkey::{Assertion, PasskeyError, build_webauthn_assertion_json, parse_request_options};

use super::context::Context;
use super::driver::WaDriver;
use crate::session::SessionError;
use crate::session::passkey::PasskeyAnswer;
use crate::session::state::{Input, PasskeyInput};

/// How long WhatsApp may take over one step; the library would wait 75 s for each of its two answers.
const STEP_TAKES: Duration = Duration::from_secs(30);

/// WhatsApp asks; what that means for the link.
pub fn asked(context: &Context, request: &str) -> Input {
    context.progress.through();
    let parsed = match parse_request_options(request) {
        Ok(parsed) => parsed,
        Err(error) => {
            return Input::PairingFailed(format!(
                "WhatsApp asks for a passkey in a way that is not understood: {error}"
            ));
        }
    };
    context.passkey_asked.store(true, Ordering::Relaxed);
    let now = context.out.clock.now();
    let expires_at = parsed.timeout_ms.map(|lasts| now.plus(Duration::from_millis(lasts)));
    Input::Passkey(PasskeyInput::Asked { request: request.to_owned(), expires_at })
}

/// Hands the answer in.
pub async fn answer(driver: &WaDriver, answer: PasskeyAnswer) -> Result<(), SessionError> {
    let client = on_the_connection_that_asked(driver).ok_or(SessionError::NoPasskeyAsked)?;
    let assertion_json = build_webauthn_assertion_json(
        &answer.credential_id,
        &answer.client_data,
        &answer.authenticator_data,
        &answer.signature,
        answer.user_handle.as_deref(),
    );
    let assertion = Assertion { assertion_json, credential_id: answer.credential_id };
    in_time(client.send_passkey_response(assertion)).await?;
    driver.context.input(Input::Passkey(PasskeyInput::Answered));
    Ok(())
}

/// Tells that the codes are the same.
pub async fn confirm(driver: &WaDriver) -> Result<(), SessionError> {
    let client = on_the_connection_that_asked(driver).ok_or(SessionError::NoCodeToConfirm)?;
    confirm_on(&driver.context, &client).await
}

/// The same without asking anybody; must not hold up the event that it comes from.
pub fn confirm_by_itself(context: &Arc<Context>, client: &Weak<Client>) {
    let (context, client) = (Arc::clone(context), client.clone());
    tokio::spawn(async move {
        if let Some(client) = client.upgrade() {
            // Told as a failed pairing.
            let _ = confirm_on(&context, &client).await;
        }
    });
}

/// The library lets go of the attempt whether this works or not.
async fn confirm_on(context: &Context, client: &Client) -> Result<(), SessionError> {
    let done = in_time(client.send_passkey_confirmation()).await;
    context.input(match &done {
        Ok(()) => Input::Passkey(PasskeyInput::Confirmed),
        Err(error) => Input::PairingFailed(format!("the passkey could not be confirmed: {error}")),
    });
    done
}

fn on_the_connection_that_asked(driver: &WaDriver) -> Option<Arc<Client>> {
    let asked = driver.context.passkey_asked.load(Ordering::Relaxed);
    driver.current().filter(|client| asked && client.is_connected())
}

async fn in_time(step: impl Future<Output = Result<(), PasskeyError>>) -> Result<(), SessionError> {
    match tokio::time::timeout(STEP_TAKES, step).await {
        // The library says the same of every step that it goes through on the way.
        Ok(done) => {
            done.map_err(|error| SessionError::Refused(error.to_string().replace("passkey linking flow error: ", "")))
        }
        Err(_) => Err(SessionError::Refused("it did not answer in time".to_owned())),
    }
}
