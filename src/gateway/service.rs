//! The gRPC service: calls to the bridge they belong to.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use solver::graph::op::SourceOp;
use solver::llb::pb;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::{caps, Bridge};
use crate::engine::ResolveMode;
use crate::wire::failure::Failure;
use crate::wire::proto::gateway::llb_bridge_server::LlbBridge;
use crate::wire::proto::gateway::{
    EvaluateRequest, EvaluateResponse, InputsRequest, InputsResponse, PingRequest, PongResponse, ReadDirRequest,
    ReadDirResponse, ReadFileRequest, ReadFileResponse, ResolveImageConfigRequest, ResolveImageConfigResponse,
    ResolveSourceImageResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse, ReturnRequest, ReturnResponse,
    SolveRequest, SolveResponse, StatFileRequest, StatFileResponse, WarnRequest, WarnResponse,
};

/// A bridge that is being looked for.
pub type Found<'a> = Pin<Box<dyn Future<Output = Result<Arc<Bridge>, Status>> + Send + 'a>>;

/// Knows which build a call belongs to.
pub trait Lines: Send + Sync + 'static {
    /// The bridge of a call, by what the call brings along.
    ///
    /// # Errors
    /// It belongs to none.
    fn bridge<'a>(&'a self, call: &'a MetadataMap) -> Found<'a>;
}

/// One bridge, which all calls belong to.
impl Lines for Arc<Bridge> {
    fn bridge<'a>(&'a self, _: &'a MetadataMap) -> Found<'a> {
        Box::pin(async { Ok(Arc::clone(self)) })
    }
}

/// `moby.buildkit.v1.frontend.LLBBridge`.
#[derive(Debug)]
pub struct Service<L>(pub L);

impl<L: Lines> Service<L> {
    /// Answers a call, unless the build ends before.
    async fn answer<Q, A, F>(
        &self,
        call: Request<Q>,
        answer: impl FnOnce(Arc<Bridge>, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Failure>>,
    {
        let (metadata, _, request) = call.into_parts();
        let bridge = self.0.bridge(&metadata).await?;
        tokio::select! {
            answered = answer(Arc::clone(&bridge), request) => answered.map(Response::new).map_err(Status::from),
            () = bridge.is_closed() => Err(Status::cancelled("the build has ended: context canceled")),
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Who is to be asked for an image, where a frontend has a wish.
fn resolve_mode(mode: &str) -> Result<Option<ResolveMode>, Failure> {
    let shown = || mode.chars().take(100).collect::<String>();
    let invalid = |_| Failure::new(tonic::Code::InvalidArgument, format!("invalid resolve mode: {}", shown()));
    ResolveMode::parse(mode).map_err(invalid)
}

/// A source as it is sent.
fn as_sent(source: SourceOp) -> pb::SourceOp {
    let attr = |(key, value)| pb::AttrEntry { key: Some(key), value: Some(value) };
    pb::SourceOp { identifier: source.identifier, attrs: source.attrs.into_iter().map(attr).collect() }
}

#[tonic::async_trait]
impl<L: Lines> LlbBridge for Service<L> {
    async fn ping(&self, call: Request<PingRequest>) -> Answer<PongResponse> {
        let pong = |bridge: Arc<Bridge>, _| async move {
            Ok(PongResponse {
                frontend_api_caps: caps::of_gateway(),
                llb_caps: caps::of_llb(),
                workers: bridge.given().workers.clone(),
            })
        };
        self.answer(call, pong).await
    }

    async fn solve(&self, call: Request<SolveRequest>) -> Answer<SolveResponse> {
        self.answer(call, |bridge, request| async move { bridge.solve(request).await }).await
    }

    async fn resolve_image_config(
        &self,
        call: Request<ResolveImageConfigRequest>,
    ) -> Answer<ResolveImageConfigResponse> {
        let resolve = |bridge: Arc<Bridge>, request: ResolveImageConfigRequest| async move {
            if request.resolver_type != 0 {
                let text = "image configs come from registries and the store";
                return Err(Failure::new(tonic::Code::Unimplemented, text));
            }
            let mode = resolve_mode(&request.resolve_mode)?;
            let platform = request.platform.as_ref();
            let (shown, policies) = (&request.log_name, &request.source_policies);
            let found = bridge.image(&request.r#ref, platform, shown, mode, policies).await?;
            // Frontends go on with the name that policies put in the place of theirs.
            let is_own = found.source.reference() == frontend::normalise_reference(&request.r#ref).unwrap_or_default();
            let r#ref = if is_own { request.r#ref } else { found.source.reference().to_owned() };
            Ok(ResolveImageConfigResponse { digest: found.digest, config: found.config, r#ref })
        };
        self.answer(call, resolve).await
    }

    async fn resolve_source_meta(&self, call: Request<ResolveSourceMetaRequest>) -> Answer<ResolveSourceMetaResponse> {
        let resolve = |bridge: Arc<Bridge>, request: ResolveSourceMetaRequest| async move {
            let invalid = |text: &str| Failure::new(tonic::Code::InvalidArgument, text);
            let source = request.source.clone().ok_or_else(|| invalid("no source to resolve"))?;
            let Some(reference) = source.identifier.strip_prefix("docker-image://") else {
                let scheme = source.identifier.split(':').next().unwrap_or_default().to_string();
                let code = match scheme.as_str() {
                    "git" | "http" | "https" | "oci-layout" | "local" => tonic::Code::Unimplemented,
                    _ => tonic::Code::InvalidArgument,
                };
                return Err(Failure::new(code, format!("metadata of a source {scheme:?} is not supported yet")));
            };
            let wanted = request.image.unwrap_or_default();
            if wanted.attestation_chain || !wanted.resolve_attestations.is_empty() {
                let text = "attestations of images are not looked up yet";
                return Err(Failure::new(tonic::Code::Unimplemented, text));
            }
            // What the source says of itself is as good.
            let said = source.attrs.iter().find(|attr| attr.key.as_deref() == Some("image.resolvemode"));
            let said = said.and_then(|attr| attr.value.as_deref()).unwrap_or_default();
            let mode = resolve_mode(&request.resolve_mode)?.or(resolve_mode(said)?);
            let platform = request.platform.as_ref();
            let (shown, policies) = (&request.log_name, &request.source_policies);
            let found = bridge.image(reference, platform, shown, mode, policies).await?;
            let config = if wanted.no_config { Vec::new() } else { found.config };
            let image = ResolveSourceImageResponse { digest: found.digest, config, attestation_chain: None };
            let is_own = found.source.reference() == frontend::normalise_reference(reference).unwrap_or_default();
            Ok(ResolveSourceMetaResponse {
                source: Some(if is_own { source } else { as_sent(found.source) }),
                image: Some(image),
                ..ResolveSourceMetaResponse::default()
            })
        };
        self.answer(call, resolve).await
    }

    async fn read_file(&self, call: Request<ReadFileRequest>) -> Answer<ReadFileResponse> {
        let read = |bridge: Arc<Bridge>, request| async move {
            Ok(ReadFileResponse { data: bridge.read_file(request).await? })
        };
        self.answer(call, read).await
    }

    async fn read_dir(&self, call: Request<ReadDirRequest>) -> Answer<ReadDirResponse> {
        self.answer(call, |bridge, request| async move { bridge.read_dir(request).await }).await
    }

    async fn stat_file(&self, call: Request<StatFileRequest>) -> Answer<StatFileResponse> {
        self.answer(call, |bridge, request| async move { bridge.stat_file(request).await }).await
    }

    async fn evaluate(&self, call: Request<EvaluateRequest>) -> Answer<EvaluateResponse> {
        let evaluate = |bridge: Arc<Bridge>, request: EvaluateRequest| async move {
            bridge.evaluate(&request.r#ref).await.map(|()| EvaluateResponse {})
        };
        self.answer(call, evaluate).await
    }

    async fn r#return(&self, call: Request<ReturnRequest>) -> Answer<ReturnResponse> {
        let accept = |bridge: Arc<Bridge>, request| async move { bridge.accept(request).map(|()| ReturnResponse {}) };
        self.answer(call, accept).await
    }

    async fn inputs(&self, call: Request<InputsRequest>) -> Answer<InputsResponse> {
        let inputs =
            |bridge: Arc<Bridge>, _| async move { Ok(InputsResponse { definitions: bridge.given().inputs.clone() }) };
        self.answer(call, inputs).await
    }

    async fn warn(&self, call: Request<WarnRequest>) -> Answer<WarnResponse> {
        let warn = |bridge: Arc<Bridge>, request| async move { bridge.pass_on(request).map(|()| WarnResponse {}) };
        self.answer(call, warn).await
    }
}
