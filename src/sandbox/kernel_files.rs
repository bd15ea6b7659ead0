//! What of the kernel a step may look at: `/proc` and `/sys`, with the dangerous parts hidden or read-only.
//!
//! The lists are those of containerd's default specification.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::Error;
use super::mounting::{attach, clone_mount, new_mount, restrict, Reach, NO_SUID_DEV_EXEC};
use super::root::Tree;
use super::target;

/// Below `/proc`: leak what the host does, or are interfaces to hardware.
const HIDDEN_IN_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
/// Below `/sys`.
const HIDDEN_IN_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
/// Below `/proc`: settings of the whole machine.
const READ_ONLY_IN_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// The kernel's own file systems, still without a place.
pub(super) struct KernelFiles {
    proc: OwnedFd,
    /// A user namespace that does not own its network namespace has none.
    sys: Option<OwnedFd>,
}

impl KernelFiles {
    /// Opens them for the namespaces of this process, while the host's can still be seen: in a user namespace the kernel
    /// allows no more than what is there already.
    pub fn open(insecure: bool) -> Result<KernelFiles, Error> {
        let proc =
            new_mount("proc", &[], NO_SUID_DEV_EXEC).map_err(Error::setup_at("open a file system for", "/proc"))?;
        let attributes = if insecure { NO_SUID_DEV_EXEC } else { NO_SUID_DEV_EXEC | MountAttrFlags::MOUNT_ATTR_RDONLY };
        let sys = match new_mount("sysfs", &[], attributes) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => None,
            other => Some(other.map_err(Error::setup_at("open a file system for", "/sys"))?),
        };
        Ok(KernelFiles { proc, sys })
    }

    /// Mounts them, and limits how many processes the step's pid namespace may hold.
    pub fn mount(&self, tree: &Tree, pid_max: u32) -> Result<(), Error> {
        attach(&self.proc, tree.top("proc")?).map_err(Error::setup_at("mount", "/proc"))?;
        if let Some(sys) = &self.sys {
            attach(sys, tree.top("sys")?).map_err(Error::setup_at("mount", "/sys"))?;
        }
        if pid_max == 0 {
            return Ok(());
        }
        let path = "sys/kernel/pid_max";
        let failed = |errno: Errno| Error::setup_at("limit processes by", Path::new("/proc").join(path))(errno.into());
        let file =
            rustix::fs::openat(&self.proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        rustix::io::write(&file, pid_max.to_string().as_bytes()).map_err(failed)?;
        Ok(())
    }

    /// Hides what is to be hidden, and makes read-only what is to be read-only. `dev` is the mount of our own `/dev`,
    /// whatever a step has had mounted over it.
    pub fn hide(&self, dev: BorrowedFd) -> Result<(), Error> {
        let proc = self.proc.as_fd();
        for path in READ_ONLY_IN_PROC {
            let Some(target) = find(proc, "/proc", path)? else { continue };
            let failed = |step: &'static str| Error::setup_at(step, Path::new("/proc").join(path));
            let mount = clone_mount(&target, "").map_err(failed("clone"))?;
            restrict(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One).map_err(failed("make read-only"))?;
            attach(&mount, &target).map_err(failed("mount"))?;
        }
        let mut masks = Masks { dev, empty: None };
        for path in HIDDEN_IN_PROC {
            masks.cover(proc, "/proc", path)?;
        }
        if let Some(sys) = &self.sys {
            for path in HIDDEN_IN_SYS {
                masks.cover(sys.as_fd(), "/sys", path)?;
            }
        }
        Ok(())
    }
}

/// What lies over the hidden: our own null device, our own empty directory.
struct Masks<'a> {
    dev: BorrowedFd<'a>,
    empty: Option<OwnedFd>,
}

impl Masks<'_> {
    fn cover(&mut self, base: BorrowedFd, at: &str, path: &str) -> Result<(), Error> {
        let Some(target) = find(base, at, path)? else { return Ok(()) };
        let failed = |step: &'static str| Error::setup_at(step, Path::new(at).join(path));
        let stat = rustix::fs::fstat(&target).map_err(|e| failed("look at")(e.into()))?;
        let mask = match (FileType::from_raw_mode(stat.st_mode), &self.empty) {
            (FileType::Directory, Some(first)) => clone_mount(first, "").map_err(failed("mask"))?,
            (FileType::Directory, None) => {
                let attributes = NO_SUID_DEV_EXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
                new_mount("tmpfs", &[("mode", "0755"), ("size", "4k")], attributes).map_err(failed("mask"))?
            }
            _ => {
                let null = clone_mount(self.dev, "null").map_err(failed("mask"))?;
                restrict(null.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One).map_err(failed("mask"))?;
                null
            }
        };
        attach(&mask, &target).map_err(failed("mask"))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            self.empty = Some(mask);
        }
        Ok(())
    }
}

/// Opens a path in a file system of the kernel; not every kernel has every path.
fn find(base: BorrowedFd, at: &str, path: &str) -> Result<Option<OwnedFd>, Error> {
    match target::open_real(base, Path::new(path), OFlags::PATH) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::setup_at("open", PathBuf::from(at).join(path))(errno.into())),
    }
}
