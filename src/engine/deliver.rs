//! Results that leave through the client: archives as one file, files as directories, images as blobs.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use snapshotter::layer::write_tar;

use super::beside::Shown;
use super::blocking::blocking;
use super::cache::give;
use super::client::{pipe, Client, ClientStore, DeliveredTree, Delivery, FileWriter};
use super::error::BuildError;
use super::finish::{Built, Finishing, Stays};
use super::notes::Note;
use crate::export::{self, layout, Kind, Output};

/// Nanoseconds in a second.
const NANOSECONDS: i64 = 1_000_000_000;

/// Gives the client what `output` asks for; tells what image that was, where it is one.
pub(super) async fn deliver(
    finishing: Arc<Finishing>,
    output: Output,
    exporter: u32,
    client: &dyn Client,
    note: &Note<'_>,
) -> Result<Option<Built>, BuildError> {
    let delivery = Delivery { exporter, ..Delivery::default() };
    match output.kind {
        Kind::Local => directories(finishing, &output, delivery, client).await.map(|()| None),
        Kind::Tar => {
            if finishing.parts.len() > 1 {
                return Err(BuildError::Unsupported("several platforms in one tar of files; use type=local"));
            }
            let write = move |into: &mut FileWriter| {
                let Some(part) = finishing.parts.first() else { return Ok(()) };
                let tree = finishing.show(part, &output.options)?;
                let epoch = output.options.epoch.or(finishing.epoch);
                write_tar(tree.root(), epoch, into).map_err(|e| failed_to_send(io::Error::other(e)))
            };
            file(&delivery, client, note, write).await.map(|()| None)
        }
        Kind::Oci { tar } | Kind::Docker { tar } => {
            let made = {
                let (finishing, options) = (Arc::clone(&finishing), output.options.clone());
                blocking(move || finishing.assemble(&options, true, Stays::Elsewhere)).await?
            };
            let names: Vec<String> = finishing.image_names(&output.options).iter().map(ToString::to_string).collect();
            let built = made.built(&names, true);
            if !tar {
                let bundle = finishing.bundle(&output, made)?;
                blobs(&finishing, bundle, client, note).await?;
                return Ok(Some(built));
            }
            let delivery = Delivery { metadata: built.response(), ..delivery };
            let flavour = match output.kind {
                Kind::Docker { .. } => layout::Flavour::Docker,
                _ => layout::Flavour::Oci,
            };
            let write = move |into: &mut FileWriter| {
                let bundle = finishing.bundle(&output, made)?;
                Ok(layout::stream_archive(
                    &bundle,
                    flavour,
                    &|digest| finishing.open(digest),
                    Path::new("client"),
                    into,
                )?)
            };
            file(&delivery, client, note, write).await.map(|()| Some(built))
        }
        Kind::Image { .. } | Kind::CacheOnly => Ok(None),
    }
}

fn failed_to_send(source: io::Error) -> BuildError {
    BuildError::Export(export::Error::Write { path: "client".into(), source })
}

/// Gives the client an image as blobs, what names others last. It writes the index itself.
async fn blobs(
    finishing: &Arc<Finishing>,
    bundle: export::Bundle,
    client: &dyn Client,
    note: &Note<'_>,
) -> Result<(), BuildError> {
    for (digest, size) in bundle.layers() {
        let finishing = Arc::clone(finishing);
        let write = move |into: &mut FileWriter| io::copy(&mut finishing.open(&digest)?, into).map(drop);
        give(client, &ClientStore::Result, digest, size, write).await?;
        note.part(&format!("writing layer {digest}"));
    }
    for (digest, bytes) in bundle.into_documents() {
        let size = bytes.len() as u64;
        give(client, &ClientStore::Result, digest, size, move |into| into.write_all(&bytes)).await?;
    }
    note.part("sending blobs");
    Ok(())
}

/// Gives the client a file while `write` makes it.
async fn file(
    delivery: &Delivery,
    client: &dyn Client,
    note: &Note<'_>,
    write: impl FnOnce(&mut FileWriter) -> Result<(), BuildError> + Send + 'static,
) -> Result<(), BuildError> {
    let (mut writer, content) = pipe();
    let writing = blocking(move || {
        write(&mut writer)?;
        writer.flush().and_then(|()| writer.finish()).map_err(failed_to_send)
    });
    let (written, taken) = futures_util::join!(writing, client.take_file(delivery, content));
    // Where both failed, the one that cannot write says only that nobody reads.
    taken?;
    written?;
    note.part("sending tarball");
    Ok(())
}

/// Gives the client directories: one for each platform, or one.
async fn directories(
    finishing: Arc<Finishing>,
    output: &Output,
    delivery: Delivery,
    client: &dyn Client,
) -> Result<(), BuildError> {
    let epoch = output.options.epoch.or(finishing.epoch);
    let latest = epoch.map(|seconds| seconds.saturating_mul(NANOSECONDS));
    let split = finishing.index;
    let at: Vec<String> = finishing.parts.iter().map(|part| part.platform.to_string().replace('/', "_")).collect();
    let options = output.options.clone();
    let show = move || {
        let shown = finishing.parts.iter().map(|part| finishing.show(part, &options));
        shown.collect::<Result<Vec<Shown>, BuildError>>()
    };
    let shown = blocking(show).await?;
    let trees = shown.iter().zip(at).map(|(shown, at)| {
        Ok(DeliveredTree { root: shown.opened()?, at: if split { at } else { String::new() }, latest })
    });
    let trees = trees.collect::<Result<Vec<_>, BuildError>>()?;
    let delivery = Delivery { multi_platform: true, ..delivery };
    client.take_trees(&delivery, trees).await?;
    Ok(())
}
