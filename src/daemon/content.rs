//! The content service: what history records name, for reading.

use std::sync::Arc;

use bytes::Bytes;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::history::History;
use crate::wire::proto::content::content_server::Content;
use crate::wire::proto::content::*;

/// How much goes at a time.
const CHUNK: usize = 1 << 20;

/// `containerd.services.content.v1.Content` over what the history keeps.
pub struct Service(pub Arc<History>);

fn read_only() -> Status {
    Status::failed_precondition("read-only content store")
}

fn info(digest: String, size: u64) -> Info {
    Info { digest, size: i64::try_from(size).unwrap_or(i64::MAX), ..Info::default() }
}

impl Service {
    async fn blob(&self, digest: &str) -> Result<Arc<Vec<u8>>, Status> {
        let shown: String = digest.chars().take(100).collect();
        let (history, digest) = (Arc::clone(&self.0), digest.to_owned());
        let found = tokio::task::spawn_blocking(move || history.blob(&digest)).await;
        found.ok().flatten().ok_or_else(|| Status::not_found(format!("content {shown}: not found")))
    }
}

#[tonic::async_trait]
impl Content for Service {
    async fn info(&self, call: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = call.into_inner().digest;
        let size = self.blob(&digest).await?.len() as u64;
        Ok(Response::new(InfoResponse { info: Some(info(digest, size)) }))
    }

    async fn list(
        &self,
        call: Request<ListContentRequest>,
    ) -> Result<Response<BoxStream<ListContentResponse>>, Status> {
        if call.into_inner().filters.iter().any(|filter| !filter.is_empty()) {
            return Err(Status::unimplemented("filters of content are not supported"));
        }
        let history = Arc::clone(&self.0);
        let blobs = tokio::task::spawn_blocking(move || history.blobs()).await;
        let blobs = blobs.map_err(|e| Status::internal(e.to_string()))?;
        let all = blobs.into_iter().map(|(digest, size)| info(digest, size)).collect();
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(ListContentResponse { info: all })))))
    }

    async fn read(
        &self,
        call: Request<ReadContentRequest>,
    ) -> Result<Response<BoxStream<ReadContentResponse>>, Status> {
        let request = call.into_inner();
        let blob = self.blob(&request.digest).await?;
        let out_of_range = || Status::out_of_range(format!("offset {} of {} bytes", request.offset, blob.len()));
        let start =
            usize::try_from(request.offset).ok().filter(|start| *start <= blob.len()).ok_or_else(out_of_range)?;
        let most = usize::try_from(request.size).map_err(|_| Status::invalid_argument("a negative size"))?;
        let end = if most == 0 { blob.len() } else { start.saturating_add(most).min(blob.len()) };
        let wanted = Bytes::copy_from_slice(blob.get(start..end).unwrap_or_default());
        let starts = (0..wanted.len()).step_by(CHUNK);
        let parts: Vec<_> = starts
            .map(|at| {
                let data = wanted.slice(at..wanted.len().min(at + CHUNK));
                Ok(ReadContentResponse { offset: i64::try_from(start + at).unwrap_or(i64::MAX), data })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn status(&self, call: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::not_found(format!("nothing is being written as {:?}", call.into_inner().r#ref)))
    }

    async fn list_statuses(&self, _: Request<ListStatusesRequest>) -> Result<Response<ListStatusesResponse>, Status> {
        Ok(Response::new(ListStatusesResponse::default()))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        Err(read_only())
    }

    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(read_only())
    }

    async fn write(
        &self,
        _: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<BoxStream<WriteContentResponse>>, Status> {
        Err(read_only())
    }

    async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<()>, Status> {
        Err(read_only())
    }
}
