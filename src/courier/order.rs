//! A build as a daemon is asked for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::books::Book;
use super::exporters::{shipments, Home, Keep, Place, Shipment};
use super::{policy, random, Address, Error, Offer};
use crate::cache::Place as Cache;
use crate::engine::attrs::{self, DOCKERFILE};
use crate::engine::{Ask, BuildRequest, Dockerfile};
use crate::export::layout;
use crate::wire::proto::control::{CacheOptions, CacheOptionsEntry, SolveRequest};
use crate::wire::session::Headers;

/// A build that a daemon is to do.
#[derive(Debug)]
pub struct Order {
    /// What is to be built.
    pub request: BuildRequest,
    /// What the daemon may ask for while it does.
    pub offer: Offer,
    /// The image's id is wanted even if nobody wants the image.
    pub wants_id: bool,
}

/// An order, written down.
#[derive(Debug)]
pub(super) struct Written {
    pub solve: SolveRequest,
    pub headers: Headers,
    pub shipments: Vec<Shipment>,
    pub offer: Offer,
    /// Directories that blobs come from and go to, by the names that daemons have for them.
    pub blobs: BTreeMap<String, PathBuf>,
    /// What is entered in their indexes afterwards.
    pub books: Vec<Book>,
    /// Keeps a Dockerfile that is no file.
    pub _scratch: Option<TempDir>,
}

impl Order {
    /// Writes it down for the daemon at `address`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what cannot be asked for.
    pub(super) fn write(self, address: &Address) -> Result<Written, Error> {
        let Order { request, mut offer, wants_id } = self;
        let home = if matches!(address, Address::Engine(_)) { Home::Engine } else { Home::Daemon };
        let keep = if wants_id { Keep::Image } else { Keep::Cache };
        let shipments = shipments(&request.exports, home, keep)?;
        let scratch = match &request.recipe.dockerfile {
            Dockerfile::File(_) | Dockerfile::InContext(_) => None,
            Dockerfile::InInput { .. } => return Err(Error::Unsupported("what came with another build".to_owned())),
            Dockerfile::Web(url) => {
                return Err(Error::Unsupported(format!("a Dockerfile at {url}: download it first")))
            }
            Dockerfile::Text(text) => Some(with_dockerfile(text)?),
        };
        if let Some(scratch) = &scratch {
            offer.directories.insert(request.recipe.dockerfile_dir.clone(), scratch.path().to_path_buf());
        }
        let mut options = attrs::write(&request.recipe);
        if request.rights.ask == Ask::Registry {
            options.insert("image-resolve-mode".to_owned(), "pull".to_owned());
        }
        if let Some(provenance) = &request.exports.provenance {
            options.insert("attest:provenance".to_owned(), provenance.to_string());
        }
        let mut blobs = BTreeMap::new();
        let (cache, mut books) = caches(&request, &mut blobs)?;
        for shipment in &shipments {
            if let Some(Place::Layout(path, names)) = &shipment.place {
                blobs.insert("export".to_owned(), path.clone());
                books.push(Book::Image(path.clone(), names.clone()));
            }
        }
        let context = offer.directories.get(&request.recipe.options.context_name);
        let session = random::name()?;
        let headers = Headers {
            shared_key: shared_key(context.map(|path| path.as_path())),
            ..Headers::new(&session, offer.methods(&blobs))
        };
        let solve = SolveRequest {
            r#ref: random::name()?,
            session,
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs: options,
            cache: Some(cache),
            entitlements: request.rights.entitlements.names(),
            source_policy: policy::write(&request.rights.sources),
            exporters: shipments.iter().map(|shipment| shipment.exporter.clone()).collect(),
            ..SolveRequest::default()
        };
        Ok(Written { solve, headers, shipments, offer, blobs, books, _scratch: scratch })
    }
}

/// A Dockerfile that is no file, as one: daemons ask for files.
fn with_dockerfile(text: &[u8]) -> Result<TempDir, Error> {
    let wrong = |path: &Path, source| Error::File { doing: "write", path: path.display().to_string(), source };
    let dir = TempDir::with_prefix("rbuild-dockerfile-").map_err(|e| wrong(&std::env::temp_dir(), e))?;
    let file = dir.path().join(DOCKERFILE);
    std::fs::write(&file, text).map_err(|e| wrong(&file, e))?;
    Ok(dir)
}

/// The caches that the daemon is to use and to write. Directories are ours: it asks for their blobs and sends them, and
/// is told which document of an index is meant.
fn caches(request: &BuildRequest, blobs: &mut BTreeMap<String, PathBuf>) -> Result<(CacheOptions, Vec<Book>), Error> {
    let (mut exports, mut imports, mut books) = (Vec::new(), Vec::new(), Vec::new());
    let mut give = |dir: &Path| drop(blobs.insert(format!("local:{}", dir.display()), dir.into()));
    for cache in &request.exports.cache_to {
        let (r#type, attrs) = cache.written();
        if let Cache::Local(dir, tag) = &cache.place {
            give(dir);
            books.push(Book::Cache(dir.clone(), tag.clone()));
        }
        exports.push(CacheOptionsEntry { r#type, attrs });
    }
    if books.len() > 1 {
        // A daemon says of one of them what it made.
        return Err(Error::Unsupported("more than one --cache-to type=local at a daemon".to_owned()));
    }
    for cache in &request.cache_from {
        let (r#type, mut attrs) = cache.written();
        if let Cache::Local(dir, tag) = &cache.place {
            // Of what is not there the daemon says so, as a build here would.
            if let Some(found) = layout::find(dir, tag).map_err(|source| Error::Export { source })? {
                attrs.insert("digest".to_owned(), found.digest.to_string());
                give(dir);
            }
        }
        imports.push(CacheOptionsEntry { r#type, attrs });
    }
    Ok((CacheOptions { exports, imports, ..CacheOptions::default() }, books))
}

/// Stays the same for one directory of one user on one machine, and tells nothing of it: what was sent before is compared
/// by size and time only, so nobody else's may count as ours. Empty, which is never the same, where machines cannot be
/// told apart.
fn shared_key(context: Option<&Path>) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let place = context.and_then(|path| std::fs::canonicalize(path).ok());
    let (false, Some(place)) = (machine.trim().is_empty(), place) else { return String::new() };
    let mut hash = blake3::Hasher::new();
    let host = rustix::system::uname();
    let user = rustix::process::geteuid().as_raw().to_string();
    for part in
        [machine.trim().as_bytes(), host.nodename().to_bytes(), user.as_bytes(), place.as_os_str().as_encoded_bytes()]
    {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Entitlements, ExportRequest, Recipe, Rights};

    fn order(dockerfile: Dockerfile) -> Order {
        let recipe =
            Recipe { dockerfile, dockerfile_dir: "dockerfile".to_owned(), options: Default::default(), sbom: None };
        let rights = Rights {
            entitlements: Entitlements { network_host: true, ..Default::default() },
            ask: Ask::Registry,
            ..Default::default()
        };
        let request = BuildRequest { recipe, rights, cache_from: Vec::new(), exports: ExportRequest::default() };
        let directories = [("context".to_owned(), "/ctx".into()), ("dockerfile".to_owned(), "/ctx".into())];
        Order { request, offer: Offer { directories: directories.into(), ..Offer::default() }, wants_id: false }
    }

    #[test]
    fn a_request_has_what_the_daemon_needs_and_nothing_more() {
        let written = order(Dockerfile::File("Dockerfile.dev".into())).write(&"unix:///x".parse().unwrap()).unwrap();
        let solve = &written.solve;
        assert_eq!((solve.frontend.as_str(), &solve.session), ("dockerfile.v0", &written.headers.id));
        let attrs: Vec<_> = solve.frontend_attrs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(attrs, ["filename=Dockerfile.dev", "image-resolve-mode=pull"]);
        assert_eq!(solve.entitlements, ["network.host"]);
        assert!(solve.exporters.is_empty() && !solve.r#ref.is_empty() && solve.r#ref != solve.session);
        assert!(written.headers.serves("/moby.filesync.v1.FileSync/DiffCopy"));
        // Secrets and agents are not announced where there are none.
        assert!(!written.headers.serves("/moby.sshforward.v1.SSH/CheckAgent"));
    }

    #[test]
    fn a_dockerfile_that_is_text_becomes_a_file() {
        let written = order(Dockerfile::Text(b"FROM scratch".to_vec())).write(&"unix:///x".parse().unwrap()).unwrap();
        let dir = written.offer.directories["dockerfile"].clone();
        assert_eq!(std::fs::read(dir.join("Dockerfile")).unwrap(), b"FROM scratch");
        assert_eq!(written.offer.directories["context"], Path::new("/ctx"));
        drop(written);
        assert!(!dir.exists());
    }

    #[test]
    fn a_context_elsewhere_is_told_as_it_was_typed() {
        let address = "https://host.example/r.git#main:dir".to_owned();
        let mut written = order(Dockerfile::Text(vec![]));
        let typed = attrs::read(&[("context".to_owned(), address.clone())].into(), &Default::default()).unwrap();
        written.request.recipe.options.context = typed.recipe.options.context;
        let attrs = written.write(&"unix:///x".parse().unwrap()).unwrap().solve.frontend_attrs;
        assert_eq!((&attrs["context"], attrs["dockerfilekey"].as_str()), (&address, "dockerfile"));
    }

    #[test]
    fn a_shared_key_is_of_one_directory() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = |path| shared_key(Some(path));
        assert_eq!(key(one.path()), key(one.path()));
        if !key(one.path()).is_empty() {
            assert_ne!(key(one.path()), key(two.path()));
        }
        assert_eq!(key(Path::new("/nonexistent")), "");
    }
}
