//! What a user writes after `-o`.

use std::collections::BTreeMap;

use super::options::{self, ImageOptions};
use super::{csv, Dest, Error};

/// One output of a build.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// What is made.
    pub kind: Kind,
    /// Where it goes; archives without a word on it go to standard output, which may not be a terminal.
    pub dest: Option<Dest>,
    /// About the image; of `tar` and `local` only the epoch.
    pub options: ImageOptions,
}

/// What is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image in the store.
    Image {
        /// It is pushed to the registries of its names.
        push: bool,
    },
    /// An OCI layout.
    Oci {
        /// As one archive, not as a directory.
        tar: bool,
    },
    /// What `docker load` reads.
    Docker {
        /// As one archive, not as a directory.
        tar: bool,
    },
    /// The root file system as an archive.
    Tar,
    /// The root file system as files.
    Local,
    /// Nothing but the cache.
    CacheOnly,
}

impl Kind {
    pub(super) fn is_image(&self) -> bool {
        matches!(self, Kind::Image { .. } | Kind::Oci { .. } | Kind::Docker { .. })
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Kind::Image { .. } => "image",
            Kind::Oci { .. } => "oci",
            Kind::Docker { .. } => "docker",
            Kind::Tar => "tar",
            Kind::Local => "local",
            Kind::CacheOnly => "cacheonly",
        }
    }
}

impl Output {
    /// Reads an `-o` value: `type=oci,dest=out.tar,name=app`, a directory, or `-` for a tar on standard output.
    ///
    /// # Errors
    /// [`Error::Output`] with what is wrong; attributes are never ignored.
    pub fn parse(value: &str) -> Result<Output, Error> {
        read(value).map_err(|reason| Error::Output { value: value.to_owned(), reason })
    }

    /// Reads what a client of the daemon asks for: the same attributes by name, without a destination, since what goes
    /// anywhere goes to the client.
    ///
    /// # Errors
    /// As [`parse`](Output::parse).
    pub fn of_request(kind: &str, attributes: &BTreeMap<String, String>, exporter: u32) -> Result<Output, Error> {
        let read = || {
            let mut made = kind_of(kind)?;
            // An image is always stored, and its files are there when somebody needs them.
            let is_so = |key: &str, value: &str| match key {
                "unpack" => matches!(value, "" | "true" | "false" | "1" | "0"),
                "store" => matches!(value, "" | "true" | "1"),
                _ => false,
            };
            let is_image = matches!(made, Kind::Image { .. });
            let told = attributes.iter().filter(|(key, value)| !(is_image && is_so(key, value)));
            let list: Vec<_> = told.map(|(key, value)| (key.clone(), value.clone())).collect();
            let options = options::read(&mut made, &list)?;
            let dest = match made {
                Kind::Image { .. } | Kind::CacheOnly => None,
                _ => Some(Dest::Asker(exporter)),
            };
            Ok(Output { kind: made, dest, options })
        };
        read().map_err(|reason: String| Error::Output { value: kind.to_owned(), reason })
    }

    /// Whether it is bytes on standard output.
    pub fn is_to_stdout(&self) -> bool {
        self.dest == Some(Dest::Stdout)
    }
}

/// Refuses outputs that want different images in the store, or in registries: one is made for all of them.
///
/// # Errors
/// [`Error::Output`].
pub fn check_images(outputs: &[Output]) -> Result<(), Error> {
    let mut images = outputs.iter().filter(|output| matches!(output.kind, Kind::Image { .. }));
    let Some(first) = images.next() else { return Ok(()) };
    let is_same = |output: &Output| {
        let named_alike = ImageOptions { names: first.options.names.clone(), ..output.options.clone() };
        named_alike == first.options
    };
    match images.all(is_same) {
        true => Ok(()),
        false => {
            let reason = "another output wants an image with other options, and one is made for all; build twice";
            Err(Error::Output { value: "type=image".to_owned(), reason: reason.to_owned() })
        }
    }
}

fn read(value: &str) -> Result<Output, String> {
    let fields = csv::fields(value)?;
    if let [only] = fields.as_slice() {
        if only == value && !value.starts_with("type=") {
            let plain = match value {
                "" => return Err("it is empty".into()),
                "-" => "type=tar,dest=-".to_owned(),
                directory => return with(Kind::Local, Some(directory), &[]),
            };
            return read(&plain);
        }
    }
    let (mut kind, mut dest, mut attributes) = (None, None, Vec::new());
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("{field:?} is no key=value"));
        };
        // Keys are taken in any case, but for the user's own part of an annotation's.
        let (head, tail) = key.trim().split_at(key.trim().find('.').unwrap_or(key.trim().len()));
        let key = match head.to_ascii_lowercase() {
            head if head.starts_with("annotation") => head + tail,
            head => head + &tail.to_ascii_lowercase(),
        };
        match key.as_str() {
            "type" => kind = Some(kind_of(value)?),
            "dest" => dest = Some(value),
            _ => attributes.push((key, value.to_owned())),
        }
    }
    with(kind.ok_or("type is required, as in type=local,dest=out")?, dest, &attributes)
}

fn with(mut kind: Kind, dest: Option<&str>, attributes: &[(String, String)]) -> Result<Output, String> {
    let options = options::read(&mut kind, attributes)?;
    let dest = dest.filter(|text| !text.is_empty()).map(Dest::from_text);
    let dest = match (&kind, dest) {
        (Kind::Image { .. } | Kind::CacheOnly, Some(_)) => {
            return Err(format!("type {} has no dest: it stays in the store", kind.word()));
        }
        (Kind::Local, None) => return Err("dest is required for local exporter".into()),
        (Kind::Local, Some(Dest::Stdout | Dest::Asker(_))) => {
            return Err("files cannot go to standard output; use type=tar".into())
        }
        (Kind::Oci { tar: false } | Kind::Docker { tar: false }, None | Some(Dest::Stdout)) => {
            return Err("tar=false makes a directory: say which with dest".into());
        }
        (Kind::Oci { .. } | Kind::Docker { .. } | Kind::Tar, None) => Some(Dest::Stdout),
        (_, dest) => dest,
    };
    Ok(Output { kind, dest, options })
}

fn kind_of(word: &str) -> Result<Kind, String> {
    Ok(match word {
        "image" => Kind::Image { push: false },
        "registry" => Kind::Image { push: true },
        "oci" => Kind::Oci { tar: true },
        "docker" => Kind::Docker { tar: true },
        "tar" => Kind::Tar,
        "local" => Kind::Local,
        "cacheonly" => Kind::CacheOnly,
        "" => return Err("type is required, as in type=local,dest=out".into()),
        _ => {
            return Err(format!(
                "exporter {word:?} could not be found: want image, registry, oci, docker, tar or local"
            ))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Codec, Family};

    fn at(path: &str) -> Option<Dest> {
        Some(Dest::Path(path.into()))
    }

    #[test]
    fn values_are_read_as_buildx_reads_them() {
        for (value, kind, dest) in [
            ("out", Kind::Local, at("out")),
            ("a=b", Kind::Local, at("a=b")),
            ("-", Kind::Tar, Some(Dest::Stdout)),
            ("type=tar", Kind::Tar, Some(Dest::Stdout)),
            ("type=tar,dest=-", Kind::Tar, Some(Dest::Stdout)),
            ("type=local,dest=out", Kind::Local, at("out")),
            (r#"type=local,"dest=a,b""#, Kind::Local, at("a,b")),
            ("TYPE=oci, Dest =x.tar", Kind::Oci { tar: true }, at("x.tar")),
            ("type=oci,tar=false,dest=x", Kind::Oci { tar: false }, at("x")),
            ("type=docker", Kind::Docker { tar: true }, Some(Dest::Stdout)),
            ("type=image,push=true", Kind::Image { push: true }, None),
            ("type=registry", Kind::Image { push: true }, None),
            ("type=cacheonly", Kind::CacheOnly, None),
        ] {
            let got = Output::parse(value).unwrap();
            assert_eq!((got.kind, got.dest), (kind, dest), "{value}");
        }
    }

    #[test]
    fn attributes_of_images_are_read() {
        let value = r#"type=oci,dest=x,"name=app,ghcr.io/o/app:1",compression=zstd,compression-level=19,force-compression=1,
            rewrite-timestamp=true,source-date-epoch=7,annotation.org.Title=a=b,annotation-manifest.x=y"#;
        let value: String = value.split_whitespace().collect();
        let options = Output::parse(&value).unwrap().options;
        let names: Vec<_> = options.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker.io/library/app:latest", "ghcr.io/o/app:1"]);
        assert_eq!((options.codec, options.level, options.family), (Codec::Zstd, Some(19), Family::Oci));
        assert!(options.force_compression && options.rewrite_timestamp);
        assert_eq!(options.epoch, Some(7));
        let annotations: Vec<_> = options.annotations.into_iter().collect();
        assert_eq!(annotations, [("org.Title".into(), "a=b".into()), ("x".into(), "y".into())]);
    }

    #[test]
    fn one_image_is_made_for_all_outputs() {
        let checked = |values: &[&str]| {
            check_images(&values.iter().map(|value| Output::parse(value).unwrap()).collect::<Vec<_>>()).is_ok()
        };
        assert!(checked(&["type=image,name=a", "type=registry,name=b", "type=oci,dest=x,compression=zstd"]));
        assert!(!checked(&["type=image,name=a", "type=image,name=b,compression=zstd"]));
        assert!(!checked(&["type=image", "type=registry,annotation.a=b"]));
    }

    #[test]
    fn media_types_follow_the_kind_unless_asked() {
        for (value, want) in [
            ("type=oci", Family::Oci),
            ("type=image", Family::Oci),
            ("type=docker", Family::Docker),
            ("type=docker,compression=zstd", Family::Oci),
            ("type=docker,oci-mediatypes=true", Family::Oci),
            ("type=image,oci-mediatypes=false", Family::Docker),
        ] {
            assert_eq!(Output::parse(value).unwrap().options.family, want, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused_by_name() {
        for (value, want) in [
            ("", "it is empty"),
            ("type=", "type is required"),
            ("dest=x,tar=true", "type is required"),
            ("type=zip", "exporter \"zip\" could not be found"),
            ("type=local", "dest is required for local exporter"),
            ("type=local,dest=-", "use type=tar"),
            ("type=oci,tar=false", "say which with dest"),
            ("type=image,dest=x", "it stays in the store"),
            ("type=oci,dest", "\"dest\" is no key=value"),
            ("type=oci,speed=1", "type oci has no attribute \"speed\"; it has dest,"),
            ("type=oci,push=true", "has no attribute \"push\""),
            ("type=tar,name=x", "has no attribute \"name\""),
            ("type=local,dest=x,platform-split=true", "\"platform-split\" is not supported yet"),
            ("type=image,unpack=true", "\"unpack\" is not supported yet"),
            ("type=oci,compression=estargz", "not supported yet"),
            ("type=oci,compression=br", "unknown compression \"br\""),
            ("type=oci,compression-level=10", "gzip has 0 to 9"),
            ("type=oci,compression=uncompressed,compression-level=1", "without compression"),
            ("type=oci,compression-level=x", "not a number"),
            ("type=oci,tar=maybe", "neither true nor false"),
            ("type=oci,name=UP", "must be lower case"),
            ("type=oci,annotation-index.a=b", "not supported yet"),
            ("type=oci,annotation[linux/amd64].a=b", "not supported yet"),
            ("type=oci,annotation-foo.a=b", "unrecognized annotation type foo"),
            ("type=docker,compression=zstd,oci-mediatypes=false", "conflicts with"),
            ("type=docker,annotation.a=b,oci-mediatypes=false", "cannot export annotations"),
            (r#"type=oci,dest="x"#, "quote"),
        ] {
            let error = Output::parse(value).unwrap_err().to_string();
            assert!(error.contains(want), "{value}: {error}");
        }
    }
}
