//! What people set for their own account: whom they block, what others see, what they say about themselves.

#![allow(clippy::unwrap_used)]

mod support;

use support::https::Https;
use support::raw::{Raw, login, noise_key};
use support::{Person, World};
use whatsapp_rust::wacore::iq::privacy::{PrivacyCategory, PrivacyValue};
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore_binary::{Jid, Node};

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

async fn two(world: &World) -> (Person, Person) {
    (world.link(ANI, "Ani").await, world.link(BUDI, "Budi").await)
}

/// The next presence somebody else shows: there or not, and since when.
async fn presence(person: &mut Person) -> (bool, bool) {
    person
        .wait("a presence", |event| match event {
            Event::Presence(update) => Some((!update.unavailable, update.last_seen.is_some())),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_blocked_is_acked_and_not_heard() {
    let world = World::start().await;
    let (mut ani, mut budi) = two(&world).await;
    // Both know each other's LID from here on, which blocking needs.
    ani.say(BUDI, "hello").await;
    budi.text().await;
    budi.say(ANI, "hello to you").await;
    ani.text().await;

    ani.client.blocking().block(&Jid::pn(BUDI)).await.unwrap();
    assert!(ani.client.blocking().is_blocked(&Jid::pn(BUDI)).await.unwrap());
    let id = budi.say(ANI, "do you hear me?").await;
    assert_eq!(budi.ack(&id).await, None, "who is blocked is not told");
    let id = ani.say(BUDI, "I can still write").await;
    assert_eq!(budi.text().await.text, "I can still write");
    ani.receipt(&id).await;

    ani.client.blocking().unblock(&Jid::pn(BUDI)).await.unwrap();
    assert!(ani.client.blocking().get_blocklist().await.unwrap().is_empty());
    budi.say(ANI, "and now?").await;
    assert_eq!(ani.text().await.text, "and now?", "what was said meanwhile does not come later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_presence_is_shown_as_far_as_its_owner_wants() {
    let world = World::start().await;
    let (ani, mut budi) = two(&world).await;
    let set = |category, value| ani.client.set_privacy_setting(category, value);
    set(PrivacyCategory::Last, PrivacyValue::None).await.unwrap();
    budi.client.presence().set_available().await.unwrap();
    budi.client.presence().subscribe(&Jid::pn(ANI)).await.unwrap();
    ani.client.presence().set_available().await.unwrap();
    assert_eq!(presence(&mut budi).await, (true, false));
    ani.client.presence().set_unavailable().await.unwrap();
    assert_eq!(presence(&mut budi).await, (false, false), "since when is not for others");

    set(PrivacyCategory::Online, PrivacyValue::MatchLastSeen).await.unwrap();
    ani.client.presence().set_available().await.unwrap();
    ani.client.presence().set_unavailable().await.unwrap();
    set(PrivacyCategory::Last, PrivacyValue::All).await.unwrap();
    ani.client.presence().set_available().await.unwrap();
    assert_eq!(presence(&mut budi).await, (true, false), "the first thing shown since");
    ani.client.presence().set_unavailable().await.unwrap();
    assert_eq!(presence(&mut budi).await, (false, true));

    let kept = ani.client.fetch_privacy_settings().await.unwrap();
    assert_eq!(kept.get_value(&PrivacyCategory::Online), Some(&PrivacyValue::MatchLastSeen));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_says_about_himself_is_told_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let (ani, mut budi) = two(&world).await;
    budi.say(ANI, "hello").await;
    ani.client.profile().set_status_text("Busy").await.unwrap();
    assert_eq!(about(&mut budi).await, "Busy");
    let keys = budi.leave().await;
    ani.leave().await;
    let port = world.stop().await;

    let world = World::in_folder(folder.path(), Some(port)).await;
    let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
    budi.connected().await;
    let known = budi.client.contacts().get_user_info(&[Jid::pn(ANI)]).await.unwrap();
    assert_eq!(known[&Jid::pn(ANI)].status.as_deref(), Some("Busy"));
}

/// The next thing that somebody says about himself.
async fn about(person: &mut Person) -> String {
    person
        .wait("what somebody says about himself", |event| match event {
            Event::UserAboutUpdate(update) => Some(update.status.clone()),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_says_about_himself_is_seen_by_whom_he_wants_to_see_it() {
    let world = World::start().await;
    let (ani, mut budi) = two(&world).await;
    budi.say(ANI, "hello").await;
    let set = |value| ani.client.set_privacy_setting(PrivacyCategory::Status, value);
    ani.client.profile().set_status_text("Busy").await.unwrap();
    assert_eq!(about(&mut budi).await, "Busy");

    set(PrivacyValue::None).await.unwrap();
    ani.client.profile().set_status_text("Not for Budi").await.unwrap();
    let asked = [Jid::pn(ANI)];
    let hidden = budi.client.contacts().get_user_info(&asked).await.unwrap();
    assert_eq!(hidden[&asked[0]].status.as_deref(), Some(""), "the library's word for a 401");
    let own = ani.client.contacts().get_user_info(&asked).await.unwrap();
    assert_eq!(own[&asked[0]].status.as_deref(), Some("Not for Budi"), "one sees oneself");

    set(PrivacyValue::All).await.unwrap();
    let shown = budi.client.contacts().get_user_info(&asked).await.unwrap();
    assert_eq!(shown[&asked[0]].status.as_deref(), Some("Not for Budi"));
    ani.client.profile().set_status_text("Back").await.unwrap();
    assert_eq!(about(&mut budi).await, "Back", "what was hidden was not told");
}

/// The next notification of this kind with a child of this name.
async fn notified(raw: &mut Raw, kind: &str, child: &str) -> Node {
    let search = async {
        loop {
            let node = raw.until("notification").await.expect("the connection ended");
            let is_it = node.attrs.get("type").is_some_and(|known| known.as_str() == kind);
            if let Some(found) = node.get_optional_child(child).filter(|_| is_it) {
                return found.clone();
            }
        }
    };
    tokio::time::timeout(support::LIMIT, search).await.unwrap_or_else(|_| panic!("no {kind} with {child} came"))
}

fn text(node: &Node, name: &str) -> String {
    node.attrs.get(name).map(|value| value.as_str().into_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_device_sets_for_the_account_the_others_are_told() {
    let world = World::start().await;
    let (mut desk, budi) = two(&world).await;
    // The desk knows Budi's LID from here on, which blocking needs.
    budi.say(ANI, "hello").await;
    desk.text().await;
    let keys = noise_key(world.link(ANI, "Ani").await.leave().await).await;
    let mut laptop = Raw::log_in(world.emulator.address(), &keys, &login(ANI, 2)).await;
    let lid = world.emulator.accounts()[1].lid.clone();
    let named = if support::config().pn_only { Jid::pn(BUDI) } else { Jid::lid(lid) };

    let mut hashes = Vec::new();
    for (action, blocked) in [("block", true), ("unblock", false)] {
        let blocking = desk.client.blocking();
        let done = if blocked { blocking.block(&Jid::pn(BUDI)).await } else { blocking.unblock(&Jid::pn(BUDI)).await };
        done.unwrap();
        let told = notified(&mut laptop, "account_sync", "blocklist").await;
        let item = told.get_optional_child("item").unwrap();
        assert_eq!((text(item, "jid"), text(item, "action").as_str()), (named.to_string(), action));
        hashes.push(text(&told, "dhash"));
    }
    assert_ne!(hashes[0], hashes[1], "the list is another one");

    for (value, word) in [(PrivacyValue::None, "none"), (PrivacyValue::All, "all")] {
        desk.client.set_privacy_setting(PrivacyCategory::Last, value).await.unwrap();
        let told = notified(&mut laptop, "account_sync", "privacy").await;
        let shown = told.children().unwrap();
        assert_eq!(shown.len(), 1, "what did not change is not told");
        assert_eq!((text(&shown[0], "name").as_str(), text(&shown[0], "value").as_str()), ("last", word));
    }

    desk.client.profile().set_status_text("Busy").await.unwrap();
    let told = notified(&mut laptop, "status", "set").await;
    assert_eq!(told.content_as_string().as_deref(), Some("Busy"));
}

/// The next change of a picture: whose, and whether it is gone.
async fn pictured(person: &mut Person) -> (String, bool) {
    person
        .wait("another picture", |event| match event {
            Event::PictureUpdate(update) => Some((update.jid.to_string(), update.removed)),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_is_shown_to_whom_it_may_be_and_everybody_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let (ani, mut budi) = two(&world).await;
    budi.say(ANI, "hello").await;
    let ani_jid = Jid::pn(ANI);
    assert!(budi.client.contacts().get_profile_picture(&ani_jid, false).await.unwrap().is_none());

    let jpeg = [&[0xff, 0xd8, 0xff, 0xe0][..], &[7; 5_000]].concat();
    let set = ani.client.profile().set_profile_picture(jpeg.clone()).await.unwrap();
    assert_eq!(pictured(&mut budi).await, (ani_jid.to_string(), false));
    let shown = budi.client.contacts().get_profile_picture(&ani_jid, false).await.unwrap().unwrap();
    assert_eq!(shown.id, set.id);
    let loaded = Https::new(&world).client.get(&shown.url).send().await.unwrap();
    assert_eq!(loaded.headers()["content-type"], "image/jpeg");
    assert_eq!(loaded.bytes().await.unwrap(), jpeg);
    assert!(ani.client.profile().set_profile_picture(b"GIF89a".to_vec()).await.is_err(), "no JPEG");

    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let group: Jid = group.jid.parse().unwrap();
    ani.client.groups().set_profile_picture(&group, jpeg).await.unwrap();
    assert_eq!(pictured(&mut budi).await, (group.to_string(), false));
    assert!(budi.client.contacts().get_profile_picture(&group, true).await.unwrap().is_some());

    ani.client.set_privacy_setting(PrivacyCategory::Profile, PrivacyValue::None).await.unwrap();
    assert!(!matches!(budi.client.contacts().get_profile_picture(&ani_jid, false).await, Ok(Some(_))));
    let own = ani.client.contacts().get_profile_picture(&ani_jid, false).await.unwrap();
    assert!(own.is_some(), "one sees oneself");
    ani.client.set_privacy_setting(PrivacyCategory::Profile, PrivacyValue::All).await.unwrap();
    let keys = (ani.leave().await, budi.leave().await);
    let port = world.stop().await;

    let world = World::in_folder(folder.path(), Some(port)).await;
    let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys.1).await;
    budi.connected().await;
    assert!(budi.client.contacts().get_profile_picture(&ani_jid, false).await.unwrap().is_some());
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", keys.0).await;
    ani.connected().await;
    ani.client.profile().remove_profile_picture().await.unwrap();
    assert_eq!(pictured(&mut budi).await, (ani_jid.to_string(), true));
    assert!(budi.client.contacts().get_profile_picture(&ani_jid, false).await.unwrap().is_none());
}
