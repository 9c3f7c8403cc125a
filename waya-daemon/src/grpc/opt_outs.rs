//! The do-not-send list.

use tonic::{Request, Response, Status};
use waya_proto::v1::opt_out_service_server::OptOutService;
use waya_proto::v1::{
    AddOptOutRequest, AddOptOutResponse, ListOptOutsRequest, ListOptOutsResponse, RemoveOptOutRequest,
    RemoveOptOutResponse,
};

use crate::api::Api;

/// The service.
#[derive(Debug)]
pub(super) struct DoNotSend {
    api: Api,
}

impl DoNotSend {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl OptOutService for DoNotSend {
    async fn list(&self, _: Request<ListOptOutsRequest>) -> Result<Response<ListOptOutsResponse>, Status> {
        let opt_outs = self.api.opt_outs().opt_outs.into_iter().map(Into::into).collect();
        Ok(Response::new(ListOptOutsResponse { opt_outs }))
    }

    async fn add(&self, request: Request<AddOptOutRequest>) -> Result<Response<AddOptOutResponse>, Status> {
        let opt_out = self.api.opt_out(&request.get_ref().number).await?.into();
        Ok(Response::new(AddOptOutResponse { opt_out: Some(opt_out) }))
    }

    async fn remove(&self, request: Request<RemoveOptOutRequest>) -> Result<Response<RemoveOptOutResponse>, Status> {
        self.api.opt_in(&request.get_ref().number).await?;
        Ok(Response::new(RemoveOptOutResponse {}))
    }
}
