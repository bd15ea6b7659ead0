//! Runs a process: gathers what it may see, starts it in the sandbox, keeps what it left.

mod agent;
mod caches;
mod devices;
mod foreign;
mod limits;
mod mounts;
mod secrets;

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use futures_util::future::join_all;
use rustix::event::{poll, PollFd, PollFlags};
use solver::graph::op::{Network, RunOp, Security};
use solver::graph::{Hints, Platform};
use solver::port::AskCx;
use tokio::io::AsyncReadExt;

use super::{StepCx, StepFailure};
use crate::engine::blocking::blocking;
use crate::engine::results::Output;
use crate::sandbox::{self, ProcessSpec};
pub(crate) use agent::Agent;
pub(crate) use caches::Emptied;
pub(crate) use devices::edits;
pub(crate) use limits::{limits, of_resources};
use mounts::{Scene, Supplies};

/// The environment's `PATH` of a step that sets none.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `op` on `inputs` and gives its outputs in order.
pub(crate) async fn run(
    cx: &StepCx,
    at: &AskCx,
    op: &RunOp,
    hints: &Hints,
    inputs: Vec<Output>,
) -> Result<Vec<Output>, StepFailure> {
    // Alive until the process has ended: with it go the caches and the sockets.
    let supplies = Arc::new(Supplies::gather(cx, at, op, hints, &inputs).await?);
    let (trees, spec) = {
        let (cx, op, supplies) = (cx.clone(), op.clone(), Arc::clone(&supplies));
        let limits = limits(&op, hints)?;
        blocking(move || {
            let Scene { root, read_only_root, below, trees } = mounts::mount(&cx, &op, &inputs, &supplies)?;
            let mut spec = process(&cx, &op, root)?;
            supplies.secrets.add_to(&mut spec.env);
            let mut spec = ProcessSpec { read_only_root, mounts: below, limits, ..spec };
            devices::equip(&cx, &op, &mut spec)?;
            Ok::<_, StepFailure>((trees, spec))
        })
        .await?
    };
    let memory = spec.limits.memory;
    let End { code, out_of_memory } = {
        let agents = supplies.agents.iter().map(|(_, agent)| agent.serve(Arc::clone(&cx.client)));
        let serving = async {
            join_all(agents).await;
            std::future::pending().await
        };
        tokio::select! {
            end = execute(cx, at, spec, Arc::clone(&supplies)) => end?,
            never = serving => never,
        }
    };
    drop(supplies);
    let valid = &op.meta.valid_exit_codes;
    if !(valid.is_empty() && code == 0 || valid.contains(&code)) {
        let command = op.meta.args.join(" ");
        return Err(match out_of_memory {
            true => StepFailure::OutOfMemory { command, limit: memory },
            false => StepFailure::Exit { command, code },
        });
    }
    let cx = cx.clone();
    blocking(move || mounts::keep(&cx, trees)).await
}

/// A failure to start, with what this machine lacks to run programs of the step's platform, if that is the reason.
pub(super) fn told_of_platform(failure: StepFailure, platform: Option<&Platform>) -> StepFailure {
    let is_format = |source: &sandbox::Error| match source {
        sandbox::Error::NotExecutable { reason, .. } => {
            reason.contains("exec format error") || reason.contains("interpreter is missing")
        }
        _ => false,
    };
    match failure {
        StepFailure::Start { command, source } if is_format(&source) => {
            match platform.and_then(|platform| Some((platform.architecture.clone(), foreign::missing(platform)?))) {
                Some((architecture, missing)) => StepFailure::Foreign { command, architecture, missing },
                None => StepFailure::Start { command, source },
            }
        }
        other => other,
    }
}

/// How a process ended.
struct End {
    /// As a shell reports it.
    code: i32,
    /// The kernel killed a process of it, for want of memory.
    out_of_memory: bool,
}

/// Starts the process, passes on what it writes, and waits for its end. Dropping the future kills the process.
///
/// `supplies` are kept until the process has ended, also where it is killed while it starts.
async fn execute(cx: &StepCx, at: &AskCx, spec: ProcessSpec, supplies: Arc<Supplies>) -> Result<End, StepFailure> {
    let sandbox = cx.sandbox()?;
    let command = spec.args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let start = |source| StepFailure::Start { command: command.clone(), source };
    let (started, _supplies) = blocking(move || (sandbox.spawn(spec), supplies)).await;
    let mut running = started.map_err(start)?;
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
    let code = match exit {
        sandbox::Exit::Code(code) => code,
        sandbox::Exit::Signal(signal) => 128 + signal,
    };
    Ok(End { code, out_of_memory: running.was_out_of_memory() })
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

/// What the process is.
fn process(cx: &StepCx, op: &RunOp, root: OwnedFd) -> Result<ProcessSpec, StepFailure> {
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
            // Whoever asks for the build knows the way out better than an image does.
            for name in [name.to_string(), name.to_lowercase()] {
                env.retain(|pair| pair.split('=').next() != Some(&name));
                env.push(format!("{name}={value}"));
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
        if number(limit.soft) > number(limit.hard) {
            let value = format!("{}={}:{}", limit.name, limit.soft, limit.hard);
            return Err(StepFailure::BadLimit { limit: "ulimit", value, want: "a soft limit not above the hard one" });
        }
        let rlimit = sandbox::Rlimit::named(&limit.name, number(limit.soft), number(limit.hard));
        rlimits.push(rlimit.ok_or_else(|| StepFailure::BadUlimit { name: limit.name.clone() })?);
    }
    let spec = ProcessSpec::new(root, meta.args.iter().map(OsString::from));
    Ok(ProcessSpec {
        env: env.into_iter().map(OsString::from).collect(),
        cwd: mounts::absolute("/", &meta.cwd),
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
        keep_stub_parents: !meta.remove_mount_stubs_recursive,
        ..spec
    })
}
