//! Puts the mounts of a spec where they belong.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, PROC_SUPER_MAGIC};
use rustix::mount::MountAttrFlags;

use super::error::Error;
use super::mounting::{attach, new_mount, restrict, Reach, NO_SUID_DEV_EXEC};
use super::root::Tree;
use super::spec::DeviceSpec;
use super::stage::{Stage, Staged};
use super::target::Shape;
use super::wire::{Kind, Mount, Order};

/// Writes the files among the mounts, and gives each mount's name on the stage.
pub(super) fn write_files(stage: &mut Stage, mounts: &[Mount]) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let name = format!("file{index}");
        if let Kind::File { content, mode, uid, gid } = &mount.kind {
            stage.file(&name, content, *mode, (*uid, *gid))?;
        }
        names.push(name);
    }
    Ok(names)
}

/// Mounts all of them, in the order given.
pub(super) fn mount(tree: &Tree, staged: &Staged, names: &[String], order: &Order) -> Result<(), Error> {
    for (mount, name) in order.mounts.iter().zip(names) {
        let dest = mount.dest.as_path();
        match &mount.kind {
            Kind::Bind { source, read_only } => {
                // SAFETY: the spawner passed this descriptor on to us, and only `program::execute` closes it.
                let source = unsafe { BorrowedFd::borrow_raw(*source) };
                let stat = rustix::fs::fstat(source).map_err(|e| Error::setup_at("look at", dest)(e.into()))?;
                let shape = match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Shape::Directory,
                    _ => Shape::File,
                };
                let mut attributes = MountAttrFlags::empty();
                attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !order.insecure);
                attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *read_only);
                restrict(source, attributes, Reach::Tree).map_err(Error::setup_at("restrict", dest))?;
                let target = tree.target(dest, shape)?;
                refuse_proc(&target, dest)?;
                attach(source, &target).map_err(Error::setup_at("mount", dest))?;
            }
            Kind::Tmpfs { size, mode, read_only } => {
                let mode = format!("{:o}", mode & 0o7777);
                let size = size.to_string();
                let options = [("mode", mode.as_str()), ("size", size.as_str())];
                let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *read_only);
                let count = if size == "0" { 1 } else { 2 };
                let tmpfs = new_mount("tmpfs", &options[..count], attributes)
                    .map_err(Error::setup_at("make a tmpfs for", dest))?;
                let target = tree.target(dest, Shape::Directory)?;
                refuse_proc(&target, dest)?;
                attach(tmpfs, &target).map_err(Error::setup_at("mount", dest))?;
            }
            Kind::File { mode, .. } => {
                let mut attributes = NO_SUID_DEV_EXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
                attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, mode & 0o111 == 0);
                let target = tree.target(dest, Shape::File)?;
                refuse_proc(&target, dest)?;
                staged.mount(name, target, attributes)?;
            }
        }
    }
    Ok(())
}

/// Makes the nodes that were asked for, while the host's can still be seen; gives each one's name on the stage.
pub(super) fn make_devices(stage: &mut Stage, devices: &[DeviceSpec]) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let name = format!("device{index}");
        stage.asked_node(name.clone(), device)?;
        names.push(name);
    }
    Ok(names)
}

/// Puts those nodes where they belong. Each is a mount of its own, the only kind on which a device can be opened.
pub(super) fn mount_devices(
    tree: &Tree,
    staged: &Staged,
    names: &[String],
    devices: &[DeviceSpec],
) -> Result<(), Error> {
    for (device, name) in devices.iter().zip(names) {
        let target = tree.target(&device.path, Shape::File)?;
        refuse_proc(&target, &device.path)?;
        staged.mount(name, target, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    }
    Ok(())
}

/// A mount inside procfs could feed lies to the programs, and to us, that trust it.
fn refuse_proc(target: impl std::os::fd::AsFd, dest: &Path) -> Result<(), Error> {
    let stat = rustix::fs::fstatfs(target).map_err(|e| Error::setup_at("look at", dest)(e.into()))?;
    if stat.f_type == PROC_SUPER_MAGIC {
        return Err(Error::Refused { path: dest.to_owned(), reason: "is inside procfs".to_owned() });
    }
    Ok(())
}
