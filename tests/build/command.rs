//! The command: its exit codes, what it prints, the files it writes about a result.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{can_build, text, Rbuild};

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
        (
            "FROM busybox\nLABEL a=$NOPE\nEXPOSE nothing\n",
            &["Dockerfile:3", "nothing", "UndefinedVar: Usage of undefined variable '$NOPE' (line 2)"],
        ),
        ("FROM busybox\nCOPY <<a/b /x\nhi\na/b\n", &["Dockerfile:2", "invalid name of a here-document's file"]),
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
    let printed = text(&output.stdout);
    assert!(output.status.success() && printed.starts_with("sha256:") && printed.lines().count() == 1, "{output:?}");
    assert_eq!(fs::read_to_string(id).unwrap(), printed.trim());
    let written: serde_json::Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    assert_eq!(written["containerimage.config.digest"], printed.trim());
    assert!(written["containerimage.digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(written["image.name"], "docker.io/library/app:latest,docker.io/library/app:two");
    assert_eq!(text(&output.stderr), "", "all is well, so nothing is said");
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
    assert!(text(&output.stderr).starts_with("sha256:"));
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
    assert_eq!(text(&output.stderr), "ERROR: write to standard output: no space left on device\n");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = rbuild.command(["images"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), ""));
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
    assert!(output.status.success(), "{}", text(&output.stderr));
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
    let (out, err) = (text(&output.stdout), text(&output.stderr));
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
