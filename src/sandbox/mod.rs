//! One process in namespaces of its own.
//!
//! *Job*: run a program in a root file system that is not to be trusted, and tell how it ended. *Not its job*: where
//! the root comes from, who may ask for what, and what becomes of the files. *Start reading at* [`ProcessSpec`], then
//! `spawner` (the builder's side), `keeper` (what holds a sandbox together) and `step` (the way inside).
//!
//! ```text
//! builder ── spawner thread
//!               ├─ template  has executed the program once; keepers are copies of it
//!               └─ keeper    pid 1 of a namespace of its own, dies with the thread; cleans up after the step
//!                    └─ step pid 1 of the namespaces that the user's program sees; the program replaces it
//! ```
//! Death goes downwards by pid namespaces: whichever box is killed, the kernel kills all below it. The keeper is a
//! process of its own because the kernel forgets a parent-death signal when a program changes its user, and because
//! mount points made in the image are removed after the step even if the step was killed.
//!
//! Floor: Linux 5.12 (`mount_setattr(2)`).

mod cgroup;
mod device;
mod error;
mod identity;
mod inside;
mod keeper;
mod kernel_files;
mod limits;
mod memory;
mod mounting;
mod network;
mod passed;
mod placement;
mod program;
mod resolv;
mod root;
pub mod rootless;
mod running;
mod seccomp;
mod spawner;
mod spec;
mod stage;
mod step;
mod target;
mod template;
mod user;
mod wire;

pub use cgroup::cgroup_parent;
pub use error::Error;
pub use inside::open_inside;
pub use keeper::enter_if_asked;
pub use memory::give_back_large_memory;
pub use mounting::{bind_source, host_source, private_mount_namespace};
pub use network::default_network;
pub use passed::passed_descriptor;
pub use resolv::host_resolv_conf;
pub use running::{Exit, Running};
pub use spawner::Sandbox;
pub use spec::{
    DeviceSpec, Limits, MountKind, MountSpec, Network, ProcessSpec, Rlimit, Security, Stdio, User, DEFAULT_HOSTNAME,
    DEFAULT_PIDS,
};
pub use user::{resolve_user, Account};
