//! Runs a process: mounts its trees, starts it in the sandbox, keeps what it left.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::OpenTreeFlags;
use snapshotter::{Active, Mounted, View};
use solver::graph::op::{Mount, MountKind, Network, RunOp, Security};
use solver::graph::OutputIndex;
use solver::port::AskCx;
use tokio::io::AsyncReadExt;

use super::{identity_over, StepCx, StepFailure};
use crate::engine::blocking::blocking;
use crate::engine::results::{Files, Output};
use crate::sandbox::{self, MountSpec, ProcessSpec};

/// The environment's `PATH` of a step that sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `op` on `inputs` and gives its outputs in order.
pub(crate) async fn run(cx: &StepCx, at: &AskCx, op: &RunOp, inputs: Vec<Output>) -> Result<Vec<Output>, StepFailure> {
    let (trees, spec) = {
        let (cx, op) = (cx.clone(), op.clone());
        blocking(move || prepare(&cx, &op, inputs)).await?
    };
    let code = execute(cx, at, spec).await?;
    let valid = &op.meta.valid_exit_codes;
    if !(valid.is_empty() && code == 0 || valid.contains(&code)) {
        return Err(StepFailure::Exit { command: op.meta.args.join(" "), code });
    }
    let cx = cx.clone();
    blocking(move || keep(&cx, trees)).await
}

/// Starts the process, passes on what it writes, and waits for its end. Dropping the future kills the process.
async fn execute(cx: &StepCx, at: &AskCx, spec: ProcessSpec) -> Result<i32, StepFailure> {
    let sandbox = cx.sandbox()?;
    let command = spec.args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let start = |source| StepFailure::Start { command: command.clone(), source };
    let mut running = blocking(move || sandbox.spawn(spec)).await.map_err(start)?;
    let (stdout, stderr) = (running.stdout.take(), running.stderr.take());
    tokio::join!(pass_on(cx, at, 1, stdout), pass_on(cx, at, 2, stderr));
    // A process may close its output and go on. It is watched from another thread through a descriptor of its own, so
    // that dropping this future still kills it, which also ends the watch.
    let pidfd = running.pidfd().try_clone_to_owned().map_err(|e| StepFailure::io("watch the process", e))?;
    blocking(move || {
        let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut watched, None) {}
    })
    .await;
    let exit = running.wait().map_err(start)?;
    Ok(match exit {
        sandbox::Exit::Code(code) => code,
        // As a shell reports it.
        sandbox::Exit::Signal(signal) => 128 + signal,
    })
}

/// Reads a pipe to its end.
async fn pass_on(cx: &StepCx, at: &AskCx, stream: u8, pipe: Option<OwnedFd>) {
    let Some(Ok(mut pipe)) = pipe.map(tokio::net::unix::pipe::Receiver::from_owned_fd) else { return };
    let mut buffer = vec![0; 32 << 10];
    loop {
        cx.backlog.room().await;
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => at.log(stream, &buffer[..length]),
        }
    }
}

/// The trees of a step, mounted.
struct Trees {
    outputs: Vec<(OutputIndex, Kept)>,
    /// Kept alive until the process has ended.
    _others: Vec<Shown>,
}

/// What becomes of a tree that has an output.
enum Kept {
    /// The process wrote to it.
    Written { active: Active, on: Output },
    /// It was only read.
    Same(Output),
}

/// A tree that is only shown.
enum Shown {
    View(#[allow(dead_code, reason = "alive until dropped")] View),
    ThrownAway(#[allow(dead_code, reason = "alive until dropped")] Active),
}

/// Mounts what the step needs and says what its process is.
fn prepare(cx: &StepCx, op: &RunOp, inputs: Vec<Output>) -> Result<(Trees, ProcessSpec), StepFailure> {
    let mut trees = Trees { outputs: Vec::new(), _others: Vec::new() };
    let mut root = None;
    let mut mounts = Vec::new();
    for mount in &op.mounts {
        let dest = absolute(&op.meta.cwd, &mount.dest);
        let kind = match &mount.kind {
            MountKind::Bind => {
                let source = bind(cx, mount, &inputs, &mut trees)?;
                if dest == Path::new("/") {
                    root = Some((source, mount.readonly));
                    continue;
                }
                sandbox::MountKind::Bind { source, read_only: mount.readonly }
            }
            MountKind::Tmpfs { size } => sandbox::MountKind::Tmpfs {
                size: u64::try_from(*size).ok().filter(|size| *size > 0),
                mode: 0o1777,
                read_only: mount.readonly,
            },
            MountKind::Cache { .. } => return Err(StepFailure::Unsupported("cache mounts")),
            MountKind::Secret(_) => return Err(StepFailure::Unsupported("secret mounts")),
            MountKind::Ssh(_) => return Err(StepFailure::Unsupported("ssh mounts")),
        };
        mounts.push(MountSpec { dest, kind });
    }
    if !op.secret_env.is_empty() {
        return Err(StepFailure::Unsupported("secrets in the environment"));
    }
    if !op.devices.is_empty() {
        return Err(StepFailure::Unsupported("devices: there is no CDI here"));
    }
    let (root, read_only_root) = root.ok_or(StepFailure::Unsupported("a step without a root"))?;
    let spec = process(cx, op, root, read_only_root, mounts)?;
    Ok((trees, spec))
}

/// Mounts one tree, detached, and remembers what becomes of it.
fn bind(cx: &StepCx, mount: &Mount, inputs: &[Output], trees: &mut Trees) -> Result<OwnedFd, StepFailure> {
    let input = match mount.input {
        Some(at) => inputs.get(at).cloned().ok_or(StepFailure::Unsupported("a mount of an input that is not there"))?,
        None => Output::empty(),
    };
    let base = match &input.files {
        Files::Empty => None,
        Files::Snapshot(id) => Some(*id),
        // The live directory is never shown to a process: it sees a copy without what is ignored.
        Files::Context(context) => Some(super::file::copy_of_context(cx, context, &mount.selector)?),
    };
    if mount.readonly {
        let view = cx.store.view(base.as_ref(), &cx.lease)?;
        let source = select(&view.mount()?, &mount.selector)?;
        trees._others.push(Shown::View(view));
        if let Some(output) = mount.output {
            trees.outputs.push((output, Kept::Same(input)));
        }
        return Ok(source);
    }
    let active = cx.store.prepare(base.as_ref(), &cx.lease)?;
    let source = select(&active.mount()?, &mount.selector)?;
    match mount.output {
        Some(output) => trees.outputs.push((output, Kept::Written { active, on: input })),
        None => trees._others.push(Shown::ThrownAway(active)),
    }
    Ok(source)
}

/// A mount of the selected part of a tree that the process can have for its own.
fn select(tree: &Mounted, selector: &str) -> Result<OwnedFd, StepFailure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = |of: &dyn AsFd| {
        let flags = flags | OpenTreeFlags::AT_EMPTY_PATH;
        rustix::mount::open_tree(of.as_fd(), "", flags).map_err(|e| StepFailure::io("clone a mount", e.into()))
    };
    let path = selector.trim_matches('/');
    if path.is_empty() || path == "." {
        return clone(&tree.root());
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let part = rustix::fs::openat2(tree.root(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    let part = part.map_err(|e| match e {
        rustix::io::Errno::NOENT => StepFailure::NotFound { path: selector.to_string() },
        other => StepFailure::io("open the source of a mount", other.into()),
    })?;
    clone(&part)
}

/// What the process is.
fn process(
    cx: &StepCx,
    op: &RunOp,
    root: OwnedFd,
    read_only_root: bool,
    mounts: Vec<MountSpec>,
) -> Result<ProcessSpec, StepFailure> {
    let meta = &op.meta;
    let user = sandbox::resolve_user(root.as_fd(), &meta.user).map_err(StepFailure::User)?;
    let mut env = meta.env.clone();
    let has = |env: &[String], name: &str| env.iter().any(|pair| pair.split('=').next() == Some(name));
    if !has(&env, "PATH") {
        env.push(DEFAULT_PATH.to_string());
    }
    if let Some(proxy) = &meta.proxy_env {
        let values = [
            ("HTTP_PROXY", &proxy.http),
            ("HTTPS_PROXY", &proxy.https),
            ("FTP_PROXY", &proxy.ftp),
            ("NO_PROXY", &proxy.no),
            ("ALL_PROXY", &proxy.all),
        ];
        for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
            for name in [name.to_string(), name.to_lowercase()] {
                if !has(&env, &name) {
                    env.push(format!("{name}={value}"));
                }
            }
        }
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    let mut hosts = Vec::new();
    for host in &meta.extra_hosts {
        let ip: IpAddr =
            host.ip.parse().map_err(|_| StepFailure::BadHost { host: host.host.clone(), ip: host.ip.clone() })?;
        hosts.push((host.host.clone(), ip));
    }
    let mut rlimits = Vec::new();
    for limit in &meta.ulimits {
        let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
        let rlimit = sandbox::Rlimit::named(&limit.name, number(limit.soft), number(limit.hard));
        rlimits.push(rlimit.ok_or_else(|| StepFailure::BadUlimit { name: limit.name.clone() })?);
    }
    let spec = ProcessSpec::new(root, meta.args.iter().map(OsString::from));
    Ok(ProcessSpec {
        read_only_root,
        mounts,
        env: env.into_iter().map(OsString::from).collect(),
        cwd: absolute("/", &meta.cwd),
        user: user.user,
        hostname: if meta.hostname.is_empty() { spec.hostname.clone() } else { meta.hostname.clone() },
        hosts,
        resolv_conf: if op.network == Network::None { Vec::new() } else { sandbox::host_resolv_conf() },
        network: match op.network {
            Network::None => sandbox::Network::None,
            Network::Host => cx.entitled_to_host_network()?,
            Network::Sandbox => sandbox::default_network().0,
        },
        security: match op.security {
            Security::Sandbox => sandbox::Security::Sandbox,
            Security::Insecure => cx.entitled_to_insecure()?,
        },
        rlimits,
        ..spec
    })
}

/// `path` below `from`, absolute.
fn absolute(from: &str, path: &str) -> PathBuf {
    Path::new("/").join(from).join(path)
}

/// Commits what the process wrote.
fn keep(cx: &StepCx, trees: Trees) -> Result<Vec<Output>, StepFailure> {
    let mut outputs: Vec<(OutputIndex, Output)> = Vec::new();
    for (index, kept) in trees.outputs {
        let output = match kept {
            Kept::Same(output) => output,
            Kept::Written { active, on } => {
                let made = cx.store.commit(active, &cx.lease)?;
                Output { files: Files::Snapshot(made.id), identity: identity_over(&on.identity, &made.delta) }
            }
        };
        outputs.push((index, output));
    }
    outputs.sort_by_key(|(index, _)| *index);
    Ok(outputs.into_iter().map(|(_, output)| output).collect())
}
