//! `moby.buildkit.v1.Control`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use solver::event::EventSink;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::builds::Builds;
use super::history::{History, Remembered};
use super::order::{session_of, Order};
use super::solve::Solving;
use super::space;
use super::status::Log;
use crate::engine::Entitlements;
use crate::gateway::caps;
use crate::rfc3339::Time;
use crate::wire::proto::control::control_server::Control;
use crate::wire::proto::control::*;

/// When an answer was given, so that clients see how far clocks are apart.
const NOW: &str = "buildkit-current-timestamp";

/// The daemon's main service.
pub struct Service {
    /// What solves.
    pub solving: Solving,
    /// Builds that are over.
    pub history: Arc<History>,
    /// What clients may ask for.
    pub allowed: Entitlements,
    /// Where the store is.
    pub store: snapshotter::Store,
    /// Hears of every build's beginning and end, where that is wanted.
    pub tell: Option<Tell>,
}

/// Hears what the daemon's owner should know.
pub type Tell = Arc<dyn Fn(String) + Send + Sync>;

fn stamped<T>(stream: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Response<BoxStream<T>> {
    let stream: BoxStream<T> = Box::pin(stream);
    let mut response = Response::new(stream);
    let now = Time::since_1970(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    if let Ok(now) = now.to_string().parse() {
        response.metadata_mut().insert(NOW, now);
    }
    response
}

impl Service {
    fn builds(&self) -> &Builds {
        &self.solving.builds
    }

    fn debug(&self, what: impl FnOnce() -> String) {
        if let Some(tell) = &self.tell {
            tell(what());
        }
    }

    async fn order(&self, request: SolveRequest) -> Result<Response<SolveResponse>, Status> {
        let order = Order::read(request, &self.allowed)?;
        let entered = self.builds().enter(&order.id)?;
        let log = Arc::clone(&entered.build.log);
        let remembered = (!order.internal).then(|| {
            let asker = self.solving.sessions.project(&order.session);
            Remembered::begin(&self.history, &order, asker)
        });
        let events = match &remembered {
            Some(remembered) => remembered.sink(&log),
            None => EventSink::new(move |event| log.event(&event)),
        };
        let began = Instant::now();
        self.debug(|| format!("build {} begins, of session {:?}", order.id, order.session));
        let solved = self.solving.solve(&order, &entered, events).await;
        self.debug(|| {
            let how = solved.as_ref().map_or_else(|failure| format!("failed: {}", failure.message), |_| "ended".into());
            format!("build {} {how} after {:.1} s", order.id, began.elapsed().as_secs_f32())
        });
        drop(entered);
        if let Some(remembered) = remembered {
            remembered.end(&solved).await;
        }
        match solved {
            Ok(done) => Ok(Response::new(SolveResponse { exporter_response: done.response })),
            Err(failure) => Err(Status::from(failure)),
        }
    }
}

#[tonic::async_trait]
impl Control for Service {
    async fn solve(&self, call: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let request = call.into_inner();
        let session = session_of(&request.session).to_owned();
        let solved = self.order(request).await;
        self.solving.sessions.settle(&session).await;
        solved
    }

    async fn status(&self, call: Request<StatusRequest>) -> Result<Response<BoxStream<StatusResponse>>, Status> {
        let id = call.into_inner().r#ref;
        if let Some(log) = self.builds().log_now(&id) {
            return Ok(stamped(Log::follow(log)));
        }
        let (history, of) = (Arc::clone(&self.history), id.clone());
        let told = tokio::task::spawn_blocking(move || history.messages(&of)).await;
        if let Some(messages) = told.ok().flatten() {
            return Ok(stamped(tokio_stream::iter(messages.into_iter().map(Ok))));
        }
        Ok(stamped(Log::follow(self.builds().log(&id).await?)))
    }

    async fn session(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<BoxStream<BytesMessage>>, Status> {
        self.solving.sessions.serve(call).await
    }

    async fn list_workers(&self, call: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        let filter = super::filter::Filter::parse(&call.into_inner().filter)?;
        let worker = &self.solving.worker;
        let value = |field: &str| match field.strip_prefix("labels.") {
            Some(label) => worker.labels.get(label.trim_matches('"')).cloned(),
            None => (field == "id").then(|| worker.id.clone()),
        };
        let mut worker = filter.matches(&value).then(|| worker.clone());
        if let Some(worker) = &mut worker {
            worker.buildkit_version = Some(caps::version());
            worker.cdi_devices = self.solving.engine.devices().into_iter().map(caps::device).collect();
        }
        Ok(Response::new(ListWorkersResponse { record: worker.into_iter().collect() }))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse { buildkit_version: Some(caps::version()) }))
    }

    async fn disk_usage(&self, call: Request<DiskUsageRequest>) -> Result<Response<DiskUsageResponse>, Status> {
        let store = self.store.clone();
        let request = call.into_inner();
        let usage = tokio::task::spawn_blocking(move || space::usage(&store, &request)).await;
        let record = usage.map_err(|e| Status::internal(e.to_string()))??;
        Ok(Response::new(DiskUsageResponse { record }))
    }

    async fn prune(&self, call: Request<PruneRequest>) -> Result<Response<BoxStream<UsageRecord>>, Status> {
        let store = self.store.clone();
        let request = call.into_inner();
        let pruned = tokio::task::spawn_blocking(move || space::prune(&store, &request)).await;
        let records = pruned.map_err(|e| Status::internal(e.to_string()))??;
        Ok(Response::new(Box::pin(tokio_stream::iter(records.into_iter().map(Ok)))))
    }

    async fn listen_build_history(
        &self,
        call: Request<BuildHistoryRequest>,
    ) -> Result<Response<BoxStream<BuildHistoryEvent>>, Status> {
        let stream = self.history.listen(call.into_inner()).await?;
        Ok(stamped(stream.map(Ok)))
    }

    async fn update_build_history(
        &self,
        call: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        let (history, request) = (Arc::clone(&self.history), call.into_inner());
        let updated = tokio::task::spawn_blocking(move || history.update(&request)).await;
        updated.map_err(|e| Status::internal(e.to_string()))??;
        Ok(Response::new(UpdateBuildHistoryResponse {}))
    }
}
