//! One build as its frontend sees it: what it was given, the results it knows, what it returns.

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::event::Warning;
use solver::graph::{Platform, Position, Range, VertexId};
use solver::llb::pb;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::caps::read_platform;
use super::refs::Refs;
use super::result::{read, tell, Form};
use super::{failure, files, frontend, policy};
use crate::cache::{CacheFrom, Place};
use crate::engine::policy::Policy;
use crate::engine::{Base, ImageConfigOf, Job, Outcome, Product, ResolveMode, Tree};
use crate::wire::failure::Failure;
use crate::wire::proto::gateway::{self, ReturnRequest, SolveRequest, SolveResponse};
use crate::wire::proto::sourcepolicy;
use crate::wire::proto::worker::WorkerRecord;

/// What a frontend is given.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Definitions by name, made by whoever asked for the build.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// Who builds.
    pub workers: Vec<WorkerRecord>,
    /// The session of whoever asked for the build; empty where there is none.
    pub session: String,
}

/// Frontends that run frontends: deeper is nobody's intention.
const DEEPEST: usize = 8;

/// A build as its frontend sees it.
pub struct Bridge {
    job: Arc<Job>,
    given: Given,
    /// So many frontends are above this one.
    depth: usize,
    refs: Refs,
    returned: watch::Sender<Option<Result<Outcome, Failure>>>,
    closed: CancellationToken,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bridge")
    }
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, text)
}

impl Bridge {
    /// A build whose frontend begins now.
    pub fn new(job: Arc<Job>, given: Given) -> Arc<Bridge> {
        Bridge::at(job, given, 0)
    }

    fn at(job: Arc<Job>, given: Given, depth: usize) -> Arc<Bridge> {
        let (refs, returned, closed) = (Refs::default(), watch::Sender::new(None), CancellationToken::new());
        Arc::new(Bridge { job, given, depth, refs, returned, closed })
    }

    /// The same build for a frontend that this one's frontend runs.
    pub(super) fn nested(&self, given: Given) -> Result<Arc<Bridge>, Failure> {
        match self.depth {
            DEEPEST.. => Err(invalid(format!("frontends run frontends more than {DEEPEST} deep"))),
            depth => Ok(Bridge::at(Arc::clone(&self.job), given, depth + 1)),
        }
    }

    /// The build.
    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// What the frontend was given.
    pub fn given(&self) -> &Given {
        &self.given
    }

    /// Waits until the frontend has returned.
    ///
    /// # Errors
    /// What the frontend returned instead of a result.
    pub async fn returned(&self) -> Result<Outcome, Failure> {
        let mut returned = self.returned.subscribe();
        let answer = returned.wait_for(Option::is_some).await;
        let answer = answer.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err(Failure::new(Code::Internal, "no result for incomplete build")))
    }

    /// What the frontend has returned so far.
    pub fn answer(&self) -> Option<Result<Outcome, Failure>> {
        self.returned.borrow().clone()
    }

    /// Ends all calls: the build is over.
    pub fn close(&self) {
        self.closed.cancel();
        self.refs.clear();
    }

    /// Ends when the build does.
    pub(super) async fn is_closed(&self) {
        self.closed.cancelled().await;
    }

    pub(super) async fn solve(self: &Arc<Self>, request: SolveRequest) -> Result<SolveResponse, Failure> {
        if request.r#final || !request.exporter_attr.is_empty() {
            let text = "a result by Solve (Final, ExporterAttr) is not supported: use Return";
            return Err(Failure::new(Code::Unimplemented, text));
        }
        for entry in request.cache_imports {
            self.import(&entry.r#type, &entry.attrs.into_iter().collect()).await;
        }
        let policies = policy::read_all(&request.source_policies)?;
        let definition = request.definition.filter(|definition| !definition.def.is_empty());
        let outcome = match (definition, request.frontend.as_str()) {
            (Some(_), frontend) if !frontend.is_empty() => {
                return Err(invalid("cannot solve with both Definition and Frontend specified"));
            }
            (Some(definition), _) => self.define_under(&definition, policies)?,
            (None, "") => Outcome::default(),
            (None, _) if policies.iter().any(|policy| !policy.rules.is_empty()) => {
                let text =
                    "source policies for a frontend's own calls (SourcePolicies with Frontend) are not supported";
                return Err(Failure::new(Code::Unimplemented, text));
            }
            (None, frontend) => frontend::run(self, frontend, request.frontend_opt, request.frontend_inputs).await?,
        };
        if request.evaluate {
            for tree in outcome.products.iter().filter_map(|product| product.tree.as_ref()) {
                tree.make().await.map_err(|error| failure::of_build(&error))?;
            }
        }
        if !request.allow_result_return {
            let id = outcome.products.first().map(|product| self.refs.name(product.tree.as_ref()).id);
            return Ok(SolveResponse { r#ref: id.unwrap_or_default(), result: None });
        }
        let form = if request.allow_result_array_ref { Form::Refs } else { Form::Ids };
        Ok(SolveResponse { r#ref: String::new(), result: Some(tell(&outcome, &self.refs, form)) })
    }

    /// Has a cache used; one that cannot be is warned of.
    pub(super) async fn import(&self, kind: &str, attrs: &BTreeMap<String, String>) {
        // A path is one of the client's.
        match CacheFrom::of_client(kind, attrs, &self.given.session) {
            Ok(from) if matches!(from.place, Place::Client(_)) && self.given.session.is_empty() => {
                self.warn("a cache is not used: a frontend knows no directory here".to_string());
            }
            Ok(from) => self.job.import_caches(&[from]).await,
            Err(error) => self.warn(format!("a cache is not used: {error}")),
        }
    }

    /// The outcome that is the result of a definition.
    ///
    /// # Errors
    /// The definition makes no sense.
    pub fn define(&self, definition: &pb::Definition) -> Result<Outcome, Failure> {
        self.define_under(definition, Vec::new())
    }

    /// The same under further policies than the build's.
    fn define_under(&self, definition: &pb::Definition, policies: Vec<Policy>) -> Result<Outcome, Failure> {
        let graph = solver::llb::decode(definition)
            .map_err(|error| invalid(format!("failed to load LLB: {}", crate::engine::chain(&error))))?;
        let tree = self.job.trees_under(Arc::new(graph), policies).into_iter().next();
        let product = Product::new(Platform::host(), None, Base::default(), tree);
        Ok(Outcome { products: vec![product], ..Outcome::default() })
    }

    /// Runs a frontend.
    ///
    /// # Errors
    /// There is none of this name, or it failed.
    pub async fn run(self: &Arc<Self>, name: &str, options: BTreeMap<String, String>) -> Result<Outcome, Failure> {
        frontend::run(self, name, options, self.given.inputs.clone()).await
    }

    pub(super) fn accept(&self, request: ReturnRequest) -> Result<(), Failure> {
        let ReturnRequest { result, error } = request;
        let answer = match (result, error) {
            (_, Some(error)) => Err(Failure::from(error)),
            (Some(result), None) => Ok(read(result, &self.refs)?),
            (None, None) => return Err(invalid("gateway return must be either result or err")),
        };
        let is_first = self.returned.send_if_modified(|returned| {
            let is_first = returned.is_none();
            if is_first {
                *returned = Some(answer);
            }
            is_first
        });
        match is_first {
            true => Ok(()),
            false => Err(Failure::new(Code::FailedPrecondition, "gateway result is already set")),
        }
    }

    /// The files of a result that the frontend knows.
    pub(super) fn files(&self, id: &str, mount: i32) -> Result<Tree, Failure> {
        match mount {
            0 => self.refs.files(id),
            _ => Err(Failure::new(Code::Unimplemented, "results have no mounts here: MountIndex must be 0")),
        }
    }

    pub(super) async fn evaluate(&self, id: &str) -> Result<(), Failure> {
        match self.refs.get(id)? {
            Some(tree) => tree.make().await.map_err(|error| failure::of_build(&error)),
            None => Ok(()),
        }
    }

    pub(super) async fn read_file(&self, request: gateway::ReadFileRequest) -> Result<Vec<u8>, Failure> {
        let tree = self.files(&request.r#ref, request.mount_index)?;
        let range = request.range.unwrap_or_default();
        let looked = tree.look(move |root| files::read(root, &request.file_path, range.offset, range.length)).await;
        looked.map_err(|error| failure::of_build(&error))?
    }

    pub(super) async fn read_dir(&self, request: gateway::ReadDirRequest) -> Result<gateway::ReadDirResponse, Failure> {
        let tree = self.files(&request.r#ref, request.mount_index)?;
        let looked = tree.look(move |root| files::list(root, &request.dir_path, &request.include_pattern)).await;
        Ok(gateway::ReadDirResponse { entries: looked.map_err(|error| failure::of_build(&error))?? })
    }

    pub(super) async fn stat_file(
        &self,
        request: gateway::StatFileRequest,
    ) -> Result<gateway::StatFileResponse, Failure> {
        let tree = self.files(&request.r#ref, request.mount_index)?;
        let looked = tree.look(move |root| files::stat(root, &request.path)).await;
        Ok(gateway::StatFileResponse { stat: Some(looked.map_err(|error| failure::of_build(&error))??) })
    }

    /// An image under the build's policies and these; `mode` is whom the frontend wants asked.
    pub(super) async fn image(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
        shown: &str,
        mode: Option<ResolveMode>,
        policies: &[sourcepolicy::Policy],
    ) -> Result<ImageConfigOf, Failure> {
        let platform = platform.map_or_else(Platform::host, read_platform);
        let found = self.job.image(reference, &platform, shown, mode, policy::read_all(policies)?).await;
        found.map_err(|error| Failure::new(Code::NotFound, crate::engine::chain(&error)))
    }

    /// Tells the user something.
    pub fn warn(&self, short: String) {
        self.job.notes().warn(Warning {
            vertex: None,
            short,
            detail: Vec::new(),
            url: String::new(),
            file: None,
            range: None,
        });
    }

    /// Passes on a frontend's warning.
    pub(super) fn pass_on(&self, request: gateway::WarnRequest) -> Result<(), Failure> {
        let vertex: VertexId =
            request.digest.parse().map_err(|e: solver::graph::InvalidDigest| invalid(e.to_string()))?;
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let at = |position: Option<pb::Position>| {
            position.map_or_else(Position::default, |p| Position { line: p.line, character: p.character })
        };
        let range = request.ranges.into_iter().next().map(|range| Range { start: at(range.start), end: at(range.end) });
        self.job.notes().warn(Warning {
            vertex: Some(vertex),
            short: text(&request.short),
            detail: request.detail.iter().map(text).collect(),
            url: request.url,
            file: request.info.map(|info| info.filename),
            range,
        });
        Ok(())
    }
}
