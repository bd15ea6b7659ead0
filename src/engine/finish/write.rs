//! Outputs outside the store: archives, layouts, directories.

use std::io;
use std::os::fd::AsFd;

use snapshotter::layer::write_tar;
use snapshotter::Digest;

use super::documents::{Made, Stays};
use super::{Finishing, Part};
use crate::engine::beside::{self, file_name, Kept, Shown};
use crate::engine::error::BuildError;
use crate::export::{self, layout, local, Dest, ImageOptions, Kind};

impl Finishing {
    /// The files of one platform as they leave, with what is said of them.
    pub(in crate::engine) fn show(&self, part: &Part, options: &ImageOptions) -> Result<Shown, BuildError> {
        let top = part.layers.top();
        let named = self.said(part, Stays::Elsewhere).map(|said| {
            let name = file_name(&options.attestation_prefix, &said.filename)?;
            Ok((name, said.attestation))
        });
        let named = named.collect::<Result<Vec<_>, BuildError>>()?;
        if named.is_empty() {
            return Shown::of(Kept::AsItIs(self.store.view(top.as_ref(), &self.lease)?));
        }
        let shown = Shown::of(Kept::WithMore(self.store.prepare(top.as_ref(), &self.lease)?))?;
        beside::put(shown.root(), &named)?;
        Ok(shown)
    }

    /// Writes one output.
    pub(super) fn export(&self, output: &export::Output) -> Result<(), BuildError> {
        let dest = output.dest.clone().unwrap_or(Dest::Stdout);
        let epoch = output.options.epoch.or(self.epoch);
        match &output.kind {
            Kind::Oci { tar } => self.layout(output, layout::Flavour::Oci, *tar, &dest),
            Kind::Docker { tar } => self.layout(output, layout::Flavour::Docker, *tar, &dest),
            Kind::Tar => {
                let [part] = self.parts.as_slice() else {
                    return Err(BuildError::Unsupported("several platforms in one tar of files; use type=local"));
                };
                let tree = self.show(part, &output.options)?;
                let fill =
                    &mut |into: &mut dyn io::Write| write_tar(tree.root(), epoch, into).map_err(io::Error::other);
                Ok(export::tar(&dest, fill)?)
            }
            Kind::Local => {
                let Dest::Path(dir) = &dest else { return Err(BuildError::Unsupported("files on standard output")) };
                let options = local::Options { owner: local::Owner::of_this_process(), epoch };
                for part in &self.parts {
                    let tree = self.show(part, &output.options)?;
                    // One directory for each platform, as other builders have it.
                    let own = self.index.then(|| dir.join(part.platform.to_string().replace('/', "_")));
                    let own = own.as_ref().unwrap_or(dir);
                    local::copy(tree.opened()?.as_fd(), own, &options)?;
                }
                Ok(())
            }
            Kind::Image { .. } | Kind::CacheOnly => Ok(()),
        }
    }

    /// Writes an image layout.
    fn layout(
        &self,
        output: &export::Output,
        flavour: layout::Flavour,
        tar: bool,
        dest: &Dest,
    ) -> Result<(), BuildError> {
        let made = self.assemble(&output.options, true, Stays::Elsewhere)?;
        let bundle = self.bundle(output, made)?;
        match (tar, dest) {
            (false, Dest::Path(dir)) => layout::write_directory(&bundle, flavour, &|digest| self.open(digest), dir)?,
            _ => layout::write_archive(&bundle, flavour, &|digest| self.open(digest), dest)?,
        }
        Ok(())
    }

    /// Images with their documents, as they leave in a layout.
    pub(in crate::engine) fn bundle(&self, output: &export::Output, made: Made) -> Result<export::Bundle, BuildError> {
        let created = made.images.iter().map(|image| image.created).max();
        let created = created.ok_or_else(|| BuildError::Bug("an image without documents".to_string()))?;
        let bundle = match (made.index, made.images.as_slice()) {
            (None, [image]) => export::Bundle::single(image),
            (Some(index), images) => export::Bundle::multi(index, images),
            (None, _) => return Err(BuildError::Bug("several images without an index".to_string())),
        };
        let attested = made.attested.into_iter();
        let bundle = attested.fold(bundle, |bundle, attested| {
            let documents = attested.blobs.into_iter().map(|(descriptor, bytes)| (descriptor.digest, bytes));
            bundle.with(documents.chain([(attested.descriptor.digest, attested.manifest)]))
        });
        Ok(bundle.named(self.image_names(&output.options), created))
    }

    /// Opens a layer's blob.
    pub(in crate::engine) fn open(&self, digest: &Digest) -> io::Result<Box<dyn io::Read>> {
        Ok(Box::new(self.store.open_blob(&self.lease, digest).map_err(io::Error::other)?))
    }
}
