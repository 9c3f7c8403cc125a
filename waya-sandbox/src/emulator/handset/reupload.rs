//! A device asks the handset for a file whose address has ended: the handset uploads it again and tells the new one.
//!
//! ```text
//! device  → <receipt type="server-error" to=own id><encrypt/><rmr jid from_me [participant]/></receipt>
//! handset → <notification type="mediaretry" from=own id><rmr …/>(<encrypt/> or <error code/>)</notification>
//! ```
//!
//! Both `<encrypt>` are sealed by a key that is derived from that of the file. A handset that is switched off answers
//! when it is on again. Nothing is ever deleted on the media servers here, so that uploading again is signing a new address.

use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore::crypto::hkdf_sha256_into;
use whatsapp_rust::wacore::download::Downloadable;
use whatsapp_rust::wacore::libsignal::crypto::aes_256_gcm_encrypt;
use whatsapp_rust::wacore::media_retry::decrypt_media_retry_notification;
use whatsapp_rust::wacore::proto_helpers::MessageExt as _;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::media_retry_notification::ResultType;

use super::opening;
use crate::emulator::Emulator;
use crate::emulator::media::address_again;
use crate::emulator::relay::{canonical, jid_attr, queue_for, wait_for_handset};
use crate::emulator::state::{Account, State};

/// What the key of both messages is derived for.
const KEY_FOR: &[u8] = b"WhatsApp Media Retry Notification";

/// Why a file is not uploaded again: `code` of `<error>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The message is not on the handset, or its file is gone.
    NotFound = 2,
    /// The handset cannot read what was asked.
    Undecryptable = 3,
}

/// Answers a device that asks for the file of message `id` again, as soon as the handset is switched on.
pub(crate) fn upload_again(
    emulator: &Emulator,
    state: &mut State,
    (phone, device): (&str, u16),
    receipt: &NodeRef<'_>,
    id: &str,
) -> Option<()> {
    // A device that cannot load its history has no such child: that is not handed over a second time.
    let asked = receipt.get_optional_child("rmr")?;
    if !state.accounts.get(phone)?.record.handset_online {
        return wait_for_handset(state, (phone, device), receipt);
    }
    let account = state.accounts.get(phone)?;
    let answer = match uploaded(emulator, state, account, receipt, id) {
        Ok(sealed) => sealed,
        Err(refusal) => NodeBuilder::new("error").attr("code", refusal as u8).build(),
    };
    let told = NodeBuilder::new("notification")
        .attr("from", Jid::pn(phone))
        .attr("type", "mediaretry")
        .attr("id", id)
        .attr("t", state.now())
        .children([asked.to_owned(), answer])
        .build();
    let key = account.key(device);
    queue_for(state, vec![key], "notification", &told)
}

/// The sealed new address of a message's file.
fn uploaded(
    emulator: &Emulator,
    state: &State,
    account: &Account,
    receipt: &NodeRef<'_>,
    id: &str,
) -> Result<Node, Refusal> {
    let asked = receipt.get_optional_child("rmr").ok_or(Refusal::NotFound)?;
    let chat = canonical(state, &jid_attr(asked, "jid").ok_or(Refusal::NotFound)?);
    let own = asked.get_attr("from_me").is_some_and(|own| own == "true");
    let letters = state.letters.get(account.phone()).ok_or(Refusal::NotFound)?;
    let by = |sender: &str| (sender == account.phone()) == own;
    let letter = letters.find(&chat, id, by).ok_or(Refusal::NotFound)?;
    let message = opening::open(account, letters, letter).ok_or(Refusal::Undecryptable)?;
    let file = file(message.get_base_message()).ok_or(Refusal::NotFound)?;
    let media_key = file.media_key().ok_or(Refusal::NotFound)?;
    check(receipt, media_key, id).ok_or(Refusal::Undecryptable)?;
    let direct_path = file.file_enc_sha256().and_then(|hash| address_again(emulator, hash)).ok_or(Refusal::NotFound)?;
    seal(media_key, id, direct_path).ok_or(Refusal::Undecryptable)
}

/// Whether the asker knows the key of the file.
fn check(receipt: &NodeRef<'_>, media_key: &[u8], id: &str) -> Option<()> {
    let sealed = receipt.get_optional_child("encrypt")?;
    let part = |tag| sealed.get_optional_child(tag)?.content_bytes();
    let opened = decrypt_media_retry_notification(media_key, id, part("enc_iv")?, part("enc_p")?).ok()?;
    let asked = wa::ServerErrorReceipt::decode_from_slice(&opened).ok()?;
    (asked.stanza_id.as_deref() == Some(id)).then_some(())
}

fn seal(media_key: &[u8], id: &str, direct_path: String) -> Option<Node> {
    let told = wa::MediaRetryNotification {
        stanza_id: Some(id.to_owned()),
        direct_path: Some(direct_path),
        result: Some(ResultType::SUCCESS),
        ..Default::default()
    };
    let (mut key, iv, mut sealed) = ([0; 32], rand::random::<[u8; 12]>(), Vec::new());
    hkdf_sha256_into(media_key, None, KEY_FOR, &mut key).ok()?;
    aes_256_gcm_encrypt(&key, &iv, id.as_bytes(), &told.encode_to_vec(), &mut sealed).ok()?;
    let part = |tag, bytes: Vec<u8>| NodeBuilder::new(tag).bytes(bytes).build();
    Some(NodeBuilder::new("encrypt").children([part("enc_p", sealed), part("enc_iv", iv.to_vec())]).build())
}

/// The file of a message, if it has one.
fn file(message: &wa::Message) -> Option<&dyn Downloadable> {
    fn part<T: Downloadable>(part: Option<&T>) -> Option<&dyn Downloadable> {
        Some(part?)
    }
    part(message.image_message.as_option())
        .or_else(|| part(message.video_message.as_option()))
        .or_else(|| part(message.ptv_message.as_option()))
        .or_else(|| part(message.audio_message.as_option()))
        .or_else(|| part(message.document_message.as_option()))
        .or_else(|| part(message.sticker_message.as_option()))
}
