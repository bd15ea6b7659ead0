//! Which ids a user has: subordinate ones by `subuid(5)`, and those that a process sees by its id map.

use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::process::{Command, Stdio};

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Users,
    Groups,
}

impl Kind {
    /// Where subordinate ids are listed.
    pub fn file(self) -> &'static str {
        match self {
            Kind::Users => "/etc/subuid",
            Kind::Groups => "/etc/subgid",
        }
    }

    /// The program that maps them.
    pub fn helper(self) -> &'static str {
        match self {
            Kind::Users => "newuidmap",
            Kind::Groups => "newgidmap",
        }
    }

    /// The map of a process, below its directory in /proc.
    pub fn map(self) -> &'static str {
        match self {
            Kind::Users => "uid_map",
            Kind::Groups => "gid_map",
        }
    }
}

/// Some ids in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub start: u32,
    pub count: u32,
}

/// The kernel takes this many lines in a map.
const MOST_RANGES: usize = 339;

/// The subordinate ids of a user.
pub(super) fn subordinate(kind: Kind, uid: u32, name: Option<&str>) -> Vec<Range> {
    let mut ranges = if listed_elsewhere() {
        let mut list = Command::new("getsubids");
        list.args((kind == Kind::Groups).then_some("-g")).arg(name.unwrap_or(&uid.to_string()));
        let listed = list.stdin(Stdio::null()).stderr(Stdio::null()).output();
        listed.map(|listed| of_getsubids(&String::from_utf8_lossy(&listed.stdout))).unwrap_or_default()
    } else {
        of_file(&fs::read_to_string(kind.file()).unwrap_or_default(), uid, name)
    };
    ranges.truncate(MOST_RANGES);
    ranges
}

/// Whether subordinate ids come from a directory service, of which newuidmap knows and we do not.
fn listed_elsewhere() -> bool {
    let switch = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    let sources = switch.lines().find_map(|line| line.trim_start().strip_prefix("subid:"));
    sources.is_some_and(|sources| sources.split_whitespace().next().is_some_and(|first| first != "files"))
}

/// `USER:START:COUNT`, where the user is a name or a number.
fn of_file(text: &str, uid: u32, name: Option<&str>) -> Vec<Range> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let is_theirs = Some(owner) == name || owner.parse() == Ok(uid);
        range(fields.next()?, fields.next()?).filter(|_| is_theirs && fields.next().is_none())
    };
    text.lines().filter_map(range).collect()
}

/// `0: USER START COUNT`
fn of_getsubids(text: &str) -> Vec<Range> {
    let words = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        range(words.next()?, words.next()?)
    };
    text.lines().filter_map(words).collect()
}

/// A range that the kernel can map: not empty, and of ids that exist.
fn range(start: &str, count: &str) -> Option<Range> {
    let range = Range { start: start.parse().ok()?, count: count.parse().ok()? };
    (range.count > 0 && range.start.checked_add(range.count).is_some()).then_some(range)
}

/// The login name of a user, by whatever the machine keeps users in.
pub(super) fn name_of(uid: u32) -> Option<String> {
    let mut strings = vec![0; 64 << 10];
    // SAFETY: the entry and the buffer for its strings are ours and outlive the calls; the name is a C string in that
    // buffer, if there is an entry at all.
    unsafe {
        let mut entry = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        libc::getpwuid_r(uid, &raw mut entry, strings.as_mut_ptr(), strings.len(), &raw mut found);
        (!found.is_null()).then(|| CStr::from_ptr(entry.pw_name).to_string_lossy().into_owned())
    }
}

/// The ids there are for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// How many users.
    pub users: u64,
    /// How many groups.
    pub groups: u64,
    /// Who id 0 is, outside.
    pub caller: u32,
}

impl Mapped {
    /// Reads the maps of this process.
    pub fn of_this_process() -> Mapped {
        let read = |kind: Kind| fs::read_to_string(format!("/proc/self/{}", kind.map())).unwrap_or_default();
        let users = read(Kind::Users);
        let caller = users.split_whitespace().nth(1).and_then(|outside| outside.parse().ok()).unwrap_or(0);
        Mapped { users: mapped(&users), groups: mapped(&read(Kind::Groups)), caller }
    }

    /// Whether every file can be given to everybody.
    pub fn all(&self) -> bool {
        self.users.min(self.groups) >= u64::from(u32::MAX)
    }

    /// Whether files can be given to nobody but the caller.
    pub fn only_caller(&self) -> bool {
        self.users.min(self.groups) <= 1
    }

    /// The login name of the caller, or the number of one without a name.
    pub fn caller_name(&self) -> String {
        name_of(self.caller).unwrap_or_else(|| self.caller.to_string())
    }
}

/// How many ids a map has.
fn mapped(map: &str) -> u64 {
    map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// Why the caller is the only id there is, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub(super) missing: Vec<Missing>,
    pub(super) user: String,
}

/// One thing that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Helper(Kind),
    Ids(Kind),
}

impl Shortage {
    /// What keeps `uid` from having more ids than their own.
    pub fn of(uid: u32) -> Option<Shortage> {
        let name = name_of(uid);
        let mut missing = Vec::new();
        for kind in [Kind::Users, Kind::Groups] {
            if !is_installed(kind.helper()) {
                missing.push(Missing::Helper(kind));
            }
            if subordinate(kind, uid, name.as_deref()).is_empty() {
                missing.push(Missing::Ids(kind));
            }
        }
        let user = name.unwrap_or_else(|| uid.to_string());
        (!missing.is_empty()).then_some(Shortage { missing, user })
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut helpers, mut files) = (Vec::new(), Vec::new());
        for missing in &self.missing {
            match missing {
                Missing::Helper(kind) => helpers.push(kind.helper()),
                Missing::Ids(kind) => files.push(kind.file()),
            }
        }
        let mut parts = Vec::new();
        if !helpers.is_empty() {
            parts.push(format!("install {} (`apt-get install uidmap`)", helpers.join(" and ")));
        }
        if !files.is_empty() {
            let user = &self.user;
            parts.push(format!(
                "add a line `{user}:100000:65536` with ids that nobody has to {}",
                files.join(" and to ")
            ));
        }
        f.write_str(&parts.join(", and "))
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_user_go_by_name_or_number() {
        let text = "ann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:1:2:3\nann:x:1\nann:5:0\n\
                    ann:4294967295:2\n# ann:7:7\n10000:9:9\n";
        let ranges = |uid, name| {
            of_file(text, uid, name).into_iter().map(|range| (range.start, range.count)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(1000, Some("ann")), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges(1001, Some("bob")), [(165_536, 65_536)]);
        assert_eq!(ranges(1000, None), [(300_000, 10)]);
        assert_eq!(ranges(1002, Some("an")), []);
    }

    #[test]
    fn lines_of_getsubids_have_words() {
        let text = "0: ann 100000 65536\n1: ann 300000 10\nError fetching ranges\n";
        assert_eq!(of_getsubids(text), [Range { start: 100_000, count: 65_536 }, Range { start: 300_000, count: 10 }]);
    }

    #[test]
    fn maps_are_counted() {
        assert_eq!(mapped("         0          0 4294967295\n"), 4_294_967_295);
        assert_eq!(mapped("0 1000 1\n1 100000 65536\n"), 65_537);
        assert_eq!(mapped(""), 0);
    }

    #[test]
    fn a_shortage_says_what_to_do() {
        let said = |missing: &[Missing]| Shortage { missing: missing.to_vec(), user: "ann".into() }.to_string();
        let (users, groups) = (Kind::Users, Kind::Groups);
        assert_eq!(
            said(&[Missing::Helper(users), Missing::Helper(groups)]),
            "install newuidmap and newgidmap (`apt-get install uidmap`)"
        );
        assert_eq!(
            said(&[Missing::Ids(groups)]),
            "add a line `ann:100000:65536` with ids that nobody has to /etc/subgid"
        );
        assert_eq!(
            said(&[Missing::Helper(users), Missing::Ids(users), Missing::Ids(groups)]),
            "install newuidmap (`apt-get install uidmap`), and add a line `ann:100000:65536` with ids that nobody has \
             to /etc/subuid and to /etc/subgid"
        );
    }
}
