//! Media types: how documents and layers are labelled, in two families.

use super::Descriptor;

/// OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// Whose labels a document carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// <https://github.com/opencontainers/image-spec/blob/v1.1.0/media-types.md>
    #[default]
    Oci,
    /// <https://distribution.github.io/distribution/spec/manifest-v2-2/>
    Docker,
}

impl Family {
    /// The label of an index.
    pub fn index(self) -> &'static str {
        match self {
            Family::Oci => OCI_INDEX,
            Family::Docker => DOCKER_INDEX,
        }
    }

    /// The label of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Family::Oci => OCI_MANIFEST,
            Family::Docker => DOCKER_MANIFEST,
        }
    }

    /// The label of an image config.
    pub fn config(self) -> &'static str {
        match self {
            Family::Oci => OCI_CONFIG,
            Family::Docker => DOCKER_CONFIG,
        }
    }

    /// The label of a layer made with this codec.
    pub fn layer(self, codec: Codec) -> String {
        let (base, separator) = match self {
            Family::Oci => (OCI_LAYER, '+'),
            Family::Docker => (DOCKER_LAYER, '.'),
        };
        labelled(base, separator, codec)
    }
}

/// How a layer blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// Whether it has this level.
    ///
    /// # Errors
    /// Says which levels it has.
    pub fn check_level(self, level: i32) -> Result<(), String> {
        let (name, most) = match self {
            Codec::Plain => return Err("compression-level without compression".into()),
            Codec::Gzip => ("gzip", 9),
            Codec::Zstd => ("zstd", 22),
        };
        match (0..=most).contains(&level) {
            true => Ok(()),
            false => Err(format!("compression-level {level}: {name} has 0 to {most}")),
        }
    }
}

fn labelled(base: &str, separator: char, codec: Codec) -> String {
    match codec {
        Codec::Plain => base.to_owned(),
        Codec::Gzip => format!("{base}{separator}gzip"),
        Codec::Zstd => format!("{base}{separator}zstd"),
    }
}

/// What a layer's label says, or `None` when it labels no layer tar.
pub fn layer(media_type: &str) -> Option<LayerType> {
    for (base, separator, foreign) in [
        (OCI_LAYER, '+', false),
        (OCI_FOREIGN_LAYER, '+', true),
        (DOCKER_LAYER, '.', false),
        (DOCKER_FOREIGN_LAYER, '.', true),
    ] {
        for codec in [Codec::Plain, Codec::Gzip, Codec::Zstd] {
            if media_type == labelled(base, separator, codec) {
                return Some(LayerType { codec, foreign });
            }
        }
    }
    None
}

/// What a layer's label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerType {
    /// How it is compressed.
    pub codec: Codec,
    /// Its licence forbids passing it on: registries are not sent it.
    pub foreign: bool,
}

/// The layer as a manifest of `family` names it: label translated, internal annotations gone.
pub fn in_family(family: Family, layer: &Descriptor) -> Descriptor {
    let mut named = layer.clone();
    if let Some(LayerType { codec, foreign }) = self::layer(&layer.media_type) {
        named.media_type = match (family, foreign) {
            (_, false) => family.layer(codec),
            (Family::Oci, true) => labelled(OCI_FOREIGN_LAYER, '+', codec),
            (Family::Docker, true) => labelled(DOCKER_FOREIGN_LAYER, '.', codec),
        };
    }
    named.platform = None;
    match family {
        Family::Docker => named.annotations.clear(),
        Family::Oci => named.annotations.retain(|key, _| {
            key != "containerd.io/uncompressed"
                && key != "buildkit/createdat"
                && !key.starts_with("containerd.io/distribution.source.")
        }),
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_labels_survive_both_directions() {
        for family in [Family::Oci, Family::Docker] {
            for codec in [Codec::Plain, Codec::Gzip, Codec::Zstd] {
                assert_eq!(layer(&family.layer(codec)), Some(LayerType { codec, foreign: false }));
            }
        }
        assert_eq!(
            layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            Some(LayerType { codec: Codec::Gzip, foreign: true })
        );
        assert_eq!(layer("application/vnd.in-toto+json"), None);
        assert_eq!(layer("application/vnd.oci.image.layer.v1.tar.gzip"), None);
    }
}
