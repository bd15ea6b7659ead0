//! RUN: a process over the stage's files.

use solver::graph::op::{
    CdiDevice, ContentCache, HostIp, Meta, Mount, MountKind, Network, Op, ProxyEnv, RunOp, Security,
};
use solver::graph::{LinuxResources, OutputIndex};

use super::build::{About, At, Build, Inputs};
use super::inline;
use super::mount::{self, Mounts};
use super::stage::StageState;
use crate::ast::{Command, Device, Heredoc, Run, RunNetwork};
use crate::diagnostic::Diagnostic;
use crate::expand::{Env, Mode};
use crate::ignore::clean;

/// Where a script written in a RUN is found.
const PIPES: &str = "/dev/pipes/";

/// Runs a command.
pub(super) fn run(build: &mut Build, state: &mut StageState, run: &Run, at: &At) -> Result<(), Diagnostic> {
    let mut inputs = Inputs::default();
    let mut mounts = Mounts::default();
    mounts.trees.push(Mount {
        input: inputs.index(state.output),
        selector: String::new(),
        dest: "/".into(),
        output: Some(OutputIndex(0)),
        readonly: false,
        kind: MountKind::Bind,
        content_cache: ContentCache::Default,
    });
    let mut shown = at.statement.text.clone();
    let args = match &run.command {
        Command::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        Command::Shell(line) => {
            let mut script = line.text.clone();
            match &at.statement.heredocs[..] {
                [] => {}
                [only] if line.span == only.word => {
                    let document = only.document();
                    shown.push_str(&format!(" ({})", first_line(&only.content)));
                    if document.starts_with("#!") {
                        let file = inline::tree(build, inline::path(only)?, 0o755, document.into_bytes());
                        mounts.trees.push(mount::read_only(inputs.index(Some(file)), "/", PIPES));
                        script = clean(&format!("{PIPES}{}", only.name));
                    } else {
                        script = document;
                    }
                }
                // The shell reads them, so they follow its line as they did in the file.
                several => {
                    script.extend(several.iter().map(|Heredoc { content, name, .. }| format!("\n{content}{name}")));
                }
            }
            with_shell(build, state, script)
        }
    };
    let options = build.scene.options;
    if options.shm_size > 0 {
        let kind = MountKind::Tmpfs { size: options.shm_size };
        mounts.trees.push(Mount { kind, ..mount::read_write(None, "/dev/shm") });
    }
    for mount in &run.mounts {
        mount::mount(build, state, mount, &mut inputs, &mut mounts, at)?;
    }
    // Once for the process, and at most once more for what history says of it.
    build.effort.spend(2 * state.env.bytes(), at.place(at.statement.span))?;
    let mut env: Vec<String> = state.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let Some(socket) = mounts.agents.first().filter(|_| state.env.value("SSH_AUTH_SOCK").is_none()) {
        env.push(format!("SSH_AUTH_SOCK={}", socket.dest));
    }
    // Masked before names are made, so that no secret of the same name is shown.
    let masked: Vec<String> = mounts.secret_env.iter().map(|secret| secret.name.clone()).collect();
    let meta = Meta {
        args: args.clone(),
        env,
        cwd: state.cwd.clone(),
        user: state.user.clone(),
        proxy_env: proxy_env(build),
        extra_hosts: options
            .extra_hosts
            .iter()
            .map(|(host, ip)| HostIp { host: host.clone(), ip: ip.clone() })
            .collect(),
        hostname: options
            .hostname
            .as_ref()
            .or_else(|| options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME"))
            .cloned()
            .unwrap_or_default(),
        ulimits: options.ulimits.clone(),
        cgroup_parent: options.cgroup_parent.clone(),
        remove_mount_stubs_recursive: true,
        valid_exit_codes: Vec::new(),
    };
    let network = if run.network == RunNetwork::Default { options.network } else { run.network };
    let secret_env = std::mem::take(&mut mounts.secret_env);
    let mut mounts = mounts.in_order();
    // Inputs follow the order of mounts, not that of flags: equal processes are equal vertices.
    let mut ordered = Inputs::default();
    for mount in &mut mounts {
        mount.input = ordered.index(mount.input.map(|index| inputs.0[index]));
    }
    let op = RunOp {
        meta: Box::new(meta),
        secret_env,
        mounts,
        network: match network {
            RunNetwork::Default => Network::Sandbox,
            RunNetwork::None => Network::None,
            RunNetwork::Host => Network::Host,
        },
        security: if run.insecure { Security::Insecure } else { Security::Sandbox },
        devices: run.devices.iter().map(device).collect(),
    };
    let display = state.display_with(&masked, &shown, Mode::display(build.scene.escape));
    let resources = Some(options.resources.clone()).filter(|limits| *limits != LinuxResources::default());
    let about = About { resources, ..at.about(state.next_name(&display), state.ignore_cache) };
    let platform = Some(state.platform.clone());
    state.output = Some(build.add(Op::Run(op), ordered.0, platform, about));
    let created_by = format!("RUN {} # buildkit", with_args(state, &args));
    state.config.commit(created_by, true, build.scene.epoch);
    Ok(())
}

fn device(device: &Device) -> CdiDevice {
    CdiDevice { name: device.name.clone(), optional: !device.required }
}

/// A command line for the stage's shell.
pub(super) fn with_shell(build: &Build, state: &StageState, line: String) -> Vec<String> {
    let own = &state.config.config.shell;
    let shell = if own.is_empty() { &build.scene.options.shell } else { own };
    shell.iter().cloned().chain([line]).collect()
}

/// What history says of a command: declared variables with their values come first.
fn with_args(state: &StageState, args: &[String]) -> String {
    let mut words = Vec::new();
    if !state.args.is_empty() {
        words.push(format!("|{}", state.args.len()));
    }
    for (name, declared) in &state.args {
        let value = state.env.value(name).or(declared.as_deref()).unwrap_or_default();
        words.push(format!("{name}={value}"));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

/// The first line of a document, with dots if there are more.
fn first_line(document: &str) -> String {
    match document.trim().split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
        None => document.trim().to_string(),
    }
}

/// Proxy variables among the build arguments, in any case.
fn proxy_env(build: &Build) -> Option<ProxyEnv> {
    let mut proxy = ProxyEnv::default();
    for (name, value) in &build.scene.options.build_args {
        let field = match name.to_ascii_lowercase().as_str() {
            "http_proxy" => &mut proxy.http,
            "https_proxy" => &mut proxy.https,
            "ftp_proxy" => &mut proxy.ftp,
            "no_proxy" => &mut proxy.no,
            "all_proxy" => &mut proxy.all,
            _ => continue,
        };
        field.clone_from(value);
    }
    (proxy != ProxyEnv::default()).then_some(proxy)
}
