//! What `docker image inspect` would say about an image.

use serde_json::{json, Map, Value};

use super::{Descriptor, Digest, Error, ImageConfig, ImageName};
use crate::rfc3339::Time;

/// What the store knows about an image besides its config.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The image id: digest of its config.
    pub id: Digest,
    /// Its tags.
    pub names: Vec<ImageName>,
    /// Its manifests as registries know them, each with the repository it was pulled from or pushed to.
    pub pushed: Vec<(ImageName, Digest)>,
    /// The manifest, where one was made.
    pub manifest: Option<Descriptor>,
    /// Bytes of all layers, as `docker image ls` shows them.
    pub size: u64,
    /// When a tag was last put on it.
    pub tagged: Option<Time>,
}

/// The JSON object of one image; `docker image inspect` prints a list of these.
///
/// Keys, their order and what is `null` follow Docker 28, which templates and scripts rely on.
///
/// # Errors
/// [`Error`] when the config is malformed.
pub fn inspect(config: &ImageConfig, kept: &Kept) -> Result<Value, Error> {
    let text = |key: &str| Value::from(config.text(key).unwrap_or_default());
    let mut tags: Vec<String> = kept.names.iter().map(ImageName::familiar).collect();
    tags.sort();
    tags.dedup();
    let mut digests: Vec<String> =
        kept.pushed.iter().map(|(name, digest)| format!("{}@{digest}", name.familiar_repository())).collect();
    digests.sort();
    digests.dedup();
    let comment = config.history().last().and_then(|entry| entry.get("comment")).cloned();

    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("Id", kept.id.to_string().into());
    put("RepoTags", json!(tags));
    put("RepoDigests", json!(digests));
    put("Parent", "".into());
    put("Comment", comment.filter(Value::is_string).unwrap_or_else(|| "".into()));
    put("Created", text("created"));
    put("DockerVersion", "".into());
    put("Author", text("author"));
    put("Config", run_config(config.get("config")));
    put("Architecture", text("architecture"));
    for (key, from) in [("Variant", "variant"), ("Os", "os"), ("OsVersion", "os.version")] {
        if key == "Os" || config.text(from).is_some() {
            put(key, text(from));
        }
    }
    put("Size", kept.size.into());
    put("RootFS", json!({"Type": "layers", "Layers": config.diff_ids()?}));
    let never = "0001-01-01T00:00:00Z".to_owned();
    put("Metadata", json!({"LastTagTime": kept.tagged.map_or(never, |time| time.to_string())}));
    if let Some(manifest) = &kept.manifest {
        let plain = Descriptor::new(manifest.media_type.as_str(), manifest.digest, manifest.size);
        put("Descriptor", json!(plain));
    }
    Ok(Value::Object(out))
}

/// Docker's own keys come first, those without a value as it shows them; then whatever else the config has.
fn run_config(config: Option<&Value>) -> Value {
    const KEYS: [(&str, Absent); 13] = [
        ("User", Absent::Empty),
        ("ExposedPorts", Absent::Left),
        ("Env", Absent::Null),
        ("Cmd", Absent::Null),
        ("Healthcheck", Absent::Left),
        ("ArgsEscaped", Absent::Left),
        ("Volumes", Absent::Null),
        ("WorkingDir", Absent::Empty),
        ("Entrypoint", Absent::Null),
        ("OnBuild", Absent::Null),
        ("Labels", Absent::Null),
        ("StopSignal", Absent::Left),
        ("Shell", Absent::Left),
    ];
    let mut given = config.and_then(Value::as_object).cloned().unwrap_or_default();
    let mut out = Map::new();
    for (key, absent) in KEYS {
        let value = match (given.get(key).filter(|value| !value.is_null()), absent) {
            (Some(value), _) => value.clone(),
            (None, Absent::Empty) => "".into(),
            (None, Absent::Null) => Value::Null,
            (None, Absent::Left) => continue,
        };
        out.insert(key.to_owned(), value);
    }
    given.retain(|key, _| KEYS.iter().all(|(known, _)| key != known));
    out.extend(given);
    Value::Object(out)
}

/// How Docker shows a key that has no value.
#[derive(Clone, Copy)]
enum Absent {
    Empty,
    Null,
    Left,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept {
            id: Digest::of(b"config"),
            names: vec!["app:2".parse().unwrap(), "app:1".parse().unwrap(), "ghcr.io/o/app:1".parse().unwrap()],
            pushed: vec![("app:1".parse().unwrap(), Digest::of(b"manifest"))],
            manifest: Some(Descriptor::of(super::super::media_type::OCI_MANIFEST, b"manifest")),
            size: 77,
            tagged: Some(Time::from_seconds(0)),
        }
    }

    #[test]
    fn an_image_is_shown_as_docker_shows_it() {
        let layer = Digest::of(b"layer");
        let config = json!({
            "architecture": "arm", "variant": "v7", "os": "linux", "created": "2024-01-01T00:00:00Z", "author": "me",
            "config": {"Cmd": ["sh"], "Labels": {"a": "b"}, "X": 1, "Shell": null},
            "history": [{"comment": "buildkit.dockerfile.v0"}],
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        });
        let got = inspect(&ImageConfig::from_value(config).unwrap(), &kept()).unwrap();
        let want = json!({
            "Id": Digest::of(b"config"),
            "RepoTags": ["app:1", "app:2", "ghcr.io/o/app:1"],
            "RepoDigests": [format!("app@{}", Digest::of(b"manifest"))],
            "Parent": "",
            "Comment": "buildkit.dockerfile.v0",
            "Created": "2024-01-01T00:00:00Z",
            "DockerVersion": "",
            "Author": "me",
            "Config": {
                "User": "", "Env": null, "Cmd": ["sh"], "Volumes": null, "WorkingDir": "", "Entrypoint": null,
                "OnBuild": null, "Labels": {"a": "b"}, "X": 1,
            },
            "Architecture": "arm",
            "Variant": "v7",
            "Os": "linux",
            "Size": 77,
            "RootFS": {"Type": "layers", "Layers": [layer]},
            "Metadata": {"LastTagTime": "1970-01-01T00:00:00Z"},
            "Descriptor": {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(b"manifest"),
                "size": 8,
            },
        });
        // As text, so that the order of keys counts too.
        assert_eq!(serde_json::to_string_pretty(&got).unwrap(), serde_json::to_string_pretty(&want).unwrap());
    }

    #[test]
    fn an_empty_config_is_shown_too() {
        let bare = Kept { names: vec![], pushed: vec![], manifest: None, tagged: None, ..kept() };
        let got = inspect(&ImageConfig::from_value(json!({})).unwrap(), &bare).unwrap();
        assert_eq!(got["RepoTags"], json!([]));
        assert_eq!(got["RootFS"]["Layers"], json!([]));
        assert_eq!(got["Metadata"]["LastTagTime"], "0001-01-01T00:00:00Z");
    }
}
