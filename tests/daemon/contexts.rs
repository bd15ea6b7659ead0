//! Contexts that no session gives: repositories by their address, and graphs that come with the request.

use std::collections::BTreeMap;

use frontend::{GitRef, MainContext, Options};
use rbuild::wire::proto::control::SolveRequest;
use rbuild::wire::proto::pb;

use super::client::Buildx;
use super::fixture::Daemon;
use super::support::served::{GitServer, Page, Web};
use super::support::{have, mark, marks};

fn definition(address: &str) -> pb::Definition {
    let git = GitRef::parse(address).unwrap().unwrap();
    let graph = Options { context: MainContext::Git(git), ..Options::default() }.context_graph().unwrap();
    solver::llb::encode(&graph, graph.targets()[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_and_inputs_are_contexts() {
    if !have("git") {
        return;
    }
    let Some(daemon) = Daemon::start() else { return };
    let git = GitServer::new(&daemon.rbuild.path("git"));
    let all = "FROM busybox\nCOPY . /c/\nRUN test \"$(cat /c/sub/a)\" = 1 && test -e /c/dockerfile\n";
    let below = "FROM busybox\nCOPY . /c/\nRUN test \"$(cat /c/a)\" = 1 && test ! -e /c/sub\n";
    let named = "FROM busybox\nCOPY --from=other sub/a /\nRUN test \"$(cat /a)\" = 1\n";
    let files = [("dockerfile", all), ("Below", below), ("Named", named), ("sub/a", "1")];
    git.commit("app", &files);
    let url = git.url_of("app");
    let control = daemon.control().await;
    let solve = |id: &str, attrs: &[(&str, &str)], inputs: &[&str]| {
        let frontend_attrs: BTreeMap<_, _> = attrs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let frontend_inputs: BTreeMap<_, _> = inputs.iter().map(|name| (name.to_string(), definition(&url))).collect();
        let (r#ref, frontend) = (id.to_string(), "dockerfile.v0".to_string());
        let mut control = control.clone();
        let request = SolveRequest { r#ref, frontend, frontend_attrs, frontend_inputs, ..Default::default() };
        async move { control.solve(request).await.map_err(|status| status.message().to_owned()) }
    };
    for (id, attrs, inputs) in [
        ("a", &[("context", url.as_str())][..], &[][..]),
        ("b", &[("context", &url), ("filename", "Below"), ("contextsubdir", "sub")], &[]),
        ("c", &[("contextkey", "tree"), ("tree", &url)], &[]),
        ("d", &[], &["context", "dockerfile"]),
        ("e", &[("filename", "Below"), ("contextsubdir", "sub")], &["context", "dockerfile"]),
        ("f", &[("context", &url), ("filename", "Named"), ("context:other", "input:x")], &["x"]),
        ("g", &[("context", &url), ("filename", "Named"), ("context:other", &url)], &[]),
    ] {
        solve(id, attrs, inputs).await.unwrap_or_else(|error| panic!("{id}: {error}"));
    }
    for (id, attrs, why) in [
        ("h", &[("context", url.as_str()), ("filename", "None")][..], "open None: no such file or directory"),
        ("i", &[("context", &url), ("filename", "Named"), ("context:other", "input:x")], "invalid input x for other"),
        ("j", &[("context", "here")], "invalid context here"),
        ("k", &[("context", &url), ("memory", "much")], "memory"),
    ] {
        let error = solve(id, attrs, &[]).await.map(drop).unwrap_err();
        assert!(error.contains(why), "{id}: {error}");
    }
}

#[test]
fn attributes_of_users_come_with_what_a_client_sends() {
    let Some(daemon) = Daemon::start() else { return };
    let address = daemon.address();
    let context = daemon.rbuild.context("c", &[("Dockerfile", "FROM busybox\nCOPY dir /d\n"), ("dir/page", "<p>")]);
    let built = || {
        daemon.rbuild.ok(["build", "--addr", &address, "-o", "type=tar,dest=out.tar", "c"]);
        marks(&daemon.rbuild.path("out.tar"), "d/page")
    };
    assert_eq!(built(), [""; 0]);
    for value in ["text/html", "text/xml"] {
        if !mark(&context.join("dir/page"), "user.mime", value) {
            return;
        }
        assert_eq!(built(), [format!("user.mime={value}")]);
    }
    let Some(buildx) = Buildx::new(&daemon) else { return };
    mark(&context.join("dir/page"), "user.mime", "buildx");
    buildx.ok(&["build", "-o", "type=tar,dest=out.tar", "c"]);
    assert_eq!(marks(&daemon.rbuild.path("out.tar"), "d/page"), ["user.mime=buildx"]);
}

/// An archive of some files, compressed.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

#[test]
fn buildx_names_archives_and_dockerfiles_by_their_addresses() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let web = Web::new();
    let dockerfile = "FROM busybox\nCOPY a skipped* /c/\nRUN test \"$(cat /c/a)\" = sent && ! test -e /c/skipped\n";
    let files = [("Dockerfile", dockerfile), ("Other", "FROM busybox\nCOPY a /other\n"), ("a", "sent")];
    web.file("/app.tar.gz", &archive(&files), "\"1\"");
    web.file("/Dockerfile", b"FROM busybox\nRUN echo alone > /alone\n", "\"1\"");
    web.file("/named.tar.gz", &archive(&[("a", "named")]), "\"1\"");
    web.put("/moved", Page::To(format!("{}/app.tar.gz", web.url)));
    let at = |path: &str| format!("{}/{path}", web.url);
    let read = |path: &str| std::fs::read_to_string(daemon.rbuild.path(path)).unwrap();

    buildx.ok(&["build", "-o", "out", &at("app.tar.gz")]);
    assert_eq!(read("out/c/a"), "sent");
    buildx.ok(&["build", "-f", "Other", "-o", "other", &at("app.tar.gz")]);
    assert_eq!(read("other/other"), "sent");
    buildx.ok(&["build", "-o", "moved", &at("moved")]);
    assert_eq!(read("moved/c/a"), "sent");
    // What is no archive is a Dockerfile, and has no context.
    buildx.ok(&["build", "-o", "alone", &at("Dockerfile")]);
    assert_eq!(read("alone/alone"), "alone\n");
    web.file("/Dockerfile", b"FROM busybox\nCOPY a /\n", "\"2\"");
    assert!(buildx.fails(&["build", &at("Dockerfile")]).contains("\"/a\": not found"));
    let said = buildx.fails(&["build", &at("nowhere.tar")]);
    assert!(said.contains("invalid response status 404"), "{said}");

    // An unchanged archive is not fetched again, and what is built on it runs nothing.
    web.log();
    let said = buildx.ok(&["build", "--progress=plain", &at("app.tar.gz")]);
    let fetched = web.log().into_iter().filter(|(_, status)| *status == 200).count();
    assert_eq!(fetched, 0, "{said}");
    assert!(said.lines().filter(|line| line.ends_with("CACHED")).count() >= 2, "{said}");

    daemon.rbuild.context("named", &[("Dockerfile", "FROM busybox\nCOPY --from=other context /named\n")]);
    let other = format!("other={}", at("named.tar.gz"));
    buildx.ok(&["build", "--build-context", &other, "-o", "named-out", "named"]);
    // A named one is the file as it is, under this name.
    let named = std::fs::read(daemon.rbuild.path("named-out/named")).unwrap();
    assert_eq!(named, archive(&[("a", "named")]));
}

#[test]
fn buildx_bakes_targets_that_are_contexts_of_others() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let base = "FROM busybox\nENV KEPT=yes\nWORKDIR /w\nUSER 5:6\nCMD [\"kept\"]\nLABEL l=1\nARG WHO\n\
        RUN echo base $WHO > /tmp/base\nONBUILD RUN echo trigger > /tmp/trigger\n";
    // A base has its configuration and triggers; what is copied from, its files.
    let app = "FROM base\nRUN test \"$KEPT $PWD $(id -u) $(cat /tmp/trigger)\" = 'yes /w 5 trigger'\n\
        COPY --from=files /f /copied\nRUN --mount=from=files,target=/m cat /m/f > /tmp/mounted\n";
    daemon.rbuild.context("base", &[("Dockerfile", base)]);
    // It reads a directory of its client, who may have left when another asks for what it made.
    daemon.rbuild.context("files", &[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "a file\n")]);
    daemon.rbuild.context("app", &[("Dockerfile", app)]);
    daemon.rbuild.context("last", &[("Dockerfile", "FROM middle\nUSER root\nRUN cat /tmp/base /copied > /all\n")]);
    let bake = r#"
group "default" { targets = ["last", "app"] }
target "base" {
  context = "base"
  args = { WHO = "me" }
}
target "files" { context = "files" }
target "app" {
  context = "app"
  contexts = { base = "target:base", files = "target:files" }
  output = ["type=oci,dest=app.tar"]
}
target "last" {
  context = "last"
  contexts = { middle = "target:app" }
  output = ["type=local,dest=last-out"]
}
"#;
    std::fs::write(daemon.rbuild.path("bake.hcl"), bake).unwrap();
    for content in ["a file\n", "another\n", "a file\n"] {
        std::fs::write(daemon.rbuild.path("files/f"), content).unwrap();
        buildx.ok(&["bake", "-f", "bake.hcl", "--allow=fs=*", "--progress=plain"]);
        let read = std::fs::read_to_string(daemon.rbuild.path("last-out/tmp/mounted")).unwrap();
        assert_eq!(read, content);
    }
    let read = |path: &str| std::fs::read_to_string(daemon.rbuild.path(path)).unwrap();
    assert_eq!(read("last-out/all"), "base me\na file\n");
    assert_eq!(read("last-out/tmp/mounted"), "a file\n");
    let shown = configuration(&daemon.rbuild.path("app.tar"));
    assert_eq!((&shown["config"]["Cmd"][0], &shown["config"]["Labels"]["l"]), (&"kept".into(), &"1".into()), "{shown}");
    assert_eq!(shown["config"]["WorkingDir"], "/w");
    assert!(shown["config"]["OnBuild"].is_null(), "triggers ran: {shown}");

    // A name that is no target, and a target whose build fails.
    std::fs::write(daemon.rbuild.path("bake.hcl"), bake.replace("target:files", "target:none")).unwrap();
    assert!(buildx.fails(&["bake", "-f", "bake.hcl", "--allow=fs=*"]).contains("none"));
    std::fs::write(daemon.rbuild.path("bake.hcl"), bake).unwrap();
    daemon.rbuild.context("files", &[("Dockerfile", "FROM busybox\nRUN echo gone wrong; exit 4\n")]);
    let said = buildx.fails(&["bake", "-f", "bake.hcl", "--allow=fs=*", "--progress=plain"]);
    assert!(said.contains("exit code: 4") && said.contains("gone wrong"), "{said}");
}

/// The configuration of the image in an OCI archive.
fn configuration(archive: &std::path::Path) -> serde_json::Value {
    let layout = archive.with_extension("layout");
    tar::Archive::new(std::fs::File::open(archive).unwrap()).unpack(&layout).unwrap();
    let json = |path: std::path::PathBuf| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let blob = |digest: &serde_json::Value| json(layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/")));
    let mut document = blob(&json(layout.join("index.json"))["manifests"][0]["digest"]);
    // Provenance makes an index of it.
    if let Some(manifest) = document.get("manifests").map(|all| all[0]["digest"].clone()) {
        document = blob(&manifest);
    }
    blob(&document["config"]["digest"])
}
