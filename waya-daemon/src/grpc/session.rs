//! The link to WhatsApp, and the daemon as a whole.

use tonic::{Request, Response, Status};
use waya_proto::v1::session_service_server::SessionService;
use waya_proto::v1::{
    AnswerPasskeyRequest, ConfirmPasskeyRequest, GetStatusRequest, GetStatusResponse, LoginRequest, LoginResponse,
    LogoutRequest, LogoutResponse,
};

use super::streams::{Answers, answers};
use crate::api::{Api, ApiError, Login};
use crate::model::{PairingMethod, Recipient};

/// The service.
#[derive(Debug)]
pub(super) struct Sessions {
    api: Api,
}

impl Sessions {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl SessionService for Sessions {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.api.status().await?.into()))
    }

    type LoginStream = Answers<LoginResponse>;

    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<Self::LoginStream>, Status> {
        let method = method(request.into_inner().phone)?;
        Ok(Response::new(states(self.api.login(method).await?)))
    }

    type AnswerPasskeyStream = Answers<LoginResponse>;

    async fn answer_passkey(
        &self,
        request: Request<AnswerPasskeyRequest>,
    ) -> Result<Response<Self::AnswerPasskeyStream>, Status> {
        Ok(Response::new(states(self.api.answer_passkey(&request.into_inner().assertion).await?)))
    }

    type ConfirmPasskeyStream = Answers<LoginResponse>;

    async fn confirm_passkey(
        &self,
        request: Request<ConfirmPasskeyRequest>,
    ) -> Result<Response<Self::ConfirmPasskeyStream>, Status> {
        Ok(Response::new(states(self.api.confirm_passkey(&request.into_inner().code).await?)))
    }

    async fn logout(&self, _: Request<LogoutRequest>) -> Result<Response<LogoutResponse>, Status> {
        let done = self.api.logout().await?;
        Ok(Response::new(LogoutResponse { session: Some(done.session.into()), still_listed: done.still_listed }))
    }
}

/// What a linking tells, to its end.
fn states(login: Login) -> Answers<LoginResponse> {
    answers(login, |mut login| async move {
        let session = login.next().await?.into();
        Some((Ok(LoginResponse { session: Some(session) }), login))
    })
}

/// A phone in any usual spelling, else a QR code.
fn method(phone: Option<String>) -> Result<PairingMethod, ApiError> {
    let Some(phone) = phone else { return Ok(PairingMethod::Qr) };
    let recipient =
        Recipient::parse(&phone, None).map_err(|error| ApiError::field_error("phone", error.to_string()))?;
    match &recipient {
        Recipient::Chat(chat) => chat.phone_number().map(str::to_owned),
        Recipient::Main | Recipient::Category(_) => None,
    }
    .map(PairingMethod::Code)
    .ok_or_else(|| ApiError::field_error("phone", "must be digits with country code, e.g. 6282146727409"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_is_read_in_any_usual_spelling() {
        assert_eq!(method(None).ok(), Some(PairingMethod::Qr));
        assert_eq!(
            method(Some("+62 812-0000-0001".to_owned())).ok(),
            Some(PairingMethod::Code("6281200000001".to_owned()))
        );
        for wrong in ["", "main", "budi", "1203@g.us", "0812", "1@lid"] {
            let error =
                method(Some(wrong.to_owned())).err().map(|error| (error.code(), error.field() == Some("phone")));
            assert_eq!(error, Some(("invalid_field", true)), "{wrong}");
        }
    }
}
