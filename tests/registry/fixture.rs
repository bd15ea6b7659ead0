//! Images made of noise, and clients that lose patience quickly.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rbuild::image::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use rbuild::image::{Descriptor, Digest};
use rbuild::registry::{
    Blob, BlobReader, Config, Content, Credential, CredentialSource, Credentials, Error, HostConfig, Limits, OnBytes,
    OnPush, PushEvent, Reference, Registry, Resolved, Scheme, Secret,
};
use serde_json::json;
use solver::graph::Platform;

use crate::server::Server;

pub const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Limits that make a failing test fail soon, also on a busy machine.
pub fn impatient() -> Limits {
    Limits {
        connect: Duration::from_secs(5),
        stall: Duration::from_secs(10),
        commit: Duration::from_secs(10),
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_secs(3),
        ..Limits::default()
    }
}

/// Limits for what is meant to stand still.
pub fn hasty() -> Limits {
    Limits { stall: Duration::from_millis(300), commit: Duration::from_millis(600), ..impatient() }
}

/// Limits for a real registry, which syncs its disk.
pub fn patient() -> Limits {
    Limits { first_wait: Duration::from_millis(50), ..Limits::default() }
}

/// A configuration in which these hosts speak plain HTTP.
pub fn plain_http(hosts: &[&Server]) -> Config {
    let about = HostConfig { schemes: vec![Scheme::Http], ..HostConfig::default() };
    Config { hosts: hosts.iter().map(|server| (server.host(), about.clone())).collect(), ..Config::default() }
}

/// An anonymous client of this registry.
pub fn client(server: &Server) -> Registry {
    Registry::new(plain_http(&[server]), Credentials::default(), impatient())
}

/// The same, quick to lose patience.
pub fn hasty_client(server: &Server) -> Registry {
    Registry::new(plain_http(&[server]), Credentials::default(), hasty())
}

pub fn password(host: &str, user: &str, password: &str) -> Credentials {
    let credential = Credential::Password { user: user.into(), password: Secret::new(password) };
    Credentials(vec![CredentialSource::Fixed { host: host.into(), credential }])
}

pub fn amd64() -> Platform {
    Platform { architecture: "amd64".into(), os: "linux".into(), ..Platform::default() }
}

/// Bytes that no two seeds share and no codec shrinks.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..length / 8 + 1).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// An image: manifest, config and layers as bytes.
#[derive(Clone)]
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// Of layers of these sizes.
    pub fn of(sizes: &[usize]) -> Image {
        let layers: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| noise(at as u64 + 1, *size)).collect();
        Image::of_layers(layers, "amd64")
    }

    pub fn of_layers(layers: Vec<Vec<u8>>, architecture: &str) -> Image {
        let ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        Image::with_diff_ids(layers, architecture, &ids)
    }

    pub fn with_diff_ids(layers: Vec<Vec<u8>>, architecture: &str, ids: &[String]) -> Image {
        let config = json!({"architecture": architecture, "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": ids}});
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": Descriptor::of(OCI_CONFIG, &config),
            "layers": layers.iter().map(|layer| Descriptor::of(GZIP_LAYER, layer)).collect::<Vec<_>>()});
        Image { manifest: serde_json::to_vec_pretty(&manifest).unwrap(), config, layers }
    }

    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(OCI_MANIFEST, &self.manifest)
    }

    /// Puts it into a registry without a request.
    pub fn put(&self, server: &Server, repository: &str, tag: &str) {
        let mut state = server.state();
        for blob in self.layers.iter().chain([&self.config]) {
            state.add_blob(repository, blob);
        }
        state.add_manifest(repository, tag, OCI_MANIFEST, &self.manifest);
    }

    /// What is to be pushed.
    pub fn content(&self) -> Content {
        let layers = self.layers.iter().map(|layer| blob(GZIP_LAYER, layer));
        Content {
            blobs: layers.chain([blob(OCI_CONFIG, &self.config)]).collect(),
            documents: vec![(self.descriptor(), self.manifest.clone())],
        }
    }
}

/// A blob to be pushed.
pub fn blob(media_type: &str, bytes: &[u8]) -> Blob {
    let shared: Arc<[u8]> = bytes.into();
    Blob {
        descriptor: Descriptor::of(media_type, bytes),
        open: Arc::new(move || Ok(Box::new(io::Cursor::new(shared.clone())))),
        bring: None,
        also_in: vec![],
    }
}

/// An index of these manifests.
pub fn index_of(entries: &[Descriptor]) -> (Descriptor, Vec<u8>) {
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    let bytes = serde_json::to_vec(&index).unwrap();
    (Descriptor::of(OCI_INDEX, &bytes), bytes)
}

pub fn reference(server: &Server, rest: &str) -> Reference {
    format!("{}/{rest}", server.host()).parse().unwrap()
}

pub fn silent() -> OnBytes {
    Arc::new(|_| ())
}

pub async fn resolve(client: &Registry, reference: &Reference) -> Result<Resolved, Error> {
    client.resolve(reference, &amd64(), &|_| None).await
}

/// Fetches a blob whole.
pub async fn fetch(client: &Registry, reference: &Reference, blob: &Descriptor) -> Result<Vec<u8>, Error> {
    client.fetch_blob(reference, blob, &silent(), read_all).await
}

pub fn read_all(reader: &mut BlobReader) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all)?;
    Ok(all)
}

/// Fetches an image whole: its layers, in order.
pub async fn pull(client: &Registry, reference: &Reference) -> Result<(Resolved, Vec<Vec<u8>>), Error> {
    let resolved = resolve(client, reference).await?;
    let layers = resolved.layers().iter().map(|layer| fetch(client, reference, layer));
    let layers = futures_util::future::try_join_all(layers).await?;
    Ok((resolved, layers))
}

/// What happened during a push, but for progress.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<PushEvent>>>);

impl Told {
    pub fn listener(&self) -> OnPush {
        let told = self.clone();
        Arc::new(move |event| told.0.lock().unwrap().push(event))
    }

    pub fn count(&self, is_it: impl Fn(&PushEvent) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| is_it(event)).count()
    }

    /// The most bytes reported of each blob.
    pub fn bytes(&self) -> BTreeMap<Digest, u64> {
        let mut most = BTreeMap::new();
        for event in self.0.lock().unwrap().iter() {
            if let PushEvent::Sending(digest, bytes) = event {
                let known: &mut u64 = most.entry(*digest).or_default();
                *known = (*known).max(*bytes);
            }
        }
        most
    }
}

/// The error and all its causes in one line.
pub fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
