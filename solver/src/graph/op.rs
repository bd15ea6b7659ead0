//! What a vertex does: the ops of LLB as validated data.
//!
//! Field for field the messages of BuildKit's `solver/pb/ops.proto`, with sentinels turned into types: `-1` becomes
//! `None`, open enums become closed ones.

use std::collections::BTreeMap;

use super::OutputIndex;

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::large_enum_variant)] // most vertices are of the large kinds
pub enum Op {
    /// Makes a tree out of nothing: an image, a local context, a git checkout, a download.
    Source(SourceOp),
    /// Runs a process.
    Run(RunOp),
    /// Copies, makes and removes files.
    File(FileOp),
    /// Stacks its inputs, later ones on top.
    Merge(MergeOp),
    /// What changed from one tree to another.
    Diff(DiffOp),
    /// Solves a definition found in a file of its input.
    Build(BuildOp),
    /// Hands its inputs on unchanged, under an identity of its own.
    Passthrough(PassthroughOp),
}

impl Op {
    /// How many outputs it has.
    pub fn outputs(&self) -> usize {
        match self {
            Op::Run(run) => run.mounts.iter().filter(|mount| mount.output.is_some()).count(),
            Op::File(file) => file.actions.iter().filter(|action| action.output.is_some()).count(),
            Op::Passthrough(passthrough) => passthrough.outputs.len(),
            Op::Source(_) | Op::Merge(_) | Op::Diff(_) | Op::Build(_) => 1,
        }
    }
}

/// A source, named by scheme and reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceOp {
    /// `docker-image://…`, `local://…`, `git://…`, `http(s)://…`, `oci-layout://…`.
    pub identifier: String,
    /// Options by LLB attribute name; unknown ones are carried along.
    pub attrs: BTreeMap<String, String>,
}

impl SourceOp {
    /// The part of the identifier before `://`, or the empty string.
    pub fn scheme(&self) -> &str {
        self.identifier.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// The part of the identifier after `://`.
    pub fn reference(&self) -> &str {
        self.identifier.split_once("://").map_or(&self.identifier, |(_, reference)| reference)
    }
}

/// A process with its mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RunOp {
    /// What to run. In a box, as most vertices run nothing and graphs have many.
    pub meta: Box<Meta>,
    /// At least one, with destination `/`.
    pub mounts: Vec<Mount>,
    /// Which network it sees.
    pub network: Network,
    /// Whether it is confined.
    pub security: Security,
    /// Secrets put in the environment; never part of a key.
    pub secret_env: Vec<SecretEnv>,
    /// CDI devices.
    pub devices: Vec<CdiDevice>,
}

/// Process settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Command and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, made when absent; empty means `/`.
    pub cwd: String,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty means root.
    pub user: String,
    /// Proxy variables, added to the environment and not part of the key.
    pub proxy_env: Option<ProxyEnv>,
    /// Additions to `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// Host name; empty means the default.
    pub hostname: String,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// The control group that the step's own is made in, see `--cgroup-parent`; empty is the builder's.
    pub cgroup_parent: String,
    /// Remove not only mount points that were made and are still empty, but also the directories made above them.
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that count as success; empty means only 0.
    pub valid_exit_codes: Vec<i32>,
}

/// One line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostIp {
    /// Host name.
    pub host: String,
    /// Address, or a name like `host-gateway`.
    pub ip: String,
}

/// A resource limit, see setrlimit(2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ulimit {
    /// `nofile`, `nproc` …
    pub name: String,
    /// Soft limit.
    pub soft: i64,
    /// Hard limit.
    pub hard: i64,
}

/// Values of the proxy variables; empty ones are not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProxyEnv {
    /// `http_proxy`.
    pub http: String,
    /// `https_proxy`.
    pub https: String,
    /// `ftp_proxy`.
    pub ftp: String,
    /// `no_proxy`.
    pub no: String,
    /// `all_proxy`.
    pub all: String,
}

/// A secret in the environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretEnv {
    /// Which secret.
    pub id: String,
    /// Variable name.
    pub name: String,
    /// Absence is no error.
    pub optional: bool,
}

/// A device by its CDI name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CdiDevice {
    /// `vendor/class=name`.
    pub name: String,
    /// Absence is no error.
    pub optional: bool,
}

/// Which network a process sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// The builder's default.
    #[default]
    Sandbox,
    /// The host's; needs an entitlement.
    Host,
    /// Only a loopback interface.
    None,
}

/// Whether a process is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// Confined.
    #[default]
    Sandbox,
    /// All capabilities, no filter; needs an entitlement.
    Insecure,
}

/// One mount of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mount {
    /// Index into the vertex's inputs; `None` is an empty tree.
    pub input: Option<usize>,
    /// The part of the input to mount; empty means all.
    pub selector: String,
    /// Where; relative paths are joined to the working directory.
    pub dest: String,
    /// The output that keeps what the process left here.
    pub output: Option<OutputIndex>,
    /// The process cannot write.
    pub readonly: bool,
    /// What is mounted.
    pub kind: MountKind,
    /// Whether the input counts by content.
    pub content_cache: ContentCache,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// A tree.
    Bind,
    /// A secret's value as a file.
    Secret(SecretMount),
    /// A socket to the client's ssh agent.
    Ssh(SecretMount),
    /// A directory that outlives the build.
    Cache {
        /// Which one.
        id: String,
        /// How concurrent users share it.
        sharing: Sharing,
    },
    /// Memory.
    Tmpfs {
        /// Limit in bytes; 0 is none.
        size: i64,
    },
}

/// Options of a secret or ssh mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SecretMount {
    /// Which secret or agent.
    pub id: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Absence is no error.
    pub optional: bool,
}

/// How concurrent users share a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each writer has one of its own.
    Private,
    /// One at a time.
    Locked,
}

/// Whether a mount's input counts by content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ContentCache {
    /// By the rules of the op.
    #[default]
    Default,
    /// Always; an error where it cannot.
    On,
    /// Never.
    Off,
}

/// A list of file actions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileOp {
    /// At least one; each may use results of earlier ones.
    pub actions: Vec<FileAction>,
}

/// One file action.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileAction {
    /// The tree it changes.
    pub input: ActionInput,
    /// The tree a copy reads.
    pub secondary: ActionInput,
    /// The output that keeps the result; `None` is an intermediate result.
    pub output: Option<OutputIndex>,
    /// What it does.
    pub kind: FileActionKind,
}

/// Where a file action takes a tree from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionInput {
    /// The empty tree.
    Scratch,
    /// An input of the vertex.
    Input(usize),
    /// The result of an earlier action.
    Action(usize),
}

/// What a file action does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FileActionKind {
    /// Copies from the secondary tree.
    Copy(FileCopy),
    /// Writes a file.
    MkFile {
        /// Where.
        path: String,
        /// Permission bits of a new file.
        mode: i32,
        /// Content.
        data: Vec<u8>,
        /// Owner; `None` is root.
        owner: Option<ChownOpt>,
        /// Modification time in nanoseconds since 1970; `None` is now.
        timestamp: Option<i64>,
    },
    /// Makes a directory.
    MkDir {
        /// Where.
        path: String,
        /// Permission bits of every directory made.
        mode: i32,
        /// Make missing parents too.
        make_parents: bool,
        /// Owner; `None` is root.
        owner: Option<ChownOpt>,
        /// Modification time in nanoseconds since 1970; `None` is now.
        timestamp: Option<i64>,
    },
    /// Removes a path and all below it.
    Rm {
        /// What.
        path: String,
        /// Absence is no error.
        allow_not_found: bool,
        /// `path` is a pattern.
        allow_wildcard: bool,
    },
    /// Makes a symbolic link.
    Symlink {
        /// The link's text.
        oldpath: String,
        /// Where the link is.
        newpath: String,
        /// Owner; `None` is root.
        owner: Option<ChownOpt>,
        /// Modification time in nanoseconds since 1970; `None` is now.
        timestamp: Option<i64>,
    },
}

impl FileActionKind {
    /// The modification time that it gives to what it makes, in nanoseconds since 1970, if it says one.
    pub fn timestamp(&self) -> Option<i64> {
        match self {
            FileActionKind::Copy(copy) => copy.timestamp,
            FileActionKind::MkFile { timestamp, .. }
            | FileActionKind::MkDir { timestamp, .. }
            | FileActionKind::Symlink { timestamp, .. } => *timestamp,
            FileActionKind::Rm { .. } => None,
        }
    }
}

/// Options of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileCopy {
    /// Path in the secondary tree.
    pub src: String,
    /// Path in the primary tree; a trailing slash means a directory.
    pub dest: String,
    /// Owner of all that is copied; `None` keeps the source's.
    pub owner: Option<ChownOpt>,
    /// Mode of all that is copied; `None` keeps the source's.
    pub mode: Option<u32>,
    /// Symbolic mode (`u=rwX,go=rX`), stronger than `mode` when not empty.
    pub mode_str: String,
    /// Follow a symbolic link that is the source itself.
    pub follow_symlink: bool,
    /// Copy what is in a directory, not the directory.
    pub dir_copy_contents: bool,
    /// Extract a source that is an archive.
    pub attempt_unpack: bool,
    /// Make the destination's parents.
    pub create_dest_path: bool,
    /// `src` is a pattern.
    pub allow_wildcard: bool,
    /// A pattern that matches nothing is no error.
    pub allow_empty_wildcard: bool,
    /// Modification time in nanoseconds since 1970; `None` keeps the source's.
    pub timestamp: Option<i64>,
    /// Copy only what matches one of these, relative to `src`.
    pub include: Vec<String>,
    /// Do not copy what matches one of these.
    pub exclude: Vec<String>,
    /// Replace what is in the way, whatever its type.
    pub always_replace: bool,
    /// Each must match something.
    pub required_paths: Vec<String>,
}

/// Owner and group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChownOpt {
    /// Owner; `None` is root.
    pub user: Option<UserOpt>,
    /// Group; `None` is the user's.
    pub group: Option<UserOpt>,
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UserOpt {
    /// By number.
    Id(u32),
    /// By name, looked up in the tree's `/etc/passwd` and `/etc/group`; unknown names are 0.
    Name {
        /// The name.
        name: String,
        /// In which tree.
        input: ActionInput,
    },
}

/// Which inputs are stacked, bottom first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MergeOp {
    /// Indexes into the vertex's inputs; `None` is the empty tree.
    pub inputs: Vec<Option<usize>>,
}

/// Between which inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DiffOp {
    /// `None` is the empty tree.
    pub lower: Option<usize>,
    /// `None` is the empty tree.
    pub upper: Option<usize>,
}

/// A definition inside an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BuildOp {
    /// By name; `buildkit.llb.definition` holds the definition.
    pub inputs: BTreeMap<String, usize>,
    /// Options by LLB attribute name.
    pub attrs: BTreeMap<String, String>,
}

/// Inputs handed on unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PassthroughOp {
    /// Its identity; never empty.
    pub id: String,
    /// For each output the index of the input it hands on.
    pub outputs: Vec<usize>,
}
