//! Where this machine's control groups are: which hierarchies are mounted, and this process's group in each.
//!
//! Controllers are found where they are: on hierarchies of their own (version 1) or on the unified one (version 2), also
//! on machines that have both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::setting::Version;

/// One tree of control groups that can be seen.
#[derive(Debug, PartialEq)]
pub(super) struct Hierarchy {
    pub version: Version,
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// This process's group in it.
    pub group: PathBuf,
}

impl Hierarchy {
    /// Those that this process can see and that have controllers, or could.
    pub fn all() -> io::Result<Vec<Hierarchy>> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        Ok(of_text(&mounts, &groups, |mount| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()))
    }

    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }

    /// Where a new group may be made, nearest first. In version 2 only a group without processes gives its controllers to
    /// those below it: above may be a better place.
    pub fn places(&self) -> Vec<PathBuf> {
        match self.version {
            Version::One => vec![self.group.clone()],
            Version::Two => {
                let above = self.group.ancestors().take_while(|path| path.starts_with(&self.mount));
                above.map(Path::to_owned).collect()
            }
        }
    }
}

/// See `proc_pid_mountinfo(5)` and `cgroups(7)`. `controllers` tells what a mount of version 2 has.
fn of_text(mounts: &str, groups: &str, controllers: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, group) = (fields.next()?, fields.next()?);
        // Hierarchies with a name and no controller are somebody's own.
        if names.starts_with("name=") {
            return None;
        }
        if names.is_empty() {
            let mount = mounts.iter().find(|mount| mount.kind == "cgroup2")?;
            let controllers = controllers(Path::new(mount.point)).split_whitespace().map(str::to_owned).collect();
            return Some(mount.hierarchy(Version::Two, controllers, group));
        }
        let names: Vec<String> = names.split(',').map(str::to_owned).collect();
        let is_listed = |mount: &Mount| names.iter().all(|name| mount.options.split(',').any(|option| option == name));
        let mount = mounts.iter().find(|mount| mount.kind == "cgroup" && is_listed(mount))?;
        Some(mount.hierarchy(Version::One, names, group))
    };
    groups.lines().filter_map(of_line).collect()
}

/// One line of `/proc/self/mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        Some(Mount { root: left.next()?, point: left.next()?, kind: right.next()?, options: right.nth(1)? })
    }

    fn hierarchy(&self, version: Version, controllers: Vec<String>, group: &str) -> Hierarchy {
        let below = group.strip_prefix(self.root.trim_end_matches('/')).unwrap_or(group);
        let mount = PathBuf::from(self.point);
        let below = below.trim_matches('/');
        let group = if below.is_empty() { mount.clone() } else { mount.join(below) };
        Hierarchy { version, controllers, mount, group }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 /docker/abc /sys/fs/cgroup/memory ro shared:11 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup rw,nsdelegate
22 30 0:20 / /proc rw - proc proc rw";

    #[test]
    fn both_versions_are_found_beside_each_other() {
        let groups = "5:name=systemd:/x\n4:memory:/docker/abc\n3:cpu,cpuacct:/a/b\n2:freezer:/\n0::/u/v";
        let found = of_text(MOUNTS, groups, |_| "io pids\n".to_owned());
        let place = |at: &str| PathBuf::from(at);
        let shown: Vec<_> = found.iter().map(|one| (one.version, one.controllers.join(" "), one.places())).collect();
        assert_eq!(
            shown,
            [
                (Version::One, "memory".into(), vec![place("/sys/fs/cgroup/memory")]),
                (Version::One, "cpu cpuacct".into(), vec![place("/sys/fs/cgroup/cpu,cpuacct/a/b")]),
                (
                    Version::Two,
                    "io pids".into(),
                    ["/u/v", "/u", ""].map(|below| place(&format!("/sys/fs/cgroup/unified{below}"))).to_vec()
                ),
            ]
        );
        assert!(found[1].has("cpuacct") && !found[1].has("cpuset"));
    }

    #[test]
    fn nonsense_is_no_hierarchy() {
        assert!(of_text("x\n- - -\na b c - d", "1\n::\n0::/", |_| String::new()).is_empty());
    }
}
