//! Caches that leave and enter: by registry, directory and image; lazily, after failures, and when they lie.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::slice::from_ref;

use serde_json::{json, Value};
use support::registry::Registry;
use support::{can_build, have, text, until, Rbuild};

const UUID: &str = "cat /proc/sys/kernel/random/uuid";

fn ready() -> bool {
    can_build() && have("docker-registry")
}

/// Two stages; the last step of the second one reads `f`.
fn dockerfile() -> String {
    format!(
        "FROM busybox AS make\nRUN head -c 300000 /dev/urandom > /big; {UUID} > /made\n\
         FROM busybox\nCOPY --from=make /made /made\nRUN {UUID} > /id\nCOPY f /f\nRUN {UUID} > /last\n"
    )
}

/// Another machine with the same context.
fn machine(dockerfile: &str) -> (Rbuild, PathBuf) {
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", dockerfile), ("f", "1")]);
    (rbuild, context)
}

#[test]
fn an_empty_store_fetches_only_what_the_changed_step_needs() {
    if !ready() {
        return;
    }
    let registry = Registry::start();
    let name = registry.name("cache:main");
    let (first, context) = machine(&dockerfile());
    let made = first.tree(&context, &["--cache-to", &format!("type=registry,ref={name},mode=max")]);
    assert_eq!(registry.requests("GET", "/blobs/"), 0);

    let (second, context) = machine(&dockerfile());
    let said = second.log(&context, &["--cache-from", &name, "-o", "type=cacheonly"]);
    assert!(!said.contains("MISS") && said.matches("CACHED").count() >= 6, "{said}");
    let fetched = registry.requests("GET", "/blobs/");
    assert!(fetched <= 6, "the document and the layers of the result: {fetched}");

    let (third, context) = machine(&dockerfile());
    fs::write(context.join("f"), "2").unwrap();
    let before = registry.requests("GET", "/blobs/");
    let tree = third.tree(&context, &["--cache-from", &name]);
    assert_eq!((tree.read("/made"), tree.read("/id")), (made.read("/made"), made.read("/id")));
    assert_ne!(tree.read("/last"), made.read("/last"));
    let fetched = registry.requests("GET", "/blobs/") - before;
    assert!(fetched <= 4, "the document, the base, two layers; not the other stage: {fetched}");
    let before = registry.requests("GET", "/blobs/");
    let again = third.tree(&context, &["--cache-from", &name]);
    assert_eq!((tree.read("/last"), tree.read("/id")), (again.read("/last"), again.read("/id")));
    assert_eq!(registry.requests("GET", "/blobs/") - before, 1, "what was fetched is our own: only the document");
}

#[test]
fn after_a_failed_build_the_next_machine_starts_where_it_stopped() {
    if !ready() {
        return;
    }
    let registry = Registry::start();
    let name = registry.name("cache");
    let with = |last: &str| format!("FROM busybox\nRUN {UUID} > /id\nRUN {last}\n");
    let (first, context) = machine(&with("cp /id /kept; false"));
    let to = format!("type=registry,ref={name},mode=max");
    let mut command = first.command(["build", "--progress=plain", "--cache-to", &to]);
    let output = command.arg(&context).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let (second, context) = machine(&with("true"));
    let said = second.log(&context, &["--cache-from", &name]);
    assert!(said.contains("CACHED") && said.matches("MISS").count() == 0, "{said}");
    let ran = said.lines().filter(|line| line.contains("[2/3] RUN") && line.contains("DONE")).count();
    assert_eq!(ran, 0, "{said}");
}

#[test]
fn a_cache_goes_through_a_directory_and_through_an_image() {
    if !ready() {
        return;
    }
    let registry = Registry::start();
    let (first, context) = machine(&dockerfile());
    let dir = first.path("cache");
    let to = format!("type=local,dest={},mode=max,compression=zstd", dir.display());
    let made = first.tree(&context, &["--cache-to", &to]);
    assert!(dir.join("index.json").exists() && dir.join("oci-layout").exists());
    let from = format!("type=local,src={}", dir.display());
    let (second, context) = machine(&dockerfile());
    let tree = second.tree(&context, &["--cache-from", &from]);
    assert_eq!((tree.read("/id"), tree.read("/last")), (made.read("/id"), made.read("/last")));

    // An image carries its own layers only: no other stage.
    let single = format!("FROM busybox\nRUN {UUID} > /id\nCOPY f /f\nRUN {UUID} > /last\n");
    let (first, context) = machine(&single);
    let app = registry.name("app:1");
    let all = ["build", "-t", &app, "--push", "--cache-to", "type=inline"];
    let output = first.command(all).arg(&context).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let made = first.tree(&context, &[]);
    let (third, context) = machine(&single);
    let tree = third.tree(&context, &["--cache-from", &app]);
    assert_eq!((tree.read("/id"), tree.read("/last")), (made.read("/id"), made.read("/last")));
}

#[test]
fn layers_of_the_image_alone_are_enough_when_other_stages_did_not_change() {
    if !ready() {
        return;
    }
    let registry = Registry::start();
    for (number, to) in ["type=registry,ref=NAME", "type=inline"].into_iter().enumerate() {
        let name = registry.name(&format!("min{number}:1"));
        let (first, context) = machine(&dockerfile());
        let to = to.replace("NAME", &name);
        let mut args = vec!["build", "--cache-to", &to];
        if to == "type=inline" {
            args.extend(["-t", &name, "--push"]);
        }
        let output = first.command(args).arg(&context).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let made = first.tree(&context, &[]);

        let (second, context) = machine(&dockerfile());
        let tree = second.tree(&context, &["--cache-from", &name]);
        for file in ["/made", "/id", "/last"] {
            assert_eq!(tree.read(file), made.read(file), "{to}: {file}");
        }
        // A file of the other stage that nobody read before: its step runs, and nobody is warned.
        let (third, context) = machine(&dockerfile());
        let more = dockerfile().replace("COPY --from=make /made /made", "COPY --from=make /big /made");
        fs::write(context.join("Dockerfile"), more).unwrap();
        let said = third.log(&context, &["--cache-from", &name]);
        assert!(!said.contains("cannot be fetched"), "{said}");
    }
}

#[test]
fn what_comes_from_one_cache_leaves_for_another() {
    if !ready() {
        return;
    }
    let registry = Registry::start();
    let (name, same, other) = (registry.name("cache:main"), registry.name("cache:branch"), registry.name("other:1"));
    let max = |name: &str| format!("type=registry,ref={name},mode=max");
    let (first, context) = machine(&dockerfile());
    let made = first.tree(&context, &["--cache-to", &max(&name)]);
    // The document and the layers of the result; for another repository those of the other stage too.
    for (to, most) in [(&same, 5), (&other, 6)] {
        let (second, context) = machine(&dockerfile());
        let before = registry.requests("GET", "/blobs/");
        second.log(&context, &["--cache-from", &name, "--cache-to", &max(to), "-o", "type=cacheonly"]);
        let fetched = registry.requests("GET", "/blobs/") - before;
        assert!(fetched <= most, "{to}: {fetched}");
        let (third, context) = machine(&dockerfile());
        let tree = third.tree(&context, &["--cache-from", to]);
        assert_eq!((tree.read("/id"), tree.read("/last")), (made.read("/id"), made.read("/last")), "{to}");
        // The other stage's files are there too.
        let dockerfile = dockerfile().replace("COPY --from=make /made /made", "COPY --from=make /big /made /");
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let tree = third.tree(&context, &["--cache-from", to]);
        assert_eq!(tree.read("/made"), made.read("/made"), "{to}");
    }
}

#[test]
fn an_unreachable_cache_is_warned_of_and_not_written_only_if_that_is_allowed() {
    if !ready() {
        return;
    }
    let (rbuild, context) = machine("FROM busybox\nRUN true\n");
    let nowhere = "127.0.0.1:9/cache";
    let said = rbuild.log(&context, &["--cache-from", nowhere]);
    assert!(said.contains("the cache 127.0.0.1:9/cache is not used"), "{said}");
    let to = format!("type=registry,ref={nowhere},ignore-error=true");
    assert!(rbuild.log(&context, &["--cache-to", &to]).contains("is not written"));
    let mut command = rbuild.command(["build", "--cache-to", &format!("type=registry,ref={nowhere}")]);
    let output = command.arg(&context).output().unwrap();
    assert!(!output.status.success() && text(&output.stderr).contains("export cache to"), "{}", text(&output.stderr));
    assert!(rbuild.fails(2, ["build", "--cache-to", "type=s3,bucket=b", "."]).contains("not supported yet"));
}

/// A directory with a cache, and its document, to be changed.
struct Lie {
    dir: PathBuf,
    config: Value,
}

impl Lie {
    fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    fn read(dir: &Path) -> Lie {
        let json = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let mut lie = Lie { dir: dir.to_owned(), config: Value::Null };
        let index = json(dir.join("index.json"));
        let manifest = json(lie.blob(index["manifests"][0]["digest"].as_str().unwrap()));
        lie.config = json(lie.blob(manifest["config"]["digest"].as_str().unwrap()));
        lie
    }

    /// Puts other bytes in the document's place, under digests that fit.
    fn write(&self, bytes: &[u8], size: Option<u64>) {
        let put = |bytes: &[u8]| {
            let digest = rbuild::image::Digest::of(bytes).to_string();
            fs::write(self.blob(&digest), bytes).unwrap();
            digest
        };
        let size = size.unwrap_or(bytes.len() as u64);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let config = json!({
            "mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": put(bytes), "size": size,
        });
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [] });
        let manifest = manifest.to_string();
        let entry = json!({
            "mediaType": kind, "digest": put(manifest.as_bytes()), "size": manifest.len(),
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        });
        fs::write(self.dir.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string())
            .unwrap();
    }
}

#[test]
fn a_cache_that_lies_is_warned_of_and_the_build_is_right() {
    if !ready() {
        return;
    }
    let text = format!("FROM busybox\nRUN echo right > /word; {UUID} > /id\nRUN cat /word > /copy\n");
    let (first, context) = machine(&text);
    let dir = first.path("cache");
    let made = first.tree(&context, &["--cache-to", &format!("type=local,dest={},mode=max", dir.display())]);
    let lie = Lie::read(&dir);
    let from = format!("type=local,src={}", dir.display());
    let build = |what: &str, warns: bool| {
        let (rbuild, context) = machine(&text);
        let dest = rbuild.path("out");
        let output = format!("type=local,dest={}", dest.display());
        let said = rbuild.log(&context, &["--cache-from", &from, "-o", &output]);
        assert_eq!(fs::read_to_string(dest.join("copy")).unwrap(), "right\n", "{what}: {said}");
        let is_warned = said.contains("is not used") || said.contains("cannot be fetched");
        assert_eq!(is_warned, warns, "{what}: {said}");
        fs::read_to_string(dest.join("id")).unwrap()
    };
    assert_eq!(build("the truth", false), made.read("/id"));

    let mut looping = lie.config.clone();
    let count = looping["layers"].as_array().unwrap().len();
    looping["layers"][0]["parent"] = json!(count - 1);
    lie.write(looping.to_string().as_bytes(), None);
    assert_ne!(build("a loop", true), made.read("/id"));

    let mut many = lie.config.clone();
    let record = many["rbuild"]["records"][0].clone();
    many["rbuild"]["records"] = json!(vec![json!({"key": record["key"], "outputs": []}); 150_000]);
    lie.write(many.to_string().as_bytes(), None);
    build("too many records", true);

    let mut many = lie.config.clone();
    many["layers"] = json!(vec![many["layers"][0].clone(); 60_000]);
    lie.write(many.to_string().as_bytes(), None);
    build("too many layers", true);
    let (entry, mut million) = (many["layers"][0].to_string(), String::from("{\"layers\":["));
    (0..1_000_000).for_each(|_| million.push_str(&format!("{entry},")));
    lie.write(million.as_bytes(), None);
    build("a million entries", true);
    let mut other = lie.config.clone();
    for layer in other["layers"].as_array_mut().unwrap() {
        layer["annotations"]["diffID"] = json!(format!("sha256:{}", "12".repeat(32)));
    }
    lie.write(other.to_string().as_bytes(), None);
    assert_ne!(build("layers that are not what they are said to be", true), made.read("/id"));
    let mut gone = lie.config.clone();
    for layer in gone["layers"].as_array_mut().unwrap() {
        layer["blob"] = json!(format!("sha256:{}", "34".repeat(32)));
    }
    lie.write(gone.to_string().as_bytes(), None);
    assert_ne!(build("layers that are nowhere", true), made.read("/id"));

    lie.write(b"{}", Some(1 << 30));
    build("a gigabyte is announced", true);
    lie.write(format!("{{\"layers\":[{}]}}", "[".repeat(100_000)).as_bytes(), None);
    build("deep nesting", true);
    lie.write(b"not json", None);
    build("no JSON", true);

    lie.write(lie.config.to_string().as_bytes(), None);
    assert_eq!(build("the truth again", false), made.read("/id"));
    for layer in lie.config["layers"].as_array().unwrap() {
        fs::write(lie.blob(layer["blob"].as_str().unwrap()), "another content").unwrap();
    }
    assert_ne!(build("layers of another content", true), made.read("/id"));
}

/// Changes a file, and puts it back when this is dropped.
struct Damage(Vec<(PathBuf, Vec<u8>)>);

impl Damage {
    fn new(files: &[PathBuf], how: &dyn Fn(&Path, &[u8])) -> Damage {
        let damage = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap();
            how(path, &bytes);
            (path.clone(), bytes)
        };
        Damage(files.iter().map(damage).collect())
    }
}

impl Drop for Damage {
    fn drop(&mut self) {
        for (path, bytes) in &self.0 {
            fs::write(path, bytes).unwrap();
        }
    }
}

/// Where a registry keeps its blobs: document, manifest, layers.
fn files_of(registry: &Registry) -> (PathBuf, PathBuf, Vec<PathBuf>) {
    let root = registry.dir.path().join("data/docker/registry/v2/blobs/sha256");
    let list = |dir: &Path| -> Vec<PathBuf> { fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let all: Vec<PathBuf> = list(&root).iter().flat_map(|fan| list(fan)).map(|blob| blob.join("data")).collect();
    let has = |path: &PathBuf, word: &str| text(&fs::read(path).unwrap()).contains(word);
    let config = all.iter().find(|path| has(path, "\"rbuild\":")).unwrap().clone();
    let manifest = all.iter().find(|path| has(path, "schemaVersion")).unwrap().clone();
    let layers = all.into_iter().filter(|path| *path != config && *path != manifest).collect();
    (config, manifest, layers)
}

#[test]
fn what_a_registry_has_damaged_or_lost_is_warned_of_and_the_build_is_right() {
    if !ready() {
        return;
    }
    let dockerfile = format!("FROM busybox\nRUN echo right > /word; {UUID} > /id\nRUN cat /word > /copy\n");
    let registry = Registry::start();
    let name = registry.name("cache");
    let (first, context) = machine(&dockerfile);
    let made = first.tree(&context, &["--cache-to", &format!("type=registry,ref={name},mode=max")]);
    let build = |what: &str| {
        let (rbuild, context) = machine(&dockerfile);
        let dest = rbuild.path("out");
        let output = format!("type=local,dest={}", dest.display());
        let said = rbuild.log(&context, &["--cache-from", &name, "-o", &output]);
        assert_eq!(fs::read_to_string(dest.join("copy")).unwrap(), "right\n", "{what}: {said}");
        let is_warned = said.contains("is not used") || said.contains("cannot be fetched");
        (is_warned, fs::read_to_string(dest.join("id")).unwrap(), said)
    };
    let (is_warned, id, said) = build("the truth");
    assert!(!is_warned && id == made.read("/id"), "{said}");
    let (config, manifest, layers) = files_of(&registry);
    let cut = |path: &Path, bytes: &[u8]| fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    let alter = |path: &Path, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let grow = |path: &Path, _: &[u8]| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1 << 30).unwrap();
    let lose = |path: &Path, _: &[u8]| fs::remove_file(path).unwrap();
    type How<'h> = &'h dyn Fn(&Path, &[u8]);
    for (what, files, how) in [
        ("half a document", from_ref(&config), &cut as How),
        ("another document", from_ref(&config), &alter),
        ("a document of a gigabyte", from_ref(&config), &grow),
        ("no document", from_ref(&config), &lose),
        ("another manifest", from_ref(&manifest), &alter),
        ("half of each layer", &layers[..], &cut),
        ("other layers", &layers, &alter),
        ("no layers", &layers, &lose),
    ] {
        let _damage = Damage::new(files, how);
        let (is_warned, id, said) = build(what);
        assert!(is_warned && id != made.read("/id"), "{what}: {said}");
    }
    let (is_warned, id, said) = build("the truth again");
    assert!(!is_warned && id == made.read("/id"), "{said}");
}

/// A build that waits in its last step until it is let go on.
struct Gated {
    rbuild: Rbuild,
    process: Option<Child>,
}

impl Gated {
    /// `mode=min` leaves the first stage out.
    fn start(to: &str, then: &str) -> Gated {
        let text = format!(
            "FROM busybox AS make\nRUN {UUID} > /made\nFROM busybox\nCOPY --from=make /made /copied\nRUN {UUID} > /id\n\
             RUN --mount=type=cache,target=/gate touch /gate/here; until [ -e /gate/open ]; do sleep 0.1; done; {then}\n"
        );
        let (rbuild, context) = machine(&text);
        let mut command = rbuild.command(["build", "--progress=plain", "--cache-to", &to.replace("DIR", "cache")]);
        let process = command.arg(&context).stderr(Stdio::piped()).spawn().unwrap();
        Gated { rbuild, process: Some(process) }
    }

    /// Lets the step end; gives whether the build succeeded and what it said.
    fn open(mut self) -> (bool, String, Rbuild) {
        let mounts = self.rbuild.root().join("mounts");
        let here = || {
            let all = fs::read_dir(&mounts).into_iter().flatten().flatten();
            all.map(|entry| entry.path().join("fs/here")).find(|here| here.exists())
        };
        until("the step runs", || here().is_some());
        fs::write(here().unwrap().with_file_name("open"), "").unwrap();
        let output = self.process.take().unwrap().wait_with_output().unwrap();
        let empty = Rbuild::empty();
        (output.status.success(), text(&output.stderr), std::mem::replace(&mut self.rbuild, empty))
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The blobs of a layout that are there whole.
fn blobs(dir: &Path) -> BTreeSet<String> {
    let all = fs::read_dir(dir.join("blobs/sha256")).into_iter().flatten();
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name.len() == 64).collect()
}

#[test]
fn layers_arrive_in_a_registry_while_a_later_step_runs() {
    if !ready() {
        return;
    }
    let registry = Registry::start();
    let name = registry.name("cache");
    let build = Gated::start(&format!("type=registry,ref={name},mode=max"), "false");
    // The base, a file of the first stage, its copy, a file of the second one.
    until("four layers are there", || registry.requests("PUT", "/blobs/uploads/") == 4);
    assert_eq!(registry.requests("PUT", "/manifests/"), 0, "the build goes on");
    let (succeeded, said, first) = build.open();
    assert!(!succeeded && said.contains("layers sent while building: 4"), "{said}");
    assert_eq!(registry.requests("PUT", "/manifests/"), 1, "the manifest comes all the same: {said}");
    assert_eq!(registry.requests("PUT", "/blobs/uploads/"), 5, "of blobs only the document was left: {said}");
    let dockerfile = fs::read_to_string(first.path("c/Dockerfile")).unwrap();
    let (third, context) = machine(&dockerfile.replace("until [ -e /gate/open ]", "until true"));
    let mut command = third.command(["build", "--progress=plain", "--cache-from", &name]);
    let output = command.arg(&context).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(said.matches("CACHED").count(), 4, "the next machine starts where this one stopped: {said}");
}

#[test]
fn layers_arrive_in_a_directory_while_a_later_step_runs_and_none_too_many() {
    if !ready() {
        return;
    }
    for (mode, layers) in [("min", 3), ("max", 4)] {
        let build = Gated::start(&format!("type=local,dest=DIR,mode={mode}"), "true");
        let dir = build.rbuild.path("cache");
        until("the layers are there", || blobs(&dir).len() >= layers);
        assert!(!dir.join("index.json").exists(), "the build goes on");
        let (succeeded, said, _first) = build.open();
        assert!(succeeded && said.contains(&format!("layers sent while building: {}", layers + 1)), "{said}");
        let config = Lie::read(&dir).config;
        let listed = config["layers"].as_array().unwrap().len();
        assert_eq!(blobs(&dir).len(), listed + 2, "no blob that the documents do not name: {said}");
        assert_eq!(listed, layers + 1, "{said}");
    }
}

#[test]
fn sending_ahead_is_given_up_with_the_build() {
    if !ready() {
        return;
    }
    let mut build = Gated::start("type=local,dest=DIR,mode=max", "true");
    let dir = build.rbuild.path("cache");
    until("a layer is there", || !blobs(&dir).is_empty());
    let process = build.process.as_mut().unwrap();
    support::signal(process.id() as i32, rustix::process::Signal::INT);
    assert_eq!(process.wait().unwrap().code(), Some(130));
    assert!(!dir.join("index.json").exists(), "who gives up gets no cache");
}
