//! What is counted with every commit, so that a lost record shows at the next start.

use sled::IVec;

use super::codec::{self, Bad};
use super::trees::{COUNTERS_KEY, TREES, Tree};
use crate::model::{Cursor, MessageId, Status};
use crate::store::Counts;

/// Counters as of one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// How many groups were committed since the store was made.
    pub commits: u64,
    /// The greatest message id ever accepted.
    pub last_id: Option<MessageId>,
    /// The newest event.
    pub newest: Cursor,
    /// The row number of the newest contact.
    pub last_contact: u64,
    /// Messages by status.
    pub statuses: Counts,
    /// Rows by tree.
    pub rows: [u64; TREES],
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    commits: u64,
    #[prost(bytes = "vec", tag = "2")]
    last_id: Vec<u8>,
    #[prost(uint64, tag = "3")]
    newest: u64,
    #[prost(uint64, tag = "4")]
    last_contact: u64,
    #[prost(uint64, repeated, tag = "5")]
    statuses: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    rows: Vec<u64>,
}

impl Counters {
    /// As stored.
    pub fn encode(&self) -> IVec {
        let Counts { pending, sending, sent, failed, cancelled } = self.statuses;
        let record = Record {
            commits: self.commits,
            last_id: self.last_id.map(|id| id.0.as_bytes().to_vec()).unwrap_or_default(),
            newest: self.newest.0,
            last_contact: self.last_contact,
            statuses: vec![pending, sending, sent, failed, cancelled],
            rows: self.rows.to_vec(),
        };
        codec::seal(COUNTERS_KEY, &prost::Message::encode_to_vec(&record))
    }

    /// From the store.
    pub fn decode(stored: &[u8]) -> Result<Self, Bad> {
        let payload = codec::unseal_inline(COUNTERS_KEY, stored)?;
        let record = <Record as prost::Message>::decode(payload).map_err(|_| Bad::Content)?;
        let status = |n: usize| record.statuses.get(n).copied().unwrap_or_default();
        let mut rows = [0; TREES];
        for (row, stored) in rows.iter_mut().zip(&record.rows) {
            *row = *stored;
        }
        Ok(Self {
            commits: record.commits,
            last_id: super::trees::message_id(&record.last_id),
            newest: Cursor(record.newest),
            last_contact: record.last_contact,
            statuses: Counts {
                pending: status(0),
                sending: status(1),
                sent: status(2),
                failed: status(3),
                cancelled: status(4),
            },
            rows,
        })
    }

    /// The rows of a tree.
    pub fn rows_of(&mut self, tree: Tree) -> &mut u64 {
        &mut self.rows[tree as usize]
    }

    /// The messages of a status.
    pub fn status_of(&mut self, status: Status) -> &mut u64 {
        let counts = &mut self.statuses;
        match status {
            Status::Pending => &mut counts.pending,
            Status::Sending => &mut counts.sending,
            Status::Sent => &mut counts.sent,
            Status::Failed => &mut counts.failed,
            Status::Cancelled => &mut counts.cancelled,
        }
    }

    /// Finished messages.
    pub fn finished(&self) -> u64 {
        self.statuses.sent + self.statuses.failed + self.statuses.cancelled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_the_way_to_disk() {
        let mut counters = Counters { commits: 7, newest: Cursor(9), last_contact: 3, ..Counters::default() };
        counters.last_id = Some(MessageId(uuid::Uuid::from_u128(5)));
        *counters.status_of(Status::Failed) = 4;
        *counters.rows_of(Tree::Quarantine) = 2;
        assert_eq!(Counters::decode(&counters.encode()), Ok(counters));
        let mut broken = counters.encode().to_vec();
        *broken.last_mut().unwrap() ^= 1;
        assert_eq!(Counters::decode(&broken), Err(Bad::Checksum));
    }
}
