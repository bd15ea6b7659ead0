//! Blobs from a client's content stores, and to them.

use std::io::Write;
use std::sync::Arc;

use snapshotter::{Digest, Lease, Store};
use tokio::io::AsyncReadExt;

use super::Error;
use crate::cache::MOST_BYTES;
use crate::engine::arrival::OnLayer;
use crate::engine::blocking::blocking;
use crate::engine::client::{pipe, Client, ClientBlob, ClientError, ClientStore, FileWriter};
use crate::image::Descriptor;

/// How much is read at a time.
const CHUNK: usize = 256 << 10;

/// A document, as its digest says.
pub(super) async fn document(client: &dyn Client, store: &ClientStore, digest: &Digest) -> Result<Vec<u8>, Error> {
    let blob = ClientBlob { session: None, store: store.clone(), digest: *digest };
    let failed = |source| ClientError::failed(format!("read {digest} of {store}"), source);
    let mut bytes = Vec::new();
    let read = client.read_blob(&blob, 0).await?.take(MOST_BYTES + 1).read_to_end(&mut bytes).await;
    read.map_err(failed)?;
    let wrong = match bytes.len() as u64 > MOST_BYTES {
        true => crate::cache::Error::Invalid(format!("blob {digest} is too large (more than {MOST_BYTES})")),
        false if Digest::of(&bytes) != *digest => {
            crate::cache::Error::Malformed(format!("{digest} has another content"))
        }
        false => return Ok(bytes),
    };
    Err(wrong.into())
}

/// Brings a layer into our store, unless it is there.
pub(super) async fn fetch(
    client: &dyn Client,
    from: &ClientStore,
    what: &Descriptor,
    (store, lease): (&Store, &Arc<Lease>),
    on_layer: &OnLayer,
) -> Result<(), Error> {
    if lease.hold_blob(&what.digest).is_ok() {
        return Ok(());
    }
    let failed = |source| ClientError::failed(format!("read {} of {from}", what.digest), source);
    let blob = ClientBlob { session: None, store: from.clone(), digest: what.digest };
    let mut bytes = client.read_blob(&blob, 0).await?;
    let mut writer = store.blob_writer(lease)?;
    let mut buffer = vec![0; CHUNK];
    let mut so_far = 0_u64;
    loop {
        let length = bytes.read(&mut buffer).await.map_err(failed)?;
        let Some(piece) = buffer.get(..length).filter(|piece| !piece.is_empty()) else { break };
        so_far += length as u64;
        if so_far > what.size {
            let text = format!("{} is longer than the cache says", what.digest);
            return Err(crate::cache::Error::Malformed(text).into());
        }
        writer.write_all(piece).map_err(failed)?;
        on_layer(&what.digest, so_far, what.size, so_far == what.size);
    }
    writer.commit(Some((&what.digest, what.size)))?;
    Ok(())
}

/// Gives one of the client's stores a blob that `write` writes, unless the store has it.
pub(crate) async fn give(
    client: &dyn Client,
    store: &ClientStore,
    digest: Digest,
    size: u64,
    write: impl FnOnce(&mut FileWriter) -> std::io::Result<()> + Send + 'static,
) -> Result<(), ClientError> {
    let blob = ClientBlob { session: None, store: store.clone(), digest };
    if client.blob_size(&blob).await? == Some(size) {
        return Ok(());
    }
    let (mut writer, content) = pipe();
    let writing = blocking(move || write(&mut writer).and_then(|()| writer.finish()));
    let (written, taken) = futures_util::join!(writing, client.take_blob(&blob, size, content));
    // A client that finds it has the blob stops listening. Where both failed, who cannot write may only have lost who reads.
    taken.map_err(|refused| match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            ClientError::failed(format!("write {digest} to {store}"), error)
        }
        _ => refused,
    })
}
