//! What chats see before an answer leaves, and that nothing else changes by it.

use std::time::Duration;

use tokio::time::Instant;

use super::Draft;
use super::testing::{Deed, Wild, World, draft, offline, quick};
use crate::model::{
    Attachment, Body, ChatId, Content, Lane, LinkState, MediaHash, MediaKind, MessageId, Quoted, Status,
};
use crate::session::ChatState::{self, Paused, Recording, Typing};
use crate::settings::Snapshot;
use crate::store::Changed;

fn typing(settings: Snapshot) -> Snapshot {
    Snapshot { typing: true, ..settings }
}

/// An answer of so many characters.
fn answer(person: u8, length: usize) -> Draft {
    let quoted = Quoted { id: "A".to_owned(), author: None, text: "Halo".to_owned() };
    let content = Content { quoted: Some(quoted), ..Content::default() };
    Draft { text: "x".repeat(length), content, ..draft(person, Lane::Normal) }
}

fn chat(person: u8) -> ChatId {
    draft(person, Lane::Normal).chat
}

/// Waits until this is what was shown.
async fn shown(world: &World, wanted: &[(u8, ChatState)]) {
    let wanted: Vec<_> = wanted.iter().map(|(person, state)| (chat(*person), *state)).collect();
    let waited = tokio::time::timeout(Duration::from_mins(10), async {
        while world.whatsapp.shown() != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{:?}", world.whatsapp.shown()));
}

async fn is_pending(world: &World, id: MessageId) -> bool {
    world.message(id).await.status == Status::Pending
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_typed_for_as_long_as_it_is_and_then_leaves() {
    let world = World::new(typing(Snapshot::default())).await;
    for (count, length, from, to) in [(1, 4, 600, 1_000), (2, 60, 2_100, 3_300), (3, 5_000, 4_000, 6_100)] {
        let (start, id) = (Instant::now(), world.accept_draft(answer(1, length)).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(is_pending(&world, id).await, "it can still be taken back");
        let took = world.handed_over(count).await - start;
        assert!((from..to).contains(&took.as_millis()), "{length} characters took {took:?}");
        let both: Vec<_> = std::iter::repeat_n([(1, Typing), (1, Paused)], count).flatten().collect();
        shown(&world, &both).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_answers_are_typed_and_only_when_it_is_wanted() {
    let world = World::new(quick()).await;
    world.accept_draft(answer(1, 10)).await;
    world.handed_over(1).await;
    world.settings.send_modify(|settings| settings.typing = true);
    // Nobody wrote.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.accept(2, Lane::Normal).await;
    world.handed_over(2).await;
    assert_eq!(world.whatsapp.shown(), []);
    // An automatic reply, and one to somebody who has just written.
    world.accept(3, Lane::Reply).await;
    world.handed_over(3).await;
    shown(&world, &[(3, Typing), (3, Paused)]).await;
    world.queue.on_wrote(chat(4));
    world.accept(4, Lane::Normal).await;
    world.handed_over(4).await;
    shown(&world, &[(3, Typing), (3, Paused), (4, Typing), (4, Paused)]).await;
    // That was long ago.
    tokio::time::sleep(Duration::from_hours(1)).await;
    world.accept(4, Lane::Normal).await;
    world.handed_over(5).await;
    assert_eq!(world.whatsapp.shown().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_voice_note_is_recorded() {
    let world = World::new(typing(quick())).await;
    let file = Attachment {
        hash: MediaHash([1; 32]),
        size: 3,
        kind: MediaKind::Voice,
        mimetype: "audio/ogg; codecs=opus".to_owned(),
        filename: None,
        width: None,
        height: None,
        seconds: Some(2),
        pages: None,
    };
    std::fs::write(world.media.path(file.hash), "x").unwrap();
    let content = Content { body: Body::Media(file), ..answer(1, 0).content };
    world.accept_draft(Draft { content, ..draft(1, Lane::Normal) }).await;
    world.handed_over(1).await;
    shown(&world, &[(1, Recording), (1, Paused)]).await;
}

#[tokio::test(start_paused = true)]
async fn others_leave_meanwhile_and_the_pace_is_kept() {
    let world = World::new(typing(Snapshot::default())).await;
    let start = Instant::now();
    let slow = world.accept_draft(answer(1, 5_000)).await;
    world.accept(2, Lane::Normal).await;
    let first = world.handed_over(1).await;
    assert!(first - start < Duration::from_millis(200), "{:?}", first - start);
    assert!(is_pending(&world, slow).await);
    // Its turn is the next one, no later than without.
    let second = world.handed_over(2).await;
    assert!((5_000..6_300).contains(&(second - first).as_millis()), "{:?}", second - first);
    assert_eq!(world.whatsapp.sent()[1].chat, chat(1));
    shown(&world, &[(1, Typing), (1, Paused)]).await;
    // Several answers: typed while the one before them leaves its gap, one after the other.
    for person in 3..8 {
        world.accept_draft(answer(person, 40)).await;
    }
    let mut last = world.handed_over(3).await;
    for count in 4..=7 {
        let at = world.handed_over(count).await;
        assert!((5_000..6_700).contains(&(at - last).as_millis()), "{:?}", at - last);
        last = at;
    }
    let typed: Vec<_> = [1].into_iter().chain(3..8).flat_map(|person| [(person, Typing), (person, Paused)]).collect();
    shown(&world, &typed).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_holds_no_short_one_of_another_chat() {
    let world = World::new(typing(Snapshot::default())).await;
    let start = Instant::now();
    world.accept_draft(answer(1, 5_000)).await;
    world.accept_draft(answer(2, 4)).await;
    let short = world.handed_over(1).await;
    assert!(short - start < Duration::from_millis(1_200), "{:?}", short - start);
    assert_eq!(world.whatsapp.sent()[0].chat, chat(2));
    let long = world.handed_over(2).await;
    assert!((5_000..6_300).contains(&(long - short).as_millis()), "{:?}", long - short);
}

#[tokio::test(start_paused = true)]
async fn taken_back_it_is_typed_no_more() {
    let world = World::new(typing(quick())).await;
    let id = world.accept_draft(answer(1, 5_000)).await;
    shown(&world, &[(1, Typing)]).await;
    assert!(matches!(world.queue.cancel(id).await, Ok(Changed::Yes(_))));
    shown(&world, &[(1, Typing), (1, Paused)]).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.whatsapp.sent().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn offline_and_while_paused_nothing_is_typed() {
    let mut world = World::new(typing(quick())).await;
    world.whatsapp.set_link(offline());
    let id = world.accept_draft(answer(1, 5_000)).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.whatsapp.shown(), []);
    world.whatsapp.set_link(LinkState::Connected);
    shown(&world, &[(1, Typing)]).await;
    world.queue.pause().await.unwrap();
    shown(&world, &[(1, Typing), (1, Paused)]).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    world.queue.resume().await.unwrap();
    shown(&world, &[(1, Typing), (1, Paused), (1, Typing)]).await;
    // Nothing of it is claimed yet: after a restart it begins anew, and leaves once.
    assert!(is_pending(&world, id).await);
    world.restart().await;
    world.handed_over(1).await;
    world.until_sent(id).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(world.whatsapp.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failing_sign_fails_no_message() {
    let world = World::new(typing(quick())).await;
    world.whatsapp.show_nothing();
    world.accept_draft(answer(1, 10)).await;
    world.handed_over(1).await;
    // One that panics.
    let wild = Wild::new(|_| Deed::Give(Ok(())));
    let world = World::with(typing(quick()), Some(wild), |store| store).await;
    let id = world.accept_draft(answer(1, 10)).await;
    world.until(id, |message| message.status == Status::Sending).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_pace_most_of_many_go_without() {
    let world = World::new(typing(quick())).await;
    for person in 0..60 {
        world.accept_draft(answer(person, 5_000)).await;
    }
    let start = Instant::now();
    world.sent(30).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(world.whatsapp.shown().len() <= 16);
    world.sent(60).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
