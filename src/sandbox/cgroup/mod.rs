//! Limits on a whole step, where the kernel has them only by control group.
//!
//! A control group is a directory that stays when its maker is killed, so none is made unless somebody asked for a limit
//! or for a place (`--cgroup-parent`), or the kernel is older than 6.14 and counts processes only so. A step has one in
//! each hierarchy that is needed. *Start reading at* [`Groups::make`].

mod hierarchy;
mod owner;
mod parent;
mod setting;

use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hierarchy::Hierarchy;
pub(super) use owner::sweep;
pub use parent::cgroup_parent;
pub(super) use setting::pid_max;
use setting::{Setting, Value, CONTROLLERS};

use super::error::Error;
use super::spec::Limits;

/// How often a group is made again that somebody else, who was done with its parent, removed in between.
const TRIES: usize = 20;

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
    ///
    /// # Errors
    /// [`Error::NoLimit`] for a limit that was asked for and cannot be kept here.
    pub fn make(limits: &Limits) -> Result<Groups, Error> {
        let mut groups = Groups::default();
        let needs: Vec<(&str, &'static str, bool)> = CONTROLLERS
            .iter()
            .filter_map(|controller| setting::need(limits, controller).map(|(limit, must)| (*controller, limit, must)))
            .collect();
        if needs.is_empty() && limits.cgroup_parent.is_none() {
            return Ok(groups);
        }
        let hierarchies = Hierarchy::all().map_err(Error::setup("look for control groups"))?;
        for (controller, limit, must) in &needs {
            if *must && !hierarchies.iter().any(|hierarchy| hierarchy.has(controller)) {
                let why = format!("this machine's kernel has no controller {controller:?} that can be seen here");
                return Err(Error::NoLimit { limit, why });
            }
        }
        if limits.cgroup_parent.is_some() && hierarchies.is_empty() {
            let why = "no control groups can be seen here".to_owned();
            return Err(Error::NoLimit { limit: "cgroup-parent", why });
        }
        for hierarchy in &hierarchies {
            let here: Vec<_> = needs.iter().filter(|(controller, ..)| hierarchy.has(controller)).collect();
            if here.is_empty() && limits.cgroup_parent.is_none() {
                continue;
            }
            let is_asked = here.iter().any(|(.., must)| *must) || limits.cgroup_parent.is_some();
            let controllers: Vec<&str> = here.iter().map(|(controller, ..)| *controller).collect();
            match groups.make_in(hierarchy, &controllers, limits) {
                Err(error) if is_asked => return Err(error),
                _ => {}
            }
        }
        Ok(groups)
    }

    /// Makes the group of one hierarchy, in the first place where it can be.
    fn make_in(&mut self, hierarchy: &Hierarchy, controllers: &[&str], limits: &Limits) -> Result<(), Error> {
        let settings: Vec<Setting> = controllers
            .iter()
            .flat_map(|controller| setting::settings(limits, controller, hierarchy.version))
            .collect();
        let limit = settings.iter().find_map(|setting| setting.limit).unwrap_or("cgroup-parent");
        if let Some(path) = &limits.cgroup_parent {
            let mut tries = 0;
            let directory = loop {
                match parent::open(hierarchy, path, controllers).and_then(|place| self.make_directory(&place)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
                    made => break made.map_err(|error| refused(limit, &hierarchy.mount.join(path), &error))?,
                }
            };
            directory.parent().into_iter().for_each(owner::sweep_in);
            return self.fill(hierarchy, &directory, &settings, limit);
        }
        let mut refusal = None;
        for place in hierarchy.places() {
            parent::offer(hierarchy, &place, controllers);
            let made = self.make_directory(&place).map_err(|error| refused(limit, &place, &error));
            match made.and_then(|directory| self.fill(hierarchy, &directory, &settings, limit)) {
                Ok(()) => return Ok(()),
                // The nearest place is the one that a remedy is about.
                Err(error) => drop(refusal.get_or_insert(error)),
            }
        }
        Err(refusal.unwrap_or(Error::NoLimit { limit, why: "there is no place for a control group".to_owned() }))
    }

    /// Makes a group that others can tell is this process's.
    fn make_directory(&mut self, place: &Path) -> io::Result<PathBuf> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let owner = owner::owner(std::process::id())?;
        let directory = place.join(format!("{owner}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&directory)?;
        self.directories.push(directory.clone());
        Ok(directory)
    }

    /// Writes what limits say into a new group, and opens it for the step.
    fn fill(
        &mut self,
        hierarchy: &Hierarchy,
        directory: &Path,
        settings: &[Setting],
        limit: &'static str,
    ) -> Result<(), Error> {
        parent::populate(hierarchy, directory).map_err(|error| refused(limit, directory, &error))?;
        for Setting { file, value, limit: kept } in settings {
            let written = match value {
                Value::Text(text) => fs::write(directory.join(file), text),
                Value::Inherited => parent::inherit(directory, file),
            };
            if let (Err(error), Some(kept)) = (&written, kept) {
                return Err(match (error.raw_os_error(), value) {
                    (Some(libc::EINVAL | libc::ERANGE | libc::ENODEV), Value::Text(text)) => {
                        Error::NoLimit { limit: kept, why: format!("the kernel refuses {text:?} in {file}") }
                    }
                    _ => refused(kept, &directory.join(file), error),
                });
            }
        }
        let procs = directory.join("cgroup.procs");
        let opened = File::options().write(true).open(&procs).map_err(|error| refused(limit, &procs, &error))?;
        self.join.push(opened.into());
        let names = ["memory.events", "memory.oom_control"];
        let events = names.iter().map(|name| directory.join(name)).find(|path| path.exists());
        self.events = self.events.take().or(events);
        Ok(())
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

/// Why a group cannot be made, and what would help.
fn refused(limit: &'static str, path: &Path, error: &io::Error) -> Error {
    let path = path.display();
    let why = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => format!(
            "{path} is not ours to write: run as root, or have the control groups delegated (systemd: Delegate=yes)"
        ),
        Some(libc::ENOENT) => {
            format!("{path} is not there: the kernel does not have this limit, or does not offer it here")
        }
        _ => format!("{path}: {error}"),
    };
    Error::NoLimit { limit, why }
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
            parent::leave(directory);
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
