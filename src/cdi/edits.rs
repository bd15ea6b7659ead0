//! What a process with devices gets, as far as a step can have it: variables, nodes, trees of the host's, groups.
//!
//! Hooks are programs that a runtime runs beside a container, with its rights and on its files while nobody is in it
//! yet; a step's sandbox has no such moment and no such helper, so a device that wants one is refused.

use std::path::PathBuf;

use super::spec::{RawEdits, RawMount, RawNode};
use super::{Devices, Error};

/// What a process gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// `NAME=VALUE`; of several with one name the last counts.
    pub env: Vec<String>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Trees.
    pub trees: Vec<Tree>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A node of the host's that a process sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where the process finds it.
    pub path: PathBuf,
    /// Where it is on the host.
    pub host: PathBuf,
    /// Whether it must be a block device, or must not, where that is said.
    pub is_block: Option<bool>,
    /// Major and minor number, where they are said.
    pub numbers: Option<(u32, u32)>,
    /// Permission bits, where they are said; otherwise the host's.
    pub mode: Option<u32>,
    /// Owner and group, where they are said; otherwise the host's.
    pub owner: (Option<u32>, Option<u32>),
}

/// A file or directory of the host's that a process sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// On the host.
    pub host: PathBuf,
    /// Where the process finds it.
    pub path: PathBuf,
    /// It can only be read.
    pub is_read_only: bool,
    /// With what is mounted below it.
    pub is_recursive: bool,
    /// Set-user-id bits have no effect.
    pub no_suid: bool,
    /// No programs can be run from it.
    pub no_exec: bool,
}

impl Devices {
    /// What the devices of these whole names bring: of each specification what is common to its devices, once, then
    /// what is each device's own.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names what a step cannot have.
    pub fn edits(&self, names: &[String]) -> Result<Edits, Error> {
        let mut edits = Edits::default();
        let mut seen = Vec::new();
        for name in names {
            let found = self.found.get(name);
            let found = found.ok_or_else(|| Error::NotRegistered { name: name.clone(), why: None })?;
            let spec = std::sync::Arc::as_ptr(&found.spec);
            if !seen.contains(&spec) {
                seen.push(spec);
                edits.add(name, &found.spec.container_edits)?;
            }
            if let Some(device) = found.spec.devices.get(found.index) {
                edits.add(name, &device.container_edits)?;
            }
        }
        Ok(edits)
    }
}

impl Edits {
    fn add(&mut self, name: &str, raw: &RawEdits) -> Result<(), Error> {
        let unsupported = |what: String| Err(Error::Unsupported { name: name.to_owned(), what });
        if let Some(hook) = raw.hooks.first() {
            return unsupported(format!("a hook ({})", hook.hook_name));
        }
        if !raw.net_devices.is_empty() {
            return unsupported("a network interface of the host's (netDevices)".to_owned());
        }
        if raw.intel_rdt.is_some() {
            return unsupported("a class of caches and memory bandwidth (intelRdt)".to_owned());
        }
        self.env.extend(raw.env.iter().cloned());
        self.groups.extend(raw.additional_gids.iter().map(|gid| gid.0).filter(|gid| *gid != 0));
        for node in &raw.device_nodes {
            match read_node(node) {
                Ok(node) => self.nodes.push(node),
                Err(what) => return unsupported(what),
            }
        }
        for mount in &raw.mounts {
            match read_mount(mount) {
                Ok(tree) => self.trees.push(tree),
                Err(what) => return unsupported(what),
            }
        }
        Ok(())
    }
}

fn read_node(raw: &RawNode) -> Result<Node, String> {
    let path = &raw.path;
    let is_block = match raw.r#type.as_deref() {
        None | Some("") => None,
        Some("b") => Some(true),
        Some("c" | "u") => Some(false),
        Some(other) => return Err(format!("a node of type {other:?} ({path})")),
    };
    // Nodes have no controller here that could take away one half.
    match raw.permissions.as_deref() {
        None | Some("" | "rw" | "wr" | "rwm" | "rmw" | "wrm" | "wmr" | "mrw" | "mwr") => {}
        Some(other) => return Err(format!("a node with the permissions {other:?} alone ({path})")),
    }
    if !path.starts_with('/') {
        return Err(format!("a node at a path that is not absolute ({path})"));
    }
    let numbers = match (raw.major, raw.minor) {
        (Some(major), Some(minor)) if (major.0, minor.0) != (0, 0) => Some((major.0, minor.0)),
        _ => None,
    };
    Ok(Node {
        path: path.into(),
        host: raw.host_path.as_ref().filter(|host| !host.is_empty()).unwrap_or(path).into(),
        is_block,
        numbers,
        mode: raw.file_mode.map(|mode| mode.0 & 0o777),
        owner: (raw.uid.map(|id| id.0), raw.gid.map(|id| id.0)),
    })
}

fn read_mount(raw: &RawMount) -> Result<Tree, String> {
    let shown = &raw.container_path;
    if !matches!(raw.r#type.as_deref(), None | Some("" | "bind" | "none")) {
        return Err(format!("a mount of type {:?} ({shown})", raw.r#type.as_deref().unwrap_or_default()));
    }
    if !raw.host_path.starts_with('/') || !shown.starts_with('/') {
        return Err(format!("a mount at a path that is not absolute ({shown})"));
    }
    let mut tree = Tree {
        host: raw.host_path.clone().into(),
        path: shown.clone().into(),
        is_read_only: false,
        is_recursive: false,
        no_suid: false,
        no_exec: false,
    };
    for option in &raw.options {
        match option.as_str() {
            "ro" => tree.is_read_only = true,
            "rbind" => tree.is_recursive = true,
            "nosuid" => tree.no_suid = true,
            "noexec" => tree.no_exec = true,
            // What a mount of a step is in any case.
            "rw" | "bind" | "nodev" | "private" | "rprivate" | "slave" | "rslave" | "suid" | "exec" | "" => {}
            other => return Err(format!("the mount option {other:?} ({shown})")),
        }
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::devices;
    use super::*;

    const SPEC: &str = "\
cdiVersion: 0.7.0
kind: v.com/c
containerEdits: { env: [ALL=1] }
devices:
- name: a
  containerEdits:
    env: [A=1]
    additionalGids: [0, 44]
    deviceNodes:
    - { path: /dev/a, hostPath: /dev/null, type: c, major: 1, minor: 3, fileMode: 0660, permissions: rwm, uid: 5 }
    - { path: /dev/b }
    mounts:
    - { hostPath: /usr/lib/v, containerPath: /lib/v, options: [ro, nosuid, nodev, rbind] }
- name: b
";

    fn edits(names: &[&str], spec: &str) -> Result<Edits, String> {
        let names: Vec<String> = names.iter().map(|name| format!("v.com/c={name}")).collect();
        devices(&[&[("a.yaml", spec)]], &[]).edits(&names).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_common_comes_once_and_first() {
        let made = edits(&["a", "b"], SPEC).unwrap();
        assert_eq!((made.env, made.groups), (vec!["ALL=1".to_owned(), "A=1".to_owned()], vec![44]));
        let node = Node {
            path: "/dev/a".into(),
            host: "/dev/null".into(),
            is_block: Some(false),
            numbers: Some((1, 3)),
            mode: Some(0o660),
            owner: (Some(5), None),
        };
        let plain = Node {
            path: "/dev/b".into(),
            host: "/dev/b".into(),
            is_block: None,
            numbers: None,
            mode: None,
            owner: (None, None),
        };
        assert_eq!(made.nodes, [node, plain]);
        let tree = Tree {
            host: "/usr/lib/v".into(),
            path: "/lib/v".into(),
            is_read_only: true,
            is_recursive: true,
            no_suid: true,
            no_exec: false,
        };
        assert_eq!(made.trees, [tree]);
        assert_eq!(edits(&[], SPEC), Ok(Edits::default()));
    }

    #[test]
    fn what_a_step_cannot_have_is_refused_by_name() {
        let with = |more: &str| {
            let spec =
                format!("cdiVersion: 1.1.0\nkind: v.com/c\ndevices:\n- name: a\n  containerEdits:\n    {more}\n");
            edits(&["a"], &spec).unwrap_err()
        };
        for (more, want) in [
            ("hooks: [{ hookName: createContainer, path: /bin/true, args: [x] }]", "needs a hook (createContainer)"),
            ("netDevices: [{ hostInterfaceName: eth0, name: net0 }]", "netDevices"),
            ("intelRdt: { closID: x }", "intelRdt"),
            ("deviceNodes: [{ path: /dev/x, type: p }]", "type \"p\""),
            ("deviceNodes: [{ path: /dev/x, permissions: r }]", "permissions \"r\" alone"),
            ("deviceNodes: [{ path: dev/x }]", "not absolute"),
            ("mounts: [{ hostPath: /a, containerPath: /b, type: tmpfs }]", "type \"tmpfs\""),
            ("mounts: [{ hostPath: /a, containerPath: /b, options: [idmap] }]", "option \"idmap\""),
        ] {
            let said = with(more);
            assert!(said.starts_with("device \"v.com/c=a\" needs ") && said.contains(want), "{said}");
        }
    }
}
