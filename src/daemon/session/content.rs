//! What comes from a client as bytes: blobs of its image layouts, and what it was given on its standard input.

use futures_util::{Stream, StreamExt};
use tokio_util::io::StreamReader;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};

use super::live::{Live, Said};
use crate::engine::{Bytes, ClientBlob, ClientError};
use crate::wire::proto::content::content_client::ContentClient;
use crate::wire::proto::content::{InfoRequest, ReadContentRequest};
use crate::wire::proto::upload::upload_client::UploadClient;
use crate::wire::proto::upload::BytesMessage;
use crate::wire::MAX_MESSAGE;

/// Under which key a call says which of the client's stores is meant.
const STORE: &str = "buildkit-attachable-store-id";
/// What the names of image layouts begin with, among the client's stores.
const LAYOUT: &str = "oci:";
/// Under which keys a call says which upload is meant.
const UPLOAD_PATH: &str = "urlpath";
const UPLOAD_HOST: &str = "urlhost";
/// The host of URLs that mean an upload.
const UPLOADS: &str = "buildkit-session";

/// How many bytes a blob has; `None` if the client does not have it.
pub(super) async fn size(live: &Live, blob: &ClientBlob) -> Result<Option<u64>, ClientError> {
    let asking = format!("ask for blob {} of {}", blob.digest, blob.store);
    let mut call = Request::new(InfoRequest { digest: blob.digest.to_string() });
    name_store(call.metadata_mut(), &blob.store)?;
    let mut client = ContentClient::new(live.channel());
    let answer = live.ask(&asking, |code| code == Code::NotFound, client.info(call)).await?;
    let Some(info) = answer.and_then(|answer| answer.info) else { return Ok(None) };
    let size = u64::try_from(info.size);
    size.map(Some).map_err(|_| ClientError::failed(asking, "the client says that its size is negative"))
}

/// A blob's bytes from `offset` on.
pub(super) fn read(live: &Live, blob: &ClientBlob, offset: u64) -> Result<Box<dyn Bytes>, ClientError> {
    let asking = || format!("read blob {} of {}", blob.digest, blob.store);
    let offset = i64::try_from(offset).map_err(|_| ClientError::failed(asking(), "no blob is that long"))?;
    let mut call = Request::new(ReadContentRequest { digest: blob.digest.to_string(), offset, size: 0 });
    name_store(call.metadata_mut(), &blob.store)?;
    let mut client = ContentClient::new(live.channel()).max_decoding_message_size(MAX_MESSAGE);
    let parts = live.messages(async move { client.read(call).await });
    Ok(bytes(parts.map(|part| part.map(|part| part.data))))
}

fn name_store(metadata: &mut MetadataMap, store: &str) -> Result<(), ClientError> {
    let name = AsciiMetadataValue::try_from(format!("{LAYOUT}{store}"));
    let name = name.map_err(|_| ClientError::failed("name an image layout", format!("{store:?} is no name of one")))?;
    metadata.insert(STORE, name);
    Ok(())
}

/// What the client was given on its standard input, by the path of the URL that means it.
pub(super) fn upload(live: &Live, path: &str) -> Result<Box<dyn Bytes>, ClientError> {
    let value = AsciiMetadataValue::try_from(path);
    let value = value.map_err(|_| ClientError::failed("read an upload", format!("{path:?} is no path of one")))?;
    // Nothing is ever sent; the call ends when the client has no more.
    let mut call = Request::new(tokio_stream::pending::<BytesMessage>());
    call.metadata_mut().insert(UPLOAD_PATH, value);
    call.metadata_mut().insert(UPLOAD_HOST, AsciiMetadataValue::from_static(UPLOADS));
    let mut client = UploadClient::new(live.channel()).max_decoding_message_size(MAX_MESSAGE);
    let parts = live.messages(async move { client.pull(call).await });
    Ok(bytes(parts.map(|part| part.map(|part| part.data))))
}

/// The parts of something as one stream of bytes.
fn bytes(parts: impl Stream<Item = Result<bytes::Bytes, Status>> + Send + Unpin + 'static) -> Box<dyn Bytes> {
    Box::new(StreamReader::new(parts.map(|part| part.map_err(|status| std::io::Error::other(Said(status))))))
}
