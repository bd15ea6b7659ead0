//! The way from a fresh copy of the keeper to the user's program.
//!
//! The order matters: the root first, since from then on every path is the image's; mounts while the rights for them
//! are there; identity and filter last, since they take those rights away.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;

use super::error::{check, Error};
use super::keeper::tell_failure;
use super::kernel_files::KernelFiles;
use super::root::Tree;
use super::stage::Stage;
use super::wire::Order;
use super::{cgroup, device, identity, limits, network, placement, program, root};

/// Sets up the sandbox around this process and becomes the program.
pub(super) fn enter(order: &Order, keeper: OwnedFd) -> ! {
    let Err(error) = set_up(order, keeper.as_fd());
    tell_failure(keeper.as_fd(), error);
    // SAFETY: ends this copy without running the keeper's exit handlers.
    unsafe { libc::_exit(125) }
}

fn set_up(order: &Order, keeper: BorrowedFd) -> Result<Infallible, Error> {
    // Modes given below are exact.
    rustix::process::umask(Mode::empty());
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() }.into()).map_err(Error::setup("start a session"))?;
    cgroup::join(&order.cgroups)?;
    if order.own_network {
        network::raise_loopback()?;
    }
    rustix::system::sethostname(order.hostname.as_bytes()).map_err(|e| Error::setup("set the host name")(e.into()))?;

    let mut stage = Stage::new()?;
    device::prepare(&mut stage, order.insecure)?;
    let devices = placement::make_devices(&mut stage, &order.devices)?;
    let kernel = KernelFiles::open(order.insecure)?;
    // SAFETY: the spawner passed this descriptor on to us, and only `program::execute` closes it.
    let mount = unsafe { BorrowedFd::borrow_raw(order.root) };
    root::enter(mount, order.insecure)?;
    let tree = Tree::open(keeper, order.keep_stub_parents)?;
    kernel.mount(&tree, order.pid_max)?;
    let files = placement::write_files(&mut stage, &order.mounts)?;
    let staged = stage.close(&tree)?;
    let dev = device::mount(&tree, &staged, order.insecure)?;
    placement::mount(&tree, &staged, &files, order)?;
    placement::mount_devices(&tree, &staged, &devices, &order.devices)?;
    if !order.insecure {
        kernel.hide(dev.as_fd())?;
    }
    program::enter_directory(&tree, &order.cwd)?;
    if order.read_only_root {
        root::make_read_only(mount)?;
    }

    limits::apply(&order.rlimits)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    identity::assume(order)?;
    program::execute(order, keeper)
}
