//! Clients that wait to be paired, each with the registration it brought.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::oneshot;
use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore::libsignal::protocol::PublicKey;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::waproto::whatsapp as wa;

use super::passkey::PasskeyRequest;
use crate::emulator::wire::{ConnectionHandle, Outgoing};
use crate::emulator::{Emulator, ScanError, lock};

/// References offered at once; a client shows the first for 60 s and the others for 20 s each.
const REFERENCES: usize = 6;

/// A client that shows codes.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(super) connection: ConnectionHandle,
    pub(super) noise_public: [u8; 32],
    pub(super) push_name: String,
    pub(super) registration: Registration,
    pub(super) code: Mutex<Option<CodeRequest>>,
    pub(super) passkey: Mutex<Option<PasskeyRequest>>,
}

/// The keys a client registers with.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) id: u32,
    pub(super) identity: [u8; 32],
    pub(super) signed_pre_key_id: u32,
    pub(super) signed_pre_key: [u8; 32],
    pub(super) signed_pre_key_signature: [u8; 64],
    /// How it takes history, if it wants any.
    pub(super) history: Option<TakesHistory>,
}

/// How a client takes history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakesHistory {
    /// Inside messages, as far as it is small.
    Inside,
    /// In files on the media servers.
    InFiles,
}

/// A client's request to be paired by code.
#[derive(Debug)]
pub(super) struct CodeRequest {
    pub(super) phone: String,
    pub(super) wrapped_ephemeral: Vec<u8>,
    pub(super) reference: Vec<u8>,
    /// Who waits for the client's key bundle.
    pub(super) finish: Option<oneshot::Sender<CodeFinish>>,
}

/// The client's half of a pairing by code.
#[derive(Debug)]
pub(super) struct CodeFinish {
    pub(super) wrapped_bundle: Vec<u8>,
    pub(super) identity: Vec<u8>,
}

/// All clients that wait.
#[derive(Debug, Default)]
pub(crate) struct Pairings {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_connection: HashMap<u64, Arc<Waiting>>,
    by_reference: HashMap<String, u64>,
}

impl Pairings {
    fn add(&self, waiting: Waiting, references: &[String]) {
        let mut inner = lock::mutex(&self.inner);
        let id = waiting.connection.id;
        inner.by_reference.extend(references.iter().map(|reference| (reference.clone(), id)));
        inner.by_connection.insert(id, Arc::new(waiting));
    }

    pub(crate) fn forget(&self, connection: &ConnectionHandle) {
        let mut inner = lock::mutex(&self.inner);
        if inner.by_connection.remove(&connection.id).is_some() {
            inner.by_reference.retain(|_, id| *id != connection.id);
        }
    }

    pub(super) fn by_qr(&self, qr: &Qr) -> Option<Arc<Waiting>> {
        let inner = lock::mutex(&self.inner);
        let waiting = inner.by_connection.get(inner.by_reference.get(&qr.reference)?)?;
        let fits = waiting.noise_public == qr.noise && waiting.registration.identity == qr.identity;
        fits.then(|| waiting.clone())
    }

    pub(super) fn by_connection(&self, connection: &ConnectionHandle) -> Option<Arc<Waiting>> {
        lock::mutex(&self.inner).by_connection.get(&connection.id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Waiting>> {
        lock::mutex(&self.inner).by_connection.values().cloned().collect()
    }

    /// The client that most recently asked for a code for this phone.
    pub(super) fn by_phone(&self, phone: &str) -> Option<Arc<Waiting>> {
        let asked =
            |waiting: &&Arc<Waiting>| lock::mutex(&waiting.code).as_ref().is_some_and(|code| code.phone == phone);
        let inner = lock::mutex(&self.inner);
        inner.by_connection.values().filter(asked).max_by_key(|waiting| waiting.connection.id).cloned()
    }
}

/// What a pairing QR says.
pub(super) struct Qr {
    reference: String,
    noise: [u8; 32],
    identity: [u8; 32],
    pub(super) adv_secret: [u8; 32],
}

impl Qr {
    pub(super) fn parse(text: &str) -> Result<Self, ScanError> {
        let text = text.trim();
        let body = text.rsplit_once('#').map_or(text, |(_, body)| body);
        let mut fields = body.split(',');
        let reference = fields.next().unwrap_or_default();
        let mut key = |name: &str| {
            fields
                .next()
                .and_then(|field| STANDARD.decode(field).ok())
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
                .ok_or_else(|| ScanError::NotAQr(format!("its {name} is no 32-byte key")))
        };
        let (noise, identity, adv_secret) = (key("noise key")?, key("identity key")?, key("pairing secret")?);
        Ok(Self { reference: reference.to_owned(), noise, identity, adv_secret })
    }
}

/// Offers pairing codes to a client that brought its registration; `None` if that is no good.
pub(crate) fn offer_pairing(
    emulator: &Emulator,
    connection: &ConnectionHandle,
    noise_public: [u8; 32],
    payload: &wa::ClientPayload,
) -> Option<()> {
    let Some(registration) = registration(payload) else {
        tracing::debug!("a client came without a usable registration");
        connection.send_node(&NodeBuilder::new("failure").attr("reason", 400).build());
        connection.tell(Outgoing::Close);
        return None;
    };
    let references: Vec<_> =
        (0..REFERENCES).map(|_| format!("2@{}", STANDARD.encode(rand::random::<[u8; 32]>()))).collect();
    let waiting = Waiting {
        connection: connection.clone(),
        noise_public,
        push_name: payload.push_name.clone().unwrap_or_default(),
        registration,
        code: Mutex::new(None),
        passkey: Mutex::new(None),
    };
    emulator.pairings().add(waiting, &references);
    let children =
        references.into_iter().map(|reference| NodeBuilder::new("ref").bytes(reference.into_bytes()).build());
    let offer = NodeBuilder::new("iq")
        .attr("from", "s.whatsapp.net")
        .attr("type", "set")
        .attr("id", format!("pair-{}", connection.id))
        .attr("xmlns", "md")
        .children([NodeBuilder::new("pair-device").children(children).build()])
        .build();
    connection.send_node(&offer).then_some(())
}

fn registration(payload: &wa::ClientPayload) -> Option<Registration> {
    let data = payload.device_pairing_data.as_option()?;
    let identity: [u8; 32] = data.e_ident.as_deref()?.try_into().ok()?;
    let signed_pre_key: [u8; 32] = data.e_skey_val.as_deref()?.try_into().ok()?;
    let signature: [u8; 64] = data.e_skey_sig.as_deref()?.try_into().ok()?;
    let signed = PublicKey::from_djb_public_key_bytes(&signed_pre_key).ok()?.serialize();
    let good = PublicKey::from_djb_public_key_bytes(&identity).ok()?.verify_signature(&signed, &signature);
    good.then_some(())?;
    Some(Registration {
        id: big_endian(data.e_regid.as_deref()?),
        identity,
        signed_pre_key_id: big_endian(data.e_skey_id.as_deref()?),
        signed_pre_key,
        signed_pre_key_signature: signature,
        history: takes_history(data.device_props.as_deref().unwrap_or_default()),
    })
}

/// What a client says of itself tells how it takes history. Who says nothing, or has no room for any, gets none.
fn takes_history(device_props: &[u8]) -> Option<TakesHistory> {
    let props = wa::DeviceProps::decode_from_slice(device_props).ok().filter(|_| !device_props.is_empty())?;
    let config = props.history_sync_config.into_option().unwrap_or_default();
    (config.storage_quota_mb != Some(0)).then_some(())?;
    let inside = config.inline_initial_payload_in_e2_ee_msg.unwrap_or_default();
    Some(if inside { TakesHistory::Inside } else { TakesHistory::InFiles })
}

/// A number of up to four bytes.
pub(crate) fn big_endian(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use whatsapp_rust::buffa::MessageField;

    use super::*;

    #[test]
    fn a_client_takes_history_as_it_says() {
        let said = |config: Option<wa::device_props::HistorySyncConfig>| {
            let config = config.map_or_else(MessageField::none, MessageField::some);
            let props = wa::DeviceProps { os: Some("x".to_owned()), history_sync_config: config, ..Default::default() };
            takes_history(&props.encode_to_vec())
        };
        let config = |inside, room| wa::device_props::HistorySyncConfig {
            inline_initial_payload_in_e2_ee_msg: inside,
            storage_quota_mb: room,
            ..Default::default()
        };
        assert_eq!(said(None), Some(TakesHistory::InFiles));
        assert_eq!(said(Some(config(Some(true), None))), Some(TakesHistory::Inside));
        assert_eq!(said(Some(config(Some(false), Some(100)))), Some(TakesHistory::InFiles));
        assert_eq!(said(Some(config(Some(true), Some(0)))), None);
        assert_eq!((takes_history(b""), takes_history(b"\xff")), (None, None));
    }

    #[test]
    fn a_qr_is_read_with_and_without_its_link() {
        let key = STANDARD.encode([7; 32]);
        for text in [
            format!("2@abc,{key},{key},{key},1"),
            format!("https://wa.me/settings/linked_devices#2@abc,{key},{key},{key},1"),
        ] {
            let qr = Qr::parse(&text).unwrap();
            assert_eq!((qr.reference.as_str(), qr.adv_secret), ("2@abc", [7; 32]));
        }
        for text in ["", "2@abc", "2@abc,x,y,z", &format!("2@abc,{key},{key}")] {
            assert!(matches!(Qr::parse(text), Err(ScanError::NotAQr(_))), "{text:?}");
        }
    }
}
