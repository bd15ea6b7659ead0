//! What a build is asked to do: plain data that every edge makes.

use super::policy::Policies;
use super::provenance::Provenance;
use super::recipe::Recipe;
use super::remote::Ask;
use super::sbom::Sbom;
use crate::cache::{CacheFrom, CacheTo};
use crate::cdi::Grants;
use crate::export::Output;

/// One build of a Dockerfile.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// What is compiled.
    pub recipe: Recipe,
    /// What it may do.
    pub rights: Rights,
    /// Caches from elsewhere, in the order in which they are asked.
    pub cache_from: Vec<CacheFrom>,
    /// What becomes of it.
    pub exports: ExportRequest,
}

/// What a build may do.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    /// What its steps may ask for.
    pub entitlements: Entitlements,
    /// Who is asked first for base images.
    pub ask: Ask,
    /// Which sources it may use.
    pub sources: Policies,
}

/// What becomes of the result.
#[derive(Clone, Debug, Default)]
pub struct ExportRequest {
    /// Names of the image, normalised (`docker.io/library/app:1.0`).
    pub names: Vec<String>,
    /// What the result becomes besides an image in the store.
    pub outputs: Vec<Output>,
    /// Seconds since 1970: no timestamp in the image is younger.
    pub epoch: Option<i64>,
    /// Where results go to be found by others.
    pub cache_to: Vec<CacheTo>,
    /// The image tells where it comes from.
    pub provenance: Option<Provenance>,
    /// The image tells what is in it.
    pub sbom: Option<Sbom>,
    /// The manifest's digest is wanted, so layers are compressed even when nothing leaves the store.
    pub wants_manifest: bool,
}

/// What steps are allowed beyond the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// The host's network.
    pub network_host: bool,
    /// All capabilities and no filter.
    pub security_insecure: bool,
    /// Devices of the host's.
    pub devices: Grants,
}

impl Entitlements {
    /// Adds an entitlement by its name.
    ///
    /// # Errors
    /// The name, when there is no such entitlement.
    pub fn allow(&mut self, name: &str) -> Result<(), String> {
        match name {
            "network.host" => self.network_host = true,
            "security.insecure" => self.security_insecure = true,
            "device" => self.devices.all = true,
            _ => match name.strip_prefix("device=") {
                Some(device) => self.devices.add(device).map_err(|_| name.to_string())?,
                None => return Err(name.to_string()),
            },
        }
        Ok(())
    }

    /// Their names, as [`allow`](Self::allow) reads them.
    pub fn names(&self) -> Vec<String> {
        let named = [(self.network_host, "network.host"), (self.security_insecure, "security.insecure")];
        let named = named.into_iter().filter(|(is_given, _)| *is_given).map(|(_, name)| name.to_owned());
        named.chain(self.devices.written()).collect()
    }

    /// The first kind of entitlement of these that is not among those that may be had.
    pub fn beyond(&self, allowed: &Entitlements) -> Option<&'static str> {
        [
            (self.network_host && !allowed.network_host, "network.host"),
            (self.security_insecure && !allowed.security_insecure, "security.insecure"),
            (!self.devices.is_empty() && allowed.devices.is_empty(), "device"),
        ]
        .into_iter()
        .find_map(|(is_beyond, name)| is_beyond.then_some(name))
    }
}
