//! A tiny root file system and one call to run a command in it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread;

use rbuild::sandbox::{Error, Exit, ProcessSpec, Running, Sandbox};
use rustix::fs::CWD;
use rustix::mount::{open_tree, OpenTreeFlags};
use tempfile::TempDir;

/// The one sandbox of this test program; it executes the real `rbuild` as init.
pub static SANDBOX: LazyLock<Sandbox> =
    LazyLock::new(|| Sandbox::start_with(Path::new(env!("CARGO_BIN_EXE_rbuild"))).expect("start the sandbox"));

/// Says why the tests cannot run here, if so.
pub fn cannot_run() -> bool {
    if rustix::process::geteuid().is_root() && Path::new("/bin/busybox").exists() {
        return false;
    }
    assert!(std::env::var_os("CI").is_none(), "the sandbox tests need root and /bin/busybox");
    eprintln!("skipped: needs root and /bin/busybox");
    true
}

/// A root file system of one static program under many names.
pub struct Root {
    pub dir: TempDir,
}

impl Root {
    pub fn new() -> Root {
        let dir = tempfile::tempdir().expect("a directory");
        // mkdtemp makes it 0700, and a step's user must be able to enter `/`.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let root = Root { dir };
        for name in ["bin", "etc", "tmp", "proc", "dev", "sys", "root"] {
            fs::create_dir(root.path(name)).expect(name);
        }
        fs::copy("/bin/busybox", root.path("bin/busybox")).expect("busybox-static");
        for name in COMMANDS {
            symlink("busybox", root.path("bin").join(name)).expect(name);
        }
        fs::write(root.path("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
            .expect("passwd");
        fs::write(root.path("etc/group"), "root:x:0:\nann:x:1000:\nwheel:x:10:root,ann\n").expect("group");
        root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As a detached mount.
    pub fn mount(&self) -> OwnedFd {
        detached(self.dir.path())
    }

    /// A spec that runs `script` in a shell.
    pub fn shell(&self, script: &str) -> ProcessSpec {
        let mut spec = ProcessSpec::new(self.mount(), ["/bin/sh", "-c", script]);
        spec.env = vec!["PATH=/bin".into()];
        spec
    }

    /// Runs `script` and gives what it wrote, with its exit.
    pub fn run(&self, script: &str) -> Output {
        output(self.shell(script)).expect(script)
    }
}

/// A new detached mount of a directory or file.
pub fn detached(path: &Path) -> OwnedFd {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).expect("open_tree")
}

/// What a process wrote and how it ended.
#[derive(Debug, PartialEq)]
pub struct Output {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a process to its end.
pub fn output(spec: ProcessSpec) -> Result<Output, Error> {
    finish(SANDBOX.spawn(spec)?)
}

/// Reads all that a process writes and waits for its end.
pub fn finish(mut running: Running) -> Result<Output, Error> {
    let stdout = reader(running.stdout.take());
    let stderr = reader(running.stderr.take());
    let exit = running.wait()?;
    Ok(Output { exit, stdout: stdout.join().expect("stdout"), stderr: stderr.join().expect("stderr") })
}

fn reader(fd: Option<OwnedFd>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(fd) = fd {
            File::from(fd).read_to_end(&mut bytes).expect("read");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

const COMMANDS: [&str; 38] = [
    "cut", "sh", "cat", "echo", "ls", "id", "env", "pwd", "hostname", "sleep", "true", "false", "kill", "ps", "mount",
    "umount", "mkdir", "rmdir", "rm", "ln", "mv", "touch", "stat", "chmod", "chown", "grep", "head", "wc", "dd",
    "ulimit", "setsid", "nc", "ip", "mknod", "readlink", "sort", "su", "test",
];
