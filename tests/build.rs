//! Real builds with real RUN steps, from the outside: what runs, what is cached, what comes out.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;

use support::{can_build, text, Rbuild};

/// A step that leaves a different file each time it really runs.
const UUID: &str = "RUN cat /proc/sys/kernel/random/uuid > ";

#[test]
fn second_build_runs_nothing() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\nWORKDIR /app\nCOPY . .\n{UUID}/id\nRUN true\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("a", "1")]);
    let first = rbuild.tree(&context, &[]);
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/id"), second.read("/id"));
    let said = rbuild.log(&context, &[]);
    assert_eq!(said.matches("CACHED").count(), 5, "the base and four steps: {said}");
}

#[test]
fn an_edited_file_reruns_only_what_depends_on_it() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!(
        "FROM busybox AS a\nCOPY a /a\n{UUID}/ida\nFROM busybox AS b\nCOPY b /b\n{UUID}/idb\n\
         FROM busybox\nCOPY --from=a /ida /ida\nCOPY --from=b /idb /idb\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("a", "1"), ("b", "1")]);
    let first = rbuild.tree(&context, &[]);
    fs::write(context.join("b"), "2").unwrap();
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/ida"), second.read("/ida"));
    assert_ne!(first.read("/idb"), second.read("/idb"));
}

#[test]
fn a_rerun_that_makes_the_same_files_lets_all_above_it_hit() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!(
        "FROM busybox AS x\nCOPY input /input\nRUN wc -c < /input > /size && rm /input\n\
         FROM busybox\nCOPY --from=x /size /size\nCOPY other /other\nWORKDIR /w\n{UUID}/id\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("input", "abc"), ("other", "1")]);
    let first = rbuild.tree(&context, &[]);
    fs::write(context.join("input"), "xyz").unwrap();
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/id"), second.read("/id"));
}

#[test]
fn a_rerun_run_step_with_the_same_result_cuts_off_in_its_own_stage() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile =
        format!("FROM busybox\nARG X\nRUN echo same > /same\nWORKDIR /w\nCOPY other /other\nENV X=\n{UUID}/id\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("other", "1")]);
    let first = rbuild.tree(&context, &["--build-arg", "X=1"]);
    let second = rbuild.tree(&context, &["--build-arg", "X=2"]);
    assert_eq!(first.read("/id"), second.read("/id"));
}

#[test]
fn touching_files_or_moving_the_context_runs_nothing() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\nCOPY . /src\n{UUID}/id\n");
    let files = [("Dockerfile", dockerfile.as_str()), ("a", "1"), ("d/b", "2")];
    let context = rbuild.context("c", &files);
    let first = rbuild.tree(&context, &[]);
    let file = fs::File::options().append(true).open(context.join("a")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(first.read("/id"), rbuild.tree(&context, &[]).read("/id"), "another mtime");
    let moved = rbuild.context("elsewhere", &files);
    assert_eq!(first.read("/id"), rbuild.tree(&moved, &[]).read("/id"), "another path");
}

#[test]
fn mode_and_names_of_copied_files_count() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\nCOPY . /src\n{UUID}/id\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("a", "1")]);
    let mut seen = vec![rbuild.tree(&context, &[]).read("/id")];
    fs::set_permissions(context.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    seen.push(rbuild.tree(&context, &[]).read("/id"));
    fs::rename(context.join("a"), context.join("b")).unwrap();
    seen.push(rbuild.tree(&context, &[]).read("/id"));
    fs::write(context.join("empty"), "").unwrap();
    seen.push(rbuild.tree(&context, &[]).read("/id"));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

#[test]
fn equal_steps_run_once() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!(
        "FROM busybox AS a\n{UUID}/id\nFROM busybox AS b\n{UUID}/id\n\
         FROM scratch\nCOPY --from=a /id /a\nCOPY --from=b /id /b\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let tree = rbuild.tree(&context, &[]);
    assert_eq!(tree.read("/a"), tree.read("/b"));
}

#[test]
fn independent_stages_run_at_once() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    // Each stage waits for the other through nothing but time: both must be alive in the same second.
    let stage = |name: &str| {
        format!("FROM busybox AS {name}\nRUN cat /proc/uptime > /start; sleep 1; cat /proc/uptime > /end # {name}\n")
    };
    let dockerfile = format!(
        "{}{}FROM scratch\nCOPY --from=a /start /end /a/\nCOPY --from=b /start /end /b/\n",
        stage("a"),
        stage("b")
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let tree = rbuild.tree(&context, &[]);
    let at = |path: &str| tree.read(path).split(' ').next().unwrap().parse::<f64>().unwrap();
    assert!(at("/a/start") < at("/b/end") && at("/b/start") < at("/a/end"));
}

#[test]
fn no_cache_runs_every_step_anew() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\n{UUID}/id\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let first = rbuild.tree(&context, &[]).read("/id");
    let anew = rbuild.tree(&context, &["--no-cache"]).read("/id");
    assert_ne!(first, anew);
    assert_eq!(anew, rbuild.tree(&context, &[]).read("/id"), "what ran anew is what the cache gives next");
}

#[test]
fn instructions_do_what_they_say() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = r#"
ARG BASE=busybox
FROM ${BASE} AS first
ARG NAME=default
ENV GREETING="hello ${NAME}" OTHER=x
RUN echo "$GREETING" > /greeting && env > /env
RUN ["/bin/sh", "-c", "echo exec > /exec"]
RUN <<EOF
set -e
echo here > /heredoc
echo doc >> /heredoc
EOF
SHELL ["/bin/busybox", "ash", "-ec"]
RUN echo $0 > /shell
USER builder
RUN id -u > /tmp/uid; id -G > /tmp/groups
USER root
WORKDIR /a/b
WORKDIR c
RUN pwd > /pwd
COPY --chown=1000:1000 --chmod=0640 one /owned
COPY d/ /dir/
COPY *.txt /texts/
ADD two /added

FROM scratch AS last
COPY --from=first / /
"#;
    let context = rbuild.context(
        "c",
        &[
            ("Dockerfile", dockerfile),
            ("one", "1"),
            ("two", "2"),
            ("x.txt", "x"),
            ("y.txt", "y"),
            ("d/in", "in"),
            ("d/deeper/in", "deeper"),
            ("ignored", "no"),
            (".dockerignore", "ignored\nd/in\n"),
        ],
    );
    let tree = rbuild.tree(&context, &["--build-arg", "NAME=world", "--target", "last"]);
    for (path, want) in [
        ("/greeting", "hello world\n"),
        ("/exec", "exec\n"),
        ("/heredoc", "here\ndoc\n"),
        ("/tmp/uid", "1000\n"),
        ("/tmp/groups", "1000 2000\n"),
        ("/pwd", "/a/b/c\n"),
        ("/owned", "1"),
        ("/dir/deeper/in", "deeper"),
        ("/texts/x.txt", "x"),
        ("/texts/y.txt", "y"),
        ("/added", "2"),
    ] {
        assert_eq!(tree.read(path), want, "{path}");
    }
    assert_eq!(tree.mode("/owned"), (0o640, 1000, 1000));
    assert_eq!(tree.mode("/dir/deeper/in"), (0o644, 0, 0));
    assert!(!tree.has("/dir/in"), "ignored by .dockerignore");
    let env = tree.read("/env");
    assert!(env.contains("NAME=world\n") && env.contains("HOME=/root\n"), "{env}");
}

#[test]
fn the_image_says_what_the_dockerfile_says() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = r#"FROM busybox
ENV A=1
LABEL key="a value"
EXPOSE 80 443/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
WORKDIR /w
USER builder
ENTRYPOINT ["/bin/echo"]
CMD ["hello"]
"#;
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    rbuild.ok(["-t".as_ref(), "app:1.0".as_ref(), "--label=more=yes".as_ref(), context.as_os_str()]);
    let shown: serde_json::Value = serde_json::from_str(&rbuild.ok(["inspect", "app:1.0"])).unwrap();
    let config = &shown[0]["Config"];
    assert_eq!(shown[0]["RepoTags"], serde_json::json!(["app:1.0"]));
    assert_eq!(config["Labels"], serde_json::json!({"key": "a value", "more": "yes"}));
    assert_eq!(config["ExposedPorts"], serde_json::json!({"443/udp": {}, "80/tcp": {}}));
    assert_eq!(config["Volumes"], serde_json::json!({"/data": {}}));
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["User"], "builder");
    assert_eq!(config["WorkingDir"], "/w");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/bin/echo"]));
    assert_eq!(config["Cmd"], serde_json::json!(["hello"]));
    assert_eq!(config["Healthcheck"]["Interval"], 5_000_000_000_i64);
    assert!(config["Env"].as_array().unwrap().contains(&"A=1".into()));
    assert!(shown[0]["Id"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(shown[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2, "the base and WORKDIR");
    assert_eq!(rbuild.ok(["run", "app:1.0"]), "hello\n");
    assert_eq!(rbuild.ok(["run", "app:1.0", "other", "words"]), "other words\n");
}

#[test]
fn run_passes_output_and_exit_code_through() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let output = rbuild.run(["run", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(support::text(&output.stdout), "out\n");
    assert!(support::text(&output.stderr).contains("err\n"));
}

#[test]
fn output_is_kept_whole() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    // More than others keep of a step. The name of the step ends with a number too.
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN seq 1000000 1400000\n")]);
    let output = rbuild.run(["build".as_ref(), "--progress=plain".as_ref(), context.as_os_str()]);
    let said = support::text(&output.stderr);
    let is_number =
        |line: &&str| line.rsplit(' ').next().is_some_and(|word| word.len() == 7 && word.parse::<u32>().is_ok());
    assert_eq!(said.lines().filter(is_number).count(), 1 + 400_001);
}

#[test]
fn variables_given_to_run_replace_the_images() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nENV A=image B=image\nCMD env\n")]);
    rbuild.ok(["-t".as_ref(), "app".as_ref(), context.as_os_str()]);
    let mut command = rbuild.command(["run", "-e", "A=given", "-e", "HERE", "-e", "NOWHERE", "app"]);
    let printed = support::text(&command.env("HERE", "taken").output().unwrap().stdout);
    let mut named: Vec<&str> = printed.lines().filter(|l| ["A", "B", "H", "N"].contains(&&l[..1])).collect();
    named.sort_unstable();
    assert_eq!(named, ["A=given", "B=image", "HERE=taken", "HOME=/root"]);
}

#[test]
fn names_can_be_given_and_taken() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    rbuild.ok(["tag", "busybox", "mine:2"]);
    let listed = rbuild.ok(["images"]);
    assert!(listed.contains("mine") && listed.contains("busybox"), "{listed}");
    rbuild.ok(["rmi", "mine:2"]);
    assert!(!rbuild.ok(["images"]).contains("mine"));
    assert!(rbuild.fails(1, ["inspect", "mine:2"]).contains("mine:2"));
    assert!(rbuild.fails(2, ["tag", "busybox", "NOT A NAME"]).contains("NOT A NAME"));
}

#[test]
fn odd_names_and_files_survive() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM scratch\nCOPY in /out\n"), ("in/", "")]);
    let odd: &[&[u8]] = &[b"with space", b"new\nline", b"\xff\xfe", b"-dash", b"quote\"'", b".hidden", b"\\back"];
    for name in odd {
        fs::write(context.join("in").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    symlink("nowhere", context.join("in/dangling")).unwrap();
    fs::hard_link(context.join("in/with space"), context.join("in/linked")).unwrap();
    let tree = rbuild.tree(&context, &[]);
    for name in odd {
        let at = tree.0.join("out").join(std::ffi::OsStr::from_bytes(name));
        assert_eq!(&fs::read(&at).unwrap(), name, "{}", at.display());
    }
    assert_eq!(fs::read_link(tree.0.join("out/dangling")).unwrap().as_os_str(), "nowhere");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(tree.0.join("out/linked")).unwrap().nlink(), 2);
}

#[test]
fn ten_thousand_files_are_copied() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM scratch\nCOPY in /out\n")]);
    for dir in 0..100 {
        let at = context.join(format!("in/{dir}"));
        fs::create_dir_all(&at).unwrap();
        for file in 0..100 {
            fs::write(at.join(file.to_string()), format!("{dir}/{file}")).unwrap();
        }
    }
    let tree = rbuild.tree(&context, &[]);
    assert_eq!(tree.read("/out/99/99"), "99/99");
    let files_of = |dir: std::io::Result<fs::DirEntry>| fs::read_dir(dir.unwrap().path()).unwrap().count();
    assert_eq!(fs::read_dir(tree.0.join("out")).unwrap().map(files_of).sum::<usize>(), 10_000);
}

#[test]
fn special_files_in_the_context_never_hang() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM scratch\nCOPY in /out\n"), ("in/file", "1")]);
    let _socket = std::os::unix::net::UnixListener::bind(context.join("in/socket")).unwrap();
    let tree = rbuild.tree(&context, &[]);
    assert!(tree.has("/out/file") && !tree.has("/out/socket"));
    let special = |name: &str, kind| {
        rustix::fs::mknodat(rustix::fs::CWD, context.join(name), kind, 0o644.into(), 0).unwrap();
    };
    special("in/fifo", rustix::fs::FileType::Fifo);
    let copied = rbuild.tree(&context, &[]).0.join("out/fifo");
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&fs::symlink_metadata(copied).unwrap().file_type()));
    special("in/device", rustix::fs::FileType::CharacterDevice);
    let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
    assert!(said.contains("in/device is a character device"), "{said}");
}

#[test]
fn a_failed_step_shows_its_last_lines_and_code() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context =
        rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN true\nRUN echo the reason >&2; exit 42\nRUN true\n")]);
    let said = rbuild.fails(1, ["--progress=plain".as_ref(), context.as_os_str()]);
    for part in ["the reason", "exit code: 42", "Dockerfile:3", ">>> RUN echo the reason", "ERROR"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert!(rbuild.ok(["images"]).lines().count() <= 2, "nothing half-made is listed");
}

#[test]
fn every_bad_input_names_its_line() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    for (dockerfile, wants) in [
        ("", &["the Dockerfile cannot be empty"][..]),
        ("FROM busybox\nRUNN true\n", &["Dockerfile:2", "unknown instruction: RUNN", "RUN"]),
        ("FROM busybox\nCOPY --frmo=x a b\n", &["Dockerfile:2", "frmo", "from"]),
        ("FROM busybox\nCOPY missing /\n", &["Dockerfile:2", "/missing", "not found"]),
        ("FROM busybox AS base\nFROM bse\nRUN true\n", &["Dockerfile:2", "bse"]),
        ("FROM busybox AS build\nFROM busybox\nCOPY --from=buidl /a /b\n", &["Dockerfile:3", "buidl"]),
        ("FROM busybox\nUSER nobody-here\nRUN true\n", &["Dockerfile:3", "nobody-here"]),
        ("FROM busybox\nRUN [\"/no/such/program\"]\n", &["Dockerfile:2", "/no/such/program"]),
        ("FROM busybox\nEXPOSE nothing\n", &["Dockerfile:2", "nothing"]),
        ("FROM busybox\nCOPY --chmod=9999 a /\n", &["Dockerfile:2", "9999"]),
        ("FROM --platform=linux/s390x busybox\n", &["Dockerfile:1", "is for linux/", "not for linux/s390x"]),
    ] {
        let context = rbuild.context("bad", &[("Dockerfile", dockerfile), ("a", "1")]);
        let said = rbuild.fails(1, ["--progress=plain".as_ref(), context.as_os_str()]);
        for want in wants {
            assert!(said.contains(want), "{dockerfile:?}: no {want:?} in\n{said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
    let context = rbuild.context("none", &[("a", "1")]);
    let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
    assert!(said.contains("failed to read dockerfile: open Dockerfile: no such file or directory"), "{said}");
    assert!(rbuild.fails(1, ["build", "/no/such/dir"]).contains("/no/such/dir"));
    let context = rbuild.context("tag", &[("Dockerfile", "FROM busybox\n")]);
    let said = rbuild.fails(2, ["-t".as_ref(), "Not:A:Tag".as_ref(), context.as_os_str()]);
    assert!(said.contains("Not:A:Tag"), "{said}");
    let said = rbuild.fails(1, ["--target=nope".as_ref(), context.as_os_str()]);
    assert!(said.contains("target stage \"nope\" could not be found"), "{said}");
}

#[test]
fn misuse_of_the_command_line_is_code_two() {
    let rbuild = Rbuild::empty();
    for words in [
        &["--no-such-option", "."][..],
        &["build"],
        &["inspect"],
        &["build", "a", "b"],
        &["-o", "type=zip", "."],
        &["-o", "-", "-o", "type=oci", "."],
    ] {
        let said = rbuild.fails(2, words);
        assert!(said.contains("error:"), "{said}");
    }
}

#[test]
fn quiet_prints_the_image_id_and_nothing_else() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN echo noise\n")]);
    let (id, metadata) = (rbuild.path("id"), rbuild.path("metadata.json"));
    let iidfile = format!("--iidfile={}", id.display());
    let metadata_file = format!("--metadata-file={}", metadata.display());
    let output = rbuild.run(["-q", "-t", "app", "-t", "app:two", &iidfile, &metadata_file, context.to_str().unwrap()]);
    let printed = support::text(&output.stdout);
    assert!(output.status.success() && printed.starts_with("sha256:") && printed.lines().count() == 1, "{output:?}");
    assert_eq!(fs::read_to_string(id).unwrap(), printed.trim());
    let written: serde_json::Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    assert_eq!(written["containerimage.config.digest"], printed.trim());
    assert!(written["containerimage.digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(written["image.name"], "docker.io/library/app:latest,docker.io/library/app:two");
    assert_eq!(support::text(&output.stderr), "", "all is well, so nothing is said");
}

#[test]
fn an_id_never_stands_in_an_archive() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let output = rbuild.run(["-q", "-t", "app", "-o", "-", context.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.ends_with(&[0; 1024]), "the end of a tar archive");
    assert!(support::text(&output.stderr).starts_with("sha256:"));
}

#[test]
fn an_image_output_can_name_the_image() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    rbuild.ok(["-q", "-o", "type=image,\"name=one,two:2\"", "-t", "three", context.to_str().unwrap()]);
    rbuild.ok(["inspect", "one", "two:2", "three"]);
}

#[test]
fn an_id_file_is_never_that_of_another_build() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN false\n")]);
    fs::write(rbuild.path("id"), "stale").unwrap();
    rbuild.fails(1, ["build", "--iidfile=id", context.to_str().unwrap()]);
    assert!(!rbuild.path("id").exists());
}

#[test]
fn files_about_the_result_may_be_devices() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let null = rbuild.path("null");
    let device = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &null, rustix::fs::FileType::CharacterDevice, mode, device).unwrap();
    symlink("null", rbuild.path("link")).unwrap();
    rbuild.ok(["build", "--iidfile=link", "--metadata-file=null", context.to_str().unwrap()]);
    assert!(fs::symlink_metadata(rbuild.path("link")).unwrap().is_symlink());
    assert_eq!(fs::read(null).unwrap(), b"", "it is still a device");
}

#[test]
fn output_that_nobody_takes_is_no_bug() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = rbuild.command(["images"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(support::text(&output.stderr), "ERROR: write to standard output: no space left on device\n");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = rbuild.command(["images"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), support::text(&output.stderr).as_str()), (Some(1), ""));
    let status = rbuild.command(["build", "no-such-directory"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn an_empty_variable_is_as_none() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let mut command = rbuild.command(["-q".as_ref(), context.as_os_str()]);
    let output = command.env("BUILDKIT_PROGRESS", "").env("DOCKER_DEFAULT_PLATFORM", "").output().unwrap();
    assert!(output.status.success(), "{}", support::text(&output.stderr));
}

#[test]
fn without_network_there_is_only_loopback() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nRUN --network=none ls /sys/class/net > /interfaces\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    assert_eq!(rbuild.tree(&context, &[]).read("/interfaces"), "lo\n");
}

#[test]
fn the_hosts_network_needs_an_entitlement() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN --network=host true\n")]);
    let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
    assert!(said.contains("network.host") && said.contains("--allow"), "{said}");
    rbuild.ok(["--allow".as_ref(), "network.host".as_ref(), context.as_os_str()]);
}

#[test]
fn the_demonstration_of_the_readme_works() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::empty();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo.sh");
    let mut command = std::process::Command::new(script);
    let output = command.arg(env!("CARGO_BIN_EXE_rbuild")).env("RBUILD_ROOT", rbuild.root()).output().unwrap();
    let (out, err) = (support::text(&output.stdout), support::text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("HELLO FROM") && out.contains("version 1.0"), "{out}\n{err}");
    let second = err.rsplit("load build definition").next().unwrap();
    assert_eq!(second.matches("CACHED").count(), 6, "{second}");
}

#[test]
fn what_makes_no_sense_by_itself_is_misuse_and_what_cannot_be_done_is_not() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\n")]);
    let path = context.to_str().unwrap();
    for (code, args) in [
        (2, &["-t", "Not:A:Tag"][..]),
        (2, &["--ssh", "=socket"]),
        (2, &["--ssh", "default=a,b,raw=true"]),
        (2, &["--build-arg", "SOURCE_DATE_EPOCH=-1"]),
        (1, &["--build-arg", "SOURCE_DATE_EPOCH=soon"]),
        (2, &["--platform", "linux/"]),
        (2, &["-o", "type=zip"]),
        (1, &["--ssh", "default=/no/such/socket"]),
        (1, &["--secret", "id=x,src=/no/such/file"]),
    ] {
        rbuild.fails(code, ["build"].iter().chain(args).chain([&path]));
    }
    // An archive without a destination goes where the shell leads it.
    let archive = rbuild.run(["build", "-o", "type=docker", path]);
    assert!(archive.status.success(), "{}", text(&archive.stderr));
    assert!(tar::Archive::new(&archive.stdout[..])
        .entries()
        .unwrap()
        .any(|entry| { entry.unwrap().path().unwrap() == Path::new("manifest.json") }));
}
