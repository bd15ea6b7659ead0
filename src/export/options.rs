//! The attributes an exporter takes: which are known, which are obeyed, what their values mean.

use std::collections::BTreeMap;

use super::output::Kind;
use crate::image::{Codec, Family, ImageName};

/// What `-o` values say about an image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageOptions {
    /// Its names.
    pub names: Vec<ImageName>,
    /// How new layers are compressed.
    pub codec: Codec,
    /// How hard; `None` is the codec's default.
    pub level: Option<i32>,
    /// Layers that exist in another compression are made anew.
    pub force_compression: bool,
    /// Whose media types.
    pub family: Family,
    /// Times of files in new layers are not later than the epoch.
    pub rewrite_timestamp: bool,
    /// Seconds since 1970; `None` leaves it to `SOURCE_DATE_EPOCH`.
    pub epoch: Option<i64>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Statements about the image name it as their subject, instead of looking like an image.
    pub artifact: bool,
    /// What names of files begin with that say where the others come from; of `local` and `tar`.
    pub attestation_prefix: String,
}

impl Default for ImageOptions {
    /// An OCI image with gzip layers.
    fn default() -> ImageOptions {
        ImageOptions {
            names: Vec::new(),
            codec: Codec::Gzip,
            level: None,
            force_compression: false,
            family: Family::Oci,
            rewrite_timestamp: false,
            epoch: None,
            annotations: BTreeMap::new(),
            artifact: true,
            attestation_prefix: String::new(),
        }
    }
}

/// Attributes BuildKit knows and this exporter does not obey yet: better refused than ignored.
const LATER: [&str; 15] = [
    "attestation-inline",
    "prefer-nondist-layers",
    "push-by-digest",
    "store",
    "unpack",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "name-canonical",
    "platform-split",
    "mode",
    "registry.insecure",
    "context",
    "soci",
    "buildinfo",
    "buildinfo-attrs",
];

/// Reads the attributes of one `-o` value, but for `type` and `dest`, in the order given.
pub(super) fn read(kind: &mut Kind, attributes: &[(String, String)]) -> Result<ImageOptions, String> {
    let mut options = ImageOptions::default();
    let mut family = None;
    for (key, value) in attributes {
        let of_image = kind.is_image();
        match key.as_str() {
            "source-date-epoch" if value.is_empty() => options.epoch = None,
            "source-date-epoch" => options.epoch = Some(number(key, value)?),
            "name" if of_image => options.names = names(value)?,
            "compression" if of_image => options.codec = codec(value)?,
            "compression-level" if of_image => options.level = Some(number(key, value)?),
            "force-compression" if of_image => options.force_compression = boolean(key, value)?,
            "rewrite-timestamp" if of_image => options.rewrite_timestamp = boolean(key, value)?,
            "oci-artifact" if of_image => options.artifact = boolean(key, value)?,
            "oci-mediatypes" if of_image => {
                family = Some(if boolean(key, value)? { Family::Oci } else { Family::Docker });
            }
            "attestation-prefix" if matches!(kind, Kind::Local | Kind::Tar) => {
                options.attestation_prefix.clone_from(value);
            }
            "push" => match kind {
                Kind::Image { push } => *push = boolean(key, value)?,
                _ => return Err(unknown(kind, key)),
            },
            "tar" => match kind {
                Kind::Oci { tar } | Kind::Docker { tar } => *tar = boolean(key, value)?,
                _ => return Err(unknown(kind, key)),
            },
            _ if key.starts_with("annotation") && of_image => {
                options.annotations.insert(annotation(key)?.to_owned(), value.clone());
            }
            _ if LATER.contains(&key.as_str()) => return Err(format!("attribute {key:?} is not supported yet")),
            _ => return Err(unknown(kind, key)),
        }
    }
    options.family = resolve(kind, family, &options)?;
    options.level.map_or(Ok(()), |level| options.codec.check_level(level))?;
    Ok(options)
}

/// Docker's engine reads both families; its own is the one every version of it reads. Registries take OCI.
fn resolve(kind: &Kind, asked: Option<Family>, options: &ImageOptions) -> Result<Family, String> {
    let needs_oci = options.codec == Codec::Zstd || !options.annotations.is_empty();
    match asked {
        Some(Family::Docker) if options.codec == Codec::Zstd => {
            Err("exporter option \"compression=zstd\" conflicts with \"oci-mediatypes=false\"".into())
        }
        Some(Family::Docker) if !options.annotations.is_empty() => {
            Err("cannot export annotations with \"oci-mediatypes=false\"".into())
        }
        Some(family) => Ok(family),
        None if matches!(kind, Kind::Docker { .. }) && !needs_oci => Ok(Family::Docker),
        None => Ok(Family::Oci),
    }
}

fn unknown(kind: &Kind, key: &str) -> String {
    let mut known = vec!["dest", "source-date-epoch"];
    if kind.is_image() {
        known.extend(["name", "compression", "compression-level", "force-compression", "oci-mediatypes"]);
        known.extend(["rewrite-timestamp", "oci-artifact", "annotation.<key>"]);
    }
    match kind {
        Kind::Image { .. } => known.push("push"),
        Kind::Oci { .. } | Kind::Docker { .. } => known.push("tar"),
        Kind::Local | Kind::Tar => known.push("attestation-prefix"),
        Kind::CacheOnly => {}
    }
    format!("type {} has no attribute {key:?}; it has {}", kind.word(), known.join(", "))
}

fn names(list: &str) -> Result<Vec<ImageName>, String> {
    let parts = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    parts.map(|name| name.parse().map_err(|error: crate::image::name::InvalidName| error.to_string())).collect()
}

fn codec(value: &str) -> Result<Codec, String> {
    match value {
        "gzip" | "" => Ok(Codec::Gzip),
        "uncompressed" => Ok(Codec::Plain),
        "zstd" => Ok(Codec::Zstd),
        "estargz" => Err("compression \"estargz\" is not supported yet".into()),
        _ => Err(format!("unknown compression {value:?}: want gzip, zstd or uncompressed")),
    }
}

fn annotation(key: &str) -> Result<&str, String> {
    let rest = &key["annotation".len()..];
    if let Some(name) = rest.strip_prefix('.').or_else(|| rest.strip_prefix("-manifest.")) {
        return if name.is_empty() { Err("an annotation needs a key".into()) } else { Ok(name) };
    }
    let kind = rest.trim_start_matches('-').split(['.', '[']).next().unwrap_or_default();
    match kind {
        "" | "index" | "index-descriptor" | "manifest" | "manifest-descriptor" => {
            Err(format!("attribute {key:?} is not supported yet"))
        }
        _ => Err(format!("unrecognized annotation type {kind}")),
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{key} is {value:?}, not a number"))
}

/// The words Go's `strconv.ParseBool` takes; a bare `key=` means yes.
fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{key} is {value:?}, neither true nor false")),
    }
}
