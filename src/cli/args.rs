//! The command line: what can be typed.
//!
//! `rbuild [OPTIONS] PATH` equals `rbuild build [OPTIONS] PATH`; options are named as in `docker buildx build`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use super::switches;

/// Builds container images from Dockerfiles, and keeps every layer it made.
#[derive(Parser, Debug)]
#[command(name = "rbuild", version, about, disable_help_subcommand = true, max_term_width = 110)]
#[command(after_help = "`rbuild [OPTIONS] PATH` equals `rbuild build [OPTIONS] PATH`.")]
pub struct Command {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// Who is to do it.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The environment variable that says where the store is.
pub const ROOT: &str = "RBUILD_ROOT";

/// The environment variable that says where a daemon serves when nobody says.
pub const DEFAULT_ADDRESS: &str = "RBUILD_DEFAULT_ADDR";

/// Options of every command.
#[derive(Args, Debug)]
pub struct Global {
    /// Directory of the store [default: /var/lib/rbuild, or ~/.local/share/rbuild for an ordinary user]
    #[arg(long, global = true, env = ROOT, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Whether that was typed, and does not come from the environment.
    #[arg(skip)]
    pub root_is_typed: bool,
}

/// The environment variable that says which daemon builds, as BuildKit's own clients have it.
pub const HOST: &str = "BUILDKIT_HOST";

/// A daemon that is asked instead of building here.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Reach {
    /// Have it done by a daemon of rbuild's or BuildKit's (unix:///PATH, tcp://HOST:PORT, docker+unix:///PATH) [env:
    /// BUILDKIT_HOST]
    #[arg(long, value_name = "ADDRESS")]
    pub addr: Option<String>,
    /// Authority that the daemon's certificate is from (PEM); its connection is encrypted
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub tlscacert: Option<PathBuf>,
    /// Certificate to show to the daemon (PEM)
    #[arg(long, value_name = "FILE", requires = "tlskey", hide_short_help = true)]
    pub tlscert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tlscert", hide_short_help = true)]
    pub tlskey: Option<PathBuf>,
    /// Name in the daemon's certificate [default: the address's host]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub tlsservername: Option<String>,
}

impl Reach {
    /// What is said behind the command, and where that is silent, what is said before it.
    fn or(self, before: Reach) -> Reach {
        Reach {
            addr: self.addr.or(before.addr),
            tlscacert: self.tlscacert.or(before.tlscacert),
            tlscert: self.tlscert.or(before.tlscert),
            tlskey: self.tlskey.or(before.tlskey),
            tlsservername: self.tlsservername.or(before.tlsservername),
        }
    }
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b")]
    Build(Box<Build>),
    /// List the images in the store
    #[command(alias = "ls")]
    Images(Images),
    /// Show images as docker inspect does
    Inspect {
        /// Names or image ids
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Give an image another name
    Tag {
        /// Name or image id
        source: String,
        /// The new name
        target: String,
    },
    /// Remove names of images; an image without a name is removed at the next prune
    Rmi {
        /// Names or image ids
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Fetch an image from a registry
    Pull {
        /// Name, perhaps with a digest
        name: String,
        /// For which platform [default: the host's]
        #[arg(long, value_name = "OS/ARCH")]
        platform: Option<String>,
    },
    /// Push images to the registries of their names
    Push {
        /// Names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make an image of a root file system archive
    Import {
        /// A tar archive, plain or compressed with gzip or zstd; - is standard input
        file: PathBuf,
        /// Name of the image
        name: String,
    },
    /// Run a command in an image, in the sandbox that RUN steps have
    Run(Run),
    /// Show what the store holds and how much space it takes
    Du(Du),
    /// Remove what no image and no running build needs
    Prune(Prune),
    /// List the workers of a daemon
    Workers(Workers),
    /// Check the store for damage
    Fsck,
    /// Look at builds of the past
    #[command(subcommand)]
    History(History),
    /// Say why steps of a build had to run
    Explain(Explain),
    /// Serve builds to docker buildx, buildctl and other clients of BuildKit
    Serve(Serve),
    /// Connect standard input and output to a daemon, as clients do over ssh
    DialStdio(DialStdio),
    /// Look inside: what a Dockerfile means to the builder
    #[command(subcommand)]
    Debug(Debug),
}

/// Options of `serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Where clients come in (unix://PATH, tcp://HOST:PORT, fd://); may be given several times [default:
    /// unix:///run/rbuild/rbuild.sock, or the same below XDG_RUNTIME_DIR for an ordinary user]
    #[arg(long = "addr", value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Where clients come in when nothing else is said: settled before a user namespace is entered
    #[arg(long, hide = true, env = DEFAULT_ADDRESS)]
    pub default_address: Option<String>,
    /// Group whose members may connect to the socket too
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// The configuration file, as of buildkitd [default: /etc/rbuild/buildkitd.toml if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Tell of every build when it begins and when it ends
    #[arg(long)]
    pub debug: bool,
    /// Allow clients what a Dockerfile may not do by itself (network.host, security.insecure, device)
    #[arg(long = "allow-insecure-entitlement", value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Certificate for TCP
    #[arg(long, value_name = "FILE", requires = "tlskey", requires = "tlscacert")]
    pub tlscert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tlscert")]
    pub tlskey: Option<PathBuf>,
    /// Certificate of whoever signs those of clients
    #[arg(long, value_name = "FILE", requires = "tlscert")]
    pub tlscacert: Option<PathBuf>,
}

/// Options of `dial-stdio`.
#[derive(Args, Debug)]
pub struct DialStdio {
    /// The daemon (unix://PATH)
    #[arg(long = "addr", env = "BUILDKIT_HOST", value_name = "ADDRESS")]
    pub address: Option<String>,
}

/// Options of `build`.
#[derive(Args, Debug)]
pub struct Build {
    /// Who is to do it.
    #[command(flatten)]
    pub reach: Reach,
    /// The build context: a directory, the address of a repository or an archive, or - for a Dockerfile or an archive on
    /// standard input
    #[arg(value_name = "PATH")]
    pub context: PathBuf,
    /// Another context (NAME=DIRECTORY, docker-image://IMAGE, or an address), for FROM, COPY --from and mounts; may be
    /// given several times
    #[arg(long = "build-context", value_name = "NAME=WHERE")]
    pub build_contexts: Vec<String>,
    /// Tell what is doubtful in the Dockerfile and build nothing (as --call=check)
    #[arg(long)]
    pub check: bool,
    /// What to do (build, check, outline, targets, each with ,format=json for programs)
    #[arg(long, value_name = "METHOD", default_value = "build")]
    pub call: String,
    /// Name of the image (NAME[:TAG]); may be given several times
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// The Dockerfile [default: PATH/Dockerfile]; - is standard input
    #[arg(short, long, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub file: Option<PathBuf>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Value of an ARG (NAME=VALUE, or NAME to take it from the environment)
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub build_args: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Where the result goes (type=oci|docker|tar|local|image,dest=PATH; a bare path is type=local, - a tar to standard
    /// output); may be given several times
    #[arg(short, long = "output", value_name = "OUTPUT")]
    pub outputs: Vec<String>,
    /// Push the image under all its names
    #[arg(long)]
    pub push: bool,
    /// Give the image to docker or podman
    #[arg(long)]
    pub load: bool,
    /// Ask registries for base images even when the store has them
    #[arg(long)]
    pub pull: bool,
    /// Run every step anew
    #[arg(long)]
    pub no_cache: bool,
    /// Cache to use (type=registry|local,…; a name alone is a registry's reference); may be given several times
    #[arg(long = "cache-from", value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// Where to write a cache to (type=registry|local|inline,mode=min|max,…); may be given several times
    #[arg(long = "cache-to", value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Run every step of these stages anew
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Platforms of the image
    #[arg(long = "platform", env = "DOCKER_DEFAULT_PLATFORM", value_name = "OS/ARCH", value_delimiter = ',')]
    pub platforms: Vec<String>,
    /// Network of RUN steps
    #[arg(long, value_enum, default_value = "default")]
    pub network: Network,
    /// Tell where the image comes from, as SLSA provenance beside it (true, false, or mode=min|max,version=v1|v0.2,…)
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub provenance: Option<String>,
    /// Tell what is in the image: run a scanner on it (true, false, or generator=IMAGE,NAME=VALUE,…)
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sbom: Option<String>,
    /// Say something about the image (type=provenance,… or type=sbom,…)
    #[arg(long = "attest", value_name = "OPTIONS")]
    pub attests: Vec<String>,
    /// Additional line of /etc/hosts in RUN steps (NAME:IP)
    #[arg(long = "add-host", value_name = "NAME:IP")]
    pub add_hosts: Vec<String>,
    /// Limit of RUN steps (NAME=SOFT[:HARD], -1 is none)
    #[arg(long = "ulimit", value_name = "LIMIT")]
    pub ulimits: Vec<String>,
    /// Limit of what a RUN step uses up (memory=2g, memory-swap=3g|-1, cpu-shares=512, cpu-period=100000, cpu-quota=50000,
    /// cpuset-cpus=0-3, cpuset-mems=0); may be given several times
    #[arg(long = "resource", value_name = "LIMIT=VALUE")]
    pub resources: Vec<String>,
    /// The same as --resource memory=BYTES
    #[arg(short = 'm', long, value_name = "BYTES", hide = true)]
    pub memory: Option<String>,
    /// The same as --resource memory-swap=BYTES
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// The same as --resource cpu-shares=N
    #[arg(short = 'c', long, value_name = "N", hide = true)]
    pub cpu_shares: Option<String>,
    /// The same as --resource cpu-period=MICROSECONDS
    #[arg(long, value_name = "MICROSECONDS", hide = true)]
    pub cpu_period: Option<String>,
    /// The same as --resource cpu-quota=MICROSECONDS
    #[arg(long, value_name = "MICROSECONDS", hide = true)]
    pub cpu_quota: Option<String>,
    /// The same as --resource cpuset-cpus=LIST
    #[arg(long, value_name = "LIST", hide = true)]
    pub cpuset_cpus: Option<String>,
    /// The same as --resource cpuset-mems=LIST
    #[arg(long, value_name = "LIST", hide = true)]
    pub cpuset_mems: Option<String>,
    /// Control group that those of RUN steps are made in (a path, or a systemd slice)
    #[arg(long, value_name = "GROUP")]
    pub cgroup_parent: Option<String>,
    /// Size of /dev/shm in RUN steps (64m, 1g)
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Secret for RUN --mount=type=secret (id=ID,src=FILE or id=ID,env=VARIABLE); may be given several times
    #[arg(long = "secret", value_name = "SECRET")]
    pub secrets: Vec<String>,
    /// ssh agent or keys for RUN --mount=type=ssh (default, ID=SOCKET[,raw=true] or ID=KEY,…); may be given several times
    #[arg(long = "ssh", value_name = "AGENT")]
    pub agents: Vec<String>,
    /// Allow what a Dockerfile may not do by itself (network.host, security.insecure, device, device=NAME[,alias=OTHER])
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// How progress is shown
    #[arg(long, value_enum, env = "BUILDKIT_PROGRESS", default_value = "auto")]
    pub progress: Progress,
    /// Print only the image id
    #[arg(short, long)]
    pub quiet: bool,
    /// Write the image id to this file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write digests and names of the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// How many RUN steps may run at once [default: the larger of 16 and four per core]
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
}

/// The network of RUN steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// The builder's default.
    Default,
    /// The host's.
    Host,
    /// Only a loopback interface.
    None,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A live screen on a terminal, else plain.
    Auto,
    /// A live screen.
    Tty,
    /// Lines.
    Plain,
    /// Nothing but errors.
    Quiet,
    /// JSON lines.
    Rawjson,
}

/// Options of `images`.
#[derive(Args, Debug)]
pub struct Images {
    /// Print only image ids
    #[arg(short, long)]
    pub quiet: bool,
    /// table or json
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
}

/// Options of `du`.
#[derive(Args, Debug)]
pub struct Du {
    /// Whose store it is about.
    #[command(flatten)]
    pub reach: Reach,
    /// table or json
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// Show only these, one by one (id, parents, description, type, inuse, mutable, immutable, shared, private; = != ~=);
    /// all have to fit
    #[arg(long = "filter", value_name = "FIELD=VALUE")]
    pub filters: Vec<String>,
    /// Show all one by one
    #[arg(long)]
    pub verbose: bool,
}

/// Options of `workers`.
#[derive(Args, Debug)]
pub struct Workers {
    /// Whose workers.
    #[command(flatten)]
    pub reach: Reach,
    /// table or json
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
}

/// Options of `prune`.
#[derive(Args, Debug)]
pub struct Prune {
    /// Whose store it is about.
    #[command(flatten)]
    pub reach: Reach,
    /// Remove cached steps and cache mounts too
    #[arg(short, long)]
    pub all: bool,
    /// Remove only what was not used for so long (until=24h), or what these fields select, as in du (type=regular,
    /// type=exec.cachemount, description~=REGEX)
    #[arg(long = "filter", value_name = "FIELD=VALUE")]
    pub filters: Vec<String>,
    /// Remove cached steps, those used longest ago first, until so much of the disk is free
    #[arg(long, value_name = "SIZE")]
    pub min_free_space: Option<String>,
    /// Remove cached steps, those used longest ago first, until the store takes no more than this (10GB)
    #[arg(long, value_name = "SIZE")]
    pub max_used_space: Option<String>,
    /// This much is not removed, even where the other limit is lower
    #[arg(long, value_name = "SIZE", visible_alias = "keep-storage")]
    pub reserved_space: Option<String>,
    /// Accepted for the sake of scripts: nothing is asked
    #[arg(short, long)]
    pub force: bool,
    /// Say what was removed, by kind
    #[arg(long)]
    pub verbose: bool,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// One JSON object a line.
    Json,
}

/// Options of `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Network of the command
    #[arg(long, value_enum, default_value = "default")]
    pub network: Network,
    /// Environment variable (NAME=VALUE)
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// User to run as [default: the image's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory [default: the image's]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run this instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Name or image id
    pub name: String,
    /// Command and arguments [default: the image's]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What to do with builds of the past. A build is meant by its id or the begin of it, ^1 is the one before the last.
#[derive(Subcommand, Debug)]
pub enum History {
    /// List recorded builds, the newest first
    Ls {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Show a build as it was shown when it ran
    Logs {
        /// Which build [default: the last]
        build: Option<String>,
        /// plain or rawjson
        #[arg(long, value_enum, default_value = "plain")]
        progress: Progress,
        #[command(flatten)]
        reach: Reach,
    },
    /// Show what is known of a build and its steps, as JSON
    Inspect {
        /// Which build [default: the last]
        build: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Write a build as a Chrome trace (chrome://tracing, ui.perfetto.dev)
    Trace {
        /// Which build [default: the last]
        build: Option<String>,
        /// Where to [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Forget builds
    Rm {
        /// Which builds
        #[arg(required_unless_present = "all", value_name = "BUILD")]
        builds: Vec<String>,
        /// All that ended
        #[arg(long, conflicts_with = "builds")]
        all: bool,
        #[command(flatten)]
        reach: Reach,
    },
}

impl History {
    /// Whose builds are meant.
    fn reach(&mut self) -> &mut Reach {
        match self {
            History::Ls { reach, .. }
            | History::Logs { reach, .. }
            | History::Inspect { reach, .. }
            | History::Trace { reach, .. }
            | History::Rm { reach, .. } => reach,
        }
    }
}

/// Options of `explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// Which build [default: the last]
    pub build: Option<String>,
    /// Which step: its number in the stage, or a part of its name [default: all that had to run]
    pub step: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// What to look at.
#[derive(Subcommand, Debug)]
pub enum Debug {
    /// Print the syntax tree of a Dockerfile
    DumpAst {
        /// The Dockerfile
        file: PathBuf,
    },
    /// Print the definition (LLB) that a Dockerfile compiles to
    DumpLlb {
        /// The Dockerfile [default: PATH/Dockerfile]
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// protobuf, json or dot
        #[arg(long, value_enum, default_value = "protobuf")]
        format: LlbFormat,
        /// Stage to build
        #[arg(long, value_name = "STAGE")]
        target: Option<String>,
        /// Value of an ARG
        #[arg(long = "build-arg", value_name = "NAME=VALUE")]
        build_args: Vec<String>,
        /// Another context
        #[arg(long = "build-context", value_name = "NAME=WHERE")]
        build_contexts: Vec<String>,
        /// Platforms of the image
        #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',')]
        platforms: Vec<String>,
        /// The build context
        context: PathBuf,
    },
}

/// The form of a dumped definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LlbFormat {
    /// As clients send it.
    Protobuf,
    /// To read.
    Json,
    /// For graphviz.
    Dot,
}

impl Verb {
    /// Whether it reads or writes files of the store, whose owners mean something in its namespace only.
    pub fn uses_store(&self) -> bool {
        !matches!(self, Verb::Debug(Debug::DumpAst { .. }) | Verb::DialStdio(_) | Verb::Workers(_))
    }

    /// Who is to do it, for what a daemon can be asked to do.
    pub fn reach(&mut self) -> Option<&mut Reach> {
        match self {
            Verb::Build(build) => Some(&mut build.reach),
            Verb::Du(du) => Some(&mut du.reach),
            Verb::Prune(prune) => Some(&mut prune.reach),
            Verb::Workers(workers) => Some(&mut workers.reach),
            Verb::History(history) => Some(history.reach()),
            _ => None,
        }
    }
}

impl Build {
    /// What `debug dump-llb` builds in its mind.
    pub(super) fn of_dump(
        context: PathBuf,
        file: Option<PathBuf>,
        target: Option<String>,
        build_args: Vec<String>,
        build_contexts: Vec<String>,
        platforms: Vec<String>,
    ) -> Build {
        // What the environment says of these is for builds, and may be anything.
        let words = ["rbuild", "build", "--progress=auto", "--platform=local", "."].map(OsString::from).to_vec();
        let Ok(Command { verb: Verb::Build(plain), .. }) = parse(words) else { unreachable!("this is a command line") };
        Build { context, file, target, build_args, build_contexts, platforms, ..*plain }
    }
}

/// All commands and their options.
fn catalogue() -> clap::Command {
    switches::with_values(<Command as CommandFactory>::command())
}

/// Parses `argv`, where the word `build` may be left out.
///
/// # Errors
/// Clap's own, to be printed as they are; help and version count as errors there.
pub fn parse(argv: Vec<OsString>) -> Result<Command, clap::Error> {
    let matches = catalogue().try_get_matches_from(with_verb(argv))?;
    let mut command = Command::from_arg_matches(&matches)?;
    command.global.root_is_typed = matches.value_source("root") == Some(ValueSource::CommandLine);
    let before = std::mem::take(&mut command.reach);
    match command.verb.reach() {
        Some(reach) => *reach = std::mem::take(reach).or(before),
        None if before != Reach::default() => {
            let about = "--addr, --tls…: only build, du, prune, workers and history can be done by a daemon";
            return Err(catalogue().error(ErrorKind::ArgumentConflict, about));
        }
        None => {}
    }
    Ok(command)
}

/// Takes variables that are set to nothing out of the environment: they mean what absent ones do, as elsewhere.
///
/// To be called before any thread is there.
pub fn forget_empty_variables() {
    for name in [ROOT, HOST, "DOCKER_DEFAULT_PLATFORM", "BUILDKIT_PROGRESS"] {
        if std::env::var_os(name).is_some_and(|value| value.is_empty()) {
            std::env::remove_var(name);
        }
    }
}

/// Inserts `build` where the first word is no command.
fn with_verb(mut argv: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    while let Some(word) = argv.get(at) {
        match word.to_str() {
            Some("--root" | "--addr" | "--tlscacert" | "--tlscert" | "--tlskey" | "--tlsservername") => at += 2,
            Some(w) if w.starts_with("--root=") || w.starts_with("--addr=") || w.starts_with("--tls") => at += 1,
            _ => break,
        }
    }
    let spoken = |word: &OsStr| {
        let command = catalogue();
        let known =
            command.get_subcommands().any(|c| c.get_name_and_visible_aliases().iter().any(|n| word == OsStr::new(n)));
        known || ["ls", "-h", "--help", "-V", "--version"].iter().any(|w| word == OsStr::new(w))
    };
    match argv.get(at) {
        Some(word) if !spoken(word) => argv.insert(at, "build".into()),
        _ => {}
    }
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_word_build_may_be_left_out() {
        for (typed, meant) in [
            ("rbuild -t a .", "rbuild build -t a ."),
            ("rbuild .", "rbuild build ."),
            ("rbuild --root /s .", "rbuild --root /s build ."),
            ("rbuild --root=/s -q .", "rbuild --root=/s build -q ."),
            ("rbuild --addr unix:///s --tlskey=k .", "rbuild --addr unix:///s --tlskey=k build ."),
            ("rbuild --addr unix:///s du", "rbuild --addr unix:///s du"),
            ("rbuild build .", "rbuild build ."),
            ("rbuild b .", "rbuild b ."),
            ("rbuild images", "rbuild images"),
            ("rbuild --root /s images", "rbuild --root /s images"),
            ("rbuild --help", "rbuild --help"),
            ("rbuild", "rbuild"),
        ] {
            assert_eq!(with_verb(words(typed)), words(meant), "{typed}");
        }
    }

    #[test]
    fn what_only_other_builders_have_is_refused() {
        for line in [
            "-f a -f b .",
            "--cap-add=SYS_ADMIN .",
            "--security-opt=seccomp=x .",
            "--isolation=chroot .",
            "--userns=host .",
            "-v /tmp:/x .",
            "--env A=b .",
            "--device=/dev/x .",
            "--squash .",
        ] {
            assert!(parse(words(&format!("rbuild build {line}"))).is_err(), "{line}");
        }
    }

    #[test]
    fn options_may_follow_the_path() {
        let command = parse(words("rbuild . -t a --build-arg X=1 --no-cache")).unwrap();
        let Verb::Build(build) = command.verb else { panic!("not a build") };
        assert_eq!((build.tags, build.build_args, build.no_cache), (vec!["a".into()], vec!["X=1".into()], true));
    }

    #[test]
    fn a_daemon_may_be_named_before_and_behind_the_command() {
        let addr = |line: &str| parse(words(line)).map(|mut command| command.verb.reach().and_then(|r| r.addr.clone()));
        for line in ["rbuild --addr a .", "rbuild build --addr a .", "rbuild --addr b du --addr a", "rbuild . --addr=a"]
        {
            assert_eq!(addr(line).unwrap().as_deref(), Some("a"), "{line}");
        }
        assert!(addr("rbuild --addr a images").is_err() && addr("rbuild images --addr a").is_err());
        assert!(addr("rbuild --addr a --tlscert c .").is_err());
        assert!(addr("rbuild --tlscacert c images").is_err());
        assert!(parse(words("rbuild --root /s .")).unwrap().global.root_is_typed);
        assert!(!parse(words("rbuild .")).unwrap().global.root_is_typed);
    }

    #[test]
    fn the_old_name_of_a_limit_is_known() {
        let command = parse(words("rbuild prune -af --keep-storage 10GB --filter until=24h")).unwrap();
        let Verb::Prune(prune) = command.verb else { panic!("not a prune") };
        assert_eq!((prune.reserved_space, prune.filters), (Some("10GB".into()), vec!["until=24h".into()]));
    }

    #[test]
    fn all_builds_are_forgotten_or_some() {
        assert!(parse(words("rbuild history rm --all")).is_ok());
        assert!(parse(words("rbuild history rm --all abc")).is_err());
    }

    #[test]
    fn the_catalogue_is_sound() {
        catalogue().debug_assert();
    }

    #[test]
    fn arguments_of_a_run_command_are_its_own() {
        let command = parse(words("rbuild run busybox ls -l --root x")).unwrap();
        let Verb::Run(run) = command.verb else { panic!("not a run") };
        assert_eq!(run.command, ["ls", "-l", "--root", "x"]);
    }
}
