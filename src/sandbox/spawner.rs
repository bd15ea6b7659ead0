//! The one thread that starts processes.
//!
//! It clones with `CLONE_VM | CLONE_VFORK`: nothing of the builder's memory is copied, however large it is, and the
//! thread stands still until the child executes its own program. That is done once, for a [`Template`], which is copied
//! for each step; where that cannot be, each step executes the program. Children die with this thread (`PR_SET_PDEATHSIG`
//! follows the thread, not the process), so it lives until the last user of it is gone.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, LazyLock};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, CWD};
use rustix::mount::{open_tree, MountAttrFlags, OpenTreeFlags};
use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};
use rustix::pipe::{pipe_with, PipeFlags};

use super::cgroup::{self, Groups};
use super::error::Error;
use super::keeper;
use super::mounting::{restrict, Reach};
use super::running::{read_report, Running};
use super::seccomp;
use super::spec::{MountKind, MountSpec, Network, ProcessSpec, Security, Stdio, User};
use super::template::{self, Template};
use super::wire::{forget, Kind, Mount, Order, Report};

/// Compiled once.
static FILTER: LazyLock<Vec<u64>> = LazyLock::new(seccomp::step_filter);

/// Starts processes in sandboxes.
#[derive(Debug)]
pub struct Sandbox {
    spawner: Sender<Request>,
    image: Arc<OwnedFd>,
}

/// One process to start.
#[derive(Debug)]
pub(super) struct Request {
    program: Program,
    reply: Sender<io::Result<OwnedFd>>,
}

/// The builder's program, to be executed for something else.
#[derive(Debug)]
struct Program {
    image: Arc<OwnedFd>,
    /// Number of the descriptor that says for what, as text.
    argument: CString,
    stdio: [RawFd; 3],
    /// What it inherits besides, first the one that says for what.
    keep: Vec<RawFd>,
}

impl Program {
    fn new(image: &Arc<OwnedFd>, prefix: &str, stdio: [RawFd; 3], keep: Vec<RawFd>) -> Program {
        let number = keep.first().copied().unwrap_or(-1);
        let argument = CString::new(format!("{prefix}{number}")).unwrap_or_default();
        Program { image: Arc::clone(image), argument, stdio, keep }
    }
}

impl Sandbox {
    /// Starts the spawner thread. The program that is running must call [`enter_if_asked`](super::enter_if_asked) at
    /// the start of its `main`.
    ///
    /// # Errors
    /// [`Error::Setup`] when the running program's own file cannot be opened.
    pub fn start() -> Result<Sandbox, Error> {
        Sandbox::start_with(Path::new("/proc/self/exe"))
    }

    /// As [`start`](Self::start), for programs other than the builder: `image` is a program that calls
    /// [`enter_if_asked`](super::enter_if_asked).
    ///
    /// # Errors
    /// [`Error::Setup`] when `image` cannot be opened.
    pub fn start_with(image: &Path) -> Result<Sandbox, Error> {
        let image = Arc::new(read_only_image(image).map_err(Error::setup_at("open the program", image))?);
        let (spawner, requests) = channel();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || serve(&requests))
            .map_err(Error::setup("start the spawner thread"))?;
        Ok(Sandbox { spawner, image })
    }

    /// Starts a process and returns when its program runs.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::NotExecutable`] speak of the program, [`Error::Refused`] of the image,
    /// [`Error::Setup`] of the machine.
    pub fn spawn(&self, mut spec: ProcessSpec) -> Result<Running, Error> {
        let (stdin, child_in) = connect(&mut spec.stdin, Direction::In)?;
        let (stdout, child_out) = connect(&mut spec.stdout, Direction::Out(1))?;
        let (stderr, child_err) = connect(&mut spec.stderr, Direction::Out(2))?;
        let (report, child_report) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::setup("make a pipe")(e.into()))?;

        let groups = Groups::make(&spec.limits)?;
        let mut order = order(&spec, &groups, child_report.as_raw_fd())?;
        let mut bytes = order.encode();
        let file = memory_file(|file| file.write_all(&bytes)).map_err(Error::setup("write the order"))?;
        forget(&mut bytes);
        order.forget_secrets();
        spec.forget_secrets();
        let mut keep = vec![file.as_raw_fd(), child_report.as_raw_fd(), spec.root.as_raw_fd()];
        keep.extend(spec.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Bind { source, .. } => Some(source.as_raw_fd()),
            _ => None,
        }));
        keep.extend(&order.cgroups);

        let (reply, answer) = channel();
        let stdio = [child_in.as_raw_fd(), child_out.as_raw_fd(), child_err.as_raw_fd()];
        let request = Request { program: Program::new(&self.image, "", stdio, keep), reply };
        let gone = || Error::setup("reach the spawner thread")(io::ErrorKind::BrokenPipe.into());
        self.spawner.send(request).map_err(|_| gone())?;
        let pidfd = answer.recv().map_err(|_| gone())?.map_err(Error::setup("clone"))?;

        // The child has its own copies now; ours would keep its pipes open and its mounts alive.
        drop((child_in, child_out, child_err, child_report, file, spec));
        let mut running = Running {
            stdin,
            stdout,
            stderr,
            pidfd,
            report: File::from(report),
            groups,
            exit: None,
            out_of_memory: false,
            _spawner: self.spawner.clone(),
        };
        match read_report(&mut running.report) {
            Some(Report::Started) => Ok(running),
            Some(Report::Failed(error)) => Err(error),
            Some(Report::Exited(_)) | None => Err(Error::Lost { signal: running.reap()? }),
        }
    }
}

/// The program's file by a read-only mount of its own, so that no process in a sandbox can ever write to it; where
/// that is not allowed, a sealed copy in memory.
fn read_only_image(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = rustix::fs::stat(path)?;
    // The link in /proc leads into the mount namespace that the program was started in, of which nothing can be cloned
    // here: the same file by its name can.
    let named = std::fs::read_link(path).ok();
    let names = named.iter().map(PathBuf::as_path).chain([path]);
    let is_it = |mount: &OwnedFd| {
        rustix::fs::fstat(mount).is_ok_and(|found| (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino))
    };
    for mount in names.filter_map(|name| open_tree(CWD, name, flags).ok()).filter(is_it) {
        let attributes =
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        if restrict(mount.as_fd(), attributes, Reach::One).is_ok() {
            return Ok(mount);
        }
    }
    memory_file(|copy| io::copy(&mut File::open(path)?, copy).map(drop))
}

/// A file in memory that nobody can change any more.
fn memory_file(write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<OwnedFd> {
    let mut file =
        File::from(rustix::fs::memfd_create("rbuild-init", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    write(&mut file)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Which end of a pipe the child gets.
enum Direction {
    In,
    Out(RawFd),
}

/// Our end, when it is a pipe, and the child's.
fn connect(stdio: &mut Stdio, direction: Direction) -> Result<(Option<OwnedFd>, OwnedFd), Error> {
    match std::mem::replace(stdio, Stdio::Null) {
        Stdio::Null => {
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::setup_at("open", "/dev/null")(e.into()))?;
            Ok((None, null))
        }
        Stdio::Pipe => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::setup("make a pipe")(e.into()))?;
            Ok(match direction {
                Direction::In => (Some(write), read),
                Direction::Out(_) => (Some(read), write),
            })
        }
        Stdio::Inherit => {
            let number = match direction {
                Direction::In => 0,
                Direction::Out(number) => number,
            };
            // SAFETY: the standard descriptors are open for the life of the process; the runtime sees to that.
            let own = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
            Ok((None, own.try_clone_to_owned().map_err(Error::setup("duplicate a standard descriptor"))?))
        }
        Stdio::Fd(fd) => Ok((None, fd)),
    }
}

/// The supplementary groups of a user's process, the primary one among them: permissions that deny it something must hold
/// when it has given the primary one up, too.
fn groups_of(user: &User) -> Vec<u32> {
    let others = user.groups.iter().copied().filter(|group| *group != user.gid);
    std::iter::once(user.gid).chain(others).collect()
}

/// The spec as the child can read it.
fn order(spec: &ProcessSpec, groups: &Groups, report: RawFd) -> Result<Order, Error> {
    let invalid = |what: String| Error::Invalid { what };
    if spec.args.is_empty() {
        return Err(invalid("a process needs at least one argument".to_owned()));
    }
    let strings = spec.args.iter().chain(&spec.env).map(|text| text.as_encoded_bytes());
    if let Some(bad) = strings.into_iter().find(|bytes| bytes.contains(&0)) {
        return Err(invalid(format!("{:?} contains a NUL byte", String::from_utf8_lossy(bad))));
    }
    let has_name = |path: &Path| path.components().any(|part| matches!(part, Component::Normal(_)));
    if spec.mounts.iter().any(|mount| !has_name(&mount.dest)) {
        return Err(invalid("a mount needs a target below /".to_owned()));
    }
    if spec.devices.iter().any(|device| !has_name(&device.path)) {
        return Err(invalid("a device needs a path below /".to_owned()));
    }
    if let Some((name, _)) = spec.hosts.iter().find(|(name, _)| name.contains(|c: char| c.is_whitespace() || c == '#'))
    {
        return Err(invalid(format!("{name:?} is not a host name")));
    }
    let mut mounts = vec![file("/etc/hosts", hosts(spec))];
    if !spec.resolv_conf.is_empty() {
        mounts.push(file("/etc/resolv.conf", spec.resolv_conf.clone()));
    }
    // What covers a directory above covers our file too: nothing is made in what the step was given.
    mounts.retain(|own| !spec.mounts.iter().any(|given| own.dest != given.dest && own.dest.starts_with(&given.dest)));
    mounts.extend(spec.mounts.iter().map(mount));
    // Parents first; the sort is stable, so of two mounts on one target the later is on top.
    mounts.sort_by_key(|mount| mount.dest.components().count());
    Ok(Order {
        root: spec.root.as_raw_fd(),
        read_only_root: spec.read_only_root,
        mounts,
        devices: spec.devices.clone(),
        args: spec.args.iter().map(|arg| arg.clone().into_vec()).collect(),
        env: spec.env.iter().map(|entry| entry.clone().into_vec()).collect(),
        cwd: spec.cwd.clone(),
        uid: spec.user.uid,
        gid: spec.user.gid,
        groups: groups_of(&spec.user),
        hostname: spec.hostname.clone(),
        own_network: spec.network == Network::None,
        insecure: spec.security == Security::Insecure,
        rlimits: spec.rlimits.iter().map(|limit| (limit.resource, limit.soft, limit.hard)).collect(),
        keep_stub_parents: spec.keep_stub_parents,
        pid_max: cgroup::pid_max(&spec.limits).unwrap_or(0),
        cgroups: groups.join.iter().map(AsRawFd::as_raw_fd).collect(),
        filter: match spec.security {
            Security::Sandbox => FILTER.clone(),
            Security::Insecure => Vec::new(),
        },
        report,
    })
}

fn mount(mount: &MountSpec) -> Mount {
    let kind = match &mount.kind {
        MountKind::Bind { source, read_only } => Kind::Bind { source: source.as_raw_fd(), read_only: *read_only },
        MountKind::Tmpfs { size, mode, read_only } => {
            Kind::Tmpfs { size: size.unwrap_or(0), mode: *mode, read_only: *read_only }
        }
        MountKind::File { content, mode, uid, gid } => {
            Kind::File { content: content.clone(), mode: *mode, uid: *uid, gid: *gid }
        }
    };
    Mount { dest: mount.dest.clone(), kind }
}

fn file(dest: &str, content: Vec<u8>) -> Mount {
    Mount { dest: PathBuf::from(dest), kind: Kind::File { content, mode: 0o644, uid: 0, gid: 0 } }
}

/// The bytes of `/etc/hosts`.
fn hosts(spec: &ProcessSpec) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", spec.hostname);
    for (name, address) in &spec.hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text.into_bytes()
}

/// The life of the spawner thread.
fn serve(requests: &Receiver<Request>) {
    // A handler of the builder must not run in a child that still shares its memory.
    // SAFETY: the set is initialised by sigfillset, and only this thread's mask changes.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
    let mut swept = false;
    // One child at a time uses it, and only until it executes its program.
    let mut stack = vec![0_u128; 64 * 1024 / 16];
    let mut templates = Templates::default();
    for request in requests {
        let copied = templates.copy(&request.program, &mut stack);
        let result = copied.map_or_else(|| clone(&request.program, libc::CLONE_NEWPID, &mut stack), Ok);
        let _ = request.reply.send(result);
        // The first step does not wait for it.
        if !std::mem::replace(&mut swept, true) {
            cgroup::sweep();
        }
    }
}

/// The template of a spawner, and what is known of templates here.
#[derive(Default)]
struct Templates {
    current: Option<Template>,
    /// How many could not be started or used.
    failed: usize,
}

impl Templates {
    /// A keeper that is a copy; none where that is not possible, for this one or at all.
    fn copy(&mut self, program: &Program, stack: &mut [u128]) -> Option<OwnedFd> {
        if program.keep.len() + program.stdio.len() > template::MOST || self.failed > 2 {
            return None;
        }
        if self.current.is_none() {
            self.current = start_template(&program.image, stack).ok();
        }
        let fds: Vec<RawFd> = program.stdio.iter().chain(&program.keep).copied().collect();
        match self.current.as_ref().map(|template| template.copy(&fds)) {
            Some(Ok(pidfd)) => Some(pidfd),
            _ => {
                self.current = None;
                self.failed += 1;
                None
            }
        }
    }
}

fn start_template(image: &Arc<OwnedFd>, stack: &mut [u128]) -> io::Result<Template> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let program = Program::new(image, keeper::TEMPLATE, [null.as_raw_fd(); 3], vec![theirs.as_raw_fd()]);
    let process = clone(&program, 0, stack)?;
    Ok(Template::new(ours, process))
}

/// Clones a child that executes the program, into these namespaces of its own, and returns its pidfd.
fn clone(program: &Program, namespaces: libc::c_int, stack: &mut [u128]) -> io::Result<OwnedFd> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | namespaces;
    let mut pidfd: RawFd = -1;
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: the stack is large enough for `child`, which calls nothing but system calls, and belongs to it alone as
    // this thread is suspended until the child has replaced itself; the program outlives that for the same reason.
    // CLONE_PIDFD stores the descriptor in `pidfd`.
    let pid =
        unsafe { libc::clone(child, top.cast(), flags, std::ptr::from_ref(program).cast_mut().cast(), &raw mut pidfd) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// What the child does until it executes its program. It shares the builder's memory: no allocation, no lock, no panic.
extern "C" fn child(program: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `clone` passes a program that outlives this function; the rest are system calls on plain numbers and on
    // C strings that live in it or are constant.
    unsafe {
        let program = &*program.cast::<Program>();
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for (number, fd) in program.stdio.iter().enumerate() {
            if libc::dup2(*fd, number as RawFd) < 0 {
                libc::_exit(126);
            }
        }
        for fd in &program.keep {
            libc::fcntl(*fd, libc::F_SETFD, 0);
        }
        let arguments = [c"rbuild-init".as_ptr(), program.argument.as_ptr(), std::ptr::null()];
        let environment = [std::ptr::null::<libc::c_char>()];
        libc::syscall(
            libc::SYS_execveat,
            program.image.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        libc::_exit(127)
    }
}
