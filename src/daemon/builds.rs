//! The builds under way by their clients' names for them, and who waits for one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::Status;

use super::status::Log;
use crate::gateway::{Bridge, Found, Lines};

/// How long a call waits for its build: a client makes its first calls at once, and any may be first.
const FOR_STATUS: Duration = Duration::from_secs(6);
const FOR_BRIDGE: Duration = Duration::from_secs(3);
/// What an `LLBBridge` call says of the build it belongs to.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// How long what a build told is kept for those who asked early and hear late: a cached build is over before a busy
/// machine has looked at its other calls.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// The builds under way. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Builds(Arc<watch::Sender<Known>>);

#[derive(Debug, Default)]
struct Known {
    live: HashMap<String, Arc<Build>>,
    /// What builds told that are over, not long ago.
    over: HashMap<String, Arc<Log>>,
}

impl Known {
    fn log(&self, id: &str) -> Option<Arc<Log>> {
        let live = self.live.get(id).map(|build| Arc::clone(&build.log));
        live.or_else(|| self.over.get(id).cloned())
    }
}

/// A build under way.
#[derive(Debug)]
pub struct Build {
    /// All that its client is told.
    pub log: Arc<Log>,
    /// Its frontend's side, while it has a frontend; `true` when there will be none any more.
    bridge: watch::Sender<(Option<Arc<Bridge>>, bool)>,
}

/// A build's name is taken while this lives; then all that waits for the build ends.
#[derive(Debug)]
pub struct Entered {
    builds: Builds,
    id: String,
    /// The build.
    pub build: Arc<Build>,
}

impl Builds {
    /// Enters a build.
    ///
    /// # Errors
    /// `AlreadyExists` when one of this name is under way.
    pub fn enter(&self, id: &str) -> Result<Entered, Status> {
        let build = Arc::new(Build { log: Arc::default(), bridge: watch::Sender::new((None, false)) });
        let entered = self.0.send_if_modified(|all| {
            let is_new = !all.live.contains_key(id);
            if is_new {
                all.over.remove(id);
                all.live.insert(id.to_owned(), Arc::clone(&build));
            }
            is_new
        });
        match entered {
            true => Ok(Entered { builds: self.clone(), id: id.to_owned(), build }),
            false => Err(Status::already_exists(format!("job ID {id} exists"))),
        }
    }

    /// What `find` finds, waited for a little.
    async fn get<T>(&self, id: &str, wait: Duration, find: impl Fn(&Known) -> Option<T>) -> Result<T, Status> {
        let mut changes = self.0.subscribe();
        let found = timeout(wait, changes.wait_for(|all| find(all).is_some())).await;
        let found = found.ok().and_then(Result::ok).and_then(|all| find(&all));
        found.ok_or_else(|| {
            let shown: String = id.chars().take(100).collect();
            Status::not_found(format!("no such job {shown}"))
        })
    }

    /// What the client of a build is told, or was not long ago, if it is known now.
    pub fn log_now(&self, id: &str) -> Option<Arc<Log>> {
        self.0.borrow().log(id)
    }

    /// What the client of a build is told.
    ///
    /// # Errors
    /// `NotFound` after a while.
    pub async fn log(&self, id: &str) -> Result<Arc<Log>, Status> {
        self.get(id, FOR_STATUS, |all| all.log(id)).await
    }
}

impl Build {
    /// Lets the calls of the build's frontend through.
    pub fn open(&self, bridge: Arc<Bridge>) {
        self.bridge.send_modify(|place| place.0 = Some(bridge));
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.build.log.end();
        let id = std::mem::take(&mut self.id);
        self.builds.0.send_modify(|all| {
            all.live.remove(&id);
            all.over.insert(id.clone(), Arc::clone(&self.build.log));
        });
        let (builds, log) = (self.builds.clone(), Arc::clone(&self.build.log));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(AFTERWARDS).await;
                builds.0.send_modify(|all| {
                    // Another build may have had the name since.
                    if all.over.get(&id).is_some_and(|over| Arc::ptr_eq(over, &log)) {
                        all.over.remove(&id);
                    }
                });
            });
        }
        self.build.bridge.send_modify(|(bridge, over)| {
            *over = true;
            if let Some(bridge) = bridge.take() {
                bridge.close();
            }
        });
    }
}

impl Lines for Builds {
    fn bridge<'a>(&'a self, call: &'a MetadataMap) -> Found<'a> {
        Box::pin(async move {
            let id = call.get(BUILD_ID).and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
            let id = id.ok_or_else(|| Status::invalid_argument("no buildid found in context"))?;
            let build = self.get(id, FOR_BRIDGE, |all| all.live.get(id).cloned()).await?;
            let mut place = build.bridge.subscribe();
            let opened = place.wait_for(|(bridge, over)| bridge.is_some() || *over).await;
            let bridge = opened.ok().and_then(|place| place.0.clone());
            bridge.ok_or_else(|| Status::not_found(format!("no such job {id}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_build_is_waited_for_and_its_name_is_free_again_afterwards() {
        let builds = Builds::default();
        let waiting = tokio::spawn({
            let builds = builds.clone();
            async move { builds.log("one").await }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        let entered = builds.enter("one").unwrap();
        assert!(Arc::ptr_eq(&waiting.await.unwrap().unwrap(), &entered.build.log));
        assert_eq!(builds.enter("one").unwrap_err().message(), "job ID one exists");
        drop(entered);
        assert!(builds.log("one").await.is_ok(), "who asks late hears it all the same");
        tokio::time::sleep(AFTERWARDS + Duration::from_secs(1)).await;
        assert_eq!(builds.log("one").await.unwrap_err().code(), tonic::Code::NotFound);
        assert!(builds.enter("one").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_without_a_build_are_refused() {
        let builds = Builds::default();
        let mut call = MetadataMap::new();
        assert_eq!(builds.bridge(&call).await.err().unwrap().message(), "no buildid found in context");
        call.insert(BUILD_ID, "x".parse().unwrap());
        assert_eq!(builds.bridge(&call).await.err().unwrap().message(), "no such job x");
        let entered = builds.enter("x").unwrap();
        let (found, ()) = tokio::join!(builds.bridge(&call), async { drop(entered) });
        assert_eq!(found.err().unwrap().message(), "no such job x");
    }
}
