//! Makes tars by hand, wrong ones too, which no honest writer would make.

use std::io::Read;

use tar::Header;

use crate::digest::{DiffId, Digest};
use crate::error::Result;
use crate::layer::{apply, pax, Limits};
use crate::snapshot::Active;
use crate::testing::listing;
use crate::{Lease, Store};

/// A tar being written.
#[derive(Default, Clone)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// An entry with a header that `adjust` may still change; the checksum is made after it.
    pub(super) fn entry(mut self, flag: u8, path: &[u8], content: &[u8], adjust: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkflag = [flag];
        header.set_mode(if flag == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        adjust(&mut header);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.raw(content)
    }

    /// Bytes as they are, padded to a block.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, path: &[u8], content: &[u8]) -> Self {
        self.entry(b'0', path, content, |_| {})
    }

    pub(super) fn directory(self, path: &[u8]) -> Self {
        self.entry(b'5', path, b"", |_| {})
    }

    pub(super) fn symlink(self, path: &[u8], target: &[u8]) -> Self {
        self.entry(b'2', path, b"", |header| header.as_old_mut().linkname[..target.len()].copy_from_slice(target))
    }

    pub(super) fn hardlink(self, path: &[u8], target: &[u8]) -> Self {
        self.entry(b'1', path, b"", |header| header.as_old_mut().linkname[..target.len()].copy_from_slice(target))
    }

    /// Extended records for the entry that follows.
    pub(super) fn extended(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            pax::append(&mut bytes, key.as_bytes(), value);
        }
        self.entry(b'x', b"extended", &bytes, |_| {})
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    pub(super) fn without_end(self) -> Vec<u8> {
        self.bytes
    }
}

/// Unpacks into an empty tree and lists it.
pub(super) fn unpacked(store: &Store, lease: &Lease, tar: &[u8]) -> Result<Vec<String>> {
    let active = store.prepare(None, lease)?;
    let diff_id = apply(tar, &active, &Limits::default())?;
    assert_eq!(diff_id, DiffId(Digest::of(tar)), "the diff id counts every byte");
    Ok(listing(&active.upper()))
}

/// Unpacks into an upper over what `below` unpacks to; returns the tree to look into.
pub(super) fn stacked(store: &Store, lease: &Lease, below: &[u8], tar: impl Read) -> Result<Active> {
    let base = store.prepare(None, lease)?;
    apply(below, &base, &Limits::default())?;
    let base = store.commit(base, lease)?;
    let active = store.prepare(Some(&base.id), lease)?;
    apply(tar, &active, &Limits::default())?;
    Ok(active)
}
