//! What black-box tests share: a store of their own, a base image, and contexts written as literals.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod agent;
pub mod certificates;
pub mod registry;
pub mod served;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

/// Whether real builds can run here; says why not. In CI a missing prerequisite fails the test.
pub fn can_build() -> bool {
    hear_signals();
    let missing = if !rustix::process::geteuid().is_root() {
        "these tests need root"
    } else if !Path::new("/bin/busybox").exists() {
        "these tests need /bin/busybox (package busybox-static)"
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    false
}

/// Whoever started the tests may be deaf to hang-ups (`nohup`) or interrupts (a background job), and we with them; what
/// the tests start must hear them all.
pub fn hear_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
        // SAFETY: the default disposition runs no code of ours; see signal(2).
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Whether a program is installed; in CI its absence fails the test.
pub fn have(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(program).exists());
    assert!(found || std::env::var_os("CI").is_none(), "{program} is not installed");
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Where docker-buildx or docker-compose is, which is fetched if need be; says why not. In CI its absence fails the test.
pub fn client(name: &str) -> Option<String> {
    let found = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client.sh")).arg(name).output().unwrap();
    if found.status.success() {
        return Some(text(&found.stdout).trim().to_string());
    }
    assert!(std::env::var_os("CI").is_none(), "{}", text(&found.stderr));
    eprintln!("skipped: {}", text(&found.stderr));
    None
}

/// A scratch directory on the file system of the build, not on tmpfs: overlays need it.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("rbuild-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// rbuild on a store of its own, with `busybox:latest` imported.
pub struct Rbuild {
    /// Holds the store and whatever the test writes.
    pub dir: tempfile::TempDir,
    /// Who runs it, when it is not the user of the test: the numbers of a user and a group.
    pub user: Option<(u32, u32)>,
    /// The program.
    pub program: PathBuf,
}

impl Rbuild {
    /// A fresh store with a base image.
    pub fn new() -> Rbuild {
        let new = Rbuild::empty();
        new.import_busybox();
        new
    }

    /// Makes the base image.
    pub fn import_busybox(&self) {
        let archive = self.dir.path().join("busybox.tar");
        fs::write(&archive, busybox_rootfs()).unwrap();
        self.ok(["import".as_ref(), archive.as_os_str(), "busybox:latest".as_ref()]);
    }

    /// A fresh store.
    pub fn empty() -> Rbuild {
        Rbuild { dir: scratch(), user: None, program: env!("CARGO_BIN_EXE_rbuild").into() }
    }

    /// Where the store is.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A path in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// rbuild with these arguments, ready to run.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.dir.path()).env("RBUILD_ROOT", self.root()).stdin(Stdio::null());
        for name in ["SOURCE_DATE_EPOCH", "BUILDKIT_PROGRESS", "DOCKER_DEFAULT_PLATFORM"] {
            command.env_remove(name);
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group).env("HOME", self.dir.path());
        }
        command
    }

    /// Runs rbuild.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs rbuild, which must succeed; gives standard output.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs rbuild, which must end with this code; gives standard error.
    pub fn fails<S: AsRef<OsStr>>(&self, code: i32, args: impl IntoIterator<Item = S>) -> String {
        let output = self.run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{}\n{said}", text(&output.stdout));
        said
    }

    /// Writes a context: paths with their contents; a trailing slash makes a directory.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.path(name);
        fs::create_dir_all(&root).unwrap();
        for (path, content) in files {
            let at = root.join(path);
            if path.ends_with('/') {
                fs::create_dir_all(&at).unwrap();
                continue;
            }
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(&at, content).unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(0o644)).unwrap();
        }
        root
    }

    /// Builds `context` with `args` and gives the tree of the result.
    pub fn tree(&self, context: &Path, args: &[&str]) -> Tree {
        let dest = self.path(&format!("out-{}", fs::read_dir(self.dir.path()).unwrap().count()));
        let output = format!("type=local,dest={}", dest.display());
        let mut all: Vec<&OsStr> = vec!["build".as_ref(), "-o".as_ref(), output.as_ref()];
        all.extend(args.iter().map(OsStr::new));
        all.push(context.as_os_str());
        self.ok(all);
        Tree(dest)
    }

    /// What a plain-progress build of `context` prints to standard error.
    pub fn log(&self, context: &Path, args: &[&str]) -> String {
        let mut all: Vec<&OsStr> = vec!["build".as_ref(), "--progress=plain".as_ref()];
        all.extend(args.iter().map(OsStr::new));
        all.push(context.as_os_str());
        let output = self.run(all);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        said
    }
}

/// The files of a result.
pub struct Tree(pub PathBuf);

impl Tree {
    /// A file's text.
    pub fn read(&self, path: &str) -> String {
        let at = self.0.join(path.trim_start_matches('/'));
        String::from_utf8(fs::read(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()))).unwrap()
    }

    /// Whether something is there.
    pub fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.0.join(path.trim_start_matches('/'))).is_ok()
    }

    /// Permission bits, owner and group.
    pub fn mode(&self, path: &str) -> (u32, u32, u32) {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::symlink_metadata(self.0.join(path.trim_start_matches('/'))).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    }
}

/// Sets an attribute of a user; `false` where the file system has none.
pub fn mark(path: &Path, name: &str, value: &str) -> bool {
    let answer = rustix::fs::setxattr(path, name, value.as_bytes(), rustix::fs::XattrFlags::empty());
    answer.inspect_err(|errno| eprintln!("skipped: cannot set {name} of {}: {errno}", path.display())).is_ok()
}

/// The attributes that a tar archive gives a file, as `name=value`.
pub fn marks(archive: &Path, path: &str) -> Vec<String> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path_bytes().strip_suffix(b"/").unwrap_or(&entry.path_bytes()) != path.as_bytes() {
            continue;
        }
        let Some(records) = entry.pax_extensions().unwrap() else { return Vec::new() };
        let said = records.map(Result::unwrap).filter_map(|record| {
            let name = record.key().unwrap().strip_prefix("SCHILY.xattr.")?;
            Some(format!("{name}={}", record.value().unwrap()))
        });
        return said.collect();
    }
    panic!("{path} is not in the archive");
}

/// Bytes as text, whatever they are.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A root file system with busybox and its applets, as a tar archive.
pub fn busybox_rootfs() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_600_000_000);
        header
    };
    for (dir, mode) in [
        ("bin/", 0o755),
        ("etc/", 0o755),
        ("tmp/", 0o1777),
        ("root/", 0o700),
        ("usr/", 0o755),
        ("usr/bin/", 0o755),
        ("var/", 0o755),
    ] {
        archive.append_data(&mut header(tar::EntryType::Directory, mode, 0), dir, &b""[..]).unwrap();
    }
    let busybox = fs::read("/bin/busybox").unwrap();
    archive
        .append_data(&mut header(tar::EntryType::Regular, 0o755, busybox.len() as u64), "bin/busybox", &busybox[..])
        .unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in text(&applets.stdout).lines().filter(|a| *a != "busybox") {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        archive.append_link(&mut link, format!("bin/{applet}"), "busybox").unwrap();
    }
    for (path, content) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbuilder:x:1000:1000::/home/builder:/bin/sh\n"),
        ("etc/group", "root:x:0:\nbuilder:x:1000:\nextra:x:2000:builder\n"),
    ] {
        let mut file = header(tar::EntryType::Regular, 0o644, content.len() as u64);
        archive.append_data(&mut file, path, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Waits until `what` holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes whose command line contains `mark`.
pub fn processes(mark: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let zombie = fs::read_to_string(entry.path().join("stat")).is_ok_and(|s| s.contains(") Z "));
        if text(&line).contains(mark) && pid != std::process::id() as i32 && !zombie {
            found.push(pid);
        }
    }
    found
}

/// Mounts on this machine, in any mount namespace, that mention `root`.
pub fn mounts(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(info) = fs::read_to_string(entry.path().join("mountinfo")) {
            found.extend(info.lines().filter(|l| l.contains(root.to_str().unwrap())).map(String::from));
        }
    }
    found
}

/// Leases of the store that nobody holds, or somebody does: after a crash and one more command there is none.
pub fn leases(root: &Path) -> usize {
    fs::read_dir(root.join("leases")).map_or(0, |dir| dir.count())
}

/// Sends a signal to a process.
pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}
