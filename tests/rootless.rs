//! Builds of an ordinary user: the same command lines, the same results, and nothing left behind.

#[path = "registry/server.rs"]
#[allow(dead_code, reason = "only what a push needs")]
mod server;
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation};
use rustix::process::{kill_process_group, Pid, Signal};
use support::served::{GitServer, Web};
use support::{can_build, have, leases, mounts, processes, signal, text, until, Rbuild};

/// The user these tests make: with subordinate ids, and without a home.
const NAME: &str = "rbuild-test";

/// The numbers of the ordinary user, who is made when missing; `None` where that cannot be.
fn ordinary_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        if !can_build() || !have("newuidmap") || !have("newgidmap") || !have("useradd") {
            return None;
        }
        // Other test programs may be doing the same.
        let lock = File::create(std::env::temp_dir().join("rbuild-test-user.lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        if numbers().is_none() {
            let args = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/sh", NAME];
            run(Command::new("/usr/sbin/useradd").args(args));
        }
        for (file, option) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
            let listed = fs::read_to_string(file).unwrap_or_default();
            if !listed.lines().any(|line| line.starts_with(&format!("{NAME}:"))) {
                run(Command::new("/usr/sbin/usermod").args([option, "1879048192-1879113727", NAME]));
            }
        }
        let user = numbers().expect("useradd makes a user");
        let tried = as_user(&mut Command::new("unshare"), user).args(["--user", "true"]).output().unwrap();
        if !tried.status.success() {
            assert!(std::env::var_os("CI").is_none(), "no user namespaces: {}", text(&tried.stderr));
            eprintln!("skipped: no user namespaces: {}", text(&tried.stderr));
            return None;
        }
        Some(user)
    })
}

fn numbers() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with(&format!("{NAME}:")))?;
    let mut fields = line.split(':').skip(2).map(|number| number.parse().unwrap());
    Some((fields.next()?, fields.next()?))
}

fn as_user(command: &mut Command, (user, group): (u32, u32)) -> &mut Command {
    command.uid(user).gid(group).stdin(Stdio::null())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}

/// rbuild as somebody, on an empty store of theirs.
fn rbuild_of(user: (u32, u32)) -> Rbuild {
    let mut rbuild = Rbuild { user: Some(user), ..Rbuild::empty() };
    let reaches = |path: &Path| as_user(Command::new("test").arg("-x").arg(path), user).status().unwrap().success();
    let own = |dir: &Path| {
        chown(dir, Some(user.0), Some(user.1)).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    };
    own(rbuild.dir.path());
    if !reaches(&rbuild.program) {
        // This checkout is in a private directory.
        let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir_in("/var/tmp").unwrap();
        own(dir.path());
        rbuild.program = dir.path().join("rbuild");
        fs::copy(env!("CARGO_BIN_EXE_rbuild"), &rbuild.program).unwrap();
        rbuild.dir = dir;
    }
    rbuild
}

/// rbuild as the ordinary user, with `busybox:latest`.
fn users_rbuild() -> Option<Rbuild> {
    let rbuild = rbuild_of(ordinary_user()?);
    rbuild.import_busybox();
    Some(rbuild)
}

/// Files of many owners, with capabilities, further names and a pipe.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, owner: (u64, u64), size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_size(size);
        header.set_mtime(1_600_000_000);
        header
    };
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    archive.append_data(&mut header(Directory, 0o1770, (11, 12), 0), "extra/", &b""[..]).unwrap();
    // cap_net_raw=ep, as setcap(8) writes it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let attributes = [("SCHILY.xattr.security.capability", &capability[..]), ("SCHILY.xattr.user.note", b"kept")];
    archive.append_pax_extensions(attributes).unwrap();
    archive.append_data(&mut header(Regular, 0o755, (0, 0), 4), "extra/ping", &b"ping"[..]).unwrap();
    archive.append_data(&mut header(Regular, 0o6755, (13, 14), 2), "extra/su", &b"su"[..]).unwrap();
    archive.append_link(&mut header(Link, 0o6755, (13, 14), 0), "extra/second", "extra/su").unwrap();
    archive.append_link(&mut header(Symlink, 0o777, (15, 16), 0), "extra/link", "su").unwrap();
    archive.append_data(&mut header(Fifo, 0o622, (17, 65534), 0), "extra/pipe", &b""[..]).unwrap();
    archive.into_inner().unwrap()
}

const DOCKERFILE: &str = r#"FROM busybox AS a
ADD extra.tar /
RUN echo x > /f && chown 1000:2000 /f && chmod 4755 /f && ln /f /g && mkdir -p /dir/sub && touch /dir/sub/file && chown -R 7:8 /dir && chmod 2775 /dir
USER builder
RUN mkdir /tmp/mine && id > /tmp/mine/id && cat /f > /tmp/mine/read
FROM busybox
COPY --from=a / /
RUN rm /bin/vi && rm -r /dir/sub && rm -r /var && mkdir /var && touch /var/new && mkfifo /fifo
COPY --chown=33:44 --chmod=0640 Dockerfile /owned
COPY --chown=builder Dockerfile /by-name/
USER 65534:65534
RUN echo nobody > /tmp/nobody
USER root
RUN chown 60000:60001 /owned; ln -s x /link; chown -h 12 /link; rm /extra/su
"#;

fn context(rbuild: &Rbuild) -> PathBuf {
    let context = rbuild.context("c", &[("Dockerfile", DOCKERFILE)]);
    fs::write(context.join("extra.tar"), archive()).unwrap();
    context
}

/// Everything but times that a tar says of its entries, and their contents.
fn listing(file: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(File::open(file).unwrap());
    let mut entries = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let pax = entry.pax_extensions().unwrap().map(|extensions| {
            let kept = extensions.map(Result::unwrap).filter(|e| e.key_bytes().starts_with(b"SCHILY.xattr."));
            kept.map(|e| format!("{}={:?}", e.key().unwrap(), e.value_bytes())).collect::<Vec<_>>()
        });
        let header = entry.header();
        let mut said = format!(
            "{:?} {:o} {}:{} {:?} {:?}",
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            entry.link_name_bytes().map(|link| text(&link)),
            pax.unwrap_or_default(),
        );
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        said.push_str(&format!(" {} {}", content.len(), blake3::hash(&content)));
        assert!(entries.insert(path.clone(), said).is_none(), "{path} is there twice");
    }
    entries
}

#[test]
fn trees_and_layers_equal_those_of_root() {
    let Some(user) = users_rbuild() else { return };
    let root = Rbuild::new();
    let mut trees = Vec::new();
    let mut layers = Vec::new();
    for rbuild in [&user, &root] {
        let context = context(rbuild);
        let (tree, image) = (rbuild.path("tree.tar"), rbuild.path("image"));
        let output = |kind: &str, dest: &Path| format!("type={kind},dest={}", dest.display());
        let mut command = rbuild.command(["build", "-o", &output("tar", &tree), "-o"]);
        command.arg(output("oci,tar=false,rewrite-timestamp=true", &image)).arg(&context).env("SOURCE_DATE_EPOCH", "1");
        let built = command.output().unwrap();
        assert!(built.status.success(), "{}", text(&built.stderr));
        trees.push(listing(&tree));
        layers.push(layer_digests(&image));
    }
    let [of_user, of_root] = &trees[..] else { unreachable!("two builds") };
    for (path, said) in of_root {
        assert_eq!(of_user.get(path), Some(said), "{path}");
    }
    assert_eq!(of_user.len(), of_root.len());
    assert_eq!(layers[0], layers[1], "the layers are the same bytes");
    // That the listing shows what it is to compare.
    let has = |path: &str, what: &str| assert!(of_root[path].contains(what), "{path}: {}", of_root[path]);
    has("f", "4755 1000:2000");
    has("g", "Link");
    has("dir/", "2775 7:8");
    has("owned", "640 60000:60001");
    has("link", "Symlink 777 12:");
    has("extra/ping", "security.capability=[1, 0, 0, 2, 0, 32,");
    has("extra/ping", "user.note");
    has("extra/second", "6755 13:14");
    has("extra/pipe", "Fifo 622 17:65534");
    has("by-name/Dockerfile", "1000:1000");
    has("tmp/nobody", "65534:65534");
    for gone in ["bin/vi", "dir/sub/", "extra/su"] {
        assert!(!of_root.contains_key(gone), "{gone}");
    }
}

/// The digests of an image's layers in a layout directory.
fn layer_digests(layout: &Path) -> Vec<String> {
    let read = |path: PathBuf| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        read(layout.join("blobs/sha256").join(digest))
    };
    let manifest = blob(&read(layout.join("index.json"))["manifests"][0]);
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn second_build_runs_nothing() {
    let Some(rbuild) = users_rbuild() else { return };
    let context = context(&rbuild);
    let first = rbuild.log(&context, &[]);
    assert_eq!(first.matches("CACHED").count(), 1, "the base image: {first}");
    let second = rbuild.log(&context, &[]);
    assert!(second.matches("CACHED").count() > 8, "{second}");
    assert!(!second.contains("WARN: steps share"), "a step ran: {second}");
    rbuild.ok(["fsck"]);
}

/// A device node, and a file beside it.
fn archive_of_a_device() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Char);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_mode(0o666);
    header.set_size(0);
    archive.append_data(&mut header, "null", &b""[..]).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, "file", &b""[..]).unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn device_nodes_of_a_base_image_are_left_out_and_counted() {
    let Some(user) = ordinary_user() else { return };
    let rbuild = rbuild_of(user);
    fs::write(rbuild.path("base.tar"), archive_of_a_device()).unwrap();
    let output = rbuild.run(["import", "base.tar", "base"]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(0), 1), "{said}");
    assert_eq!(said, "WARNING: 1 device nodes were left out: only root may make them\n");
    let context = rbuild.context("c", &[("Dockerfile", "FROM base\n")]);
    let tree = rbuild.tree(&context, &[]);
    assert!(tree.has("/file") && !tree.has("/null"));
}

#[test]
fn the_store_is_at_home_and_every_command_finds_it() {
    let Some(user) = ordinary_user() else { return };
    let rbuild = rbuild_of(user);
    let archive = rbuild.path("busybox.tar");
    fs::write(&archive, support::busybox_rootfs()).unwrap();
    let at_home = |args: &[&str]| {
        let mut command = rbuild.command(args);
        let output = command.env_remove("RBUILD_ROOT").env_remove("XDG_DATA_HOME").output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    at_home(&["import", archive.to_str().unwrap(), "base"]);
    assert!(rbuild.path(".local/share/rbuild/version").exists());
    assert!(at_home(&["images"]).contains("base"));
    at_home(&["tag", "base", "other"]);
    assert!(at_home(&["inspect", "other"]).contains("other:latest"));
    assert!(at_home(&["du"]).contains("snapshots"));
    at_home(&["rmi", "base", "other"]);
    at_home(&["prune", "--all"]);
    at_home(&["fsck"]);
    let snapshots = fs::read_dir(rbuild.path(".local/share/rbuild/snapshots")).unwrap();
    assert_eq!(snapshots.count(), 0, "files of all owners were removed");
}

#[test]
fn files_exported_to_a_directory_belong_to_the_caller() {
    let Some(rbuild) = users_rbuild() else { return };
    let context = context(&rbuild);
    let tree = rbuild.tree(&context, &[]);
    let (user, group) = rbuild.user.unwrap();
    assert_eq!(tree.mode("/f"), (0o755, user, group), "no set-user-id bit that would lend the caller's rights");
    assert_eq!(tree.mode("/owned"), (0o640, user, group));
    assert_eq!(tree.mode("/extra"), (0o1770, user, group));
    assert_eq!(fs::metadata(tree.0.join("f")).unwrap().nlink(), 2);
    // Whoever owns everything can remove everything.
    run(as_user(Command::new("rm").arg("-r").arg(&tree.0), (user, group)));
}

#[test]
fn files_of_any_owner_in_a_context_are_copied_and_unreadable_ones_are_named() {
    let Some(rbuild) = users_rbuild() else { return };
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nCOPY . /c/\n"), ("a", "1"), ("secret", "2")]);
    chown(context.join("a"), Some(4242), Some(4343)).unwrap();
    assert_eq!(rbuild.tree(&context, &[]).read("/c/a"), "1");
    fs::set_permissions(context.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
    assert!(said.contains("/secret: Permission denied"), "{said}");
    assert!(said.contains(&format!("rbuild runs as {NAME}, who may not do that")), "{said}");
    // What one of the caller's groups may read, rbuild may read.
    chown(context.join("secret"), None, Some(4343)).unwrap();
    fs::set_permissions(context.join("secret"), fs::Permissions::from_mode(0o640)).unwrap();
    let ((user, group), dest) = (rbuild.user.unwrap(), rbuild.path("out"));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--groups", "4343"]);
    command.arg(&rbuild.program).args(["build", "-o"]).arg(&dest).arg(&context).env("RBUILD_ROOT", rbuild.root());
    run(&mut command);
    assert_eq!(fs::read_to_string(dest.join("c/secret")).unwrap(), "2");
    fs::write(context.join(".dockerignore"), "secret").unwrap();
    assert!(!rbuild.tree(&context, &[]).has("/c/secret"));
}

#[test]
fn a_context_on_another_file_system_is_read() {
    let Some(rbuild) = users_rbuild() else { return };
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(shm.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shm.path().join("Dockerfile"), "FROM busybox\nCOPY Dockerfile /d\nRUN cp /d /e\n").unwrap();
    assert!(rbuild.tree(shm.path(), &[]).read("/e").starts_with("FROM busybox"));
}

/// A directory with all programs but those that map ids.
fn path_without_uidmap(rbuild: &Rbuild) -> PathBuf {
    let bin = rbuild.path("bin");
    fs::create_dir_all(&bin).unwrap();
    bin
}

#[test]
fn without_newuidmap_builds_have_one_owner_and_say_what_is_missing() {
    let Some(user) = ordinary_user() else { return };
    let rbuild = rbuild_of(user);
    let archive = rbuild.path("busybox.tar");
    fs::write(&archive, support::busybox_rootfs()).unwrap();
    let alone = |args: &[&str]| {
        let output = rbuild.command(args).env("PATH", path_without_uidmap(&rbuild)).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let remedy = "install newuidmap and newgidmap (`apt-get install uidmap`)";
    let (code, _, said) = alone(&["import", archive.to_str().unwrap(), "busybox"]);
    assert_eq!(code, Some(0), "{said}");
    let cases = [
        ("RUN id -u > /id && echo fine > /fine", None),
        ("COPY --chown=7 Dockerfile /d", Some("write /d: Invalid argument")),
        ("ADD extra.tar /", Some("set the owner: Invalid argument")),
        ("RUN touch /x && chown 5 /x", Some("chown: /x: Invalid argument")),
        ("USER builder\nRUN true", Some("become the user: Operation not permitted")),
    ];
    for (index, (line, error)) in cases.into_iter().enumerate() {
        let context = rbuild.context(&format!("c{index}"), &[("Dockerfile", &format!("FROM busybox\n{line}\n"))]);
        fs::write(context.join("extra.tar"), self::archive()).unwrap();
        let (code, _, said) = alone(&["build", "--progress=plain", context.to_str().unwrap()]);
        let warning = format!(
            "WARNING: there is no user id but your own here: files of other owners and steps of \
                               other users will fail; {remedy}"
        );
        assert_eq!(said.matches(&warning).count(), 1, "{said}");
        assert_eq!(code, Some(i32::from(error.is_some())), "{line}: {said}");
        if let Some(error) = error {
            assert!(said.contains(error), "{line}: {said}");
            let help = said.lines().find(|l| l.starts_with("help: ")).unwrap_or_else(|| panic!("{line}: {said}"));
            assert!(help.ends_with(remedy), "{line}: {help}");
        }
    }
    let (code, out, said) = alone(&["run", "busybox", "id", "-u"]);
    assert_eq!((code, out.as_str()), (Some(0), "0\n"), "{said}");
    // With all ids the same store would mean other owners.
    let said = rbuild.fails(1, ["images"]);
    assert!(said.contains("its id map is") && said.contains("choose another with --root"), "{said}");
}

#[test]
fn a_user_without_subordinate_ids_is_told_where_they_are_listed() {
    if ordinary_user().is_none() {
        return;
    }
    // A number that no file knows.
    let rbuild = rbuild_of((1_234_567, 1_234_567));
    let context = rbuild.context("c", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let said = rbuild.log(&context, &[]);
    let remedy = "add a line `1234567:100000:65536` with ids that nobody has to /etc/subuid and to /etc/subgid";
    assert!(said.contains(remedy), "{said}");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let Some(rbuild) = users_rbuild() else { return };
    let user = rbuild.user.unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs"]).arg(&rbuild.program).arg("images").env("RBUILD_ROOT", rbuild.root());
    let output = as_user(&mut command, user).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("ERROR: newuidmap failed: ") && said.contains("no_new_privs"), "{said}");

    let bin = rbuild.path("copies");
    fs::create_dir(&bin).unwrap();
    fs::copy("/usr/bin/newuidmap", bin.join("newuidmap")).unwrap();
    fs::set_permissions(bin.join("newuidmap"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = rbuild.command(["images"]).env("PATH", path).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("newuidmap lacks its set-user-id bit"), "{said}");

    // The switch of a user namespace, so that the machine's stays as it is.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -sys_admin {} images",
        rbuild.program.display()
    );
    let output = Command::new("unshare").args(["-Ur", "sh", "-c", &script]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("user namespaces, and here they are switched off"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn root_without_the_right_to_mount_builds_too() {
    if ordinary_user().is_none() {
        return;
    }
    let rbuild = Rbuild::empty();
    let archive = rbuild.path("busybox.tar");
    fs::write(&archive, support::busybox_rootfs()).unwrap();
    let context = context(&rbuild);
    let limited = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_admin"]).arg(&rbuild.program).args(args);
        let output = command.env("RBUILD_ROOT", rbuild.root()).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stderr)
    };
    let device = rbuild.path("device.tar");
    fs::write(&device, archive_of_a_device()).unwrap();
    assert!(limited(&["import", device.to_str().unwrap(), "device"]).contains("1 device nodes were left out"));
    limited(&["import", archive.to_str().unwrap(), "busybox"]);
    let tree = rbuild.path("tree.tar");
    limited(&["build", "-o", &format!("type=tar,dest={}", tree.display()), context.to_str().unwrap()]);
    assert!(listing(&tree)["owned"].contains("60000:60001"));
}

#[test]
fn a_command_ends_as_in_the_image() {
    let Some(rbuild) = users_rbuild() else { return };
    for code in [0, 1, 42, 255] {
        let output = rbuild.run(["run", "busybox", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }
    assert_eq!(rbuild.run(["--no-such-option"]).status.code(), Some(2));
    let mut command = rbuild.command(["run", "-u", "builder", "busybox", "sh", "-c", "id -u; cat; echo end >&2"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "1000\nthrough\n");
    assert!(text(&output.stderr).ends_with("end\n"));
}

#[test]
fn two_builds_share_a_store() {
    let Some(rbuild) = users_rbuild() else { return };
    let dockerfile = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id; sleep 1\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let dests = [rbuild.path("one"), rbuild.path("two")];
    let start = |dest: &PathBuf| {
        let mut command = rbuild.command(["build", "-o"]);
        command.arg(dest).arg(&context).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in dests.iter().map(start).collect::<Vec<Child>>() {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let [one, two] = dests.map(|dest| fs::read_to_string(dest.join("id")).unwrap());
    assert_eq!(one, two, "the step ran once");
}

/// A build whose step waits until it is killed: the outer process, the inner one, and what marks the step's.
fn waiting(rbuild: &Rbuild) -> (Child, i32, String) {
    let part = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_micros();
    let mark = format!("{}{part}", 700 + std::process::id());
    let dockerfile = format!("FROM busybox\nRUN echo kept > /kept\nRUN sleep {mark} & sleep {mark}; true\n");
    let context = rbuild.context("waiting", &[("Dockerfile", &dockerfile)]);
    let mut command = rbuild.command(["build".as_ref(), "--progress=plain".as_ref(), context.as_os_str()]);
    let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mark = format!("sleep\0{mark}");
    until("the step runs", || processes(&mark).len() == 2);
    let inner = only_child(child.id() as i32);
    (child, inner, mark)
}

fn only_child(of: i32) -> i32 {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("one child: {children:?}"))
}

fn nothing_is_left(rbuild: &Rbuild, inner: i32, mark: &str) {
    until("the step's processes end", || processes(mark).is_empty());
    let is_gone = || !matches!(fs::read_to_string(format!("/proc/{inner}/stat")), Ok(stat) if !stat.contains(") Z "));
    until("the inner process ends", is_gone);
    until("the mounts end", || mounts(&rbuild.root()).is_empty());
    let context = rbuild.context("after", &[("Dockerfile", "FROM busybox\nRUN echo kept > /kept\n")]);
    assert_eq!(rbuild.tree(&context, &[]).read("/kept"), "kept\n");
    assert_eq!(leases(&rbuild.root()), 0, "a lease is left");
    rbuild.ok(["fsck"]);
}

#[test]
fn signals_stop_everything_within_a_second() {
    let Some(rbuild) = users_rbuild() else { return };
    for (number, whole_group) in
        [(Signal::INT, false), (Signal::INT, true), (Signal::TERM, false), (Signal::HUP, false)]
    {
        let (mut child, inner, mark) = waiting(&rbuild);
        let at = Instant::now();
        match whole_group {
            // As a terminal does it.
            true => kill_process_group(Pid::from_child(&child), number).unwrap(),
            false => signal(child.id() as i32, number),
        }
        let status = child.wait().unwrap();
        assert!(at.elapsed() < Duration::from_secs(1), "{number:?} took {:?}", at.elapsed());
        let expected = match number {
            Signal::INT => (Some(130), None),
            Signal::TERM => (Some(143), None),
            // Nobody handles it, as in a build of root's.
            _ => (None, Some(number.as_raw())),
        };
        assert_eq!((status.code(), status.signal()), expected, "{number:?}");
        nothing_is_left(&rbuild, inner, &mark);
    }
}

#[test]
fn a_terminal_stops_everything_by_ctrl_c_and_by_going_away() {
    let Some(rbuild) = users_rbuild() else { return };
    if !have("script") {
        return;
    }
    for goes_away in [false, true] {
        let mark = format!("{}{}", 800 + std::process::id(), u8::from(goes_away));
        let dockerfile = format!("FROM busybox\nRUN sleep {mark} & sleep {mark}; true\n");
        let context = rbuild.context("typed", &[("Dockerfile", &dockerfile)]);
        let mark = format!("sleep\0{mark}");
        // `exec` makes rbuild the leader of the terminal's session, and so the only one who hears that it is gone.
        let line = format!("exec {} build {}", rbuild.program.display(), context.display());
        let mut command = Command::new("script");
        command.args(["-qfec", &line, "/dev/null"]).env("RBUILD_ROOT", rbuild.root());
        as_user(&mut command, rbuild.user.unwrap()).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        until("the step runs", || processes(&mark).len() == 2);
        let outer = only_child(child.id() as i32);
        let inner = only_child(outer);
        match goes_away {
            true => child.kill().unwrap(),
            false => child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap(),
        }
        let code = child.wait().unwrap().code();
        assert!(goes_away || code == Some(130), "{code:?}");
        nothing_is_left(&rbuild, inner, &mark);
    }
}

#[test]
fn killing_either_process_kills_both() {
    let Some(rbuild) = users_rbuild() else { return };
    for of_inner in [false, true] {
        let (mut child, inner, mark) = waiting(&rbuild);
        signal(if of_inner { inner } else { child.id() as i32 }, Signal::KILL);
        let at = Instant::now();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        assert!(at.elapsed() < Duration::from_secs(1), "took {:?}", at.elapsed());
        nothing_is_left(&rbuild, inner, &mark);
    }
}

#[test]
fn steps_see_nothing_of_the_user() {
    let Some(rbuild) = users_rbuild() else { return };
    let dockerfile = "FROM busybox\nRUN env > /env; ls -l /proc/self/fd > /fds; cat /proc/1/cmdline > /cmdline; \
                      mount -t tmpfs none /tmp 2> /mount; cat /proc/self/setgroups /proc/self/gid_map > /maps\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let tree = rbuild.tree(&context, &[]);
    assert!(!tree.read("/env").contains("RBUILD"), "{}", tree.read("/env"));
    assert!(tree.read("/cmdline").contains("/bin/sh"));
    assert!(tree.read("/mount").contains("permission denied"), "{}", tree.read("/mount"));
    assert!(tree.read("/maps").starts_with("allow\n"), "{}", tree.read("/maps"));
    let fds = tree.read("/fds");
    assert_eq!(fds.lines().count(), 5, "a heading, three descriptors and the one that lists them: {fds}");
    assert!(!fds.contains(rbuild.dir.path().to_str().unwrap()), "{fds}");
}

#[test]
fn what_is_elsewhere_comes_to_an_ordinary_user_too() {
    let Some(rbuild) = users_rbuild() else { return };
    if !have("git") {
        return;
    }
    let (web, served) = (Web::new(), support::scratch());
    fs::set_permissions(served.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let git = GitServer::new(&served.path().join("git"));
    git.commit("lib", &[("l", "inner")]);
    git.commit("app", &[("a", "1")]);
    git.git("app", &["submodule", "-q", "add", &git.url_of("lib"), "lib"]);
    git.commit("app", &[]);
    web.file("/f", b"web", "\"1\"");
    let (url, repository) = (&web.url, git.url_of("app"));
    let dockerfile = format!(
        "FROM busybox\nADD {url}/f /f\nADD --chown=1000:1000 {url}/f /owned\nADD --keep-git-dir {repository} /app\n\
         RUN test $(stat -c %u:%g:%a /f) = 0:0:600 && test $(stat -c %u /owned) = 1000 && \
         test $(stat -c %u /app/lib/l) = 0 && test -d /app/.git && cat /proc/sys/kernel/random/uuid > /id\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let first = rbuild.tree(&context, &[]);
    assert_eq!((first.read("/f"), first.read("/app/lib/l")), ("web".into(), "inner".into()));
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/id"), second.read("/id"));
    let statuses: Vec<u16> = web.log().into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[test]
fn credential_helpers_are_run_by_the_user_themselves() {
    use base64::Engine as _;
    let Some(rbuild) = users_rbuild() else { return };
    let registry = server::Server::start();
    let user = rbuild.user.unwrap().0;
    let introduction = base64::engine::general_purpose::STANDARD.encode(format!("me:secret-of-{user}"));
    registry.state().asks = server::Asks::Basic(introduction.leak());

    let (bin, config) = (rbuild.path("bin"), rbuild.path("docker"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&config).unwrap();
    // What a keyring does: it looks who asks.
    let helper = "#!/bin/sh\nread server\necho \"helper for $server of $(id -u)\" >&2\n\
                  echo \"{\\\"ServerURL\\\":\\\"$server\\\",\\\"Username\\\":\\\"me\\\",\\\"Secret\\\":\\\"secret-of-$(id -u)\\\"}\"\n";
    let path = bin.join("docker-credential-whoami");
    fs::write(&path, helper).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(config.join("config.json"), r#"{"credsStore":"whoami"}"#).unwrap();

    let name = format!("{}/team/app:1", registry.host());
    rbuild.ok(["tag", "busybox", &name]);
    let with_helper = |args: &[&str]| {
        let mut command = rbuild.command(args);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let output = command.env("DOCKER_CONFIG", &config).env("PATH", path).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = with_helper(&["push", &name]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("secret-of"), "{said}");

    fs::write(&path, "#!/bin/sh\necho \"no keyring of $(id -u)\" >&2\nexit 1\n").unwrap();
    let (code, said) = with_helper(&["push", &name]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("docker-credential-whoami failed: no keyring of {user}")), "{said}");

    fs::write(&path, "#!/bin/sh\nyes secret-of-nobody\n").unwrap();
    let (code, said) = with_helper(&["push", &name]);
    assert_eq!(code, Some(1));
    assert!(said.contains("more than 64 KiB") && !said.contains("secret-of"), "{said}");
}
