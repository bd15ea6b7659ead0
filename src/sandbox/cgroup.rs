//! Limits on a whole step, where the kernel has them only by control group.
//!
//! A control group is a directory that stays when its maker is killed, so none is made unless a limit needs it: memory,
//! and processes on kernels before 6.14. Its name tells who made it, and the next builder removes what the dead left.
//!
//! Controllers are found where they are: each on a hierarchy of its own (version 1) or on the unified one. See
//! `cgroups(7)`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::error::Error;
use super::limits::pid_namespaces_limit;
use super::spec::{Limits, DEFAULT_PIDS};

/// The smallest `kernel.pid_max` that the kernel takes.
const SMALLEST_PID_MAX: u32 = 301;

/// What limits the processes of a step.
pub(super) fn pid_max(limits: Limits) -> Option<u32> {
    (pid_namespaces_limit() && limits.pids >= SMALLEST_PID_MAX).then_some(limits.pids)
}

/// The control groups of one step. Dropping removes them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    directories: Vec<PathBuf>,
    /// Their `cgroup.procs`.
    pub join: Vec<OwnedFd>,
    /// Where the kernel counts what it killed for want of memory.
    events: Option<PathBuf>,
}

impl Groups {
    /// Makes the groups that these limits need: usually none.
    pub fn make(limits: Limits) -> Result<Groups, Error> {
        let mut groups = Groups::default();
        if let Some(bytes) = limits.memory {
            let failed = Error::setup("make a control group that limits memory");
            groups.limit_memory(bytes).map_err(failed)?;
        }
        if pid_max(limits).is_none() {
            let made = groups.limit("pids", &[("pids.max", limits.pids.to_string())]);
            // The default is a precaution; what somebody asked for is an order.
            if limits.pids != DEFAULT_PIDS {
                made.map_err(Error::setup("make a control group that limits processes"))?;
            }
        }
        Ok(groups)
    }

    fn limit_memory(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.to_string();
        let none = "0".to_owned();
        let directory = match Hierarchy::of("memory")? {
            Hierarchy::Own(_) => {
                let directory = self.limit("memory", &[("memory.limit_in_bytes", bytes.clone())])?;
                // Only there with swap accounting, and not to be set before the limit without swap.
                let _ = fs::write(directory.join("memory.memsw.limit_in_bytes"), &bytes);
                self.events = Some(directory.join("memory.oom_control"));
                directory
            }
            Hierarchy::Unified { .. } => {
                let directory = self.limit("memory", &[("memory.max", bytes)])?;
                self.events = Some(directory.join("memory.events"));
                directory
            }
        };
        // Half a step is worth nothing; and memory that goes to the disk is no limit.
        let _ = fs::write(directory.join("memory.oom.group"), "1");
        let _ = fs::write(directory.join("memory.swap.max"), none);
        Ok(())
    }

    /// Makes a group for one controller and sets its files; the first of them must be there.
    fn limit(&mut self, controller: &str, files: &[(&str, String)]) -> io::Result<PathBuf> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", owner(std::process::id())?, NEXT.fetch_add(1, Ordering::Relaxed));
        let mut refusal = io::Error::from_raw_os_error(libc::ENOENT);
        for parent in Hierarchy::of(controller)?.parents() {
            // Allowed only where no process is, below the root; above may be a better place.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            let directory = parent.join(&name);
            if let Err(error) = fs::create_dir(&directory) {
                refusal = error;
                continue;
            }
            self.directories.push(directory.clone());
            let made = files.iter().try_for_each(|(file, value)| fs::write(directory.join(file), value));
            match made.and_then(|()| File::options().write(true).open(directory.join("cgroup.procs"))) {
                Ok(procs) => {
                    self.join.push(procs.into());
                    return Ok(directory);
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Whether the kernel killed a process of the step because it ran out of its memory.
    pub fn ran_out_of_memory(&self) -> bool {
        let Some(events) = self.events.as_ref().and_then(|events| fs::read_to_string(events).ok()) else {
            return false;
        };
        let killed = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        killed.is_some_and(|count| count.trim() != "0")
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.join.clear();
        for directory in &self.directories {
            // A process that has just died leaves its group a little later.
            for _ in 0..50 {
                match fs::remove_dir(directory) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Where a controller is.
enum Hierarchy {
    /// Version 1: the directory of this process's group.
    Own(PathBuf),
    /// Version 2: where the hierarchy is mounted, and this process's group in it.
    Unified { mount: PathBuf, group: PathBuf },
}

impl Hierarchy {
    fn of(controller: &str) -> io::Result<Hierarchy> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let group_of = |wanted: &dyn Fn(&str) -> bool| {
            groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                wanted(controllers).then(|| path.to_owned())
            })
        };
        let listed = |list: &str| list.split(',').any(|name| name == controller);
        for mount in mounts.lines().filter_map(Mount::parse) {
            if mount.kind == "cgroup" && listed(mount.options) {
                if let Some(path) = group_of(&listed) {
                    return Ok(Hierarchy::Own(mount.directory(&path)));
                }
            }
        }
        for mount in mounts.lines().filter_map(Mount::parse).filter(|mount| mount.kind == "cgroup2") {
            let has = fs::read_to_string(Path::new(mount.point).join("cgroup.controllers")).unwrap_or_default();
            if let (true, Some(path)) =
                (has.split_whitespace().any(|name| name == controller), group_of(&str::is_empty))
            {
                return Ok(Hierarchy::Unified { mount: mount.point.into(), group: mount.directory(&path) });
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// Where a new group may be made, nearest first.
    fn parents(&self) -> Vec<PathBuf> {
        match self {
            Hierarchy::Own(group) => vec![group.clone()],
            Hierarchy::Unified { mount, group } => {
                group.ancestors().take_while(|path| path.starts_with(mount)).map(Path::to_owned).collect()
            }
        }
    }
}

/// One line of `/proc/self/mountinfo`, see `proc_pid_mountinfo(5)`.
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

    /// Where a group is seen through this mount.
    fn directory(&self, group: &str) -> PathBuf {
        let below = group.strip_prefix(self.root.trim_end_matches('/')).unwrap_or(group);
        Path::new(self.point).join(below.trim_start_matches('/'))
    }
}

/// Names a process for as long as the machine runs: pid namespace, number in it, and start time, since numbers are
/// used again.
fn owner(pid: u32) -> io::Result<String> {
    let namespace = std::os::unix::fs::MetadataExt::ino(&fs::metadata("/proc/self/ns/pid")?);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses that may itself hold any.
    let start =
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)).ok_or(io::ErrorKind::InvalidData)?;
    Ok(format!("rbuild-{namespace}-{pid}-{start}"))
}

/// Removes the groups of builders that are dead. Those of other pid namespaces nobody here can judge.
pub(super) fn sweep() {
    let Ok(own) = owner(std::process::id()) else { return };
    let prefix = own.rsplitn(3, '-').last().unwrap_or_default().to_owned() + "-";
    for controller in ["memory", "pids"] {
        let parents = Hierarchy::of(controller).map(|hierarchy| hierarchy.parents()).unwrap_or_default();
        for entry in parents.iter().flat_map(fs::read_dir).flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some((maker, _)) = name.rsplit_once('-') else { continue };
            let pid = maker.strip_prefix(&prefix).and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
            if pid.is_some_and(|pid| owner(pid).ok().as_deref() != Some(maker)) {
                // One that still holds a process cannot be removed; that process is about to die.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// Moves this process into the groups whose `cgroup.procs` are open.
pub(super) fn join(groups: &[RawFd]) -> Result<(), Error> {
    for group in groups {
        // SAFETY: the spawner passed this descriptor on to us, and only `program::execute` closes it.
        let group = unsafe { BorrowedFd::borrow_raw(*group) };
        rustix::io::write(group, b"0").map_err(|e| Error::setup("join the control group")(e.into()))?;
    }
    // The group just joined is the root of what the step can see.
    // SAFETY: changes no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }
        .map_err(|e| Error::setup("unshare the control groups")(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines_give_the_group_directory() {
        let line = "33 30 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory";
        let mount = Mount::parse(line).expect("a line");
        assert_eq!((mount.kind, mount.options), ("cgroup", "rw,memory"));
        assert_eq!(mount.directory("/a/b"), Path::new("/sys/fs/cgroup/memory/a/b"));
        let line = "33 30 0:28 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate";
        let mount = Mount::parse(line).expect("a line");
        assert_eq!(mount.directory("/docker/abc/x"), Path::new("/sys/fs/cgroup/x"));
        assert_eq!(mount.directory("/docker/abc"), Path::new("/sys/fs/cgroup/"));
    }

    #[test]
    fn owner_of_a_dead_process_is_nobody() {
        assert!(owner(std::process::id()).expect("alive").starts_with("rbuild-"));
        assert!(owner(u32::MAX).is_err());
    }
}
