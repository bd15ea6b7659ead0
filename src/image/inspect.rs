//! What `docker image inspect` would say about an image.

use std::collections::BTreeSet;

use serde_json::{json, Map, Value};

use super::{Digest, ImageConfig};

/// What the store knows about an image besides its config.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The image id: digest of its config.
    pub id: Digest,
    /// Its names as Docker users write them: `app:1.0`.
    pub tags: Vec<String>,
    /// Its manifests in registries: `app@sha256:…`.
    pub digests: Vec<String>,
    /// Bytes of all layers.
    pub size: u64,
}

/// The JSON object of one image; `docker image inspect` prints a list of these.
///
/// Keys, their order and what is `null` follow Docker 28, which templates and scripts rely on.
pub fn inspect(config: &ImageConfig, facts: &Facts) -> Value {
    let text = |key: &str| Value::from(config.text(key).unwrap_or_default());
    let comment = config.history().last().and_then(|entry| entry.get("comment")).cloned();

    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("Id", facts.id.to_string().into());
    put("RepoTags", json!(facts.tags.iter().collect::<BTreeSet<_>>()));
    put("RepoDigests", json!(facts.digests.iter().collect::<BTreeSet<_>>()));
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
    put("Size", facts.size.into());
    // A config that was parsed lists digests or nothing.
    put("RootFS", json!({"Type": "layers", "Layers": config.diff_ids().unwrap_or_default()}));
    // Docker's zero time: when a tag was put on it is not kept.
    put("Metadata", json!({"LastTagTime": "0001-01-01T00:00:00Z"}));
    Value::Object(out)
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

    fn facts() -> Facts {
        Facts {
            id: Digest::of(b"config"),
            tags: ["app:2", "app:1", "ghcr.io/o/app:1", "app:1"].map(str::to_owned).into(),
            digests: vec![format!("app@{}", Digest::of(b"manifest"))],
            size: 77,
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
        let got = inspect(&ImageConfig::from_value(config).unwrap(), &facts());
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
            "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
        });
        // As text, so that the order of keys counts too.
        assert_eq!(serde_json::to_string_pretty(&got).unwrap(), serde_json::to_string_pretty(&want).unwrap());
    }

    #[test]
    fn an_empty_config_is_shown_too() {
        let bare = Facts { tags: vec![], digests: vec![], ..facts() };
        let got = inspect(&ImageConfig::from_value(json!({})).unwrap(), &bare);
        assert_eq!(got["RepoTags"], json!([]));
        assert_eq!(got["RootFS"]["Layers"], json!([]));
        assert_eq!(got["Config"]["Env"], Value::Null);
    }
}
