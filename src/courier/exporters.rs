//! What becomes of a result, in the words of BuildKit's exporters, and where what they send goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Error;
use crate::engine::ExportRequest;
use crate::export::{Dest, ImageOptions, Kind, Output};
use crate::image::{Codec, Family};
use crate::wire::proto::control::Exporter;

/// One exporter of a build.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shipment {
    /// What the daemon is asked for.
    pub exporter: Exporter,
    /// Where we put what it sends; nothing for what stays with the daemon or goes to a registry.
    pub place: Option<Place>,
}

/// Where a result goes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One file.
    File(Dest),
    /// A directory that files are added to.
    Directory(PathBuf),
    /// A directory that an image's blobs are added to, under these names.
    Layout(PathBuf, Vec<String>),
}

/// Whose store images stay in that go nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// The daemon's.
    Daemon,
    /// The engine's around it, which has an exporter of its own for that.
    Engine,
}

/// What is kept where nothing is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The image, for its id.
    Image,
    /// The steps in the cache.
    Cache,
}

/// What the daemon is asked to make of the result.
///
/// # Errors
/// [`Error::Unsupported`] for what only a local build does.
pub(super) fn shipments(exports: &ExportRequest, home: Home, keep: Keep) -> Result<Vec<Shipment>, Error> {
    if exports.outputs.is_empty() {
        let is_kept = !exports.names.is_empty() || keep == Keep::Image || home == Home::Engine;
        return Ok(is_kept.then(|| image(&ImageOptions::default(), &exports.names, false, home)).into_iter().collect());
    }
    let shipments = exports.outputs.iter().filter_map(|output| shipment(output, &exports.names, home).transpose());
    let shipments = shipments.collect::<Result<Vec<_>, _>>()?;
    let is_layout = |shipment: &&Shipment| matches!(shipment.place, Some(Place::Layout(..)));
    if shipments.iter().filter(is_layout).count() > 1 {
        // Daemons know one place for the blobs of images.
        return Err(Error::Unsupported("more than one output with tar=false from a daemon".to_owned()));
    }
    Ok(shipments)
}

fn shipment(output: &Output, names: &[String], home: Home) -> Result<Option<Shipment>, Error> {
    let options = &output.options;
    let dest = || output.dest.clone().unwrap_or(Dest::Stdout);
    let all = || {
        let own = options.names.iter().map(ToString::to_string).filter(|name| !names.contains(name));
        names.iter().cloned().chain(own).collect::<Vec<String>>()
    };
    let archive = |kind: &str| Shipment {
        exporter: exporter(kind, image_attrs(options, &all())),
        place: Some(Place::File(dest())),
    };
    Ok(Some(match &output.kind {
        Kind::CacheOnly => return Ok(None),
        Kind::Image { push } => image(options, names, *push, home),
        Kind::Oci { tar: false } => {
            let Dest::Path(path) = dest() else {
                return Err(Error::Unsupported("a directory cannot go to standard output".to_owned()));
            };
            let mut attrs = image_attrs(options, &all());
            attrs.insert("tar".to_owned(), "false".to_owned());
            Shipment { exporter: exporter("oci", attrs), place: Some(Place::Layout(path, all())) }
        }
        Kind::Docker { tar: false } => {
            // What tells it from an OCI layout is a file that daemons do not send.
            let help = "an output of type=docker,tar=false cannot come from a daemon; take type=oci,tar=false";
            return Err(Error::Unsupported(help.to_owned()));
        }
        Kind::Oci { tar: true } => archive("oci"),
        Kind::Docker { tar: true } => archive("docker"),
        Kind::Tar => Shipment { exporter: exporter("tar", of_files(options)), place: Some(Place::File(dest())) },
        Kind::Local => {
            let Dest::Path(path) = dest() else {
                return Err(Error::Unsupported("files cannot go to standard output; use type=tar".to_owned()));
            };
            Shipment { exporter: exporter("local", of_files(options)), place: Some(Place::Directory(path)) }
        }
    }))
}

/// An image that stays there, or goes to a registry.
fn image(options: &ImageOptions, names: &[String], push: bool, home: Home) -> Shipment {
    let mut attrs = image_attrs(options, names);
    if push {
        attrs.insert("push".to_owned(), "true".to_owned());
    }
    let kind = if home == Home::Engine && !push { "moby" } else { "image" };
    Shipment { exporter: exporter(kind, attrs), place: None }
}

fn exporter(kind: &str, attrs: BTreeMap<String, String>) -> Exporter {
    Exporter { r#type: kind.to_owned(), attrs }
}

fn epoch(options: &ImageOptions) -> BTreeMap<String, String> {
    options.epoch.iter().map(|epoch| ("source-date-epoch".to_owned(), epoch.to_string())).collect()
}

/// What is told of files.
fn of_files(options: &ImageOptions) -> BTreeMap<String, String> {
    let mut attrs = epoch(options);
    if !options.attestation_prefix.is_empty() {
        attrs.insert("attestation-prefix".to_owned(), options.attestation_prefix.clone());
    }
    attrs
}

/// What is told of an image: all that differs from what a daemon does by itself, and its media types, on which daemons
/// differ.
fn image_attrs(options: &ImageOptions, names: &[String]) -> BTreeMap<String, String> {
    let mut attrs = epoch(options);
    let mut put = |key: &str, value: String| drop(attrs.insert(key.to_owned(), value));
    if !names.is_empty() {
        put("name", names.join(","));
    }
    match options.codec {
        Codec::Gzip => {}
        Codec::Plain => put("compression", "uncompressed".to_owned()),
        Codec::Zstd => put("compression", "zstd".to_owned()),
    }
    if let Some(level) = options.level {
        put("compression-level", level.to_string());
    }
    if options.force_compression {
        put("force-compression", "true".to_owned());
    }
    if options.rewrite_timestamp {
        put("rewrite-timestamp", "true".to_owned());
    }
    if !options.artifact {
        put("oci-artifact", "false".to_owned());
    }
    put("oci-mediatypes", (options.family == Family::Oci).to_string());
    options.annotations.iter().for_each(|(key, value)| put(&format!("annotation.{key}"), value.clone()));
    attrs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(outputs: &[&str], names: &[&str], home: Home, keep: Keep) -> Result<Vec<String>, Error> {
        let exports = ExportRequest {
            names: names.iter().map(|name| name.to_string()).collect(),
            outputs: outputs.iter().map(|word| Output::parse(word).unwrap()).collect(),
            ..ExportRequest::default()
        };
        let shown = |shipment: Shipment| {
            let attrs = shipment.exporter.attrs.iter().map(|(key, value)| format!(" {key}={value}"));
            let place = match shipment.place {
                None => String::new(),
                Some(Place::File(dest)) => format!(" -> file {}", dest.shown().display()),
                Some(Place::Directory(path)) => format!(" -> directory {}", path.display()),
                Some(Place::Layout(path, names)) => format!(" -> layout {} {}", path.display(), names.join(" ")),
            };
            format!("{}{}{place}", shipment.exporter.r#type, attrs.collect::<String>())
        };
        Ok(shipments(&exports, home, keep)?.into_iter().map(shown).collect())
    }

    #[test]
    fn outputs_become_exporters_in_their_order() {
        let of = |outputs: &[&str], names: &[&str]| shipped(outputs, names, Home::Daemon, Keep::Cache).unwrap();
        assert_eq!(
            of(&["out", "-", "type=oci,dest=a.tar,compression=zstd,compression-level=3", "type=cacheonly"], &["r/a:1"]),
            [
                "local -> directory out",
                "tar -> file standard output",
                "oci compression=zstd compression-level=3 name=r/a:1 oci-mediatypes=true -> file a.tar",
            ]
        );
        assert_eq!(
            of(&["type=docker,dest=d.tar,name=b", "type=registry"], &["r/a:1"]),
            [
                "docker name=r/a:1,docker.io/library/b:latest oci-mediatypes=false -> file d.tar",
                "image name=r/a:1 oci-mediatypes=true push=true",
            ]
        );
        assert_eq!(
            of(&["type=oci,dest=a,annotation.x=y,rewrite-timestamp=true,source-date-epoch=7,force-compression=1"], &[]),
            ["oci annotation.x=y force-compression=true oci-mediatypes=true rewrite-timestamp=true \
              source-date-epoch=7 -> file a"]
        );
        assert_eq!(
            of(&["type=oci,dest=a,oci-artifact=false"], &[]),
            ["oci oci-artifact=false oci-mediatypes=true -> file a"]
        );
    }

    #[test]
    fn without_outputs_names_are_given_where_the_daemon_is() {
        let none = |names: &[&str], home, keep| shipped(&[], names, home, keep).unwrap();
        assert_eq!(none(&["a"], Home::Daemon, Keep::Cache), ["image name=a oci-mediatypes=true"]);
        assert_eq!(none(&[], Home::Daemon, Keep::Cache), [""; 0]);
        assert_eq!(none(&[], Home::Daemon, Keep::Image), ["image oci-mediatypes=true"]);
        assert_eq!(none(&["a"], Home::Engine, Keep::Cache), ["moby name=a oci-mediatypes=true"]);
        assert_eq!(shipped(&["type=image"], &["a"], Home::Engine, Keep::Cache).unwrap()[0][..6], *"moby n");
        assert_eq!(shipped(&["type=registry"], &["a"], Home::Engine, Keep::Cache).unwrap()[0][..6], *"image ");
    }

    #[test]
    fn what_a_daemon_cannot_send_is_refused() {
        let shipped = |outputs: &[&str]| shipped(outputs, &["r/a:1"], Home::Daemon, Keep::Cache);
        let refused = |outputs: &[&str]| shipped(outputs).unwrap_err().to_string();
        assert!(refused(&["type=docker,tar=false,dest=x"]).contains("take type=oci"));
        assert!(refused(&["type=oci,tar=false,dest=x", "type=oci,tar=false,dest=y"]).contains("more than one"));
        assert_eq!(
            shipped(&["type=oci,tar=false,dest=x"]).unwrap(),
            ["oci name=r/a:1 oci-mediatypes=true tar=false -> layout x r/a:1"]
        );
    }
}
