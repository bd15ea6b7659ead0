//! One graph while it is solved: for whom, what its images are, what its vertices resulted in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use snapshotter::SnapshotId;
use solver::event::BuildId;
use solver::graph::{Graph, Vertex, VertexId, Via};
use solver::key::{RecordId, ResultRef};
use tokio::task::JoinHandle;

use super::records::stored_id;
use super::EngineHost;
use crate::engine::asker::Asker;
use crate::engine::blocking::blocking;
use crate::engine::cache::ToExport;
use crate::engine::explain::{Base, Compared, Origin, Place, Places};
use crate::engine::results::Results;

/// Something to be told of a vertex.
pub(crate) type Remark = (VertexId, String);

/// One graph that is being solved, and for whom.
pub(in crate::engine) struct Submitted {
    pub(in crate::engine) graph: Arc<Graph>,
    pub(in crate::engine) asker: Arc<Asker>,
    /// What its images, repositories and downloads resolved to.
    bases: Mutex<HashMap<VertexId, Base>>,
    /// The results of its vertices.
    records: Mutex<BTreeMap<VertexId, RecordId>>,
    /// Those of them that were made for it.
    made: Mutex<HashSet<RecordId>>,
    places: OnceLock<Places>,
    /// What is told of results that were found: looked into beside everything else.
    pub(in crate::engine) remarks: Mutex<Vec<JoinHandle<Vec<Remark>>>>,
    /// What was compared to explain its misses.
    pub(in crate::engine) compared: Compared,
    /// The vertices whose layers are in the image.
    in_image: OnceLock<HashSet<VertexId>>,
}

impl Submitted {
    pub(in crate::engine) fn origins(&self, vertex: &Vertex, inputs: &[ResultRef]) -> Vec<Origin> {
        let base = |vertex: &Vertex| self.bases.lock().unwrap_or_else(|e| e.into_inner()).get(&vertex.id).cloned();
        Origin::of_inputs(&self.graph, vertex, inputs, &base)
    }

    /// A source resolved to this.
    pub(in crate::engine) fn resolved(&self, vertex: &Vertex, base: Base) {
        self.bases.lock().unwrap_or_else(|e| e.into_inner()).insert(vertex.id, base);
    }

    /// The step of each tree that is a result of one so far, the first of several. None of a very large graph.
    pub(in crate::engine) fn makers(&self, results: &Results) -> HashMap<SnapshotId, Place> {
        let records = self.records.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let mut makers: HashMap<SnapshotId, Place> = HashMap::new();
        let mut steps: Vec<_> = self.places().iter().collect();
        steps.sort_by_key(|(_, place)| (place.step, &place.stage));
        for (vertex, place) in steps {
            let outputs = records.get(vertex).and_then(|record| results.all(*record)).unwrap_or_default();
            for tree in outputs.iter().filter_map(|output| output.files.snapshot()) {
                makers.entry(tree).or_insert_with(|| place.clone());
            }
        }
        makers
    }

    pub(in crate::engine) fn place(&self, vertex: &Vertex) -> Place {
        self.places().place(vertex, &self.asker.client.project())
    }

    fn places(&self) -> &Places {
        self.places.get_or_init(|| Places::of(&self.graph, &self.asker.client.project()))
    }

    /// A record was made for one of its vertices.
    pub(in crate::engine) fn made(&self, record: RecordId) {
        self.made.lock().unwrap_or_else(|e| e.into_inner()).insert(record);
    }

    /// Whether a record was made for one of its vertices: it is no earlier one then.
    pub(in crate::engine) fn has_made(&self, record: &RecordId) -> bool {
        self.made.lock().unwrap_or_else(|e| e.into_inner()).contains(record)
    }
}

impl Submitted {
    pub(in crate::engine) fn new(graph: Arc<Graph>, asker: Arc<Asker>) -> Submitted {
        let (bases, records, made, places, remarks, compared, in_image) = Default::default();
        Submitted { graph, asker, bases, records, made, places, remarks, compared, in_image }
    }

    /// A vertex has a result, and those who wait for it are told; gives the one it had before.
    pub(in crate::engine) fn has(&self, vertex: VertexId, record: RecordId) -> Option<RecordId> {
        let before = self.records.lock().unwrap_or_else(|e| e.into_inner()).insert(vertex, record);
        if before != Some(record) {
            for feed in self.asker.feeds() {
                self.leaving(&vertex, record).into_iter().for_each(|result| feed.tell(result));
            }
        }
        before
    }

    /// A result as it may leave, unless its vertex is to stay here.
    fn leaving(&self, vertex: &VertexId, record: RecordId) -> Option<ToExport> {
        self.graph.get(vertex).filter(|vertex| vertex.hints.export_cache != Some(false))?;
        let in_image = self.in_image.get_or_init(|| below_targets(&self.graph)).contains(vertex);
        Some(ToExport { record, in_image })
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
        let records = submitted.records.lock().unwrap_or_else(|e| e.into_inner());
        records.iter().filter_map(|(vertex, record)| submitted.leaving(vertex, *record)).collect()
    }

    /// Notes which result each step had, so that a later miss is compared with that: the newest is not always the last.
    pub(crate) async fn note_results(&self) {
        let submitted = self.host.submitted.lock().unwrap_or_else(|e| e.into_inner()).get(&self.submit).cloned();
        let Some(submitted) = submitted else { return };
        let store = self.host.store.clone();
        blocking(move || {
            let records = submitted.records.lock().unwrap_or_else(|e| e.into_inner()).clone();
            for (vertex, place) in submitted.places().iter() {
                let Some(record) = records.get(vertex).filter(|record| !submitted.has_made(record)) else { continue };
                // Without it a miss is compared with the newest.
                let _ = store.note_result(&place.name(), &place.aliases(), &stored_id(*record));
            }
        })
        .await;
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
