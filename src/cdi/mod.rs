//! Devices by the Container Device Interface: what a vendor's specification says a process needs to use one.
//!
//! *Job*: read specifications, find the devices that a name means, say who may have them, and what a process with them
//! gets. Pure but for the reading of directories. *Not its job*: making nodes and mounts (the sandbox's). *Start reading
//! at* [`Devices::grant`]. <https://github.com/cncf-tags/container-device-interface/blob/v1.1.0/SPEC.md>,
//! <https://docs.docker.com/build/building/cdi/>.

mod config;
mod devices;
mod edits;
mod grants;
mod spec;
mod yaml;

pub use config::Config;
pub use devices::{Device, Devices};
pub use edits::{Edits, Node, Tree};
pub use grants::Grants;

/// Why a step cannot have a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What was asked for is no name of a device.
    #[error("invalid device {name:?}: want VENDOR/CLASS=NAME, as in vendor.com/gpu=0, VENDOR/CLASS=* or VENDOR/CLASS")]
    BadName {
        /// As it was asked for.
        name: String,
    },
    /// No specification has it.
    #[error("required device {name:?} is not registered{}", .why.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    NotRegistered {
        /// As it was asked for.
        name: String,
        /// What stands in the way, where something does.
        why: Option<String>,
    },
    /// Nobody allowed it.
    #[error("{} requested by the build but not allowed", shown(.names))]
    NotAllowed {
        /// Which devices.
        names: Vec<String>,
    },
    /// It needs what steps cannot have here.
    #[error("device {name:?} needs {what}, which a step cannot have here")]
    Unsupported {
        /// Which device.
        name: String,
        /// What of its specification that is.
        what: String,
    },
}

fn shown(names: &[String]) -> String {
    match names {
        [one] => format!("device {one} is"),
        several => format!("devices {} are", several.join(", ")),
    }
}
