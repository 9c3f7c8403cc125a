//! From the domain's words to the shapes of the answers.

use super::keys::ApiKey;
use super::qr;
use super::view::{
    AccountView, ApiKeyView, EventBodyView, EventView, HoldView, IncomingView, LinkView, MessageView, OptOutView,
    PasskeyView, QrView, QueuedByView, ReceiptsView, RequestView, SessionView, SettingView, StatusChangedView,
};
use crate::model::{
    ChatKind, Event, EventBody, Incoming, LinkState, Message, PasskeyStep, Receipts, StatusChanged, Timestamp,
};
use crate::queue::{Hold, OptOut, Outlook};
use crate::session::Link;
use crate::settings::{Origin, Setting};

impl MessageView {
    /// The message as it stands, with why it waits and when it will leave.
    pub(super) fn new(message: Message, outlook: Outlook) -> Self {
        let Outlook { hold, position, estimated_at } = outlook;
        Self {
            id: message.id,
            number: message.chat.number().to_owned(),
            reference_id: message.reference_id,
            chat_id: message.chat,
            message: message.text,
            status: message.status,
            error: message.error,
            created_at: message.created_at,
            sent_at: message.sent_at,
            delivered_at: message.delivered_at,
            read_at: message.read_at,
            ack: message.ack,
            receipts: message.receipts.as_ref().map(Into::into),
            whatsapp_id: message.whatsapp_id.0,
            source: message.source,
            attempts: message.attempts,
            hold: hold.map(Into::into),
            position,
            estimated_at,
            messages: Vec::new(),
            total: None,
        }
    }
}

impl From<&Receipts> for ReceiptsView {
    fn from(receipts: &Receipts) -> Self {
        Self { members: receipts.members, delivered: receipts.delivered(), read: receipts.read() }
    }
}

impl From<OptOut> for OptOutView {
    fn from(OptOut { chat, at, by }: OptOut) -> Self {
        Self { number: chat.number().to_owned(), chat_id: chat, since: at, by: by.as_str() }
    }
}

impl From<&Link> for SessionView {
    fn from(link: &Link) -> Self {
        let (qr, pairing_code) = match &link.state {
            LinkState::Pairing { qr, code, expires_at } => {
                (qr.as_ref().and_then(|text| qr_view(text, *expires_at)), code.clone())
            }
            _ => (None, None),
        };
        let retry_at = match &link.state {
            LinkState::Offline { retry_at, .. } => *retry_at,
            LinkState::Banned { until } => *until,
            _ => None,
        };
        Self {
            state: link.state.name(),
            since: link.since,
            reason: reason(&link.state),
            retry_at,
            me: link.me.as_ref().map(|me| AccountView {
                number: me.phone.clone(),
                lid: me.lid.clone(),
                name: me.push_name.clone(),
            }),
            qr,
            pairing_code,
            passkey: passkey_view(&link.state),
        }
    }
}

fn passkey_view(state: &LinkState) -> Option<PasskeyView> {
    let LinkState::PasskeyRequired { step } = state else { return None };
    let view = PasskeyView { step: step.name(), request: None, expires_at: None, code: None };
    match step {
        PasskeyStep::Asked { request, expires_at } => {
            // It was read when it came.
            let request = serde_json::from_str(request).ok();
            Some(PasskeyView { request, expires_at: *expires_at, ..view })
        }
        PasskeyStep::Compare { code } => Some(PasskeyView { code: Some(code.clone()), ..view }),
        PasskeyStep::Answered => Some(view),
        PasskeyStep::Over { .. } => None,
    }
}

fn qr_view(text: &str, expires_at: Option<Timestamp>) -> Option<QrView> {
    Some(QrView { text: text.to_owned(), png: qr::png_base64(text)?, expires_at })
}

/// Why the link is as it is, and what mends it, in words.
fn reason(state: &LinkState) -> Option<String> {
    let words = match state {
        LinkState::Offline { reason, .. } => return Some(reason.0.clone()),
        LinkState::LoggedOut { reason } => return Some(reason.clone()),
        LinkState::Unpaired => "no account is linked; link one with `waya login`",
        LinkState::Replaced => "another client took the connection over; `waya login` takes it back",
        LinkState::Locked => "WhatsApp locked the account; look at the phone",
        LinkState::Banned { .. } => "WhatsApp banned the account for a while; look at the phone",
        LinkState::Outdated => "WhatsApp wants a newer client version; update waya, or set whatsapp.version",
        LinkState::PasskeyRequired { step } => match step {
            PasskeyStep::Asked { .. } => {
                "WhatsApp asks for the account's passkey before it links; have it sign the request, and hand the answer \
                 in with `waya login --passkey-assertion FILE`"
            }
            PasskeyStep::Answered => "WhatsApp has the passkey's answer; it is the phone's turn",
            PasskeyStep::Compare { .. } => {
                "compare the code with the one on the phone, and confirm it with `waya login --passkey-confirm CODE`"
            }
            PasskeyStep::Over { reason } => return Some(format!("{reason}; start again with `waya login`")),
        },
        LinkState::Pairing { .. } | LinkState::Connecting | LinkState::Connected => return None,
    };
    Some(words.to_owned())
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let body = match event.body {
            EventBody::Message(incoming) => EventBodyView::Message { message: (*incoming).into() },
            EventBody::Status(changed) => EventBodyView::Status { status: changed.into() },
            EventBody::Link(state) => {
                EventBodyView::Link { link: LinkView { state: state.name(), reason: reason(&state) } }
            }
        };
        Self { cursor: event.cursor.to_string(), at: event.at, body }
    }
}

impl From<Incoming> for IncomingView {
    fn from(incoming: Incoming) -> Self {
        let is_group = incoming.chat.kind() == ChatKind::Group;
        // What the owner typed comes from the owner, but for groups: there it is the group, and `author` the person.
        let from = if is_group { &incoming.chat } else { &incoming.sender };
        Self {
            from: from.clone(),
            author: is_group.then(|| incoming.sender.clone()),
            id: incoming.id,
            body: incoming.text,
            chat_id: incoming.chat,
            sender_lid: incoming.sender_lid,
            sender_name: incoming.push_name,
            from_me: incoming.from_me,
            kind: incoming.kind,
            timestamp: incoming.timestamp,
            is_group,
            sender: incoming.sender,
        }
    }
}

impl From<StatusChanged> for StatusChangedView {
    fn from(changed: StatusChanged) -> Self {
        Self {
            id: changed.id,
            reference_id: changed.reference_id,
            number: changed.chat.number().to_owned(),
            chat_id: changed.chat,
            status: changed.status,
            ack: changed.ack,
            error: changed.error,
        }
    }
}

impl From<RequestView> for QueuedByView {
    fn from(row: RequestView) -> Self {
        Self { id: row.summary.id, headers: row.request.headers, body: row.request.body }
    }
}

impl From<&ApiKey> for ApiKeyView {
    fn from(key: &ApiKey) -> Self {
        Self { name: key.name.to_string(), scopes: key.scopes.words().collect(), created_at: key.created_at }
    }
}

impl From<Setting> for SettingView {
    fn from(setting: Setting) -> Self {
        Self {
            key: setting.key,
            value: setting.value,
            default: setting.default,
            origin: setting.origin.as_str().to_owned(),
            pinned: matches!(setting.origin, Origin::Pinned(_)),
            description: setting.description,
        }
    }
}

impl From<Hold> for HoldView {
    fn from(hold: Hold) -> Self {
        Self { reason: hold.reason, until: hold.until }
    }
}
