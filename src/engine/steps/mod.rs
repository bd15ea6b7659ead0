//! The steps: what each kind of op does with its inputs.
//!
//! *Job*: from an op and the files of its inputs to committed snapshots. *Not its job*: whether it has to run at all
//! (the solver's), and how records are kept (`host`). *Start reading at* [`execute`].

mod diff;
pub mod file;
mod merge;
mod run;

use std::sync::Arc;

use snapshotter::{Lease, Store, TreeDigest};
use solver::graph::{Op, Vertex};
use solver::key::ContentDigest;
use solver::port::AskCx;

use super::backlog::Backlog;
use super::client::Client;
use super::request::Entitlements;
use super::results::Output;
use super::started::Started;
use crate::cdi;
use crate::sandbox::{self, Sandbox};
pub(crate) use run::{edits, limits, of_resources, Agent, Emptied, DEFAULT_PATH};

/// What steps work with.
#[derive(Clone)]
pub(crate) struct StepCx {
    pub store: Store,
    pub lease: Arc<Lease>,
    /// The asker of the build.
    pub client: Arc<dyn Client>,
    pub entitlements: Entitlements,
    /// Where devices are described.
    pub devices: Arc<cdi::Config>,
    /// What the build emptied.
    pub emptied: Arc<Emptied>,
    /// Started when the first process is.
    pub sandbox: Arc<Started>,
    /// Steps wait with their output while too much of it waits to be shown.
    pub backlog: Arc<Backlog>,
}

/// How a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    /// The process ended with a code that means failure.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Exit {
        /// Its words.
        command: String,
        /// Its code; 128 and the signal's number for a killed one.
        code: i32,
    },
    /// The kernel killed it for want of memory.
    #[error("process {command:?} did not complete successfully: cannot allocate memory")]
    OutOfMemory {
        /// Its words.
        command: String,
        /// The bytes it had, where it was given a limit.
        limit: Option<u64>,
    },
    /// The process could not be started.
    #[error("process {command:?} did not complete successfully")]
    Start {
        /// Its words.
        command: String,
        /// Why.
        #[source]
        source: sandbox::Error,
    },
    /// The process is for another kind of machine.
    #[error("process {command:?} did not complete successfully: exec format error: {missing}")]
    Foreign {
        /// Its words.
        command: String,
        /// The architecture of its platform.
        architecture: String,
        /// What this machine lacks.
        missing: String,
    },
    /// The user it should run as is not there.
    #[error(transparent)]
    User(sandbox::Error),
    /// The client has no secret of this id.
    #[error("secret {id}: not found")]
    NoSecret {
        /// Which.
        id: String,
    },
    /// It is not said which secret is meant.
    #[error("secret ID missing for {name:?} environment variable")]
    NoSecretId {
        /// The variable it was for.
        name: String,
    },
    /// No variable can have this name.
    #[error("{name:?} is no name of an environment variable")]
    BadVariable {
        /// As it was asked for.
        name: String,
    },
    /// No variable can have this secret's value.
    #[error("secret {id}: it has a NUL byte, so it cannot be a variable")]
    SecretHasNul {
        /// Which.
        id: String,
    },
    /// The client forwards no agent of this id.
    #[error("no SSH key {id:?} forwarded from the client")]
    NoAgent {
        /// Which.
        id: String,
    },
    /// Something cannot be mounted.
    #[error(transparent)]
    Mount(sandbox::Error),
    /// A path that the step reads is not there.
    #[error("{path:?}: not found")]
    NotFound {
        /// In its tree.
        path: String,
    },
    /// A host's address is none.
    #[error("host {host}: {ip} is not an IP address")]
    BadHost {
        /// Name.
        host: String,
        /// What should be its address.
        ip: String,
    },
    /// A limit's name is none that Linux has.
    #[error("ulimit {name}: there is no such limit")]
    BadUlimit {
        /// As it was asked for.
        name: String,
    },
    /// A limit that cannot be meant.
    #[error("{limit} {value}: want {want}")]
    BadLimit {
        /// The option that sets it.
        limit: &'static str,
        /// As it was asked for.
        value: String,
        /// What it should be.
        want: &'static str,
    },
    /// No control group can be meant by this.
    #[error(transparent)]
    BadCgroupParent(sandbox::Error),
    /// The step needs an entitlement that the caller did not give.
    #[error("{0} is not allowed")]
    NotEntitled(&'static str),
    /// A device that it cannot have.
    #[error(transparent)]
    Device(#[from] cdi::Error),
    /// A device whose node is not there, or is something else.
    #[error("the device at {path} cannot be used")]
    DeviceNode {
        /// On the host.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A source of a kind that nobody knows.
    #[error("unknown source scheme {scheme:?}")]
    UnknownScheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// The step needs what rbuild does not have yet.
    #[error("not supported yet: {0}")]
    Unsupported(&'static str),
    /// A file action failed.
    #[error(transparent)]
    File(#[from] file::Error),
    /// The file actions contradict each other.
    #[error(transparent)]
    Invalid(#[from] file::InvalidFileOp),
    /// A file of the context changed while it was used.
    #[error("{path:?} of the build context changed while it was copied; build again")]
    ContextChanged {
        /// What was being copied.
        path: String,
    },
    /// The build context cannot be read.
    #[error(transparent)]
    Context(#[from] crate::source::local::Error),
    /// A file of the web cannot be had.
    #[error(transparent)]
    Http(#[from] crate::source::http::Error),
    /// A commit cannot be had.
    #[error(transparent)]
    Git(#[from] crate::source::git::Error),
    /// A source may not be used.
    #[error("error evaluating the source policy: {0}")]
    Policy(super::policy::PolicyError),
    /// A definition in an input cannot be solved.
    #[error(transparent)]
    Definition(#[from] super::nested::Error),
    /// A source names no blob.
    #[error(transparent)]
    Blob(#[from] crate::source::blob::Error),
    /// An image of the client's cannot be used.
    #[error(transparent)]
    OciLayout(#[from] crate::source::oci_layout::Error),
    /// A base image cannot be used.
    #[error(transparent)]
    Image(#[from] super::images::Error),
    /// The client did not give what was asked for.
    #[error(transparent)]
    Client(#[from] super::client::ClientError),
    /// A result from a cache elsewhere cannot be had.
    #[error("fetch a cached result")]
    Cache(#[source] Box<super::cache::Error>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] snapshotter::Error),
    /// The machine refused.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

impl StepFailure {
    pub(crate) fn io(doing: &'static str, source: std::io::Error) -> StepFailure {
        StepFailure::Io { doing, source }
    }
}

impl StepCx {
    /// The sandbox, started with the first process.
    fn sandbox(&self) -> Result<Arc<Sandbox>, StepFailure> {
        self.sandbox.get()
    }

    // The entitlements are asked where the process's spec is made, so that no way to a process goes around them.

    fn entitled_to_host_network(&self) -> Result<sandbox::Network, StepFailure> {
        let allowed = self.entitlements.network_host.then_some(sandbox::Network::Host);
        allowed.ok_or(StepFailure::NotEntitled("network.host"))
    }

    fn entitled_to_insecure(&self) -> Result<sandbox::Security, StepFailure> {
        let allowed = self.entitlements.security_insecure.then_some(sandbox::Security::Insecure);
        allowed.ok_or(StepFailure::NotEntitled("security.insecure"))
    }
}

/// Carries out the op of a vertex on its inputs and gives its outputs in order.
pub(crate) async fn execute(
    cx: &StepCx,
    at: &AskCx,
    vertex: &Vertex,
    inputs: Vec<Output>,
) -> Result<Vec<Output>, StepFailure> {
    match &vertex.op {
        Op::Run(op) => {
            let ran = run::run(cx, at, op, &vertex.hints, inputs).await;
            ran.map_err(|failure| run::told_of_platform(failure, vertex.platform.as_ref()))
        }
        Op::File(op) => file::step(cx, op, inputs).await,
        Op::Merge(op) => merge::merge(cx, op, inputs).await,
        Op::Passthrough(op) => {
            let pass = |index: &usize| inputs.get(*index).cloned();
            let outputs: Option<Vec<Output>> = op.outputs.iter().map(pass).collect();
            outputs.ok_or(StepFailure::Unsupported("passing on an input that is not there"))
        }
        Op::Diff(op) => diff::diff(cx, op, inputs).await,
        Op::Build(_) => Err(StepFailure::Unsupported("running a definition")),
        Op::Source(_) => Err(StepFailure::Unsupported("running a source")),
    }
}

/// The identity of what was made on something: of the base and of the delta, whose times do not count.
pub(crate) fn identity_over(base: &ContentDigest, delta: &TreeDigest) -> ContentDigest {
    hashed("made", &[&base.0, &delta.0])
}

/// A digest of digests.
pub(crate) fn hashed(what: &str, parts: &[&[u8; 32]]) -> ContentDigest {
    let mut hasher = blake3::Hasher::new_derive_key(what);
    for part in parts {
        hasher.update(*part);
    }
    ContentDigest(*hasher.finalize().as_bytes())
}
