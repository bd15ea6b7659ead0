//! ADD of what is elsewhere: files of the web, commits, archives; what is asked for again, and what reruns.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::served::{GitServer, Page, Web};
use support::{can_build, have, leases, processes, signal, until, Rbuild};

/// A step that leaves a different file each time it really runs.
const UUID: &str = "RUN cat /proc/sys/kernel/random/uuid > /id";

/// A Dockerfile whose last step runs only when the one before it made something else.
fn adding(rbuild: &Rbuild, name: &str, add: &str) -> std::path::PathBuf {
    rbuild.context(name, &[("Dockerfile", &format!("FROM busybox\n{add}\n{UUID}\n"))])
}

fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    support::text(&output.stdout)[..64].to_owned()
}

fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_size(content.len() as u64);
        header.set_mtime(1_600_000_000);
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn a_file_of_the_web_is_downloaded_again_only_when_it_changed() {
    if !can_build() {
        return;
    }
    let (rbuild, web) = (Rbuild::new(), Web::new());
    let modified = Some("Sun, 06 Nov 1994 08:49:37 GMT");
    web.put("/d/f.txt", Page::File { body: b"one".to_vec(), etag: "\"1\"", modified });
    let context = adding(&rbuild, "c", &format!("ADD {}/d/f.txt?x=1 /in/", web.url));
    let first = rbuild.tree(&context, &[]);
    assert_eq!((first.read("/in/f.txt"), first.mode("/in/f.txt")), ("one".into(), (0o600, 0, 0)));
    assert_eq!(fs::metadata(first.0.join("in/f.txt")).unwrap().mtime(), 784_111_777);
    assert_eq!(web.log(), [("/d/f.txt?x=1".to_owned(), 200)]);

    let again = rbuild.tree(&context, &[]);
    assert_eq!(web.log(), [("/d/f.txt?x=1".to_owned(), 304)]);
    assert_eq!(first.read("/id"), again.read("/id"), "nothing changed");

    web.put("/d/f.txt", Page::File { body: b"one".to_vec(), etag: "\"2\"", modified });
    let renamed = rbuild.tree(&context, &[]);
    assert_eq!(web.log(), [("/d/f.txt?x=1".to_owned(), 200)]);
    assert_eq!(first.read("/id"), renamed.read("/id"), "the same bytes under another tag");

    web.file("/d/f.txt", b"two", "\"3\"");
    let changed = rbuild.tree(&context, &[]);
    assert_eq!(changed.read("/in/f.txt"), "two");
    assert_ne!(first.read("/id"), changed.read("/id"));
    assert_eq!(fs::metadata(changed.0.join("in/f.txt")).unwrap().mtime(), 0, "a file without date");
}

#[test]
fn a_checksum_is_kept_and_saves_the_question() {
    if !can_build() {
        return;
    }
    let (rbuild, web) = (Rbuild::new(), Web::new());
    web.file("/f", b"abc", "\"1\"");
    let url = format!("{}/f", web.url);
    let sum = sha256(b"abc");
    let context = adding(&rbuild, "c", &format!("ARG SUM={sum}\nADD --checksum=sha256:$SUM {url} /f"));
    let first = rbuild.tree(&context, &[]);
    assert_eq!(web.log().len(), 1);
    let again = rbuild.tree(&context, &[]);
    assert_eq!((first.read("/id"), web.log().len()), (again.read("/id"), 0), "what it must be is here");

    let wrong = "0".repeat(64);
    let context = adding(&rbuild, "w", &format!("ADD --checksum=sha256:{wrong} {url} /f"));
    let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
    assert!(said.contains(&format!("digest mismatch for {url}: sha256:{sum} (expected: sha256:{wrong})")), "{said}");
    assert!(said.contains("Dockerfile:2"), "{said}");
    for (add, message) in [
        (format!("ADD --checksum=sha256:abc {url} /f"), "invalid checksum digest length"),
        (format!("ADD --checksum=md5:abc {url} /f"), "unsupported digest algorithm"),
        (format!("ADD --checksum=sha256:{sum} {url} {url} /f/"), "checksum can't be specified for multiple sources"),
        (format!("ADD --checksum=sha256:{sum} f /f"), "checksum requires HTTP(S) or Git sources"),
        (format!("COPY {url} /f"), "source can't be a URL for COPY"),
    ] {
        let context = adding(&rbuild, "e", &add);
        let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
        assert!(said.contains(message), "{add}: {said}");
    }
}

#[test]
fn servers_lead_elsewhere_refuse_and_name_files() {
    if !can_build() {
        return;
    }
    let (rbuild, web, other) = (Rbuild::new(), Web::new(), Web::new());
    other.file("/there", b"x", "\"1\"");
    web.put("/here", Page::To(format!("{}/there", other.url)));
    web.put("/loop", Page::To("/loop".into()));
    web.put("/named", Page::Named { body: b"n".to_vec(), disposition: "attachment; filename=\"../../evil\"" });
    let url = &web.url;
    let tree = rbuild.tree(&adding(&rbuild, "r", &format!("ADD {url}/here /in/\nADD {url}/named /in/")), &[]);
    assert_eq!((tree.read("/in/here"), tree.read("/in/named")), ("x".into(), "n".into()), "the URL names them");
    for (path, message) in [("missing", "invalid response status 404"), ("loop", "more than 10 redirects")] {
        let context = adding(&rbuild, path, &format!("ADD {url}/{path} /f"));
        let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
        assert!(said.contains(message) && said.contains("Dockerfile:2"), "{said}");
    }
}

#[test]
fn a_build_that_waits_for_a_silent_server_can_be_stopped() {
    if !can_build() {
        return;
    }
    let (rbuild, web) = (Rbuild::new(), Web::new());
    web.put("/f", Page::Stalls);
    let context = adding(&rbuild, "c", &format!("ADD {}/f /f", web.url));
    let mut build = rbuild.command(["build".as_ref(), context.as_os_str()]).stderr(Stdio::null()).spawn().unwrap();
    until("the download begins", || !web.log().is_empty());
    let stopped = Instant::now();
    signal(build.id() as i32, Signal::INT);
    assert!(!build.wait().unwrap().success());
    assert!(stopped.elapsed() < Duration::from_secs(20));
    web.file("/f", b"whole", "\"1\"");
    assert_eq!(rbuild.tree(&context, &[]).read("/f"), "whole");
    assert_eq!(leases(&rbuild.root()), 0);
    rbuild.ok(["fsck"]);
}

#[test]
fn secrets_open_guarded_files_and_go_nowhere_else() {
    if !can_build() {
        return;
    }
    let (rbuild, web, other) = (Rbuild::new(), Web::new(), Web::new());
    web.put("/f", Page::Guarded { body: b"inside".to_vec(), authorization: "Bearer hunter2canary" });
    web.put("/away", Page::To(format!("{}/f", other.url)));
    other.file("/f", b"elsewhere", "\"1\"");
    let context = adding(&rbuild, "c", &format!("ADD {0}/f /f\nADD {0}/away /away", web.url));
    let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
    assert!(said.contains("invalid response status 401"), "{said}");
    fs::write(rbuild.path("token"), "hunter2canary\n").unwrap();
    let secret = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", rbuild.path("token").display());
    let tree = rbuild.tree(&context, &["--secret", &secret]);
    assert_eq!((tree.read("/f"), tree.read("/away")), ("inside".into(), "elsewhere".into()));
    assert!(web.introductions().iter().all(|said| said == "Bearer hunter2canary"));
    assert_eq!(other.introductions(), Vec::<String>::new(), "another origin");
    assert!(!holds(&rbuild.root(), b"hunter2canary"), "the store has the secret");
}

/// Whether a file below `dir` contains `bytes`.
fn holds(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let kind = entry.file_type().unwrap();
        let path = entry.path();
        kind.is_dir() && holds(&path, bytes)
            || kind.is_file() && fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn flags_of_add_count_for_what_is_elsewhere() {
    if !can_build() {
        return;
    }
    let (rbuild, web) = (Rbuild::new(), Web::new());
    web.file("/a.tar", &tar_of(&[("d/x", "1"), ("y", "2")]), "\"1\"");
    let url = format!("{}/a.tar", web.url);
    let dockerfile = format!(
        "FROM busybox\nADD {url} /whole/\nADD --unpack=true {url} /parts/\n\
         ADD --chown=1000:2000 --chmod=0755 {url} /owned/\nADD --link --chown=builder {url} /linked/\n"
    );
    let dockerfile = dockerfile.replace("--chown=builder", "--chown=7:8");
    let tree = rbuild.tree(&rbuild.context("c", &[("Dockerfile", &dockerfile)]), &[]);
    assert!(tree.has("/whole/a.tar") && !tree.has("/whole/y"));
    assert_eq!((tree.read("/parts/d/x"), tree.read("/parts/y")), ("1".into(), "2".into()));
    assert_eq!(tree.mode("/owned/a.tar"), (0o755, 1000, 2000));
    assert_eq!(tree.mode("/linked/a.tar"), (0o600, 7, 8));
    assert_eq!(web.log().iter().filter(|(_, status)| *status == 200).count(), 1, "one download for all");
}

#[test]
fn a_branch_that_moves_reruns_what_depends_on_it() {
    if !can_build() || !have("git") {
        return;
    }
    let rbuild = Rbuild::new();
    let git = GitServer::new(&rbuild.path("git"));
    let first = git.commit("app", &[("a", "1"), ("docs/d", "x")]);
    let url = git.url_of("app");
    let dockerfile = format!(
        "FROM busybox AS docs\nADD {url}#main:docs /docs\n{UUID}\n\
         FROM busybox\nADD {url} /app\n{UUID}\nCOPY --from=docs /docs /docs\nCOPY --from=docs /id /docs-id\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let one = rbuild.tree(&context, &[]);
    assert_eq!(
        (one.read("/app/a"), one.read("/app/docs/d"), one.read("/docs/d")),
        ("1".into(), "x".into(), "x".into())
    );
    assert!(!one.has("/app/.git"));
    let same = rbuild.tree(&context, &[]);
    assert_eq!((one.read("/id"), one.read("/docs-id")), (same.read("/id"), same.read("/docs-id")));

    git.commit("app", &[("a", "2")]);
    let two = rbuild.tree(&context, &[]);
    assert_eq!(two.read("/app/a"), "2");
    assert_ne!(one.read("/id"), two.read("/id"));
    assert_eq!(one.read("/docs-id"), two.read("/docs-id"), "this directory is as it was");

    let pinned = adding(&rbuild, "p", &format!("ADD --checksum={first} {url}#{first} /app"));
    assert_eq!(rbuild.tree(&pinned, &[]).read("/app/a"), "1");
    drop(git);
    assert_eq!(rbuild.tree(&pinned, &[]).read("/app/a"), "1", "a commit's id needs no server");
    rbuild.ok(["fsck"]);
}

#[test]
fn questions_about_a_repository_are_answered_without_building() {
    if !can_build() || !have("git") {
        return;
    }
    let rbuild = Rbuild::new();
    let git = GitServer::new(&rbuild.path("git"));
    let dockerfile = "FROM busybox AS one\nCOPY a /\nRUN false\nFROM one AS two\nCMD a\n";
    git.commit("app", &[("dockerfile", dockerfile), ("sub/Containerfile", "FROM busybox\n"), ("a", "1")]);
    let url = git.url_of("app");
    let checked = rbuild.run(["build", "--check", &url]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains("WARNING: JSONArgsRecommended") && said.contains("Dockerfile:5"), "{said}");
    let targets = rbuild.ok(["build", "--call=targets,format=json", &url]);
    let targets: serde_json::Value = serde_json::from_str(&targets).unwrap();
    assert_eq!(targets["targets"].as_array().map(Vec::len), Some(2), "{targets}");
    let graph = rbuild.ok(["debug", "dump-llb", "--format", "json", &url]);
    assert!(graph.contains("git://") && graph.contains("/bin/sh"), "{graph}");
    let said = rbuild.fails(1, ["build", "--check", "-f", "Other", &url]);
    assert!(said.contains("open Other: no such file or directory"), "{said}");
    let fine = rbuild.ok(["build", "--check", &format!("{url}#:sub")]);
    assert!(fine.contains("Check complete, no warnings found."), "{fine}");
}

#[test]
fn tags_histories_and_modes_are_those_of_the_repository() {
    if !can_build() || !have("git") {
        return;
    }
    let rbuild = Rbuild::new();
    let git = GitServer::new(&rbuild.path("git"));
    git.commit("app", &[("a", "1"), ("run.sh", "#!/bin/sh\n")]);
    git.git("app", &["update-index", "--chmod=+x", "run.sh"]);
    symlink("/etc/passwd", git.path_of("app").join("link")).unwrap();
    fs::remove_file(git.path_of("app").join("a")).unwrap();
    git.git("app", &["add", "link"]);
    git.git("app", &["commit", "-q", "-m", "modes"]);
    git.git("app", &["tag", "-a", "v1", "-m", "the first"]);
    let tagged = git.git("app", &["rev-parse", "HEAD"]);
    git.git("app", &["checkout", "-q", "--", "."]);
    git.commit("app", &[("later", "1")]);
    let url = git.url_of("app");
    let add = format!(
        "ADD --keep-git-dir=true {url}?tag=v1 /kept\nADD {url}?ref=v1&mtime=commit /app\nADD --keep-git-dir {url}#main /main\n\
         ADD --chown=5:6 --exclude=run.sh {url}#v1 /owned"
    );
    let tree = rbuild.tree(&adding(&rbuild, "c", &add), &[]);
    assert_eq!((tree.mode("/app/run.sh").0, tree.mode("/app/a").0), (0o755, 0o644));
    assert_eq!(fs::read_link(tree.0.join("app/link")).unwrap(), Path::new("/etc/passwd"));
    assert!(!tree.has("/app/later") && tree.has("/main/later"));
    assert_eq!(fs::metadata(tree.0.join("app/a")).unwrap().mtime(), 1_577_934_245, "as old as the commit");
    assert_eq!((tree.mode("/owned/a"), tree.has("/owned/run.sh")), ((0o644, 5, 6), false));
    let in_kept = |name: &str, args: &[&str]| {
        let dir = tree.0.join(name);
        let output = Command::new("git")
            .args(["-c", "safe.directory=*"])
            .args(args)
            .current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", support::text(&output.stderr));
        support::text(&output.stdout).trim().to_owned()
    };
    assert_eq!(in_kept("kept", &["rev-parse", "HEAD"]), tagged);
    assert_eq!(in_kept("kept", &["describe"]), "v1");
    assert_eq!(in_kept("kept", &["remote", "get-url", "origin"]), url);
    assert_eq!(in_kept("kept", &["status", "--porcelain"]), "");
    assert_eq!(in_kept("main", &["rev-parse", "refs/heads/main"]), in_kept("main", &["rev-parse", "HEAD"]));
}

#[test]
fn submodules_come_along_unless_they_are_on_this_machine() {
    if !can_build() || !have("git") {
        return;
    }
    let rbuild = Rbuild::new();
    let git = GitServer::new(&rbuild.path("git"));
    git.commit("lib", &[("l", "inner")]);
    git.commit("app", &[("a", "1")]);
    git.git("app", &["submodule", "-q", "add", &git.url_of("lib"), "vendor/lib"]);
    git.git("app", &["submodule", "-q", "add", "../lib", "relative"]);
    git.commit("app", &[]);
    let url = git.url_of("app");
    let tree = rbuild.tree(&adding(&rbuild, "c", &format!("ADD {url} /app\nADD {url}?submodules=false /bare")), &[]);
    assert_eq!((tree.read("/app/vendor/lib/l"), tree.read("/app/relative/l")), ("inner".into(), "inner".into()));
    assert!(!tree.has("/app/vendor/lib/.git") && !tree.has("/bare/vendor/lib/l"));

    // A server of plain files gives all of a history or nothing.
    let (web, bare) = (Web::new(), rbuild.path("bare"));
    git.git("lib", &["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    git.git("../bare", &["update-server-info"]);
    let mut directories = vec![bare.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                directories.push(entry);
            } else {
                let path = format!("/lib.git/{}", entry.strip_prefix(&bare).unwrap().display());
                web.put(&path, Page::File { body: fs::read(&entry).unwrap(), etag: "", modified: None });
            }
        }
    }
    git.commit("plain", &[("a", "1")]);
    git.git("plain", &["submodule", "-q", "add", &format!("{}/lib.git", web.url), "lib"]);
    git.commit("plain", &[]);
    let tree = rbuild.tree(&adding(&rbuild, "p", &format!("ADD {} /app", git.url_of("plain"))), &[]);
    assert_eq!(tree.read("/app/lib/l"), "inner");

    fs::write(rbuild.path("secret"), "x").unwrap();
    git.commit("local", &[("secret", "of this machine")]);
    git.commit("evil", &[("a", "1")]);
    let local = git.path_of("local");
    git.git("evil", &["submodule", "-q", "add", local.to_str().unwrap(), "stolen"]);
    git.commit("evil", &[]);
    let context = adding(&rbuild, "e", &format!("ADD {} /app", git.url_of("evil")));
    let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
    assert!(said.contains("transport 'file' not allowed"), "{said}");
}

#[test]
fn repositories_cannot_lead_astray() {
    if !can_build() || !have("git") {
        return;
    }
    let rbuild = Rbuild::new();
    let git = GitServer::new(&rbuild.path("git"));
    git.commit("app", &[("a", "1"), ("dir/b", "2")]);
    symlink("/etc", git.path_of("app").join("out")).unwrap();
    symlink("dir", git.path_of("app").join("in")).unwrap();
    git.commit("app", &[]);
    let url = git.url_of("app");
    for (reference, message) in [
        ("#main:..", "not a directory of the repository"),
        ("#main:dir/../..", "not a directory of the repository"),
        ("#main:out", "not a directory of the repository"),
        ("#main:in", "not a directory of the repository"),
        ("#main:a", "not a directory of the repository"),
        ("#main:.git", "not a directory of the repository"),
        ("#main:%2e%2e", "not a directory of the repository"),
        ("#--upload-pack=touch${IFS}/tmp/x", "cannot be the name of a branch"),
        ("#nowhere", "repository does not contain ref nowhere"),
        ("?checksum=0123456", "expected checksum to match 0123456"),
        ("?what=1", "unexpected query \"what\""),
    ] {
        // Single quotes: nothing is expanded.
        let context = adding(&rbuild, "e", &format!("ADD {} /app", format!("{url}{reference}").replace('$', "\\$")));
        let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
        assert!(said.contains(message), "{reference}: {said}");
    }
    let missing = format!("ADD {} /app", git.url_of("missing"));
    let said = rbuild.fails(1, ["build".as_ref(), adding(&rbuild, "m", &missing).as_os_str()]);
    assert!(said.contains("git ls-remote of git://"), "{said}");
    let without = rbuild
        .command(["build".as_ref(), adding(&rbuild, "n", &format!("ADD {url} /a")).as_os_str()])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    assert!(support::text(&without.stderr).contains("git is not installed: git sources need the package git"));
    assert!(processes(&git.url).len() <= 1, "only the daemon itself is left");
}

#[test]
fn archives_of_all_compressions_are_extracted() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("no.xz", "no archive")]);
    for name in ["small.tar.bz2", "two-streams.tar.bz2", "small.tar.xz", "two-streams.tar.xz"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/archives").join(name);
        fs::copy(from, context.join(name)).unwrap();
    }
    let plain = tar_of(&[("inner", "found")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    fs::write(context.join("plain"), &plain).unwrap();
    fs::write(context.join("gzip"), gzip.finish().unwrap()).unwrap();
    let names = ["plain", "gzip", "small.tar.bz2", "two-streams.tar.bz2", "small.tar.xz", "two-streams.tar.xz"];
    let adds: String = names.iter().map(|name| format!("ADD {name} /{name}/\n")).collect();
    let dockerfile = format!(
        "FROM busybox\n{adds}ADD --chown=3:4 small.tar.xz /owned/\nADD --unpack=false small.tar.xz /kept/\nADD no.xz /kept/\n"
    );
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let tree = rbuild.tree(&context, &[]);
    for name in names {
        assert_eq!(
            (tree.read(&format!("/{name}/inner")), tree.mode(&format!("/{name}/inner"))),
            ("found".into(), (0o640, 0, 0))
        );
    }
    assert_eq!(tree.mode("/owned/inner"), (0o640, 3, 4));
    assert!(tree.has("/kept/small.tar.xz") && tree.has("/kept/no.xz"));
}

/// The digest of the image that `rbuild build -o type=oci` wrote to a directory.
fn layout_of(rbuild: &Rbuild, name: &str, dockerfile: &str) -> std::path::PathBuf {
    let context = rbuild.context(&format!("{name}-context"), &[("Dockerfile", dockerfile), ("f", name)]);
    let layout = rbuild.path(name);
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    rbuild.ok(["build".as_ref(), "-o".as_ref(), output.as_ref(), context.as_os_str()]);
    layout
}

#[test]
fn images_of_a_layout_are_contexts_and_bases() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let layout = layout_of(&rbuild, "made", "FROM busybox\nCOPY f /f\nENV FROM_LAYOUT=yes\nRUN rm /bin/vi\n");
    let dockerfile = format!("FROM base\nCOPY --from=other /f /copied\nRUN echo $FROM_LAYOUT > /env\n{UUID}\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    // Another store, so that the layers have to come from the layout.
    let other = Rbuild::empty();
    let args = |name: &str| ["--build-context".to_owned(), format!("{name}=oci-layout://{}", layout.display())];
    let args = [args("base"), args("other")].concat();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let first = other.tree(&context, &args);
    assert_eq!(
        (first.read("/f"), first.read("/copied"), first.read("/env")),
        ("made".into(), "made".into(), "yes\n".into())
    );
    assert!(!first.has("/bin/vi"), "a deletion of a layer");
    let second = other.tree(&context, &args);
    assert_eq!(first.read("/id"), second.read("/id"));
    other.ok(["fsck"]);

    let third = Rbuild::empty();
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten() {
        let size = blob.metadata().unwrap().len();
        if size > 100_000 {
            fs::write(blob.path(), vec![7; size as usize]).unwrap();
        }
    }
    let mut all = vec!["build", context.to_str().unwrap()];
    all.extend(args);
    let said = third.fails(1, all);
    assert!(said.contains("sha256:"), "{said}");
    let missing = format!("base=oci-layout://{}:none", layout.display());
    let said = third.fails(1, ["build", context.to_str().unwrap(), "--build-context", &missing]);
    assert!(said.contains("none: not found in the OCI layout"), "{said}");
}

#[test]
fn a_silent_git_server_is_left_with_all_its_processes() {
    if !can_build() || !have("git") {
        return;
    }
    let rbuild = Rbuild::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://127.0.0.1:{}/app", listener.local_addr().unwrap().port());
    let context = adding(&rbuild, "c", &format!("ADD {url} /app"));
    let mut build = rbuild.command(["build".as_ref(), context.as_os_str()]).stderr(Stdio::null()).spawn().unwrap();
    let _taken = listener.accept().unwrap();
    assert!(!processes(&url).is_empty());
    signal(build.id() as i32, Signal::INT);
    assert!(!build.wait().unwrap().success());
    until("git is gone", || processes(&url).is_empty());
    assert_eq!(leases(&rbuild.root()), 0);
}

#[test]
fn repositories_behind_ssh_are_reached_with_the_callers_agent() {
    if !can_build() || !have("git") {
        return;
    }
    let rbuild = Rbuild::new();
    let git = GitServer::new(&rbuild.path("git"));
    git.commit("app", &[("a", "1")]);
    // An ssh that runs the command here, and notes how it was called.
    let (bin, noted) = (rbuild.path("bin"), rbuild.path("noted"));
    fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$@\" > {0}\n[ -S \"$SSH_AUTH_SOCK\" ] && echo agent >> {0}\n\
         export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'\n\
         for last; do :; done\neval \"$last\"\n",
        noted.display()
    );
    fs::write(bin.join("ssh"), script).unwrap();
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let agent = rbuild.path("agent");
    let _agent = std::os::unix::net::UnixListener::bind(&agent).unwrap();
    let add = format!("ADD ssh://git@host.example:2222{} /app", git.path_of("app").display());
    let context = adding(&rbuild, "c", &add);
    let out = rbuild.path("out");
    let build = |more: &[&str]| {
        let mut args = vec!["build".to_owned(), "-o".to_owned(), out.display().to_string()];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.push(context.display().to_string());
        rbuild.command(args).env("PATH", &path).output().unwrap()
    };
    let without = build(&[]);
    assert!(support::text(&without.stderr).contains("no SSH key \"default\" forwarded from the client"));
    let done = build(&["--ssh", &format!("default={}", agent.display())]);
    assert!(done.status.success(), "{}", support::text(&done.stderr));
    assert_eq!(fs::read_to_string(out.join("app/a")).unwrap(), "1");
    let noted = fs::read_to_string(noted).unwrap();
    assert!(noted.contains("-p 2222 git@host.example") && noted.contains("-F /dev/null"), "{noted}");
    assert!(noted.ends_with("agent\n"), "{noted}");
}
