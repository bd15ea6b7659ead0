//! What leaves the store: archives that other tools accept, and digests that do not depend on how they came about.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{can_build, have, text, Rbuild};

const DOCKERFILE: &str = "FROM busybox\n\
    COPY --chown=1000:1000 f /srv/f\n\
    RUN ln /srv/f /srv/hard && ln -s f /srv/soft && chmod 4755 /bin/busybox && mkfifo /srv/fifo && rm -rf /var\n\
    RUN mkdir /var && echo new > /var/new && rm /etc/group && mknod /srv/null c 1 3\n\
    WORKDIR /work\nCMD [\"cat\", \"/srv/f\"]\n";

/// Runs a command, which must succeed; gives standard output.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Every entry below `root`: path, mode, owner, size or target, and the path it shares its inode with.
fn listing(root: &Path) -> String {
    let script = "cd \"$1\" && find . -printf '%P|%M|%U:%G|%s|%l|%i\\n' | LC_ALL=C sort";
    let raw = run("sh", &["-c", script, "sh", root.to_str().unwrap()]);
    let mut first = std::collections::HashMap::new();
    let mut lines = Vec::new();
    for line in raw.lines() {
        let (rest, inode) = line.rsplit_once('|').unwrap();
        let path = rest.split('|').next().unwrap().to_string();
        let same = first.entry(inode.to_string()).or_insert_with(|| path.clone()).clone();
        // The size of a directory says how it is stored, not what is in it.
        let mut fields: Vec<&str> = rest.split('|').collect();
        if fields.get(1).is_some_and(|mode| mode.starts_with('d')) {
            fields[3] = "-";
        }
        lines.push(format!("{}|{same}", fields.join("|")));
    }
    lines.join("\n")
}

fn built(rbuild: &Rbuild) -> std::path::PathBuf {
    rbuild.context("c", &[("Dockerfile", DOCKERFILE), ("f", "the content\n")])
}

#[test]
fn other_tools_accept_the_oci_layout() {
    if !can_build() || !["skopeo", "umoci", "runc"].iter().all(|tool| have(tool)) {
        return;
    }
    let rbuild = Rbuild::new();
    let context = built(&rbuild);
    let archive = rbuild.path("app.oci.tar");
    let output = format!("type=oci,dest={}", archive.display());
    rbuild.ok(["-t", "app:1", "-o", &output, context.to_str().unwrap()]);

    let inspected = run("skopeo", &["inspect", &format!("oci-archive:{}", archive.display())]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 5);

    let layout = rbuild.path("layout");
    let target = format!("oci:{}:app", layout.display());
    run("skopeo", &["copy", "-q", &format!("oci-archive:{}", archive.display()), &target]);
    let bundle = rbuild.path("bundle");
    run("umoci", &["unpack", "--image", &format!("{}:app", layout.display()), bundle.to_str().unwrap()]);
    let tree = rbuild.tree(&context, &[]);
    let (ours, theirs) = (listing(&tree.0), listing(&bundle.join("rootfs")));
    assert_eq!(ours, theirs, "the exported tree is not what the steps made");

    let config = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    // The machine's control groups are none of this test's business.
    spec["linux"]["resources"] = serde_json::json!({});
    fs::write(&config, serde_json::to_vec(&spec).unwrap()).unwrap();
    let name = format!("rbuild-test-{}", std::process::id());
    let said = run("runc", &["run", "--bundle", bundle.to_str().unwrap(), &name]);
    assert_eq!(said, "the content\n");
}

#[test]
fn all_exports_hold_the_same_tree() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = built(&rbuild);
    let tree = rbuild.tree(&context, &[]);
    let archive = rbuild.path("tree.tar");
    rbuild.ok(["-o", &format!("type=tar,dest={}", archive.display()), context.to_str().unwrap()]);
    let unpacked = rbuild.path("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run("tar", &["-xpf", archive.to_str().unwrap(), "-C", unpacked.to_str().unwrap(), "--numeric-owner"]);
    let without_root = |listing: String| listing.lines().filter(|l| !l.starts_with('|')).collect::<Vec<_>>().join("\n");
    assert_eq!(without_root(listing(&tree.0)), without_root(listing(&unpacked)));
}

#[test]
fn docker_can_load_the_docker_archive() {
    if !can_build() || !have("skopeo") {
        return;
    }
    let rbuild = Rbuild::new();
    let context = built(&rbuild);
    let archive = rbuild.path("app.docker.tar");
    let output = format!("type=docker,dest={}", archive.display());
    rbuild.ok(["-t", "app:1", "-o", &output, context.to_str().unwrap()]);
    let inspected = run("skopeo", &["inspect", "--config", &format!("docker-archive:{}", archive.display())]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["config"]["Cmd"], serde_json::json!(["cat", "/srv/f"]));
    let listed = run("tar", &["-tf", archive.to_str().unwrap()]);
    assert!(listed.contains("manifest.json") && listed.contains("index.json"), "{listed}");
}

#[test]
fn a_tar_can_go_to_standard_output() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = built(&rbuild);
    let output = rbuild.run(["-o", "-", context.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut archive = tar::Archive::new(&output.stdout[..]);
    let names: Vec<_> = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
    assert!(names.contains(&"srv/f".into()), "{names:?}");
}

#[test]
fn an_export_that_cannot_be_written_leaves_nothing() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = built(&rbuild);
    let said = rbuild.fails(1, ["-o", "type=oci,dest=/proc/nowhere/x.tar", context.to_str().unwrap()]);
    assert!(said.contains("/proc/nowhere"), "{said}");
    let said = rbuild.fails(1, ["-o", "type=nonsense,dest=x", context.to_str().unwrap()]);
    assert!(said.contains("nonsense"), "{said}");
}

#[test]
fn digests_depend_on_the_content_alone() {
    if !can_build() {
        return;
    }
    let dockerfile = "FROM busybox\nCOPY . /src\nRUN echo made > /made && mkdir -p /d/e && touch /d/e/f\nWORKDIR /w\n\
        FROM busybox AS other\nRUN echo other > /other\n\
        FROM busybox\nCOPY --from=0 /made /d /x/\nCOPY --from=other /other /\nLABEL a=b\n";
    let mut digests = Vec::new();
    let mut digest = |rbuild: &Rbuild, context: &Path, args: &[&str]| {
        let (archive, metadata) = (rbuild.path("x.tar"), rbuild.path("metadata"));
        let output = format!("type=oci,rewrite-timestamp=true,dest={}", archive.display());
        let file = format!("--metadata-file={}", metadata.display());
        let mut all = vec!["build", "-o", &output, &file];
        all.extend(args);
        all.push(context.to_str().unwrap());
        let result = rbuild.command(all).env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
        assert!(result.status.success(), "{}", text(&result.stderr));
        let written: serde_json::Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
        digests.push((written["containerimage.digest"].clone(), text(&fs::read(&archive).unwrap()).len()));
    };
    let first = Rbuild::new();
    let context = first.context("c", &[("Dockerfile", dockerfile), ("a", "1"), ("d/b", "2")]);
    digest(&first, &context, &[]);
    digest(&first, &context, &[]);
    digest(&first, &context, &["--no-cache"]);
    let second = Rbuild::new();
    let context = second.context("another-name", &[("Dockerfile", dockerfile), ("a", "1"), ("d/b", "2")]);
    digest(&second, &context, &["--jobs=1"]);
    assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
}

#[test]
fn compression_can_be_chosen() {
    if !can_build() || !have("skopeo") {
        return;
    }
    let rbuild = Rbuild::new();
    let context = built(&rbuild);
    for (compression, media_type) in [
        ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("uncompressed", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let archive = rbuild.path(&format!("{compression}.tar"));
        let output = format!("type=oci,compression={compression},dest={}", archive.display());
        rbuild.ok(["-o", &output, context.to_str().unwrap()]);
        let raw = run("skopeo", &["inspect", "--raw", &format!("oci-archive:{}", archive.display())]);
        let manifest: serde_json::Value = serde_json::from_str(&raw).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            assert_eq!(layer["mediaType"], media_type);
        }
        run(
            "skopeo",
            &[
                "copy",
                "-q",
                &format!("oci-archive:{}", archive.display()),
                &format!("dir:{}", rbuild.path(compression).display()),
            ],
        );
    }
}
