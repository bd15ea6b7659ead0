//! Everything that happens during a build, as one stream.
//!
//! Progress screens, history, traces and the daemon's status calls are folds over it. The form is written to disk:
//! a change that old readers cannot follow raises [`VERSION`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::graph::{ProgressGroup, Range, VertexId};

/// The number of this form.
pub const VERSION: u32 = 1;

/// Names one build of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BuildId(pub u64);

/// Time since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub Duration);

impl Timestamp {
    /// The system's clock.
    pub fn now() -> Timestamp {
        Timestamp(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// In which build.
    pub build: BuildId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    /// The build began.
    BuildStarted {
        /// [`VERSION`] of the writer.
        version: u32,
    },
    /// A vertex is part of the build.
    VertexAdded {
        /// Which.
        vertex: VertexId,
        /// The name a person sees.
        name: String,
        /// What it waits for.
        inputs: Vec<VertexId>,
        /// Shown together with others.
        group: Option<ProgressGroup>,
    },
    /// Work on a vertex began. It may begin again after it was done, when more of its result is needed than before.
    VertexStarted {
        /// Which.
        vertex: VertexId,
    },
    /// Its result was found in a cache.
    VertexCached {
        /// Which.
        vertex: VertexId,
    },
    /// No cache has its result.
    VertexMissed {
        /// Which.
        vertex: VertexId,
        /// Why, one line per cause; empty when nothing like it was ever built.
        reasons: Vec<String>,
    },
    /// Work on a vertex ended.
    VertexDone {
        /// Which.
        vertex: VertexId,
        /// How it failed.
        error: Option<String>,
        /// It was given up because nobody needs it any more.
        cancelled: bool,
    },
    /// Part of the work on a vertex moved on.
    Progress {
        /// Which vertex.
        vertex: VertexId,
        /// Which part; unique within the vertex.
        id: String,
        /// Bytes or items so far.
        current: i64,
        /// Bytes or items in all; 0 when unknown.
        total: i64,
        /// The part is finished.
        done: bool,
    },
    /// A process wrote.
    Log {
        /// Which vertex.
        vertex: VertexId,
        /// 1 is standard output, 2 standard error.
        stream: u8,
        /// What; any bytes.
        #[serde(with = "bytes_as_text")]
        data: Vec<u8>,
    },
    /// Something the user should know.
    Warning(Warning),
    /// The build ended.
    BuildFinished {
        /// How it failed.
        error: Option<String>,
    },
}

/// Something the user should know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// The vertex it is about.
    pub vertex: Option<VertexId>,
    /// One line.
    pub short: String,
    /// More lines.
    pub detail: Vec<String>,
    /// Where to read on.
    pub url: String,
    /// The file it is about.
    pub file: Option<String>,
    /// Where in the file.
    pub range: Option<Range>,
}

/// Where the events of one build go.
///
/// Cheap to clone. Sending never waits: whoever receives decides what to drop.
#[derive(Clone)]
pub struct EventSink(Arc<dyn Fn(Event) + Send + Sync>);

impl EventSink {
    /// Hands every event to `receive`, from any thread.
    pub fn new(receive: impl Fn(Event) + Send + Sync + 'static) -> EventSink {
        EventSink(Arc::new(receive))
    }

    /// Nobody listens.
    pub fn nowhere() -> EventSink {
        EventSink::new(drop)
    }

    /// The same, with all that is sent by it said of another build.
    #[must_use]
    pub fn on_behalf_of(&self, build: BuildId) -> EventSink {
        let receive = Arc::clone(&self.0);
        EventSink(Arc::new(move |event| receive(Event { build, ..event })))
    }

    /// Sends what happened elsewhere, or earlier.
    pub fn pass_on(&self, event: Event) {
        (self.0)(event);
    }

    /// Sends what happened just now.
    pub fn send(&self, build: BuildId, kind: EventKind) {
        (self.0)(Event { build, at: Timestamp::now(), kind });
    }
}

impl std::fmt::Debug for EventSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventSink")
    }
}

/// Log bytes as JSON text where they are UTF-8, else as an array of numbers.
mod bytes_as_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Raw(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => to.serialize_str(text),
            Err(_) => bytes.serialize(to),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Form::deserialize(from)? {
            Form::Text(text) => text.into_bytes(),
            Form::Raw(bytes) => bytes,
        })
    }
}
