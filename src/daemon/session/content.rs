//! Bytes from a client and to it: blobs of its content stores, and what it was given on its standard input.

use std::io;

use futures_util::{stream, Stream, StreamExt};
use tokio::sync::oneshot;
use tokio_util::io::StreamReader;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};

use super::live::{Live, Said};
use crate::engine::{Bytes, ClientBlob, ClientError, ClientStore, FileContent, UPLOADS};
use crate::wire::proto::content::content_client::ContentClient;
use crate::wire::proto::content::{InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest};
use crate::wire::proto::upload::upload_client::UploadClient;
use crate::wire::proto::upload::BytesMessage;
use crate::wire::MAX_MESSAGE;

/// Under which key a call says which of the client's stores is meant.
const STORE: &str = "buildkit-attachable-store-id";
/// Under which keys a call says which upload is meant.
const UPLOAD_PATH: &str = "urlpath";
const UPLOAD_HOST: &str = "urlhost";

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

/// Gives a store a blob. It is taken once all of it came and it has the right digest.
pub(super) async fn write(live: &Live, blob: &ClientBlob, size: u64, content: FileContent) -> Result<(), ClientError> {
    let asking = format!("write blob {} to {}", blob.digest, blob.store);
    let total = i64::try_from(size).map_err(|_| ClientError::failed(&*asking, "no blob is that long"))?;
    let about = WriteContentRequest {
        // Nobody else's, so that nobody holds it up and nothing is there of it.
        r#ref: format!("rbuild-{}-{}", blob.digest, hex::encode(&snapshotter::SnapshotId::random().0[..8])),
        total,
        expected: blob.digest.to_string(),
        ..WriteContentRequest::default()
    };
    let (broken, is_broken) = oneshot::channel::<io::Error>();
    let mut call = Request::new(said(about, content, broken));
    name_store(call.metadata_mut(), &blob.store)?;
    let mut client = ContentClient::new(live.channel());
    let mut answers = live.messages(async move { client.write(call).await });
    let taking = async {
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) if answer.action == WriteAction::Commit as i32 => return Ok(()),
                Ok(_) => {}
                // It has it already.
                Err(status) if status.code() == Code::AlreadyExists => return Ok(()),
                Err(status) => return Err(live.refused(&asking, status).await),
            }
        }
        Err(ClientError::failed(&*asking, "the client ended the call before it had the blob"))
    };
    tokio::select! {
        taken = taking => taken,
        Ok(error) = is_broken => Err(ClientError::failed(&*asking, error)),
    }
}

/// All that is said when a blob is written: what comes, its pieces, and that this was all.
fn said(
    about: WriteContentRequest,
    content: FileContent,
    broken: oneshot::Sender<io::Error>,
) -> impl Stream<Item = WriteContentRequest> + Send + 'static {
    let first = WriteContentRequest { action: WriteAction::Stat as i32, ..about.clone() };
    let rest = stream::unfold(Some((content, 0_i64, about, broken)), |state| async {
        let (mut content, offset, about, broken) = state?;
        match content.next().await {
            Ok(Some(data)) => {
                let next = offset.saturating_add(i64::try_from(data.len()).unwrap_or(i64::MAX));
                let piece = WriteContentRequest { action: WriteAction::Write as i32, offset, data, ..about.clone() };
                Some((piece, Some((content, next, about, broken))))
            }
            Ok(None) => {
                let last = WriteContentRequest { action: WriteAction::Commit as i32, offset, ..about };
                Some((last, None))
            }
            Err(error) => {
                let _ = broken.send(error);
                // Ending the stream would say that this was all.
                std::future::pending().await
            }
        }
    });
    tokio_stream::once(first).chain(rest)
}

fn name_store(metadata: &mut MetadataMap, store: &ClientStore) -> Result<(), ClientError> {
    let name = match store {
        ClientStore::Layout(name) => format!("oci:{name}"),
        ClientStore::Cache(dir) => format!("local:{dir}"),
        ClientStore::Result => "export".to_owned(),
    };
    let value = AsciiMetadataValue::try_from(&name);
    let value = value.map_err(|_| ClientError::failed("name a store", format!("{name:?} cannot be told")))?;
    metadata.insert(STORE, value);
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
