//! Descriptors that whoever started this process passed on by number.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes the descriptor of this number, which was open when this process began and belongs to nobody in it. To be
/// called once for each.
///
/// # Errors
/// No such descriptor is open.
pub fn passed_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asking for and setting flags of a number has no effect on memory.
    let set = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as the call above has shown, and by contract nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
