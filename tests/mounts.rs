//! `RUN --mount` of every type, from the outside.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use support::agent::{import_ssh, Agent};
use support::{can_build, text, until, Rbuild};

/// A step that leaves a different file each time it really runs.
const UUID: &str = "cat /proc/sys/kernel/random/uuid";

/// The tree that a Dockerfile makes without a context of its own.
fn tree(rbuild: &Rbuild, dockerfile: &str, args: &[&str]) -> support::Tree {
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    rbuild.tree(&context, args)
}

/// What a Dockerfile that cannot be built says.
fn fails(rbuild: &Rbuild, dockerfile: &str, args: &[&str]) -> String {
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let mut all: Vec<&OsStr> = vec!["build".as_ref(), "--progress=plain".as_ref()];
    all.extend(args.iter().map(OsStr::new));
    all.push(context.as_os_str());
    rbuild.fails(1, all)
}

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
fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
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

/// 32 random bytes as text, and the forms in which they could leak.
fn canary() -> (String, Vec<String>) {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let value = hex::encode(bytes);
    // Base64 has three forms, by where the value begins; what differs at the ends is cut off.
    let base64 = (0..3).map(|shift| {
        let shifted = [vec![b'.'; shift], value.clone().into_bytes()].concat();
        base64::engine::general_purpose::STANDARD.encode(shifted)[4..40].to_string()
    });
    let forms = base64.chain([value.clone(), hex::encode(&value)]).collect();
    (value, forms)
}

/// Whether some bytes have any of these texts in them.
fn has_any(bytes: &[u8], forms: &[String]) -> bool {
    forms.iter().any(|form| bytes.windows(form.len()).any(|window| window == form.as_bytes()))
}

#[test]
fn a_canary_is_seen_in_all_its_forms() {
    let (value, forms) = canary();
    let base64 = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let shown = [
        format!("x{value}y"),
        base64(value.clone()),
        base64(format!("TOKEN={value}\n")),
        base64(format!("ab{value}")),
        hex::encode(&value),
    ];
    for shown in shown {
        assert!(has_any(shown.as_bytes(), &forms), "{shown}");
    }
    assert!(!has_any(&value.as_bytes()[1..], &forms));
}

#[test]
fn a_secret_is_in_its_step_and_nowhere_else() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let (value, forms) = canary();
    fs::write(rbuild.path("secret"), &value).unwrap();
    let dockerfile = r#"FROM busybox
RUN --mount=type=secret,id=file,required sha256sum < /run/secrets/file > /sum; stat -c '%a %u %g' /run/secrets/file > /stat; \
    mount | grep /run/secrets/file > /mount; echo x > /run/secrets/file || echo refused > /refused; sleep 2
RUN --mount=type=secret,id=file,env=TOKEN,required printf %s "$TOKEN" | sha256sum > /envsum; sleep 2
RUN --mount=type=secret,id=file,target=/a/b,mode=0444,uid=1000,gid=1001 stat -c '%a %u %g' /a/b > /stat2
RUN --mount=type=secret,id=file,target=relative,env=BOTH [ "$BOTH" = "$(cat /relative)" ] && touch /both
RUN ls /run/secrets /a > /after 2>&1; env > /env; true
"#;
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let archive = rbuild.path("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let secret = format!("--secret=id=file,src={}", rbuild.path("secret").display());
    let context = context.to_str().unwrap();
    let mut build = rbuild
        .command(["build", "--progress=rawjson", &secret, "-t", "app", "-o", &output, context])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut looked = 0;
    while build.try_wait().unwrap().is_none() {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let of = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
            let status = text(&of("status"));
            let ids = status.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
            // The step's own processes, three namespaces deep, have what they were given.
            let in_step = ids.split_whitespace().count() > 3;
            looked += usize::from(in_step);
            assert!(!has_any(&of("cmdline"), &forms), "{status}");
            assert!(in_step || !has_any(&of("environ"), &forms), "{status}");
        }
        for file in files_below(&rbuild.root()) {
            assert!(!has_any(&fs::read(&file).unwrap_or_default(), &forms), "{}", file.display());
        }
    }
    let said = build.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(looked > 0, "the step was seen");
    assert!(!has_any(&said.stdout, &forms) && !has_any(&said.stderr, &forms));
    for file in files_below(&rbuild.root()) {
        assert!(!has_any(&fs::read(&file).unwrap(), &forms), "{}", file.display());
    }
    let layout = rbuild.path("layout");
    fs::create_dir(&layout).unwrap();
    tar::Archive::new(fs::File::open(&archive).unwrap()).unpack(&layout).unwrap();
    for file in files_below(&layout) {
        let mut bytes = fs::read(&file).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let plain = std::process::Command::new("gzip").arg("-dc").stdin(fs::File::open(&file).unwrap()).output();
            bytes = plain.unwrap().stdout;
            assert!(bytes.len() > 1000, "a layer as an archive");
        }
        assert!(!has_any(&bytes, &forms), "{}", file.display());
    }
    // Another value of the same secret makes nothing run again, so this is what the steps above made.
    fs::write(rbuild.path("secret"), "another").unwrap();
    let tree = rbuild.tree(Path::new(context), &[&secret]);
    let sum = tree.read("/sum");
    assert_eq!(sum, tree.read("/envsum"));
    assert!(sum.starts_with(&sha256(&value)), "{sum}");
    assert_eq!((tree.read("/stat"), tree.read("/stat2")), ("400 0 0\n".into(), "444 1000 1001\n".into()));
    for option in ["ro,", "nosuid", "nodev", "noexec", "tmpfs"] {
        assert!(tree.read("/mount").contains(option), "{option}: {}", tree.read("/mount"));
    }
    assert!(tree.has("/refused") && tree.has("/both"));
    assert!(!tree.has("/run/secrets") && !tree.has("/a"));
    let after = tree.read("/after");
    assert!(after.contains("/run/secrets: No such file") && after.contains("/a: No such file"), "{after}");
    assert!(!tree.read("/env").contains("TOKEN"));
}

fn sha256(value: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(value))
}

#[test]
fn secrets_come_from_files_pipes_and_variables() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    fs::write(rbuild.path("named"), "a file").unwrap();
    fs::write(rbuild.path("with,comma"), "quoted").unwrap();
    let dockerfile = "FROM busybox\nARG ROUND\nRUN --mount=type=secret,id=s,required cp /run/secrets/s /copy\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let cases = [
        ("id=s,src=named", "a file"),
        ("type=file,id=s,source=named", "a file"),
        ("\"id=s\",\"src=with,comma\"", "quoted"),
        ("id=s,env=VARIABLE", "a variable"),
        ("type=env,id=s,src=VARIABLE", "a variable"),
        ("id=s,env=NOT_SET_ANYWHERE", ""),
        ("id=s", "by its name"),
    ];
    for (round, (secret, want)) in cases.into_iter().enumerate() {
        let dest = rbuild.path(&format!("out-{round}"));
        let words = ["build".into(), format!("--build-arg=ROUND={round}"), format!("--secret={secret}"), "-o".into()];
        let mut command = rbuild.command(words);
        command.arg(&dest).arg(&context).env("VARIABLE", "a variable").env("s", "by its name");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{secret}: {}", text(&output.stderr));
        assert_eq!(fs::read_to_string(dest.join("copy")).unwrap(), want, "{secret}");
    }
    let script = "\"$1\" build --build-arg=ROUND=pipe --secret id=s,src=<(printf piped) -o out-pipe c";
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_rbuild")]).current_dir(rbuild.dir.path());
    let output = command.env("RBUILD_ROOT", rbuild.root()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(rbuild.path("out-pipe/copy")).unwrap(), "piped");
}

#[test]
fn an_absent_secret_is_told_or_left_out() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let said = fails(&rbuild, "FROM busybox\nRUN --mount=type=secret,id=token,required true\n", &[]);
    for part in ["secret token: not found", "Dockerfile:2", "--secret id=token,src=FILE"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let said = fails(&rbuild, "FROM busybox\nRUN --mount=type=secret,id=token,env=T,required true\n", &[]);
    assert!(said.contains("secret token: not found"), "{said}");
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token ls /run/secrets > /list 2>&1 || true\n\
                      RUN --mount=type=secret,id=token,env=T echo \"${T-unset}\" > /t\n";
    let optional = tree(&rbuild, dockerfile, &[]);
    assert!(optional.read("/list").contains("No such file") && optional.read("/t") == "\n");
    let (value, forms) = canary();
    fs::write(rbuild.path("nul"), format!("{value}\0")).unwrap();
    fs::write(rbuild.path("big"), vec![b'x'; (500 << 10) + 1]).unwrap();
    fs::write(rbuild.path("most"), vec![b'x'; 500 << 10]).unwrap();
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=s,env=S true\n";
    let said = fails(&rbuild, dockerfile, &["--secret=id=s,src=nul"]);
    assert!(said.contains("NUL") && !has_any(said.as_bytes(), &forms), "{said}");
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s > /size\n";
    let said = fails(&rbuild, dockerfile, &["--secret=id=s,src=big"]);
    assert!(said.contains("500 KiB"), "{said}");
    assert_eq!(tree(&rbuild, dockerfile, &["--secret=id=s,src=most"]).read("/size"), "512000\n");
    assert!(fails(&rbuild, dockerfile, &["--secret=id=s,src=none"]).contains("none: no such file"));
    assert!(rbuild.fails(2, ["build", "--secret=id=s,file=x", "c"]).contains("unexpected key 'file'"));
}

#[test]
fn an_ssh_agent_is_forwarded_and_cannot_be_changed() {
    if !can_build() || !["ssh-agent", "ssh-add", "ssh-keygen"].iter().all(|program| support::have(program)) {
        return;
    }
    let rbuild = Rbuild::new();
    import_ssh(&rbuild);
    let (mine, other) = (Agent::start(&rbuild, "mine"), Agent::start(&rbuild, "other"));
    let dockerfile = r#"FROM ssh
RUN --mount=type=ssh,required echo "$SSH_AUTH_SOCK" > /path; stat -c '%F %a %u %g' "$SSH_AUTH_SOCK" > /stat; \
    for i in 1 2 3; do ssh-add -L; done > /keys; ssh-add -D 2> /removed; ssh-add -L > /still; ssh-add -x < /dev/null; true
RUN --mount=type=ssh,id=second,target=/agent --mount=type=ssh \
    ssh-add -L > /second; SSH_AUTH_SOCK=/run/buildkit/ssh_agent.1 ssh-add -L > /first
USER builder
RUN --mount=type=ssh,uid=1000,mode=0600 ssh-add -L > /tmp/builder
RUN --mount=type=ssh ssh-add -L > /tmp/refused 2>&1 || true
RUN --mount=type=ssh,id=none ls /run/buildkit > /tmp/absent 2>&1 || true
RUN ls /run/buildkit > /tmp/after 2>&1 || true
"#;
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let dest = rbuild.path("out");
    let second = format!("--ssh=second={}", other.socket.display());
    let mut command = rbuild.command(["build", "--ssh=default", &second, "-o"]);
    let output = command.arg(&dest).arg(&context).env("SSH_AUTH_SOCK", &mine.socket).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let tree = support::Tree(dest);
    for (path, want) in [
        ("/path", "/run/buildkit/ssh_agent.0\n"),
        ("/stat", "socket 600 0 0\n"),
        ("/keys", &mine.key.repeat(3)),
        ("/still", &mine.key),
        ("/second", &other.key),
        ("/first", &mine.key),
        ("/tmp/builder", &mine.key),
    ] {
        assert_eq!(tree.read(path), want, "{path}");
    }
    assert!(tree.read("/removed").contains("Failed"), "{}", tree.read("/removed"));
    assert!(tree.read("/tmp/refused").contains("Permission denied"), "{}", tree.read("/tmp/refused"));
    for path in ["/tmp/absent", "/tmp/after"] {
        assert!(tree.read(path).contains("No such file"), "{}", tree.read(path));
    }
    assert!(!tree.has("/run/buildkit") && !tree.has("/agent"));
    let left = fs::read_dir(rbuild.root().join("active")).unwrap().count();
    assert_eq!(left, 0, "no socket is left behind");
}

#[test]
fn an_absent_ssh_agent_is_told() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nRUN --mount=type=ssh,id=git,required true\n";
    let said = fails(&rbuild, dockerfile, &[]);
    for part in ["no SSH key \"git\" forwarded from the client", "Dockerfile:2", "--ssh git"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    fs::write(rbuild.path("key"), "").unwrap();
    let said = fails(&rbuild, dockerfile, &["--ssh=git=key"]);
    assert!(said.contains("keys from files are not supported yet") && said.contains("ssh-add key"), "{said}");
    let mut command = rbuild.command(["build", "--ssh=default", "c"]);
    let output = command.env_remove("SSH_AUTH_SOCK").output().unwrap();
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("SSH_AUTH_SOCK is not set"));
}
