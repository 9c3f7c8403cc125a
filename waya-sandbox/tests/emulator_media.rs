//! Files through the emulator's media servers, by real clients and by plain HTTP.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use support::https::Https;
use support::{Person, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waya_sandbox::emulator::{EmulatorConfig, Fault, FaultLimit, FaultTarget};
use whatsapp_rust::anyhow;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::download::MediaType;
use whatsapp_rust::upload::{UploadOptions, UploadResponse};
use whatsapp_rust::wacore_binary::Jid;
use whatsapp_rust::waproto::whatsapp as wa;
use whatsapp_rust::waproto::whatsapp::message::ImageMessage;
use whatsapp_rust::{MediaRetryResult, MediaReuploadRequest};

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

struct Scene {
    world: World,
    http: Https,
    ani: Person,
}

impl Scene {
    async fn with(config: EmulatorConfig) -> Self {
        let world = World::with(EmulatorConfig {
            first_stanza_grace: Duration::ZERO,
            pn_only: support::config().pn_only,
            ..config
        })
        .await;
        let http = Https::new(&world);
        let ani = world.link_with(ANI, "Ani", &http).await;
        Self { world, http, ani }
    }

    async fn start() -> Self {
        Self::with(EmulatorConfig::default()).await
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.world.emulator.address())
    }
}

fn picture(uploaded: &UploadResponse) -> ImageMessage {
    ImageMessage {
        url: Some(uploaded.url.clone()),
        direct_path: Some(uploaded.direct_path.clone()),
        media_key: Some(uploaded.media_key.to_vec()),
        file_enc_sha256: Some(uploaded.file_enc_sha256.to_vec()),
        file_sha256: Some(uploaded.file_sha256.to_vec()),
        file_length: Some(uploaded.file_length),
        mimetype: Some("image/jpeg".into()),
        caption: Some("look".into()),
        ..Default::default()
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

async fn upload(person: &Person, content: Vec<u8>) -> anyhow::Result<UploadResponse> {
    person.client.upload(content, MediaType::Image, UploadOptions::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_reaches_the_other_side_through_tls() {
    let mut scene = Scene::start().await;
    let mut budi = scene.world.link_with(BUDI, "Budi", &scene.http).await;
    let content = bytes(100_000);
    let uploaded = upload(&scene.ani, content.clone()).await.unwrap();
    let message = wa::Message { image_message: MessageField::some(picture(&uploaded)), ..Default::default() };
    let sent = scene.ani.client.send_message(Jid::pn(BUDI), message).await.unwrap();
    assert_eq!(scene.ani.ack(&sent.message_id).await, None);
    let received = budi.message(|message| message.image_message.as_option().cloned()).await;
    assert_eq!(received.caption.as_deref(), Some("look"));
    assert_eq!(budi.client.download(&received).await.unwrap(), content);

    // The address alone is enough, as for clients that send no token along.
    let url = received.url.unwrap();
    let answer = scene.http.client.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_ne!(answer.bytes().await.unwrap(), content, "it lies there unencrypted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_file_is_handed_out_and_plain_http_works_too() {
    let scene = Scene::start().await;
    let uploaded = upload(&scene.ani, bytes(5_000)).await.unwrap();
    let whole = scene.http.client.get(scene.url(&uploaded.direct_path)).send().await.unwrap().bytes().await.unwrap();
    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = scene.url(&uploaded.direct_path).replace("https://", "http://");
    let part = plain.get(&url).header("range", "bytes=1000-1999").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], format!("bytes 1000-1999/{}", whole.len()).as_str());
    assert_eq!(part.bytes().await.unwrap(), whole.slice(1_000..2_000));
    let behind = plain.get(&url).header("range", "bytes=999999-").send().await.unwrap();
    assert_eq!(behind.status(), 416);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_was_cut_goes_on_where_it_stopped() {
    let scene = Scene::start().await;
    let (content, key) = (bytes(6 << 20), [9; 32]);
    let options = || UploadOptions::new().with_media_key(key);
    let sealed = whatsapp_rust::wacore::upload::encrypt_media_with_key(&content, MediaType::Image, Some(&key)).unwrap();
    let name = base64_url(&sealed.file_enc_sha256);
    let path = format!("/mms/image/{name}?auth={}&token={name}", auth(&scene).await);

    let half = sealed.data_to_upload.len() / 2;
    let mut socket = TcpStream::connect(scene.world.emulator.address()).await.unwrap();
    let length = sealed.data_to_upload.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&sealed.data_to_upload[..half]).await.unwrap();
    drop(socket);
    let resume = scene.url(&format!("{path}&resume=1"));
    let progress = || async {
        let answer = scene.http.client.post(&resume).send().await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["resume"].as_str().unwrap().to_owned()
    };
    let noticed = async {
        while progress().await != half.to_string() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(support::LIMIT, noticed).await.expect("half of it is there");

    let before = scene.http.uploaded.load(Ordering::SeqCst);
    let uploaded = scene.ani.client.upload(content.clone(), MediaType::Image, options()).await.unwrap();
    let rest = scene.http.uploaded.load(Ordering::SeqCst) - before;
    assert_eq!(rest, (length - half) as u64, "it was not gone on with");
    assert_eq!(scene.ani.client.download(&picture(&uploaded)).await.unwrap(), content);

    // Whole already: nothing is sent a second time.
    scene.ani.client.upload(content, MediaType::Image, options()).await.unwrap();
    assert_eq!(scene.http.uploaded.load(Ordering::SeqCst) - before, rest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_request_is_said() {
    let scene = Scene::start().await;
    let auth = auth(&scene).await;
    let name = base64_url(&[7; 32]);
    let uploaded = upload(&scene.ani, bytes(100)).await.unwrap();
    let forged = uploaded.direct_path.replace("oh=", "oh=A");
    let post = |path: String| scene.http.client.post(scene.url(&path)).body("other bytes");
    for (request, status, words) in [
        (post(format!("/mms/image/{name}?auth=none")), 401, "ask for media_conn again"),
        (post(format!("/mms/image/{name}")), 401, "ask for media_conn again"),
        (post(format!("/mms/image/short?auth={auth}")), 400, "SHA-256"),
        (post(format!("/mms/image/{name}?auth={auth}")), 400, "SHA-256"),
        (post(format!("/mms/image/{name}?auth={auth}&file_offset=x")), 400, "file_offset"),
        (post(format!("/mms/image/{name}?auth={auth}&file_offset=5")), 400, "cannot go on at byte 5: 0 are here"),
        (scene.http.client.get(scene.url(&forged)), 403, "signature mismatch"),
        (scene.http.client.get(scene.url("/v/x/y.enc")), 403, "signature mismatch"),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{words}");
        let said = answer.json::<serde_json::Value>().await.unwrap();
        assert!(said["error"].as_str().unwrap().contains(words), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_ends_and_the_client_is_told() {
    let scene = Scene::with(EmulatorConfig { media_lifetime: Duration::ZERO, ..Default::default() }).await;
    let uploaded = upload(&scene.ani, bytes(100)).await.unwrap();
    let answer = scene.http.client.get(scene.url(&uploaded.direct_path)).send().await.unwrap();
    assert_eq!(answer.status(), 410);
    let error = scene.ani.client.download(&picture(&uploaded)).await.unwrap_err();
    assert!(format!("{error:#}").contains("410"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_faults_hit_uploads_and_downloads_until_they_are_off() {
    let scene = Scene::start().await;
    let uploaded = upload(&scene.ani, bytes(100)).await.unwrap();
    for code in [401, 403, 404, 410, 500] {
        scene.world.emulator.set_fault(Fault::Media { code }, FaultTarget::Phone(ANI.into()));
        let error = scene.ani.client.download(&picture(&uploaded)).await.unwrap_err();
        assert!(format!("{error:#}").contains(&code.to_string()), "{error:#}");
        let error = upload(&scene.ani, bytes(10)).await.unwrap_err();
        assert!(format!("{error:#}").contains(&code.to_string()), "{error:#}");
    }
    let budi = scene.world.link_with(BUDI, "Budi", &scene.http).await;
    budi.client.download(&picture(&uploaded)).await.unwrap();
    scene.world.emulator.clear_faults(&FaultTarget::Phone(ANI.into()));
    assert_eq!(scene.ani.client.download(&picture(&uploaded)).await.unwrap(), bytes(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_media_fault_for_one_device_leaves_the_others_of_its_account_alone() {
    let scene = Scene::start().await;
    let second = scene.world.link_with(ANI, "Ani", &scene.http).await;
    let uploaded = upload(&scene.ani, bytes(100)).await.unwrap();
    scene.world.emulator.set_fault(Fault::Media { code: 500 }, FaultTarget::Device(ANI.into(), 2));
    upload(&scene.ani, bytes(10)).await.unwrap();
    scene.ani.client.download(&picture(&uploaded)).await.unwrap();
    let error = second.client.download(&picture(&uploaded)).await.unwrap_err();
    assert!(format!("{error:#}").contains("500"), "{error:#}");
    let error = upload(&second, bytes(10)).await.unwrap_err();
    assert!(format!("{error:#}").contains("500"), "{error:#}");
    scene.world.emulator.clear_faults(&FaultTarget::All);
    upload(&second, bytes(20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refused_once_is_replaced_by_a_new_one() {
    let scene = Scene::start().await;
    let ani = || FaultTarget::Phone(ANI.into());
    for code in [401, 403] {
        let fault = Fault::Media { code };
        scene.world.emulator.set_limited_fault(fault, ani(), FaultLimit::times(1)).unwrap();
        let uploaded = upload(&scene.ani, bytes(100)).await.unwrap();
        assert!(scene.world.emulator.faults().is_empty(), "{code} did not strike");
        scene.world.emulator.set_limited_fault(fault, ani(), FaultLimit::times(1)).unwrap();
        assert_eq!(scene.ani.client.download(&picture(&uploaded)).await.unwrap(), bytes(100));
        assert!(scene.world.emulator.faults().is_empty(), "{code} did not strike");
    }
    // Tokens end by the emulator's clock.
    let old = auth(&scene).await;
    scene.world.emulator.clock().set_ahead(7 * 3_600_000);
    let path = format!("/mms/image/{}?auth={old}", base64_url(&[7; 32]));
    let refused = scene.http.client.post(scene.url(&path)).body("bytes").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    upload(&scene.ani, bytes(200)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_host_of_the_list_takes_files_and_hands_them_out() {
    let scene = Scene::start().await;
    let known = scene.ani.client.refresh_media_conn(true).await.unwrap();
    let hosts: Vec<_> = known.hosts.iter().map(|host| host.hostname.clone()).collect();
    assert_eq!(hosts.len(), 2, "{hosts:?}");
    assert_ne!(hosts[0], hosts[1]);
    for (number, host) in hosts.iter().enumerate() {
        let content = bytes(1_000 + number);
        let hash = <sha2::Sha256 as sha2::Digest>::digest(&content);
        let name = base64_url(&hash);
        let url = format!("https://{host}/mms/document/{name}?auth={}&token={name}", known.auth);
        let answer = scene.http.client.post(url).body(content.clone()).send().await.unwrap();
        let told = answer.json::<serde_json::Value>().await.unwrap();
        let path = told["direct_path"].as_str().unwrap_or_else(|| panic!("{host}: {told}"));
        for from in &hosts {
            let loaded = scene.http.client.get(format!("https://{from}{path}")).send().await.unwrap();
            assert_eq!(loaded.bytes().await.unwrap(), content, "from {from}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_certificate_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmulatorConfig { data_dir: Some(folder.path().to_owned()), ..Default::default() };
    let scene = Scene::with(config.clone()).await;
    let uploaded = upload(&scene.ani, bytes(100)).await.unwrap();
    let Scene { world, ani, .. } = scene;
    ani.leave().await;
    // A client that holds no connection to the one that ends.
    let http = Https::new(&world);
    let port = world.stop().await;

    let world = World::in_folder(folder.path(), Some(port)).await;
    let url = format!("https://{}{}", world.emulator.address(), uploaded.direct_path);
    // The same authority still vouches for it.
    let answer = http.client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_or_half_a_handshake_holds_up_nobody() {
    let scene = Scene::start().await;
    let address = scene.world.emulator.address();
    let mut idle = Vec::new();
    for start in [&b""[..], b"\x16\x03\x01", b"\x16garbage that is no TLS record at all", b"GET /v/", b"\0\0\0"] {
        for _ in 0..40 {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(start).await.unwrap();
            idle.push(socket);
        }
    }
    let uploaded = upload(&scene.ani, bytes(100)).await.unwrap();
    assert_eq!(scene.ani.client.download(&picture(&uploaded)).await.unwrap(), bytes(100));
    let mut garbled = idle.swap_remove(90);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(support::LIMIT, garbled.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a broken handshake is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_is_on_uploads_a_file_again() {
    let scene = Scene::with(EmulatorConfig { media_lifetime: Duration::from_secs(3_600), ..Default::default() }).await;
    let mut budi = scene.world.link_with(BUDI, "Budi", &scene.http).await;
    let content = bytes(20_000);
    let uploaded = upload(&scene.ani, content.clone()).await.unwrap();
    let message = wa::Message { image_message: MessageField::some(picture(&uploaded)), ..Default::default() };
    let sent = scene.ani.client.send_message(Jid::pn(BUDI), message).await.unwrap();
    let mut received = budi.message(|message| message.image_message.as_option().cloned()).await;
    scene.world.emulator.clock().set_ahead(7_200_000);
    let error = budi.client.download(&received).await.unwrap_err();
    assert!(format!("{error:#}").contains("410"), "{error:#}");

    scene.world.emulator.set_handset_online(BUDI, true);
    let ani = lid(&scene, ANI);
    let asked = Asked { id: &sent.message_id, chat: &ani, own: false, participant: None };
    let again = asked.of(&budi, &uploaded.media_key).await;
    received.direct_path = Some(path(again));
    received.url = None;
    assert_eq!(budi.client.download(&received).await.unwrap(), content);

    // What it was sent as to its own phone, by another name of the chat.
    scene.world.emulator.set_handset_online(ANI, true);
    let asked = Asked { id: &sent.message_id, chat: &Jid::pn(BUDI), own: true, participant: None };
    path(asked.of(&scene.ani, &uploaded.media_key).await);

    for (asked, key, wanted) in [
        (Asked { id: "3EB0UNKNOWN", ..asked }, uploaded.media_key, "NotFound"),
        (Asked { own: false, ..asked }, uploaded.media_key, "NotFound"),
        (asked, [1; 32], "DecryptionError"),
    ] {
        assert_eq!(format!("{:?}", asked.of(&scene.ani, &key).await), wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_uploads_the_files_of_a_group_again() {
    let mut scene = Scene::start().await;
    let mut budi = scene.world.link_with(BUDI, "Budi", &scene.http).await;
    scene.world.emulator.set_handset_online(BUDI, true);
    let group = scene.world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let group: Jid = group.jid.parse().unwrap();
    let uploaded = upload(&scene.ani, bytes(500)).await.unwrap();
    // The first one hands the sender key over, the second does not.
    for _ in 0..2 {
        let message = wa::Message { image_message: MessageField::some(picture(&uploaded)), ..Default::default() };
        let sent = scene.ani.client.send_message(group.clone(), message).await.unwrap();
        assert_eq!(scene.ani.ack(&sent.message_id).await, None);
        budi.message(|message| message.image_message.as_option().cloned()).await;
        let ani = lid(&scene, ANI);
        let asked = Asked { id: &sent.message_id, chat: &group, own: false, participant: Some(&ani) };
        let again = path(asked.of(&budi, &uploaded.media_key).await);
        let answer = scene.http.client.get(scene.url(&again)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_is_off_does_not_answer() {
    let scene = Scene::start().await;
    let budi = scene.world.link_with(BUDI, "Budi", &scene.http).await;
    let (ani, key) = (Jid::pn(ANI), [1; 32]);
    let asked = Asked { id: "3EB0UNKNOWN", chat: &ani, own: false, participant: None };
    let unanswered = asked.of(&budi, &key);
    assert!(tokio::time::timeout(Duration::from_secs(1), unanswered).await.is_err());
    scene.world.emulator.set_handset_online(BUDI, true);
    assert!(matches!(asked.of(&budi, &key).await, MediaRetryResult::NotFound));
}

fn lid(scene: &Scene, phone: &str) -> Jid {
    let accounts = scene.world.emulator.accounts();
    Jid::lid(accounts.into_iter().find(|account| account.phone == phone).unwrap().lid)
}

/// A message whose file is asked for again.
#[derive(Clone, Copy)]
struct Asked<'a> {
    id: &'a str,
    chat: &'a Jid,
    own: bool,
    participant: Option<&'a Jid>,
}

impl Asked<'_> {
    async fn of(&self, person: &Person, media_key: &[u8]) -> MediaRetryResult {
        let request = MediaReuploadRequest {
            msg_id: self.id,
            chat_jid: self.chat,
            media_key,
            is_from_me: self.own,
            participant: self.participant,
        };
        person.client.media_reupload().request(&request).await.unwrap()
    }
}

fn path(result: MediaRetryResult) -> String {
    match result {
        MediaRetryResult::Success { direct_path } => direct_path,
        other => panic!("not uploaded again: {other:?}"),
    }
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// What Ani's client uploads with.
async fn auth(scene: &Scene) -> String {
    scene.ani.client.refresh_media_conn(false).await.unwrap().auth
}
