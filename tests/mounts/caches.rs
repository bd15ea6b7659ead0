//! `type=cache`: what survives, who shares it, who waits.

use std::fs;
use std::process::Stdio;

use crate::support::{self, can_build, text, until, Rbuild};
use crate::{fails, tree};

#[test]
fn a_cache_survives_builds_until_it_is_pruned() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let count = |round: u32| {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,target=/cache echo {round} >> /cache/log; cp /cache/log /log\n"
        );
        let tree = tree(&rbuild, &dockerfile, &[]);
        assert!(!tree.has("/cache/log"), "the cache is not in the result");
        tree.read("/log")
    };
    assert_eq!(count(1), "1\n");
    assert_eq!(count(2), "1\n2\n");
    assert_eq!(count(2), "1\n2\n", "its content does not make a step run again");
    assert_eq!(count(3), "1\n2\n3\n");
    rbuild.ok(["prune"]);
    assert_eq!(count(4), "1\n2\n3\n4\n");
    rbuild.ok(["prune", "--all"]);
    assert_eq!(count(5), "5\n");
    rbuild.ok(["fsck"]);
}

#[test]
fn caches_are_told_apart_by_id_and_namespace() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let one = "FROM busybox\nARG ROUND\nRUN --mount=type=cache,target=/a touch /a/a; ls /a > /list\n";
    assert_eq!(tree(&rbuild, one, &[]).read("/list"), "a\n");
    // A relative target counts from WORKDIR, and the id is the target as it is written.
    for (mount, target, want) in [
        ("id=/a,target=/elsewhere", "/elsewhere", "a\n"),
        ("id=other,target=/elsewhere", "/elsewhere", ""),
        ("id=../../../../etc,target=/elsewhere", "/elsewhere", ""),
        ("target=a", "/w/a", ""),
        ("id=/a,target=a", "/w/a", "a\n"),
    ] {
        let dockerfile =
            // Which cache it is makes no step run again, so the command differs too.
            format!("FROM busybox\nWORKDIR /w\nRUN --mount=type=cache,{mount} ls {target} > /list # {mount}\n");
        assert_eq!(tree(&rbuild, &dockerfile, &[]).read("/list"), want, "{mount}");
    }
    let apart = tree(&rbuild, one, &["--build-arg=ROUND=2", "--build-arg=BUILDKIT_CACHE_MOUNT_NS=mine", "--no-cache"]);
    assert_eq!(apart.read("/list"), "a\n");
    let listed = rbuild.ok(["du"]);
    assert!(listed.contains(" mine//a") && listed.contains(" //a"), "{listed}");
}

#[test]
fn a_cache_begins_as_its_mount_says() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = r#"
FROM busybox AS base
RUN mkdir -p /d/deep && echo one > /d/deep/f && chown 7:8 /d/deep && chmod 0751 /d/deep && echo two > /g \
    && ln -s deep /d/link
FROM busybox
RUN --mount=type=cache,target=/plain stat -c '%a %u %g' /plain > /plain.txt
RUN --mount=type=cache,target=/owned,uid=1000,gid=1001,mode=0700 stat -c '%a %u %g' /owned > /owned.txt
RUN --mount=type=cache,target=/m,from=base,source=/d/deep stat -c '%a %u %g' /m > /m.txt; cat /m/f >> /m.txt; \
    echo more >> /m/f
RUN --mount=type=cache,target=/again,id=/m,from=base,source=d/./deep/ cat /again/f > /again.txt
RUN --mount=type=cache,target=/m,from=base,source=/d cat /m/deep/f > /other.txt
RUN --mount=type=cache,target=/m,from=base,source=/d/link cat /m/f > /link.txt
RUN --mount=type=cache,target=/file,from=base,source=/g cat /file > /file.txt; echo three >> /file
RUN --mount=type=cache,target=/ro,id=/m,from=base,source=/d/deep,ro echo x > /ro/f || cat /ro/f > /ro.txt
RUN --mount=type=cache,target=/file,from=base,source=/g cat /file > /file2.txt
USER builder
RUN --mount=type=cache,target=/owned,uid=1000,gid=1001,mode=0700 touch /owned/mine
"#;
    let tree = tree(&rbuild, dockerfile, &[]);
    for (path, want) in [
        ("/plain.txt", "755 0 0\n"),
        ("/owned.txt", "700 1000 1001\n"),
        ("/m.txt", "751 7 8\none\n"),
        ("/again.txt", "one\nmore\n"),
        ("/other.txt", "one\n"),
        ("/link.txt", "one\n"),
        ("/file.txt", "two\n"),
        ("/file2.txt", "two\nthree\n"),
        ("/ro.txt", "one\nmore\n"),
    ] {
        assert_eq!(tree.read(path), want, "{path}");
    }
    for target in ["/m", "/again", "/file", "/ro", "/plain"] {
        assert!(!tree.has(target), "{target}: a mount point is no part of the result");
    }
    for (mount, want) in [("from=base,source=/none", "/none"), ("source=/none", "/none")] {
        let dockerfile = format!("FROM busybox AS base\nFROM busybox\nRUN --mount=type=cache,target=/m,{mount} true\n");
        let said = fails(&rbuild, &dockerfile, &[]);
        assert!(said.contains(want) && said.contains("not found"), "{said}");
    }
}

#[test]
fn no_cache_empties_a_cache_once() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    for sharing in ["shared", "private", "locked"] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} echo one >> /c/log\n\
             RUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} echo two >> /c/log; cp /c/log /log\n"
        );
        for _ in 0..2 {
            let log = tree(&rbuild, &dockerfile, &["--no-cache"]).read("/log");
            assert_eq!(log, "one\ntwo\n", "{sharing}: what the build's own steps put there stays");
        }
    }
}

/// Builds the same Dockerfile in four processes at once, each with another `N`, and gives their trees.
fn four_at_once(rbuild: &Rbuild, dockerfile: &str) -> Vec<support::Tree> {
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let builds: Vec<_> = (0..4)
        .map(|number| {
            let dest = rbuild.path(&format!("tree-{number}"));
            let output = format!("type=local,dest={}", dest.display());
            let arg = format!("--build-arg=N={number}");
            let mut command = rbuild.command(["build", "-o", &output, &arg, context.to_str().unwrap()]);
            (command.stderr(Stdio::piped()).spawn().unwrap(), dest)
        })
        .collect();
    let ended = builds.into_iter().map(|(build, dest)| {
        let output = build.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        support::Tree(dest)
    });
    ended.collect()
}

#[test]
fn a_shared_cache_is_had_at_once() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    // Each waits until it sees the files of all others.
    let dockerfile = "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,sharing=shared touch /c/$N; \
                      for i in $(seq 600); do [ $(ls /c | wc -l) = 4 ] && touch /met && exit; sleep 0.1; done; exit 1\n";
    for tree in four_at_once(&rbuild, dockerfile) {
        assert!(tree.has("/met"));
    }
}

#[test]
fn a_locked_cache_is_had_one_after_the_other() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    // Reading, waiting and writing would lose counts if two did it at once.
    let dockerfile = "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,sharing=locked for i in $(seq 10); do \
                      n=$(cat /c/n || echo 0); sleep 0.02; echo $((n + 1)) > /c/n; done; cp /c/n /n\n";
    let mut counts: Vec<u32> =
        four_at_once(&rbuild, dockerfile).iter().map(|tree| tree.read("/n").trim().parse().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [10, 20, 30, 40]);
}

#[test]
fn a_private_cache_is_had_alone_and_later_again() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let meeting = "for i in $(seq 600); do [ $(ls /meet | wc -l) = 4 ] && break; sleep 0.1; done";
    let dockerfile = format!(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c,sharing=private --mount=type=cache,target=/meet \
         echo $N >> /c/log; touch /meet/$N; {meeting}; cp /c/log /log; ls /meet | wc -l > /met\n"
    );
    for (number, tree) in four_at_once(&rbuild, &dockerfile).into_iter().enumerate() {
        assert_eq!((tree.read("/met").trim(), tree.read("/log")), ("4", format!("{number}\n")));
    }
    let later = "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=private cp /c/log /log\n";
    assert_eq!(tree(&rbuild, later, &[]).read("/log").lines().count(), 1, "one of the four is free again");
}

#[test]
fn waiting_for_a_locked_cache_takes_no_slot_and_can_be_stopped() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let holder = rbuild.context(
        "holder",
        &[("Dockerfile", "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked touch /c/held; sleep 1000\n")],
    );
    let mut held = rbuild.command(["build".as_ref(), holder.as_os_str()]).stderr(Stdio::null()).spawn().unwrap();
    let is_held = || {
        let mounts = fs::read_dir(rbuild.root().join("mounts")).into_iter().flatten();
        mounts.flatten().any(|home| home.path().join("fs/held").exists())
    };
    until("the cache is held", is_held);
    // With one slot, the second stage runs only if the first does not hold it while it waits.
    let waiter = rbuild.context(
        "waiter",
        &[(
            "Dockerfile",
            "FROM busybox AS waits\nRUN --mount=type=cache,target=/c,sharing=locked true\n\
             FROM busybox AS free\nRUN --mount=type=cache,target=/free touch /free/ran\n\
             FROM scratch\nCOPY --from=waits /bin/sh /a\nCOPY --from=free /bin/sh /b\n",
        )],
    );
    let mut waits = rbuild
        .command(["build".as_ref(), "--jobs=1".as_ref(), waiter.as_os_str()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ran = || {
        let mounts = fs::read_dir(rbuild.root().join("mounts")).into_iter().flatten();
        mounts.flatten().any(|home| home.path().join("fs/ran").exists())
    };
    until("the other stage ran", ran);
    assert!(waits.try_wait().unwrap().is_none(), "the first stage still waits");
    let stop = |child: &std::process::Child| {
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    };
    stop(&waits);
    assert_eq!(waits.wait().unwrap().code(), Some(130));
    stop(&held);
    assert_eq!(held.wait().unwrap().code(), Some(130));
    rbuild.ok(["build".as_ref(), waiter.as_os_str()]);
}

#[test]
fn one_step_may_mount_a_cache_twice() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    for (one, two) in [("shared", "locked"), ("locked", "locked"), ("private", "shared"), ("private", "private")] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,id={one}{two},target=/a,sharing={one} \
             --mount=type=cache,id={one}{two},target=/b,sharing={two} echo x > /a/f; cp /b/f /f\n"
        );
        assert_eq!(tree(&rbuild, &dockerfile, &[]).read("/f"), "x\n", "{one} {two}");
    }
}
