//! Limits on a whole step, where the kernel has them only by control group.

use std::os::fd::{BorrowedFd, RawFd};

use super::error::Error;

/// Moves this process into the groups whose `cgroup.procs` are open.
pub(super) fn join(groups: &[RawFd]) -> Result<(), Error> {
    for group in groups {
        // SAFETY: the spawner passed this descriptor on to us, and only `program::execute` closes it.
        let group = unsafe { BorrowedFd::borrow_raw(*group) };
        rustix::io::write(group, b"0").map_err(|e| Error::setup("join the control group")(e.into()))?;
    }
    // The group just joined is the root of what the step can see.
    // SAFETY: changes no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }
        .map_err(|e| Error::setup("unshare the control groups")(e.into()))
}
