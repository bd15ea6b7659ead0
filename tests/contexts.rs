//! Contexts from the outside: named ones, those on standard input, and questions that are answered without building.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use support::served::{GitServer, Page, Web};
use support::{can_build, have, mark, marks, Rbuild};

/// Runs `rbuild` with something on standard input.
fn fed(rbuild: &Rbuild, args: &[&str], input: &[u8]) -> Output {
    let mut child =
        rbuild.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_named_directory_has_its_own_ignore_file() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let other = rbuild.context("other", &[("b", "of other"), ("skip", "x"), (".dockerignore", "skip\n")]);
    let dockerfile = "FROM busybox AS replaced\nRUN false\nFROM busybox\nCOPY --from=other . /o/\n\
        RUN test ! -e /o/skip\nRUN --mount=from=other,target=/m cat /m/b > /b\nCOPY --from=replaced b /r\n\
        COPY --from=img /bin/busybox /bb\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let named = format!("other={}", other.display());
    let replaced = format!("replaced={}", other.display());
    let images = "img=docker-image://busybox";
    let tree =
        rbuild.tree(&context, &["--build-context", &named, "--build-context", &replaced, "--build-context", images]);
    assert_eq!((tree.read("/b").as_str(), tree.read("/r").as_str()), ("of other", "of other"));
    assert!(tree.has("/bb"));
}

#[test]
fn attributes_of_users_are_copied_into_images() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nCOPY page dir /w/\nCOPY dir /d\n";
    let context =
        rbuild.context("c", &[("Dockerfile", dockerfile), ("page", "<p>"), ("dir/in", "x"), ("dir/sub/y", "")]);
    // Old enough for the cache to know it without.
    rbuild.log(&context, &[]);
    std::thread::sleep(std::time::Duration::from_millis(120));
    rbuild.log(&context, &["--no-cache"]);
    for (path, value) in [("page", "text/html"), ("dir/sub", "1")] {
        if !mark(&context.join(path), "user.mime", value) {
            return;
        }
    }
    rbuild.ok(["build", "-o", "type=tar,dest=out.tar", context.to_str().unwrap()]);
    let out = rbuild.path("out.tar");
    assert_eq!(marks(&out, "w/page"), ["user.mime=text/html"]);
    assert_eq!((marks(&out, "w/sub"), marks(&out, "d/sub")), (vec!["user.mime=1".into()], vec!["user.mime=1".into()]));
    assert_eq!(marks(&out, "w/in"), [""; 0]);
}

#[test]
fn a_dockerfile_on_standard_input_needs_no_context() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let output = fed(&rbuild, &["build", "-"], b"FROM busybox\nRUN true\n");
    assert!(output.status.success(), "{}", said(&output));
    let output = fed(&rbuild, &["build", "-"], b"FROM busybox\nCOPY a /\n");
    assert!(!output.status.success() && said(&output).contains("not found"), "{}", said(&output));
    let output = fed(&rbuild, &["build", "-f", "-", "-"], b"FROM busybox\n");
    assert!(said(&output).contains("can't use stdin for both build context and dockerfile"), "{}", said(&output));
}

#[test]
fn what_is_no_context_is_named() {
    let rbuild = Rbuild::new();
    for address in ["s3://bucket/context.tar", "gs://bucket/context.tar", "nowhere"] {
        let said = rbuild.fails(1, ["build", address]);
        assert!(said.contains(&format!("build context {address}: no such file or directory")), "{said}");
    }
}

#[test]
fn an_archive_on_standard_input_is_the_context() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in [
        ("Dockerfile", "FROM busybox\nCOPY . /x/\nRUN test \"$(cat /x/a)\" = 1 && test -e /x/d/b\n"),
        // It comes whole, as what is in the web does.
        (".dockerignore", "a\n"),
        ("sub/Other", "FROM busybox\nCOPY a /y\n"),
        ("a", "1"),
        ("d/b", "2"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    for archive in [tar, gzip.finish().unwrap()] {
        let output = fed(&rbuild, &["build", "-"], &archive);
        assert!(output.status.success(), "{}", said(&output));
        let output = fed(&rbuild, &["build", "-f", "sub/Other", "-"], &archive);
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn a_hostile_archive_stays_where_it_is_unpacked() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let outside = rbuild.path("outside");
    let mut tar = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "dir", rbuild.path("")).unwrap();
    let mut file = tar::Header::new_gnu();
    file.set_size(4);
    file.set_mode(0o644);
    tar.append_data(&mut file, "dir/outside", &b"evil"[..]).unwrap();
    fed(&rbuild, &["build", "-"], &tar.into_inner().unwrap());
    assert!(!outside.exists(), "the archive wrote through its link");
}

#[test]
fn ignore_files_and_dockerfiles_have_several_names() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nCOPY . /c/\n";
    let shown = |rbuild: &Rbuild, context: &std::path::Path, args: &[&str]| {
        let tree = rbuild.tree(context, args);
        ["a", "b", "c"].into_iter().filter(|name| tree.has(&format!("/c/{name}"))).collect::<String>()
    };
    let files = [("a", "1"), ("b", "1"), ("c", "1"), (".containerignore", "a\n")];
    let context = rbuild.context("c", &files);
    fs::write(context.join("Containerfile"), dockerfile).unwrap();
    assert_eq!(shown(&rbuild, &context, &[]), "bc");
    // The other name is stronger, even if it names nothing.
    fs::write(context.join(".dockerignore"), "b\n").unwrap();
    assert_eq!(shown(&rbuild, &context, &[]), "ac");
    fs::write(context.join(".dockerignore"), "").unwrap();
    assert_eq!(shown(&rbuild, &context, &[]), "abc");
    // So is the Dockerfile's own, also where it is outside; an empty one counts too.
    let outside = rbuild.context("outside", &[("Own", dockerfile), ("Own.dockerignore", "c\n")]);
    let own = outside.join("Own").display().to_string();
    assert_eq!(shown(&rbuild, &context, &["-f", &own]), "ab");
    fs::write(outside.join("Own.dockerignore"), "").unwrap();
    fs::remove_file(context.join(".dockerignore")).unwrap();
    assert_eq!(shown(&rbuild, &context, &["-f", &own]), "abc");
    // An empty name is none.
    assert_eq!(shown(&rbuild, &context, &["-f", ""]), "bc");
    // `Dockerfile` may be written small, and comes before the others.
    fs::write(context.join("dockerfile"), "FROM busybox\nCOPY b /c/\n").unwrap();
    assert_eq!(shown(&rbuild, &context, &[]), "b");
    let typed = context.join("Dockerfile").display().to_string();
    assert_eq!(shown(&rbuild, &context, &["-f", &typed]), "b");
}

#[test]
fn checks_end_as_they_found_it() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context =
        rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN true\n"), ("Lower", "from busybox\nCMD a\n")]);
    let run = |args: &[&str]| {
        let mut all: Vec<&OsStr> = vec!["build".as_ref()];
        all.extend(args.iter().map(OsStr::new));
        all.push(context.as_os_str());
        rbuild.run(all)
    };
    let file = context.join("Lower").display().to_string();
    let fine = run(&["--check"]);
    assert!(fine.status.success() && said(&fine).contains("Check complete, no warnings found."), "{}", said(&fine));
    let doubtful = run(&["--check", "-f", &file]);
    assert_eq!(doubtful.status.code(), Some(1));
    assert!(said(&doubtful).contains("WARNING: JSONArgsRecommended - https://"), "{}", said(&doubtful));
    let json = run(&["--call=check,format=json", "-f", &file]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty()), "{json}");
    // An image that cannot be had is told in the same form.
    fs::write(context.join("Missing"), "FROM localhost:1/missing\nRUN true\n").unwrap();
    let file_of_missing = context.join("Missing").display().to_string();
    let json = run(&["--call=check,format=json", "-f", &file_of_missing]);
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(
        json["buildError"]["message"].as_str().is_some_and(|why| why.starts_with("localhost:1/missing: ")),
        "{json}"
    );
    let outline = run(&["--call=outline"]);
    assert!(outline.status.success(), "{}", said(&outline));
    fs::write(context.join("Lower"), "FROM busybox\nRUNN x\n").unwrap();
    let wrong = run(&["--check", "-f", &file]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).contains("unknown instruction: RUNN (did you mean RUN?)"), "{}", said(&wrong));
}

#[test]
fn a_step_of_another_platform_says_what_is_missing() {
    if !can_build() {
        return;
    }
    if fs::read_dir("/proc/sys/fs/binfmt_misc")
        .is_ok_and(|entries| entries.flatten().any(|e| e.file_name() == "qemu-s390x"))
    {
        eprintln!("skipped: this machine can run programs for s390x");
        return;
    }
    let rbuild = Rbuild::new();
    // A program that this kernel cannot read.
    let context = rbuild.context(
        "c",
        &[
            ("Dockerfile", "FROM --platform=linux/s390x scratch\nCOPY --chmod=755 sh /bin/sh\nRUN true\n"),
            ("sh", "\u{1}no program"),
        ],
    );
    let said = rbuild.fails(1, ["build".as_ref(), "--platform=linux/s390x".as_ref(), context.as_os_str()]);
    assert!(said.contains("no interpreter for linux/s390x programs is registered"), "{said}");
    assert!(said.contains("tonistiigi/binfmt --install s390x"), "{said}");
}

#[test]
fn two_platforms_share_what_runs_on_this_machine() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN cat /proc/sys/kernel/random/uuid > /id\n\
        FROM scratch\nARG TARGETARCH\nCOPY --from=build /id /$TARGETARCH\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let said = rbuild.log(&context, &["--platform=linux/amd64,linux/arm64"]);
    assert_eq!(said.matches("RUN cat /proc/sys/kernel/random/uuid > /id\n").count(), 1, "{said}");
    assert!(said.contains("COPY --from=build /id /arm64"), "{said}");
}

/// An archive with one file as old as this.
fn archive(name: &str, text: &str, time: u64) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [(name, text), ("other", "older")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(if text == "older" { 1 } else { time });
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// `created` of the image in an archive that `rbuild build -o type=oci` wrote into a directory.
fn created(layout: &std::path::Path) -> String {
    let read =
        |path: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(layout.join(path)).unwrap()).unwrap() };
    let blob = |digest: &serde_json::Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    let manifest = read(&blob(&read("index.json")["manifests"][0]["digest"]));
    read(&blob(&manifest["config"]["digest"]))["created"].as_str().unwrap().to_string()
}

#[test]
fn the_time_of_a_context_or_a_stage_is_that_of_the_build() {
    if !can_build() || !have("git") {
        return;
    }
    let rbuild = Rbuild::new();
    let (git, web) = (GitServer::new(&rbuild.path("git")), Web::new());
    let sees =
        |seconds: &str| format!("FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN test \"$SOURCE_DATE_EPOCH\" = '{seconds}'\n");
    let built = |args: &[&str]| {
        let to = rbuild.path(&format!("out-{}", args.len() * 1000 + args.concat().len()));
        let output = format!("type=oci,tar=false,dest={}", to.display());
        rbuild.ok(["build", "-o", &output].iter().chain(args));
        created(&to)
    };
    // A commit.
    git.commit("app", &[("a", "x")]);
    let seconds: i64 = git.git("app", &["log", "-1", "--format=%ct"]).trim().parse().unwrap();
    let plain = rbuild.context("plain", &[("Dockerfile", &sees(&seconds.to_string()))]);
    let named = format!("source={}", git.url_of("app"));
    let arg = "--build-arg=SOURCE_DATE_EPOCH=source";
    let of_commit = built(&["--build-context", &named, arg, plain.to_str().unwrap()]);
    assert_eq!(of_commit, rbuild::rfc3339::Time::from_seconds(seconds).to_string());
    // An archive without a date is as old as its newest file, one with a date as that says.
    let dated = Some("Tue, 14 Nov 2023 22:13:20 GMT");
    for (path, seconds, modified) in [("/none.tar", "1700000302", None), ("/dated.tar", "1700000000", dated)] {
        let body = archive("Dockerfile", &sees(seconds), 1_700_000_302);
        web.put(path, Page::File { body, etag: "\"1\"", modified });
    }
    for (path, expected) in [("none", "2023-11-14T22:18:22Z"), ("dated", "2023-11-14T22:13:20Z")] {
        let url = format!("{}/{path}.tar", web.url);
        assert_eq!(built(&["--build-arg=SOURCE_DATE_EPOCH=context", &url]), expected, "{path}");
    }
    // A stage that fetches something.
    let dockerfile = format!(
        "ARG SOURCE_DATE_EPOCH=source\nFROM scratch AS source\nADD {}/dated.tar /\n{}",
        web.url,
        sees("1700000000")
    );
    let context = rbuild.context("staged", &[("Dockerfile", &dockerfile)]);
    assert_eq!(built(&[context.to_str().unwrap()]), "2023-11-14T22:13:20Z");
    // A directory has no time: the variable is empty, and the image as old as it is.
    let context = rbuild.context("local", &[("Dockerfile", &sees(""))]);
    built(&["--build-arg=SOURCE_DATE_EPOCH=context", context.to_str().unwrap()]);
    // A Dockerfile may be in the web, too.
    web.file("/Dockerfile", b"FROM busybox\nCOPY here /\n", "\"1\"");
    let context = rbuild.context("bare", &[("here", "x")]);
    rbuild.ok(["build", "-f", &format!("{}/Dockerfile", web.url), context.to_str().unwrap()]);
}
