//! Directories on their way to the daemon: `FileSync`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{open, Mode, OFlags};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::StreamExt;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::told;
use crate::wire::filesync::{send, DirectoryRequest, Select, Tree};
use crate::wire::proto::filesync::file_sync_server::FileSync;
use crate::wire::proto::fsutil::Packet;

/// Packets that wait for the daemon.
const WAITING: usize = 16;

/// Directories by the names that the daemon knows them by.
pub(super) struct Directories(pub Arc<BTreeMap<String, PathBuf>>);

#[tonic::async_trait]
impl FileSync for Directories {
    async fn diff_copy(&self, call: Request<Streaming<Packet>>) -> Result<Response<BoxStream<Packet>>, Status> {
        let wanted = DirectoryRequest::read(call.metadata()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let path = self.0.get(&wanted.name).cloned();
        let path = path.ok_or_else(|| Status::not_found(format!("no access allowed to dir {:?}", wanted.name)))?;
        let tree = tokio::task::spawn_blocking(move || tree(&path, &wanted)).await;
        let tree = tree.unwrap_or_else(|_| Err(Status::internal("a thread died")))?;
        let (outgoing, packets) = mpsc::channel(WAITING);
        let incoming = call.into_inner();
        // Ends with the call; what goes wrong is told to the daemon, which tells the user.
        tokio::spawn(send(incoming, outgoing, vec![tree]));
        Ok(Response::new(Box::pin(ReceiverStream::new(packets).map(Ok))))
    }
}

/// What is asked for of a directory.
fn tree(path: &Path, wanted: &DirectoryRequest) -> Result<Tree, Status> {
    let root = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|e| Status::unknown(format!("open {}: {}", path.display(), std::io::Error::from(e))))?;
    let select = Select::new(&root, &wanted.include, &wanted.exclude, &wanted.follow).map_err(|error| told(&error))?;
    Ok(Tree::context(root, select))
}
