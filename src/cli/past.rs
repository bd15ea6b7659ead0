//! Where builds of the past are remembered: in the store here, or at a daemon.

use solver::event::Event;
use tokio::runtime::Runtime;

use super::failure::Failure;
use crate::courier::Daemon;
use crate::history::{self, meant, BuildRecord, History};

/// Builds of the past.
pub(super) enum Past {
    /// Of the store here.
    Here(History),
    /// Of a daemon.
    There(Box<Daemon>, Box<Runtime>),
}

impl Past {
    /// All builds, the newest first.
    pub fn list(&self) -> Result<Vec<BuildRecord>, Failure> {
        match self {
            Past::Here(history) => Ok(history.list()?),
            Past::There(daemon, runtime) => Ok(runtime.block_on(daemon.builds())?),
        }
    }

    /// The build a person means.
    pub fn find(&self, word: Option<&str>) -> Result<BuildRecord, Failure> {
        let found = match self {
            Past::Here(history) => history.find(word)?,
            Past::There(..) => meant(&self.list()?, word).cloned(),
        };
        found.ok_or_else(|| match word {
            Some(word) => Failure::user(format!("no build {word:?}, or several that begin so; see rbuild history ls")),
            None => Failure::user("no build was recorded".to_string()),
        })
    }

    /// Hands what a build told to `each`, until that fails.
    pub fn replay(
        &self,
        build: &BuildRecord,
        mut each: impl FnMut(Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self {
            Past::Here(history) => history::events(history, &build.id)?.try_for_each(each),
            Past::There(daemon, runtime) => {
                let mut failed = Ok(());
                let one = |event| {
                    if failed.is_ok() {
                        failed = each(event);
                    }
                };
                runtime.block_on(daemon.replay(&build.id, one))?;
                failed
            }
        }
    }

    /// All that a build told.
    pub fn events(&self, build: &BuildRecord) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        self.replay(build, |event| {
            events.push(event);
            Ok(())
        })?;
        Ok(events)
    }

    /// Forgets a build.
    pub fn remove(&self, build: &BuildRecord) -> Result<(), Failure> {
        let id = &build.id;
        match self {
            Past::Here(history) => {
                history.remove(id).map_err(|e| Failure::user(format!("build {id}: {}", super::request::reason(&e))))
            }
            Past::There(daemon, runtime) => Ok(runtime.block_on(daemon.forget(id))?),
        }
    }
}
