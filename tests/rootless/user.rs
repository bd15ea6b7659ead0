//! The ordinary user, and rbuild as them.

use std::fs::{self, File};
use std::os::unix::fs::{chown, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{flock, FlockOperation};

use super::support::{can_build, have, text, Rbuild};

/// The user these tests make: with subordinate ids, and without a home.
pub const NAME: &str = "rbuild-test";

/// The numbers of the ordinary user, who is made when missing; `None` where that cannot be.
pub fn ordinary_user() -> Option<(u32, u32)> {
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

pub fn as_user(command: &mut Command, (user, group): (u32, u32)) -> &mut Command {
    command.uid(user).gid(group).stdin(Stdio::null())
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
}

/// rbuild as somebody, on an empty store of theirs.
pub fn rbuild_of(user: (u32, u32)) -> Rbuild {
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
pub fn users_rbuild() -> Option<Rbuild> {
    let rbuild = rbuild_of(ordinary_user()?);
    rbuild.import_busybox();
    Some(rbuild)
}
