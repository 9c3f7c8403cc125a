//! What a user changes while the daemon runs, and the API key.

use tonic::{Request, Response, Status};
use waya_proto::v1::settings_service_server::SettingsService;
use waya_proto::v1::{
    GetSettingRequest, GetSettingResponse, ListSettingsRequest, ListSettingsResponse, RotateApiKeyRequest,
    RotateApiKeyResponse, SetSettingRequest, SetSettingResponse,
};

use crate::api::Api;

/// The service.
#[derive(Debug)]
pub(super) struct LiveSettings {
    api: Api,
}

impl LiveSettings {
    pub(super) const fn new(api: Api) -> Self {
        Self { api }
    }
}

#[tonic::async_trait]
impl SettingsService for LiveSettings {
    async fn list(&self, _: Request<ListSettingsRequest>) -> Result<Response<ListSettingsResponse>, Status> {
        let settings = self.api.settings_list().await.into_iter().map(Into::into).collect();
        Ok(Response::new(ListSettingsResponse { settings }))
    }

    async fn get(&self, request: Request<GetSettingRequest>) -> Result<Response<GetSettingResponse>, Status> {
        let setting = self.api.settings_get(&request.get_ref().key).await?.into();
        Ok(Response::new(GetSettingResponse { setting: Some(setting) }))
    }

    async fn set(&self, request: Request<SetSettingRequest>) -> Result<Response<SetSettingResponse>, Status> {
        let SetSettingRequest { key, value } = request.into_inner();
        let setting = self.api.settings_set(&key, value.as_deref()).await?.into();
        Ok(Response::new(SetSettingResponse { setting: Some(setting) }))
    }

    async fn rotate_api_key(&self, _: Request<RotateApiKeyRequest>) -> Result<Response<RotateApiKeyResponse>, Status> {
        Ok(Response::new(RotateApiKeyResponse { api_key: self.api.rotate_key().await? }))
    }
}
