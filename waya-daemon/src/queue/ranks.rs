//! A sorted set that also tells how many stand before one of its members, without walking through them.

use crate::model::MessageId;

/// A full chunk is cut in two.
const FULL: usize = 1024;

/// Ids in order, in sorted chunks none of which is empty.
#[derive(Debug, Default)]
pub struct Ranks {
    chunks: Vec<Vec<MessageId>>,
    len: usize,
}

impl Ranks {
    /// Puts one in its place; one that is there already stays.
    pub fn insert(&mut self, id: MessageId) {
        let Some(last) = self.chunks.len().checked_sub(1) else {
            self.chunks.push(vec![id]);
            self.len = 1;
            return;
        };
        let at = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|greatest| *greatest < id)).min(last);
        let chunk = &mut self.chunks[at];
        let Err(place) = chunk.binary_search(&id) else { return };
        chunk.insert(place, id);
        self.len += 1;
        if chunk.len() >= FULL {
            let upper = chunk.split_off(FULL / 2);
            self.chunks.insert(at + 1, upper);
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, id: MessageId) {
        let Some((at, place)) = self.find(id) else { return };
        self.chunks[at].remove(place);
        self.len -= 1;
        if self.chunks[at].is_empty() {
            self.chunks.remove(at);
        }
    }

    fn find(&self, id: MessageId) -> Option<(usize, usize)> {
        let at = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|greatest| *greatest < id));
        let place = self.chunks.get(at)?.binary_search(&id).ok()?;
        Some((at, place))
    }

    /// How many stand before it; `None` when it is not here.
    #[must_use]
    pub fn before(&self, id: MessageId) -> Option<usize> {
        let (at, place) = self.find(id)?;
        Some(self.chunks[..at].iter().map(Vec::len).sum::<usize>() + place)
    }

    /// The least.
    #[must_use]
    pub fn first(&self) -> Option<MessageId> {
        self.chunks.first().and_then(|chunk| chunk.first()).copied()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Ranks;
    use crate::model::MessageId;

    proptest::proptest! {
        #[test]
        fn ranks_as_a_plain_set_would(steps in proptest::collection::vec((0u8..3, 0u128..3_000), 1..6_000)) {
            let (mut ranks, mut plain) = (Ranks::default(), BTreeSet::new());
            for (n, (step, number)) in steps.into_iter().enumerate() {
                let id = MessageId(uuid::Uuid::from_u128(number));
                if step == 0 {
                    ranks.remove(id);
                    plain.remove(&id);
                } else {
                    ranks.insert(id);
                    plain.insert(id);
                }
                proptest::prop_assert_eq!(ranks.len(), plain.len());
                proptest::prop_assert_eq!(ranks.first(), plain.first().copied());
                if n % 50 == 0 {
                    let expected = plain.contains(&id).then(|| plain.range(..id).count());
                    proptest::prop_assert_eq!(ranks.before(id), expected);
                }
            }
        }
    }
}
