//! The devices of a sandbox: the harmless ones, and for an insecure step some of the host's.
//!
//! Each node is a mount of its own on a `/dev` that allows no devices, so what a step makes there with mknod(2)
//! cannot be opened. See the OCI runtime specification, "Default Devices".

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{major, minor, statat, FileType, Mode, OFlags, CWD};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::Error;
use super::mounting::{attach, new_mount, NO_SUID_DEV_EXEC};
use super::root::Tree;
use super::stage::{Stage, Staged};

/// Every sandbox has these: name, major, minor.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// An insecure one has these too, where the host has them.
const INSECURE_NODES: [&str; 14] = [
    "kmsg",
    "cuse",
    "fuse",
    "kvm",
    "net/tun",
    "loop-control",
    "loop0",
    "loop1",
    "loop2",
    "loop3",
    "loop4",
    "loop5",
    "loop6",
    "loop7",
];

/// Where programs expect their own descriptors and the terminal multiplexer.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the nodes, while the host's `/dev` can still be seen.
pub(super) fn prepare(stage: &mut Stage, insecure: bool) -> Result<(), Error> {
    for (name, major, minor) in NODES {
        stage.node(name, FileType::CharacterDevice, major, minor)?;
    }
    for name in insecure.then_some(INSECURE_NODES).into_iter().flatten() {
        let Ok(stat) = statat(CWD, format!("/dev/{name}"), rustix::fs::AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            stage.node(name, kind, major(stat.st_rdev), minor(stat.st_rdev))?;
        }
    }
    Ok(())
}

/// Puts `/dev` together; gives its mount.
pub(super) fn mount(tree: &Tree, staged: &Staged, insecure: bool) -> Result<OwnedFd, Error> {
    let failed = |name: &str| {
        let path = format!("/dev/{name}");
        move |errno: Errno| Error::setup_at("make", path)(errno.into())
    };
    let attributes = match insecure {
        true => MountAttrFlags::MOUNT_ATTR_NOSUID,
        false => MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    };
    let dev = new_mount("tmpfs", &[("mode", "0755"), ("size", "64m")], attributes)
        .map_err(Error::setup_at("make a tmpfs for", "/dev"))?;
    attach(&dev, tree.top("dev")?).map_err(Error::setup_at("mount", "/dev"))?;
    for name in NODES.iter().map(|node| node.0).chain(insecure.then_some(INSECURE_NODES).into_iter().flatten()) {
        let key = name.replace('/', "-");
        if !staged.holds(&key) {
            continue;
        }
        if let Some((parent, _)) = name.split_once('/') {
            rustix::fs::mkdirat(&dev, parent, Mode::from_raw_mode(0o755)).map_err(failed(parent))?;
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        let target = rustix::fs::openat(&dev, name, flags, Mode::from_raw_mode(0o666)).map_err(failed(name))?;
        staged.mount(&key, target, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    }
    for (name, link) in LINKS {
        rustix::fs::symlinkat(link, &dev, name).map_err(failed(name))?;
    }
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // In a user namespace group 5 may not exist.
    let pts = new_mount("devpts", &options, attributes).or_else(|_| new_mount("devpts", &options[..2], attributes));
    let shm = new_mount("tmpfs", &[("mode", "1777"), ("size", "64m")], NO_SUID_DEV_EXEC);
    let mqueue = new_mount("mqueue", &[], NO_SUID_DEV_EXEC);
    for (name, mount) in [("pts", pts), ("shm", shm), ("mqueue", mqueue)] {
        let path = format!("/dev/{name}");
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).map_err(failed(name))?;
        let mount = match mount {
            // A kernel without POSIX queues: a step that wants them is told so by its own call.
            Err(error) if name == "mqueue" && error.raw_os_error() == Some(libc::ENODEV) => continue,
            other => other.map_err(Error::setup_at("open a file system for", &path))?,
        };
        let target =
            rustix::fs::openat(&dev, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed(name))?;
        attach(mount.as_fd(), target).map_err(Error::setup_at("mount", &path))?;
    }
    Ok(dev)
}
