//! What people set for their own account: whom they block, what others see, what they say about themselves.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::https::Https;
use support::{Person, World};
use waya_sandbox::emulator::EmulatorConfig;
use whatsapp_rust::wacore::iq::privacy::{PrivacyCategory, PrivacyValue};
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore_binary::Jid;

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
    let config = EmulatorConfig {
        data_dir: Some(folder.path().to_owned()),
        first_stanza_grace: Duration::ZERO,
        ..Default::default()
    };
    let world = World::with(config).await;
    let (ani, mut budi) = two(&world).await;
    budi.say(ANI, "hello").await;
    ani.client.profile().set_status_text("Busy").await.unwrap();
    let told = budi
        .wait("what Ani says", |event| match event {
            Event::UserAboutUpdate(update) => Some(update.status.clone()),
            _ => None,
        })
        .await;
    assert_eq!(told, "Busy");
    let keys = budi.leave().await;
    ani.leave().await;
    let port = world.stop().await;

    let world = World::in_folder(folder.path(), Some(port)).await;
    let mut budi = Person::resume(&world.emulator.whatsapp_url(), "Budi", keys).await;
    budi.connected().await;
    let known = budi.client.contacts().get_user_info(&[Jid::pn(ANI)]).await.unwrap();
    assert_eq!(known[&Jid::pn(ANI)].status.as_deref(), Some("Busy"));
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
    let config = EmulatorConfig {
        data_dir: Some(folder.path().to_owned()),
        first_stanza_grace: Duration::ZERO,
        ..Default::default()
    };
    let world = World::with(config).await;
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
