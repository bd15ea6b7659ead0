//! `grpc.health.v1.Health` of a server that is well as long as it answers.

use tokio_stream::StreamExt;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::wire::proto::health::health_check_response::ServingStatus;
use crate::wire::proto::health::health_server::{Health, HealthServer};
use crate::wire::proto::health::{HealthCheckRequest, HealthCheckResponse};

/// Answers that it serves, whichever of its services it is asked about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Healthy;

/// The service, ready to be added to a server.
pub fn healthy() -> HealthServer<Healthy> {
    HealthServer::new(Healthy)
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving as i32 }
}

#[tonic::async_trait]
impl Health for Healthy {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<BoxStream<HealthCheckResponse>>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(serving())).chain(tokio_stream::pending()))))
    }
}
