//! Images to and from registries and other engines: pull, push, load.

use std::process::{Command, Stdio};
use std::sync::Arc;

use snapshotter::{Lease, Store};
use solver::graph::Platform;

use super::failure::{chain, Failure};
use super::request::platform;
use crate::engine::images::Image;
use crate::engine::{self, Ask, Remote};
use crate::registry::{Credentials, PushEvent};

/// `rbuild pull`: prints the image id.
pub(super) fn pull(store: Store, name: &str, wanted: Option<&str>) -> Result<u8, Failure> {
    let reference = frontend::normalise_reference(name).map_err(|e| Failure::user(format!("{name}: {}", chain(&e))))?;
    let platform = wanted.map(platform).transpose()?.unwrap_or_else(Platform::host);
    let lease = Arc::new(store.lease()?);
    let image = runtime()?.block_on(async {
        let remote = Remote::new(store.clone(), lease, Credentials::from_environment());
        let image = remote.image(&reference, &platform, Ask::Registry).await?;
        remote.fetch(&image).await?;
        Ok::<_, engine::images::Error>(image)
    });
    say!("{}", image?.id());
    Ok(0)
}

/// Makes the files of an image available.
pub(super) fn fetch(store: &Store, lease: &Arc<Lease>, image: &Image) -> Result<(), Failure> {
    let remote = Remote::new(store.clone(), Arc::clone(lease), Credentials::from_environment());
    Ok(runtime()?.block_on(remote.fetch(image))?)
}

/// `rbuild push`: prints what was pushed.
pub(super) fn push(store: Store, names: &[String]) -> Result<u8, Failure> {
    let lease = Arc::new(store.lease()?);
    let runtime = runtime()?;
    for name in names {
        let name = super::name::of_new_image(name)?;
        let tell = Arc::new(|event: PushEvent| match event {
            PushEvent::Existing(digest) => remark!("{digest}: already exists"),
            PushEvent::Mounted(digest) => remark!("{digest}: mounted from another repository"),
            PushEvent::Sent(digest) => remark!("{digest}: pushed"),
            PushEvent::Sending(..) | PushEvent::Document(_) => {}
        });
        let pushed = runtime.block_on(async {
            let remote = Remote::new(store.clone(), Arc::clone(&lease), Credentials::from_environment());
            engine::push(&store, &remote, &name, &(tell as _)).await
        })?;
        say!("{name}: digest: {}", pushed.digest);
    }
    Ok(0)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// The program that `--load` gives images to: docker where there is one, else podman.
pub(super) fn loader() -> Result<&'static str, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    ["docker", "podman"].into_iter().find(is_there).ok_or_else(|| {
        Failure::user(
            "--load needs docker or podman, and neither is in PATH; -o type=docker,dest=FILE writes an archive".into(),
        )
    })
}

/// Gives a docker archive to an engine.
pub(super) fn load(program: &str, archive: &std::path::Path) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.arg("load").arg("--input").arg(archive).stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.output().map_err(|e| Failure::user(format!("{program} load: {e}")))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::user(format!("{program} load: {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}
