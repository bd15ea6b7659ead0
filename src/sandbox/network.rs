//! What a step can reach, and what it gets when nobody said.

use std::io;

use super::error::{check, Error};
use super::spec::Network;

/// The network of a step that does not ask for one, with what the user must be told about it.
///
/// A private network that reaches the world but not the host is not built yet; until then it is the host's.
pub fn default_network() -> (Network, Option<&'static str>) {
    let warning = "steps share the host's network: they can reach services on localhost; \
                   use --network=none for steps that need no network";
    (Network::Host, Some(warning))
}

/// Brings up `lo`, which every network namespace has and none starts with. See `netdevice(7)`.
pub(super) fn raise_loopback() -> Result<(), Error> {
    raise("lo").map_err(Error::setup_at("bring up", "lo"))
}

fn raise(name: &str) -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    use std::os::fd::AsRawFd;
    // SAFETY: the request is what this ioctl reads.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into())?;
    Ok(())
}
