//! Secrets that the user gives to this build.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use crate::engine::Secret;
use crate::wire::proto::secrets::secrets_server::Secrets;
use crate::wire::proto::secrets::{GetSecretRequest, GetSecretResponse};

/// Secrets by id.
pub(super) struct Known(pub BTreeMap<String, Secret>);

#[tonic::async_trait]
impl Secrets for Known {
    async fn get_secret(&self, ask: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let id = ask.into_inner().id;
        match self.0.get(&id) {
            Some(secret) => Ok(Response::new(GetSecretResponse { data: secret.bytes().to_vec() })),
            None => Err(Status::not_found(format!("secret {id}: not found"))),
        }
    }
}
