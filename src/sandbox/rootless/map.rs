//! Gives a new user namespace its ids.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::StatVfsMountFlags;

use super::ids::{name_of, subordinate, Kind, Range, Shortage};
use super::{failed, Refusal};

/// Which ids the namespace gets.
pub(super) enum Plan {
    /// Those this process sees, each as itself: for a root without the right to mount.
    Same,
    /// The caller as 0, and the subordinate ids from 1 on.
    Subordinate { users: Vec<Range>, groups: Vec<Range> },
    /// The caller as 0 and nobody else.
    Alone,
}

impl Plan {
    /// The most that is possible for the user of this process.
    pub fn of_this_process() -> Plan {
        let uid = rustix::process::getuid().as_raw();
        if rustix::process::geteuid().is_root() {
            return Plan::Same;
        }
        if Shortage::of(uid).is_some() {
            return Plan::Alone;
        }
        let name = name_of(uid);
        let ranges = |kind| subordinate(kind, uid, name.as_deref());
        Plan::Subordinate { users: ranges(Kind::Users), groups: ranges(Kind::Groups) }
    }

    /// Maps the ids for the process `child`, which waits in its new namespace.
    pub fn carry_out(&self, child: libc::pid_t) -> Result<(), Refusal> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let write = |file: &str, text: &str| {
            fs::write(format!("/proc/{child}/{file}"), text).map_err(failed("write the map of ids"))
        };
        match self {
            Plan::Same => [Kind::Users, Kind::Groups].into_iter().try_for_each(|kind| {
                let file = kind.map();
                let ours = fs::read_to_string(format!("/proc/self/{file}")).map_err(failed("read the map of ids"))?;
                write(file, &as_itself(&ours))
            }),
            Plan::Subordinate { users, groups } => {
                help(child, Kind::Users, uid, users)?;
                help(child, Kind::Groups, gid, groups)
            }
            Plan::Alone => {
                // What the kernel asks of those who map without privilege.
                write("setgroups", "deny")?;
                write(Kind::Users.map(), &format!("0 {uid} 1"))?;
                write(Kind::Groups.map(), &format!("0 {gid} 1"))
            }
        }
    }
}

/// The ids that a map knows, each as itself.
fn as_itself(map: &str) -> String {
    let mut text = String::new();
    for line in map.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(inside), Some(count)) = (fields.next(), fields.nth(1)) {
            text.push_str(&format!("{inside} {inside} {count}\n"));
        }
    }
    text
}

/// The words of a map: what is inside, what outside, how many.
fn words(own: u32, ranges: &[Range]) -> Vec<u32> {
    let mut words = vec![0, own, 1];
    let mut next = 1_u32;
    for range in ranges {
        // Ids beyond the last one do not exist.
        let count = range.count.min(u32::MAX - next);
        if count > 0 {
            words.extend([next, range.start, count]);
        }
        next += count;
    }
    words
}

/// Has the program map the ids that may do so.
fn help(child: libc::pid_t, kind: Kind, own: u32, ranges: &[Range]) -> Result<(), Refusal> {
    let program = kind.helper();
    let mut command = Command::new(program);
    command.arg(child.to_string()).args(words(own, ranges).iter().map(u32::to_string));
    let ran = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let said = match ran {
        Ok(ran) if ran.status.success() => return Ok(()),
        Ok(ran) => String::from_utf8_lossy(&ran.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Refusal::Helper { program, said: (!said.is_empty()).then_some(said), why: why(program) })
}

/// What keeps the program from having the rights of its owner.
fn why(program: &str) -> String {
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1 {
        return "; rbuild was started with no_new_privs, under which no program gets more rights".to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let files = std::env::split_paths(&path).map(|directory| directory.join(program));
    let Some(file) = files.into_iter().find(|file| file.is_file()) else { return String::new() };
    match privilege(&file) {
        Ok(Privilege::Some) => format!("; are these ids still {}'s in /etc/subuid and /etc/subgid?", caller()),
        Ok(Privilege::Ignored) => format!("; {} is on a file system mounted nosuid", file.display()),
        Ok(Privilege::None) => {
            format!("; {} lacks its set-user-id bit: `apt-get install --reinstall uidmap`", file.display())
        }
        Err(_) => String::new(),
    }
}

enum Privilege {
    Some,
    Ignored,
    None,
}

fn privilege(file: &PathBuf) -> io::Result<Privilege> {
    if rustix::fs::statvfs(file)?.f_flag.contains(StatVfsMountFlags::NOSUID) {
        return Ok(Privilege::Ignored);
    }
    let set_id = fs::metadata(file)?.mode() & 0o4000 != 0;
    let mut value = [0_u8; 64];
    let capable = rustix::fs::getxattr(file, OsStr::new("security.capability"), &mut value[..]).is_ok();
    Ok(if set_id || capable { Privilege::Some } else { Privilege::None })
}

fn caller() -> String {
    let uid = rustix::process::getuid().as_raw();
    name_of(uid).unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_follow_the_caller_without_a_gap() {
        let ranges = [Range { start: 100_000, count: 65_536 }, Range { start: 300_000, count: 10 }];
        assert_eq!(words(1000, &ranges), [0, 1000, 1, 1, 100_000, 65_536, 65_537, 300_000, 10]);
        assert_eq!(words(5, &[]), [0, 5, 1]);
        let huge = [Range { start: 1, count: u32::MAX - 1 }, Range { start: 7, count: 9 }];
        assert_eq!(words(5, &huge), [0, 5, 1, 1, 1, u32::MAX - 1]);
    }

    #[test]
    fn a_map_is_repeated_inside_out() {
        assert_eq!(as_itself("         0     100000      65536\n 65536 1 2\n"), "0 0 65536\n65536 65536 2\n");
    }
}
