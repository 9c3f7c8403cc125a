//! Waiting for messages: until they got far enough, failed, cannot leave, or the time is up.

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Channel;
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::session_service_client::SessionServiceClient;
use waya_proto::v1::{Ack, GetMessageRequest, GetStatusRequest, LinkState, Message, Session, Status};

use super::{call, message};
use crate::connect::MAX_ANSWER;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::output::{Output, printable};

/// How often the link is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How far a message must get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// WhatsApp's server took it
    Sent,
    /// A device of the recipient has it
    Delivered,
    /// It was read
    Read,
}

impl WaitFor {
    const fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }

    const fn proto(self) -> waya_proto::v1::WaitFor {
        match self {
            Self::Sent => waya_proto::v1::WaitFor::Sent,
            Self::Delivered => waya_proto::v1::WaitFor::Delivered,
            Self::Read => waya_proto::v1::WaitFor::Read,
        }
    }

    fn is_reached(self, message: &Message) -> bool {
        message.status() == Status::Sent
            && match self {
                Self::Sent => true,
                Self::Delivered => matches!(message.ack(), Ack::Device | Ack::Read | Ack::Played),
                Self::Read => matches!(message.ack(), Ack::Read | Ack::Played),
            }
    }
}

/// Where the messages stood in the end.
pub struct Outcome {
    /// In the order of the ids.
    pub messages: Vec<Message>,
    /// The worst of what went wrong.
    pub error: Option<CliError>,
}

/// Waits for one message after the other, all until the same deadline: the others go on meanwhile.
pub async fn for_all(
    channel: Channel,
    ids: Vec<String>,
    target: WaitFor,
    timeout: Duration,
    output: &mut Output,
) -> Result<Outcome, CliError> {
    let mut waiter = Waiter { channel, target, deadline: Instant::now() + timeout };
    let mut outcome = Outcome { messages: Vec::with_capacity(ids.len()), error: None };
    for id in ids {
        let (message, error) = waiter.wait(id).await?;
        if !output.json {
            output.note(format!("{}: {}", printable(&message.number), message::far(&message)))?;
            output.flush()?;
        }
        outcome.messages.push(message);
        if error.as_ref().map(CliError::exit_code) > outcome.error.as_ref().map(CliError::exit_code) {
            outcome.error = error;
        }
    }
    Ok(outcome)
}

struct Waiter {
    channel: Channel,
    target: WaitFor,
    deadline: Instant,
}

impl Waiter {
    async fn wait(&mut self, id: String) -> Result<(Message, Option<CliError>), CliError> {
        // The first look does not wait: without a link there is nothing to wait for.
        let mut patience = Duration::ZERO;
        loop {
            let message = self.look(&id, patience).await?;
            if self.target.is_reached(&message) {
                return Ok((message, None));
            }
            if matches!(message.status(), Status::Failed | Status::Cancelled) {
                let error = failed(&message);
                return Ok((message, Some(error)));
            }
            if let Some(error) = self.no_link(&message).await? {
                return Ok((message, Some(error)));
            }
            patience = self.deadline.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
            if patience.is_zero() {
                let error = self.timed_out(&message);
                return Ok((message, Some(error)));
            }
        }
    }

    async fn look(&mut self, id: &str, patience: Duration) -> Result<Message, CliError> {
        let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let request = GetMessageRequest { id: id.to_owned(), wait: self.target.proto().into(), timeout_ms };
        let answer = QueueServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER)
            .get_message(Request::new(request))
            .await?;
        Ok(answer.into_inner().message.unwrap_or_default())
    }

    /// Why a message that has not left cannot leave by itself.
    async fn no_link(&mut self, message: &Message) -> Result<Option<CliError>, CliError> {
        if message.status() == Status::Sent {
            return Ok(None);
        }
        let status = SessionServiceClient::new(self.channel.clone()).get_status(call(GetStatusRequest {})).await?;
        Ok(needs_the_user(&status.into_inner().session.unwrap_or_default()))
    }

    fn timed_out(&self, message: &Message) -> CliError {
        let hold = message.hold.as_ref().map_or_else(String::new, |hold| format!(", held: {}", hold.reason));
        CliError::new(
            ExitCode::TimedOut,
            format!("timed out waiting for {}; it is {}{hold}", self.target.word(), message::far(message)),
            format!("it stays queued; see `waya message {}`", message.id),
        )
    }
}

fn failed(message: &Message) -> CliError {
    let reason = message.error.as_deref().map_or_else(|| message::far(message), printable);
    CliError::plain(
        ExitCode::MessageFailed,
        format!("the message to {} {}: {reason}", printable(&message.number), crate::json::status(message.status)),
    )
}

fn needs_the_user(session: &Session) -> Option<CliError> {
    let hint = match session.state() {
        LinkState::Unpaired | LinkState::Pairing | LinkState::LoggedOut => {
            "it stays queued; link an account with `waya login`"
        }
        LinkState::Replaced => "it stays queued; take the connection back with `waya login`",
        LinkState::PasskeyRequired => "it stays queued; `waya login` shows how to go on with the passkey",
        LinkState::Locked | LinkState::Banned | LinkState::Outdated => "it stays queued; see `waya status`",
        _ => return None,
    };
    let reason = session.reason.as_deref().map_or_else(|| crate::json::link_state(session.state), printable);
    Some(CliError::new(ExitCode::NotConnected, format!("not connected to WhatsApp: {reason}"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(status: Status, ack: Ack) -> Message {
        Message { status: status.into(), ack: ack.into(), number: "628".to_owned(), ..Message::default() }
    }

    #[test]
    fn how_far_is_far_enough() {
        for (status, ack, reached) in [
            (Status::Pending, Ack::None, [false, false, false]),
            (Status::Sending, Ack::None, [false, false, false]),
            (Status::Sent, Ack::Server, [true, false, false]),
            (Status::Sent, Ack::Device, [true, true, false]),
            (Status::Sent, Ack::Read, [true, true, true]),
            (Status::Sent, Ack::Played, [true, true, true]),
            (Status::Failed, Ack::None, [false, false, false]),
        ] {
            let message = message(status, ack);
            let found = [WaitFor::Sent, WaitFor::Delivered, WaitFor::Read].map(|target| target.is_reached(&message));
            assert_eq!(found, reached, "{status:?} {ack:?}");
        }
    }

    #[test]
    fn only_states_that_end_by_themselves_are_waited_for() {
        let code = |state: LinkState| {
            needs_the_user(&Session { state: state.into(), ..Session::default() }).map(|error| error.exit_code())
        };
        for state in [LinkState::Connected, LinkState::Connecting, LinkState::Offline] {
            assert_eq!(code(state), None, "{state:?}");
        }
        for state in [
            LinkState::Unpaired,
            LinkState::Pairing,
            LinkState::LoggedOut,
            LinkState::Replaced,
            LinkState::Locked,
            LinkState::PasskeyRequired,
        ] {
            assert_eq!(code(state), Some(ExitCode::NotConnected), "{state:?}");
        }
    }

    #[test]
    fn a_failed_message_says_why() {
        let mut failure = message(Status::Failed, Ack::None);
        failure.error = Some("628 is not on WhatsApp".to_owned());
        let error = failed(&failure);
        assert_eq!(error.exit_code(), ExitCode::MessageFailed);
        assert_eq!(error.to_string(), "the message to 628 failed: 628 is not on WhatsApp");
    }
}
