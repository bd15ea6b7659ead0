//! Sources and what their attributes ask for, by raw LLB: images, single blobs, definitions in files.

use prost::Message;
use rbuild::image::Digest;
use rbuild::wire::proto::control::{Exporter, SolveRequest};
use solver::llb::pb;

use super::fixture::Daemon;
use super::llb::{of_source, Directories, Llb, Play, Stores};
use super::support::registry::Registry;
use super::support::served::{Page, Web};
use super::support::{can_build, have, Rbuild};

/// An image of three layers in a registry: the base, `/one` and `/two`; and its digest.
fn three_layers(registry: &Registry, elsewhere: &Rbuild, more: &str) -> (String, String) {
    let name = registry.name("three:1");
    elsewhere
        .context("three", &[("Dockerfile", &format!("FROM busybox\nRUN echo 1 > /one\nRUN echo 2{more} > /two\n"))]);
    elsewhere.ok(["build", "-t", &name, "--push", "--metadata-file", "m.json", "three"]);
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(elsewhere.path("m.json")).unwrap()).unwrap();
    (name, told["containerimage.digest"].as_str().unwrap().to_owned())
}

/// The documents of an image in a registry.
fn manifest(name: &str) -> serde_json::Value {
    let words = ["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")];
    let output = std::process::Command::new("skopeo").args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_may_be_cut_and_must_be_the_one_that_is_meant() {
    if !can_build() || !have("docker-registry") || !have("skopeo") {
        return;
    }
    let (registry, elsewhere) = (Registry::start(), Rbuild::new());
    let daemon = Daemon::start().unwrap();
    let (name, digest) = three_layers(&registry, &elsewhere, "");
    let source = format!("docker-image://{name}");
    let mut play = Play::begin(&daemon, "cut").await;
    for (limit, has) in [("1", [false, false]), ("2", [true, false]), ("3", [true, true])] {
        let made = play.make(of_source(&source, &[("image.layerlimit", limit)])).await.unwrap();
        let names = play.list(&made).await;
        assert_eq!(["one", "two"].map(|name| names.iter().any(|it| it == name)), has, "{limit}: {names:?}");
    }
    // What is known of a part is not taken for the whole.
    let whole = play.make(of_source(&source, &[])).await.unwrap();
    assert_eq!(play.read(&whole, "two").await, b"2\n");
    let said = play.fails(of_source(&source, &[("image.layerlimit", "4")])).await;
    assert!(said.contains("layer limit 4 is greater than the number of layers in the image 3"), "{said}");
    for wrong in [("image.layerlimit", "0"), ("image.checksum", "md5:1"), ("image.resolvemode", "fast")] {
        let said = play.fails(of_source(&source, &[wrong])).await;
        assert!(said.contains(&format!("{} \"{}\"", wrong.0, wrong.1)), "{said}");
    }
    // The name must stand for this digest, whatever else is known under it.
    play.make(of_source(&source, &[("image.checksum", &digest)])).await.unwrap();
    let other = sha256(b"other");
    let said = play.fails(of_source(&source, &[("image.checksum", &other)])).await;
    let sentence = format!("image digest {digest} for {name} does not match expected checksum {other}");
    assert!(said.contains(&sentence), "{said}");
    play.end().await;
    let (_, now) = three_layers(&registry, &elsewhere, "x");
    let mut play = Play::begin(&daemon, "moved").await;
    let said = play.fails(of_source(&source, &[("image.checksum", &digest)])).await;
    assert!(said.contains(&now) && said.contains(&digest), "{said}");
    play.make(of_source(&source, &[("image.checksum", &now)])).await.unwrap();
    play.end().await;

    // A cut image that leaves has the layers that are left.
    let target = registry.name("cut:1");
    let attrs = [("name", target.as_str()), ("push", "true")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let request = SolveRequest {
        r#ref: "push".into(),
        definition: Some(of_source(&source, &[("image.layerlimit", "2")])),
        exporters: vec![Exporter { r#type: "image".into(), attrs: attrs.into() }],
        ..Default::default()
    };
    daemon.control().await.solve(request).await.unwrap();
    let layers = |name: &str| manifest(name)["layers"].as_array().unwrap().clone();
    assert_eq!(layers(&target), layers(&name)[..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_a_tree_of_one_file() {
    if !can_build() || !have("docker-registry") || !have("skopeo") {
        return;
    }
    let (registry, elsewhere) = (Registry::start(), Rbuild::new());
    let daemon = Daemon::start().unwrap();
    let (name, digest) = three_layers(&registry, &elsewhere, "");
    let layer = manifest(&name)["layers"][1].clone();
    let (layer, size) = (layer["digest"].as_str().unwrap().to_owned(), layer["size"].as_i64().unwrap());
    let repository = registry.name("three");
    let blob = |digest: &str| format!("docker-image+blob://{repository}@{digest}");
    let mut play = Play::begin(&daemon, "blob").await;
    let digits = |digest: &str| digest.trim_start_matches("sha256:").to_owned();

    let plain = play.make(of_source(&blob(&layer), &[])).await.unwrap();
    assert_eq!(play.list(&plain).await, [digits(&layer)]);
    let stat = play.stat(&plain, &digits(&layer)).await;
    assert_eq!((stat.mode, stat.uid, stat.gid, stat.size, stat.mod_time), (0o600, 0, 0, size, 0));
    assert_eq!(sha256(&play.read(&plain, &digits(&layer)).await), layer);
    let attrs = [("http.filename", "l.tgz"), ("http.perm", "0640"), ("http.uid", "7"), ("http.gid", "8")];
    let dressed = play.make(of_source(&blob(&layer), &attrs)).await.unwrap();
    let stat = play.stat(&dressed, "l.tgz").await;
    assert_eq!((stat.mode, stat.uid, stat.gid, stat.size), (0o640, 7, 8, size));
    let document = play.make(of_source(&blob(&digest), &[("http.filename", "m.json")])).await.unwrap();
    assert_eq!(sha256(&play.read(&document, "m.json").await), digest);
    for (identifier, attrs, want) in [
        (blob(&sha256(b"nobody")), &[][..], "not found"),
        (format!("docker-image+blob://{repository}:1"), &[], "a blob is named by its digest"),
        (blob(&layer), &[("http.filename", "../x")], "cannot be the name of a file"),
    ] {
        let said = play.fails(of_source(&identifier, attrs)).await;
        assert!(said.contains(want), "{said}");
    }
    // Once it is here, nobody is asked.
    drop(registry);
    play.make(of_source(&blob(&layer), &[])).await.unwrap();
    play.end().await;
    daemon.rbuild.ok(["fsck"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_and_images_come_from_layouts_of_clients() {
    if !can_build() {
        return;
    }
    let daemon = Daemon::start().unwrap();
    let layer = |path: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, &b"x"[..]).unwrap();
        archive.into_inner().unwrap()
    };
    let layers = [layer("one"), layer("two")];
    let describe = |kind: &str, bytes: &[u8]| {
        let media = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({"mediaType": media, "digest": sha256(bytes), "size": bytes.len()})
    };
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|layer| sha256(layer))}});
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", &config),
        "layers": layers.each_ref().map(|layer| describe("layer.v1.tar", layer))});
    let manifest = manifest.to_string().into_bytes();
    let mut blobs: std::collections::BTreeMap<String, Vec<u8>> =
        [&config, &manifest, &layers[0], &layers[1]].map(|bytes| (sha256(bytes), bytes.clone())).into();
    let forged = sha256(b"what was promised");
    blobs.insert(forged.clone(), b"what came".to_vec());
    let stores = Stores([("oci:given".to_owned(), blobs)].into());
    let session = stores.open(&daemon, "client").await;
    let request = SolveRequest { r#ref: "layout".into(), session: "client".into(), ..Default::default() };
    let mut play = Play::ask(&daemon, request).await;

    let image = format!("oci-layout://name/x@{}", sha256(&manifest));
    for (limit, want) in [("", &["one", "two"][..]), ("1", &["one"]), ("2", &["one", "two"])] {
        let made = play.make(of_source(&image, &[("oci.store", "given"), ("oci.layerlimit", limit)])).await.unwrap();
        assert_eq!(play.list(&made).await, want, "{limit:?}");
    }
    let said = play.fails(of_source(&image, &[("oci.store", "given"), ("oci.layerlimit", "3")])).await;
    assert!(said.contains("layer limit 3 is greater than the number of layers in the image 2"), "{said}");

    let blob = |digest: &str| format!("oci-layout+blob://given@{digest}");
    let made = play.make(of_source(&blob(&sha256(&config)), &[("http.filename", "c")])).await.unwrap();
    assert_eq!(play.read(&made, "c").await, config);
    let said = play.fails(of_source(&blob(&forged), &[])).await;
    assert!(said.contains("is not what its digest says"), "{said}");
    let said = play.fails(of_source(&blob(&sha256(b"nobody")), &[])).await;
    assert!(said.contains("not found"), "{said}");
    let said = play.fails(of_source(&format!("oci-layout+blob://other@{forged}"), &[])).await;
    assert!(said.contains("not found") && said.contains("other"), "{said}");
    play.end().await;
    session.abort();
    // Of no session, for a build without one.
    let mut play = Play::begin(&daemon, "alone").await;
    let said = play.fails(of_source(&blob(&sha256(&manifest)), &[])).await;
    assert!(said.contains("does not offer") || said.contains("session"), "{said}");
    play.end().await;
    daemon.rbuild.ok(["fsck"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_transferred_as_their_attributes_have_them() {
    let Some(daemon) = Daemon::start() else { return };
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for path in ["a.c", "b.c", "b.h", "sub/c.c", "sub/d"] {
        std::fs::create_dir_all(here.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(here.path().join(path), path).unwrap();
    }
    std::os::unix::fs::symlink("sub", here.path().join("linked")).unwrap();
    std::fs::write(there.path().join("other"), "other").unwrap();
    let directories = |path: &std::path::Path| Directories([("dir".to_owned(), path.to_owned())].into());
    let ours = directories(here.path()).open(&daemon, "ours", "key").await;
    let theirs = directories(there.path()).open(&daemon, "theirs", "").await;
    let request = SolveRequest { r#ref: "local".into(), session: "ours".into(), ..Default::default() };
    let mut play = Play::ask(&daemon, request.clone()).await;
    let all: &[&str] = &["a.c", "b.c", "b.h", "linked", "sub"];
    for (attrs, want) in [
        (&[("local.unique", "1"), ("nobody.knows", "it")][..], all),
        (&[("local.session", "theirs")], &["other"]),
        (&[("local.includepattern", "[\"*.c\"]")], &["a.c", "b.c"]),
        (&[("local.excludepatterns", "[\"*\", \"!*.h\"]")], &["b.h"]),
        (&[("local.followpaths", "[\"linked/d\"]")], &["linked", "sub"]),
        (&[("local.differ", "none"), ("local.sharedkeyhint", "h")], all),
        (&[("local.metadatatransfer", "true")], &[".fsutil-metadata"]),
        (
            &[
                ("local.metadatatransfer", "true"),
                ("local.metadatatransferexclude", "[\"**/*.c\"]"),
                ("local.excludepatterns", "[\"a.*\", \".*\"]"),
            ],
            &[".fsutil-metadata", "b.c", "sub"],
        ),
        (&[("local.metadatatransfer", "false"), ("local.metadatatransferexclude", "[\"*.c\"]")], all),
    ] {
        let made = play.make(of_source("local://dir", attrs)).await.unwrap_or_else(|e| panic!("{attrs:?}: {e}"));
        assert_eq!(play.list(&made).await, want, "{attrs:?}");
    }
    // What is told of files is part of what is made.
    let told = [("local.metadatatransfer", "1"), ("local.metadatatransferexclude", "null")];
    let made = play.make(of_source("local://dir", &told)).await.unwrap();
    let text = String::from_utf8_lossy(&play.read(&made, ".fsutil-metadata").await).into_owned();
    assert!(
        ["a.c", "b.c", "b.h", "linked", "sub", "sub/c.c", "sub/d"].iter().all(|path| text.contains(path)),
        "{text}"
    );
    for (attrs, want) in [
        (("local.metadatatransfer", "some"), "neither true nor false"),
        (("local.differ", "some"), "neither none nor metadata"),
        (("local.followpaths", "x"), "no JSON list of texts"),
        (("local.session", "nobody"), "nobody"),
    ] {
        let said = play.fails(of_source("local://dir", &[attrs])).await;
        assert!(said.contains(want), "{said}");
    }
    play.end().await;
    // A file with the size and the time of the one before is taken for it, unless that is not wanted.
    let path = here.path().join("b.h");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, "new").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    for (build, differ, want) in [("metadata", "metadata", "b.h"), ("none", "none", "new")] {
        let mut play = Play::ask(&daemon, SolveRequest { r#ref: build.into(), ..request.clone() }).await;
        assert_eq!(play.text(of_source("local://dir", &[("local.differ", differ)]), "b.h").await, want);
        play.end().await;
    }
    ours.abort();
    theirs.abort();
}

/// A definition whose result is what a definition in a file makes.
fn nested(path: &str, inner: &pb::Definition, attrs: &[(&str, &str)]) -> pb::Definition {
    let mut llb = Llb::default();
    let file = llb.file(path, &inner.encode_to_vec());
    let made = llb.build(&file, attrs);
    llb.define(made)
}

const DEFINITION: &str = "/buildkit.llb.definition";

#[tokio::test(flavor = "multi_thread")]
async fn definitions_in_files_are_solved() {
    let Some(daemon) = Daemon::start() else { return };
    let mut play = Play::begin(&daemon, "nested").await;
    let inner = super::api::one_file("/made", "inside");
    assert_eq!(play.text(nested(DEFINITION, &inner, &[]), "made").await, "inside");
    let named = nested("/def.pb", &inner, &[("llbbuild.filename", "./def.pb")]);
    assert_eq!(play.text(named, "made").await, "inside");
    // What is made of it is made of its result.
    let mut llb = Llb::default();
    let busybox = llb.source("docker-image://docker.io/library/busybox:latest", &[]);
    let copied = llb.exec(&busybox, &["sh", "-c", "echo outside > /made"], |_| ());
    let file = llb.file(DEFINITION, &llb_of(&mut |llb| llb.file("/top", b"top")).encode_to_vec());
    let top = llb.build(&file, &[]);
    let merge = pb::MergeOp { inputs: vec![pb::InputIndex { input: 0 }, pb::InputIndex { input: 1 }] };
    let merged = llb.add(pb::OpKind::Merge(merge), &[&copied, &top]);
    let made = play.make(llb.define(merged)).await.unwrap();
    assert_eq!(
        (play.read(&made, "made").await, play.read(&made, "top").await),
        (b"outside\n".to_vec(), b"top".to_vec())
    );
    // What floats in it is asked for by every build.
    let web = Web::new();
    let url = format!("{}/f", web.url);
    let floating = nested(DEFINITION, &of_source(&url, &[]), &[]);
    web.file("/f", b"one", "\"1\"");
    assert_eq!(play.text(floating.clone(), "f").await, "one");
    play.end().await;
    web.put("/f", Page::File { body: b"two".to_vec(), etag: "\"2\"", modified: None });
    let mut play = Play::begin(&daemon, "again").await;
    assert_eq!(play.text(floating, "f").await, "two");
    play.end().await;
}

fn llb_of(make: &mut dyn FnMut(&mut Llb) -> pb::Input) -> pb::Definition {
    let mut llb = Llb::default();
    let made = make(&mut llb);
    llb.define(made)
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_in_files_may_do_no_more_than_others() {
    let Some(daemon) = Daemon::start() else { return };
    let mut play = Play::begin(&daemon, "hostile").await;
    let host = llb_of(&mut |llb| {
        let busybox = llb.source("docker-image://docker.io/library/busybox:latest", &[]);
        llb.exec(&busybox, &["true"], |op| op.network = 1)
    });
    let deep = |levels: usize| {
        (0..levels).fold(super::api::one_file("/made", "deep"), |inner, _| nested(DEFINITION, &inner, &[]))
    };
    assert_eq!(play.text(deep(8), "made").await, "deep");
    let link = llb_of(&mut |llb| {
        let link = llb.link(DEFINITION, "/etc/passwd");
        llb.build(&link, &[])
    });
    let raw = |data: &[u8]| {
        let mut llb = Llb::default();
        let file = llb.file(DEFINITION, data);
        let made = llb.build(&file, &[]);
        llb.define(made)
    };
    let without = llb_of(&mut |llb| {
        let file = llb.file(DEFINITION, b"");
        let op = pb::BuildOp { builder: -1, ..Default::default() };
        llb.add(pb::OpKind::Build(op), &[&file])
    });
    let many = llb_of(&mut |llb| {
        let file = llb.file(DEFINITION, &super::api::one_file("/x", "").encode_to_vec());
        let all: Vec<pb::Input> = (0..101).map(|n| llb.build(&file, &[("n", &n.to_string())])).collect();
        let merge = pb::MergeOp { inputs: (0..101).map(|input| pb::InputIndex { input }).collect() };
        llb.add(pb::OpKind::Merge(merge), &all.iter().collect::<Vec<_>>())
    });
    for (definition, want) in [
        (nested(DEFINITION, &host, &[]), "failed to load LLB: network.host is not allowed"),
        (deep(9), "more than 8 deep"),
        (
            nested("/other", &super::api::one_file("/x", ""), &[]),
            "failed to open buildkit.llb.definition: no such file",
        ),
        (link, "no such file or directory"),
        (raw(b"\xff\xff"), "failed to load LLB: failed to parse llb definition"),
        (raw(b""), "failed to load LLB: invalid empty definition"),
        (without, "no llb definition input buildkit.llb.definition found"),
        (many, "more than 100 definitions"),
    ] {
        let said = play.fails(definition).await;
        assert!(said.contains(want), "{want}: {said}");
    }
    play.end().await;
}
