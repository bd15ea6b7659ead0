//! The way from a fresh copy of the keeper to the user's program.
//!
//! The order matters: the root first, since from then on every path is the image's; mounts while links in the image
//! can still be followed safely; identity and filter last, since they take away the rights that the rest needs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::mount::{mount_change, unmount, MountAttrFlags, MountPropagationFlags, UnmountFlags};

use super::error::{check, Error};
use super::keeper::{tell_failure, tell_stub};
use super::mounting::{attach, new_mount, restrict, Reach, NO_SUID_DEV_EXEC};
use super::target::{self, Shape};
use super::wire::Order;

/// Sets up the sandbox around this process and becomes the program.
pub(super) fn enter(order: &Order, keeper: OwnedFd) -> ! {
    let error = match set_up(order, keeper.as_fd()) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    tell_failure(keeper.as_fd(), error);
    // SAFETY: ends this copy without running the keeper's exit handlers.
    unsafe { libc::_exit(125) }
}

fn set_up(order: &Order, keeper: BorrowedFd) -> Result<std::convert::Infallible, Error> {
    // SAFETY: the keeper's copy of this descriptor stays open until the program runs.
    let root = unsafe { BorrowedFd::borrow_raw(order.root) };
    check(unsafe { libc::setsid() }.into()).map_err(Error::setup("start a session"))?;
    rustix::system::sethostname(order.hostname.as_bytes()).map_err(|e| Error::setup("set the host name")(e.into()))?;
    enter_root(root)?;
    let tell = |stub: &target::Stub| tell_stub(keeper, stub).map_err(Error::setup("tell of a mount point"));
    let proc = new_mount("proc", &[], NO_SUID_DEV_EXEC).map_err(Error::setup("open procfs"))?;
    place(Path::new("/proc"), Shape::Directory, proc.as_fd(), &tell)?;
    change_directory(&order.cwd)?;
    Err(execute(order))
}

/// Makes the given mount `/`, and everything else unreachable.
fn enter_root(root: BorrowedFd) -> Result<(), Error> {
    let failed = |step: &'static str| move |errno: rustix::io::Errno| Error::setup_at(step, "/")(errno.into());
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(failed("make private"))?;
    restrict(root, MountAttrFlags::MOUNT_ATTR_NODEV, Reach::Tree).map_err(Error::setup("restrict the root"))?;
    let host =
        rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).map_err(failed("open"))?;
    attach(root, &host).map_err(Error::setup("mount the root"))?;
    rustix::process::fchdir(root).map_err(failed("enter"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("pivot to"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the host's"))?;
    rustix::process::chdir("/").map_err(failed("enter"))
}

/// Mounts onto `path`, which is made when missing.
fn place(
    path: &Path,
    shape: Shape,
    mount: BorrowedFd,
    tell: &dyn Fn(&target::Stub) -> Result<(), Error>,
) -> Result<(), Error> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .map_err(|e| Error::setup_at("open", "/")(e.into()))?;
    let mut made = Vec::new();
    let target = target::open(&root, path, shape, &mut made)?;
    made.iter().try_for_each(tell)?;
    attach(mount, &target).map_err(Error::setup_at("mount", path))
}

fn change_directory(path: &Path) -> Result<(), Error> {
    rustix::process::chdir(path).map_err(|e| Error::setup_at("enter", path)(e.into()))
}

/// Becomes the program; returns why that is not possible.
fn execute(order: &Order) -> Error {
    let strings = |list: &[Vec<u8>]| -> Vec<CString> {
        list.iter().map(|bytes| CString::new(bytes.as_slice()).unwrap_or_default()).collect()
    };
    let (args, env) = (strings(&order.args), strings(&order.env));
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    // SAFETY: both arrays end with a null pointer and point to C strings that live until the call returns.
    unsafe { libc::execve(argv[0], argv.as_ptr(), envp.as_ptr()) };
    Error::NotExecutable {
        program: args[0].to_string_lossy().into_owned(),
        reason: io::Error::last_os_error().to_string(),
    }
}
