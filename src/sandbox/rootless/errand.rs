//! What has to be done as the user themselves: the inner process asks, the outer one does it and answers.
//!
//! Inside, the user is root of a namespace of their own, and programs that ask who runs them get the wrong answer. What
//! an errand is, this module does not know: a function of the caller's does it. A request or an answer is its length
//! (four bytes, little-endian) and so many bytes.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{fstat, FileType};
use rustix::io::{fcntl_getfd, fcntl_setfd, FdFlags};

/// The most a request or an answer may have, in bytes: 1 MiB.
const MOST: u32 = 1 << 20;
/// How the inner process finds its end. Whoever sets it by hand talks to themselves.
const VARIABLE: &str = "RBUILD_OUTSIDE";

/// Does an errand: a request to an answer.
pub type Errand = fn(&[u8]) -> Vec<u8>;

/// The outer process, as the inner one sees it.
#[derive(Debug)]
pub struct Outside(Mutex<UnixStream>);

impl Outside {
    /// Has an errand done outside; they are done one after the other.
    ///
    /// # Errors
    /// The outer process is gone, or request or answer are too long.
    pub fn ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&mut *stream, request)?;
        receive(&mut *stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The end that the outer process left to this one, if it did. To be called before any thread.
    pub(super) fn of_environment() -> Option<Outside> {
        let number: i32 = std::env::var(VARIABLE).ok()?.parse().ok()?;
        std::env::remove_var(VARIABLE);
        // SAFETY: asks about a number; whether it is an open descriptor is what is found out.
        let is_open = number > 2 && unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
        if !is_open {
            return None;
        }
        // SAFETY: open, and nobody else's: the outer process left it open for this purpose, and nothing has run yet.
        let end = unsafe { OwnedFd::from_raw_fd(number) };
        let is_socket = fstat(&end).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        // No step inherits it.
        let is_ours = is_socket && fcntl_setfd(&end, FdFlags::CLOEXEC).is_ok();
        is_ours.then(|| Outside(Mutex::new(UnixStream::from(end))))
    }
}

/// The two ends, before there are two processes.
pub(super) struct Line {
    outer: UnixStream,
    inner: UnixStream,
}

impl Line {
    pub fn new() -> io::Result<Line> {
        let (outer, inner) = UnixStream::pair()?;
        Ok(Line { outer, inner })
    }

    /// In the process that becomes the inner one: what its environment has to say.
    pub fn keep_inner(self) -> io::Result<(&'static str, String)> {
        let end = OwnedFd::from(self.inner);
        let flags = fcntl_getfd(end.as_fd())?;
        fcntl_setfd(&end, flags.difference(FdFlags::CLOEXEC))?;
        let number = end.as_raw_fd().to_string();
        // It stays open for the program that takes this one's place.
        std::mem::forget(end);
        Ok((VARIABLE, number))
    }

    /// In the outer process: does errands until nobody asks any more.
    pub fn serve(self, errand: Errand) {
        let Line { mut outer, inner } = self;
        drop(inner);
        std::thread::spawn(move || {
            // An end that breaks is an inner process that has ended.
            while let Ok(Some(request)) = receive(&mut outer) {
                let mut answer = errand(&request);
                let sent = send(&mut outer, &answer);
                answer.fill(0);
                if sent.is_err() {
                    return;
                }
            }
        });
    }
}

fn send(into: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MOST);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is longer than 1 MiB"))?;
    into.write_all(&length.to_le_bytes())?;
    into.write_all(bytes)
}

/// None at the end.
fn receive(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 1 MiB"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errands_are_done_in_turn_until_nobody_asks() {
        let line = Line::new().unwrap();
        let inner = line.inner.try_clone().unwrap();
        line.serve(|request| request.iter().rev().copied().collect());
        let outside = Outside(Mutex::new(inner));
        assert_eq!(outside.ask(b"abc").unwrap(), b"cba");
        assert_eq!(outside.ask(b"").unwrap(), b"");
        assert!(outside.ask(&vec![0; MOST as usize + 1]).is_err(), "nothing of it was sent");
        assert_eq!(outside.ask(b"ab").unwrap(), b"ba");
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(receive(&mut &b""[..]).unwrap(), None);
        assert!(receive(&mut &u32::MAX.to_le_bytes()[..]).is_err());
        assert!(receive(&mut &[3, 0, 0, 0, 1][..]).is_err());
    }
}
