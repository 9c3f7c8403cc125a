//! What incoming messages say to the queue: that somebody is no stranger, that somebody wants no more messages, or wants
//! them again. A word is a whole message in a private chat.

use crate::model::{ChatId, Incoming, Timestamp};
use crate::queue::{By, Queue};
use crate::settings::{Snapshot, folded};
use crate::store::StoreError;

/// What one message says.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// Which message of its batch.
    index: usize,
    writer: ChatId,
    at: Timestamp,
    /// It is one of the words: no more messages, or messages again.
    out: Option<bool>,
}

/// What the messages of a batch say, in their order.
pub fn said(batch: &[Incoming], settings: &Snapshot) -> Vec<Said> {
    let said = |(index, incoming): (usize, &Incoming)| {
        let writer = incoming.private_writer()?.clone();
        Some(Said { index, writer, at: incoming.timestamp, out: word(incoming, settings) })
    };
    batch.iter().enumerate().filter_map(said).collect()
}

fn word(incoming: &Incoming, settings: &Snapshot) -> Option<bool> {
    // A caption or an edit is no message of its own.
    if settings.opt_out_words.is_empty() || incoming.kind != "chat" {
        return None;
    }
    let text = folded(&incoming.text);
    if settings.opt_out_words.contains(&text) {
        return Some(true);
    }
    settings.opt_in_words.contains(&text).then_some(false)
}

/// Writes the words down and tells the queue; `new` says which messages of the batch had not come before.
///
/// # Errors
/// When the store does not take a word; WhatsApp delivers it again then.
pub async fn heed(said: Vec<Said>, new: &[bool], queue: &Queue) -> Result<(), StoreError> {
    for Said { index, writer, at, out } in said {
        if let Some(out) = out {
            let repeated = !new.get(index).copied().unwrap_or(false);
            let changed = queue.opt_outs().said(&writer, out, at, By::Person, repeated).await?;
            if changed && out {
                queue.on_opted_out(writer.clone());
            }
        }
        queue.on_wrote(writer);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::incoming;

    #[test]
    fn only_a_whole_private_message_is_a_word() {
        let settings = Snapshot { opt_out_words: vec!["stop".to_owned()], ..Snapshot::default() };
        let private = |text: &str| {
            let chat = ChatId::phone("6281200000002");
            Incoming { chat: chat.clone(), sender: chat, ..incoming("A", text) }
        };
        let word = |incoming: Incoming, settings: &Snapshot| said(&[incoming], settings).pop().map(|said| said.out);
        assert_eq!(word(private(" Stop\n"), &settings), Some(Some(true)));
        assert_eq!(word(private("MULAI"), &settings), Some(Some(false)));
        assert_eq!(word(private("stop it"), &settings), Some(None));
        assert_eq!(word(Incoming { kind: "image".to_owned(), ..private("stop") }, &settings), Some(None));
        assert_eq!(word(private("stop"), &Snapshot::default()), Some(None), "off unless set");
        assert_eq!(word(Incoming { from_me: true, ..private("stop") }, &settings), None);
        assert_eq!(word(incoming("A", "stop"), &settings), None, "a group");
    }
}
