//! Whether anything can be encrypted for a person. The library hands a message over also when the sender's own phone
//! is the only device it has keys for: the server acknowledges that, and nobody else ever gets it.

use whatsapp_rust::features::SignalError;
use whatsapp_rust::{Client, Jid};

use crate::session::SendError;

/// Sees to it that at least one device of `to` can be encrypted for; fetches keys only when there is none.
///
/// Where the server does not answer, the hand-over itself finds that out and says it better.
///
/// # Errors
/// [`SendError::Transient`] when the keys that the server gave out fit no device of that person.
pub(super) async fn at_hand(client: &Client, to: &Jid) -> Result<(), SendError> {
    match are_at_hand(client, to).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(SendError::Transient("WhatsApp gave no valid encryption keys for the recipient".to_owned())),
        Err(error) => {
            tracing::debug!(%error, "whether there are keys for the recipient cannot be found out");
            Ok(())
        }
    }
}

async fn are_at_hand(client: &Client, to: &Jid) -> Result<bool, SignalError> {
    let devices = client.signal().get_user_devices(std::slice::from_ref(to)).await?;
    // No device at all is for the hand-over to refuse.
    if devices.is_empty() || any(client, &devices).await? {
        return Ok(true);
    }
    client.signal().assert_sessions(&devices).await?;
    any(client, &devices).await
}

async fn any(client: &Client, devices: &[Jid]) -> Result<bool, SignalError> {
    for device in devices {
        if client.signal().validate_session(device).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
