//! Newsletters: found, followed, read, and written in by their owner only.

#![allow(clippy::unwrap_used)]

mod support;

use support::World;
use whatsapp_rust::features::{NewsletterRole, NewsletterVerification};
use whatsapp_rust::wacore_binary::Jid;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_a_newsletter_reads_what_its_owner_writes() {
    let world = World::start().await;
    let mut ani = world.link(ANI, "Ani").await;
    let mut budi = world.link(BUDI, "Budi").await;
    let made = ani.client.newsletter().create("Kabar", Some("Setiap pagi")).await.unwrap();
    assert_eq!((made.name.as_str(), made.description.as_deref()), ("Kabar", Some("Setiap pagi")));
    assert_eq!((made.role.clone(), made.subscriber_count), (Some(NewsletterRole::Owner), 0));

    let invite = made.invite_code.clone().unwrap();
    let found = budi.client.newsletter().get_metadata_by_invite(&invite).await.unwrap();
    assert_eq!((found.jid.clone(), found.role.clone()), (made.jid.clone(), Some(NewsletterRole::Guest)));
    assert_eq!(found.verification, NewsletterVerification::Unverified);
    assert!(budi.client.newsletter().list_subscribed().await.unwrap().is_empty());
    let early = ani.say(&made.jid.to_string(), "before anybody follows").await;
    assert_eq!(ani.ack(&early).await, None);

    let followed = budi.client.newsletter().join(&made.jid).await.unwrap();
    assert_eq!((followed.role.clone(), followed.subscriber_count), (Some(NewsletterRole::Subscriber), 1));
    let list = budi.client.newsletter().list_subscribed().await.unwrap();
    assert_eq!(list.iter().map(|one| &one.jid).collect::<Vec<_>>(), [&made.jid]);
    let id = ani.say(&made.jid.to_string(), "Selamat pagi").await;
    assert_eq!(ani.ack(&id).await, None);
    let post = budi.text().await;
    assert_eq!((post.id, post.text.as_str(), post.chat), (id, "Selamat pagi", made.jid.to_string()));
    support::until("the post to be confirmed", || world.emulator.stats().queued == 0).await;

    // A reader only reads.
    let refused = budi.say(&made.jid.to_string(), "me too").await;
    assert_eq!(budi.ack(&refused).await.as_deref(), Some("403"));

    budi.client.newsletter().leave(&made.jid).await.unwrap();
    let unheard = ani.say(&made.jid.to_string(), "unheard").await;
    assert_eq!(ani.ack(&unheard).await, None);
    assert!(budi.client.newsletter().list_subscribed().await.unwrap().is_empty());
    assert_eq!(world.emulator.stats().queued, 0, "nobody else reads it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_of_a_newsletter_comes_in_pages_and_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let mut ani = world.link(ANI, "Ani").await;
    let jid = ani.client.newsletter().create("Kabar", None).await.unwrap().jid;
    for number in 1..=5 {
        let id = ani.say(&jid.to_string(), &number.to_string()).await;
        ani.ack(&id).await;
    }
    ani.client.newsletter().update(&jid, Some("Kabar baru"), None).await.unwrap();
    let last = ani.client.newsletter().get_messages(jid.clone(), 1, None).await.unwrap();
    let change =
        whatsapp_rust::waproto::whatsapp::Message { conversation: Some("5!".to_owned()), ..Default::default() };
    ani.client.newsletter().edit_message(&jid, &last[0].message_id, change).await.unwrap();
    ani.ack(&last[0].message_id).await;
    world.stop().await;

    let world = World::in_folder(folder.path(), None).await;
    let budi = world.link(BUDI, "Budi").await;
    let newsletter = budi.client.newsletter();
    let seen = newsletter.get_metadata(&jid).await.unwrap();
    assert_eq!((seen.name.as_str(), seen.role), ("Kabar baru", Some(NewsletterRole::Guest)));
    let read = |posts: Vec<whatsapp_rust::features::NewsletterMessage>| {
        let text = |post: whatsapp_rust::features::NewsletterMessage| post.message.unwrap().conversation.unwrap();
        posts.into_iter().map(text).collect::<Vec<_>>()
    };
    let newest = newsletter.get_messages(jid.clone(), 2, None).await.unwrap();
    let before = newest[0].server_id;
    assert_eq!(read(newest), ["4", "5!"]);
    assert_eq!(read(newsletter.get_messages(jid.clone(), 10, Some(before)).await.unwrap()), ["1", "2", "3"]);
    assert_eq!(newsletter.subscribe_live_updates(jid.clone()).await.unwrap(), 300);

    let unknown: Jid = "120363499999999999@newsletter".parse().unwrap();
    let error = format!("{:?}", newsletter.get_metadata(&unknown).await.unwrap_err());
    assert!(error.contains("item-not-found"), "{error}");
    assert!(newsletter.update(&jid, Some("mine"), None).await.is_err(), "only the owner renames it");
}
