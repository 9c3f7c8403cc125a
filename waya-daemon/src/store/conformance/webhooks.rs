//! What webhooks must do.

use std::collections::BTreeSet;

use super::{at, incoming};
use crate::model::{Cursor, EventBody, LinkState, Notice, Secret, Topic, Topics, Webhook, WebhookId};
use crate::store::Store;
use crate::store::webhooks::{
    Delivery, KEPT_DELIVERIES, KEPT_PARKED, MAX_WEBHOOKS, NoticeFilter, Place, Settled, Settlement, StandingWebhook,
    Unsettled,
};

const ALL: usize = usize::MAX;

fn webhook(number: u8) -> Webhook {
    Webhook {
        id: WebhookId::from_random([number; 10]),
        url: format!("https://example.org/{number}"),
        topics: Topics::Only(BTreeSet::from([Topic::Sent, Topic::Incoming])),
        secret: Secret("s3cret".to_owned()),
        enabled: true,
        created_at: at(u64::from(number)),
    }
}

async fn added(store: &Store, number: u8) -> WebhookId {
    assert_eq!(store.webhooks.add(webhook(number)).await, Ok(true));
    webhook(number).id
}

async fn standing(store: &Store, id: &WebhookId) -> StandingWebhook {
    let all = store.webhooks.all().await.unwrap();
    all.into_iter().find(|standing| standing.webhook.id == *id).unwrap()
}

fn notice(cursor: u64) -> Notice {
    Notice { cursor: Cursor(cursor), topic: Topic::Sent }
}

fn row(cursor: u64, attempts: u32) -> Unsettled {
    Unsettled { notice: notice(cursor), attempts, since: at(1), at: at(cursor), reason: "503".to_owned() }
}

async fn settle(store: &Store, id: &WebhookId, notices: Vec<Settlement>) {
    assert_eq!(store.webhooks.settle(id, Settled { notices, ..Settled::default() }).await, Ok(true));
}

async fn rows(store: &Store, id: &WebhookId, parked: bool) -> Vec<Unsettled> {
    store.webhooks.notices(id, NoticeFilter { parked, after: None, limit: ALL }).await.unwrap()
}

pub async fn a_webhook_begins_now_and_comes_back_whole(store: &Store) {
    assert_eq!(store.webhooks.all().await, Ok(Vec::new()));
    let before = store.journal.append(EventBody::Link(LinkState::Connected), at(1)).await.unwrap();
    let everything = Webhook { topics: Topics::All, enabled: false, ..webhook(2) };
    let first = webhook(1);
    for webhook in [&everything, &first] {
        assert_eq!(store.webhooks.add(webhook.clone()).await, Ok(true));
    }
    store.journal.record_incoming(vec![incoming("A", "Halo", at(2))]).await.unwrap();
    let place = Place { cursor: before, ..Place::default() };
    let all = [first, everything].map(|webhook| StandingWebhook { webhook, place });
    assert_eq!(store.webhooks.all().await, Ok(all.to_vec()), "oldest first");
}

pub async fn it_is_written_anew_and_keeps_its_place(store: &Store) {
    let id = added(store, 1).await;
    let newest = store.journal.append(EventBody::Link(LinkState::Connected), at(1)).await.unwrap();
    let changed = Webhook { url: "http://10.0.0.1/".to_owned(), enabled: false, ..webhook(1) };
    assert_eq!(store.webhooks.change(changed.clone(), false).await, Ok(true));
    assert_eq!(standing(store, &id).await.webhook, changed);
    assert!(standing(store, &id).await.place.cursor < newest);
    assert_eq!(store.webhooks.change(changed, true).await, Ok(true));
    assert_eq!(standing(store, &id).await.place.cursor, newest);
    assert_eq!(store.webhooks.change(webhook(2), false).await, Ok(false));
    assert_eq!(store.webhooks.all().await.unwrap().len(), 1);
    // A place never goes back.
    let settled = Settled { cursor: Some(Cursor(0)), ..Settled::default() };
    assert_eq!(store.webhooks.settle(&id, settled).await, Ok(true));
    assert_eq!(standing(store, &id).await.place.cursor, newest);
}

pub async fn notices_wait_are_parked_and_settled(store: &Store) {
    let (id, other) = (added(store, 1).await, added(store, 2).await);
    settle(store, &other, vec![Settlement::Waits(row(5, 1)), Settlement::Parked(row(6, 1))]).await;
    settle(store, &id, [300, 2, 1].map(|n| Settlement::Waits(row(n, 1))).to_vec()).await;
    assert_eq!(rows(store, &id, false).await, [row(1, 1), row(2, 1), row(300, 1)]);
    let filter = NoticeFilter { parked: false, after: Some(notice(1)), limit: 1 };
    assert_eq!(store.webhooks.notices(&id, filter).await, Ok(vec![row(2, 1)]));
    settle(
        store,
        &id,
        vec![Settlement::Waits(row(1, 2)), Settlement::Parked(row(2, 9)), Settlement::Done(notice(300))],
    )
    .await;
    assert_eq!(rows(store, &id, false).await, [row(1, 2)]);
    assert_eq!(rows(store, &id, true).await, [row(2, 9)]);
    let Place { waiting, parked, .. } = standing(store, &id).await.place;
    assert_eq!((waiting, parked), (1, 1));
    settle(store, &id, vec![Settlement::Done(notice(1)), Settlement::Done(notice(2)), Settlement::Done(notice(77))])
        .await;
    assert_eq!((rows(store, &id, false).await, rows(store, &id, true).await), (vec![], vec![]));
    assert_eq!((rows(store, &other, false).await.len(), rows(store, &other, true).await.len()), (1, 1));
    let long = Unsettled { reason: "é".repeat(9_000), ..row(9, 1) };
    settle(store, &id, vec![Settlement::Parked(long)]).await;
    assert!(rows(store, &id, true).await[0].reason.len() <= 512);
}

pub async fn parked_ones_wait_again_on_the_users_word(store: &Store) {
    let id = added(store, 1).await;
    settle(store, &id, (1..=2_500).map(|n| Settlement::Parked(row(n, 9))).collect()).await;
    assert_eq!(store.webhooks.unpark(&id, Some(notice(7)), at(50)).await, Ok(1));
    assert_eq!(store.webhooks.unpark(&id, Some(notice(7)), at(50)).await, Ok(0));
    let again = Unsettled { attempts: 0, since: at(50), at: at(50), ..row(7, 0) };
    assert_eq!(rows(store, &id, false).await, [again]);
    assert_eq!(store.webhooks.unpark(&id, None, at(60)).await, Ok(2_499));
    assert_eq!((rows(store, &id, false).await.len(), rows(store, &id, true).await.len()), (2_500, 0));
    assert_eq!(store.webhooks.unpark(&webhook(9).id, None, at(60)).await, Ok(0));
}

pub async fn only_the_newest_deliveries_stay(store: &Store) {
    let id = added(store, 1).await;
    let delivery = |number: u64, error: Option<&str>| Delivery {
        at: at(number),
        event_id: format!("evt_{number}"),
        event: "message.sent".to_owned(),
        attempt: 1,
        millis: 12,
        status: error.is_none().then_some(200),
        error: error.map(str::to_owned),
    };
    for number in 0..KEPT_DELIVERIES + 20 {
        let deliveries = vec![delivery(2 * number, None), delivery(2 * number + 1, Some("timed out"))];
        let settled = Settled { deliveries, ..Settled::default() };
        assert_eq!(store.webhooks.settle(&id, settled).await, Ok(true));
    }
    let newest = 2 * (KEPT_DELIVERIES + 19) + 1;
    let kept = store.webhooks.deliveries(&id, ALL).await.unwrap();
    assert_eq!(kept.len() as u64, KEPT_DELIVERIES);
    assert_eq!(kept[..2], [delivery(newest, Some("timed out")), delivery(newest - 1, None)]);
    assert_eq!(store.webhooks.deliveries(&id, 3).await.unwrap().len(), 3);
    let place = standing(store, &id).await.place;
    assert_eq!((place.succeeded_at, place.failed_at), (Some(at(newest - 1)), Some(at(newest))));
}

pub async fn a_removed_one_leaves_nothing(store: &Store) {
    let (id, other) = (added(store, 1).await, added(store, 2).await);
    for id in [&id, &other] {
        settle(store, id, (1..=1_200).map(|n| Settlement::Waits(row(n, 1))).collect()).await;
        settle(store, id, vec![Settlement::Parked(row(5_000, 1))]).await;
    }
    assert_eq!(store.webhooks.remove(&id).await, Ok(true));
    assert_eq!(store.webhooks.remove(&id).await, Ok(false));
    assert_eq!(store.webhooks.settle(&id, Settled::default()).await, Ok(false), "nothing brings it back");
    assert_eq!((rows(store, &id, false).await, rows(store, &id, true).await), (vec![], vec![]));
    assert_eq!(store.webhooks.deliveries(&id, ALL).await, Ok(vec![]));
    assert_eq!(store.webhooks.all().await.unwrap().len(), 1);
    assert_eq!(rows(store, &other, false).await.len(), 1_200);
}

pub async fn there_are_not_too_many(store: &Store) {
    for number in 0..MAX_WEBHOOKS {
        let mut bytes = [0; 10];
        bytes[0] = u8::try_from(number % 32).unwrap();
        bytes[1] = u8::try_from(number / 32).unwrap();
        let one = Webhook { id: WebhookId::from_random(bytes), ..webhook(1) };
        assert_eq!(store.webhooks.add(one).await, Ok(true));
    }
    let one_more = Webhook { id: WebhookId::from_random([31; 10]), ..webhook(1) };
    assert_eq!(store.webhooks.add(one_more).await, Ok(false));
    assert_eq!(store.webhooks.all().await.unwrap().len(), MAX_WEBHOOKS);
}

pub async fn the_oldest_parked_go_and_are_counted(store: &Store) {
    let id = added(store, 1).await;
    let park = |numbers: std::ops::RangeInclusive<u64>| numbers.map(|n| Settlement::Parked(row(n, 1))).collect();
    settle(store, &id, park(1..=KEPT_PARKED)).await;
    settle(store, &id, park(KEPT_PARKED + 1..=KEPT_PARKED + 3)).await;
    let place = standing(store, &id).await.place;
    assert_eq!((place.parked, place.missed), (KEPT_PARKED, 3));
    assert_eq!(rows(store, &id, true).await[0].notice, notice(4));
}
