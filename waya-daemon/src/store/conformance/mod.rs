//! What every engine must do, as a suite of async functions over a fresh [`Store`].
//!
//! An engine runs the whole suite with [`conformance_suite!`](crate::conformance_suite), which makes a test of each
//! function, and compares itself with [`model::Model`] under random operations.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these are tests, also where they are compiled for others"
)]

pub mod chats;
pub mod contacts;
pub mod journal;
pub mod model;
pub mod outbox;
#[cfg(test)]
pub mod random;
pub mod retention;
pub mod values;
pub mod webhooks;

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::{Batch, Enqueued, Store};
use crate::model::{ChatId, Content, Incoming, Lane, MessageId, NewMessage, Source, Timestamp, WhatsAppId};

/// Makes a test of each function of the suite. `$fresh` is the absolute path of a function that gives an empty store
/// and whatever keeps it.
#[macro_export]
macro_rules! conformance_suite {
    ($fresh:expr) => {
        $crate::conformance_suite!(@tests $fresh,
            outbox: accepted_rows_are_read_back, a_batch_is_accepted_in_order, a_repeat_queues_nothing,
                files_are_in_use_while_their_messages_are_open,
                another_body_under_the_same_key_is_a_conflict, a_forgotten_key_is_fresh_again,
                a_large_request_is_repeated_whole, one_at_a_time_of_equal_requests_wins,
                a_message_goes_all_the_way, members_are_kept_and_counted, what_does_not_fit_is_refused, an_unknown_row_is_said_to_be,
                a_failed_one_that_arrived_is_sent, retried_by_hand_it_is_open_again, open_rows_come_oldest_first,
                whatsapp_ids_are_known_from_the_first_claim_on, references_find_the_newest_first,
                lists_are_filtered_and_newest_first, any_text_comes_back_byte_for_byte;
            journal: incoming_is_recorded_once, a_learnt_phone_makes_no_second_message, an_incoming_message_comes_back_whole,
                changes_are_journalled_but_claims_are_not, an_incoming_message_is_found_by_its_id,
                pages_go_on_where_they_stopped, newest_moves_with_appends;
            retention: what_is_young_or_among_the_newest_stays, what_is_open_holds_nothing_back, forgotten_requests_go,
                old_events_go_and_cursors_go_on, what_was_pruned_leaves_nothing_behind,
                what_is_cleared_goes_and_its_request_is_remembered;
            contacts: nobody_is_nobody, phone_and_lid_become_one, two_rows_become_one, a_new_lid_replaces_the_old_one,
                a_merge_leaves_no_old_lid_behind,
                the_later_word_on_registration_wins, the_newest_name_wins, who_wrote_in_private_is_known;
            chats: a_chat_comes_back_whole, what_is_not_told_again_stays, the_chats_of_phone_and_lid_are_one,
                chats_become_one_when_their_people_do, nothing_is_left_of_a_forgotten_account;
            values: values_are_set_replaced_and_removed, namespaces_are_apart, a_long_value_comes_back;
            webhooks: a_webhook_begins_now_and_comes_back_whole, it_is_written_anew_and_keeps_its_place,
                notices_wait_are_parked_and_settled, parked_ones_wait_again_on_the_users_word,
                only_the_newest_deliveries_stay, a_removed_one_leaves_nothing, there_are_not_too_many,
                the_oldest_parked_go_and_are_counted;
        );
    };
    (@tests $fresh:expr, $($module:ident: $($name:ident),+;)+) => {
        $(mod $module { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (store, _keep) = ($fresh)();
                $crate::store::conformance::$module::$name(&store).await;
            }
        )+ })+
    };
}

/// A time of the tests: so many seconds after they began.
#[must_use]
pub const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
}

/// An id as of `now`, greater than all before as long as time goes on.
#[must_use]
pub fn new_id(now: Timestamp) -> MessageId {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let made = u128::from(MADE.fetch_add(1, Ordering::Relaxed));
    MessageId(Uuid::from_u128(u128::from(now.as_millis()) << 80 | 0x7 << 76 | 0b10 << 62 | made))
}

/// A chat of the tests.
#[must_use]
pub fn chat(number: u64) -> ChatId {
    ChatId::phone(&format!("62812000000{number:02}"))
}

/// A message of the tests, accepted at `now`.
#[must_use]
pub fn message(text: &str, now: Timestamp) -> NewMessage {
    NewMessage {
        id: new_id(now),
        reference_id: None,
        chat: chat(1),
        text: text.to_owned(),
        content: Content::default(),
        lane: Lane::Normal,
        source: Source::Api,
        whatsapp_id: WhatsAppId::from_random(rand::random()),
        created_at: now,
        not_before: None,
    }
}

/// Accepts one message.
pub async fn enqueued(store: &Store, new: NewMessage) -> MessageId {
    let id = new.id;
    let batch = Batch { messages: vec![new], idempotency: None };
    assert_eq!(store.outbox.enqueue(batch).await, Ok(Enqueued::Fresh));
    id
}

/// An incoming message of the tests.
#[must_use]
pub fn incoming(id: &str, text: &str, now: Timestamp) -> Incoming {
    Incoming {
        id: id.to_owned(),
        chat: chat(2),
        chat_lid: Some("1234567890".to_owned()),
        sender: chat(2),
        sender_lid: Some("1234567890".to_owned()),
        from_me: false,
        push_name: Some("Budi".to_owned()),
        kind: "chat".to_owned(),
        text: text.to_owned(),
        timestamp: now,
        received_at: now,
        raw: vec![0, 1, 2, 255],
    }
}
