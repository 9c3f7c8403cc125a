//! What a plain daemon answers to the sandbox's calls.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};
use waya_proto::v1::sandbox_service_server::SERVICE_NAME;

use super::error::refusal;

/// Stands where the sandbox's service would be.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotASandbox;

impl NamedService for NotASandbox {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for NotASandbox {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let status: Status = refusal(
            Code::FailedPrecondition,
            "this daemon is not a sandbox; start waya-sandbox",
            "not_a_sandbox",
            None,
        );
        ready(Ok(status.into_http()))
    }
}
