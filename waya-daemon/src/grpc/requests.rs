//! The log of HTTP requests.

use tonic::{Request, Response, Status};
use waya_proto::v1::requests_service_server::RequestsService;
use waya_proto::v1::{
    ClearRequestsRequest, ClearRequestsResponse, GetRequestRequest, GetRequestResponse, ListRequestsRequest,
    ListRequestsResponse,
};

use crate::api::Api;

/// The service.
#[derive(Debug)]
pub(super) struct Requests {
    api: Api,
}

impl Requests {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl RequestsService for Requests {
    async fn list(&self, request: Request<ListRequestsRequest>) -> Result<Response<ListRequestsResponse>, Status> {
        let ListRequestsRequest { before, limit } = request.into_inner();
        Ok(Response::new(self.api.requests(before.as_deref(), limit as usize).await?.into()))
    }

    async fn get(&self, request: Request<GetRequestRequest>) -> Result<Response<GetRequestResponse>, Status> {
        Ok(Response::new(self.api.request(&request.get_ref().id).await?.into()))
    }

    async fn clear(&self, _: Request<ClearRequestsRequest>) -> Result<Response<ClearRequestsResponse>, Status> {
        Ok(Response::new(ClearRequestsResponse { cleared: self.api.clear_requests().await?.cleared }))
    }
}
