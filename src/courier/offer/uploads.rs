//! What we were given on standard input, for the daemon that reads its context there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio_stream::StreamExt;
use tokio_util::io::ReaderStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::told;
use crate::wire::proto::upload::upload_server::Upload;
use crate::wire::proto::upload::BytesMessage;

/// Under which key a call says which upload is meant.
const PATH: &str = "urlpath";
/// How much goes at a time.
const CHUNK: usize = 256 << 10;

/// Files by the paths of their addresses.
pub(super) struct Uploads(pub BTreeMap<String, PathBuf>);

#[tonic::async_trait]
impl Upload for Uploads {
    async fn pull(&self, call: Request<Streaming<BytesMessage>>) -> Result<Response<BoxStream<BytesMessage>>, Status> {
        let path = call.metadata().get(PATH).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let file = self.0.get(path).ok_or_else(|| Status::not_found(format!("there is no upload {path:?}")))?;
        let file = tokio::fs::File::open(file).await.map_err(|error| told(&error))?;
        let parts = ReaderStream::with_capacity(file, CHUNK);
        Ok(Response::new(Box::pin(parts.map(|part| match part {
            Ok(data) => Ok(BytesMessage { data }),
            Err(error) => Err(told(&error)),
        }))))
    }
}
