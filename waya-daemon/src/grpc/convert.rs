//! From the shapes of the answers to the contract's messages, and the few words that come the other way.

use tonic::Status as Refused;
use waya_proto::v1;

use super::error::unknown_value;
use crate::api::view::{
    AcceptedView, ApiKeyView, EventBodyView, EventView, EventsView, FitsView, IncomingView, LinkView, MessageView,
    OptOutView, QueueSummary, QueueView, RequestSideView, RequestSummaryView, RequestView, RequestsView, SendAnswer,
    SessionView, SettingView, StatusChangedView, StatusView,
};
use crate::model::{Ack, Source, Status, Timestamp};

pub(super) fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn maybe_millis(time: Option<Timestamp>) -> Option<i64> {
    time.map(millis)
}

const fn status(status: Status) -> v1::Status {
    match status {
        Status::Pending => v1::Status::Pending,
        Status::Sending => v1::Status::Sending,
        Status::Sent => v1::Status::Sent,
        Status::Failed => v1::Status::Failed,
        Status::Cancelled => v1::Status::Cancelled,
    }
}

/// The statuses that a caller wants to see.
pub(super) fn statuses(wanted: &[i32]) -> Result<Vec<Status>, Refused> {
    wanted.iter().map(|wanted| status_named("statuses", *wanted)).collect()
}

/// The status that a caller names in `field`.
pub(super) fn status_named(field: &'static str, status: i32) -> Result<Status, Refused> {
    match v1::Status::try_from(status) {
        Ok(v1::Status::Pending) => Ok(Status::Pending),
        Ok(v1::Status::Sending) => Ok(Status::Sending),
        Ok(v1::Status::Sent) => Ok(Status::Sent),
        Ok(v1::Status::Failed) => Ok(Status::Failed),
        Ok(v1::Status::Cancelled) => Ok(Status::Cancelled),
        Ok(v1::Status::Unspecified) | Err(_) => Err(unknown_value(field)),
    }
}

const fn ack(ack: Ack) -> v1::Ack {
    match ack {
        Ack::None => v1::Ack::None,
        Ack::Server => v1::Ack::Server,
        Ack::Device => v1::Ack::Device,
        Ack::Read => v1::Ack::Read,
        Ack::Played => v1::Ack::Played,
    }
}

const fn source(source: Source) -> &'static str {
    match source {
        Source::Api => "api",
        Source::Cli => "cli",
    }
}

/// By the contract's word, so that views stay free of transports.
fn link_state(word: &str) -> v1::LinkState {
    v1::LinkState::from_str_name(&format!("LINK_STATE_{}", word.to_ascii_uppercase())).unwrap_or_default()
}

impl From<SessionView> for v1::Session {
    fn from(session: SessionView) -> Self {
        Self {
            state: link_state(session.state).into(),
            since: millis(session.since),
            reason: session.reason,
            retry_at: maybe_millis(session.retry_at),
            me: session.me.map(|me| v1::Account { number: me.number, lid: me.lid, name: me.name }),
            qr: session.qr.map(|qr| v1::QrCode { text: qr.text, expires_at: maybe_millis(qr.expires_at), png: qr.png }),
            pairing_code: session.pairing_code,
            passkey: session.passkey.map(|passkey| v1::Passkey {
                step: passkey.step.to_owned(),
                request: passkey.request.map(|request| request.to_string()),
                expires_at: maybe_millis(passkey.expires_at),
                code: passkey.code,
            }),
        }
    }
}

impl From<QueueSummary> for v1::QueueSummary {
    fn from(summary: QueueSummary) -> Self {
        Self {
            paused: summary.paused,
            pending: summary.pending,
            sending: summary.sending,
            sent: summary.sent,
            failed: summary.failed,
            cancelled: summary.cancelled,
            oldest_pending_at: maybe_millis(summary.oldest_pending_at),
        }
    }
}

impl From<StatusView> for v1::GetStatusResponse {
    fn from(status: StatusView) -> Self {
        Self {
            session: Some(status.session.into()),
            queue: Some(status.queue.into()),
            last_traffic_at: maybe_millis(status.last_traffic_at),
            version: status.version.to_owned(),
            profile: status.profile,
            started_at: millis(status.started_at),
            http: status.http,
            kind: status.kind.to_owned(),
            store_ready: status.store_ready,
            people: status.known.people,
            chats: status.known.chats,
        }
    }
}

impl From<SendAnswer> for v1::SendResponse {
    fn from(answer: SendAnswer) -> Self {
        Self {
            messages: answer.messages.into_iter().map(v1::Accepted::from).collect(),
            duplicates: answer.duplicates,
            fits: answer.fits.map(v1::Fits::from),
        }
    }
}

impl From<FitsView> for v1::Fits {
    fn from(fits: FitsView) -> Self {
        Self {
            today: fits.today,
            later: fits.later,
            last_leaves_at: maybe_millis(fits.last_leaves_at),
            cold_contact: fits.held.cold_contact,
        }
    }
}

impl From<OptOutView> for v1::OptOut {
    fn from(one: OptOutView) -> Self {
        Self { number: one.number, chat_id: one.chat_id.into(), since: millis(one.since), by: one.by.to_owned() }
    }
}

impl From<AcceptedView> for v1::Accepted {
    fn from(accepted: AcceptedView) -> Self {
        Self {
            id: accepted.id.map(|id| id.to_string()).unwrap_or_default(),
            reference_id: accepted.reference_id,
            number: accepted.number,
            chat_id: accepted.chat_id.into(),
            status: status(accepted.status).into(),
            position: accepted.position,
        }
    }
}

impl From<MessageView> for v1::Message {
    fn from(message: MessageView) -> Self {
        Self {
            id: message.id.to_string(),
            reference_id: message.reference_id,
            number: message.number,
            chat_id: message.chat_id.into(),
            message: message.message,
            status: status(message.status).into(),
            error: message.error,
            created_at: millis(message.created_at),
            sent_at: maybe_millis(message.sent_at),
            delivered_at: maybe_millis(message.delivered_at),
            read_at: maybe_millis(message.read_at),
            ack: ack(message.ack).into(),
            whatsapp_id: message.whatsapp_id,
            source: source(message.source).to_owned(),
            attempts: message.attempts,
            hold: message.hold.map(|hold| v1::Hold { reason: hold.reason.to_owned(), until: maybe_millis(hold.until) }),
            position: message.position,
            estimated_at: maybe_millis(message.estimated_at),
            receipts: message.receipts.map(|seen| v1::Receipts {
                members: seen.members,
                delivered: seen.delivered,
                read: seen.read,
            }),
        }
    }
}

impl From<MessageView> for v1::GetMessageResponse {
    fn from(mut message: MessageView) -> Self {
        let messages = std::mem::take(&mut message.messages).into_iter().map(v1::Message::from).collect();
        Self { total: message.total, message: Some(message.into()), messages }
    }
}

impl From<QueueView> for v1::ListResponse {
    fn from(queue: QueueView) -> Self {
        Self {
            summary: Some(queue.summary.into()),
            messages: queue.messages.into_iter().map(v1::Message::from).collect(),
            next: queue.next.map(|id| id.to_string()),
        }
    }
}

impl From<EventsView> for v1::ReadResponse {
    fn from(page: EventsView) -> Self {
        Self { events: page.events.into_iter().map(v1::Event::from).collect(), next: page.next }
    }
}

impl From<EventView> for v1::Event {
    fn from(event: EventView) -> Self {
        use v1::event::Body;
        let body = match event.body {
            EventBodyView::Message { message } => Body::Message(message.into()),
            EventBodyView::Status { status } => Body::Status(status.into()),
            EventBodyView::Link { link } => Body::Link(link.into()),
        };
        Self { cursor: event.cursor, at: millis(event.at), body: Some(body) }
    }
}

impl From<IncomingView> for v1::IncomingMessage {
    fn from(message: IncomingView) -> Self {
        Self {
            id: message.id,
            chat_id: message.chat_id.into(),
            sender: message.sender.into(),
            sender_lid: message.sender_lid,
            from_me: message.from_me,
            sender_name: message.sender_name,
            r#type: message.kind,
            body: message.body,
            timestamp: millis(message.timestamp),
            is_group: message.is_group,
        }
    }
}

impl From<StatusChangedView> for v1::StatusChanged {
    fn from(changed: StatusChangedView) -> Self {
        Self {
            id: changed.id.to_string(),
            reference_id: changed.reference_id,
            chat_id: changed.chat_id.into(),
            status: status(changed.status).into(),
            ack: ack(changed.ack).into(),
            error: changed.error,
            number: changed.number,
        }
    }
}

impl From<LinkView> for v1::LinkChanged {
    fn from(link: LinkView) -> Self {
        Self { state: link_state(link.state).into(), reason: link.reason }
    }
}

impl From<RequestsView> for v1::ListRequestsResponse {
    fn from(list: RequestsView) -> Self {
        let requests = list.requests.into_iter().map(Into::into).collect();
        Self { requests, next: list.next, dropped: list.dropped }
    }
}

impl From<RequestSummaryView> for v1::LoggedRequest {
    fn from(row: RequestSummaryView) -> Self {
        Self {
            id: row.id,
            request_id: row.request_id,
            at: millis(row.at),
            method: row.method,
            url: row.url,
            status: row.status.map(u32::from),
            duration_ms: row.duration_ms,
            ip: row.ip.to_string(),
            key: row.key,
        }
    }
}

impl From<RequestView> for v1::GetRequestResponse {
    fn from(row: RequestView) -> Self {
        Self {
            summary: Some(row.summary.into()),
            request: Some(row.request.into()),
            response: Some(row.response.into()),
        }
    }
}

impl From<RequestSideView> for v1::RequestSide {
    fn from(side: RequestSideView) -> Self {
        let text = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let headers = side.headers.into_iter().map(|(name, value)| (name, text(value))).collect();
        Self { headers, body: side.body, size: side.size }
    }
}

impl From<ApiKeyView> for v1::ApiKey {
    fn from(key: ApiKeyView) -> Self {
        Self {
            name: key.name,
            scopes: key.scopes.into_iter().map(str::to_owned).collect(),
            created_at: maybe_millis(key.created_at),
        }
    }
}

impl From<SettingView> for v1::Setting {
    fn from(setting: SettingView) -> Self {
        Self {
            key: setting.key.to_owned(),
            value: setting.value,
            default_value: setting.default.to_owned(),
            origin: setting.origin,
            description: setting.description.to_owned(),
            pinned: setting.pinned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LinkState, OfflineReason, PasskeyStep};

    #[test]
    fn every_state_of_the_link_has_its_number() {
        let all = [
            (LinkState::Unpaired, v1::LinkState::Unpaired),
            (LinkState::Pairing { qr: None, code: None, expires_at: None }, v1::LinkState::Pairing),
            (LinkState::Connecting, v1::LinkState::Connecting),
            (LinkState::Connected, v1::LinkState::Connected),
            (LinkState::Offline { reason: OfflineReason(String::new()), retry_at: None }, v1::LinkState::Offline),
            (LinkState::Replaced, v1::LinkState::Replaced),
            (LinkState::LoggedOut { reason: String::new() }, v1::LinkState::LoggedOut),
            (LinkState::Locked, v1::LinkState::Locked),
            (LinkState::Banned { until: None }, v1::LinkState::Banned),
            (LinkState::Outdated, v1::LinkState::Outdated),
            (LinkState::PasskeyRequired { step: PasskeyStep::Answered }, v1::LinkState::PasskeyRequired),
        ];
        for (state, expected) in all {
            assert_eq!(link_state(state.name()), expected);
        }
    }

    #[test]
    fn unknown_statuses_are_refused() {
        assert_eq!(statuses(&[v1::Status::Failed.into()]).ok(), Some(vec![Status::Failed]));
        for wrong in [0, 99, -1] {
            assert!(statuses(&[wrong]).is_err(), "{wrong}");
        }
    }
}
