//! One build at a daemon: asks for it, serves what it asks for, tells of its progress, brings home what was made.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use solver::event::{BuildId, EventKind, EventSink, Timestamp, VERSION};
use solver::graph::LinuxResources;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use super::order::Written;
use super::status::Told;
use super::{Daemon, Error, Made, Order};
use crate::engine::Backlog;
use crate::rfc3339::Time;
use crate::wire::proto::control::control_client::ControlClient;
use crate::wire::proto::control::StatusRequest;
use crate::wire::session;

/// How long the rest of the progress is waited for once the build is done, as BuildKit's own clients do.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// The same for a build that was given up: somebody waits for the prompt.
const PARTING: Duration = Duration::from_millis(500);
/// Where daemons say what time it is.
const THEIR_TIME: &str = "buildkit-current-timestamp";
/// The first version of BuildKit that limits steps.
const LIMITS_SINCE: (u32, u32) = (0, 31);
/// There is one build at a time on a screen.
const BUILD: BuildId = BuildId(1);

/// Who follows a build.
#[derive(Debug)]
pub struct Audience<'a> {
    /// Gets all that happens.
    pub events: EventSink,
    /// How far it is behind: the daemon is listened to no faster than it can follow.
    pub backlog: &'a Arc<Backlog>,
}

impl Daemon {
    /// Has a Dockerfile built and brings what was made to where it belongs. When `stop` resolves, the build is given up
    /// here and at the daemon's.
    ///
    /// # Errors
    /// [`Error::Said`] with the daemon's reasons, [`Error::Stopped`], [`Error::Lost`].
    pub async fn build(
        &self,
        order: Order,
        audience: Audience<'_>,
        stop: impl Future<Output = ()>,
    ) -> Result<Made, Error> {
        if order.request.recipe.options.resources != LinuxResources::default() && !self.limits_steps() {
            let address = &self.address;
            return Err(Error::Unsupported(format!(
                "the daemon at {address} is older than BuildKit 0.31 and does not limit steps (--resource)"
            )));
        }
        let Audience { events, backlog } = audience;
        let written = order.write(&self.address)?;
        events.send(BUILD, EventKind::BuildStarted { version: VERSION });
        let made = self.run(written, &events, backlog, stop).await;
        let error = made.as_ref().err().map(ToString::to_string);
        events.send(BUILD, EventKind::BuildFinished { error });
        made
    }

    /// Whether it obeys limits of steps: others take them and say nothing.
    fn limits_steps(&self) -> bool {
        let mut versions = self.workers.iter().filter_map(|worker| worker.buildkit_version.as_ref());
        versions.any(|version| version.package == "rbuild" || numbers(&version.version) >= LIMITS_SINCE)
    }

    async fn run(
        &self,
        written: Written,
        events: &EventSink,
        backlog: &Arc<Backlog>,
        stop: impl Future<Output = ()>,
    ) -> Result<Made, Error> {
        let Written { solve, headers, shipments, offer, blobs, books, _scratch } = written;
        let (services, arrivals) = offer.serve(shipments, blobs)?;
        let mut control = self.control.clone();
        let said = |status| Error::of_call(&self.address, &status);
        let serving = session::open(&mut control, &headers, services).await.map_err(said)?;
        let _serving = Task(tokio::spawn(serving));
        let watching = watch(self.control.clone(), solve.r#ref.clone(), events.clone(), backlog.clone());
        let mut watching = Task(tokio::spawn(watching));
        let (solved, patience) = tokio::select! {
            solved = control.solve(solve) => (solved.map_err(said), LAST_WORDS),
            // The call is dropped, which the daemon notices: its build ends, and so does its progress.
            () = stop => (Err(Error::Stopped), PARTING),
        };
        // Without its last words a build is what it is.
        let _ = timeout(patience, &mut watching.0).await;
        let made = Made(solved?.into_inner().exporter_response);
        if let Some(what) = arrivals.missing() {
            return Err(Error::NotDelivered(what));
        }
        books.iter().try_for_each(|book| book.enter(&made))?;
        Ok(made)
    }
}

/// The first two numbers of a version, `v0.31.0-rc1`; 0 where there is none.
fn numbers(version: &str) -> (u32, u32) {
    let mut numbers = version.trim_start_matches('v').split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Passes on what the daemon tells of a build until it has told all.
async fn watch(mut control: ControlClient<Channel>, name: String, events: EventSink, backlog: Arc<Backlog>) {
    // A daemon that tells nothing builds all the same.
    let Ok(answer) = control.status(StatusRequest { r#ref: name }).await else { return };
    let theirs = answer.metadata().get(THEIR_TIME).and_then(|value| value.to_str().ok()?.parse::<Time>().ok());
    let theirs = theirs.map(|time| Timestamp(time.elapsed()));
    let mut told = Told::new(BUILD, Timestamp::now(), theirs);
    let mut incoming = answer.into_inner();
    while let Some(Ok(status)) = incoming.next().await {
        for event in told.events(status) {
            events.pass_on(event);
        }
        backlog.room().await;
    }
}

/// Work that ends when nobody waits for it any more.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, limits) in
            [("v0.31.0-rc1", true), ("v1.0", true), ("v0.30.9", false), ("0.4-dev", false), ("", false), ("x", false)]
        {
            assert_eq!(numbers(version) >= LIMITS_SINCE, limits, "{version}");
        }
    }
}
