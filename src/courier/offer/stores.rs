//! Our content stores, as containerd's content service: OCI layouts that are contexts of this build, caches in
//! directories, and the directory that an image goes to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::ingest::{ingest, Taken};
use super::told;
use crate::source::oci_layout::Layout;
use crate::wire::proto::content::content_server::Content;
use crate::wire::proto::content::{
    Info, InfoRequest, InfoResponse, ReadContentRequest, ReadContentResponse, WriteContentRequest, WriteContentResponse,
};

/// Which of our stores a call is about.
const STORE: &str = "buildkit-attachable-store-id";
/// How much goes at a time.
const CHUNK: usize = 256 << 10;

/// A content store of ours.
#[derive(Clone, Debug)]
pub(super) enum BlobStore {
    /// It is read.
    Layout(Layout),
    /// It is read, and written to.
    Directory(PathBuf),
}

/// Stores by the names that daemons have for them: `oci:NAME`, `local:DIRECTORY`, `export`.
pub(super) struct Stores(pub BTreeMap<String, BlobStore>);

impl Stores {
    fn store(&self, call: &MetadataMap) -> Result<&BlobStore, Status> {
        let store = call.get(STORE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.0.get(store).ok_or_else(|| Status::not_found(format!("unknown store {store:?}")))
    }

    /// A blob, and how many bytes it has.
    async fn open(&self, call: &MetadataMap, digest: &str) -> Result<(File, u64), Status> {
        let layout = match self.store(call)? {
            BlobStore::Layout(layout) => layout.clone(),
            BlobStore::Directory(directory) => Layout::at(directory),
        };
        let wanted = digest.parse().map_err(|_| Status::invalid_argument(format!("{digest:?} is no digest")))?;
        let opened = tokio::task::spawn_blocking(move || layout.open(&wanted)).await;
        let opened = opened.map_err(|_| Status::internal("a thread died"))?.map_err(|error| told(&error))?;
        opened.ok_or_else(|| Status::not_found(format!("content {digest}: not found")))
    }
}

#[tonic::async_trait]
impl Content for Stores {
    async fn info(&self, ask: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = ask.get_ref().digest.clone();
        let (_, size) = self.open(ask.metadata(), &digest).await?;
        let size = i64::try_from(size).map_err(|_| Status::internal("no blob is that long"))?;
        Ok(Response::new(InfoResponse { info: Some(Info { digest, size, ..Info::default() }) }))
    }

    async fn read(&self, ask: Request<ReadContentRequest>) -> Result<Response<BoxStream<ReadContentResponse>>, Status> {
        let wanted = ask.get_ref();
        let out_of_range = || Status::out_of_range("there is nothing at that place");
        let offset = u64::try_from(wanted.offset).map_err(|_| out_of_range())?;
        let (file, size) = self.open(ask.metadata(), &wanted.digest).await?;
        let rest = size.checked_sub(offset).ok_or_else(out_of_range)?;
        let length = match u64::try_from(wanted.size).map_err(|_| out_of_range())? {
            0 => rest,
            length => length.min(rest),
        };
        let (parts, answers) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || send(file, offset, length, &parts));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn write(
        &self,
        call: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<BoxStream<WriteContentResponse>>, Status> {
        let BlobStore::Directory(directory) = self.store(call.metadata())?.clone() else {
            return Err(Status::failed_precondition("read-only content store"));
        };
        let (answer, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            if let Err(status) = ingest(call.into_inner(), Taken::new(directory), &answer).await {
                // If nobody listens any more, the daemon is gone.
                _ = answer.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Reads until all is sent or nobody listens.
fn send(mut file: File, mut at: u64, mut left: u64, to: &mpsc::Sender<Result<ReadContentResponse, Status>>) {
    while left > 0 {
        let part = read(&mut file, at, left.min(CHUNK as u64)).map(|data| {
            let offset = i64::try_from(at).unwrap_or(i64::MAX);
            (at, left) = (at + data.len() as u64, left - data.len() as u64);
            ReadContentResponse { offset, data: data.into() }
        });
        let is_over = part.is_err();
        if to.blocking_send(part).is_err() || is_over {
            return;
        }
    }
}

/// The next bytes, at most `most`.
fn read(file: &mut File, at: u64, most: u64) -> Result<Vec<u8>, Status> {
    let mut data = Vec::new();
    let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.take(most).read_to_end(&mut data));
    match read {
        Ok(0) => Err(Status::data_loss("the blob has shrunk")),
        Ok(_) => Ok(data),
        Err(error) => Err(Status::unknown(format!("read the blob: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn about<T>(store: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(STORE, store.parse().unwrap());
        request
    }

    #[tokio::test]
    async fn blobs_are_read_from_any_place_and_only_those_of_the_layout() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let content: Vec<u8> = (0..CHUNK * 2 + 5).map(|number| number as u8).collect();
        let digest = crate::image::Digest::of(&content).to_string();
        std::fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), &content).unwrap();
        let layout = BlobStore::Layout(Layout::at(dir.path()));
        let layouts = Stores(BTreeMap::from([("oci:base".to_owned(), layout)]));

        let info = layouts.info(about("oci:base", InfoRequest { digest: digest.clone() })).await.unwrap().into_inner();
        assert_eq!(info.info.unwrap().size, content.len() as i64);
        let read = async |offset: i64, size: i64| {
            let ask = ReadContentRequest { digest: digest.clone(), offset, size };
            let answer = layouts.read(about("oci:base", ask)).await.map_err(|status| status.code())?;
            let mut whole = Vec::new();
            for part in answer.into_inner().collect::<Vec<_>>().await {
                let part = part.unwrap();
                assert_eq!(part.offset, offset + whole.len() as i64);
                whole.extend_from_slice(&part.data);
            }
            Ok::<_, tonic::Code>(whole)
        };
        assert!(read(0, 0).await.unwrap() == content);
        assert!(read(CHUNK as i64, 7).await.unwrap() == content[CHUNK..CHUNK + 7]);
        assert_eq!(read(content.len() as i64, 0).await.unwrap(), b"");
        for (offset, size) in [(-1, 0), (0, -1), (i64::MAX, 0)] {
            assert_eq!(read(offset, size).await.unwrap_err(), tonic::Code::OutOfRange);
        }
        for (store, digest) in [("oci:other", &digest), ("base", &digest), ("oci:base", &"sha256:../x".to_owned())] {
            assert!(layouts.info(about(store, InfoRequest { digest: digest.clone() })).await.is_err(), "{store}");
        }
    }
}
