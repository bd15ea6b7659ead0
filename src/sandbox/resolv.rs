//! The name servers that a step asks.

use std::fs;

/// Where systemd-resolved keeps the real servers when `/etc/resolv.conf` names only its own.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The bytes of `/etc/resolv.conf` for a step that shares the host's network; empty when the host has none.
///
/// See `resolv.conf(5)`. On the host's network every server that the host reaches can be reached, local ones included.
pub fn host_resolv_conf() -> Vec<u8> {
    fs::read("/etc/resolv.conf").or_else(|_| fs::read(BEHIND_RESOLVED)).unwrap_or_default()
}
