//! Takes away what the builder may do and the step may not: capabilities, system calls, user ids.
//!
//! See `capabilities(7)`, `seccomp(2)`, `credentials(7)`, `keyrings(7)`.

use std::io;

use super::error::{check, Error};
use super::wire::Order;

/// The fourteen capabilities of a build step, by the kernel's numbers: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
/// SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const CAPABILITIES: [u32; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

/// Becomes the step's user with the step's rights.
pub(super) fn assume(order: &Order) -> Result<(), Error> {
    own_keyring();
    give_pipes_to(order);
    if !order.insecure {
        limit_bounding_set().map_err(Error::setup("drop capabilities"))?;
    }
    // Loading a filter without no_new_privs takes CAP_SYS_ADMIN, and sudo must go on working inside.
    load_filter(&order.filter).map_err(Error::setup("load the system call filter"))?;
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    become_user(order).map_err(Error::setup("become the user"))?;
    if order.insecure {
        return if order.uid == 0 { inherit_all().map_err(Error::setup("keep capabilities")) } else { Ok(()) };
    }
    let kept = if order.uid == 0 { CAPABILITIES.iter().fold(0, |set, number| set | 1 << number) } else { 0 };
    set_capabilities(&[Sets { effective: kept, permitted: kept, inheritable: 0 }, Sets::default()])
        .map_err(Error::setup("set capabilities"))
}

/// A session keyring that holds nothing of the builder's. Where keys are not allowed there is nothing to leave behind.
fn own_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for a new anonymous keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) };
}

/// A pipe belongs to who made it, so another user could not open `/dev/stdout`.
fn give_pipes_to(order: &Order) {
    for fd in 0..3 {
        // SAFETY: the standard descriptors are open for the life of the process.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        let is_pipe = rustix::fs::fstat(fd)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo);
        if is_pipe {
            let (uid, gid) = (rustix::fs::Uid::from_raw(order.uid), rustix::fs::Gid::from_raw(order.gid));
            // Refused in a user namespace that does not map them; then only reopening by path fails.
            let _ = rustix::fs::fchown(fd, Some(uid), Some(gid));
        }
    }
}

fn limit_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        if CAPABILITIES.contains(&number) {
            continue;
        }
        // SAFETY: plain numbers.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        match check(dropped.into()) {
            Ok(_) => {}
            // The answer to the first number that the kernel has no capability for.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn load_filter(filter: &[u64]) -> io::Result<()> {
    if filter.is_empty() {
        return Ok(());
    }
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: a u64 of the filter is laid out as `struct sock_filter` (see `bpf::Instruction::pack`); the kernel copies.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })?;
    Ok(())
}

fn become_user(order: &Order) -> io::Result<()> {
    // By system call: the C library's functions speak to all threads, of which there is only this one.
    // SAFETY: the pointer is to as many groups as are said.
    let groups = check(unsafe { libc::syscall(libc::SYS_setgroups, order.groups.len(), order.groups.as_ptr()) });
    match groups {
        // A user namespace made without privilege may not change groups, see user_namespaces(7); those it keeps are the
        // user's own. Root needs no others.
        Err(_) if (order.groups == [order.gid] || order.uid == 0) && groups_are_fixed() => {}
        other => _ = other?,
    }
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, order.gid, order.gid, order.gid) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, order.uid, order.uid, order.uid) })?;
    Ok(())
}

fn groups_are_fixed() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

/// One half of the capability sets, `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set_capabilities(sets: &[Sets; 2]) -> io::Result<()> {
    let header = [VERSION, 0];
    // SAFETY: version 3 has a header of two words and data of two halves.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })?;
    Ok(())
}

/// All that the builder has, in all five sets.
fn inherit_all() -> io::Result<()> {
    let header = [VERSION, 0];
    let mut sets = [Sets::default(); 2];
    // SAFETY: as for capset; the kernel fills in both halves.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) })?;
    for half in &mut sets {
        half.inheritable = half.permitted;
        half.effective = half.permitted;
    }
    set_capabilities(&sets)?;
    for number in 0..64_u32 {
        if sets[number as usize / 32].permitted & (1 << (number % 32)) == 0 {
            continue;
        }
        // SAFETY: plain numbers.
        let raised =
            unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, libc::c_ulong::from(number), 0, 0) };
        check(raised.into())?;
    }
    Ok(())
}
