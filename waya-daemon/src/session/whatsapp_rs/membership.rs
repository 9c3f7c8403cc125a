//! Whether this account is in a group, by the library's cache of groups, which the server's notifications keep.

use std::time::Duration;

use whatsapp_rust::features::GroupError;
use whatsapp_rust::{Client, IqError, Jid};

/// A question that takes longer is left to the hand-over.
const ANSWER_TAKES: Duration = Duration::from_secs(10);

/// `None` when that cannot be found out now.
pub(super) async fn is_in_group(client: &Client, group: &Jid) -> Option<bool> {
    let groups = client.groups();
    match tokio::time::timeout(ANSWER_TAKES, groups.query_info(group)).await.ok()? {
        Ok(info) => {
            let me: Vec<Jid> = [client.pn(), client.lid()].into_iter().flatten().collect();
            let is_me =
                |member: &Jid| me.iter().any(|me| me.server == member.server && me.user_base() == member.user_base());
            Some(info.participants.iter().any(is_me))
        }
        // Not a member, and not a group: WhatsApp does not tell the two apart.
        Err(GroupError::Iq(IqError::ServerError { code: 401 | 403 | 404 | 406 | 410, .. })) => Some(false),
        Err(error) => {
            tracing::debug!(%error, "whether this account is in a group cannot be found out");
            None
        }
    }
}
