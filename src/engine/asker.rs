//! What one build brings along: whom to ask, what it may do, and what it has settled already.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use solver::graph::op::SourceOp;
use solver::graph::{Graph, Op};
use solver::port::Record;
use tokio::sync::OnceCell;

use super::bases::Bases;
use super::cache::Feed;
use super::client::Client;
use super::opened::{self, LocalName, Opened, Place};
use super::provenance::Material;
use super::request::Entitlements;
use super::results::OwnRecords;
use super::steps::Emptied;

/// Who asks for a build.
pub(crate) struct Asker {
    pub client: Arc<dyn Client>,
    pub bases: Arc<Bases>,
    pub entitlements: Entitlements,
    pub emptied: Arc<Emptied>,
    pub warned_of_network: AtomicBool,
    /// Records of its contexts.
    pub own: OwnRecords,
    /// A context is taken once a build, however many graphs of it name it.
    contexts: Mutex<HashMap<LocalName, Place>>,
    /// Those of all builds that live.
    opened: Arc<Opened>,
    /// What a client sends can be had once.
    uploads: Mutex<HashMap<String, Arc<OnceCell<Record>>>>,
    /// What sources turned out to be.
    materials: Mutex<BTreeSet<Material>>,
    /// Who wants to know of results as they come.
    feeds: Mutex<Vec<Feed>>,
}

impl Asker {
    pub(crate) fn new(
        client: Arc<dyn Client>,
        bases: Arc<Bases>,
        entitlements: Entitlements,
        own: OwnRecords,
        opened: Arc<Opened>,
    ) -> Asker {
        let (emptied, warned_of_network) = (Arc::default(), AtomicBool::new(false));
        let (contexts, uploads, materials, feeds) = Default::default();
        Asker {
            client,
            bases,
            entitlements,
            emptied,
            warned_of_network,
            own,
            contexts,
            opened,
            uploads,
            materials,
            feeds,
        }
    }

    /// The place of what the client sends under this path.
    pub(crate) fn upload(&self, path: &str) -> Arc<OnceCell<Record>> {
        let mut uploads = self.uploads.lock().unwrap_or_else(|e| e.into_inner());
        Arc::clone(uploads.entry(path.to_owned()).or_default())
    }

    /// Tells somebody of results as they come, from now on.
    pub(crate) fn tell(&self, feed: Feed) {
        self.feeds.lock().unwrap_or_else(|e| e.into_inner()).push(feed);
    }

    /// Those who are told of results.
    pub(crate) fn feeds(&self) -> Vec<Feed> {
        self.feeds.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Notes what a source turned out to be.
    pub(crate) fn made_of(&self, material: Material) {
        self.materials.lock().unwrap_or_else(|e| e.into_inner()).insert(material);
    }

    /// What the build was made of so far.
    pub(crate) fn materials(&self) -> BTreeSet<Material> {
        self.materials.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The place of the context that a source stands for; it is held from now on.
    pub(crate) fn context(&self, source: &SourceOp) -> Place {
        let name = opened::named(source, self.client.session());
        let mut contexts = self.contexts.lock().unwrap_or_else(|e| e.into_inner());
        let of_session = |name: &LocalName| name.0.as_ref().map(|_| self.opened.place(name));
        Arc::clone(contexts.entry(name).or_insert_with_key(|name| of_session(name).unwrap_or_default()))
    }

    /// Holds the contexts of other builds' sessions that a graph reads: those sessions may end before it does.
    pub(crate) fn hold(&self, graph: &Graph) {
        for vertex in graph.vertices() {
            if let Op::Source(source) = &vertex.op {
                if opened::is_of_session(source) {
                    self.context(source);
                }
            }
        }
    }
}
