//! What `--cache-to` and `--cache-from` say; the daemon's clients send the same as type and attributes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Error;
use crate::image::{Codec, Digest, Family};

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a registry, under this reference.
    Registry(String),
    /// In a directory, as an OCI layout, under this tag.
    Local(PathBuf, String),
    /// In a directory of a client that is somewhere else, which gives and takes its blobs.
    Client(ClientDir),
    /// In the configuration of the image that is built.
    Inline,
}

/// A directory of a client's, as an OCI layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientDir {
    /// Whose: a directory of this name is another one with another client.
    pub session: String,
    /// As the client wrote it.
    pub dir: String,
}

impl Place {
    /// The same where paths are those of the client of a session.
    fn at_client(self, session: &str) -> Place {
        match self {
            // The client knows by the tag which document it means, and says which.
            Place::Local(dir, _) => {
                Place::Client(ClientDir { session: session.to_owned(), dir: dir.display().to_string() })
            }
            place => place,
        }
    }

    fn written(&self, directory: &str) -> (String, BTreeMap<String, String>) {
        let pair = |name: &str, value: String| (name.to_owned(), value);
        match self {
            Place::Registry(reference) => ("registry".into(), [pair("ref", reference.clone())].into()),
            Place::Local(dir, tag) => {
                ("local".into(), [pair(directory, dir.display().to_string()), pair("tag", tag.clone())].into())
            }
            Place::Client(there) => ("local".into(), [pair(directory, there.dir.clone())].into()),
            Place::Inline => ("inline".into(), BTreeMap::new()),
        }
    }
}

/// Which results leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those whose layers are in the image.
    #[default]
    Min,
    /// All.
    Max,
}

/// The document that names the blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An OCI image manifest.
    Manifest,
    /// An index.
    Index(Family),
}

/// How layers are compressed that were made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressAs {
    /// The codec.
    pub codec: Codec,
    /// Its level.
    pub level: Option<i32>,
    /// Layers that came compressed otherwise are compressed anew.
    pub force: bool,
}

/// One `--cache-to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTo {
    /// Where to.
    pub place: Place,
    /// How much.
    pub mode: Mode,
    /// In which form.
    pub form: Form,
    /// How compressed.
    pub compress: CompressAs,
    /// That it cannot be written is only warned of.
    pub ignore_error: bool,
}

/// One `--cache-from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFrom {
    /// Where from.
    pub place: Place,
    /// The document, where others are beside it: a client says which of its directory's is meant.
    pub digest: Option<Digest>,
}

/// Type and attributes, taken one by one: what is left at the end nobody knows.
struct Attributes {
    kind: String,
    left: BTreeMap<String, String>,
}

impl Attributes {
    fn new(kind: &str, attributes: &BTreeMap<String, String>) -> Attributes {
        Attributes { kind: kind.to_owned(), left: attributes.clone() }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.left.remove(name).filter(|value| !value.is_empty())
    }

    fn wanted(&mut self, name: &str) -> Result<String, Error> {
        let missing = || Error::Option(format!("type={} needs {name}=…", self.kind));
        self.left.remove(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    }

    fn boolean(&mut self, name: &str, default: bool) -> Result<bool, Error> {
        match self.take(name).as_deref() {
            None => Ok(default),
            Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(Error::Option(format!("{name}={other}: want true or false"))),
        }
    }

    fn done(self) -> Result<(), Error> {
        match self.left.keys().next() {
            Some(name) => Err(Error::Option(format!("type={} has no attribute {name:?}", self.kind))),
            None => Ok(()),
        }
    }

    fn place(&mut self, directory: &str) -> Result<Place, Error> {
        match &*self.kind.clone() {
            "registry" => {
                let reference = self.wanted("ref")?;
                if self.boolean("registry.insecure", false)? {
                    let help = "say so of the registry in rbuild's configuration file";
                    return Err(Error::Option(format!("registry.insecure=true is not supported here: {help}")));
                }
                Ok(Place::Registry(reference))
            }
            "local" => {
                let dir = PathBuf::from(self.wanted(directory)?);
                Ok(Place::Local(dir, self.take("tag").unwrap_or_else(|| "latest".into())))
            }
            "inline" => Ok(Place::Inline),
            kind @ ("gha" | "s3" | "azblob") => {
                Err(Error::Option(format!("caches of type {kind} are not supported yet")))
            }
            kind => Err(Error::Option(format!("unknown cache type {kind:?}: want registry, local or inline"))),
        }
    }
}

impl CacheTo {
    /// Reads type and attributes.
    ///
    /// # Errors
    /// [`Error::Option`] names the attribute.
    pub fn new(kind: &str, attributes: &BTreeMap<String, String>) -> Result<CacheTo, Error> {
        let mut from = Attributes::new(kind, attributes);
        let place = from.place("dest")?;
        let mode = match from.take("mode").as_deref() {
            None | Some("min") => Mode::Min,
            Some("max") if place == Place::Inline => {
                return Err(Error::Option("type=inline has only mode=min: an image carries its own layers".into()))
            }
            Some("max") => Mode::Max,
            Some(other) => return Err(Error::Option(format!("mode={other}: want min or max"))),
        };
        let oci = from.boolean("oci-mediatypes", true)?;
        let as_image = from.boolean("image-manifest", oci)?;
        if as_image && !oci {
            let text =
                "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format";
            return Err(Error::Option(text.into()));
        }
        let form = match (as_image, oci) {
            (true, _) => Form::Manifest,
            (false, true) => Form::Index(Family::Oci),
            (false, false) => Form::Index(Family::Docker),
        };
        let codec = match from.take("compression").as_deref() {
            None | Some("gzip") => Codec::Gzip,
            Some("zstd") => Codec::Zstd,
            Some("uncompressed") => Codec::Plain,
            Some(other) => return Err(Error::Option(format!("compression={other}: want gzip, zstd or uncompressed"))),
        };
        let level = from.take("compression-level");
        let level = level
            .map(|text| text.parse().map_err(|_| Error::Option(format!("compression-level={text}: not a number"))))
            .transpose()?;
        level.map_or(Ok(()), |level| codec.check_level(level)).map_err(Error::Option)?;
        let compress = CompressAs { codec, level, force: from.boolean("force-compression", false)? };
        let ignore_error = from.boolean("ignore-error", false)?;
        from.done()?;
        Ok(CacheTo { place, mode, form, compress, ignore_error })
    }

    /// Reads what the client of a session sent.
    ///
    /// # Errors
    /// As [`CacheTo::new`].
    pub fn of_client(kind: &str, attributes: &BTreeMap<String, String>, session: &str) -> Result<CacheTo, Error> {
        let read = CacheTo::new(kind, attributes)?;
        Ok(CacheTo { place: read.place.at_client(session), ..read })
    }

    /// Type and attributes that [`CacheTo::new`] reads to the same.
    pub fn written(&self) -> (String, BTreeMap<String, String>) {
        let (kind, mut attributes) = self.place.written("dest");
        let mut put = |name: &str, value: String| drop(attributes.insert(name.to_owned(), value));
        if self.mode == Mode::Max {
            put("mode", "max".to_owned());
        }
        if let Form::Index(family) = self.form {
            put("image-manifest", "false".to_owned());
            put("oci-mediatypes", (family == Family::Oci).to_string());
        }
        match self.compress.codec {
            Codec::Gzip => {}
            Codec::Zstd => put("compression", "zstd".to_owned()),
            Codec::Plain => put("compression", "uncompressed".to_owned()),
        }
        if let Some(level) = self.compress.level {
            put("compression-level", level.to_string());
        }
        if self.compress.force {
            put("force-compression", "true".to_owned());
        }
        if self.ignore_error {
            put("ignore-error", "true".to_owned());
        }
        (kind, attributes)
    }
}

impl CacheFrom {
    /// Reads type and attributes.
    ///
    /// # Errors
    /// [`Error::Option`] names the attribute.
    pub fn new(kind: &str, attributes: &BTreeMap<String, String>) -> Result<CacheFrom, Error> {
        let mut from = Attributes::new(kind, attributes);
        let place = match from.place("src")? {
            Place::Inline => {
                return Err(Error::Option("type=inline is for --cache-to; import with type=registry".into()))
            }
            place => place,
        };
        from.done()?;
        Ok(CacheFrom { place, digest: None })
    }

    /// Reads what the client of a session sent.
    ///
    /// # Errors
    /// As [`CacheFrom::new`].
    pub fn of_client(kind: &str, attributes: &BTreeMap<String, String>, session: &str) -> Result<CacheFrom, Error> {
        let mut attributes = attributes.clone();
        let digest = if kind == "local" { attributes.remove("digest") } else { None };
        let read = CacheFrom::new(kind, &attributes)?;
        let digest = digest.filter(|text| !text.is_empty());
        let digest = digest.map(|text| text.parse().map_err(|_| Error::Option(format!("digest={text}: no digest"))));
        let (place, digest) = (read.place.at_client(session), digest.transpose()?);
        if matches!(place, Place::Client(_)) && digest.is_none() {
            return Err(Error::Option("local cache importer requires explicit digest".into()));
        }
        Ok(CacheFrom { place, digest })
    }

    /// Type and attributes that [`CacheFrom::new`] reads to the same.
    pub fn written(&self) -> (String, BTreeMap<String, String>) {
        self.place.written("src")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn options_are_read_as_buildkit_reads_them() {
        let to = |kind: &str, text: &str| CacheTo::new(kind, &attributes(text)).map_err(|error| error.to_string());
        let plain = to("registry", "ref=r/c").unwrap();
        assert_eq!((plain.mode, plain.form, plain.ignore_error), (Mode::Min, Form::Manifest, false));
        let old = to("registry", "ref=r/c,mode=max,oci-mediatypes=false,ignore-error=true").unwrap();
        assert_eq!((old.mode, old.form, old.ignore_error), (Mode::Max, Form::Index(Family::Docker), true));
        assert_eq!(to("local", "dest=/c,tag=x").unwrap().place, Place::Local("/c".into(), "x".into()));
        assert!(to("registry", "ref=r,image-manifest=true,oci-mediatypes=false")
            .unwrap_err()
            .contains("OCI mediatypes"));
        for (kind, text, wrong) in [
            ("registry", "", "needs ref"),
            ("registry", "ref=r,mod=max", "no attribute \"mod\""),
            ("inline", "mode=max", "only mode=min"),
            ("s3", "bucket=b", "not supported yet"),
            ("ftp", "", "unknown cache type"),
            ("local", "dest=d,compression=lz", "compression=lz"),
            ("local", "dest=d,compression-level=10", "gzip has 0 to 9"),
            ("local", "dest=d,compression=uncompressed,compression-level=1", "without compression"),
        ] {
            let said = to(kind, text).unwrap_err();
            assert!(said.contains(wrong), "{said}");
        }
        for (kind, text) in [
            (
                "registry",
                "ref=r/c,mode=max,image-manifest=false,compression=zstd,compression-level=3,force-compression=1",
            ),
            ("registry", "ref=r/c,oci-mediatypes=false,ignore-error=true"),
            ("local", "dest=/c"),
            ("inline", ""),
        ] {
            let read = to(kind, text).unwrap();
            let (kind, attributes) = read.written();
            assert_eq!(CacheTo::new(&kind, &attributes).unwrap(), read);
        }
        let from = CacheFrom::new("local", &attributes("src=/c")).unwrap();
        assert_eq!(from.place, Place::Local("/c".into(), "latest".into()));
        assert!(CacheFrom::new("inline", &attributes("")).is_err());
    }

    #[test]
    fn directories_of_a_client_are_its_own() {
        let digest = Digest::of(b"x");
        let there = Place::Client(ClientDir { session: "s".into(), dir: "/c".into() });
        let from = |text: &str| CacheFrom::of_client("local", &attributes(text), "s").map_err(|e| e.to_string());
        let read = from(&format!("src=/c,digest={digest},tag=x")).unwrap();
        assert_eq!((read.place, read.digest), (there.clone(), Some(digest)));
        assert!(from("src=/c").unwrap_err().contains("requires explicit digest"));
        assert!(from("src=/c,digest=../x").unwrap_err().contains("no digest"));
        assert_eq!(CacheTo::of_client("local", &attributes("dest=/c,mode=max"), "s").unwrap().place, there);
        let registry = CacheTo::of_client("registry", &attributes("ref=r/c"), "s").unwrap();
        assert_eq!(registry.place, Place::Registry("r/c".into()));
        assert!(CacheFrom::of_client("registry", &attributes("ref=r,digest=d"), "s").is_err(), "nothing is ignored");
    }
}
