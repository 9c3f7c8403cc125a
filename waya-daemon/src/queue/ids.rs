//! Queue ids that grow: UUID v7 whose order is the order of acceptance, also when the clock goes back.

use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::model::{MessageId, Timestamp};

/// Bits of the counter that orders ids of one millisecond: `rand_a` (12) and the head of `rand_b` (14).
const COUNTER_BITS: u32 = 26;
/// A fresh millisecond starts its counter below this, which leaves room to count.
const FRESH_BELOW: u32 = 1 << (COUNTER_BITS - 1);

/// Makes ids, each greater than all before it.
#[derive(Debug)]
pub struct IdGenerator(Mutex<Last>);

#[derive(Debug, Clone, Copy)]
struct Last {
    millis: u64,
    counter: u32,
}

impl IdGenerator {
    /// Goes on after `newest`, the greatest id there is.
    #[must_use]
    pub fn after(newest: Option<MessageId>) -> Self {
        let last = newest.map_or(Last { millis: 0, counter: 0 }, |id| {
            let bits = id.0.as_u128();
            let high = u32::try_from((bits >> 64) & 0xfff).unwrap_or(0);
            let low = u32::try_from((bits >> 48) & 0x3fff).unwrap_or(0);
            Last { millis: u64::try_from(bits >> 80).unwrap_or(0), counter: (high << 14) | low }
        });
        Self(Mutex::new(last))
    }

    /// The next id; `now` moves it forward and never back.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> MessageId {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.as_millis() > last.millis {
            *last = Last { millis: now.as_millis(), counter: rand::random_range(0..FRESH_BELOW) };
        } else if last.counter + 1 < 1 << COUNTER_BITS {
            last.counter += 1;
        } else {
            *last = Last { millis: last.millis + 1, counter: 0 };
        }
        let (millis, counter) = (u128::from(last.millis & 0xffff_ffff_ffff), u128::from(last.counter));
        drop(last);
        let random = u128::from(rand::random::<u64>() & 0xffff_ffff_ffff);
        let version = 0x7000_u128 | (counter >> 14);
        let variant = 0x8000_u128 | (counter & 0x3fff);
        MessageId(Uuid::from_u128(millis << 80 | version << 64 | variant << 48 | random))
    }
}

#[cfg(test)]
mod tests {
    use super::IdGenerator;
    use crate::model::Timestamp;

    proptest::proptest! {
        #[test]
        fn ids_grow_whatever_the_clock_does(times in proptest::collection::vec(0u64..1 << 45, 1..200)) {
            let mut generator = IdGenerator::after(None);
            let mut last = None;
            for (n, time) in times.into_iter().enumerate() {
                let id = generator.next(Timestamp::from_millis(time));
                proptest::prop_assert!(Some(id) > last, "{id} after {last:?}");
                proptest::prop_assert_eq!(id.0.get_version_num(), 7);
                last = Some(id);
                if n % 5 == 0 {
                    generator = IdGenerator::after(last);
                }
            }
        }
    }
}
