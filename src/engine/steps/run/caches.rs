//! Cache mounts of a step: which ones it needs, waiting for them, and their first content.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use snapshotter::store::cache_mount::{CacheMount, CacheSharing};
use solver::graph::op::{Mount, MountKind, RunOp, Sharing};
use solver::graph::Hints;
use solver::port::AskCx;

use crate::engine::blocking::blocking;
use crate::engine::results::{Files, Output};
use crate::engine::steps::file::{copy_part, measure_part};
use crate::engine::steps::{StepCx, StepFailure};
use crate::sandbox;

/// How often a waiting step looks whether the cache is free.
const POLL: Duration = Duration::from_millis(50);

/// The caches that a build has emptied because it was to begin anew: a later step finds what an earlier one put there.
#[derive(Debug, Default)]
pub(crate) struct Emptied(Mutex<HashSet<String>>);

impl Emptied {
    fn contains(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Whether it is new.
    fn insert(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned())
    }
}

/// The caches that a step has in use.
pub(super) struct Caches {
    /// By name.
    taken: BTreeMap<String, CacheMount>,
    /// The names that mounts have, by number.
    names: BTreeMap<usize, String>,
}

impl Caches {
    /// Takes all caches that `op` mounts. While it waits, another step may run. Dropping the future gives the wait up.
    pub(super) async fn take(
        cx: &StepCx,
        at: &AskCx,
        op: &RunOp,
        hints: &Hints,
        inputs: &[Output],
    ) -> Result<Caches, StepFailure> {
        let mut caches = Caches { taken: BTreeMap::new(), names: BTreeMap::new() };
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for (number, mount) in op.mounts.iter().enumerate() {
            let MountKind::Cache { id, sharing } = &mount.kind else { continue };
            let one = Wanted::new(cx, mount, id, *sharing, hints, inputs).await?;
            caches.names.insert(number, one.name.clone());
            // A step has a cache once, in the narrowest way it asks for; otherwise it would wait for itself.
            let order = cx.store.cache_mount_order(&one.name);
            let sharing = wanted.get(&order).map_or(one.sharing, |other| one.sharing.max(other.sharing));
            wanted.insert(order, Wanted { sharing, ..one });
        }
        for one in wanted.into_values() {
            let cache = one.clone().wait(cx, at).await?;
            caches.taken.insert(one.name, cache);
        }
        Ok(caches)
    }

    /// The mount of a cache.
    pub(super) fn mount(&self, number: usize) -> Result<OwnedFd, StepFailure> {
        let cache = self.names.get(&number).and_then(|name| self.taken.get(name));
        let content = cache.and_then(CacheMount::content);
        let missing = || StepFailure::Unsupported("a cache mount that was not taken");
        let content = content.ok_or_else(missing)?;
        let home = content.parent().ok_or_else(missing)?;
        let home = File::open(home).map_err(|e| StepFailure::io("open a cache mount", e))?;
        sandbox::bind_source(home.as_fd(), Path::new("fs")).map_err(StepFailure::Mount)
    }
}

/// One cache that a step needs.
#[derive(Clone)]
struct Wanted {
    /// What the store knows it by.
    name: String,
    /// What the user knows it by.
    id: String,
    sharing: CacheSharing,
    anew: bool,
    /// What it begins with.
    base: Files,
    part: String,
}

impl Wanted {
    async fn new(
        cx: &StepCx,
        mount: &Mount,
        id: &str,
        sharing: Sharing,
        hints: &Hints,
        inputs: &[Output],
    ) -> Result<Wanted, StepFailure> {
        let base = match mount.input {
            None => Output::empty(),
            Some(number) => {
                inputs.get(number).cloned().ok_or(StepFailure::Unsupported("a mount of an input that is not there"))?
            }
        };
        let part = snapshotter::pattern::clean(&format!("/{}", mount.selector));
        // One that begins with something is another than one that begins with something else.
        let name = match &base.files {
            Files::Empty if part == "/" => id.to_owned(),
            files => {
                let (cx, files, path) = (cx.clone(), files.clone(), part.clone());
                let identity = match &base.files {
                    // Of a context only what it contains says what it is.
                    Files::Context(_) => blocking(move || measure_part(&cx, &files, &path)).await?,
                    _ => base.identity,
                };
                format!("{id} on {part} of {}", hex::encode(&identity.0[..16]))
            }
        };
        let sharing = match sharing {
            Sharing::Shared => CacheSharing::Shared,
            Sharing::Private => CacheSharing::Private,
            Sharing::Locked => CacheSharing::Locked,
        };
        Ok(Wanted { name, id: id.to_owned(), sharing, anew: hints.ignore_cache, base: base.files, part })
    }

    /// Takes the cache as soon as it is free for this use.
    async fn wait(self, cx: &StepCx, at: &AskCx) -> Result<CacheMount, StepFailure> {
        let told = format!("waiting for cache {}", self.id);
        let mut waiting = None;
        loop {
            let (cx, wanted) = (cx.clone(), self.clone());
            if let Some(cache) = blocking(move || wanted.try_take(&cx)).await? {
                if waiting.is_some() {
                    at.progress(&told, 0, 0, true);
                }
                return Ok(cache);
            }
            if waiting.is_none() {
                at.progress(&told, 0, 0, false);
                waiting = Some(at.pause());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes the cache if it is free, with content.
    fn try_take(&self, cx: &StepCx) -> Result<Option<CacheMount>, StepFailure> {
        // Whoever empties it has to be alone for that moment.
        let first = cx.store.cache_mount_order(&self.name);
        let empties = self.anew && self.sharing == CacheSharing::Shared && !cx.emptied.contains(&first);
        let sharing = if empties { CacheSharing::Locked } else { self.sharing };
        let Some(cache) = cx.store.cache_mount(&self.name, sharing)? else { return Ok(None) };
        if self.anew && sharing != CacheSharing::Shared && cx.emptied.insert(cache.id()) {
            cache.empty()?;
        }
        if cache.content().is_none() {
            self.fill(cx, &cache)?;
        }
        if empties {
            drop(cache);
            return Ok(cx.store.cache_mount(&self.name, self.sharing)?);
        }
        Ok(Some(cache))
    }

    /// Gives a new cache its first content: an empty directory, or the selected part of its base.
    fn fill(&self, cx: &StepCx, cache: &CacheMount) -> Result<(), StepFailure> {
        let active = cx.store.prepare(None, &cx.lease)?;
        if matches!(self.base, Files::Empty) && self.part == "/" {
            cache.fill(&active.upper())?;
        } else {
            copy_part(cx, &self.base, &self.part, active.mount()?.root(), "/content")?;
            cache.fill(&active.upper().join("content"))?;
        }
        Ok(())
    }
}
