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

/// The builds under way. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Builds(Arc<watch::Sender<HashMap<String, Arc<Build>>>>);

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
            let is_new = !all.contains_key(id);
            if is_new {
                all.insert(id.to_owned(), Arc::clone(&build));
            }
            is_new
        });
        match entered {
            true => Ok(Entered { builds: self.clone(), id: id.to_owned(), build }),
            false => Err(Status::already_exists(format!("job ID {id} exists"))),
        }
    }

    /// The build of this name, waited for a little.
    async fn get(&self, id: &str, wait: Duration) -> Result<Arc<Build>, Status> {
        let mut changes = self.0.subscribe();
        let found = timeout(wait, changes.wait_for(|all| all.contains_key(id))).await;
        let build = found.ok().and_then(Result::ok).and_then(|all| all.get(id).cloned());
        build.ok_or_else(|| {
            let shown: String = id.chars().take(100).collect();
            Status::not_found(format!("no such job {shown}"))
        })
    }

    /// The build of this name if there is one now.
    pub fn now(&self, id: &str) -> Option<Arc<Build>> {
        self.0.borrow().get(id).cloned()
    }

    /// What the client of a build is told.
    ///
    /// # Errors
    /// `NotFound` after a while.
    pub async fn log(&self, id: &str) -> Result<Arc<Log>, Status> {
        Ok(Arc::clone(&self.get(id, FOR_STATUS).await?.log))
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
        self.builds.0.send_modify(|all| drop(all.remove(&self.id)));
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
            let build = self.get(id, FOR_BRIDGE).await?;
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
