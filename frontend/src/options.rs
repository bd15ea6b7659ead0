//! What a build is asked for besides its Dockerfile.

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::graph::op::Ulimit;
use solver::graph::{Graph, LinuxResources, Platform};

pub use crate::ast::RunNetwork;
use crate::context::{Checkout, ContextInput, MainContext};

/// What a build is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stage to build; `None` is the last one.
    pub target: Option<String>,
    /// Look at every stage, also those that the target does not need; for checks.
    pub all_stages: bool,
    /// Say which files count for what is in an image ([`Target::scans`](crate::Target::scans)).
    pub scans: bool,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// Labels for the result.
    pub labels: Vec<(String, String)>,
    /// The platform of the machine that builds.
    pub build_platform: Platform,
    /// The platforms to build for, if any were asked for; otherwise that of the machine.
    pub platforms: Vec<Platform>,
    /// Names say the platform, though there may be only one.
    pub multi_platform: bool,
    /// Take nothing from caches.
    pub no_cache: bool,
    /// Take nothing from caches for these stages.
    pub no_cache_filter: Vec<String>,
    /// Seconds since 1970 for all times that are written; the build argument of this name does the same.
    pub source_date_epoch: Option<i64>,
    /// What of the context stays outside, see [`dockerignore`](crate::dockerignore).
    pub ignore_patterns: Vec<String>,
    /// The name of the local source that is the build context.
    pub context_name: String,
    /// Where the build context is.
    pub context: MainContext,
    /// The directory of a context that is not the client's; empty is all of it. The Dockerfile is not looked for in it.
    pub context_subdir: String,
    /// Named contexts: `name` or `name::platform`, and `docker-image://…`, `local:…`, `oci-layout://…`, `input:…`, or
    /// the address of a repository or a file.
    pub contexts: BTreeMap<String, String>,
    /// What came with the build, for contexts that are `input:…`.
    pub inputs: BTreeMap<String, ContextInput>,
    /// The shell of shell forms where neither image nor Dockerfile sets one.
    pub shell: Vec<String>,
    /// Host name of processes; `None` is the builder's default.
    pub hostname: Option<String>,
    /// Host names with their addresses.
    pub extra_hosts: Vec<(String, String)>,
    /// The network of processes.
    pub network: RunNetwork,
    /// Limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Limits of processes together with all that they start; not part of what a step is.
    pub resources: LinuxResources,
    /// The control group that those of processes are below; empty is the builder's own.
    pub cgroup_parent: String,
    /// Bytes of `/dev/shm`; 0 is the default.
    pub shm_size: i64,
    /// Sessions of directories that are not those of whoever asks for the build, by the directory's name.
    pub local_sessions: BTreeMap<String, String>,
    /// `image.resolvemode` of image sources: `pull`, `local`; `None` is the default.
    pub image_resolve_mode: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            target: None,
            all_stages: false,
            scans: false,
            build_args: BTreeMap::new(),
            labels: Vec::new(),
            build_platform: Platform::host(),
            platforms: Vec::new(),
            multi_platform: false,
            no_cache: false,
            no_cache_filter: Vec::new(),
            source_date_epoch: None,
            ignore_patterns: Vec::new(),
            context_name: "context".into(),
            context: MainContext::default(),
            context_subdir: String::new(),
            contexts: BTreeMap::new(),
            inputs: BTreeMap::new(),
            shell: vec!["/bin/sh".into(), "-c".into()],
            hostname: None,
            extra_hosts: Vec::new(),
            network: RunNetwork::Default,
            ulimits: Vec::new(),
            resources: LinuxResources::default(),
            cgroup_parent: String::new(),
            shm_size: 0,
            local_sessions: BTreeMap::new(),
            image_resolve_mode: None,
        }
    }
}

impl Options {
    /// The platform to build for, the first one of several.
    pub(crate) fn platform(&self) -> &Platform {
        self.platforms.first().unwrap_or(&self.build_platform)
    }

    /// The graph of a remote build context, for whoever must read the Dockerfile in it; `None` is no remote one.
    pub fn context_graph(&self) -> Option<Arc<Graph>> {
        match &self.context {
            MainContext::Input(name) => self.inputs.get(name).map(|input| Arc::clone(&input.graph)),
            remote => remote.graph(self.checkout()).map(Arc::new),
        }
    }

    /// How a build context that is a repository is checked out.
    pub(crate) fn checkout(&self) -> Checkout {
        let given = self.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        Checkout {
            keep_git_dir: given
                .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")),
            mtime_of_commit: self.build_args.get("SOURCE_DATE_EPOCH").is_some_and(|value| !value.is_empty()),
        }
    }

    /// The same build for each platform alone.
    pub(crate) fn for_each_platform(&self) -> Vec<Options> {
        if self.platforms.len() < 2 {
            return vec![self.clone()];
        }
        let only =
            |platform: &Platform| Options { platforms: vec![platform.clone()], multi_platform: true, ..self.clone() };
        self.platforms.iter().map(only).collect()
    }

    /// The variables that every build has without declaring them; build arguments are stronger. Of a file whose last
    /// stage has a name, that is the stage to build if no other is wanted.
    pub(crate) fn automatic(&self, last_stage: Option<&str>) -> Vec<(String, String)> {
        let mut variables = Vec::new();
        for (side, platform) in [("BUILD", &self.build_platform), ("TARGET", self.platform())] {
            variables.push((format!("{side}PLATFORM"), platform.to_string()));
            variables.push((format!("{side}OS"), platform.os.clone()));
            variables.push((format!("{side}OSVERSION"), platform.os_version.clone()));
            variables.push((format!("{side}ARCH"), platform.architecture.clone()));
            variables.push((format!("{side}VARIANT"), platform.variant.clone()));
        }
        let stage = self.target.as_deref().filter(|stage| !stage.is_empty()).or(last_stage).unwrap_or("default");
        variables.push(("TARGETSTAGE".into(), stage.into()));
        for (name, value) in &mut variables {
            if let Some(given) = self.build_args.get(name) {
                value.clone_from(given);
            }
        }
        variables
    }
}
