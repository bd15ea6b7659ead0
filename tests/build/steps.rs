//! What steps do, see and leave in the image.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use crate::support::{can_build, text, Rbuild};

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
    assert_eq!(text(&output.stdout), "out\n");
    assert!(text(&output.stderr).contains("err\n"));
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
    let said = text(&output.stderr);
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
    let printed = text(&command.env("HERE", "taken").output().unwrap().stdout);
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
