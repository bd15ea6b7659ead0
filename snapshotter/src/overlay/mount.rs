//! Mounts that are attached nowhere: they die with their descriptor, and no directory of the host shows them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree,
    unmount, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::thread::UnshareFlags;

use super::whiteout::XattrSpace;
use crate::error::{Error, Result};

/// The most snapshots one overlay shows; the kernel's own limit.
pub(crate) const MOST_LOWERS: usize = 500;

/// A mounted tree. Dropping it unmounts, unless a namespace it was moved into still has it.
#[must_use = "dropping it unmounts the tree"]
#[derive(Debug)]
pub struct Mounted {
    root: OwnedFd,
    _in_use: Option<InUse>,
}

impl Mounted {
    pub(crate) fn new(root: OwnedFd, in_use: Option<InUse>) -> Self {
        Self { root, _in_use: in_use }
    }

    /// The root of the tree: a mount of its own, good for `openat2` and for `move_mount` into a mount namespace.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The right to have an upper directory mounted; the kernel warns about two overlays on one, and then breaks both.
#[derive(Debug)]
pub(crate) struct InUse(Arc<AtomicBool>);

impl InUse {
    pub(crate) fn claim(flag: &Arc<AtomicBool>) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(flag.clone()))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The layers of an overlay.
pub(crate) struct Stack<'a> {
    /// Top first.
    pub(crate) lowers: &'a [OwnedFd],
    /// The upper and the work directory, for a writable tree.
    pub(crate) upper: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// Where the overlay's marks are.
    pub(crate) xattrs: XattrSpace,
    /// A directory of our own that the old interface has to mount on for a moment.
    pub(crate) spot: &'a Path,
}

/// How an overlay is told its directories, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    /// Descriptors, one `lowerdir+` each; Linux 6.13.
    Descriptors,
    /// Paths, one `lowerdir+` each; Linux 6.7.
    Paths,
    /// One page of options to mount(2), all lowers in one.
    Page,
}

const INTERFACES: [Interface; 3] = [Interface::Descriptors, Interface::Paths, Interface::Page];

/// The index in [`INTERFACES`] of the first one worth trying; kernels do not change while we run.
static FIRST: AtomicU8 = AtomicU8::new(0);

/// Mounts an overlay by the newest interface the kernel has.
pub(crate) fn overlay(stack: &Stack<'_>) -> Result<OwnedFd> {
    let first = usize::from(FIRST.load(Ordering::Relaxed)).min(INTERFACES.len() - 1);
    let mut refused = None;
    for (index, interface) in INTERFACES.iter().enumerate().skip(first) {
        match overlay_by(*interface, stack) {
            Ok(root) => {
                FIRST.store(index as u8, Ordering::Relaxed);
                return Ok(root);
            }
            // What an older kernel, or a seccomp filter that does not know the calls, says to a newer interface.
            Err((_, Errno::INVAL | Errno::NOSYS | Errno::BADF | Errno::OPNOTSUPP)) if index + 1 < INTERFACES.len() => {}
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let (what, error) = refused.unwrap_or(("overlay", Errno::INVAL));
    Err(Error::Mount { what, source: error.into() })
}

pub(crate) fn overlay_by(interface: Interface, stack: &Stack<'_>) -> Result<OwnedFd, (&'static str, Errno)> {
    if interface == Interface::Page {
        return overlay_by_page(stack);
    }
    let at = |what| move |error| (what, error);
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("open the overlay file system"))?;
    let directory = |key: &'static str, fd: BorrowedFd<'_>| {
        let set = match interface {
            Interface::Descriptors => fsconfig_set_fd(fs.as_fd(), key, fd),
            _ => fsconfig_set_string(fs.as_fd(), key, fd_path(fd)),
        };
        set.map_err(at("give the overlay a directory"))
    };
    for lower in stack.lowers {
        directory("lowerdir+", lower.as_fd())?;
    }
    if let Some((upper, work)) = stack.upper {
        directory("upperdir", upper)?;
        directory("workdir", work)?;
        // Without it, unmounting syncs the whole file system below.
        fsconfig_set_flag(fs.as_fd(), "volatile").map_err(at("make the overlay volatile"))?;
    }
    for (key, value) in options(stack.xattrs) {
        fsconfig_set_string(fs.as_fd(), key, value).map_err(at("set the overlay's options"))?;
    }
    if stack.xattrs == XattrSpace::User {
        fsconfig_set_flag(fs.as_fd(), "userxattr").map_err(at("set userxattr"))?;
    }
    fsconfig_create(fs.as_fd()).map_err(at("make the overlay"))?;
    let attributes = match stack.upper {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("mount the overlay"))
}

/// What every overlay is told. With the defaults of some kernels, a new directory in an upper would be marked opaque.
fn options(xattrs: XattrSpace) -> [(&'static str, &'static str); 4] {
    let redirect = match xattrs {
        XattrSpace::Trusted => "off",
        // The only value that goes together with `userxattr`; it makes no redirects either.
        XattrSpace::User => "nofollow",
    };
    [("index", "off"), ("metacopy", "off"), ("redirect_dir", redirect), ("xino", "off")]
}

fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// mount(2) takes one page of options, so 500 lowers fit only as bare descriptor numbers, relative to their directory.
fn overlay_by_page(stack: &Stack<'_>) -> Result<OwnedFd, (&'static str, Errno)> {
    let lowers: Vec<_> = stack.lowers.iter().map(|lower| lower.as_raw_fd().to_string()).collect();
    let mut options = options(stack.xattrs).map(|(key, value)| format!("{key}={value}")).join(",");
    if stack.xattrs == XattrSpace::User {
        options.push_str(",userxattr");
    }
    let mut flags = MountFlags::empty();
    match stack.upper {
        Some((upper, work)) => {
            options.push_str(&format!(",volatile,upperdir={},workdir={}", upper.as_raw_fd(), work.as_raw_fd()))
        }
        None => flags |= MountFlags::RDONLY,
    }
    options.push_str(&format!(",lowerdir={}", lowers.join(":")));
    if options.len() >= 4096 {
        return Err(("name all directories of the overlay", Errno::NAMETOOLONG));
    }
    let at = |what| move |error| (what, error);
    // The working directory belongs to the whole process; a thread that gives up its share may have its own.
    let mounting = || -> Result<(), (&'static str, Errno)> {
        #[allow(deprecated)] // marked unsafe for the sake of FILES and NEWNS, which are not used here
        rustix::thread::unshare(UnshareFlags::FS).map_err(at("get a working directory"))?;
        rustix::process::chdir("/proc/self/fd").map_err(at("enter /proc/self/fd"))?;
        let options = std::ffi::CString::new(options.as_str()).map_err(|_| ("name the directories", Errno::INVAL))?;
        mount("overlay", stack.spot, "overlay", flags, options.as_c_str()).map_err(at("mount the overlay"))
    };
    std::thread::scope(|threads| threads.spawn(mounting).join()).map_err(|_| ("mount the overlay", Errno::IO))??;
    let root =
        open_tree(rustix::fs::CWD, stack.spot, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    unmount(stack.spot, UnmountFlags::DETACH).map_err(at("take the overlay off its directory"))?;
    root.map_err(at("detach the overlay"))
}

/// Mounts a directory as it is.
pub(crate) fn bind(directory: BorrowedFd<'_>, is_read_only: bool) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let root = open_tree(directory, "", flags)
        .map_err(|error| Error::Mount { what: "a snapshot's directory", source: error.into() })?;
    if is_read_only {
        make_read_only(root.as_fd())
            .map_err(|error| Error::Mount { what: "a snapshot's directory read-only", source: error })?;
    }
    Ok(root)
}

fn make_read_only(mount: BorrowedFd<'_>) -> std::io::Result<()> {
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the descriptor is open for the length of the call, the path is a terminated empty string, and the
    // kernel reads exactly `size_of::<mount_attr>()` bytes of the structure, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attributes as *const libc::mount_attr,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
