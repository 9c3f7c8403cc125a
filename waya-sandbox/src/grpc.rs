//! The gRPC service `waya sandbox …` speaks to: each call is one command on the sandbox.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tonic::{Code, Request, Response, Status};
use waya_proto::v1::sandbox_service_server::{SandboxService, SandboxServiceServer};
use waya_proto::v1::{
    ActiveFault, AutoReadRequest, ClockRequest, ClockResponse, FaultKind, FaultRequest, FaultResponse, InboxMessage,
    InboxRequest, InboxResponse, OnlineRequest, PeopleRequest, PeopleResponse, Person, PersonRequest, PersonResponse,
    PhoneRequest, PhoneResponse, ReceiptTime, SandboxGroup, SayRequest, SayResponse, StatsRequest, StatsResponse,
};
use waya_proto::{ERROR_CODE, ERROR_FIELD};
use waya_sandbox::control::{self, ControlError, SandboxControl, SayMedia};
use waya_sandbox::emulator::Clock;
use waya_sandbox::people::inbox::InboxEntry;

/// A file that a person sends comes in one piece.
const MAX_SAID: usize = 64 << 20;

type Answer<T> = Result<Response<T>, Status>;

/// The service, over whichever sandbox there is, and the daemon's own clock, which goes with the sandbox's.
pub struct Grpc(Arc<dyn SandboxControl>, Clock);

impl Grpc {
    /// The service as the daemon takes it.
    pub fn server(control: Arc<dyn SandboxControl>, clock: Clock) -> SandboxServiceServer<Self> {
        SandboxServiceServer::new(Self(control, clock)).max_decoding_message_size(MAX_SAID)
    }
}

#[tonic::async_trait]
impl SandboxService for Grpc {
    async fn people(&self, _: Request<PeopleRequest>) -> Answer<PeopleResponse> {
        let list = self.0.people().await.map_err(refused)?;
        Ok(Response::new(PeopleResponse {
            people: list.people.into_iter().map(person).collect(),
            groups: list
                .groups
                .into_iter()
                .map(|group| SandboxGroup { id: group.id, subject: group.subject, members: group.members })
                .collect(),
        }))
    }

    async fn say(&self, request: Request<SayRequest>) -> Answer<SayResponse> {
        let SayRequest { who, text, group, media, quoted, react } = request.into_inner();
        let media = media.map(|media| SayMedia {
            data: STANDARD.encode(media.content),
            mimetype: media.mimetype,
            filename: media.filename,
            voice: media.voice,
        });
        let request = control::SayRequest { from: who, text, group, to: None, media, quoted, react };
        let said = self.0.say(request).await.map_err(refused)?;
        Ok(Response::new(SayResponse { id: said.id }))
    }

    async fn inbox(&self, request: Request<InboxRequest>) -> Answer<InboxResponse> {
        let list = self.0.inbox(&request.get_ref().who).await.map_err(refused)?;
        let messages = list.messages.into_iter().map(message).collect::<Result<_, _>>()?;
        Ok(Response::new(InboxResponse { messages }))
    }

    async fn read(&self, request: Request<PersonRequest>) -> Answer<PersonResponse> {
        let done = self.0.read(&request.get_ref().who, false).await.map_err(refused)?;
        Ok(about(done.person))
    }

    async fn auto_read(&self, request: Request<AutoReadRequest>) -> Answer<PersonResponse> {
        let AutoReadRequest { who, on } = request.into_inner();
        Ok(about(self.0.set_autoread(&who, on).await.map_err(refused)?))
    }

    async fn online(&self, request: Request<OnlineRequest>) -> Answer<PersonResponse> {
        let OnlineRequest { who, online } = request.into_inner();
        Ok(about(self.0.set_online(&who, online).await.map_err(refused)?))
    }

    async fn fault(&self, request: Request<FaultRequest>) -> Answer<FaultResponse> {
        let FaultRequest { kind, arguments, who, times, seconds } = request.into_inner();
        let words = arguments.into_iter().map(control::Word::Text).collect();
        let args = control::Words::Many(words);
        let request = control::FaultRequest { kind, args, target: who, times, seconds };
        let list = self.0.fault(request).await.map_err(refused)?;
        let active = list.faults.into_iter().map(|active| ActiveFault {
            fault: active.fault,
            target: active.target,
            times_left: active.times_left,
            seconds_left: active.seconds_left,
        });
        let active = active.collect();
        let kinds = list.kinds.into_iter().map(|kind| FaultKind { fault: kind.fault, does: kind.does }).collect();
        Ok(Response::new(FaultResponse { active, kinds }))
    }

    async fn clock(&self, request: Request<ClockRequest>) -> Answer<ClockResponse> {
        let ClockRequest { set, advance } = request.into_inner();
        let request = control::ClockRequest { set, advance: advance.map(control::Word::Text) };
        let view = self.0.clock(request).await.map_err(refused)?;
        self.1.set_ahead(view.ahead_ms);
        Ok(Response::new(ClockResponse { time: view.time, ahead_ms: view.ahead_ms }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Answer<StatsResponse> {
        let stats = self.0.stats().await.map_err(refused)?;
        Ok(Response::new(StatsResponse { json: stats.to_string() }))
    }

    async fn phone(&self, request: Request<PhoneRequest>) -> Answer<PhoneResponse> {
        let PhoneRequest { online, who } = request.into_inner();
        self.0.set_phone_online(who.as_deref(), online).await.map_err(refused)?;
        Ok(Response::new(PhoneResponse {}))
    }
}

fn person(view: control::PersonView) -> Person {
    Person { name: view.name, number: view.number, lid: view.lid }
}

fn about(view: control::PersonView) -> Response<PersonResponse> {
    Response::new(PersonResponse { person: Some(person(view)) })
}

fn message(entry: InboxEntry) -> Result<InboxMessage, Status> {
    let media = entry.content.media.map(|media| serde_json::to_string(&media)).transpose();
    Ok(InboxMessage {
        id: entry.id,
        chat: entry.chat,
        from: entry.from,
        kind: entry.content.kind,
        text: entry.content.text,
        caption: entry.content.caption,
        media: media.map_err(|error| Status::internal(error.to_string()))?,
        quoted: entry.content.quoted,
        ts: entry.ts,
        copies: u32::try_from(entry.copies).unwrap_or(u32::MAX),
        receipts: entry.receipts,
        receipt_times: entry
            .receipt_times
            .into_iter()
            .map(|time| ReceiptTime { kind: time.kind, ts: time.ts })
            .collect(),
    })
}

/// A refusal with its code and field in the metadata, as the daemon's own services do it.
#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn refused(error: ControlError) -> Status {
    let code = match error.status() {
        404 => Code::NotFound,
        422 => Code::InvalidArgument,
        409 => Code::FailedPrecondition,
        504 => Code::DeadlineExceeded,
        502 | 503 => Code::Unavailable,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, error.to_string());
    // Codes and fields are plain words, so they always fit into metadata.
    if let Ok(value) = error.code().parse() {
        status.metadata_mut().insert(ERROR_CODE, value);
    }
    if let Some(Ok(value)) = error.field().map(str::parse) {
        status.metadata_mut().insert(ERROR_FIELD, value);
    }
    status
}
