//! The process that holds a sandbox together.
//!
//! It is pid 1 of a namespace around the step's own: it starts the step, waits for it, removes the mount points that
//! were made in the image, and reports. When it dies, of whatever, the kernel kills everything in the namespaces below.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{poll, PollFd, PollFlags};
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::error::{check, Error};
use super::step;
use super::target::{Shape, Stub};
use super::template;
use super::wire::{Order, Reader, Report, Writer};

/// What stands before the number of a template's socket.
pub(super) const TEMPLATE: &str = "t";

/// The largest message of a step that is setting itself up.
const MESSAGE: usize = 64 * 1024;

/// Becomes a keeper and never returns, if that is what this process was started as.
///
/// The first thing that `main` does, before any thread: the spawner executes its own program under the name
/// `rbuild-init`, with the number of a descriptor as the only argument, or of a template's socket behind a letter.
pub fn enter_if_asked() {
    let mut arguments = std::env::args_os();
    if arguments.next().as_deref() != Some(OsStr::new("rbuild-init")) {
        return;
    }
    let argument = arguments.next().and_then(|argument| argument.into_string().ok()).unwrap_or_default();
    let code = match (argument.strip_prefix(TEMPLATE).map(str::parse), argument.parse()) {
        (Some(Ok(socket)), _) => template::serve(socket),
        (None, Ok(order)) => keep(order, &[]),
        _ => 125,
    };
    std::process::exit(code);
}

/// The life of a keeper. `numbers` are those of the order's descriptors with the ones they have here, where they differ.
pub(super) fn keep(order: RawFd, numbers: &[(RawFd, RawFd)]) -> i32 {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    // SAFETY: the spawner passes this descriptor to us and nothing else in this process knows of it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(order) });
    let Ok(mut order) = read_order(file) else { return 125 };
    order.renumber(numbers);
    // The builder's directory is not ours to keep in use.
    let _ = rustix::process::chdir("/");
    // SAFETY: as above, for the pipe that the order names.
    let mut reports = File::from(unsafe { OwnedFd::from_raw_fd(order.report) });
    let report = match run(order, &mut reports) {
        Ok(status) => Report::Exited(status),
        Err(error) => Report::Failed(error),
    };
    // Nobody to hear it: then nobody to tell that either.
    let _ = send(&mut reports, &report);
    0
}

fn read_order(mut file: File) -> io::Result<Order> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Order::decode(&bytes)
}

fn send(to: &mut File, report: &Report) -> io::Result<()> {
    let message = report.encode();
    let mut bytes = (message.len() as u64).to_le_bytes().to_vec();
    bytes.extend(message);
    to.write_all(&bytes)
}

/// Starts the step, waits for it and cleans up; gives its status word.
fn run(mut order: Order, reports: &mut File) -> Result<i32, Error> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::setup("make a socket pair")(errno.into()))?;
    let (pid, pidfd) = match clone(order.own_network).map_err(Error::setup("clone the step"))? {
        Cloned::Child => {
            drop(ours);
            step::enter(&order, theirs)
        }
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(theirs);
    order.forget_secrets();
    // The step's pipes must end with the step, and its mounts with its namespace.
    forget_all_but(&[ours.as_raw_fd(), pidfd.as_raw_fd(), reports.as_raw_fd()]);

    let mut stubs = Vec::new();
    let set_up = listen(&ours, &mut stubs);
    if set_up.is_ok() {
        let _ = send(reports, &Report::Started);
    }
    let status = wait(pid, &pidfd, reports).map_err(Error::setup("wait for the step"));
    for stub in stubs.iter().rev() {
        stub.remove();
    }
    set_up.and(status)
}

enum Cloned {
    Child,
    Parent(libc::pid_t, OwnedFd),
}

/// Forks this small process into the step's namespaces.
fn clone(own_network: bool) -> io::Result<Cloned> {
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    flags |= libc::CLONE_PIDFD | libc::SIGCHLD;
    if own_network {
        flags |= libc::CLONE_NEWNET;
    }
    let mut pidfd: RawFd = -1;
    // SAFETY: this process has one thread, so its copy is whole; no stack and no thread pointer are given, so the copy
    // goes on with its own. The third argument is where CLONE_PIDFD stores the descriptor, on all architectures.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Cloned::Parent(pid as libc::pid_t, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Closes every descriptor but these.
pub(super) fn forget_all_but(kept: &[RawFd]) {
    let mut kept: Vec<libc::c_uint> = kept.iter().map(|fd| *fd as libc::c_uint).collect();
    kept.sort_unstable();
    let mut from = 0;
    for fd in kept {
        if fd > from {
            // SAFETY: none of the descriptors in between belongs to an object that is still used.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd + 1;
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, from, libc::c_uint::MAX, 0) };
}

/// Takes what the step says until its program runs; the socket then closes by itself.
fn listen(socket: &OwnedFd, stubs: &mut Vec<Stub>) -> Result<(), Error> {
    let mut message = vec![0; MESSAGE];
    let mut starting = false;
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            match recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(Error::setup("hear of the step")(errno.into())),
            };
        if received == 0 {
            // Closed without a word about the program: the step died on the way.
            let died = || Error::setup("set up the sandbox")(io::ErrorKind::UnexpectedEof.into());
            return if starting { Ok(()) } else { Err(died()) };
        }
        let parent = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let heard = &message[..received];
        match parent {
            Some(parent) => stubs.push(decode_stub(parent, heard).map_err(Error::setup("hear of a mount point"))?),
            None => match Report::decode(heard) {
                Ok(Report::Started) => starting = true,
                Ok(Report::Failed(error)) => return Err(error),
                _ => return Err(Error::setup("hear of the step")(io::ErrorKind::InvalidData.into())),
            },
        }
    }
}

fn decode_stub(parent: OwnedFd, message: &[u8]) -> io::Result<Stub> {
    let r = &mut Reader(message);
    let shape = if r.number()? == 0 { Shape::Directory } else { Shape::File };
    Ok(Stub { parent, shape, device: r.number()?, inode: r.number()?, name: r.path()?.into_os_string() })
}

/// Tells the keeper of a mount point that was made; called by the step.
pub(super) fn tell_stub(socket: BorrowedFd, stub: &Stub) -> io::Result<()> {
    let mut w = Writer::default();
    w.number(u64::from(stub.shape == Shape::File));
    w.number(stub.device);
    w.number(stub.inode);
    w.bytes(stub.name.as_bytes());
    let fds = [stub.parent.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(&w.0)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Tells the keeper that everything is ready for the program; called by the step.
pub(super) fn tell_start(socket: BorrowedFd) -> io::Result<()> {
    let message = Report::Started.encode();
    sendmsg(socket, &[IoSlice::new(&message)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Tells the keeper why the program does not run; called by the step.
pub(super) fn tell_failure(socket: BorrowedFd, error: Error) {
    let message = Report::Failed(error).encode();
    // If it cannot be told the step still exits, and that is seen.
    let _ = sendmsg(socket, &[IoSlice::new(&message)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
}

/// Waits for the step, and kills it when the builder is gone.
fn wait(pid: libc::pid_t, pidfd: &OwnedFd, reports: &File) -> io::Result<i32> {
    loop {
        // The parent-death signal covers this too, but for a builder that died before it was asked for. A pipe that
        // nobody can read any more shows as an error, which needs no asking.
        let mut fds = [PollFd::new(pidfd, PollFlags::IN), PollFd::new(reports, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if fds[1].revents().contains(PollFlags::ERR) {
            // SAFETY: plain numbers; the child was not waited for, so the number is still its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        } else if !fds[0].revents().contains(PollFlags::IN) {
            continue;
        }
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        while check(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into()).is_err() {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        return Ok(status);
    }
}
