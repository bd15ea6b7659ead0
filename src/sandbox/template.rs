//! The process that keepers are copies of.
//!
//! Executing the builder's program takes most of a millisecond before its `main` begins: libraries, relocations, a look
//! at the processor. A template does that once. It holds nothing and reads nothing: with each request come the
//! descriptors of one sandbox, which it hands to a copy of itself and closes. A copy is the builder's child, not the
//! template's (`CLONE_PARENT`), so it is waited for, and dies with the spawner thread, like one that was executed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::net::{
    recvmsg, sendmsg, shutdown, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use rustix::process::{waitid, WaitId, WaitIdOptions};

use super::error::check;
use super::keeper;

/// The most descriptors that one request can carry; the kernel's limit is a little higher (`SCM_MAX_FD`).
pub(super) const MOST: usize = 250;

/// A template, as the spawner thread has it. Dropping ends it.
pub(super) struct Template {
    socket: OwnedFd,
    process: OwnedFd,
}

impl Template {
    /// A template that was started with the other end of `socket`.
    pub fn new(socket: OwnedFd, process: OwnedFd) -> Template {
        Template { socket, process }
    }

    /// Has a keeper made with these descriptors: the three standard ones, its order, and what the order names by these
    /// numbers. Gives its pidfd.
    ///
    /// # Errors
    /// No process can be made, or the template is not there any more.
    pub fn copy(&self, fds: &[RawFd]) -> io::Result<OwnedFd> {
        let numbers: Vec<u8> = fds.iter().flat_map(|fd| fd.to_le_bytes()).collect();
        // SAFETY: whoever asks for a process keeps its descriptors open until it has the answer.
        let fds: Vec<BorrowedFd> = fds.iter().map(|fd| unsafe { BorrowedFd::borrow_raw(*fd) }).collect();
        send(self.socket.as_fd(), &numbers, &fds)?;
        let (answer, mut fds) = receive(self.socket.as_fd())?;
        match (fds.pop(), <[u8; 4]>::try_from(answer.as_slice())) {
            (Some(pidfd), _) => Ok(pidfd),
            (None, Ok(errno)) => Err(io::Error::from_raw_os_error(i32::from_le_bytes(errno))),
            (None, Err(_)) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // It ends when nobody can ask it any more. If it cannot be told, it is dead.
        let _ = shutdown(&self.socket, Shutdown::Both);
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED) {}
    }
}

/// The life of a template, and of every copy of it; gives the exit code.
pub(super) fn serve(socket: RawFd) -> i32 {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    // SAFETY: the spawner passes this descriptor to us and nothing else in this process knows of it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // The builder's directory is not ours to keep in use.
    let _ = rustix::process::chdir("/");
    loop {
        let (numbers, fds) = match receive(socket.as_fd()) {
            Ok((numbers, fds)) if !numbers.is_empty() => (numbers, fds),
            _ => return 0,
        };
        let numbers = numbers.chunks_exact(4).filter_map(|four| Some(RawFd::from_le_bytes(four.try_into().ok()?)));
        let told = match clone() {
            Ok(None) => {
                drop(socket);
                return become_keeper(numbers.collect(), fds);
            }
            Ok(Some(pidfd)) => send(socket.as_fd(), &0_i32.to_le_bytes(), &[pidfd.as_fd()]),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                send(socket.as_fd(), &errno.to_le_bytes(), &[])
            }
        };
        if told.is_err() {
            return 0;
        }
    }
}

/// Forks this small process; `None` is the copy.
fn clone() -> io::Result<Option<OwnedFd>> {
    let flags = libc::CLONE_PARENT | libc::CLONE_NEWPID | libc::CLONE_PIDFD;
    let mut pidfd: RawFd = -1;
    // SAFETY: this process has one thread, so its copy is whole; no stack and no thread pointer are given, so the copy
    // goes on with its own. The third argument is where CLONE_PIDFD stores the descriptor, on all architectures.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// What a copy does with what the template was sent: the same as if it had been executed with it.
fn become_keeper(numbers: Vec<RawFd>, fds: Vec<OwnedFd>) -> i32 {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    if numbers.len() != fds.len() || fds.len() < 4 {
        return 125;
    }
    let mut fds = fds.into_iter();
    for number in 0..3 {
        // SAFETY: plain numbers; what was open under this one was the template's null device.
        let put = fds.next().is_some_and(|fd| unsafe { libc::dup2(fd.as_raw_fd(), number) } == number);
        if !put {
            return 126;
        }
    }
    // From here on they are known by number, as after an execution.
    let here: Vec<(RawFd, RawFd)> = numbers.into_iter().skip(3).zip(fds.map(IntoRawFd::into_raw_fd)).collect();
    match here.first() {
        Some((_, order)) => keeper::keep(*order, &here),
        None => 125,
    }
}

fn send(socket: BorrowedFd, bytes: &[u8], fds: &[BorrowedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// The next message; empty when the other end is gone.
fn receive(socket: BorrowedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MOST * 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    bytes.truncate(length);
    Ok((bytes, fds))
}
