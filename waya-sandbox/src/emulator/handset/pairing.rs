//! Linking a client that waits: the handset signs it in, the client countersigns.

use std::time::Duration;

use bytes::Bytes;
use whatsapp_rust::buffa::Message;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeContent};
use whatsapp_rust::waproto::whatsapp as wa;

use super::adv::SignedIdentity;
use super::waiting::{TakesHistory, Waiting};
use crate::emulator::state::account::MAX_LINKED_DEVICES;
use crate::emulator::state::record::{Change, DeviceKey, DeviceRecord};
use crate::emulator::wire::Outgoing;
use crate::emulator::{Emulator, ScanError, ScannedDevice, ensure_account, relay};

/// How long a client may take to countersign.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Makes the client a linked device of this phone; the secret is the one it showed or agreed on.
pub(super) async fn link(
    emulator: &Emulator,
    waiting: &Waiting,
    phone: &str,
    adv_secret: &[u8],
) -> Result<ScannedDevice, ScanError> {
    let offer = offer(emulator, waiting, phone, adv_secret)?;
    let id = format!("link-{}-{}", waiting.connection.id, offer.device);
    let answer = waiting.connection.request(&id, &offer.stanza(&id));
    let answer = tokio::time::timeout(ANSWER_LIMIT, answer)
        .await
        .map_err(|_| ScanError::Unfinished)?
        .map_err(|_| ScanError::Unfinished)?;
    let identity = device_identity(&answer)?;
    let identity = offer
        .identity
        .countersigned(identity, &waiting.registration.identity)
        .ok_or_else(|| ScanError::Refused("its signature does not fit".to_owned()))?;
    keep(emulator, waiting, phone, &offer, identity)?;
    emulator.pairings().forget(&waiting.connection);
    waiting.connection.send_node(&NodeBuilder::new("stream:error").attr("code", "515").build());
    waiting.connection.tell(Outgoing::Close);
    Ok(ScannedDevice {
        phone: phone.to_owned(),
        device: offer.device,
        jid: offer.jid.to_string(),
        lid: offer.lid.to_string(),
    })
}

/// What the client is offered.
struct Offer {
    device: u16,
    jid: Jid,
    lid: Jid,
    identity: SignedIdentity,
    sealed: Vec<u8>,
    lid_migrated: bool,
    at: i64,
}

fn offer(emulator: &Emulator, waiting: &Waiting, phone: &str, adv_secret: &[u8]) -> Result<Offer, ScanError> {
    let failed = |error: &dyn std::fmt::Display| ScanError::Refused(error.to_string());
    let mut state = emulator.state();
    let known_name = state.accounts.get(phone).map(|account| account.record.name.clone());
    let name = known_name.filter(|name| !name.is_empty()).unwrap_or_else(|| waiting.push_name.clone());
    ensure_account(&mut state, phone, &name).map_err(|error| failed(&error))?;
    let account = state.accounts.get(phone).ok_or(ScanError::UnknownCode)?;
    if account.devices.len() >= MAX_LINKED_DEVICES {
        return Err(ScanError::Full);
    }
    let mut record = account.record.clone();
    record.last_device += 1;
    let device = u16::try_from(record.last_device).map_err(|_| ScanError::Full)?;
    let identity = SignedIdentity::new(account, u32::from(device), &waiting.registration.identity, state.now())
        .ok_or_else(|| failed(&"the handset could not sign"))?;
    let sealed = identity.sealed(adv_secret).ok_or_else(|| failed(&"the handset could not seal"))?;
    let (jid, lid) = (Jid::pn_device(phone, device), Jid::lid_device(record.lid.as_str(), device));
    state.commit(Change::Account(record)).map_err(|error| failed(&error))?;
    let lid_migrated = !emulator.config().pn_only;
    Ok(Offer { device, jid, lid, identity, sealed, lid_migrated, at: state.now() })
}

impl Offer {
    fn stanza(&self, id: &str) -> Node {
        let props = wa::ClientPairingProps { is_chat_db_lid_migrated: Some(self.lid_migrated), ..Default::default() };
        let device = NodeBuilder::new("device").attr("jid", &self.jid).attr("lid", &self.lid).build();
        let success = NodeBuilder::new("pair-success").children([
            NodeBuilder::new("device-identity").bytes(self.sealed.clone()).build(),
            NodeBuilder::new("platform").attr("name", "android").build(),
            device,
            NodeBuilder::new("client-props").bytes(props.encode_to_vec()).build(),
        ]);
        NodeBuilder::new("iq")
            .attr("from", "s.whatsapp.net")
            .attr("type", "set")
            .attr("id", id)
            .attr("xmlns", "md")
            .attr("t", self.at)
            .children([success.build()])
            .build()
    }
}

fn device_identity(answer: &Node) -> Result<&[u8], ScanError> {
    let identity = answer.get_optional_child_by_tag(&["pair-device-sign", "device-identity"]);
    if let Some(NodeContent::Bytes(bytes)) = identity.and_then(|node| node.content.as_ref()) {
        return Ok(bytes);
    }
    let why = answer
        .get_optional_child("error")
        .and_then(|error| error.attrs.get("text"))
        .map_or_else(|| "no reason given".to_owned(), |text| text.as_str().into_owned());
    Err(ScanError::Refused(why))
}

fn keep(
    emulator: &Emulator,
    waiting: &Waiting,
    phone: &str,
    offer: &Offer,
    identity: Vec<u8>,
) -> Result<(), ScanError> {
    let registration = &waiting.registration;
    let record = DeviceRecord {
        key: DeviceKey { phone: phone.to_owned(), device: u32::from(offer.device) },
        key_index: u32::from(offer.device),
        noise_public: Bytes::copy_from_slice(&waiting.noise_public),
        identity_public: Bytes::copy_from_slice(&registration.identity),
        registration_id: registration.id,
        signed_pre_key_id: registration.signed_pre_key_id,
        signed_pre_key_public: Bytes::copy_from_slice(&registration.signed_pre_key),
        signed_pre_key_signature: Bytes::copy_from_slice(&registration.signed_pre_key_signature),
        device_identity: identity.into(),
        wants_history: registration.history.is_some(),
        history_in_files: registration.history == Some(TakesHistory::InFiles),
    };
    relay::devices::link(&mut emulator.state(), record).map_err(|error| ScanError::Refused(error.to_string()))
}
