//! The devices of a step: which it may have, and what its process gets with them.

use std::os::linux::fs::MetadataExt;

use solver::graph::op::RunOp;

use crate::cdi::{Config, Devices, Edits, Grants, Node};
use crate::engine::steps::{StepCx, StepFailure};
use crate::sandbox::{self, DeviceSpec, MountSpec, ProcessSpec};

/// Permission bits of a node whose specification says none, as runtimes have it.
const MODE: u32 = 0o666;

/// What the devices of a step bring.
///
/// # Errors
/// [`StepFailure::Device`]: it may not have one, there is none, or a step cannot have it.
pub(crate) fn edits(op: &RunOp, config: &Config, grants: &Grants) -> Result<Edits, StepFailure> {
    if op.devices.is_empty() {
        return Ok(Edits::default());
    }
    let devices = Devices::read(config);
    let asked = op.devices.iter().map(|device| (device.name.as_str(), device.optional));
    let names = devices.grant(asked, grants)?;
    Ok(devices.edits(&names)?)
}

/// Gives a process what its devices bring. Asked here whatever was asked before, so that no way to a process goes around
/// the grants.
pub(super) fn equip(cx: &StepCx, op: &RunOp, spec: &mut ProcessSpec) -> Result<(), StepFailure> {
    let Edits { env, nodes, trees, groups } = edits(op, &cx.devices, &cx.entitlements.devices)?;
    for pair in env {
        let start = pair.find('=').map_or(pair.len(), |at| at + 1);
        spec.env.retain(|other| other.as_encoded_bytes().get(..start) != pair.as_bytes().get(..start));
        spec.env.push(pair.into());
    }
    for group in groups {
        if !spec.user.groups.contains(&group) {
            spec.user.groups.push(group);
        }
    }
    for node in nodes {
        spec.devices.push(device(node, (spec.user.uid, spec.user.gid))?);
    }
    for tree in trees {
        let source = sandbox::host_source(&tree.host, tree.is_recursive, tree.no_suid, tree.no_exec)
            .map_err(StepFailure::Mount)?;
        let kind = sandbox::MountKind::Bind { source, read_only: tree.is_read_only };
        spec.mounts.push(MountSpec { dest: tree.path, kind });
    }
    Ok(())
}

/// A node, completed by what the host's is, and by who the process is.
fn device(node: Node, process: (u32, u32)) -> Result<DeviceSpec, StepFailure> {
    let Node { path, host, is_block, numbers, mode, owner } = node;
    let (is_block, numbers) = match (is_block, numbers) {
        (Some(is_block), Some(numbers)) => (is_block, numbers),
        (is_block, numbers) => {
            let unusable = |source| StepFailure::DeviceNode { path: host.display().to_string(), source };
            let stat = std::fs::metadata(&host).map_err(unusable)?;
            let kind = stat.st_mode() & libc::S_IFMT;
            let is_right = match is_block {
                Some(true) => kind == libc::S_IFBLK,
                Some(false) => kind == libc::S_IFCHR,
                None => matches!(kind, libc::S_IFBLK | libc::S_IFCHR),
            };
            if !is_right {
                return Err(unusable(std::io::Error::from_raw_os_error(libc::ENODEV)));
            }
            let own = (rustix::fs::major(stat.st_rdev()), rustix::fs::minor(stat.st_rdev()));
            (kind == libc::S_IFBLK, numbers.unwrap_or(own))
        }
    };
    let owner = (owner.0.unwrap_or(process.0), owner.1.unwrap_or(process.1));
    Ok(DeviceSpec { path, host, is_block, numbers, mode: mode.unwrap_or(MODE), owner })
}
