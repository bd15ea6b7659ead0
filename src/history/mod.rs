//! What became of earlier builds: each one's events, kept below the store's `history/`.
//!
//! *Job*: record the event stream of a build while it runs, and give it back. *Not its job*: showing it (`progress`),
//! and deciding how a build ended (the edges). *Start reading at* [`Recorder`], then [`History`].
//!
//! ```text
//! history/<build>/build.json          what it was and how it ended; replaced by rename
//!                 events.jsonl.zst    its events, one JSON line each, as whole frames one after the other
//!                 blob-<hex>          documents that a daemon's clients ask for, by their SHA-256
//! ```
//! A process that is killed leaves the frames it had written. Its lock on the events file is gone then, which is how a
//! build that runs is told from one that was killed.

mod record;
mod recorder;
mod replay;
mod told;
mod trace;

pub use record::{is_id, meant, new_id, BuildRecord, History, Limits, Status};
pub use recorder::{About, Finished, Held, Recorder};
pub use replay::{events, steps, Ending, Step};
pub use told::{Asked, Document, Exporter, Subject, Told};
pub use trace::chrome_trace;
