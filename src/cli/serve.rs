//! `rbuild serve` and `rbuild dial-stdio`: the daemon, and the way to it for clients elsewhere.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{signal, SignalKind};

use super::args::{DialStdio, Serve};
use super::failure::{chain, Failure};
use super::{limits, owners};
use crate::daemon::config::Config;
use crate::daemon::listen::TlsFiles;
use crate::daemon::{self, Serving};
use crate::sandbox;

/// The configuration file when nobody says.
const CONFIG: &str = "/etc/rbuild/buildkitd.toml";
/// How long work that nobody needs any more may keep the daemon from ending.
const PARTING: Duration = Duration::from_secs(2);

/// Where a daemon serves when nobody says.
pub(super) fn default_address() -> String {
    let below = |directory: PathBuf| format!("unix://{}", directory.join("rbuild/rbuild.sock").display());
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if rustix::process::geteuid().is_root() {
        return below(PathBuf::from("/run"));
    }
    let own = || PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw()));
    below(named("XDG_RUNTIME_DIR").unwrap_or_else(own))
}

/// `rbuild serve`
pub(super) fn serve(args: Serve, root: &Path) -> Result<u8, Failure> {
    // Before any thread: all threads share the mount namespace that they are born in.
    sandbox::private_mount_namespace()
        .map_err(|e| Failure::user(format!("{}: rbuild needs the right to mount", chain(&e))))?;
    let serving = serving(args, root)?;
    if let Some(shortage) = owners::shortage() {
        remark!("WARNING: {shortage}");
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let served = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let end = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        daemon::serve(serving, Arc::new(|text| remark!("{text}")), end).await.map_err(Failure::from)
    });
    runtime.shutdown_timeout(PARTING);
    served.map(|()| 0)
}

fn config_file(args: &Serve) -> Option<PathBuf> {
    args.config.clone().or_else(|| Some(PathBuf::from(CONFIG)).filter(|file| file.is_file()))
}

/// Where the configuration has the store. That it cannot be read is told later.
pub(super) fn configured_root(args: &Serve) -> Option<PathBuf> {
    Config::of_file(&config_file(args)?).ok()?.root
}

/// Options about doors that are not there.
fn without_a_door(group: bool, tls: bool, addresses: &[String]) -> Option<&'static str> {
    let has = |schemes: &[&str]| addresses.iter().any(|address| schemes.iter().any(|s| address.starts_with(s)));
    if group && !has(&["unix://"]) {
        return Some("--group is about a socket that is made here: there is no unix:// address");
    }
    if tls && !has(&["tcp://", "fd://"]) {
        return Some("--tlscert is about TCP: there is no tcp:// or fd:// address");
    }
    None
}

fn serving(args: Serve, root: &Path) -> Result<Serving, Failure> {
    let typed = (args.group.is_some(), args.tlscert.is_some());
    let file = config_file(&args);
    let config = file.as_deref().map(Config::of_file).transpose()?.unwrap_or_default();
    for warning in &config.warnings {
        remark!("WARNING: {}: {warning}", file.as_deref().unwrap_or(Path::new(CONFIG)).display());
    }
    if let Some(file) = &file {
        // Its sections about registries are read where registries are spoken to.
        std::env::set_var("RBUILD_CONFIG", file);
    }
    let mut serving = Serving {
        root: root.to_path_buf(),
        addresses: if args.addresses.is_empty() { config.addresses } else { args.addresses },
        group: args.group.or(config.group),
        tls: config.tls,
        space: if config.keeps_all { None } else { limits::of_environment()? },
        history: limits::history()?,
        jobs: config.jobs,
        debug: args.debug || config.debug,
        allowed: config.allowed,
        devices: config.devices,
        labels: config.labels,
    };
    if serving.addresses.is_empty() {
        serving.addresses.push(args.default_address.unwrap_or_else(default_address));
    }
    if let Some(why) = without_a_door(typed.0, typed.1, &serving.addresses) {
        return Err(Failure::misuse(why.to_string()));
    }
    for name in &args.allow {
        let allowed = serving.allowed.allow(name);
        allowed.map_err(|name| Failure::misuse(format!("--allow-insecure-entitlement {name}: no such entitlement")))?;
    }
    if let (Some(cert), Some(key), Some(clients)) = (args.tlscert, args.tlskey, args.tlscacert) {
        serving.tls = Some(TlsFiles { cert, key, clients });
    }
    Ok(serving)
}

/// `rbuild dial-stdio`
pub(super) fn dial_stdio(args: &DialStdio) -> Result<u8, Failure> {
    let address = args.address.clone().unwrap_or_else(default_address);
    let Some(path) = address.strip_prefix("unix://") else {
        return Err(Failure::misuse(format!("--addr {address}: want unix://PATH")));
    };
    let failed = |e: io::Error| Failure::user(format!("speak with {path}: {e}"));
    let mut from = UnixStream::connect(path).map_err(|e| Failure::user(format!("connect to {path}: {e}")))?;
    let mut to = from.try_clone().map_err(failed)?;
    // A client may be silent while the daemon still speaks. Once the daemon is done, so are we: the thread is left behind.
    std::thread::spawn(move || {
        let _ = pump(&mut io::stdin().lock(), &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    pump(&mut from, &mut io::stdout().lock()).map_err(failed)?;
    Ok(0)
}

/// Passes on every piece as soon as it comes. `io::copy` would leave it to the kernel, which may wait for more, or keep
/// what does not end a line.
fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(piece.get(..count).unwrap_or_default())?;
        to.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_need_the_door_that_they_are_about() {
        let addresses = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (group, tls, words, refused) in [
            (true, false, "unix:///s", None),
            (true, false, "tcp://127.0.0.1:1 fd://", Some("--group")),
            (false, true, "unix:///s", Some("--tlscert")),
            (true, true, "unix:///s tcp://0.0.0.0:1", None),
            (false, true, "fd://", None),
            (false, false, "unix:///s", None),
        ] {
            let found = without_a_door(group, tls, &addresses(words));
            assert_eq!(found.map(|why| why.split(' ').next().unwrap_or_default()), refused, "{words}");
        }
    }
}
