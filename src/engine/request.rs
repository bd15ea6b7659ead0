//! What a build is asked to do: plain data that every edge makes.

use std::collections::BTreeMap;

use solver::graph::op::{Network, Ulimit};
use solver::graph::Platform;

use super::remote::Ask;
use crate::export::Output;

/// One build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The Dockerfile.
    pub dockerfile: Dockerfile,
    /// Names of the image, normalised (`docker.io/library/app:1.0`).
    pub names: Vec<String>,
    /// The stage to build; `None` is the last one.
    pub target: Option<String>,
    /// Values of ARGs.
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: Vec<(String, String)>,
    /// What the result becomes besides an image in the store.
    pub outputs: Vec<Output>,
    /// Which steps run anew.
    pub no_cache: NoCache,
    /// Platform of the image; `None` is the host's.
    pub platform: Option<Platform>,
    /// Network of steps that do not choose one.
    pub network: Network,
    /// Additional lines of `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// Limits of steps.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`; 0 is the default.
    pub shm_size: i64,
    /// What the Dockerfile may ask for.
    pub entitlements: Entitlements,
    /// Seconds since 1970: no timestamp in the image is younger.
    pub source_date_epoch: Option<i64>,
    /// Who is asked first for base images.
    pub ask: Ask,
    /// The manifest's digest is wanted, so layers are compressed even when nothing leaves the store.
    pub wants_manifest: bool,
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dockerfile {
    /// A file of the client's directory `dockerfile`, and the name shown to the user.
    File(String),
    /// Its text.
    Text(Vec<u8>),
}

/// Which steps run anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None: what is cached is used.
    #[default]
    Nothing,
    /// All of them.
    Everything,
    /// Those of these stages.
    Stages(Vec<String>),
}

/// What steps are allowed beyond the sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// The host's network.
    pub network_host: bool,
    /// All capabilities and no filter.
    pub security_insecure: bool,
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
            _ => return Err(name.to_string()),
        }
        Ok(())
    }
}
