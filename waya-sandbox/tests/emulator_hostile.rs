//! What no client would do, over a real socket: whoever does it is turned away in time, and nobody else feels it.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use futures_util::future::join_all;
use support::raw::{GREETING, Raw, key_pair, login, noise_key};
use support::{Person, World, until};
use waya_sandbox::emulator::EmulatorConfig;
use whatsapp_rust::buffa::{Message as _, MessageField};
use whatsapp_rust::wacore::libsignal::protocol::KeyPair;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, marshal};
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::client_payload::DevicePairingRegistrationData;
use whatsapp_rust::waproto::whatsapp::handshake_message::{ClientFinish, ClientHello};

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

/// Somebody who does nothing wrong, and the keys of a device that may do so.
struct Scene {
    world: World,
    budi: Person,
    keys: KeyPair,
}

impl Scene {
    async fn start() -> Self {
        let limit = Duration::from_secs(2);
        let world = World::with(EmulatorConfig { handshake_limit: limit, ..support::config() }).await;
        let keys = noise_key(world.link(ANI, "Ani").await.leave().await).await;
        let budi = world.link(BUDI, "Budi").await;
        Self { world, budi, keys }
    }

    async fn open(&self) -> Raw {
        Raw::open(self.world.emulator.address()).await
    }

    /// Ani's device, logged in and live.
    async fn ani(&self) -> Raw {
        let mut ani = Raw::log_in(self.world.emulator.address(), &self.keys, &login(ANI, 1)).await;
        assert_eq!(ani.node().await.unwrap().tag, "success");
        ani
    }

    /// The others go on.
    async fn goes_on(&self, what: &str) {
        let asked = self.budi.client.contacts();
        let answer = tokio::time::timeout(support::LIMIT, asked.is_on_whatsapp(&[Jid::pn(ANI)])).await;
        assert!(answer.unwrap_or_else(|_| panic!("{what} hangs the server")).unwrap()[0].is_registered);
    }
}

fn hello(ephemeral: &[u8]) -> Vec<u8> {
    let hello = ClientHello { ephemeral: Some(ephemeral.to_vec()), ..Default::default() };
    wa::HandshakeMessage { client_hello: MessageField::some(hello), ..Default::default() }.encode_to_vec()
}

fn finish(public: &[u8], payload: &[u8]) -> Vec<u8> {
    let finish =
        ClientFinish { r#static: Some(public.to_vec()), payload: Some(payload.to_vec()), ..Default::default() };
    wa::HandshakeMessage { client_finish: MessageField::some(finish), ..Default::default() }.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_fumbles_the_handshake_is_turned_away_in_time() {
    let scene = Scene::start().await;
    let good = hello(key_pair().public_key.public_key_bytes());
    let first: [(&str, Vec<u8>); 9] = [
        ("no greeting", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a greeting and garbage", [GREETING, &[0, 0, 5], b"\xff\xff\xff\xff\xff"].concat()),
        ("an empty frame", [GREETING, &[0, 0, 0]].concat()),
        ("a finish for a hello", [GREETING, &framed(&finish(&[7; 48], &[7; 48]))].concat()),
        ("a hello without a key", [GREETING, &framed(&hello(&[]))].concat()),
        ("a key that is too short", [GREETING, &framed(&hello(&[9; 31]))].concat()),
        ("a frame of which nothing comes", [GREETING, &[0xff, 0xff, 0xff]].concat()),
        ("a routing block of which nothing comes", b"ED\x00\x01\xff\xff\xff".to_vec()),
        ("nothing", Vec::new()),
    ];
    // Side by side, for some of them are waited for.
    let turned_away = first.iter().map(|(what, bytes)| {
        let scene = &scene;
        async move {
            let mut raw = scene.open().await;
            if !bytes.is_empty() {
                assert!(raw.send(bytes).await);
            }
            assert!(raw.ended().await, "{what}");
        }
    });
    join_all(turned_away).await;
    let second: [(&str, Vec<u8>); 5] = [
        ("a second hello", good),
        ("garbage for a finish", vec![0xff; 40]),
        ("a finish that does not open", finish(&[7; 48], &[7; 48])),
        ("a finish that is too short", finish(&[7; 3], &[])),
        ("no finish", Vec::new()),
    ];
    let turned_away = second.iter().map(|(what, bytes)| {
        let scene = &scene;
        async move {
            let mut raw = scene.open().await;
            raw.say_hello().await;
            if !bytes.is_empty() {
                assert!(raw.send_plain(b"", bytes).await);
            }
            assert!(raw.ended().await, "{what}");
        }
    });
    join_all(turned_away).await;
    scene.goes_on("a bad handshake").await;
}

fn framed(payload: &[u8]) -> Vec<u8> {
    whatsapp_rust::wacore::framing::encode_frame(payload, None).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_limit_is_not_waited_for_and_text_is_overheard() {
    let scene = Scene::start().await;
    let mut raw = scene.open().await;
    // A masked binary message of 100 MiB, of which nothing comes.
    let length = (100_u64 << 20).to_be_bytes();
    raw.send_under(&[&[0x82, 0xff], &length[..], &[1, 2, 3, 4]].concat()).await;
    let begun = Instant::now();
    assert!(raw.ended().await);
    assert!(begun.elapsed() < Duration::from_secs(2), "it is not the handshake that took too long");
    let mut raw = scene.open().await;
    assert!(raw.send_text("WA?").await);
    raw.shake_hands(&scene.keys, &login(ANI, 1)).await;
    assert_eq!(raw.node().await.unwrap().tag, "success");
    scene.goes_on("a large message").await;
}

async fn refusal(scene: &Scene, keys: &KeyPair, payload: &wa::ClientPayload) -> String {
    let mut raw = Raw::log_in(scene.world.emulator.address(), keys, payload).await;
    let failure = raw.until("failure").await.expect("no reason was given");
    assert!(raw.ended().await);
    failure.attrs.get("reason").unwrap().as_str().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_who_he_says_is_refused() {
    let scene = Scene::start().await;
    assert_eq!(refusal(&scene, &key_pair(), &login(ANI, 1)).await, "401", "by another key");
    assert_eq!(refusal(&scene, &scene.keys, &login(ANI, 2)).await, "401", "as a device that there is not");
    assert_eq!(refusal(&scene, &scene.keys, &login(BUDI, 1)).await, "401", "as somebody else");
    assert_eq!(refusal(&scene, &scene.keys, &login("629999999999", 1)).await, "401", "as nobody");
    assert_eq!(refusal(&scene, &scene.keys, &wa::ClientPayload::default()).await, "400", "as nothing at all");
    let broken = wa::ClientPayload {
        device_pairing_data: MessageField::some(DevicePairingRegistrationData {
            e_ident: Some(vec![1; 32]),
            e_skey_val: Some(vec![2; 32]),
            e_skey_sig: Some(vec![3; 64]),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(refusal(&scene, &key_pair(), &broken).await, "400", "with keys that nobody signed");
    scene.goes_on("a login").await;
}

/// What a client that wants to be linked says of itself.
fn registration() -> wa::ClientPayload {
    let (identity, signed) = (key_pair(), key_pair());
    let signature = identity.private_key.calculate_signature(&signed.public_key.serialize(), &mut signal_rand::rng());
    wa::ClientPayload {
        device_pairing_data: MessageField::some(DevicePairingRegistrationData {
            e_regid: Some(vec![0, 0, 0, 1]),
            e_ident: Some(identity.public_key.public_key_bytes().to_vec()),
            e_skey_id: Some(vec![0, 0, 1]),
            e_skey_val: Some(signed.public_key.public_key_bytes().to_vec()),
            e_skey_sig: Some(signature.unwrap().to_vec()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn ping(id: &'static str) -> Node {
    NodeBuilder::new("iq").attr("id", id).attr("to", "s.whatsapp.net").attr("type", "get").attr("xmlns", "w:p").build()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_linked_may_say_what_he_wants() {
    let scene = Scene::start().await;
    let mut raw = Raw::log_in(scene.world.emulator.address(), &key_pair(), &registration()).await;
    assert!(raw.until("iq").await.unwrap().get_optional_child("pair-device").is_some());
    let to = |tag: &'static str| NodeBuilder::new(tag).attr("id", "1").attr("to", Jid::pn(BUDI));
    let enc = NodeBuilder::new("enc").attr("v", "2").attr("type", "msg").bytes(vec![1; 40]).build();
    for node in [
        to("message").attr("type", "text").children([enc]).build(),
        to("receipt").attr("type", "read").build(),
        to("ack").attr("class", "message").build(),
        to("presence").attr("type", "subscribe").build(),
        to("chatstate").build(),
        to("unheard-of").build(),
        NodeBuilder::new("ib").build(),
    ] {
        assert!(raw.send_node(&node).await);
    }
    for (namespace, code) in [("encrypt", "401"), ("usync", "401"), ("w:g2", "401"), ("passive", "401")] {
        let iq = to("iq").attr("xmlns", namespace).attr("type", "get").build();
        assert!(raw.send_node(&iq).await);
        let answer = raw.until("iq").await.unwrap();
        let error = answer.get_optional_child("error").unwrap();
        assert_eq!(error.attrs.get("code").unwrap().as_str(), code, "{namespace}");
    }
    assert!(raw.send_node(&ping("still-there")).await);
    assert_eq!(raw.until("iq").await.unwrap().attrs.get("id").unwrap().as_str(), "still-there");
    assert_eq!(scene.world.emulator.stats().relayed, 0);
    scene.goes_on("who is not linked").await;
}

fn compressed(plain: &[u8]) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(vec![2], Compression::default());
    zlib.write_all(plain).unwrap();
    zlib.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_stanza_is_one_like_any_other() {
    let scene = Scene::start().await;
    let mut ani = scene.ani().await;
    assert!(ani.send_packed(&compressed(&marshal(&ping("small")).unwrap()[1..])).await);
    loop {
        let answer = ani.until("iq").await.expect("it is taken");
        if answer.attrs.get("id").is_some_and(|id| id == "small") {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_behind_the_login_ends_the_connection() {
    let scene = Scene::start().await;
    let whole = marshal(&ping("1")).unwrap();
    let cases: [(&str, Vec<u8>); 6] = [
        ("nothing in a frame", Vec::new()),
        ("half a stanza", whole[..whole.len() / 2].to_vec()),
        ("garbage", vec![0, 0xff, 0xfe, 0xfd]),
        ("what is not compressed as it says", vec![2, 1, 2, 3]),
        // Unpacked it is larger than any frame may be.
        ("a bomb", compressed(&vec![0; 20 << 20])),
        ("a stanza within a stanza within a stanza", deep()),
    ];
    for (what, packed) in cases {
        let mut ani = scene.ani().await;
        assert!(ani.send_packed(&packed).await);
        assert!(ani.ended().await, "{what}");
    }
    // Not encrypted, or encrypted as what came before.
    let mut ani = scene.ani().await;
    assert!(ani.send_plain(b"", &[7; 60]).await);
    assert!(ani.ended().await, "a frame that does not open");
    scene.goes_on("a frame that cannot be read").await;
}

/// Lists of one child each, deeper than any stanza.
fn deep() -> Vec<u8> {
    let innermost = NodeBuilder::new("iq").build();
    marshal(&(0..200).fold(innermost, |inner, _| NodeBuilder::new("iq").children([inner]).build())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_which_nothing_comes_is_not_waited_for_for_ever() {
    let idle_limit = Duration::from_secs(1);
    let world = World::with(EmulatorConfig { idle_limit, ..support::config() }).await;
    let keys = noise_key(world.link(ANI, "Ani").await.leave().await).await;
    let mut ani = Raw::log_in(world.emulator.address(), &keys, &login(ANI, 1)).await;
    assert!(ani.send(&[0xff, 0xff, 0xff, 1, 2, 3]).await);
    assert!(ani.ended().await);
    until("nobody to be connected", || !world.emulator.accounts()[0].devices[0].connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_stanza_leaves_a_client_time_to_set_itself_up() {
    let grace = EmulatorConfig::default().first_stanza_grace;
    assert_eq!(grace, Duration::from_millis(100));
    let world = World::with(EmulatorConfig { first_stanza_grace: grace, ..support::config() }).await;
    let keys = noise_key(world.link(ANI, "Ani").await.leave().await).await;
    let mut ani = Raw::open(world.emulator.address()).await;
    let begun = Instant::now();
    ani.shake_hands(&keys, &login(ANI, 1)).await;
    ani.node().await.unwrap();
    assert!(begun.elapsed() >= grace, "{:?}", begun.elapsed());
}
