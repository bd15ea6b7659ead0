//! A build as a daemon is asked for it.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::exporters::{shipments, Home, Keep, Shipment};
use super::{random, Address, Error, Offer};
use crate::cache::Place;
use crate::engine::attrs::{self, DOCKERFILE};
use crate::engine::{Ask, BuildRequest, Dockerfile, Entitlements};
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
        let context = offer.directories.get(&request.recipe.options.context_name);
        let session = random::name()?;
        let headers = Headers {
            shared_key: shared_key(context.map(|path| path.as_path())),
            ..Headers::new(&session, offer.methods())
        };
        let solve = SolveRequest {
            r#ref: random::name()?,
            session,
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs: options,
            cache: Some(caches(&request)?),
            entitlements: entitlements(request.rights.entitlements),
            exporters: shipments.iter().map(|shipment| shipment.exporter.clone()).collect(),
            ..SolveRequest::default()
        };
        Ok(Written { solve, headers, shipments, offer, _scratch: scratch })
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

/// The caches that the daemon is to use and to write. A directory is one of ours: its blobs would have to travel.
fn caches(request: &BuildRequest) -> Result<CacheOptions, Error> {
    let entry = |place: &Place, (kind, attrs): (String, BTreeMap<String, String>)| match place {
        Place::Local(..) => Err(Error::Unsupported("caches of type=local at a daemon; use type=registry".to_owned())),
        _ => Ok(CacheOptionsEntry { r#type: kind, attrs }),
    };
    let exports = request.exports.cache_to.iter().map(|cache| entry(&cache.place, cache.written()));
    let imports = request.cache_from.iter().map(|cache| entry(&cache.place, cache.written()));
    Ok(CacheOptions {
        exports: exports.collect::<Result<_, _>>()?,
        imports: imports.collect::<Result<_, _>>()?,
        ..CacheOptions::default()
    })
}

fn entitlements(rights: Entitlements) -> Vec<String> {
    let named = [(rights.network_host, "network.host"), (rights.security_insecure, "security.insecure")];
    named.into_iter().filter(|(is_given, _)| *is_given).map(|(_, name)| name.to_owned()).collect()
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
    use crate::engine::{ExportRequest, Recipe, Rights};

    fn order(dockerfile: Dockerfile) -> Order {
        let recipe = Recipe { dockerfile, dockerfile_dir: "dockerfile".to_owned(), options: Default::default() };
        let rights =
            Rights { entitlements: Entitlements { network_host: true, ..Default::default() }, ask: Ask::Registry };
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
