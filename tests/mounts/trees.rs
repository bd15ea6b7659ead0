//! `type=bind` and `type=tmpfs`: what is shown, and what becomes of what is written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::{can_build, Rbuild};
use crate::{fails, tree, UUID};

#[test]
fn no_link_leads_out_of_a_mount_source() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let canary = rbuild.path("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "the host's").unwrap();
    let outside = canary.display();
    // Absolute, by `..`, through the kernel's links, and in the middle of a path.
    let links = format!(
        "ln -s {outside} /d/abs; ln -s ../../../../../../../../../../..{outside} /d/up; ln -s /proc/self/root{outside} \
         /d/magic; ln -s / /d/root; ln -s /proc/1/cwd /d/cwd"
    );
    for source in ["/d/abs", "/d/up", "/d/magic", "/d/cwd", "/d/root/../../../..{outside}", "../../../../..{outside}"] {
        let source = source.replace("{outside}", &outside.to_string());
        for kind in ["cache,target=/m", "bind,target=/m", "bind,target=/m,rw"] {
            let dockerfile = format!(
                "FROM busybox AS base\nRUN mkdir /d; {links}\nFROM busybox\n\
                 RUN --mount=type={kind},from=base,source={source} cp /m/file /got\n"
            );
            let said = fails(&rbuild, &dockerfile, &[]);
            assert!(!said.contains("panicked"), "{said}");
        }
    }
    // A link inside a cache is the step's own business: it is followed in the step's root, or not at all.
    let dockerfile = format!(
        "FROM busybox\nRUN --mount=type=cache,target=/c ln -s {outside} /c/link\n\
         RUN --mount=type=cache,target=/c cat /c/link/file > /got || echo none > /got\n\
         RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/c/link/deep touch /c/link/deep/f; ls {outside} > /own\n"
    );
    let tree = tree(&rbuild, &dockerfile, &[]);
    assert_eq!(tree.read("/got"), "none\n");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1, "nothing was made on the host");
}

#[test]
fn tmpfs_is_small_and_forgotten() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = r#"FROM busybox
RUN --mount=type=tmpfs,target=/t,size=1m df -k /t | tail -1 | awk '{print $2}' > /size; \
    dd if=/dev/zero of=/t/f bs=64k count=32 2>/dev/null && echo fits > /fits; stat -c %a /t > /mode; true
RUN --mount=type=tmpfs,target=/t ls /t > /left; mount | grep ' /t ' > /mount
RUN --mount=type=tmpfs,target=/etc echo x > /etc/new; ls /etc > /etc.txt
"#;
    let tree = tree(&rbuild, dockerfile, &[]);
    assert_eq!((tree.read("/size"), tree.read("/left")), ("1024\n".into(), String::new()));
    assert_eq!(tree.read("/mode"), "1777\n");
    assert!(!tree.has("/fits") && !tree.has("/t") && !tree.has("/etc/new"));
    assert!(tree.read("/mount").contains("nosuid") && tree.has("/etc/passwd"));
}

#[test]
fn shared_memory_and_limits_are_as_asked() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nRUN df -k /dev/shm | tail -1 | awk '{print $2}' > /shm; ulimit -n > /soft; \
                      ulimit -Hn > /hard; grep -w db /etc/hosts > /hosts\n";
    let args = ["--shm-size=3m", "--ulimit=nofile=100:200", "--add-host=db:10.0.0.2"];
    let tree = tree(&rbuild, dockerfile, &args);
    assert_eq!((tree.read("/shm"), tree.read("/soft")), ("3072\n".into(), "100\n".into()));
    assert_eq!((tree.read("/hard"), tree.read("/hosts")), ("200\n".into(), "10.0.0.2\tdb\n".into()));
    for (args, want) in [("--shm-size=x", "--shm-size x"), ("--ulimit=nofile", "nofile")] {
        assert!(rbuild.fails(2, ["build", args, "c"]).contains(want));
    }
}

#[test]
fn trees_are_bound_read_only_or_thrown_away() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = r#"
FROM busybox AS base
RUN mkdir -p /d/deep && echo one > /d/deep/f && ln -s deep/f /d/link
FROM busybox
RUN --mount=target=/src ls /src > /all; echo x > /src/new || echo refused > /ro
RUN --mount=target=/src,rw echo x > /src/new && rm /src/a && ls /src > /rw
RUN --mount=target=/src ls /src > /still
RUN --mount=source=sub,target=/src cat /src/f > /sub
RUN --mount=source=sub/f,target=/src/as/file cat /src/as/file > /file
RUN --mount=source=link,target=/l cat /l > /linked
RUN --mount=from=base,source=/d,target=/m cat /m/deep/f /m/link > /stage
RUN --mount=from=base,source=/d/link,target=/m cat /m > /stagefile
RUN --mount=from=base,source=/d,target=/m,rw echo two > /m/deep/f; cat /m/deep/f > /changed
RUN --mount=from=base,source=/d,target=/m cat /m/deep/f > /unchanged
RUN --mount=from=busybox,source=/etc/passwd,target=/m wc -l < /m > /image
"#;
    let files = [
        ("Dockerfile", dockerfile),
        (".dockerignore", "ignored\nDockerfile\n.dockerignore\n"),
        ("a", "1"),
        ("ignored", "no"),
        ("sub/f", "in sub\n"),
    ];
    let context = rbuild.context("c", &files);
    symlink("sub/f", context.join("link")).unwrap();
    let tree = rbuild.tree(&context, &[]);
    for (path, want) in [
        ("/all", "a\nlink\nsub\n"),
        ("/ro", "refused\n"),
        ("/rw", "link\nnew\nsub\n"),
        ("/still", "a\nlink\nsub\n"),
        ("/sub", "in sub\n"),
        ("/file", "in sub\n"),
        ("/linked", "in sub\n"),
        ("/stage", "one\none\n"),
        ("/stagefile", "one\n"),
        ("/changed", "two\n"),
        ("/unchanged", "one\n"),
        ("/image", "2\n"),
    ] {
        assert_eq!(tree.read(path), want, "{path}");
    }
    assert!(context.join("a").exists() && !context.join("new").exists(), "the caller's directory is as it was");
    assert!(!tree.has("/src"), "a mount point is no part of the result");
    let said = fails(&rbuild, "FROM busybox\nRUN --mount=source=nowhere,target=/m true\n", &[]);
    assert!(said.contains("nowhere") && said.contains("not found"), "{said}");
}

#[test]
fn only_what_a_bind_shows_makes_a_step_run_again() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\nRUN --mount=source=sub,target=/s {UUID} > /id\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("sub/f", "1"), ("other", "1")]);
    let first = rbuild.tree(&context, &[]).read("/id");
    fs::write(context.join("other"), "2").unwrap();
    assert_eq!(first, rbuild.tree(&context, &[]).read("/id"));
    fs::write(context.join("sub/f"), "2").unwrap();
    assert_ne!(first, rbuild.tree(&context, &[]).read("/id"));
}

#[test]
fn a_bind_copies_only_its_part_of_the_context_and_once() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let steps: String = (0..3).map(|n| format!("RUN --mount=source=sub,target=/s cat /s/f > /{n}\n")).collect();
    let dockerfile = format!("FROM busybox\n{steps}");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("sub/f", "mounted"), ("big", "unmounted")]);
    rbuild.tree(&context, &[]);
    let in_store = |content: &str| {
        let files = files_below(&rbuild.root().join("snapshots"));
        files
            .into_iter()
            .filter(|path| path.ends_with("f") || path.ends_with("big"))
            .filter(|path| fs::read(path).is_ok_and(|bytes| bytes == content.as_bytes()))
            .count()
    };
    assert_eq!((in_store("mounted"), in_store("unmounted")), (1, 0));
}

/// All regular files below a directory.
pub fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}
