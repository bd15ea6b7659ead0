//! What a daemon may ask of us while it builds: services on the connection inside its session.
//!
//! Nothing is given that was not offered by the user: directories, secrets, agents and credentials by name, and places
//! for the outputs that were asked for, each once.

mod agents;
mod auth;
mod directories;
mod ingest;
mod place;
mod places;
mod secrets;
mod stores;
mod uploads;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tonic::service::Routes;
use tonic::Status;

pub(super) use places::Arrivals;

use super::exporters::Shipment;
use super::Error;
use crate::agent::Agents;
use crate::engine::Secret;
use crate::registry::Credentials;
use crate::source::oci_layout::Layout;
use crate::wire::health::healthy;
use crate::wire::proto::content::content_server::ContentServer;
use crate::wire::proto::file_send::file_send_server::FileSendServer;
use crate::wire::proto::filesync::auth_server::AuthServer;
use crate::wire::proto::filesync::file_sync_server::FileSyncServer;
use crate::wire::proto::secrets::secrets_server::SecretsServer;
use crate::wire::proto::ssh::ssh_server::SshServer;
use crate::wire::proto::upload::upload_server::UploadServer;
use crate::wire::session::services;
use crate::wire::MAX_MESSAGE;

use stores::BlobStore;

/// Directories by the names that daemons have for them.
pub(super) type Directories = BTreeMap<String, PathBuf>;

/// What a daemon may ask of us while it builds.
#[derive(Clone, Default)]
pub struct Offer {
    /// By the names that a build knows them by: `context`, `dockerfile`, and those of named contexts.
    pub directories: BTreeMap<String, PathBuf>,
    /// By id.
    pub secrets: BTreeMap<String, Secret>,
    /// What ssh keys may be asked of, by id.
    pub agents: Agents,
    /// OCI layouts, by the names that named contexts have for them.
    pub layouts: BTreeMap<String, Layout>,
    /// Files that the build reads once, by the paths of their addresses.
    pub uploads: BTreeMap<String, PathBuf>,
    /// Who we are to registries.
    pub credentials: Credentials,
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("directories", &self.directories).finish_non_exhaustive()
    }
}

impl Offer {
    /// What is served, for the session's headers; `blobs` are directories that blobs come from and go to.
    pub(super) fn methods(&self, blobs: &Directories) -> Vec<&'static str> {
        let always = [services::HEALTH, services::FILE_SYNC, services::FILE_SEND, services::AUTH];
        let secrets = (!self.secrets.is_empty()).then_some(services::SECRETS);
        let agents = (!self.agents.is_empty()).then_some(services::SSH);
        let uploads = (!self.uploads.is_empty()).then_some(services::UPLOAD);
        let stores = !self.layouts.is_empty() || !blobs.is_empty();
        let stores = stores.then_some(services::CONTENT);
        always.into_iter().chain(secrets).chain(agents).chain(uploads).chain(stores).flatten().copied().collect()
    }

    /// The services, and what is known of what they received.
    ///
    /// # Errors
    /// No random numbers.
    pub(super) fn serve(self, shipments: Vec<Shipment>, blobs: Directories) -> Result<(Routes, Arrivals), Error> {
        let Offer { directories, secrets, agents, layouts, uploads, credentials } = self;
        let layouts = layouts.into_iter().map(|(name, layout)| (format!("oci:{name}"), BlobStore::Layout(layout)));
        let others = blobs.into_iter().map(|(name, path)| (name, BlobStore::Directory(path)));
        let stores: BTreeMap<String, BlobStore> = layouts.chain(others).collect();
        let (places, arrivals) = places::Places::new(shipments);
        let directories = FileSyncServer::new(directories::Directories(Arc::new(directories)));
        let mut routes = Routes::new(healthy())
            .add_service(directories.max_decoding_message_size(MAX_MESSAGE))
            .add_service(FileSendServer::new(places).max_decoding_message_size(MAX_MESSAGE))
            .add_service(AuthServer::new(auth::Auth::new(credentials)?));
        if !secrets.is_empty() {
            routes = routes.add_service(SecretsServer::new(secrets::Known(secrets)));
        }
        if !agents.is_empty() {
            routes = routes.add_service(SshServer::new(agents::Offered(agents)));
        }
        if !uploads.is_empty() {
            routes = routes.add_service(UploadServer::new(uploads::Uploads(uploads)));
        }
        if !stores.is_empty() {
            let stores = ContentServer::new(stores::Stores(stores));
            routes = routes.add_service(stores.max_decoding_message_size(MAX_MESSAGE));
        }
        Ok((routes, arrivals))
    }
}

/// An error with its causes, for the daemon, which shows it to the user.
fn told(error: &(dyn std::error::Error + 'static)) -> Status {
    Status::unknown(crate::engine::chain(error))
}
