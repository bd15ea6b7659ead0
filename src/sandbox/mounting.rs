//! The kernel's mount calls, by descriptor and never by a path that somebody else may change.
//!
//! See `fsopen(2)`, `fsmount(2)`, `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};
use rustix::path::Arg;

use super::error::{check, Error};
use super::inside;

/// No set-user-id programs, no devices, no programs at all.
pub(super) const NO_SUID_DEV_EXEC: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Gives the calling thread a mount namespace of its own that still sees mounts the host makes later.
///
/// To be called by the builder when it starts as root, before it starts a thread: what it mounts from then on nobody
/// else sees, and the kernel removes it when the last process in there dies.
///
/// # Errors
/// [`Error::Setup`] without the right to do so.
pub fn private_mount_namespace() -> Result<(), Error> {
    // SAFETY: CLONE_NEWNS changes what paths mean to this thread and touches no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .map_err(|errno| Error::setup("unshare the mount namespace")(errno.into()))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|errno| Error::setup_at("stop mounts from reaching the host", "/")(errno.into()))
}

/// A detached mount of `path` in a tree that is not to be trusted: the source of a [`MountKind::Bind`].
///
/// Links are followed inside the tree only, also while somebody else is changing them; what was found is mounted, not
/// what has its name later. The tree's directory must be visible in this process's mount namespace.
///
/// [`MountKind::Bind`]: super::MountKind::Bind
///
/// # Errors
/// [`Error::Setup`] with the path: it does not exist, or it may not be mounted.
pub fn bind_source(tree: BorrowedFd, path: &Path) -> Result<OwnedFd, Error> {
    let found = inside::open(tree, path, OFlags::PATH, ResolveFlags::NO_MAGICLINKS)
        .map_err(|errno| Error::setup_at("open", path)(errno.into()))?;
    clone_mount(found, c"").map_err(Error::setup_at("clone", path))
}

/// A detached mount of a file or directory of the host's, as an administrator names it: the source of a
/// [`MountKind::Bind`](super::MountKind::Bind).
///
/// # Errors
/// [`Error::Setup`] with the path: it does not exist, or it may not be mounted.
pub fn host_source(path: &Path, is_recursive: bool, no_suid: bool, no_exec: bool) -> Result<OwnedFd, Error> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, is_recursive);
    let failed = |errno: rustix::io::Errno| Error::setup_at("mount the host's", path)(errno.into());
    let source = open_tree(rustix::fs::CWD, path, flags).map_err(failed)?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, no_suid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, no_exec);
    restrict(source.as_fd(), attributes, Reach::Tree).map_err(Error::setup_at("restrict the host's", path))?;
    Ok(source)
}

/// A new, detached mount of a file system that needs no device.
pub(super) fn new_mount(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key)?;
        } else {
            fsconfig_set_string(&context, *key, *value)?;
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A new, detached mount of the file or directory `name` in `dir`, without what is mounted below it.
pub(super) fn clone_mount(dir: impl AsFd, name: impl Arg) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    Ok(open_tree(dir, name, flags)?)
}

/// Puts a detached mount onto a file or directory.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", target, c"", flags)?)
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `MS_PRIVATE`, at the width that `mount_attr` has it.
const PRIVATE: u64 = 1 << 18;

/// How much of a mount a change is for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Reach {
    /// The mount alone.
    One,
    /// And all that is mounted below it.
    Tree,
}

/// Adds attributes to a mount and makes it private, so that nothing mounted on it shows elsewhere.
pub(super) fn restrict(mount: BorrowedFd, attributes: MountAttrFlags, reach: Reach) -> io::Result<()> {
    let attr = MountAttr { set: attributes.bits().into(), clear: 0, propagation: PRIVATE, userns_fd: 0 };
    let flags = match reach {
        Reach::One => libc::AT_EMPTY_PATH,
        Reach::Tree => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    };
    // SAFETY: the descriptor is open, the path is a C string, and the size given is that of the struct pointed to.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}
