//! What the solver asks of the world: one method for each [`Question`](crate::question::Question).
//!
//! Implement [`Host`]; everything else here is what goes in and out. Methods may run at the same time on several
//! threads. A question that nobody needs any more is dropped at its next await.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::event::BuildId;
use crate::graph::{OutputIndex, Selector, Vertex};
use crate::key::{CacheKey, ContentDigest, DefinitionKey, KeyParts, RecordId, ResultRef};

pub use crate::ask::{AskCx, Paused};
pub use crate::question::Record;

/// The world.
///
/// Answers hold while a live build uses them: the host keeps every record it answered with from being collected for as
/// long as any build of this solver is live.
pub trait Host: Send + Sync + 'static {
    /// What a source resolves to: a tag to a digest, a branch to a commit, a context to a tree.
    ///
    /// The identity is the pin: equal content, equal identity, whatever the name. What is known of the content without
    /// the files, as all of a context is, is answered by [`recall`](Host::recall). The submits of one build that are
    /// live at the same time share the answer; if later ones shall get the same, the host has to remember it.
    fn pin(&self, at: &AskCx, vertex: &Vertex) -> impl Future<Output = Result<Pin, StepError>> + Send;

    /// Whether a step of this definition was ever built or found here. Errors count as yes.
    fn seen(&self, key: DefinitionKey) -> impl Future<Output = Result<bool, StepError>> + Send;

    /// Steps of these definitions were built or found. Losing a mark costs time, nothing else.
    fn mark_seen(&self, keys: Vec<DefinitionKey>) -> impl Future<Output = ()> + Send;

    /// The record under this key, here or in an imported cache. Errors are warned of and count as none.
    fn look_up(&self, key: CacheKey) -> impl Future<Output = Result<Option<Record>, StepError>> + Send;

    /// The digest of the selected files as kept with the record. Errors count as not kept.
    fn recall(
        &self,
        record: RecordId,
        output: OutputIndex,
        what: &Selector,
    ) -> impl Future<Output = Result<Option<ContentDigest>, StepError>> + Send;

    /// The digest of the selected files of a record that is fetched; the host keeps it with the record.
    fn hash(
        &self,
        at: &AskCx,
        result: &ResultRef,
        what: &Selector,
    ) -> impl Future<Output = Result<ContentDigest, StepError>> + Send;

    /// Makes the files of a record available. For a step a failure means that it is run again; for a source, that the
    /// build fails.
    fn fetch(&self, at: &AskCx, record: RecordId) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Runs a step and keeps its record under its key; its files are then available.
    fn run(&self, at: &AskCx, order: RunOrder<'_>) -> impl Future<Output = Result<Ran, StepError>> + Send;

    /// Why a step is in no cache, one line per cause; nothing when nothing like it was ever built.
    fn explain(&self, missed: Missed<'_>) -> impl Future<Output = Vec<String>> + Send;

    /// A vertex of a submit uses a record that was found. Told beside everything else; nobody waits for it.
    fn used(&self, _submit: BuildId, _vertex: &Vertex, _record: RecordId) {}

    /// How long each vertex of a submit takes when it runs, in any unit, from history where there is one. Asked once,
    /// when something has to run.
    fn costs(&self, _submit: BuildId) -> impl Future<Output = Option<Vec<u64>>> + Send {
        async { None }
    }
}

/// What a source resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The record its files are in, once fetched.
    pub record: Record,
}

/// A step that no cache has.
#[derive(Clone, Debug)]
pub struct Missed<'m> {
    /// In which submitted graph.
    pub submit: BuildId,
    /// Which.
    pub vertex: &'m Vertex,
    /// What its key is made of.
    pub parts: &'m KeyParts,
    /// The results it would work on, in the order of the vertex's inputs. Their files may be elsewhere.
    pub inputs: &'m [ResultRef],
    /// What a person calls the inputs.
    pub names: &'m [String],
}

/// A step to run.
#[derive(Clone, Debug)]
pub struct RunOrder<'o> {
    /// What.
    pub vertex: &'o Vertex,
    /// Under which key its record is kept.
    pub key: CacheKey,
    /// What the key is made of; kept with the record.
    pub parts: KeyParts,
    /// On which results, in the order of the vertex's inputs. All of them are fetched.
    pub inputs: &'o [ResultRef],
    /// No other record will do, even if someone makes one meanwhile. Cache mounts of the step begin empty.
    pub anew: bool,
    /// Records of this key that will not do: their files could not be fetched, or they lack outputs.
    pub lost: Vec<RecordId>,
}

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It was run.
    Made {
        /// The result.
        record: Record,
        /// No record with these identities was known before.
        new: bool,
    },
    /// Another process made it while this one waited for its turn. Never for an order that is [`RunOrder::anew`].
    Found(Record),
}

/// Why a question could not be answered. Shared by all builds that asked it.
#[derive(Clone)]
pub struct StepError(Arc<dyn std::error::Error + Send + Sync>);

impl StepError {
    /// Wraps the error of a step.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StepError {
        StepError(Arc::from(error.into()))
    }

    /// The error itself, if it is of this type.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }

    /// The error itself.
    pub fn get(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }

    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for StepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
