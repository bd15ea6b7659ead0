//! Files that exist in memory only, on their way into the sandbox one by one.
//!
//! They lie together in one small file system that nobody will see: each becomes a mount of its own, with its own
//! attributes. A process that removes such a file, or the directory around it, fails with EBUSY.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{makedev, AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{unmount, MountAttrFlags, UnmountFlags};

use super::error::Error;
use super::mounting::{attach, clone_mount, new_mount, restrict, Reach};
use super::root::Tree;
use super::spec::DeviceSpec;

/// The place where files are made.
pub(super) struct Stage {
    mount: OwnedFd,
    names: Vec<String>,
    ready: BTreeMap<String, OwnedFd>,
}

/// The files, each a detached mount.
pub(super) struct Staged(BTreeMap<String, OwnedFd>);

impl Stage {
    pub fn new() -> Result<Stage, Error> {
        // Secrets lie here, so it is not to be swapped out; kernels before 6.4 cannot promise that.
        let options = [("mode", "0700"), ("noswap", "")];
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID;
        let mount = new_mount("tmpfs", &options, attributes)
            .or_else(|_| new_mount("tmpfs", &options[..1], attributes))
            .map_err(Error::setup("make a tmpfs"))?;
        Ok(Stage { mount, names: Vec::new(), ready: BTreeMap::new() })
    }

    /// Makes a device node. Where only the host may do that, the host's own node is taken: nobody in a user namespace
    /// can change that one.
    pub fn node(&mut self, name: &str, kind: FileType, major: u32, minor: u32) -> Result<(), Error> {
        self.device(name.replace('/', "-"), Path::new(&format!("/dev/{name}")), kind, (major, minor), 0o666).map(drop)
    }

    /// The same for a device that somebody asked for, with an owner; the host's own node keeps what it has.
    pub fn asked_node(&mut self, key: String, device: &DeviceSpec) -> Result<(), Error> {
        let kind = if device.is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let is_new = self.device(key.clone(), &device.host, kind, device.numbers, device.mode)?;
        if is_new {
            let (user, group) = device.owner;
            let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            rustix::fs::chownat(&self.mount, &key, user, group, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| Error::setup_at("give away", &device.host)(e.into()))?;
        }
        Ok(())
    }

    /// Makes a node, or takes the host's at `path`; says whether it is a new one.
    fn device(
        &mut self,
        key: String,
        path: &Path,
        kind: FileType,
        (major, minor): (u32, u32),
        mode: u32,
    ) -> Result<bool, Error> {
        match rustix::fs::mknodat(&self.mount, &key, kind, Mode::from_raw_mode(mode), makedev(major, minor)) {
            Ok(()) => {
                self.names.push(key);
                Ok(true)
            }
            Err(Errno::PERM) => {
                let node = clone_mount(rustix::fs::CWD, path).map_err(Error::setup_at("take the host's", path))?;
                let stat = rustix::fs::fstat(&node).map_err(|e| Error::setup_at("look at", path)(e.into()))?;
                if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != makedev(major, minor) {
                    let reason = "on the host is another device".to_owned();
                    return Err(Error::Refused { path: path.into(), reason });
                }
                self.ready.insert(key, node);
                Ok(false)
            }
            Err(errno) => Err(Error::setup_at("make the device", path)(errno.into())),
        }
    }

    /// Makes a file of bytes.
    pub fn file(&mut self, name: &str, content: &[u8], mode: u32, owner: (u32, u32)) -> Result<(), Error> {
        let failed = |step: &'static str| move |errno: Errno| Error::setup(step)(errno.into());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(
            rustix::fs::openat(&self.mount, name, flags, Mode::from_raw_mode(mode & 0o777))
                .map_err(failed("make a file in memory"))?,
        );
        file.write_all(content).map_err(Error::setup("write a file in memory"))?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))
            .map_err(failed("give away a file in memory"))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Turns all files into mounts. For that the stage has to be mounted itself for a moment: kernels before 6.15 clone
    /// nothing that is not. Its place is `/dev`, which gets its own contents afterwards.
    pub fn close(mut self, tree: &Tree) -> Result<Staged, Error> {
        attach(&self.mount, tree.top("dev")?).map_err(Error::setup_at("mount", "/dev"))?;
        for name in self.names {
            let file = clone_mount(&self.mount, &name).map_err(Error::setup("clone a file in memory"))?;
            self.ready.insert(name, file);
        }
        unmount("/dev", UnmountFlags::DETACH).map_err(|e| Error::setup_at("unmount", "/dev")(e.into()))?;
        Ok(Staged(self.ready))
    }
}

impl Staged {
    /// Whether a file of this name was made.
    pub fn holds(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Puts a file onto a target.
    pub fn mount(&self, name: &str, target: impl AsFd, attributes: MountAttrFlags) -> Result<(), Error> {
        let file = self.0.get(name).ok_or_else(|| Error::Invalid { what: format!("{name} was never made") })?;
        restrict(file.as_fd(), attributes, Reach::One).map_err(Error::setup_at("restrict", name))?;
        attach(file, target).map_err(Error::setup_at("mount", name))
    }
}
