//! A graph as messages, byte for byte as Go clients write them.
//!
//! Fields in number order, map entries by key, and an empty `constraints` message on every op: a vertex is named by
//! these bytes, so an equal build has equal names whoever encoded it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prost::Message;

use super::pb;
use crate::graph::op::{
    ActionInput, ChownOpt, FileAction, FileActionKind, FileCopy, FileOp, Meta, Mount, MountKind, Network, RunOp,
    SecretMount, Security, Sharing, UserOpt,
};
use crate::graph::{
    ContentCache, Graph, Hints, LinuxResources, Op, Origin, OutputIndex, OutputRef, Platform, SourceInfo, VertexId,
};

/// Capabilities that follow from what is said about ops.
const CONSTRAINTS: &str = "constraints";
const PLATFORM: &str = "platform";
const IGNORE_CACHE: &str = "meta.ignorecache";
const DESCRIPTION: &str = "meta.description";
const EXPORT_CACHE: &str = "meta.exportcache";

/// The definition of one target of a graph.
///
/// Vertices that the target does not need are left out. A graph that was decoded from bytes no Go client would write
/// gets the digests of what is written here.
pub fn encode(graph: &Graph, target: OutputRef) -> pb::Definition {
    let mut needed = vec![false; graph.vertices().len()];
    if let Some(at) = graph.position(&target.vertex) {
        needed[at] = true;
    }
    for at in (0..needed.len()).rev() {
        if needed[at] {
            graph.inputs_of(at).iter().for_each(|input| needed[*input] = true);
        }
    }
    let mut definition = pb::Definition::default();
    let mut names: HashMap<VertexId, VertexId> = HashMap::new();
    let mut sources = Sources::default();
    let renamed = |names: &HashMap<VertexId, VertexId>, output: OutputRef| OutputRef {
        vertex: names.get(&output.vertex).copied().unwrap_or(output.vertex),
        ..output
    };
    for (vertex, _) in graph.vertices().iter().zip(needed).filter(|(_, needed)| *needed) {
        let inputs: Vec<OutputRef> = vertex.inputs.iter().map(|input| renamed(&names, input.from)).collect();
        let bytes = encode_op(&vertex.op, &inputs, vertex.platform.as_ref());
        let id = VertexId::of(&bytes);
        names.insert(vertex.id, id);
        definition.def.push(bytes);
        definition.metadata.insert(id.to_string(), metadata(&vertex.hints));
        if let Some(origin) = &vertex.origin {
            sources.add(id, origin);
        }
    }
    let terminal = pb::Op { inputs: vec![input(renamed(&names, target))], ..pb::Op::default() }.encode_to_vec();
    let caps = terminal_caps(&definition);
    definition
        .metadata
        .insert(VertexId::of(&terminal).to_string(), pb::OpMetadata { caps, ..pb::OpMetadata::default() });
    definition.def.push(terminal);
    definition.source = Some(sources.message);
    definition
}

/// The bytes of one op; their digest is the vertex's id.
pub fn encode_op(op: &Op, inputs: &[OutputRef], platform: Option<&Platform>) -> Vec<u8> {
    let kind = match op {
        Op::Source(source) => {
            pb::OpKind::Source(pb::SourceOp { identifier: source.identifier.clone(), attrs: entries(&source.attrs) })
        }
        Op::Run(run) => pb::OpKind::Exec(exec(run)),
        Op::File(file) => pb::OpKind::File(file_op(file, inputs.len())),
        Op::Merge(merge) => {
            pb::OpKind::Merge(pb::MergeOp { inputs: merge.inputs.iter().map(|index| input_index(*index)).collect() })
        }
        Op::Diff(diff) => {
            pb::OpKind::Diff(pb::DiffOp { lower: Some(input_index(diff.lower)), upper: Some(input_index(diff.upper)) })
        }
        Op::Build(build) => pb::OpKind::Build(pb::BuildOp {
            builder: -1,
            inputs: build
                .inputs
                .iter()
                .map(|(name, index)| pb::BuildInputEntry {
                    key: Some(name.clone()),
                    value: Some(input_index(Some(*index))),
                })
                .collect(),
            def: None,
            attrs: entries(&build.attrs),
        }),
        Op::Passthrough(passthrough) => pb::OpKind::Passthrough(pb::PassthroughOp {
            id: passthrough.id.clone(),
            outputs: passthrough.outputs.iter().map(|index| *index as i64).collect(),
        }),
    };
    let message = pb::Op {
        inputs: inputs.iter().copied().map(input).collect(),
        op: Some(kind),
        platform: platform.map(platform_message),
        constraints: Some(pb::WorkerConstraints::default()),
    };
    message.encode_to_vec()
}

fn input(from: OutputRef) -> pb::Input {
    pb::Input { digest: from.vertex.to_string(), index: i64::from(from.output.0) }
}

fn entries(map: &BTreeMap<String, String>) -> Vec<pb::AttrEntry> {
    map.iter().map(|(key, value)| pb::AttrEntry { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

fn index(index: Option<usize>) -> i64 {
    index.map_or(-1, |index| index as i64)
}

fn input_index(input: Option<usize>) -> pb::InputIndex {
    pb::InputIndex { input: index(input) }
}

fn output_index(output: Option<OutputIndex>) -> i64 {
    output.map_or(-1, |output| i64::from(output.0))
}

fn platform_message(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

fn exec(run: &RunOp) -> pb::ExecOp {
    let network = match run.network {
        Network::Sandbox => pb::NetMode::Unset,
        Network::Host => pb::NetMode::Host,
        Network::None => pb::NetMode::None,
    };
    let security = match run.security {
        Security::Sandbox => pb::SecurityMode::Sandbox,
        Security::Insecure => pb::SecurityMode::Insecure,
    };
    let secret = |env: &crate::graph::op::SecretEnv| pb::SecretEnv {
        id: env.id.clone(),
        name: env.name.clone(),
        optional: env.optional,
    };
    let device =
        |device: &crate::graph::op::CdiDevice| pb::CdiDevice { name: device.name.clone(), optional: device.optional };
    pb::ExecOp {
        meta: Some(meta(&run.meta)),
        mounts: run.mounts.iter().map(mount).collect(),
        network: network as i32,
        security: security as i32,
        secretenv: run.secret_env.iter().map(secret).collect(),
        cdi_devices: run.devices.iter().map(device).collect(),
    }
}

fn meta(meta: &Meta) -> pb::Meta {
    pb::Meta {
        args: meta.args.clone(),
        env: meta.env.clone(),
        cwd: meta.cwd.clone(),
        user: meta.user.clone(),
        proxy_env: meta.proxy_env.as_ref().map(|proxy| pb::ProxyEnv {
            http_proxy: proxy.http.clone(),
            https_proxy: proxy.https.clone(),
            ftp_proxy: proxy.ftp.clone(),
            no_proxy: proxy.no.clone(),
            all_proxy: proxy.all.clone(),
        }),
        extra_hosts: meta.extra_hosts.iter().map(|h| pb::HostIp { host: h.host.clone(), ip: h.ip.clone() }).collect(),
        hostname: meta.hostname.clone(),
        ulimit: meta.ulimits.iter().map(|u| pb::Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard }).collect(),
        cgroup_parent: meta.cgroup_parent.clone(),
        remove_mount_stubs_recursive: meta.remove_mount_stubs_recursive,
        valid_exit_codes: meta.valid_exit_codes.clone(),
    }
}

fn mount(mount: &Mount) -> pb::Mount {
    let content_cache = match mount.content_cache {
        ContentCache::Default => pb::MountContentCache::Default,
        ContentCache::On => pb::MountContentCache::On,
        ContentCache::Off => pb::MountContentCache::Off,
    };
    let mut message = pb::Mount {
        input: index(mount.input),
        selector: mount.selector.clone(),
        dest: mount.dest.clone(),
        output: match mount.kind {
            // Go's clients leave the field of these as it is.
            MountKind::Secret(_) | MountKind::Ssh(_) => 0,
            _ => output_index(mount.output),
        },
        readonly: mount.readonly,
        content_cache: content_cache as i32,
        ..pb::Mount::default()
    };
    let secret = |secret: &SecretMount| pb::SecretOpt {
        id: secret.id.clone(),
        uid: secret.uid,
        gid: secret.gid,
        mode: secret.mode,
        optional: secret.optional,
    };
    let kind = match &mount.kind {
        MountKind::Bind => pb::MountType::Bind,
        MountKind::Secret(options) => {
            message.secret_opt = Some(secret(options));
            pb::MountType::Secret
        }
        MountKind::Ssh(options) => {
            message.ssh_opt = Some(secret(options));
            pb::MountType::Ssh
        }
        MountKind::Cache { id, sharing } => {
            let sharing = match sharing {
                Sharing::Shared => pb::CacheSharing::Shared,
                Sharing::Private => pb::CacheSharing::Private,
                Sharing::Locked => pb::CacheSharing::Locked,
            };
            message.cache_opt = Some(pb::CacheOpt { id: id.clone(), sharing: sharing as i32 });
            pb::MountType::Cache
        }
        MountKind::Tmpfs { size } => {
            message.tmpfs_opt = Some(pb::TmpfsOpt { size: *size });
            pb::MountType::Tmpfs
        }
    };
    message.mount_type = kind as i32;
    message
}

fn file_op(file: &FileOp, inputs: usize) -> pb::FileOp {
    pb::FileOp { actions: file.actions.iter().map(|action| file_action(action, inputs)).collect() }
}

fn file_action(action: &FileAction, inputs: usize) -> pb::FileAction {
    let owner = |owner: &Option<ChownOpt>| owner.as_ref().map(|owner| chown(owner, inputs));
    let kind = match &action.kind {
        FileActionKind::Copy(copy) => pb::FileActionKind::Copy(file_copy(copy, owner(&copy.owner))),
        FileActionKind::MkFile { path, mode, data, owner: by, timestamp } => {
            pb::FileActionKind::MkFile(pb::FileActionMkFile {
                path: path.clone(),
                mode: *mode,
                data: data.clone(),
                owner: owner(by),
                timestamp: timestamp.unwrap_or(-1),
            })
        }
        FileActionKind::MkDir { path, mode, make_parents, owner: by, timestamp } => {
            pb::FileActionKind::MkDir(pb::FileActionMkDir {
                path: path.clone(),
                mode: *mode,
                make_parents: *make_parents,
                owner: owner(by),
                timestamp: timestamp.unwrap_or(-1),
            })
        }
        FileActionKind::Rm { path, allow_not_found, allow_wildcard } => pb::FileActionKind::Rm(pb::FileActionRm {
            path: path.clone(),
            allow_not_found: *allow_not_found,
            allow_wildcard: *allow_wildcard,
        }),
        FileActionKind::Symlink { oldpath, newpath, owner: by, timestamp } => {
            pb::FileActionKind::Symlink(pb::FileActionSymlink {
                oldpath: oldpath.clone(),
                newpath: newpath.clone(),
                owner: owner(by),
                timestamp: timestamp.unwrap_or(-1),
            })
        }
    };
    pb::FileAction {
        input: action_input(action.input, inputs),
        secondary_input: action_input(action.secondary, inputs),
        output: output_index(action.output),
        action: Some(kind),
    }
}

fn file_copy(copy: &FileCopy, owner: Option<pb::ChownOpt>) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: copy.src.clone(),
        dest: copy.dest.clone(),
        owner,
        mode: match copy.mode {
            // A symbolic mode is the only one.
            _ if !copy.mode_str.is_empty() => 0,
            Some(mode) => mode as i32,
            None => -1,
        },
        follow_symlink: copy.follow_symlink,
        dir_copy_contents: copy.dir_copy_contents,
        attempt_unpack_docker_compatibility: copy.attempt_unpack,
        create_dest_path: copy.create_dest_path,
        allow_wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        timestamp: copy.timestamp.unwrap_or(-1),
        include_patterns: copy.include.clone(),
        exclude_patterns: copy.exclude.clone(),
        always_replace_existing_dest_paths: copy.always_replace,
        mode_str: copy.mode_str.clone(),
        required_paths: copy.required_paths.clone(),
    }
}

/// Results of actions are numbered after the inputs.
fn action_input(input: ActionInput, inputs: usize) -> i64 {
    match input {
        ActionInput::Scratch => -1,
        ActionInput::Input(index) => index as i64,
        ActionInput::Action(number) => (inputs + number) as i64,
    }
}

fn chown(owner: &ChownOpt, inputs: usize) -> pb::ChownOpt {
    let user = |user: &UserOpt| pb::UserOpt {
        user: Some(match user {
            UserOpt::Id(id) => pb::UserKind::ById(*id),
            UserOpt::Name { name, input } => {
                pb::UserKind::ByName(pb::NamedUserOpt { name: name.clone(), input: action_input(*input, inputs) })
            }
        }),
    };
    pb::ChownOpt { user: owner.user.as_ref().map(user), group: owner.group.as_ref().map(user) }
}

fn metadata(hints: &Hints) -> pb::OpMetadata {
    pb::OpMetadata {
        ignore_cache: hints.ignore_cache,
        description: hints.description.clone(),
        export_cache: hints.export_cache.map(|value| pb::ExportCache { value }),
        caps: hints.caps.clone(),
        progress_group: hints.progress_group.as_ref().map(|group| pb::ProgressGroup {
            id: group.id.clone(),
            name: group.name.clone(),
            weak: group.weak,
        }),
        linux_resources: hints.resources.as_ref().map(resources),
    }
}

fn resources(limits: &LinuxResources) -> pb::LinuxResources {
    pb::LinuxResources {
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
    }
}

fn terminal_caps(definition: &pb::Definition) -> BTreeMap<String, bool> {
    let any = |says: fn(&pb::OpMetadata) -> bool| definition.metadata.values().any(says);
    [
        (CONSTRAINTS, true),
        (PLATFORM, true),
        (IGNORE_CACHE, any(|said| said.ignore_cache)),
        (DESCRIPTION, any(|said| !said.description.is_empty())),
        (EXPORT_CACHE, any(|said| said.export_cache.is_some())),
    ]
    .into_iter()
    .filter(|(_, needed)| *needed)
    .map(|(cap, _)| (cap.to_owned(), true))
    .collect()
}

/// The source map as it grows; each file appears once.
#[derive(Default)]
struct Sources {
    message: pb::Source,
    known: Vec<Arc<SourceInfo>>,
}

impl Sources {
    /// Adds where a vertex came from; an entry without a place would be none to clients, which do not expect that.
    fn add(&mut self, vertex: VertexId, origin: &Origin) {
        if origin.locations.is_empty() {
            return;
        }
        let position = |p: crate::graph::Position| Some(pb::Position { line: p.line, character: p.character });
        let mut locations = pb::Locations::default();
        for location in &origin.locations {
            let ranges = location.ranges.iter().map(|r| pb::Range { start: position(r.start), end: position(r.end) });
            locations
                .locations
                .push(pb::Location { source_index: self.index_of(&location.source), ranges: ranges.collect() });
        }
        self.message.locations.insert(vertex.to_string(), locations);
    }

    fn index_of(&mut self, file: &Arc<SourceInfo>) -> i32 {
        let same = |known: &Arc<SourceInfo>| Arc::ptr_eq(known, file) || known == file;
        let at = self.known.iter().position(same).unwrap_or_else(|| {
            self.known.push(file.clone());
            self.message.infos.push(pb::SourceInfo {
                filename: file.filename.clone(),
                data: file.data.clone(),
                definition: None,
                language: file.language.clone(),
            });
            self.known.len() - 1
        });
        at as i32
    }
}
