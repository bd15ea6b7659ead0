//! What a process in a sandbox is asked to be.
//!
//! Plain data, filled in by the caller and consumed by [`Sandbox::spawn`](super::Sandbox::spawn). Whether a caller may
//! ask for the host's network or for [`Security::Insecure`] is decided before a spec is made, not here.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::wire::forget;

/// The host name of a step that asks for no other.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// The most processes and threads a step may have at once, unless it asks for another number.
pub const DEFAULT_PIDS: u32 = 32768;

/// One process: its files, its identity, its world.
#[derive(Debug)]
pub struct ProcessSpec {
    /// A detached mount (`fsmount`, or `open_tree` with `OPEN_TREE_CLONE`) that becomes `/`.
    pub root: OwnedFd,
    /// The process cannot write to `/` itself; mounts below keep their own mode.
    pub read_only_root: bool,
    /// What else is mounted, in any order: parents are mounted before what lies below them.
    pub mounts: Vec<MountSpec>,
    /// Nodes of the host's devices besides those that everybody has.
    pub devices: Vec<DeviceSpec>,
    /// The program and its arguments; a program without `/` is looked for in the `PATH` of [`env`](Self::env).
    pub args: Vec<OsString>,
    /// The whole environment as `KEY=value`: nothing is added or inherited.
    pub env: Vec<OsString>,
    /// Where it starts; made with mode 0755 when absent.
    pub cwd: PathBuf,
    /// Who it is.
    pub user: User,
    /// Its host name.
    pub hostname: String,
    /// Further lines of `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// The bytes of `/etc/resolv.conf`; when empty the image's own file is seen.
    pub resolv_conf: Vec<u8>,
    /// What it can reach.
    pub network: Network,
    /// What it may do.
    pub security: Security,
    /// Resource limits beyond the fixed ones (no core files, 1024 open files that may be raised to 1048576).
    pub rlimits: Vec<Rlimit>,
    /// What it may use up together with its descendants.
    pub limits: Limits,
    /// Directories that were made above a mount point in the root stay when the process has ended; otherwise those that
    /// are still empty are removed.
    pub keep_stub_parents: bool,
    /// Where it reads.
    pub stdin: Stdio,
    /// Where it writes.
    pub stdout: Stdio,
    /// Where it complains.
    pub stderr: Stdio,
}

impl ProcessSpec {
    /// A process with the defaults of a build step: root, `/`, no network, no input, output through pipes.
    pub fn new(root: OwnedFd, args: impl IntoIterator<Item = impl Into<OsString>>) -> ProcessSpec {
        ProcessSpec {
            root,
            read_only_root: false,
            mounts: Vec::new(),
            devices: Vec::new(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: User::default(),
            hostname: DEFAULT_HOSTNAME.to_owned(),
            hosts: Vec::new(),
            resolv_conf: Vec::new(),
            network: Network::None,
            security: Security::Sandbox,
            rlimits: Vec::new(),
            limits: Limits::default(),
            keep_stub_parents: false,
            stdin: Stdio::Null,
            stdout: Stdio::Pipe,
            stderr: Stdio::Pipe,
        }
    }
}

impl ProcessSpec {
    /// Overwrites what may be secrets: files and variables.
    pub(super) fn forget_secrets(&mut self) {
        for mount in &mut self.mounts {
            if let MountKind::File { content, .. } = &mut mount.kind {
                forget(content);
            }
        }
        for entry in &mut self.env {
            forget(&mut std::mem::take(entry).into_vec());
        }
    }
}

/// A node of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Where, as an absolute path in the sandbox.
    pub path: PathBuf,
    /// The host's node, which is taken where no new one can be made.
    pub host: PathBuf,
    /// A block device, or else one of characters.
    pub is_block: bool,
    /// Major and minor number.
    pub numbers: (u32, u32),
    /// Permission bits, at most `0o777`.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

/// One mount below `/`.
#[derive(Debug)]
pub struct MountSpec {
    /// Where, as an absolute path in the sandbox; a relative one counts from `/`. Links in it are followed inside the
    /// sandbox. A target that is missing is made; in the root it is removed after the step when it is still empty.
    pub dest: PathBuf,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug)]
#[non_exhaustive]
pub enum MountKind {
    /// A tree, a file or a socket.
    Bind {
        /// A detached mount.
        source: OwnedFd,
        /// The process cannot write there.
        read_only: bool,
    },
    /// An empty directory that vanishes with the process.
    Tmpfs {
        /// In bytes; `None` is the kernel's half of memory.
        size: Option<u64>,
        /// Permission bits of its root; a tmpfs for everyone has `0o1777`.
        mode: u32,
        /// The process cannot write there.
        read_only: bool,
    },
    /// A read-only file that exists in memory only: secrets.
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Permission bits, at most `0o777`; without an x bit it cannot be executed even through another link.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Numeric identity of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What a process can reach over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// All that the host reaches, its loopback and abstract sockets included.
    Host,
    /// Its own loopback and nothing else.
    None,
}

/// What a process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Fourteen capabilities, a filter on system calls, masked and read-only paths, no devices but the harmless.
    Sandbox,
    /// All that the builder itself may do.
    Insecure,
}

/// One resource limit, see `setrlimit(2)`. What exceeds the builder's own hard limit is lowered to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// The kernel's number of the resource.
    pub resource: u32,
    /// The limit in force; `u64::MAX` is unlimited.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

impl Rlimit {
    /// The limit that `--ulimit <name>=<soft>:<hard>` means; `None` for a name that Linux does not have.
    pub fn named(name: &str, soft: u64, hard: u64) -> Option<Rlimit> {
        let resource = match name {
            "as" => libc::RLIMIT_AS,
            "core" => libc::RLIMIT_CORE,
            "cpu" => libc::RLIMIT_CPU,
            "data" => libc::RLIMIT_DATA,
            "fsize" => libc::RLIMIT_FSIZE,
            "locks" => libc::RLIMIT_LOCKS,
            "memlock" => libc::RLIMIT_MEMLOCK,
            "msgqueue" => libc::RLIMIT_MSGQUEUE,
            "nice" => libc::RLIMIT_NICE,
            "nofile" => libc::RLIMIT_NOFILE,
            "nproc" => libc::RLIMIT_NPROC,
            "rss" => libc::RLIMIT_RSS,
            "rtprio" => libc::RLIMIT_RTPRIO,
            "rttime" => libc::RLIMIT_RTTIME,
            "sigpending" => libc::RLIMIT_SIGPENDING,
            "stack" => libc::RLIMIT_STACK,
            _ => return None,
        };
        #[allow(clippy::unnecessary_cast)] // the type of the constants differs between C libraries
        Some(Rlimit { resource: resource as u32, soft, hard })
    }
}

/// What a step may use up, together with all that it starts. What is `None` or empty is not limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads at once; below 301 it takes a control group.
    pub pids: u32,
    /// Bytes of memory; beyond it the kernel kills.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; at least those of memory, and not without.
    pub memory_and_swap: Option<u64>,
    /// Relative weight among others that want the CPU; 1024 is the usual one.
    pub cpu_shares: Option<u64>,
    /// Microseconds of a period in which the quota counts.
    pub cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub cpu_quota: Option<u64>,
    /// The CPUs it may run on: `0-3,8`.
    pub cpus: String,
    /// The memory nodes it may use, in the same form.
    pub memory_nodes: String,
    /// The control group that its own is made in, see [`cgroup_parent`](super::cgroup_parent); `None` is the builder's.
    pub cgroup_parent: Option<PathBuf>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            pids: DEFAULT_PIDS,
            memory: None,
            memory_and_swap: None,
            cpu_shares: None,
            cpu_period: None,
            cpu_quota: None,
            cpus: String::new(),
            memory_nodes: String::new(),
            cgroup_parent: None,
        }
    }
}

/// One of the three standard descriptors.
#[derive(Debug)]
pub enum Stdio {
    /// Nothing to read, nowhere to write.
    Null,
    /// A pipe whose other end is in [`Running`](super::Running).
    Pipe,
    /// The builder's own.
    Inherit,
    /// A descriptor of the caller.
    Fd(OwnedFd),
}
