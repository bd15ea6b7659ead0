//! Limits and devices of an ordinary user's steps: what was delegated holds, what was not is refused by name.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{text, Rbuild};
use super::user::{as_user, users_rbuild};

/// Where this machine has groups that limit memory, in the older form.
const MEMORY: &str = "/sys/fs/cgroup/memory";

fn hungry(rbuild: &Rbuild) -> PathBuf {
    rbuild.context("ctx", &[("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n")])
}

/// A group of root's that is somebody else's to use; removed in the end.
struct Delegated(PathBuf);

impl Delegated {
    fn to(user: (u32, u32)) -> Delegated {
        let path = Path::new(MEMORY).join(format!("rbuild-test-delegated-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let files = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        for own in files.chain([path.clone()]) {
            chown(own, Some(user.0), Some(user.1)).unwrap();
        }
        Delegated(path)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_limit_holds_where_control_groups_were_delegated_and_is_refused_elsewhere() {
    let Some(rbuild) = users_rbuild() else { return };
    if !Path::new(MEMORY).join("cgroup.procs").exists() {
        eprintln!("skipped: no memory controller of version 1");
        return;
    }
    let context = hungry(&rbuild);
    let said = rbuild.fails(1, ["build", "--resource", "memory=64m", context.to_str().unwrap()]);
    assert!(said.contains("memory cannot be set for a step: /sys/fs/cgroup/memory"), "{said}");
    assert!(said.contains("is not ours to write: run as root, or have the control groups delegated"), "{said}");
    let said = rbuild.fails(1, ["build", "--cgroup-parent", "rbuild-test-none", context.to_str().unwrap()]);
    assert!(said.contains("cgroup-parent cannot be set for a step: /sys/fs/cgroup/"), "{said}");

    let delegated = Delegated::to(rbuild.user.unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(delegated.0.join("cgroup.procs"));
    let build = rbuild.command(["build", "--resource", "memory=64m"]);
    command.arg(build.get_program()).args(build.get_args()).arg(&context).current_dir(rbuild.dir.path());
    command.env("RBUILD_ROOT", rbuild.root()).env("HOME", rbuild.dir.path());
    let output = as_user(&mut command, rbuild.user.unwrap()).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did not complete successfully: cannot allocate memory"), "{said}");
    let below = fs::read_dir(&delegated.0).unwrap().flatten().filter(|entry| entry.path().is_dir());
    assert_eq!(below.count(), 0, "the step's group is gone");
}

#[test]
fn a_device_is_the_hosts_own_node() {
    let Some(rbuild) = users_rbuild() else { return };
    let spec = "cdiVersion: 0.6.0\nkind: rbuild.test/thing\ndevices:\n- name: one\n  containerEdits:\n    \
                env: [THING=one]\n    deviceNodes: [{ path: /dev/thing, hostPath: /dev/full, fileMode: 0600 }]\n";
    let specs = rbuild.context("cdi", &[("things.yaml", spec)]);
    fs::write(rbuild.path("config.toml"), format!("[cdi]\nspecDirs = [{specs:?}]\n")).unwrap();
    let script =
        "RUN --device=rbuild.test/thing=one (echo x > /dev/thing) 2>&1; stat -c '%t %T' /dev/thing; echo $THING";
    let context = rbuild.context("ctx", &[("Dockerfile", &format!("FROM busybox\n{script}\n"))]);
    let mut command = rbuild.command(["build", "--progress=plain", "--allow", "device"]);
    let output = command.arg(context).env("RBUILD_CONFIG", rbuild.path("config.toml")).output().unwrap();
    let said = text(&output.stderr);
    for want in ["No space left on device", " 1 7\n", " one\n"] {
        assert!(output.status.success() && said.contains(want), "{want:?} is not in\n{said}");
    }
}
