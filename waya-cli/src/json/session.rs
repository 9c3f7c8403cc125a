//! `GET /api/session` and `GET /api/status`.

use serde::Serialize;
use serde_json::Value;
use waya_proto::v1;

/// The link to WhatsApp.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    state: String,
    since: i64,
    reason: Option<String>,
    retry_at: Option<i64>,
    me: Option<Account>,
    qr: Option<QrCode>,
    pairing_code: Option<String>,
    passkey: Option<Passkey>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Passkey {
    step: String,
    request: Option<Value>,
    expires_at: Option<i64>,
    code: Option<String>,
}

/// The link after a logout.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Logout {
    #[serde(flatten)]
    session: Session,
    still_listed: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Account {
    number: String,
    lid: Option<String>,
    name: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct QrCode {
    text: String,
    png: String,
    expires_at: Option<i64>,
}

/// The daemon as a whole: the session's fields, and what stands around it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonStatus {
    #[serde(flatten)]
    session: Session,
    queue: QueueSummary,
    last_traffic_at: Option<i64>,
    version: String,
    profile: String,
    started_at: i64,
    http: Option<String>,
    kind: String,
    store_ready: bool,
    known: Known,
}

/// How many people and chats are known.
#[derive(Debug, Clone, Serialize)]
pub struct Known {
    people: u64,
    chats: u64,
}

/// How many messages stand where.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueSummary {
    paused: bool,
    pending: u64,
    sending: u64,
    sent: u64,
    failed: u64,
    cancelled: u64,
    oldest_pending_at: Option<i64>,
}

impl From<v1::Session> for Session {
    fn from(session: v1::Session) -> Self {
        Self {
            state: super::link_state(session.state),
            since: session.since,
            reason: session.reason,
            retry_at: session.retry_at,
            me: session.me.map(|me| Account { number: me.number, lid: me.lid, name: me.name }),
            qr: session.qr.map(|qr| QrCode { text: qr.text, png: qr.png, expires_at: qr.expires_at }),
            pairing_code: session.pairing_code,
            passkey: session.passkey.map(Passkey::from),
        }
    }
}

impl From<v1::Passkey> for Passkey {
    fn from(passkey: v1::Passkey) -> Self {
        Self {
            step: passkey.step,
            // What is no JSON is shown as the text it is.
            request: passkey.request.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
            expires_at: passkey.expires_at,
            code: passkey.code,
        }
    }
}

impl From<v1::LogoutResponse> for Logout {
    fn from(answer: v1::LogoutResponse) -> Self {
        Self { session: answer.session.unwrap_or_default().into(), still_listed: answer.still_listed }
    }
}

impl From<v1::QueueSummary> for QueueSummary {
    fn from(summary: v1::QueueSummary) -> Self {
        Self {
            paused: summary.paused,
            pending: summary.pending,
            sending: summary.sending,
            sent: summary.sent,
            failed: summary.failed,
            cancelled: summary.cancelled,
            oldest_pending_at: summary.oldest_pending_at,
        }
    }
}

impl From<v1::GetStatusResponse> for DaemonStatus {
    fn from(status: v1::GetStatusResponse) -> Self {
        Self {
            session: status.session.unwrap_or_default().into(),
            queue: status.queue.unwrap_or_default().into(),
            last_traffic_at: status.last_traffic_at,
            version: status.version,
            profile: status.profile,
            started_at: status.started_at,
            http: status.http,
            kind: status.kind,
            store_ready: status.store_ready,
            known: Known { people: status.people, chats: status.chats },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_has_the_sessions_fields_and_its_own() {
        let status = v1::GetStatusResponse {
            session: Some(v1::Session {
                state: v1::LinkState::Pairing.into(),
                since: 1,
                qr: Some(v1::QrCode { text: "2@x".to_owned(), expires_at: Some(2), png: "iVBO".to_owned() }),
                me: Some(v1::Account { number: "628".to_owned(), lid: None, name: "Toko".to_owned() }),
                ..v1::Session::default()
            }),
            queue: Some(v1::QueueSummary { pending: 3, oldest_pending_at: Some(4), ..v1::QueueSummary::default() }),
            version: "0.1.0".to_owned(),
            profile: "default".to_owned(),
            kind: "real".to_owned(),
            store_ready: true,
            people: 7,
            chats: 2,
            ..v1::GetStatusResponse::default()
        };
        insta::assert_json_snapshot!(DaemonStatus::from(status), @r#"
        {
          "state": "pairing",
          "since": 1,
          "reason": null,
          "retryAt": null,
          "me": {
            "number": "628",
            "lid": null,
            "name": "Toko"
          },
          "qr": {
            "text": "2@x",
            "png": "iVBO",
            "expiresAt": 2
          },
          "pairingCode": null,
          "passkey": null,
          "queue": {
            "paused": false,
            "pending": 3,
            "sending": 0,
            "sent": 0,
            "failed": 0,
            "cancelled": 0,
            "oldestPendingAt": 4
          },
          "lastTrafficAt": null,
          "version": "0.1.0",
          "profile": "default",
          "startedAt": 0,
          "http": null,
          "kind": "real",
          "storeReady": true,
          "known": {
            "people": 7,
            "chats": 2
          }
        }
        "#);
    }
}
