//! What a user changes while the daemon runs, and the API keys.

use tonic::{Request, Response, Status};
use waya_proto::v1::settings_service_server::SettingsService;
use waya_proto::v1::{
    CreateApiKeyRequest, CreateApiKeyResponse, GetSettingRequest, GetSettingResponse, ListApiKeysRequest,
    ListApiKeysResponse, ListSettingsRequest, ListSettingsResponse, RevokeApiKeyRequest, RevokeApiKeyResponse,
    RotateApiKeyRequest, RotateApiKeyResponse, SetSettingRequest, SetSettingResponse,
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

    async fn list_api_keys(&self, _: Request<ListApiKeysRequest>) -> Result<Response<ListApiKeysResponse>, Status> {
        let keys = self.api.api_keys().keys.into_iter().map(Into::into).collect();
        Ok(Response::new(ListApiKeysResponse { keys }))
    }

    async fn create_api_key(
        &self,
        request: Request<CreateApiKeyRequest>,
    ) -> Result<Response<CreateApiKeyResponse>, Status> {
        let CreateApiKeyRequest { name, scopes } = request.into_inner();
        let made = self.api.create_key(&name, &scopes).await?;
        Ok(Response::new(CreateApiKeyResponse { api_key: made.api_key, key: Some(made.key.into()) }))
    }

    async fn revoke_api_key(
        &self,
        request: Request<RevokeApiKeyRequest>,
    ) -> Result<Response<RevokeApiKeyResponse>, Status> {
        let key = self.api.revoke_key(&request.get_ref().name).await?.into();
        Ok(Response::new(RevokeApiKeyResponse { key: Some(key) }))
    }
}
