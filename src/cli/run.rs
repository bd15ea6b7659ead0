//! `rbuild run`: a command in an image, in the sandbox that RUN steps have.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;
use snapshotter::Store;

use super::args::{self, Run};
use super::failure::{chain, Failure};
use super::owners;
use crate::engine::images::{self, Image};
use crate::sandbox::{self, Exit, ProcessSpec, Sandbox, Stdio};

/// The environment's `PATH` of an image that sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `rbuild run`: gives the command's exit code.
pub(super) fn run(store: &Store, args: &Run) -> Result<u8, Failure> {
    sandbox::private_mount_namespace()?;
    let image = images::find(store, &args.name)?;
    let lease = store.lease()?;
    let active = store.prepare(image.top().as_ref(), &lease)?;
    let mounted = active.mount()?;
    let user = args.user.clone().unwrap_or_else(|| text(&image, "User"));
    let user = sandbox::resolve_user(mounted.root(), &user)?;
    let command = command(&image, args)?;
    let mut env = strings(&image, "Env");
    env.extend(args.env.iter().cloned());
    let has = |env: &[String], name: &str| env.iter().any(|pair| pair.split('=').next() == Some(name));
    if !has(&env, "PATH") {
        env.push(DEFAULT_PATH.to_string());
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    let (network, warning) = match args.network {
        args::Network::Default => sandbox::default_network(),
        args::Network::Host => (sandbox::Network::Host, None),
        args::Network::None => (sandbox::Network::None, None),
    };
    if let Some(warning) = warning {
        eprintln!("WARNING: {warning}");
    }
    let workdir = args.workdir.clone().unwrap_or_else(|| text(&image, "WorkingDir"));
    let root = mounted.root().try_clone_to_owned()?;
    let spec = ProcessSpec {
        env: env.into_iter().map(OsString::from).collect(),
        cwd: Path::new("/").join(PathBuf::from(workdir)),
        user: user.user,
        network,
        resolv_conf: if network == sandbox::Network::None { Vec::new() } else { sandbox::host_resolv_conf() },
        stdin: Stdio::Inherit,
        stdout: Stdio::Inherit,
        stderr: Stdio::Inherit,
        ..ProcessSpec::new(root, command)
    };
    let mut running = Sandbox::start()?.spawn(spec).map_err(|e| {
        let help = owners::help(&e).map(|help| format!("\nhelp: {help}")).unwrap_or_default();
        Failure::user(format!("{}{help}", chain(&e)))
    })?;
    let code = match running.wait()? {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    };
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Entrypoint and arguments, as docker combines them.
fn command(image: &Image, args: &Run) -> Result<Vec<String>, Failure> {
    let mut words = match &args.entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
        None => strings(image, "Entrypoint"),
    };
    // Another entrypoint has no use for the image's arguments.
    match (args.command.is_empty(), &args.entrypoint) {
        (false, _) => words.extend(args.command.iter().cloned()),
        (true, None) => words.extend(strings(image, "Cmd")),
        (true, Some(_)) => {}
    }
    if words.is_empty() {
        return Err(Failure::user(format!("{}: the image has no command, and none was given", args.name)));
    }
    Ok(words)
}

/// A text of the image's runtime config; empty when it is not there.
fn text(image: &Image, key: &str) -> String {
    let config = image.config.get("config").and_then(|config| config.get(key));
    config.and_then(Value::as_str).unwrap_or_default().to_string()
}

/// A list of the image's runtime config; empty when it is not there.
fn strings(image: &Image, key: &str) -> Vec<String> {
    let list = image.config.get("config").and_then(|config| config.get(key)).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect()
}
