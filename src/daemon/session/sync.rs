//! A client's directory in the store: what was sent before is asked for again only if it differs.
//!
//! A tree belongs to a client's shared key, the directory's name and the hint of its source. Who uses it has it alone,
//! until its [`Directory`] is dropped; who comes meanwhile gets the next one, with what that was before. A transfer that
//! was cut short leaves a tree that the next one completes.

use std::convert::Infallible;
use std::fs::File;
use std::sync::Arc;

use futures_util::StreamExt;
use snapshotter::pattern::Patterns;
use snapshotter::Store;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use super::live::Live;
use crate::engine::{Cause, ClientError, Differ, Directory, LocalDirectory};
use crate::wire::filesync::{self, receive, DirectoryRequest, Error, Receive};
use crate::wire::proto::filesync::file_sync_client::FileSyncClient;

/// Packets on their way to the client.
const WAITING: usize = 16;

/// Synchronises what is wanted of a directory, which the client knows as `name`.
pub(super) async fn directory(
    store: &Store,
    live: &Live,
    name: &str,
    wanted: &LocalDirectory,
) -> Result<Directory, ClientError> {
    let asking = format!("transfer directory {name:?}");
    let failed = |cause: Cause| ClientError::Failed { asking: asking.clone(), source: cause };
    let shared_key = &live.headers().shared_key;
    let key = match &wanted.only {
        None => serde_json::json!([shared_key, wanted.shared_key_hint, name]),
        // Of it most is missing.
        Some(only) => serde_json::json!([shared_key, wanted.shared_key_hint, name, only]),
    };
    let key = key.to_string();
    let (tree, path) = {
        let (store, shown) = (store.clone(), format!("source.local {name}"));
        let taken = tokio::task::spawn_blocking(move || store.source_tree(&key, &shown)).await;
        taken.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))?
    };
    let into = File::open(&path).map_err(|e| failed(e.into()))?.into();
    let differ = match wanted.differ {
        // Of whom nothing is known but a name, nothing that was there before is taken for theirs.
        Differ::Metadata if !shared_key.is_empty() => filesync::Differ::Metadata,
        _ => filesync::Differ::Nothing,
    };
    let only = wanted.only.as_ref().map(|only| Patterns::new(only)).transpose().map_err(|e| failed(e.into()))?;
    let (only, arrived) = (only.map(Arc::new), Arc::clone(&wanted.arrived));
    let rules = Receive { differ, only, arrived, ..Receive::context() };

    let (outgoing, packets) = mpsc::channel(WAITING);
    let mut call = Request::new(ReceiverStream::new(packets));
    let (include, exclude, follow) = (wanted.include.clone(), wanted.exclude.clone(), wanted.follow.clone());
    DirectoryRequest { name: name.to_owned(), include, exclude, follow }.write(call.metadata_mut());
    let mut client = FileSyncClient::new(live.channel());
    let incoming = live.messages(async move { client.diff_copy(call).await });

    // A task of its own: the tree is nobody else's before the last byte is written, also if nobody waits any more.
    let (_waits, nobody_waits) = oneshot::channel::<Infallible>();
    let receiving = tokio::spawn(async move {
        let outcome = receive(incoming.take_until(nobody_waits), outgoing, into, rules).await;
        if let Err(Error::File { .. }) = &outcome {
            // Whatever is in the way there, next time it is not.
            let _ = tree.empty();
        }
        outcome.map(|_| tree)
    });
    match receiving.await {
        Ok(Ok(tree)) => Ok(Directory::kept_by(path, tree)),
        Ok(Err(Error::Call(status))) => Err(match status.code() {
            Code::NotFound if is_about_the_name(status.message()) => ClientError::NoDirectory(name.to_owned()),
            Code::Unimplemented => ClientError::NotOffered("local directories"),
            _ => live.refused(&asking, *status).await,
        }),
        Ok(Err(error)) => Err(failed(error.into())),
        Err(died) => Err(failed(died.into())),
    }
}

/// What clients say of a directory that they do not show.
fn is_about_the_name(said: &str) -> bool {
    said.starts_with("no access allowed to dir")
}
