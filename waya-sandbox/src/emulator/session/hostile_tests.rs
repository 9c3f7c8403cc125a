//! Stanzas that no client would send: whatever comes, the session answers or keeps silent, and goes on.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use whatsapp_rust::wacore::framing::FrameDecoder;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::marshal::unmarshal_ref;
use whatsapp_rust::wacore_binary::util::unpack_bytes;
use whatsapp_rust::wacore_binary::{Node, marshal};

use super::trial::{ANI, Trial, sessions};

/// Words the server looks for, so that chance gets past the first test.
const TAGS: &[&str] = &[
    "iq",
    "message",
    "receipt",
    "ack",
    "presence",
    "chatstate",
    "ib",
    "sync",
    "collection",
    "patch",
    "participants",
    "to",
    "enc",
    "list",
    "item",
    "key",
    "user",
    "usync",
    "query",
    "devices",
    "contact",
    "lid",
    "status",
    "create",
    "participant",
    "add",
    "remove",
    "promote",
    "demote",
    "leave",
    "group",
    "subject",
    "description",
    "body",
    "picture",
    "privacy",
    "category",
    "count",
    "digest",
    "rotate",
    "skey",
    "id",
    "value",
    "signature",
    "identity",
    "registration",
    "retry",
    "offline_batch",
    "invite",
    "membership_requests_action",
    "approve",
    "media_conn",
    "active",
    "tokens",
    "link_code_companion_reg",
    "remove-companion-device",
    "pair-device-sign",
    "device-identity",
    "composing",
    "error",
    "linked_parent",
    "parent",
    "links",
    "unlink",
    "join_linked_group",
    "query_linked",
    "sub_groups",
    "delete_parent",
    "accept",
    "messages",
    "live_updates",
    "plaintext",
    "rmr",
    "encrypt",
    "enc_p",
    "enc_iv",
    "announcement",
    "not_announcement",
    "locked",
    "unlocked",
    "ephemeral",
    "not_ephemeral",
    "member_add_mode",
    "membership_approval_mode",
    "group_join",
    "cancel_membership_requests",
    "membership_approval_requests",
    "participating",
    "passkey_request_options",
    "passkey_prologue",
    "prologue_payload",
    "credential_id",
    "webauthn_assertion",
    "companion_nonce",
    "encrypted_pairing_request",
    "ref",
    "pair-device",
    "link_code_pairing_ref",
    "token",
    "props",
];
const NAMES: &[&str] = &[
    "id",
    "type",
    "xmlns",
    "to",
    "from",
    "jid",
    "participant",
    "recipient",
    "name",
    "version",
    "return_snapshot",
    "count",
    "class",
    "t",
    "target",
    "action",
    "code",
    "category",
    "edit",
    "value",
    "addressing_mode",
    "sid",
    "mode",
    "stage",
    "prev",
    "delete",
    "expiration",
    "state",
    "phash",
    "subject",
    "query_id",
    "jid_type",
    "context",
];
const VALUES: &[&str] = &[
    "set",
    "get",
    "result",
    "error",
    "encrypt",
    "usync",
    "w:g2",
    "w:sync:app:state",
    "privacy",
    "blocklist",
    "status",
    "w:mex",
    "passive",
    "w:m",
    "w:profile:picture",
    "md",
    "abt",
    "s.whatsapp.net",
    "g.us",
    "6281200000001@s.whatsapp.net",
    "6281200000002@s.whatsapp.net",
    "6281200000002:1@s.whatsapp.net",
    "status@broadcast",
    "regular",
    "critical_block",
    "true",
    "-1",
    "0",
    "1",
    "18446744073709551616",
    "4294967296",
    "retry",
    "read",
    "peer",
    "server-error",
    "media",
    "message",
    "lid",
    "pn",
    "available",
    "unavailable",
    "subscribe",
    "unsubscribe",
    "read-self",
    "played",
    "played-self",
    "peer_msg",
    "hist_sync",
    "inactive",
    "sender",
    "on",
    "off",
    "86400",
    "all_member_add",
    "companion_hello",
    "companion_finish",
    "120363000000000001@g.us",
    "6281200000001:1@s.whatsapp.net",
    "preview",
    "block",
    "contacts",
    "120363400000000001@newsletter",
    "admin_add",
    "",
];

const NAMESPACES: &[&str] = &[
    "md",
    "w:p",
    "encrypt",
    "usync",
    "w:g2",
    "w:sync:app:state",
    "privacy",
    "blocklist",
    "status",
    "w:profile:picture",
    "w:mex",
    "passive",
    "abt",
    "w:m",
    "newsletter",
    "tokens",
    "urn:xmpp:whatsapp:dirty",
];

fn word(known: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![9 => proptest::sample::select(known).prop_map(str::to_owned), 1 => "[a-z:@.0-9\\-]{0,12}"]
}

fn node() -> impl Strategy<Value = Node> {
    let attributes = || vec((proptest::sample::select(NAMES), word(VALUES)), 0..6);
    let build = |tag: String, attributes: Vec<(&'static str, String)>| {
        attributes.into_iter().fold(NodeBuilder::new_dynamic(tag), |built, (name, value)| built.attr(name, value))
    };
    let leaf = (word(TAGS), attributes(), vec(any::<u8>(), 0..40))
        .prop_map(move |(tag, attributes, bytes)| build(tag, attributes).bytes(bytes).build());
    leaf.prop_recursive(4, 24, 5, move |inner| {
        (word(TAGS), attributes(), vec(inner, 0..5))
            .prop_map(move |(tag, attributes, children)| build(tag, attributes).children(children).build())
    })
}

/// A request that gets as far as its handler.
fn request() -> impl Strategy<Value = Node> {
    let namespace = proptest::sample::select(NAMESPACES);
    let kind = proptest::sample::select(&["get", "set"][..]);
    let to = proptest::sample::select(&["s.whatsapp.net", "g.us", "6281200000002@s.whatsapp.net"][..]);
    (namespace, kind, to, vec(node(), 0..3)).prop_map(|(namespace, kind, to, children)| {
        let request = NodeBuilder::new("iq").attr("id", "1").attr("xmlns", namespace).attr("type", kind);
        request.attr("to", to).children(children).build()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_stanza_brings_the_server_down(nodes in vec(prop_oneof![node(), request()], 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Trial { emulator, sessions, .. } = &sessions().await;
            for node in &nodes {
                // As it comes from the wire.
                let Ok(bytes) = marshal(node) else { continue };
                let Ok(node) = unmarshal_ref(&bytes[1..]) else { continue };
                for session in sessions {
                    session.handle(&node);
                }
            }
            for session in sessions {
                session.end();
            }
            assert_eq!(emulator.accounts().len(), 2, "nobody was to be made or lost");
            assert!(emulator.ensure_group("Another", &[ANI.to_owned()]).members.contains(&ANI.to_owned()));
        });
    }

    #[test]
    fn no_bytes_bring_the_decoders_down(pieces in vec(vec(any::<u8>(), 0..200), 0..20)) {
        let mut decoder = FrameDecoder::new();
        for piece in &pieces {
            decoder.feed(piece);
            while let Some(frame) = decoder.decode_frame() {
                if let Ok(plain) = unpack_bytes(frame) {
                    let _ = unmarshal_ref(&plain);
                }
            }
            if let Ok(plain) = unpack_bytes(BytesMut::from(&piece[..])) {
                let _ = unmarshal_ref(&plain);
            }
        }
    }
}
