//! What goes to directories of a client's besides plain files: caches, image layouts, statements beside files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::client::Buildx;
use super::fixture::Daemon;

const DOCKERFILE: &str = "FROM busybox AS make\nARG N=1\nRUN echo ran $((40 + N)); echo made > /made\n\
    FROM busybox\nCOPY --from=make /made /made\nRUN cat /made > /seen && echo top $((50 + 1))\n";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn files(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_cache_in_a_directory_of_the_client_serves_another_daemon() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    daemon.rbuild.context("app", &[("Dockerfile", DOCKERFILE)]);
    let ran = |said: &str| [" ran 41", " top 51"].iter().filter(|end| said.lines().any(|l| l.ends_with(**end))).count();
    let said = buildx.ok(&["build", "--progress=plain", "--cache-to", "type=local,dest=cache,mode=max", "app"]);
    assert!(ran(&said) == 2 && said.contains("exporting cache to client directory"), "{said}");
    let cache = daemon.rbuild.path("cache");
    let index = json(&cache.join("index.json"));
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let manifest = json(&cache.join("blobs/sha256").join(manifest));
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.buildkit.cacheconfig.v0", "{manifest}");

    let other = Daemon::start().unwrap();
    let buildx = Buildx::new(&other).unwrap();
    other.rbuild.context("app", &[("Dockerfile", DOCKERFILE)]);
    let from = format!("type=local,src={}", cache.display());
    let build = |more: &[&str]| {
        let common =
            ["build", "--progress=plain", "--cache-from", &from, "--cache-to", "type=local,dest=again,mode=max"];
        buildx.ok(&[&common[..], more, &["app"]].concat())
    };
    let said = build(&["-o", "out"]);
    assert_eq!(ran(&said), 0, "{said}");
    assert_eq!(fs::read_to_string(other.rbuild.path("out/seen")).unwrap(), "made\n");
    // What was only looked up and not fetched cannot be sent on; what was, is.
    assert!(other.rbuild.path("again/index.json").exists());
    // A layer that is not what the cache says is not used: the step runs.
    let third = Daemon::start().unwrap();
    let buildx = Buildx::new(&third).unwrap();
    third.rbuild.context("app", &[("Dockerfile", DOCKERFILE)]);
    for layer in manifest["layers"].as_array().unwrap() {
        let path = cache.join("blobs/sha256").join(layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap());
        let mut bytes = fs::read(&path).unwrap();
        bytes.reverse();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let said = buildx.ok(&["build", "--progress=plain", "--cache-from", &from, "-o", "out", "app"]);
    assert!(ran(&said) > 0 && said.contains("a cached result cannot be fetched"), "{said}");
    assert_eq!(fs::read_to_string(third.rbuild.path("out/seen")).unwrap(), "made\n");
    // One that is not there is a warning of docker-buildx's own.
    let said = buildx.ok(&["build", "--progress=plain", "--cache-from", "type=local,src=nowhere", "app"]);
    assert!(said.contains("CACHED"), "{said}");
}

#[test]
fn an_image_goes_to_the_client_as_a_directory() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    daemon.rbuild.context("app", &[("Dockerfile", DOCKERFILE)]);
    // docker-buildx itself takes no directory of type=docker.
    let output = "type=oci,tar=false,dest=oci";
    let build =
        || buildx.ok(&["build", "--progress=plain", "-t", "app:7", "-o", output, "--metadata-file", "m.json", "app"]);
    build();
    let at = daemon.rbuild.path("oci");
    assert!(files(&at).is_superset(&["blobs", "index.json", "oci-layout"].map(String::from).into()), "{at:?}");
    let index = json(&at.join("index.json"));
    let entry = &index["manifests"][0];
    assert_eq!(entry["digest"], json(&daemon.rbuild.path("m.json"))["containerimage.digest"], "{index}");
    let blob = |digest: &Value| at.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"));
    let manifest = json(&blob(&entry["digest"]));
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3, "{manifest}");
    for named in layers.iter().chain([&manifest["config"]]) {
        let size = fs::metadata(blob(&named["digest"])).unwrap().len();
        assert_eq!(Some(size), named["size"].as_u64(), "{named}");
    }
    assert_eq!(files(&at.join("blobs/sha256")).len(), 5, "nothing else");
    // A second one into the same directory sends only what is new, and is read as a context.
    build();
    daemon.rbuild.context("top", &[("Dockerfile", "FROM given\nRUN cp /made /copied\n")]);
    let context = format!("given=oci-layout://{}:7", daemon.rbuild.path("oci").display());
    buildx.ok(&["build", "--build-context", &context, "-o", "top-out", "top"]);
    assert_eq!(fs::read_to_string(daemon.rbuild.path("top-out/copied")).unwrap(), "made\n");
}

#[test]
fn statements_lie_beside_files() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let dockerfile = "FROM scratch\nCOPY a b /\nCOPY sub /sub\n";
    let written = [("Dockerfile", dockerfile), ("a", "hi\n"), ("b", "ho\n"), ("sub/c", "")];
    let context = daemon.rbuild.context("app", &written);
    let build = |more: &[&str]| buildx.ok(&[&["build", "--provenance=mode=max"][..], more, &["app"]].concat());
    let of = |statement: &Value| -> Vec<String> {
        let subjects = statement["subject"].as_array().unwrap();
        subjects.iter().map(|subject| subject["name"].as_str().unwrap().to_owned()).collect()
    };
    build(&["-o", "out"]);
    let statement = json(&daemon.rbuild.path("out/provenance.json"));
    assert_eq!(
        (of(&statement), &statement["predicateType"]),
        (vec!["a".to_owned(), "b".to_owned(), "sub/c".to_owned()], &Value::from("https://slsa.dev/provenance/v1"),)
    );
    let hash = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
    assert_eq!(statement["subject"][0]["digest"]["sha256"], hash);
    let request = &statement["predicate"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(daemon.rbuild.path("out/provenance.json")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    build(&["-o", "type=tar,dest=out.tar,attestation-prefix=about-"]);
    let archive = fs::File::open(daemon.rbuild.path("out.tar")).unwrap();
    let names: Vec<String> = tar::Archive::new(archive)
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(names.contains(&"about-provenance.json".to_owned()), "{names:?}");

    build(&["--platform", "linux/amd64,linux/arm64", "-o", "both"]);
    for platform in ["linux_amd64", "linux_arm64"] {
        let at = daemon.rbuild.path("both").join(platform);
        assert_eq!(of(&json(&at.join("provenance.json"))), ["a", "b", "sub/c"], "{platform}");
    }
    // Not where it was not asked for, which is what docker-buildx does by itself.
    buildx.ok(&["build", "-o", "plain", "app"]);
    assert!(!daemon.rbuild.path("plain/provenance.json").exists());
    let refused =
        buildx.fails(&["build", "--provenance=true", "-o", "type=local,dest=x,attestation-prefix=../", "app"]);
    assert!(refused.contains("an attestation cannot be a file of this name"), "{refused}");

    // The same by the command line.
    let out = format!("type=local,dest={},attestation-prefix=p.", daemon.rbuild.path("cli").display());
    let words = ["build", "--provenance=mode=max", "-o", &out].map(AsRef::<std::ffi::OsStr>::as_ref);
    daemon.rbuild.ok(words.into_iter().chain([context.as_os_str()]));
    assert_eq!(of(&json(&daemon.rbuild.path("cli/p.provenance.json"))), ["a", "b", "sub/c"]);
    assert!(daemon.rbuild.ok(["fsck"]).is_empty());
}
