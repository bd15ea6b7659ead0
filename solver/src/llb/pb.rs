//! The messages of LLB, field for field as they are on the wire.
//!
//! They say nothing about what is valid: `decode` does. Maps inside an op are lists of entries here, because
//! a vertex is named by the bytes of its op: Go writes the key and the value of every entry, prost leaves out empty ones.
//! Serialisation is for people to read, see `json`.
//!
//! <https://github.com/moby/buildkit/blob/v0.29.0/solver/pb/ops.proto>

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};
use serde::Serialize;

use super::json::{bytes, ops};

/// A whole build: ops, what is said about them, where they came from.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Definition {
    /// Encoded [`Op`]s, inputs before users; the last only names the result.
    #[prost(bytes = "vec", repeated, tag = "1")]
    #[serde(serialize_with = "ops")]
    pub def: Vec<Vec<u8>>,
    /// By digest of the op.
    #[prost(btree_map = "string, message", tag = "2")]
    pub metadata: BTreeMap<String, OpMetadata>,
    /// The source map.
    #[prost(message, optional, tag = "3")]
    pub source: Option<Source>,
}

/// One vertex, or, without `op`, the name of the result.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Op {
    /// Outputs of other ops.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<Input>,
    /// What it does.
    #[prost(oneof = "OpKind", tags = "2, 3, 4, 5, 6, 7, 8")]
    #[serde(flatten)]
    pub op: Option<OpKind>,
    /// For which platform.
    #[prost(message, optional, tag = "10")]
    pub platform: Option<Platform>,
    /// On which workers. There is one, and BuildKit does not look at it either.
    #[prost(message, optional, tag = "11")]
    pub constraints: Option<WorkerConstraints>,
}

/// What an op does.
#[derive(Clone, PartialEq, Oneof, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(clippy::large_enum_variant)] // lives as long as one op is decoded
pub enum OpKind {
    /// Runs a process.
    #[prost(message, tag = "2")]
    Exec(ExecOp),
    /// Makes a tree from outside.
    #[prost(message, tag = "3")]
    Source(SourceOp),
    /// Changes files.
    #[prost(message, tag = "4")]
    File(FileOp),
    /// Solves a definition in a file.
    #[prost(message, tag = "5")]
    Build(BuildOp),
    /// Stacks trees.
    #[prost(message, tag = "6")]
    Merge(MergeOp),
    /// What changed between two trees.
    #[prost(message, tag = "7")]
    Diff(DiffOp),
    /// Hands its inputs on.
    #[prost(message, tag = "8")]
    Passthrough(PassthroughOp),
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_attr:meta])* $field:ident: $type:ty,)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message, Serialize)]
        pub struct $name { $(#[allow(missing_docs)] $(#[$field_attr])* pub $field: $type,)* }
    )* };
}

// The fields' meaning is in `crate::graph::op`, where the same names carry docs.
messages! {
    /// An output of another op.
    Input {
        #[prost(string, tag = "1")] digest: String,
        #[prost(int64, tag = "2")] index: i64,
    }
    /// As in the image specification.
    Platform {
        #[prost(string, tag = "1")] architecture: String,
        #[prost(string, tag = "2")] os: String,
        #[prost(string, tag = "3")] variant: String,
        #[prost(string, tag = "4")] os_version: String,
        #[prost(string, repeated, tag = "5")] os_features: Vec<String>,
    }
    /// Filters over a worker's labels.
    WorkerConstraints {
        #[prost(string, repeated, tag = "1")] filter: Vec<String>,
    }
    /// What is said about an op.
    OpMetadata {
        #[prost(bool, tag = "1")] ignore_cache: bool,
        #[prost(btree_map = "string, string", tag = "2")] description: BTreeMap<String, String>,
        #[prost(message, optional, tag = "4")] export_cache: Option<ExportCache>,
        #[prost(btree_map = "string, bool", tag = "5")] caps: BTreeMap<String, bool>,
        #[prost(message, optional, tag = "6")] progress_group: Option<ProgressGroup>,
        #[prost(message, optional, tag = "7")] linux_resources: Option<LinuxResources>,
    }
    /// Whether exported caches contain it.
    ExportCache {
        #[prost(bool, tag = "1")] value: bool,
    }
    /// Vertices shown as one.
    ProgressGroup {
        #[prost(string, tag = "1")] id: String,
        #[prost(string, tag = "2")] name: String,
        #[prost(bool, tag = "3")] weak: bool,
    }
    /// Limits of a control group.
    LinuxResources {
        #[prost(int64, tag = "1")] memory: i64,
        #[prost(int64, tag = "2")] memory_swap: i64,
        #[prost(uint64, tag = "3")] cpu_shares: u64,
        #[prost(uint64, tag = "4")] cpu_period: u64,
        #[prost(int64, tag = "5")] cpu_quota: i64,
        #[prost(string, tag = "6")] cpuset_cpus: String,
        #[prost(string, tag = "7")] cpuset_mems: String,
    }
    /// The source map.
    Source {
        #[prost(btree_map = "string, message", tag = "1")] locations: BTreeMap<String, Locations>,
        #[prost(message, repeated, tag = "2")] infos: Vec<SourceInfo>,
    }
    /// Where an op came from.
    Locations {
        #[prost(message, repeated, tag = "1")] locations: Vec<Location>,
    }
    /// Ranges of one source file.
    Location {
        #[prost(int32, tag = "1")] source_index: i32,
        #[prost(message, repeated, tag = "2")] ranges: Vec<Range>,
    }
    /// A source file.
    SourceInfo {
        #[prost(string, tag = "1")] filename: String,
        #[prost(bytes = "vec", tag = "2")] #[serde(serialize_with = "bytes")] data: Vec<u8>,
        // How the file is made: for those who look at a graph, not for those who solve it.
        #[prost(message, optional, tag = "3")] definition: Option<Definition>,
        #[prost(string, tag = "4")] language: String,
    }
    /// From start to end.
    Range {
        #[prost(message, optional, tag = "1")] start: Option<Position>,
        #[prost(message, optional, tag = "2")] end: Option<Position>,
    }
    /// A place in a text.
    Position {
        #[prost(int32, tag = "1")] line: i32,
        #[prost(int32, tag = "2")] character: i32,
    }
    /// Runs a process.
    ExecOp {
        #[prost(message, optional, tag = "1")] meta: Option<Meta>,
        #[prost(message, repeated, tag = "2")] mounts: Vec<Mount>,
        #[prost(enumeration = "NetMode", tag = "3")] network: i32,
        #[prost(enumeration = "SecurityMode", tag = "4")] security: i32,
        #[prost(message, repeated, tag = "5")] secretenv: Vec<SecretEnv>,
        #[prost(message, repeated, tag = "6")] cdi_devices: Vec<CdiDevice>,
    }
    /// Process settings.
    Meta {
        #[prost(string, repeated, tag = "1")] args: Vec<String>,
        #[prost(string, repeated, tag = "2")] env: Vec<String>,
        #[prost(string, tag = "3")] cwd: String,
        #[prost(string, tag = "4")] user: String,
        #[prost(message, optional, tag = "5")] proxy_env: Option<ProxyEnv>,
        #[prost(message, repeated, tag = "6")] extra_hosts: Vec<HostIp>,
        #[prost(string, tag = "7")] hostname: String,
        #[prost(message, repeated, tag = "9")] ulimit: Vec<Ulimit>,
        #[prost(string, tag = "10")] cgroup_parent: String,
        #[prost(bool, tag = "11")] remove_mount_stubs_recursive: bool,
        #[prost(int32, repeated, tag = "12")] valid_exit_codes: Vec<i32>,
    }
    /// One line of `/etc/hosts`.
    HostIp {
        #[prost(string, tag = "1")] host: String,
        #[prost(string, tag = "2")] ip: String,
    }
    /// A resource limit.
    Ulimit {
        #[prost(string, tag = "1")] name: String,
        #[prost(int64, tag = "2")] soft: i64,
        #[prost(int64, tag = "3")] hard: i64,
    }
    /// Proxy variables.
    ProxyEnv {
        #[prost(string, tag = "1")] http_proxy: String,
        #[prost(string, tag = "2")] https_proxy: String,
        #[prost(string, tag = "3")] ftp_proxy: String,
        #[prost(string, tag = "4")] no_proxy: String,
        #[prost(string, tag = "5")] all_proxy: String,
    }
    /// A secret in the environment.
    SecretEnv {
        #[prost(string, tag = "1")] id: String,
        #[prost(string, tag = "2")] name: String,
        #[prost(bool, tag = "3")] optional: bool,
    }
    /// A device.
    CdiDevice {
        #[prost(string, tag = "1")] name: String,
        #[prost(bool, tag = "2")] optional: bool,
    }
    /// One mount.
    Mount {
        #[prost(int64, tag = "1")] input: i64,
        #[prost(string, tag = "2")] selector: String,
        #[prost(string, tag = "3")] dest: String,
        #[prost(int64, tag = "4")] output: i64,
        #[prost(bool, tag = "5")] readonly: bool,
        #[prost(enumeration = "MountType", tag = "6")] mount_type: i32,
        #[prost(message, optional, tag = "19")] tmpfs_opt: Option<TmpfsOpt>,
        #[prost(message, optional, tag = "20")] cache_opt: Option<CacheOpt>,
        #[prost(message, optional, tag = "21")] secret_opt: Option<SecretOpt>,
        #[prost(message, optional, tag = "22")] ssh_opt: Option<SecretOpt>,
        // Of containers that frontends open, which there are none of here.
        #[prost(string, tag = "23")] result_id: String,
        #[prost(enumeration = "MountContentCache", tag = "24")] content_cache: i32,
    }
    /// Options of a tmpfs mount.
    TmpfsOpt {
        #[prost(int64, tag = "1")] size: i64,
    }
    /// Options of a cache mount.
    CacheOpt {
        #[prost(string, tag = "1")] id: String,
        #[prost(enumeration = "CacheSharing", tag = "2")] sharing: i32,
    }
    /// Options of a secret or ssh mount.
    SecretOpt {
        #[prost(string, tag = "1")] id: String,
        #[prost(uint32, tag = "2")] uid: u32,
        #[prost(uint32, tag = "3")] gid: u32,
        #[prost(uint32, tag = "4")] mode: u32,
        #[prost(bool, tag = "5")] optional: bool,
    }
    /// A list of file actions.
    FileOp {
        #[prost(message, repeated, tag = "2")] actions: Vec<FileAction>,
    }
    /// One file action.
    FileAction {
        #[prost(int64, tag = "1")] input: i64,
        #[prost(int64, tag = "2")] secondary_input: i64,
        #[prost(int64, tag = "3")] output: i64,
        #[prost(oneof = "FileActionKind", tags = "4, 5, 6, 7, 8")] #[serde(flatten)] action: Option<FileActionKind>,
    }
    /// Copies.
    FileActionCopy {
        #[prost(string, tag = "1")] src: String,
        #[prost(string, tag = "2")] dest: String,
        #[prost(message, optional, tag = "3")] owner: Option<ChownOpt>,
        #[prost(int32, tag = "4")] mode: i32,
        #[prost(bool, tag = "5")] follow_symlink: bool,
        #[prost(bool, tag = "6")] dir_copy_contents: bool,
        #[prost(bool, tag = "7")] attempt_unpack_docker_compatibility: bool,
        #[prost(bool, tag = "8")] create_dest_path: bool,
        #[prost(bool, tag = "9")] allow_wildcard: bool,
        #[prost(bool, tag = "10")] allow_empty_wildcard: bool,
        #[prost(int64, tag = "11")] timestamp: i64,
        #[prost(string, repeated, tag = "12")] include_patterns: Vec<String>,
        #[prost(string, repeated, tag = "13")] exclude_patterns: Vec<String>,
        #[prost(bool, tag = "14")] always_replace_existing_dest_paths: bool,
        #[prost(string, tag = "15")] mode_str: String,
        #[prost(string, repeated, tag = "16")] required_paths: Vec<String>,
    }
    /// Writes a file.
    FileActionMkFile {
        #[prost(string, tag = "1")] path: String,
        #[prost(int32, tag = "2")] mode: i32,
        #[prost(bytes = "vec", tag = "3")] #[serde(serialize_with = "bytes")] data: Vec<u8>,
        #[prost(message, optional, tag = "4")] owner: Option<ChownOpt>,
        #[prost(int64, tag = "5")] timestamp: i64,
    }
    /// Makes a directory.
    FileActionMkDir {
        #[prost(string, tag = "1")] path: String,
        #[prost(int32, tag = "2")] mode: i32,
        #[prost(bool, tag = "3")] make_parents: bool,
        #[prost(message, optional, tag = "4")] owner: Option<ChownOpt>,
        #[prost(int64, tag = "5")] timestamp: i64,
    }
    /// Removes.
    FileActionRm {
        #[prost(string, tag = "1")] path: String,
        #[prost(bool, tag = "2")] allow_not_found: bool,
        #[prost(bool, tag = "3")] allow_wildcard: bool,
    }
    /// Makes a symbolic link.
    FileActionSymlink {
        #[prost(string, tag = "1")] oldpath: String,
        #[prost(string, tag = "2")] newpath: String,
        #[prost(message, optional, tag = "3")] owner: Option<ChownOpt>,
        #[prost(int64, tag = "4")] timestamp: i64,
    }
    /// Owner and group.
    ChownOpt {
        #[prost(message, optional, tag = "1")] user: Option<UserOpt>,
        #[prost(message, optional, tag = "2")] group: Option<UserOpt>,
    }
    /// A user or group.
    UserOpt {
        #[prost(oneof = "UserKind", tags = "1, 2")] #[serde(flatten)] user: Option<UserKind>,
    }
    /// A user by name.
    NamedUserOpt {
        #[prost(string, tag = "1")] name: String,
        #[prost(int64, tag = "2")] input: i64,
    }
    /// A source.
    SourceOp {
        #[prost(string, tag = "1")] identifier: String,
        #[prost(message, repeated, tag = "2")] attrs: Vec<AttrEntry>,
    }
    /// One entry of a map from text to text.
    AttrEntry {
        #[prost(string, optional, tag = "1")] key: Option<String>,
        #[prost(string, optional, tag = "2")] value: Option<String>,
    }
    /// Stacks trees.
    MergeOp {
        #[prost(message, repeated, tag = "1")] inputs: Vec<InputIndex>,
    }
    /// An index into an op's inputs, or -1.
    InputIndex {
        #[prost(int64, tag = "1")] input: i64,
    }
    /// What changed between two trees.
    DiffOp {
        #[prost(message, optional, tag = "1")] lower: Option<InputIndex>,
        #[prost(message, optional, tag = "2")] upper: Option<InputIndex>,
    }
    /// Solves a definition in a file of its input.
    BuildOp {
        #[prost(int64, tag = "1")] builder: i64,
        #[prost(message, repeated, tag = "2")] inputs: Vec<BuildInputEntry>,
        #[prost(message, optional, tag = "3")] def: Option<Definition>,
        #[prost(message, repeated, tag = "4")] attrs: Vec<AttrEntry>,
    }
    /// One entry of a map from name to input.
    BuildInputEntry {
        #[prost(string, optional, tag = "1")] key: Option<String>,
        #[prost(message, optional, tag = "2")] value: Option<InputIndex>,
    }
    /// Hands its inputs on.
    PassthroughOp {
        #[prost(string, tag = "1")] id: String,
        #[prost(int64, repeated, tag = "2")] outputs: Vec<i64>,
    }
}

/// What a file action does.
#[derive(Clone, PartialEq, Oneof, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileActionKind {
    /// Copies.
    #[prost(message, tag = "4")]
    Copy(FileActionCopy),
    /// Writes a file.
    #[prost(message, tag = "5")]
    MkFile(FileActionMkFile),
    /// Makes a directory.
    #[prost(message, tag = "6")]
    MkDir(FileActionMkDir),
    /// Removes.
    #[prost(message, tag = "7")]
    Rm(FileActionRm),
    /// Makes a symbolic link.
    #[prost(message, tag = "8")]
    Symlink(FileActionSymlink),
}

/// A user by name or by number.
#[derive(Clone, PartialEq, Oneof, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum UserKind {
    /// By name.
    #[prost(message, tag = "1")]
    ByName(NamedUserOpt),
    /// By number.
    #[prost(uint32, tag = "2")]
    ById(u32),
}

/// Which network a process sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum NetMode {
    /// The builder's default.
    Unset = 0,
    /// The host's.
    Host = 1,
    /// Loopback only.
    None = 2,
}

/// Whether a process is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum SecurityMode {
    /// It is.
    Sandbox = 0,
    /// It is not.
    Insecure = 1,
}

/// What is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum MountType {
    /// A tree.
    Bind = 0,
    /// A secret.
    Secret = 1,
    /// An agent's socket.
    Ssh = 2,
    /// A directory that outlives the build.
    Cache = 3,
    /// Memory.
    Tmpfs = 4,
}

/// How users of a cache mount share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum CacheSharing {
    /// All at once.
    Shared = 0,
    /// Each its own.
    Private = 1,
    /// One at a time.
    Locked = 2,
}

/// Whether a mount's input counts by content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum MountContentCache {
    /// By the rules of the op.
    Default = 0,
    /// Always.
    On = 1,
    /// Never.
    Off = 2,
}
