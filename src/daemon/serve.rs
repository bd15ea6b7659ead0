//! The daemon's life: opens its doors, serves who comes in, and ends when it is told to.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use snapshotter::store::relief::{Beyond, SpaceLimits};
use snapshotter::Store;
use tokio::task::JoinSet;
use tonic::service::Routes;

use super::builds::Builds;
use super::control::Tell;
use super::history::History;
use super::listen::{Door, ListenError, TlsFiles};
use super::session::Sessions;
use super::solve::Solving;
use super::traces::NoTraces;
use super::{content, control};
use crate::cdi;
use crate::engine::{space, Backlog, BuildError, Engine, Entitlements};
use crate::gateway::{self, caps};
use crate::history::Limits;
use crate::wire::health::healthy;
use crate::wire::proto::content::content_server::ContentServer;
use crate::wire::proto::control::control_server::ControlServer;
use crate::wire::proto::gateway::llb_bridge_server::LlbBridgeServer;
use crate::wire::session;
use crate::wire::MAX_MESSAGE;

/// How long to wait when the machine has no descriptors left.
const BREATHER: Duration = Duration::from_millis(100);
/// How often it is looked whether the store has too much.
const COLLECTING: Duration = Duration::from_secs(60);
/// How long cleaning up at the end may take.
const TIDYING: Duration = Duration::from_millis(500);

/// How to serve.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// Where the store is.
    pub root: PathBuf,
    /// Where clients come in.
    pub addresses: Vec<String>,
    /// Who else may connect to the socket.
    pub group: Option<String>,
    /// For addresses beyond this machine.
    pub tls: Option<TlsFiles>,
    /// How much the store may take; without limits nothing is collected.
    pub space: Option<SpaceLimits>,
    /// How much of earlier builds is remembered.
    pub history: Limits,
    /// How many steps run at once.
    pub jobs: Option<usize>,
    /// What clients may ask for.
    pub allowed: Entitlements,
    /// Where devices are described.
    pub devices: cdi::Config,
    /// Every build's beginning and end is told.
    pub debug: bool,
    /// What is told of the worker besides what is known.
    pub labels: BTreeMap<String, String>,
}

/// Why a daemon ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nobody can come in.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store cannot be used.
    #[error(transparent)]
    Engine(#[from] BuildError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] snapshotter::Error),
}

/// Serves until `end` resolves; then builds under way are cancelled. `tell` hears of each door, and of what was collected.
/// To be called on a tokio runtime.
///
/// # Errors
/// It could not begin.
pub async fn serve(serving: Serving, tell: Tell, end: impl Future<Output = ()>) -> Result<(), ServeError> {
    let backlog = Arc::new(Backlog::default());
    let engine = Engine::open(&serving.root, serving.jobs, Arc::clone(&backlog))?;
    let engine = Arc::new(engine.with_devices(serving.devices.clone()));
    let store = Store::open(&serving.root)?;
    // What a daemon left that was killed here.
    engine.tidy(TIDYING);
    let history = Arc::new(History::new(engine.history(), serving.history, backlog));
    let routes = routes(&engine, store, history, &serving, &tell);
    let mut doors = Vec::new();
    for address in &serving.addresses {
        doors.extend(Door::open(address, serving.group.as_deref(), serving.tls.as_ref())?);
    }
    doors.iter().for_each(|door| tell(format!("serving on {}", door.shown)));
    {
        let mut served = JoinSet::new();
        let doors: Vec<_> = doors.into_iter().map(Arc::new).collect();
        for door in &doors {
            served.spawn(attend(Arc::clone(door), routes.clone()));
        }
        if let Some(space) = serving.space {
            served.spawn(collect(Arc::clone(&engine), space, tell));
        }
        end.await;
        // With their connections all calls end, and with the calls the builds.
        served.shutdown().await;
    }
    drop(routes);
    engine.tidy(TIDYING);
    Ok(())
}

/// Now and then removes what the store has too much of, which costs little where it has not.
async fn collect(engine: Arc<Engine>, space: SpaceLimits, tell: Tell) {
    loop {
        tokio::time::sleep(COLLECTING).await;
        let engine = Arc::clone(&engine);
        let relieved = tokio::task::spawn_blocking(move || engine.relieve(&space, TIDYING)).await;
        let Some(relief) = relieved.ok().flatten() else { continue };
        let Some(collected) = relief.collected.filter(|collected| collected.bytes > 0) else { continue };
        let why = match relief.beyond {
            Beyond::Used { used, most } => format!("the store took {used} bytes and may take {most}"),
            Beyond::Free { free, least } => format!("{free} bytes of its disk were free and should be {least}"),
        };
        tell(format!("removed {} bytes of what was used longest ago: {why}", collected.bytes));
        for gone in &collected.gone {
            tell(format!("removed {}, {} bytes: {}", space::kind_of(gone), gone.bytes, space::farewell(gone)));
        }
    }
}

/// Lets clients in at a door, as long as it is there.
async fn attend(door: Arc<Door>, routes: Routes) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            next = door.next() => match next {
                Ok(coming) => {
                    let routes = routes.clone();
                    connections.spawn(async move {
                        // How a client's connection ends is the client's matter.
                        if let Ok(connection) = coming.await {
                            let _ = session::serve(connection, routes).await;
                        }
                    });
                }
                Err(_) => tokio::time::sleep(BREATHER).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What clients find.
fn routes(engine: &Arc<Engine>, store: Store, history: Arc<History>, serving: &Serving, tell: &Tell) -> Routes {
    let builds = Builds::default();
    let solving = Solving {
        engine: Arc::clone(engine),
        builds: builds.clone(),
        sessions: Sessions::new(store.clone()),
        worker: caps::worker(&worker_id(&serving.root), labels(&store, &serving.labels)),
    };
    let tell = serving.debug.then(|| Arc::clone(tell));
    let control =
        control::Service { solving, history: Arc::clone(&history), allowed: serving.allowed.clone(), store, tell };
    let limit = MAX_MESSAGE;
    let control = ControlServer::new(control).max_decoding_message_size(limit).max_encoding_message_size(limit);
    let bridge = LlbBridgeServer::new(gateway::Service(builds));
    let bridge = bridge.max_decoding_message_size(limit).max_encoding_message_size(limit);
    let content = ContentServer::new(content::Service(history)).max_decoding_message_size(limit);
    Routes::new(control).add_service(bridge).add_service(content).add_service(healthy()).add_service(NoTraces)
}

/// The same for one store, whatever process serves it.
fn worker_id(root: &Path) -> String {
    let place = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    blake3::hash(place.as_os_str().as_encoded_bytes()).to_hex().chars().take(25).collect()
}

fn labels(store: &Store, configured: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let label = |name: &str| format!("org.mobyproject.buildkit.worker.{name}");
    let mut labels = configured.clone();
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    labels.insert(label("executor"), "oci".to_owned());
    labels.insert(label("hostname"), hostname);
    labels.insert(label("network"), "host".to_owned());
    labels.insert(label("snapshotter"), format!("{:?}", store.driver()).to_lowercase());
    labels
}
