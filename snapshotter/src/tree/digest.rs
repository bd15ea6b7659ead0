//! What a selected tree contains, as one number.

use rayon::prelude::*;

use super::scan::{Kind, Node, Scan};
use super::select::SelectPath;
use super::Ownership;
use crate::digest::TreeDigest;

impl TreeDigest {
    /// The digest of a selection from the digests of its paths, each taken as a selection of its own.
    pub fn join(parts: &[TreeDigest]) -> TreeDigest {
        if let [only] = parts {
            return *only;
        }
        let mut text = Writer::new(b'S');
        text.number(parts.len() as u64);
        for part in parts {
            text.0.extend_from_slice(&part.0);
        }
        TreeDigest(text.hash())
    }
}

/// The digest of one selected path, whose files were all read.
pub(super) fn of_path(what: &SelectPath, scans: &[Scan]) -> TreeDigest {
    let bare = what.path.ends_with('/') || what.path.ends_with("/.") || what.path.is_empty() || what.path == ".";
    if !what.is_pattern() {
        if let [scan] = scans {
            return TreeDigest(of_scan(scan, bare));
        }
    }
    let mut text = Writer::new(b'W');
    text.number(scans.len() as u64);
    for scan in scans {
        text.bytes(&scan.base);
        text.0.extend_from_slice(&of_scan(scan, bare));
    }
    TreeDigest(text.hash())
}

fn of_scan(scan: &Scan, bare: bool) -> [u8; 32] {
    let leaves = scan.nodes.par_iter().enumerate().with_min_len(256).map(|(index, node)| match node.kind {
        Kind::Dir => [0; 32],
        _ if !node.kept => [0; 32],
        _ => of_leaf(scan, index as u32, node),
    });
    let mut digests: Vec<[u8; 32]> = leaves.collect();
    // From the last to the first: all entries of a directory are known before the directory.
    for (index, node) in scan.nodes.iter().enumerate().rev() {
        if !node.kept || node.kind != Kind::Dir {
            continue;
        }
        let mut text = Writer::new(b'd');
        if index != 0 || !bare {
            header(&mut text, node, scan.ownership);
        }
        for at in node.entries() {
            if scan.nodes[at as usize].kept {
                text.bytes(scan.own_name(at));
                text.0.extend_from_slice(&digests[at as usize]);
            }
        }
        digests[index] = text.hash();
    }
    digests[0]
}

fn of_leaf(scan: &Scan, index: u32, node: &Node) -> [u8; 32] {
    let mut text = Writer::new(match node.kind {
        Kind::File => b'f',
        Kind::Dir => b'd',
        Kind::Symlink => b'l',
        Kind::Fifo => b'p',
        Kind::CharDevice => b'c',
        Kind::BlockDevice => b'b',
    });
    header(&mut text, node, scan.ownership);
    match node.kind {
        Kind::File => {
            text.number(scan.states[index as usize].size);
            text.0.extend_from_slice(&scan.content(index));
        }
        Kind::Symlink => text.bytes(node.link()),
        Kind::CharDevice | Kind::BlockDevice => text.number(node.rdev()),
        Kind::Fifo | Kind::Dir => {}
    }
    text.hash()
}

fn header(text: &mut Writer, node: &Node, ownership: Ownership) {
    if node.kind != Kind::Symlink {
        text.number(u64::from(node.mode()));
    }
    if ownership == Ownership::Kept {
        text.number(u64::from(node.uid));
        text.number(u64::from(node.gid));
    }
    let xattrs = node.xattrs();
    text.number(xattrs.len() as u64);
    for (name, value) in xattrs {
        text.bytes(name);
        text.bytes(value);
    }
}

/// Bytes to be hashed, such that different parts never give equal bytes.
struct Writer(Vec<u8>);

impl Writer {
    fn new(tag: u8) -> Writer {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[b'1', tag]);
        Writer(bytes)
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }
}
