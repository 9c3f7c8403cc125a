//! Who is in a group, by the library's cache of groups, which the server's notifications keep.

use std::time::Duration;

use whatsapp_rust::features::GroupError;
use whatsapp_rust::{Client, IqError, Jid};

use super::convert;
use crate::model::ChatId;

/// A question that takes longer is left to the hand-over.
const ANSWER_TAKES: Duration = Duration::from_secs(10);

/// Whether this account is in a group; `None` when that cannot be found out now.
pub(super) async fn is_in_group(client: &Client, group: &Jid) -> Option<bool> {
    let groups = client.groups();
    match tokio::time::timeout(ANSWER_TAKES, groups.query_info(group)).await.ok()? {
        Ok(info) => Some(info.participants.iter().any(|member| is_me(client, member))),
        // Not a member, and not a group: WhatsApp does not tell the two apart.
        Err(GroupError::Iq(IqError::ServerError { code: 401 | 403 | 404 | 406 | 410, .. })) => Some(false),
        Err(error) => {
            tracing::debug!(%error, "whether this account is in a group cannot be found out");
            None
        }
    }
}

/// Everybody else in a group, by phone where that is known; `None` when that cannot be found out now.
pub(super) async fn members(client: &Client, group: &Jid) -> Option<Vec<ChatId>> {
    let groups = client.groups();
    let info = tokio::time::timeout(ANSWER_TAKES, groups.query_info(group)).await.ok()?;
    let info = info.inspect_err(|error| tracing::debug!(%error, "a group's members cannot be found out")).ok()?;
    let mut members = Vec::with_capacity(info.participants.len());
    for member in info.participants.iter().filter(|member| !is_me(client, member)) {
        let phone = info.phone_jid_for_lid_user(&member.user).filter(|_| member.is_lid());
        members.push(convert::address(client, member, phone).await?.chat);
    }
    Some(members)
}

fn is_me(client: &Client, member: &Jid) -> bool {
    let me = [client.pn(), client.lid()];
    me.into_iter().flatten().any(|me| me.server == member.server && me.user_base() == member.user_base())
}
