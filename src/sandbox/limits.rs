//! What one process may use, by `setrlimit(2)`.
//!
//! Fixed values first, so that a build does not depend on the shell it was started from.

use std::io;

use super::error::{check, Error};

/// No core files on the host, and the traditional number of open files.
#[allow(clippy::unnecessary_cast)] // the type of the constants differs between C libraries
const FIXED: [(u32, u64, u64); 2] = [(libc::RLIMIT_CORE as u32, 0, 0), (libc::RLIMIT_NOFILE as u32, 1024, 1 << 20)];

/// Whether `kernel.pid_max` belongs to the pid namespace, as it does since Linux 6.14, and limits only what is in it.
/// On an older kernel a step's limit would become the host's.
pub(super) fn pid_namespaces_limit() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|digits| digits.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}

/// Sets the asked-for limits, and the fixed ones of what nobody asked for: a hard limit cannot be raised again.
pub(super) fn apply(asked: &[(u32, u64, u64)]) -> Result<(), Error> {
    let is_left = |fixed: &&(u32, u64, u64)| !asked.iter().any(|(resource, ..)| *resource == fixed.0);
    for (resource, soft, hard) in FIXED.iter().filter(is_left).chain(asked) {
        set(*resource, *soft, *hard).map_err(Error::setup("set a resource limit"))?;
    }
    Ok(())
}

fn set(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a local struct of the type the call fills in.
    check(unsafe { libc::getrlimit(resource as _, &raw mut limit) }.into())?;
    // Raising the hard limit takes a right that the builder may not have; the highest possible is meant then.
    limit.rlim_max = hard.min(limit.rlim_max);
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: as above, read only.
    check(unsafe { libc::setrlimit(resource as _, &raw const limit) }.into())?;
    Ok(())
}
