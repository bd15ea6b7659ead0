//! A commit as a tree: asked for by name, fetched into a repository that is kept for each remote, checked out once.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use snapshotter::store::cache_mount::CacheMount;
use solver::graph::op::{SecretMount, SourceOp};
use solver::graph::Vertex;
use solver::key::CacheKey;
use solver::port::{AskCx, Record};

use crate::engine::blocking::blocking;
use crate::engine::client::Client;
use crate::engine::explain::{Base, BaseKind};
use crate::engine::host::EngineHost;
use crate::engine::steps::{Agent, StepFailure};
use crate::registry::Secret;
use crate::source::blob::Locator;
use crate::source::git::{Git, Pinned, Wanted};

/// How often somebody looks whether a repository is free.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl EngineHost {
    pub(in crate::engine) async fn pin_git(
        &self,
        at: &AskCx,
        vertex: &Vertex,
        source: &SourceOp,
    ) -> Result<Record, StepFailure> {
        let wanted = Wanted::read(source.reference(), &source.attrs)?;
        let cx = self.source_cx(at)?;
        let agent = match &wanted.agent {
            None => None,
            Some(id) => {
                let options = SecretMount { id: id.clone(), mode: 0o600, ..SecretMount::default() };
                Agent::open(&cx, &options).await?
            }
        };
        let Some(agent) = agent else { return self.pin_commit(at, vertex, &wanted, None).await };
        let directory = agent.directory()?;
        tokio::select! {
            record = self.pin_commit(at, vertex, &wanted, Some(directory)) => record,
            () = agent.serve(cx.client) => Err(StepFailure::NoAgent { id: wanted.agent.clone().unwrap_or_default() }),
        }
    }

    async fn pin_commit(
        &self,
        at: &AskCx,
        vertex: &Vertex,
        wanted: &Wanted,
        agent: Option<OwnedFd>,
    ) -> Result<Record, StepFailure> {
        let authorization = authorization(self.client(at)?.as_ref(), wanted).await?;
        // By descriptor, since a socket's path may have 108 bytes only.
        let process = std::process::id();
        let socket = agent.as_ref().map(|dir| PathBuf::from(format!("/proc/{process}/fd/{}/agent", dir.as_raw_fd())));
        let aside = self.store().prepare(None, self.lease())?;
        let log = at.clone();
        let on_line = move |line: &[u8]| log.log(2, line);
        let mut git = Git::new(aside.upper(), wanted, authorization, socket, &on_line)?;
        let pinned = match (&wanted.bundle, git.known()) {
            (Some(_), Some(pinned)) => pinned,
            (Some(bundle), None) => {
                self.stage(at, bundle, &mut git).await?;
                git.resolve().await?
            }
            (None, _) => git.resolve().await?,
        };
        let base = Base { kind: BaseKind::Git, name: named(wanted), digest: pinned.commit.clone(), ..Base::default() };
        self.submitted(at)?.resolved(vertex, base);
        let key = CacheKey(wanted.identity(&pinned));
        // Who signed it is asked each time: keys differ, and have their time.
        if wanted.signing.is_none() {
            if let Some(record) = self.stored(key).await? {
                at.cached();
                return Ok(record);
            }
        }
        let began = Instant::now();
        let kept = self.repository(at, wanted).await?;
        let repository = kept.directory()?;
        if wanted.signing.is_some() {
            self.fetch_commit(at, &mut git, &repository, &pinned).await?;
            git.check_signature(&repository, &pinned).await?;
        }
        // Another process may have had it for this very commit.
        if let Some(record) = self.stored(key).await? {
            return Ok(record);
        }
        self.fetch_commit(at, &mut git, &repository, &pinned).await?;
        let files = match wanted.as_bundle {
            true => git.check_out_bundle(&repository, &pinned).await?,
            false => git.check_out(&repository, &pinned).await?,
        };
        let active = self.store().prepare(None, self.lease())?;
        let to = active.upper();
        let moved = blocking(move || move_all(&files, &to)).await;
        moved.map_err(|source| StepFailure::io("move the files of a commit", source))?;
        self.keep_source(key, active, began.elapsed()).await
    }

    /// Makes a commit available in the repository of its remote, from the source's bundle if it has one.
    async fn fetch_commit(
        &self,
        at: &AskCx,
        git: &mut Git<'_>,
        repository: &Path,
        pinned: &Pinned,
    ) -> Result<(), StepFailure> {
        let wanted = git.wanted();
        if let Some(bundle) = wanted.bundle.as_ref().filter(|_| !git.is_staged()) {
            let lacks_history = wanted.as_bundle && Git::is_shallow(repository);
            if lacks_history || !git.has(repository, pinned).await {
                self.stage(at, bundle, git).await?;
            }
        }
        Ok(git.fetch(repository, pinned).await?)
    }

    /// Brings a bundle, to be used in place of the remote.
    async fn stage(&self, at: &AskCx, bundle: &Locator, git: &mut Git<'_>) -> Result<(), StepFailure> {
        let failed = |source| StepFailure::io("write a bundle", source);
        let file = fs::File::options().write(true).create_new(true).open(git.bundle_file()).map_err(failed)?;
        self.save_blob(at, bundle, file).await?;
        Ok(git.stage().await?)
    }

    /// The bare repository of a remote, once nobody else has it.
    async fn repository(&self, at: &AskCx, wanted: &Wanted) -> Result<CacheMount, StepFailure> {
        let name = format!("git {}", wanted.remote);
        let _waiting = at.pause();
        loop {
            let (store, name) = (self.store().clone(), name.clone());
            if let Some(repository) = blocking(move || store.own_cache(&name)).await? {
                return Ok(repository);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// The source as a later build will know it again: `https://host/r.git#main:dir`.
fn named(wanted: &Wanted) -> String {
    let Wanted { remote, reference, subdir, .. } = wanted;
    let reference = reference.as_deref().unwrap_or_default();
    match (reference.is_empty(), subdir.is_empty()) {
        (true, true) => remote.to_string(),
        (_, true) => format!("{remote}#{reference}"),
        (_, false) => format!("{remote}#{reference}:{}", subdir.join("/")),
    }
}

/// Moves what is in one directory to another of the same file system.
fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::rename(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The value of `Authorization`, if the client has one for this repository: those for its host come first.
///
/// <https://docs.docker.com/build/building/secrets/#git-authentication-for-remote-contexts>
async fn authorization(client: &dyn Client, wanted: &Wanted) -> Result<Option<Secret>, StepFailure> {
    let (token, header) = &wanted.secrets;
    let host = wanted.remote.host();
    for suffix in [format!(".{host}"), String::new()] {
        if let Some(id) = token {
            if let Some(value) = client.secret(&format!("{id}{suffix}")).await? {
                let pair = format!("x-access-token:{}", String::from_utf8_lossy(value.bytes()).trim());
                let pair = base64::engine::general_purpose::STANDARD.encode(pair);
                return Ok(Some(Secret::new(format!("Basic {pair}"))));
            }
        }
        if let Some(id) = header {
            if let Some(value) = client.secret(&format!("{id}{suffix}")).await? {
                return Ok(Some(Secret::new(String::from_utf8_lossy(value.bytes()).trim())));
            }
        }
    }
    Ok(None)
}
