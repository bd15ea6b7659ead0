//! Who waits for the answer to a question, and what they are told meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::event::{BuildId, EventKind, EventSink, Warning};
use crate::graph::VertexId;
use crate::question::SubmitNumber;

/// Log bytes kept for those who join late.
const BACKLOG: usize = 1 << 20;

/// One vertex of one build that waits for an answer.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    pub build: BuildId,
    pub submit: SubmitNumber,
    pub vertex: VertexId,
    pub events: EventSink,
}

/// Where progress on a question goes: to every vertex of every build that waits for it just now.
#[derive(Clone)]
pub struct AskCx {
    shared: Arc<Mutex<Shared>>,
    /// Wakes the solver when a slot comes back.
    wake: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    watchers: Vec<Watcher>,
    /// For those who join late.
    said: Vec<Said>,
    kept: usize,
    /// The build whose secrets, sessions or files the answer needs.
    caller: Option<BuildId>,
    paused: usize,
}

enum Said {
    Log(u8, Vec<u8>),
    Cached,
}

impl AskCx {
    pub(crate) fn new(watchers: Vec<Watcher>, wake: Arc<Notify>) -> AskCx {
        AskCx { shared: Arc::new(Mutex::new(Shared { watchers, ..Shared::default() })), wake }
    }

    /// The step wrote to its output; 1 is standard output, 2 standard error.
    pub fn log(&self, stream: u8, bytes: &[u8]) {
        let mut shared = self.shared();
        shared.tell(|vertex| EventKind::Log { vertex, stream, data: bytes.to_vec() });
        if shared.kept + bytes.len() <= BACKLOG {
            shared.kept += bytes.len();
            shared.said.push(Said::Log(stream, bytes.to_vec()));
        }
    }

    /// Part of the work moved on; a `total` of 0 is unknown.
    pub fn progress(&self, id: &str, current: i64, total: i64, done: bool) {
        self.shared().tell(|vertex| EventKind::Progress { vertex, id: id.to_owned(), current, total, done });
    }

    /// Something the user should know; the vertex is filled in for each watcher.
    pub fn warning(&self, warning: &Warning) {
        self.shared().tell(|vertex| EventKind::Warning(Warning { vertex: Some(vertex), ..warning.clone() }));
    }

    /// A pin or fetch found everything here already.
    pub fn cached(&self) {
        let mut shared = self.shared();
        shared.tell(|vertex| EventKind::VertexCached { vertex });
        shared.said.push(Said::Cached);
    }

    /// Who waits just now. It changes while the question is under way; it is never empty.
    pub fn watchers(&self) -> Vec<(BuildId, VertexId)> {
        self.shared().watchers.iter().map(|watcher| (watcher.build, watcher.vertex)).collect()
    }

    /// The build whose secrets, sessions or files may be used for the answer.
    ///
    /// If it leaves while others still wait, the work is given up and begun again for one of them.
    pub fn caller(&self) -> BuildId {
        let mut shared = self.shared();
        // Without watchers the question is being given up, and nobody will see the answer.
        let build = shared.caller.or(shared.watchers.first().map(|watcher| watcher.build)).unwrap_or(BuildId(0));
        *shared.caller.insert(build)
    }

    /// Gives the slot back while this question waits for others, such as those of a build of its own or for a lock.
    pub fn pause(&self) -> Paused {
        self.shared().paused += 1;
        self.wake.notify_one();
        Paused(self.clone())
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.shared().paused > 0
    }

    /// Replaces those who wait; new ones are told what was said so far. Answers whether the work can go on.
    pub(crate) fn watch(&self, watchers: Vec<Watcher>) -> bool {
        let mut shared = self.shared();
        let same = |a: &Watcher, b: &Watcher| a.submit == b.submit && a.vertex == b.vertex;
        for new in watchers.iter().filter(|new| !shared.watchers.iter().any(|old| same(old, new))) {
            for said in &shared.said {
                let vertex = new.vertex;
                let kind = match said {
                    Said::Log(stream, data) => EventKind::Log { vertex, stream: *stream, data: data.clone() },
                    Said::Cached => EventKind::VertexCached { vertex },
                };
                new.events.send(new.build, kind);
            }
        }
        shared.watchers = watchers;
        shared.caller.is_none_or(|caller| shared.watchers.iter().any(|watcher| watcher.build == caller))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Nothing is left half done in there.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn tell(&self, kind: impl Fn(VertexId) -> EventKind) {
        for watcher in &self.watchers {
            watcher.events.send(watcher.build, kind(watcher.vertex));
        }
    }
}

/// A question that waits for others without holding a slot; it takes one again when this is dropped.
#[must_use]
pub struct Paused(AskCx);

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.shared().paused -= 1;
    }
}
