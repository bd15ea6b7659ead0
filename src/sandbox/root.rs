//! Makes a mount the root of everything this process can see.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{mount_change, unmount, MountAttrFlags, MountPropagationFlags, UnmountFlags};

use super::error::Error;
use super::keeper::tell_stub;
use super::mounting::{attach, restrict, Reach};
use super::target::{self, Shape};

fn failed(step: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::setup_at(step, "/")(errno.into())
}

/// Makes `root` the only thing there is. See `pivot_root(2)`, "pivot_root(".", ".")".
pub(super) fn enter(root: BorrowedFd, insecure: bool) -> Result<(), Error> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(failed("make private"))?;
    // A device node that the step makes is a file like any other: no device controller is needed to keep it closed.
    let attributes = if insecure { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_NODEV };
    restrict(root, attributes, Reach::Tree).map_err(Error::setup("restrict the root"))?;
    let host = open_root()?;
    attach(root, &host).map_err(Error::setup("mount the root"))?;
    rustix::process::fchdir(root).map_err(failed("enter"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("pivot to"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the host's"))?;
    rustix::process::chdir("/").map_err(failed("enter"))
}

/// Takes the right to write to the root itself.
pub(super) fn make_read_only(root: BorrowedFd) -> Result<(), Error> {
    restrict(root, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One).map_err(Error::setup_at("make read-only", "/"))
}

fn open_root() -> Result<OwnedFd, Error> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open"))
}

/// The kernel's number of the mount that something is in.
fn mount_of(file: BorrowedFd) -> Result<u64, Error> {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(failed("look at"))?;
    Ok(stat.stx_mnt_id)
}

/// The tree the step will see, while it is being put together.
pub(super) struct Tree<'a> {
    root: OwnedFd,
    /// The kernel's number of the root's mount.
    mount: u64,
    keeper: BorrowedFd<'a>,
    keep_stub_parents: bool,
}

impl<'a> Tree<'a> {
    /// The tree below the present root; mount points that are made in it are told to the keeper.
    pub fn open(keeper: BorrowedFd<'a>, keep_stub_parents: bool) -> Result<Tree<'a>, Error> {
        let root = open_root()?;
        Ok(Tree { mount: mount_of(root.as_fd())?, root, keeper, keep_stub_parents })
    }

    /// Opens a mount point, making it when it is missing.
    ///
    /// In the root it is removed after the step. In a mount below it stays: another step may be mounting onto the same
    /// place of a shared cache, and to remove a mount point in one namespace unmounts it in all.
    pub fn target(&self, path: &Path, shape: Shape) -> Result<OwnedFd, Error> {
        let mut made = Vec::new();
        let target = target::open(&self.root, path, shape, &mut made);
        // What was made before a failure has to be removed too.
        let above = if self.keep_stub_parents && target.is_ok() { made.len().saturating_sub(1) } else { 0 };
        for stub in made.iter().skip(above) {
            if mount_of(stub.parent.as_fd())? != self.mount {
                continue;
            }
            tell_stub(self.keeper, stub).map_err(Error::setup("tell of a mount point"))?;
        }
        target
    }

    /// Opens a directory that becomes part of the tree for good if it has to be made.
    pub fn directory(&self, path: &Path) -> Result<OwnedFd, Error> {
        target::open(&self.root, path, Shape::Directory, &mut Vec::new())
    }

    /// Opens a directory directly below the root, which must not be a link.
    pub fn top(&self, name: &str) -> Result<OwnedFd, Error> {
        match target::open_real(&self.root, Path::new(name), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => Ok(directory),
            Err(Errno::NOENT) => self.target(Path::new(name), Shape::Directory),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                Err(Error::Refused { path: Path::new("/").join(name), reason: "is not a directory".to_owned() })
            }
            Err(errno) => Err(Error::setup_at("open", Path::new("/").join(name))(errno.into())),
        }
    }
}
