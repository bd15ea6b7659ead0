//! What is mounted into a step, and that nothing of it stays behind.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rbuild::sandbox::{bind_source, Error, Exit, MountKind, MountSpec, ProcessSpec, User};
use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen, FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::support::{cannot_run, detached, output, Output, Root};

fn bind(dest: &str, source: &Path, read_only: bool) -> MountSpec {
    MountSpec { dest: dest.into(), kind: MountKind::Bind { source: detached(source), read_only } }
}

fn file(dest: &str, content: &str, mode: u32, owner: u32) -> MountSpec {
    let kind = MountKind::File { content: content.as_bytes().to_vec(), mode, uid: owner, gid: owner };
    MountSpec { dest: dest.into(), kind }
}

fn run_with(root: &Root, mounts: Vec<MountSpec>, script: &str) -> Output {
    let mut spec = root.shell(script);
    spec.mounts = mounts;
    output(spec).expect(script)
}

/// Everything in a directory: path, type and mode, size, mtime.
fn listing(dir: &Path) -> Vec<(String, u32, u64, i64, i64)> {
    fn walk(dir: &Path, base: &Path, into: &mut Vec<(String, u32, u64, i64, i64)>) {
        let meta = fs::symlink_metadata(dir).expect("metadata");
        let name = dir.strip_prefix(base).expect("below").display().to_string();
        into.push((name, meta.mode(), if meta.is_file() { meta.size() } else { 0 }, meta.mtime(), meta.mtime_nsec()));
        if meta.is_dir() {
            for entry in fs::read_dir(dir).expect("read_dir") {
                walk(&entry.expect("entry").path(), base, into);
            }
        }
    }
    let mut list = Vec::new();
    walk(dir, dir, &mut list);
    list.sort();
    list
}

#[test]
fn parents_are_mounted_before_what_lies_below() {
    if cannot_run() {
        return;
    }
    let (root, outer, inner) = (Root::new(), tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    fs::write(outer.path().join("o"), "outer").expect("write");
    fs::write(inner.path().join("i"), "inner").expect("write");
    let mounts = vec![bind("/a/b/c", inner.path(), false), bind("/a/b", outer.path(), false)];
    let output = run_with(&root, mounts, "cat /a/b/o /a/b/c/i; echo new > /a/b/c/n");
    assert_eq!(output.stdout, "outerinner");
    assert_eq!(fs::read_to_string(inner.path().join("n")).expect("written"), "new\n");
    assert!(!root.path("a").exists(), "the mount points made in the root are gone");
    assert!(outer.path().join("c").is_dir(), "one in a mount stays, for others may be using it");
}

#[test]
fn read_only_mounts_stay_read_only() {
    if cannot_run() {
        return;
    }
    let (root, dir) = (Root::new(), tempfile::tempdir().expect("dir"));
    let script = "touch /ro/x || mount -o remount,rw /ro || mount -o remount,bind,rw /ro || umount /ro || echo no";
    let output = run_with(&root, vec![bind("/ro", dir.path(), true)], script);
    assert_eq!(output.stdout, "no\n");
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 0);
    let mut spec = root.shell("touch /x; touch /w/x && echo yes");
    spec.read_only_root = true;
    spec.mounts = vec![bind("/w", dir.path(), false)];
    let output = crate::support::output(spec).expect("it starts");
    assert_eq!(output.stdout, "yes\n");
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
}

#[test]
fn devices_in_mounts_cannot_be_opened() {
    if cannot_run() {
        return;
    }
    let (root, dir) = (Root::new(), tempfile::tempdir().expect("dir"));
    let script = "mknod /m/null c 1 3 && (cat /m/null || echo denied) 2>/dev/null";
    assert_eq!(run_with(&root, vec![bind("/m", dir.path(), false)], script).stdout, "denied\n");
}

#[test]
fn secrets_are_files_in_memory() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mounts = vec![
        file("/run/secrets/token", "s3cret", 0o400, 1000),
        file("/run/secrets/tool", "#!/bin/sh\necho ran", 0o500, 0),
    ];
    let script = "cat /run/secrets/token; stat -c ' %a %u %g' /run/secrets/token; /run/secrets/tool
        chmod 777 /run/secrets/token || rm /run/secrets/token || (echo x > /run/secrets/token) || echo kept
        grep -c ' /run/secrets/token ro,nosuid,nodev,noexec' /proc/self/mountinfo";
    let output = run_with(&root, mounts, script);
    assert_eq!(output.stdout, "s3cret 400 1000 1000\nran\nkept\n1\n");
    assert!(!root.path("run").exists());
    assert_eq!(root.run("ls /run").stdout, "", "the next step does not see it");
}

#[test]
fn tmpfs_has_its_size_and_mode() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let kind = MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1777, read_only: false };
    let script = "stat -c %a /scratch; dd if=/dev/zero of=/scratch/x bs=1M count=2 2>/dev/null; stat -c %s /scratch/x";
    let output = run_with(&root, vec![MountSpec { dest: "/scratch".into(), kind }], script);
    assert_eq!(output.stdout, "1777\n1048576\n");
}

#[test]
fn image_is_as_before_when_the_step_changed_nothing() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    for name in ["etc/passwd", "etc/group"] {
        fs::remove_file(root.path(name)).expect(name);
    }
    for name in ["etc", "proc", "dev", "sys"] {
        fs::remove_dir(root.path(name)).expect(name);
    }
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(root.dir.path()).and_then(|dir| dir.set_modified(old)).expect("set_modified");
    let before = listing(root.dir.path());
    let mounts = vec![file("/run/a/b/secret", "x", 0o400, 0), bind("/deep/er/dir", Path::new("/tmp"), true)];
    let output = run_with(&root, mounts, "stat -c %Y /; cat /run/a/b/secret");
    assert_eq!(output.stdout, "1000000000\nx");
    assert_eq!(listing(root.dir.path()), before);
}

#[test]
fn what_the_step_put_beside_a_mount_point_stays() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mounts = vec![file("/run/secrets/token", "x", 0o400, 0)];
    run_with(&root, mounts, "echo mine > /run/secrets/other");
    assert_eq!(fs::read_to_string(root.path("run/secrets/other")).expect("kept"), "mine\n");
    assert!(!root.path("run/secrets/token").exists());
}

#[test]
fn cleaning_up_follows_no_links_of_the_step() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let canary = tempfile::tempdir().expect("dir");
    fs::write(canary.path().join("token"), "").expect("an empty file of the mount point's name");
    // The step moves the directory with its mount point away and leaves a link to the host's files in its place.
    let script =
        format!("mv /run/secrets /run/moved && ln -s {} /run/secrets && echo swapped", canary.path().display());
    let output = run_with(&root, vec![file("/run/secrets/token", "x", 0o400, 0)], &script);
    assert_eq!(output.stdout, "swapped\n", "{output:?}");
    assert!(canary.path().join("token").exists());
    // And a file of the same name that the step made is not the one that was made for it.
    let script = "mv /run2/s /run2/old; mkdir /run2/s; echo -n > /run2/s/token";
    run_with(&root, vec![file("/run2/s/token", "x", 0o400, 0)], script);
    assert!(root.path("run2/s/token").exists());
    assert!(!root.path("run2/old/token").exists(), "it is found where it was moved");
}

#[test]
fn links_in_targets_are_followed_inside_the_image_only() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    fs::create_dir_all(root.path("real/place")).expect("mkdir");
    symlink("/real", root.path("link")).expect("symlink");
    symlink("../../../../../../../escape", root.path("up")).expect("symlink");
    symlink("../run/resolve/stub.conf", root.path("etc/resolv.conf")).expect("symlink");
    let mut spec = root.shell("cat /real/place/f /escape/f /run/resolve/stub.conf /etc/resolv.conf");
    spec.mounts = vec![file("/link/place/f", "1", 0o444, 0), file("/up/f", "2", 0o444, 0)];
    spec.resolv_conf = b"3".to_vec();
    assert_eq!(output(spec).expect("it starts").stdout, "1233");
    assert!(!Path::new("/escape").exists());
    assert!(!root.path("escape").exists() && !root.path("run").exists());
    assert!(root.path("etc/resolv.conf").is_symlink());
}

#[test]
fn images_that_would_lead_astray_are_refused() {
    if cannot_run() {
        return;
    }
    let canary = tempfile::tempdir().expect("dir");
    for name in ["dev", "proc", "sys"] {
        for target in [canary.path().to_str().expect("text"), "/bin", "loop"] {
            let root = Root::new();
            fs::remove_dir(root.path(name)).expect(name);
            symlink(target, root.path(name)).expect("symlink");
            let error = output(root.shell("true")).expect_err(name);
            assert_eq!(error.to_string(), format!("\"/{name}\" in the image is not a directory"));
        }
        let root = Root::new();
        fs::remove_dir(root.path(name)).expect(name);
        fs::write(root.path(name), "").expect("a file");
        assert!(matches!(output(root.shell("true")), Err(Error::Refused { .. })), "{name} is a file");
    }
    assert_eq!(fs::read_dir(canary.path()).expect("dir").count(), 0);

    let root = Root::new();
    symlink("round", root.path("round")).expect("symlink");
    fs::write(root.path("plain"), "").expect("a file");
    let dir = tempfile::tempdir().expect("dir");
    let table = [
        ("/round/x", r#""/round/x" in the image is a loop of links"#),
        ("/proc/sys", r#""/proc/sys" in the image is inside procfs"#),
        ("/plain", r#""/plain" in the image is not a directory"#),
    ];
    for (dest, expected) in table {
        let mut spec = root.shell("true");
        spec.mounts = vec![bind(dest, dir.path(), false)];
        assert_eq!(output(spec).expect_err(dest).to_string(), expected);
    }
}

#[test]
fn failed_start_leaves_no_mount_points() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let before = listing(root.dir.path());
    let mut spec = root.shell("");
    spec.args = vec!["/none".into()];
    spec.mounts = vec![file("/run/secrets/token", "x", 0o400, 0)];
    output(spec).expect_err("no such program");
    assert_eq!(listing(root.dir.path()), before);
}

#[test]
fn steps_that_mount_into_one_cache_do_not_disturb_each_other() {
    if cannot_run() {
        return;
    }
    let cache = tempfile::tempdir().expect("dir");
    let first = Root::new();
    let mut spec = first.shell("read line; cat /cache/a/secret; echo");
    (spec.mounts, spec.stdin) = (
        vec![bind("/cache", cache.path(), false), file("/cache/a/secret", "first", 0o400, 0)],
        rbuild::sandbox::Stdio::Pipe,
    );
    let mut waiting = crate::support::SANDBOX.spawn(spec).expect("it starts");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mounts = vec![bind("/cache", cache.path(), false), file("/cache/a/secret", "x", 0o400, 0)];
                assert_eq!(run_with(&Root::new(), mounts, "cat /cache/a/secret").stdout, "x");
            });
        }
    });
    drop(waiting.stdin.take());
    assert_eq!(crate::support::finish(waiting).expect("it ends").stdout, "first\n");
}

#[test]
fn own_devices_of_a_step_mask_nothing() {
    if cannot_run() {
        return;
    }
    let (root, dev) = (Root::new(), tempfile::tempdir().expect("dir"));
    fs::write(dev.path().join("null"), "mine").expect("write");
    let script = "ls /dev; cat /proc/keys /proc/timer_list | wc -c; stat -c %t:%T /proc/keys";
    let output = run_with(&root, vec![bind("/dev", dev.path(), false)], script);
    assert_eq!(output.stdout, "null\n0\n1:3\n");
}

#[test]
fn directory_to_start_in_cannot_lead_out() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    for number in 0..20 {
        let mut spec = root.shell("pwd; ls /");
        spec.cwd = format!("/proc/self/fd/{number}").into();
        let error = output(spec).expect_err("a descriptor is no directory of the image");
        assert!(matches!(error, Error::Setup { .. } | Error::Refused { .. }), "{error:?}");
    }
    let mut spec = root.shell("pwd");
    spec.cwd = "../../../../..".into();
    assert_eq!(output(spec).expect("it starts").stdout, "/\n");
}

#[test]
fn user_can_work_in_what_it_owns() {
    if cannot_run() {
        return;
    }
    let (root, dir) = (Root::new(), tempfile::tempdir().expect("dir"));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    std::os::unix::fs::chown(dir.path(), Some(1000), Some(1000)).expect("chown");
    let mut spec = root.shell("touch mine && touch /not-mine");
    spec.cwd = "/work".into();
    spec.user = User { uid: 1000, gid: 1000, groups: vec![] };
    spec.mounts = vec![bind("/work", dir.path(), false)];
    let output = output(spec).expect("it starts");
    assert_eq!(output.exit, Exit::Code(1));
    assert_eq!(fs::metadata(dir.path().join("mine")).expect("made").uid(), 1000);
}

#[test]
fn source_is_found_inside_its_tree_only() {
    if cannot_run() {
        return;
    }
    let (root, tree) = (Root::new(), tempfile::tempdir().expect("dir"));
    fs::create_dir_all(tree.path().join("a/b")).expect("mkdir");
    fs::write(tree.path().join("a/b/file"), "inside").expect("write");
    fs::write(tree.path().join("top"), "top").expect("write");
    symlink("/a", tree.path().join("link")).expect("symlink");
    symlink("../../../../../../top", tree.path().join("a/up")).expect("symlink");
    symlink("/etc/passwd", tree.path().join("out")).expect("symlink");
    let opened = fs::File::open(tree.path()).expect("open");
    let source = |path: &str| bind_source(opened.as_fd(), Path::new(path));
    for (path, expected) in [("a/b/file", "inside"), ("/link/b/file", "inside"), ("a/up", "top"), ("../../top", "top")]
    {
        let kind = MountKind::Bind { source: source(path).expect(path), read_only: true };
        assert_eq!(run_with(&root, vec![MountSpec { dest: "/m".into(), kind }], "cat /m").stdout, expected, "{path}");
    }
    for path in ["out", "none", "/proc/self/root"] {
        assert!(matches!(source(path), Err(Error::Setup { .. })), "{path}");
    }
}

#[test]
fn racing_step_cannot_move_a_mount_out_of_its_image() {
    if cannot_run() {
        return;
    }
    let (root, shared, canary) = (Root::new(), tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    // One step turns a directory of a shared cache into a link to the host and back, as fast as it can.
    let script = format!(
        "cd /cache; mkdir d l; ln -s {} s; echo go; while :; do mv d x; mv s d; mv d s; mv x d; done",
        canary.path().display()
    );
    let mut racer = root.shell(&script);
    racer.mounts = vec![bind("/cache", shared.path(), false)];
    let mut racer = crate::support::SANDBOX.spawn(racer).expect("it starts");
    let mut line = [0; 3];
    let mut go = fs::File::from(racer.stdout.take().expect("a pipe"));
    std::io::Read::read_exact(&mut go, &mut line).expect("go");
    let opened = fs::File::open(shared.path()).expect("open");
    let mut outcomes = [0, 0];
    for _ in 0..60 {
        // The other mounts onto that directory, and mounts it from there.
        let mut spec = root.shell("cat /cache/d/f; ls /copy");
        spec.mounts = vec![bind("/cache", shared.path(), false), file("/cache/d/f", "x", 0o444, 0)];
        if let Ok(source) = bind_source(opened.as_fd(), Path::new("d")) {
            spec.mounts.push(MountSpec { dest: "/copy".into(), kind: MountKind::Bind { source, read_only: false } });
        }
        let started = output(spec).is_ok();
        outcomes[usize::from(started)] += 1;
        assert_eq!(fs::read_dir(canary.path()).expect("dir").count(), 0, "a mount point was made on the host");
    }
    eprintln!("{} steps were refused, {} ran", outcomes[0], outcomes[1]);
    assert!(outcomes[1] > 0, "the race is not always lost");
}

#[test]
fn overlay_is_a_root_whose_upper_keeps_no_mount_points() {
    if cannot_run() {
        return;
    }
    let (root, work) = (Root::new(), tempfile::tempdir().expect("dir"));
    // A file system of its own, so that it works where the temporary directory is an overlay already.
    let mount = |kind: &str, options: &[(&str, &str)]| {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value).expect("fsconfig");
        }
        fsconfig_create(&context).expect("create");
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).expect("fsmount")
    };
    for name in ["upper", "work"] {
        fs::create_dir(work.path().join(name)).expect(name);
    }
    let (upper, index) = (work.path().join("upper"), work.path().join("work"));
    let options = [
        ("lowerdir", root.dir.path().to_str().expect("text")),
        ("upperdir", upper.to_str().expect("text")),
        ("workdir", index.to_str().expect("text")),
    ];
    let mut spec = ProcessSpec::new(mount("overlay", &options), ["/bin/sh", "-c", "cat /s/t; echo made > /etc/new"]);
    spec.env = vec!["PATH=/bin".into()];
    spec.mounts = vec![file("/s/t", "x", 0o400, 0)];
    assert_eq!(output(spec).expect("it starts").stdout, "x");
    let names: Vec<String> = listing(&upper).into_iter().map(|entry| entry.0).collect();
    assert_eq!(names, ["", "etc", "etc/new"]);
}

#[test]
fn private_mounts_are_nobody_elses() {
    if cannot_run() {
        return;
    }
    let dir = tempfile::tempdir().expect("dir");
    let mounts = |of: &str| fs::read_to_string(format!("/proc/{of}/mountinfo")).expect("mountinfo");
    let path = dir.path().to_str().expect("text");
    // A namespace belongs to a thread; the rest of this program stays where it is.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            rbuild::sandbox::private_mount_namespace().expect("as root");
            rustix::mount::mount("none", path, "tmpfs", rustix::mount::MountFlags::empty(), None).expect("mount");
            mounts("thread-self")
        });
        assert!(inside.join().expect("no panic").contains(path));
    });
    assert!(!mounts("self").contains(path));
}

#[test]
fn empty_arguments_and_bad_bytes_are_refused() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let error = output(ProcessSpec::new(root.mount(), Vec::<String>::new())).expect_err("no program");
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    let mut spec = root.shell("true");
    spec.mounts = vec![bind("/..", root.dir.path(), false)];
    assert!(matches!(output(spec), Err(Error::Invalid { .. })), "a mount onto the root");
    let mut spec = root.shell("true");
    spec.hosts = vec![("a\n6.6.6.6 registry".to_owned(), "1.1.1.1".parse().expect("an address"))];
    assert!(matches!(output(spec), Err(Error::Invalid { .. })), "a second line in /etc/hosts");
    let error = output(ProcessSpec::new(root.mount(), ["/bin/true", "a\0b"])).expect_err("a NUL byte");
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}
