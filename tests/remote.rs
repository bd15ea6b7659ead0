//! Images from and to a real registry, with other clients looking on.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use support::registry::Registry;
use support::{can_build, have, text, Rbuild};

fn ready() -> bool {
    can_build() && have("docker-registry") && have("skopeo")
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A registry with a `busybox`, pushed by rbuild.
fn with_base() -> (Registry, String) {
    let registry = Registry::start();
    let rbuild = Rbuild::new();
    let base = registry.name("library/busybox:latest");
    rbuild.ok(["tag", "busybox", &base]);
    rbuild.ok(["push", &base]);
    (registry, base)
}

fn context(rbuild: &Rbuild, base: &str) -> std::path::PathBuf {
    let dockerfile = format!("FROM {base}\nRUN cat /proc/sys/kernel/random/uuid > /id\nCMD [\"cat\", \"/id\"]\n");
    rbuild.context("c", &[("Dockerfile", &dockerfile)])
}

#[test]
fn what_is_pushed_comes_back_with_equal_digests() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let rbuild = Rbuild::empty();
    let (name, metadata) = (registry.name("team/app:1"), rbuild.path("metadata"));
    let file = format!("--metadata-file={}", metadata.display());
    rbuild.ok(["-t", &name, "--push", &file, context(&rbuild, &base).to_str().unwrap()]);
    let written: serde_json::Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();

    let at = format!("docker://{name}");
    let seen: serde_json::Value =
        serde_json::from_str(&run("skopeo", &["inspect", "--tls-verify=false", &at])).unwrap();
    assert_eq!(seen["Digest"], written["containerimage.digest"]);
    let layout = rbuild.path("layout");
    run("skopeo", &["copy", "-q", "--src-tls-verify=false", &at, &format!("oci:{}:app", layout.display())]);

    let id = rbuild.ok(["inspect", &name]);
    let other = Rbuild::empty();
    other.ok(["pull", &name]);
    let (ours, theirs): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(&id).unwrap(), serde_json::from_str(&other.ok(["inspect", &name])).unwrap());
    assert_eq!(ours[0]["Id"], theirs[0]["Id"]);
    assert_eq!(rbuild.ok(["run", &name]), other.ok(["run", &name]), "the very same files");
    other.ok(["fsck"]);
}

#[test]
fn a_second_push_sends_no_blob() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let before = registry.requests("PUT", "/blobs/uploads/");
    assert!(before > 0);
    let rbuild = Rbuild::empty();
    rbuild.ok(["pull", &base]);
    let again = registry.name("library/busybox:again");
    rbuild.ok(["tag", &base, &again]);
    rbuild.ok(["push", &again]);
    rbuild.ok(["push", &again]);
    assert_eq!(registry.requests("PUT", "/blobs/uploads/"), before, "what was pulled leaves as it came");
    assert!(registry.requests("PUT", "/manifests/again") > 0);
}

#[test]
fn what_skopeo_pushed_is_a_base_image_by_tag_and_by_digest() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let copied = registry.name("other/base:2");
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--dest-compress-format=zstd",
            &format!("docker://{base}"),
            &format!("docker://{copied}"),
        ],
    );
    let seen = run("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{copied}")]);
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let by_digest = format!("{}@{}", registry.name("other/base"), seen["Digest"].as_str().unwrap());
    for reference in [copied, by_digest] {
        let rbuild = Rbuild::empty();
        let tree = rbuild.tree(&context(&rbuild, &reference), &[]);
        assert!(tree.has("/bin/busybox") && !tree.read("/id").is_empty(), "{reference}");
    }
}

#[test]
fn a_build_that_needs_no_files_of_its_base_fetches_no_layer() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let rbuild = Rbuild::empty();
    let dockerfile = format!("FROM {base} AS unused\nENV A=1\nFROM unused AS config\nFROM scratch\nCOPY f /f\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("f", "1")]);
    rbuild.ok(["-t", "x", context.to_str().unwrap()]);
    assert_eq!(registry.requests("GET", "/blobs/"), 0, "nothing that is not reachable is asked for");
    // Resolving a base asks for its config alone.
    let dockerfile = format!("FROM {base} AS base\nRUN true\n");
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    rbuild.ok(["debug", "dump-llb", "--format=json", context.to_str().unwrap()]);
    assert_eq!(registry.requests("GET", "/blobs/"), 1, "the config");
    rbuild.ok(["-t", "x", context.to_str().unwrap()]);
    assert_eq!(registry.requests("GET", "/blobs/"), 2, "the config and one layer");
    rbuild.ok(["-t", "x", context.to_str().unwrap()]);
    assert_eq!(registry.requests("GET", "/blobs/"), 2, "nothing is fetched twice");
}

#[test]
fn the_right_platform_of_an_index_is_chosen() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    // An index of the base and of an image for another machine, made by hand: no tool here writes one.
    let http = |method: &str, path: &str, kind: &str, body: &Path| {
        let url = format!("http://{}{path}", registry.address);
        run(
            "curl",
            &[
                "-sSf",
                "-X",
                method,
                "-H",
                &format!("Content-Type: {kind}"),
                "--data-binary",
                &format!("@{}", body.display()),
                &url,
            ],
        )
    };
    if !have("curl") {
        return;
    }
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{base}")]);
    let dir = support::scratch();
    let file = dir.path().join("index.json");
    let digest = run("skopeo", &["inspect", "--format={{.Digest}}", "--tls-verify=false", &format!("docker://{base}")]);
    let entry = |architecture: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest.trim(), "size": raw.len(),
            "platform": { "architecture": architecture, "os": "linux" },
        })
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = |architectures: &[&str]| {
        let manifests: Vec<_> = architectures.iter().map(|a| entry(a)).collect();
        serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests }).to_string()
    };
    let host = solver::graph::Platform::host().architecture;
    fs::write(&file, index(&["s390x", &host])).unwrap();
    http("PUT", "/v2/library/busybox/manifests/multi", kind, &file);
    fs::write(&file, index(&["s390x", "mips64le"])).unwrap();
    http("PUT", "/v2/library/busybox/manifests/foreign", kind, &file);

    let rbuild = Rbuild::empty();
    rbuild.tree(&context(&rbuild, &registry.name("library/busybox:multi")), &[]);
    let foreign = context(&rbuild, &registry.name("library/busybox:foreign"));
    let said = rbuild.fails(1, ["build", foreign.to_str().unwrap()]);
    for part in ["no match for platform", "s390x", "mips64le", "Dockerfile:1"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

#[test]
fn every_refusal_is_one_clear_sentence() {
    if !ready() {
        return;
    }
    let (registry, _) = with_base();
    let rbuild = Rbuild::empty();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (name, wants) in [
        (registry.name("library/busybox:unknown"), &["unknown", "not found"][..]),
        (registry.name("no/such/repository:1"), &["no/such/repository", "not found"]),
        (format!("{free}/x:1"), &[&free[..], "refused"]),
    ] {
        let context = context(&rbuild, &name);
        for said in [rbuild.fails(1, ["pull", &name]), rbuild.fails(1, ["build", context.to_str().unwrap()])] {
            for want in wants {
                assert!(said.to_lowercase().contains(want), "{name}: no {want:?} in\n{said}");
            }
            assert!(!said.contains("panicked"), "{said}");
        }
    }
    rbuild.ok(["fsck"]);
    assert_eq!(rbuild.ok(["images"]).lines().count(), 1);
}

#[test]
fn the_store_is_asked_first_and_the_registry_with_pull() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let rbuild = Rbuild::empty();
    let context = context(&rbuild, &base);
    let first = rbuild.tree(&context, &[]).read("/id");
    // The tag moves.
    let mover = Rbuild::empty();
    let moved = mover.context("m", &[("Dockerfile", &format!("FROM {base}\nRUN echo moved > /moved\n"))]);
    mover.ok(["-t", &base, "--push", moved.to_str().unwrap()]);
    assert_eq!(rbuild.tree(&context, &[]).read("/id"), first);
    let tree = rbuild.tree(&context, &["--pull"]);
    assert!(tree.has("/moved"));
    assert_ne!(tree.read("/id"), first);
    drop(registry);
    assert_eq!(rbuild.tree(&context, &[]).read("/id"), tree.read("/id"), "the registry is not needed any more");
}

#[test]
fn a_pushed_image_tells_where_it_comes_from_when_that_is_asked_for() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM {base}\nARG A=1\nRUN --mount=type=secret,id=s echo $A > /made\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let app = registry.name("app:1");
    let args = ["--provenance=mode=max", "--build-arg", "A=2", "--push", "-t", &app, context.to_str().unwrap()];
    rbuild.ok(args);

    let raw = |name: &str| -> serde_json::Value {
        let text = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
        serde_json::from_str(&text).unwrap()
    };
    let index = raw(&app);
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 2, "{index:#}");
    let [image, said] = [&manifests[0], &manifests[1]];
    assert_eq!(said["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let manifest = raw(&format!("{}@{}", registry.name("app"), said["digest"].as_str().unwrap()));
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_string();
    let blob = registry.dir.path().join("data/docker/registry/v2/blobs/sha256").join(&digest[..2]);
    let statement = fs::read(blob.join(&digest).join("data")).unwrap();
    let statement: serde_json::Value = serde_json::from_slice(&statement).unwrap();
    assert_eq!(statement["subject"][0]["digest"]["sha256"], image["digest"].as_str().unwrap()["sha256:".len()..]);
    let build = &statement["predicate"]["buildDefinition"];
    let request = &build["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:A"], "2");
    assert_eq!(request["secrets"][0]["id"], "s");
    let material = build["resolvedDependencies"][0]["uri"].as_str().unwrap();
    assert!(
        material.starts_with(&format!("pkg:docker/{base_name}@latest", base_name = registry.name("library/busybox")))
    );
    let steps = build["internalParameters"]["buildConfig"]["llbDefinition"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["op"]["Op"]["exec"]["meta"]["args"][2] == "echo $A > /made"), "{steps:#?}");

    // Whoever pulls it gets the image, not what is said about it.
    let other = Rbuild::empty();
    other.ok(["pull", &app]);
    assert_eq!(other.ok(["run", &app, "cat", "/made"]), "2\n");
}

/// How many layers and configs anybody has fetched.
fn fetched(registry: &Registry) -> usize {
    registry.requests("GET", "/blobs/")
}

#[test]
fn an_image_that_only_says_more_of_its_base_is_made_and_pushed_without_a_layer() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let uploads = |registry: &Registry| registry.requests("PUT", "/blobs/uploads/");
    let rbuild = Rbuild::empty();
    let dockerfile = format!("FROM {base}\nENV A=1\nLABEL b=2\nCMD [\"echo\", \"hello\"]\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let path = context.to_str().unwrap();

    let name = registry.name("team/said:1");
    rbuild.ok(["-t", &name, path]);
    assert_eq!(fetched(&registry), 1, "the base's config alone");
    let sent = uploads(&registry);
    rbuild.ok(["push", &name]);
    assert_eq!((fetched(&registry), uploads(&registry) - sent), (1, 1), "the layer is mounted, the new config sent");
    let again = registry.name("team/said:2");
    rbuild.ok(["-t", &again, "--push", path]);
    assert_eq!((fetched(&registry), uploads(&registry) - sent), (1, 1));

    // Another registry has nothing to mount it from: then it is fetched, once.
    let other = Registry::start();
    let far = other.name("said:1");
    rbuild.ok(["tag", &name, &far]);
    rbuild.ok(["push", &far]);
    assert_eq!(fetched(&registry), 2);
    assert_eq!(uploads(&other), 2, "a config and a layer");
    rbuild.ok(["push", &far]);
    assert_eq!((fetched(&registry), uploads(&other)), (2, 2));

    // What all of them say is the same image, and it runs.
    assert_eq!(rbuild.ok(["run", &name]).trim(), "hello");
    for (registry, name) in [(&registry, &name), (&registry, &again), (&other, &far)] {
        let puller = Rbuild::empty();
        puller.ok(["pull", name]);
        assert_eq!(puller.ok(["run", name]).trim(), "hello", "{}", registry.address);
        puller.ok(["fsck"]);
    }
    rbuild.ok(["fsck"]);
}

#[test]
fn an_export_fetches_what_a_build_has_left_where_it_was() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let rbuild = Rbuild::empty();
    let context = rbuild.context("c", &[("Dockerfile", &format!("FROM {base}\nENV A=1\n"))]);
    rbuild.ok(["-t", "x", context.to_str().unwrap()]);
    let lazy = rbuild.ok(["inspect", "x"]);
    assert_eq!(fetched(&registry), 1);
    // A collection keeps what is needed to fetch the rest.
    rbuild.ok(["prune", "--all", "--force"]);
    let tree = rbuild.tree(&context, &[]);
    assert!(tree.has("/bin/busybox"));
    assert_eq!(fetched(&registry), 2);
    rbuild.ok(["-t", "x", context.to_str().unwrap()]);
    let id = |inspected: &str| serde_json::from_str::<serde_json::Value>(inspected).unwrap()[0]["Id"].clone();
    assert_eq!(id(&rbuild.ok(["inspect", "x"])), id(&lazy), "where its layers are makes no other image of it");
    rbuild.ok(["fsck"]);
}

#[test]
fn images_of_several_platforms_live_under_one_name() {
    if !ready() || !have("curl") {
        return;
    }
    let registry = Registry::start();
    let maker = Rbuild::empty();
    let base = registry.name("base:1");
    let context = maker.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "1")]);
    let host = solver::graph::Platform::host().architecture;
    let other = if host == "arm64" { "amd64" } else { "arm64" };
    let entry = |architecture: &str| {
        let (name, platform) = (registry.name(&format!("base:{architecture}")), format!("linux/{architecture}"));
        fs::write(context.join("f"), architecture).unwrap();
        maker.ok(["-t", &name, "--push", "--platform", &platform, context.to_str().unwrap()]);
        let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": rbuild::image::Digest::of(raw.as_bytes()),
            "size": raw.len(),
            "platform": { "architecture": architecture, "os": "linux" },
        })
    };

    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [entry(other), entry(&host)] });
    let (file, url) = (maker.path("index"), format!("http://{}/v2/base/manifests/1", registry.address));
    fs::write(&file, index.to_string()).unwrap();
    let (header, body) = (format!("Content-Type: {kind}"), format!("@{}", file.display()));
    run("curl", &["-sSf", "-X", "PUT", "-H", &header, "--data-binary", &body, &url]);

    let rbuild = Rbuild::empty();
    let dockerfile =
        format!("FROM --platform=linux/{other} {base} AS other\nFROM {base} AS host\nCOPY --from=other /f /g\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    for _ in 0..2 {
        let tree = rbuild.tree(&context, &[]);
        assert_eq!((tree.read("/f"), tree.read("/g")), (host.clone(), other.to_string()));
    }
    assert_eq!(rbuild.ok(["images"]).lines().filter(|line| line.contains("/base ")).count(), 2);
    drop(registry);
    assert!(rbuild.tree(&context, &["--no-cache"]).has("/g"), "both are here");
    rbuild.ok(["fsck"]);
    let id = rbuild.ok(["inspect", &base]);
    let id = serde_json::from_str::<serde_json::Value>(&id).unwrap()[0].clone();
    assert_eq!(id["Architecture"], host, "a name without a platform is this machine's");
    rbuild.ok(["rmi", id["Id"].as_str().unwrap()]);
    assert_eq!(rbuild.ok(["images"]).lines().filter(|line| line.contains("/base ")).count(), 1);
    rbuild.ok(["rmi", &base]);
    rbuild.ok(["fsck"]);
}

#[test]
fn skopeo_reads_the_store_as_a_layout() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let rbuild = Rbuild::empty();
    rbuild.ok(["pull", &base]);
    let inspect = |name: &str| {
        let image = format!("oci:{}:{name}", rbuild.root().display());
        Command::new("skopeo").args(["inspect", &image]).stdin(Stdio::null()).output().unwrap()
    };
    let seen = inspect(&base);
    assert!(seen.status.success(), "{}", text(&seen.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&seen.stdout).unwrap();
    let there = run("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{base}")]);
    let there: serde_json::Value = serde_json::from_str(&there).unwrap();
    assert_eq!((&seen["Digest"], &seen["Layers"]), (&there["Digest"], &there["Layers"]));
    // An image whose layers are trees only is not shown; exported as blobs it is.
    let context = context(&rbuild, &base);
    rbuild.ok(["-t", "app", context.to_str().unwrap()]);
    let name = "docker.io/library/app:latest";
    assert!(!inspect(name).status.success());
    let metadata = format!("--metadata-file={}", rbuild.path("metadata").display());
    rbuild.ok(["-t", "app", &metadata, context.to_str().unwrap()]);
    assert!(inspect(name).status.success());
    rbuild.ok(["rmi", "app", &base]);
    rbuild.ok(["prune", "--all", "--force"]);
    assert!(!inspect(name).status.success() && !inspect(&base).status.success());
    rbuild.ok(["fsck"]);
    drop(registry);
}

#[test]
fn layers_of_a_base_leave_as_they_came_unless_forced() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let rbuild = Rbuild::empty();
    let context = context(&rbuild, &base);
    for (attributes, came, own) in [
        ("compression=zstd", "tar+gzip", "tar+zstd"),
        ("compression=zstd,force-compression=true", "tar+zstd", "tar+zstd"),
        ("compression=gzip", "tar+gzip", "tar+gzip"),
        ("compression=uncompressed,force-compression=true", "tar", "tar"),
        ("compression=uncompressed", "tar+gzip", "tar"),
    ] {
        let dir = rbuild.path(&attributes.replace(',', "-"));
        let output = format!("type=oci,tar=false,dest={},{attributes}", dir.display());
        rbuild.ok(["build", "-o", &output, context.to_str().unwrap()]);
        let manifest = run("skopeo", &["inspect", "--raw", &format!("oci:{}", dir.display())]);
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let kinds: Vec<&str> =
            manifest["layers"].as_array().unwrap().iter().map(|layer| layer["mediaType"].as_str().unwrap()).collect();
        let kind = |codec: &str| format!("application/vnd.oci.image.layer.v1.{codec}");
        assert_eq!(kinds, [kind(came), kind(own)], "{attributes}");
    }
    // An image that has layers of its base only has to fetch them to convert them.
    let metadata = rbuild.context("m", &[("Dockerfile", &format!("FROM {base}\nENV A=1\n"))]);
    let name = registry.name("team/zstd:1");
    let fresh = Rbuild::empty();
    let output = format!("type=image,push=true,name={name},compression=zstd,force-compression=true");
    fresh.ok(["build", "-o", &output, metadata.to_str().unwrap()]);
    let manifest = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    assert!(manifest.contains("tar+zstd") && !manifest.contains("tar+gzip"), "{manifest}");
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_pull_leaves_a_sound_store() {
    if !ready() {
        return;
    }
    let (registry, base) = with_base();
    let rbuild = Rbuild::empty();
    let script = |size: &str| {
        // The mount ends with the namespace.
        format!(
            "set -e; mkdir -p store; mount -t tmpfs -o size={size} none store; code=0; {0} pull {base} || code=$?; \
             {0} fsck; {0} images; exit $code",
            rbuild.program.display()
        )
    };
    let pull = |size: &str| {
        let mut command = rbuild.command([""; 0]);
        let root = command.get_envs().find(|(name, _)| *name == "RBUILD_ROOT").unwrap().1.unwrap().to_owned();
        command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script(size)]).current_dir(rbuild.dir.path()).env("RBUILD_ROOT", root);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let full = pull("1500k");
    let said = text(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.to_lowercase().contains("no space left on device") && said.lines().count() == 1, "{said}");
    assert_eq!(text(&full.stdout).lines().filter(|line| !line.contains("library/busybox")).count(), 1, "{said}");
    let enough = pull("64m");
    assert!(enough.status.success(), "{}", text(&enough.stderr));
    drop(registry);
}
