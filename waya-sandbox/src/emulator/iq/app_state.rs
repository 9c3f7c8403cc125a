//! App state: what the devices of an account share, in collections that are changed by patches.
//!
//! Every collection asked for is named in the answer, else a freshly paired client never becomes connected. A patch
//! names the version it is based on; who was overtaken is told `409`, asks for the patches it lacks, and tries again.

use bytes::Bytes;
use whatsapp_rust::buffa::Message as _;
use whatsapp_rust::wacore::download::MediaType;
use whatsapp_rust::wacore::upload::encrypt_media;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeRef};
use whatsapp_rust::waproto::whatsapp as wa;

use super::{Answer, Request};
use crate::emulator::Emulator;
use crate::emulator::media;
use crate::emulator::relay::{queue_for, text_attr};
use crate::emulator::state::app_state::{COLLECTIONS, Collection};
use crate::emulator::state::record::{AppStatePatchRecord, Change};

/// Patches in one answer; there may be more.
const PAGE: usize = 50;

pub(super) fn answer(request: &Request<'_>) -> Answer {
    let asked = request.child("sync").and_then(NodeRef::children).unwrap_or_default();
    let collections = asked.iter().filter_map(|asked| {
        let name = text_attr(asked, "name")?;
        let version = text_attr(asked, "version").and_then(|version| version.parse().ok()).unwrap_or(0);
        if !COLLECTIONS.contains(&name.as_str()) {
            return Some(failed(&name, 0, 400, "bad-request"));
        }
        if let Some(patch) = asked.get_optional_child("patch") {
            return Some(take(request, &name, version, patch.content_bytes().unwrap_or_default()));
        }
        let whole = text_attr(asked, "return_snapshot").as_deref() == Some("true");
        Some(show(request, &name, version, whole))
    });
    Answer::With(NodeBuilder::new("sync").children(collections).build())
}

fn collection(name: &str, version: u64) -> NodeBuilder {
    NodeBuilder::new("collection").attr("name", name).attr("version", version)
}

fn failed(name: &str, version: u64, code: u16, text: &'static str) -> Node {
    let error = NodeBuilder::new("error").attr("code", code).attr("text", text).build();
    collection(name, version).attr("type", "error").children([error]).build()
}

/// A device changes something.
fn take(request: &Request<'_>, name: &str, based_on: u64, patch: &[u8]) -> Node {
    let mut state = request.session.emulator.state();
    let Some(account) = state.accounts.get(request.phone) else { return failed(name, 0, 404, "item-not-found") };
    let current = account.app_state.get(name).map_or(0, |known| known.version);
    if based_on != current {
        return failed(name, current, 409, "conflict");
    }
    let version = current + 1;
    let Ok(patch) = Collection::stamped(patch, version) else { return failed(name, current, 400, "bad-request") };
    let others = account.devices.keys().filter(|device| **device != request.device);
    let others = others.map(|device| account.key(*device)).collect();
    let record = AppStatePatchRecord { phone: request.phone.to_owned(), collection: name.to_owned(), version, patch };
    if state.commit(Change::AppStatePatch(record)).is_err() {
        return failed(name, current, 500, "internal-server-error");
    }
    queue_for(&mut state, others, "notification", &changed(request, name, version));
    collection(name, version).build()
}

/// Tells the other devices that there is something to ask for.
fn changed(request: &Request<'_>, name: &str, version: u64) -> Node {
    NodeBuilder::new("notification")
        .attr("from", Jid::pn(request.phone))
        .attr("type", "server_sync")
        .attr("id", format!("sync-{:016x}", rand::random::<u64>()))
        .attr("t", request.now())
        .children([collection(name, version).build()])
        .build()
}

/// What a device lacks: patches, or everything where they do not go back far enough.
fn show(request: &Request<'_>, name: &str, version: u64, whole: bool) -> Node {
    let emulator = &request.session.emulator;
    let known = emulator.state().accounts.get(request.phone).and_then(|account| account.app_state.get(name).cloned());
    let Some(known) = known else { return collection(name, 0).build() };
    let patches: Option<Vec<&Bytes>> = known.since(version).map(Iterator::collect);
    let Some(patches) = patches else {
        return if whole || version == 0 {
            snapshot(emulator, name, &known)
        } else {
            failed(name, known.version, 400, "bad-request")
        };
    };
    let reached = known.version - patches.len().saturating_sub(PAGE) as u64;
    let shown = collection(name, reached).attr("has_more_patches", (reached < known.version).to_string());
    let patches = patches.into_iter().take(PAGE).map(|patch| NodeBuilder::new("patch").bytes(patch.to_vec()).build());
    shown.children([NodeBuilder::new("patches").children(patches).build()]).build()
}

/// The records as a file on the media servers, and the key to it.
fn snapshot(emulator: &Emulator, name: &str, known: &Collection) -> Node {
    let unavailable = || failed(name, known.version, 500, "internal-server-error");
    let Ok(sealed) = encrypt_media(&known.snapshot(), MediaType::AppState) else { return unavailable() };
    let direct_path = match media::keep(emulator, sealed.file_enc_sha256, &sealed.data_to_upload) {
        Ok(direct_path) => direct_path,
        Err(error) => {
            tracing::warn!(%error, "cannot keep a snapshot of the app state");
            return unavailable();
        }
    };
    let reference = wa::ExternalBlobReference {
        media_key: Some(sealed.media_key.to_vec()),
        direct_path: Some(direct_path),
        file_size_bytes: Some(sealed.data_to_upload.len() as u64),
        file_sha256: Some(sealed.file_sha256.to_vec()),
        file_enc_sha256: Some(sealed.file_enc_sha256.to_vec()),
        ..Default::default()
    };
    let reference = NodeBuilder::new("snapshot").bytes(reference.encode_to_vec()).build();
    collection(name, known.version).attr("has_more_patches", "false").children([reference]).build()
}
