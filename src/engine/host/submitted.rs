//! One graph while it is solved: for whom, what its images are, what its vertices resulted in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use solver::event::BuildId;
use solver::graph::{Graph, Vertex, VertexId, Via};
use solver::key::{RecordId, ResultRef};
use tokio::task::JoinHandle;

use super::EngineHost;
use crate::engine::asker::Asker;
use crate::engine::cache::ToExport;
use crate::engine::explain::{Base, Origin, Place};

/// Something to be told of a vertex.
pub(crate) type Remark = (VertexId, String);

/// One graph that is being solved, and for whom.
pub(in crate::engine) struct Submitted {
    pub(in crate::engine) graph: Arc<Graph>,
    pub(in crate::engine) asker: Arc<Asker>,
    /// What its images resolved to.
    pub(in crate::engine) images: Mutex<HashMap<VertexId, Base>>,
    /// The results of its vertices.
    pub(in crate::engine) records: Mutex<BTreeMap<VertexId, RecordId>>,
    /// What is told of results that were found: looked into beside everything else.
    pub(in crate::engine) remarks: Mutex<Vec<JoinHandle<Vec<Remark>>>>,
}

impl Submitted {
    pub(in crate::engine) fn origins(&self, vertex: &Vertex, inputs: &[ResultRef]) -> Vec<Origin> {
        let base = |vertex: &Vertex| self.images.lock().unwrap_or_else(|e| e.into_inner()).get(&vertex.id).cloned();
        Origin::of_inputs(&self.graph, vertex, inputs, &base)
    }

    pub(in crate::engine) fn place(&self, vertex: &Vertex) -> Place {
        Place::of(&self.graph, vertex, &self.asker.client.project())
    }
}

/// Forgets a graph when it is solved or given up.
pub(crate) struct Registered<'h> {
    pub(super) host: &'h EngineHost,
    pub(super) submit: BuildId,
}

impl Registered<'_> {
    /// The results of the graph's vertices so far.
    pub(crate) fn results(&self) -> Vec<ToExport> {
        let submitted = self.host.submitted.lock().unwrap_or_else(|e| e.into_inner()).get(&self.submit).cloned();
        let Some(submitted) = submitted else { return Vec::new() };
        let in_image = below_targets(&submitted.graph);
        let records = submitted.records.lock().unwrap_or_else(|e| e.into_inner());
        let graph = &submitted.graph;
        let leaves = |vertex: &&VertexId| graph.get(vertex).is_some_and(|v| v.hints.export_cache != Some(false));
        let all = records.keys().filter(leaves).filter_map(|vertex| Some((vertex, *records.get(vertex)?)));
        all.map(|(vertex, record)| ToExport { record, in_image: in_image.contains(vertex) }).collect()
    }

    /// What there is to be told of results that were found in the store.
    pub(crate) async fn remarks(&self) -> Vec<Remark> {
        let submitted = self.host.submitted.lock().unwrap_or_else(|e| e.into_inner()).get(&self.submit).cloned();
        let Some(submitted) = submitted else { return Vec::new() };
        let open = std::mem::take(&mut *submitted.remarks.lock().unwrap_or_else(|e| e.into_inner()));
        let mut told = Vec::new();
        for remark in open {
            told.extend(remark.await.unwrap_or_default());
        }
        told
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.host.submitted.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.submit);
    }
}

/// The vertices whose layers are in the images that a graph's targets are.
fn below_targets(graph: &Graph) -> HashSet<VertexId> {
    let mut met = HashSet::new();
    let mut open: Vec<VertexId> = graph.targets().iter().map(|target| target.vertex).collect();
    while let Some(id) = open.pop() {
        let Some(vertex) = graph.get(&id).filter(|_| met.insert(id)) else { continue };
        let whole = vertex.inputs.iter().filter(|input| input.via == Via::Identity);
        open.extend(whole.map(|input| input.from.vertex));
    }
    met
}
