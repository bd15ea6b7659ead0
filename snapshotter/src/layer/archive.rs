//! Reads a tar stream entry by entry: headers in all their dialects, each with one meaning.
//!
//! Nothing here touches a file system. Extended records win over header fields, and what could be read in two ways
//! (two sizes, a name given twice) is refused, since two readers that disagree are how things get smuggled.

use std::io::Read;

use tar::{Header, UstarHeader};

use super::sparse::{self, Sparse};
use super::{number, pax};
use crate::error::{Error, Result};

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    CharacterDevice,
    BlockDevice,
    Fifo,
}

/// One entry, its content not read yet.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// As it stands in the tar; nothing is checked.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Where a link points.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    /// Major and minor number.
    pub(super) device: (u32, u32),
    /// How much content is stored.
    pub(super) size: u64,
    pub(super) sparse: Option<Sparse>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The most bytes of extended header an entry may have.
const LONGEST_EXTENSION: u64 = 1 << 20;

const BLOCK: usize = 512;

pub(super) struct Archive<R> {
    from: R,
    offset: u64,
    /// What is left of the current entry, content and padding.
    left: u64,
    padding: u64,
}

/// What extended headers said of the entry to come.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_name: Option<Vec<u8>>,
    sparse_version: (Option<u64>, Option<u64>),
    sparse_size: Option<u64>,
    sparse_map: Option<Vec<(u64, u64)>>,
    sparse_offset: Option<u64>,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, offset: 0, left: 0, padding: 0 }
    }

    /// Reads the next entry's headers, past what is left of the last one's content.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        let mut extension = Extension::default();
        // So many bytes of it: all that is kept at once.
        let mut extended = 0;
        let mut is_extended = false;
        loop {
            self.skip_rest()?;
            let Some(block) = self.header_block()? else {
                return match is_extended {
                    true => Err(self.bad("the archive ends after an extended header")),
                    false => Ok(None),
                };
            };
            let header = Header::from_byte_slice(&block);
            let stored = || number::unsigned(&header.as_old().size).filter(|size| *size <= i64::MAX as u64);
            let flag = header.as_old().linkflag[0];
            if !matches!(flag, b'x' | b'g' | b'L' | b'K') {
                return self.member(header, flag, extension).map(Some);
            }
            let size = stored().ok_or_else(|| self.bad("an extended header has no valid size"))?;
            if size > LONGEST_EXTENSION {
                return Err(self.bad("an extended header is longer than 1 MiB"));
            }
            self.expect_content(size);
            if flag == b'g' {
                // Comments and defaults for whole archives; no layer needs them, and other readers ignore them too.
                continue;
            }
            is_extended = true;
            extended += size;
            if extended > LONGEST_EXTENSION {
                return Err(self.bad("the extended headers of an entry are longer than 1 MiB"));
            }
            let mut content = vec![0; size as usize];
            self.read_content_exact(&mut content)?;
            let once = match flag {
                b'x' => extension.read(&content).map(|()| true),
                b'L' => Ok(extension.long_name.replace(until_nul(&content).to_owned()).is_none()),
                _ => Ok(extension.long_link.replace(until_nul(&content).to_owned()).is_none()),
            };
            match once {
                Ok(true) => {}
                Ok(false) => return Err(self.bad("an entry has two long names")),
                Err(reason) => return Err(self.bad(reason)),
            }
        }
    }

    fn member(&mut self, header: &Header, flag: u8, extension: Extension) -> Result<Member> {
        let old = header.as_old();
        let (mut path, mut link) = (until_nul(&old.name).to_owned(), until_nul(&old.linkname).to_owned());
        let (is_ustar, is_gnu) = (header.as_ustar().is_some(), header.as_gnu().is_some());
        let ustar = header.as_ustar();
        if let Some(prefix) = ustar.map(prefix_of).filter(|prefix| !prefix.is_empty()) {
            path = [prefix, b"/", &path].concat();
        }
        let same = |one: &Option<_>, other: &Option<_>| one.is_some() && other.is_some();
        if same(&extension.path, &extension.long_name) || same(&extension.link, &extension.long_link) {
            return Err(self.bad("an entry has two long names"));
        }
        if let Some(name) = extension.path.clone().or(extension.long_name.clone()) {
            path = name;
        }
        if let Some(target) = extension.link.clone().or(extension.long_link.clone()) {
            link = target;
        }
        let bad = |reason: &str| Error::BadEntry { entry: crate::error::shown(&path), reason: reason.to_owned() };
        let size = match extension.size {
            Some(size) => size,
            None => number::unsigned(&old.size).ok_or_else(|| bad("its size is no number"))?,
        };
        if size > i64::MAX as u64 {
            return Err(bad("its size is no file's"));
        }
        let kind = match flag {
            // Before there were types, a directory was a name with a slash at its end.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharacterDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(bad(&format!("its type `{}` is unknown", other.escape_ascii()))),
        };
        // Whatever the field says: only files have content. Readers agree on this.
        let stored = if kind == Kind::File { size } else { 0 };
        self.expect_content(stored);
        let field = |bytes: &[u8]| number::unsigned(bytes);
        let id = |extended: Option<u64>, bytes: &[u8]| {
            let id = extended.or_else(|| field(bytes)).and_then(|id| u32::try_from(id).ok());
            // The highest one means "unchanged" to the kernel.
            id.filter(|id| *id != u32::MAX).ok_or_else(|| bad("its owner is no user"))
        };
        let device = |bytes: &[u8; 8]| field(bytes).and_then(|n| u32::try_from(n).ok());
        let devices = match (&kind, header.as_ustar(), header.as_gnu()) {
            (Kind::CharacterDevice | Kind::BlockDevice, Some(ustar), _) => {
                device(&ustar.dev_major).zip(device(&ustar.dev_minor))
            }
            (Kind::CharacterDevice | Kind::BlockDevice, _, Some(gnu)) => {
                device(&gnu.dev_major).zip(device(&gnu.dev_minor))
            }
            _ => Some((0, 0)),
        };
        debug_assert!(!(is_ustar && is_gnu));
        let mut member = Member {
            kind,
            mode: field(&old.mode).ok_or_else(|| bad("its mode is no number"))? as u32 & 0o7777,
            uid: id(extension.uid, &old.uid)?,
            gid: id(extension.gid, &old.gid)?,
            mtime: match extension.mtime {
                Some(mtime) => mtime,
                None => (number::signed(&old.mtime).ok_or_else(|| bad("its time is no number"))?, 0),
            },
            device: devices.ok_or_else(|| bad("its device is no number"))?,
            size: stored,
            sparse: None,
            xattrs: extension.xattrs.clone(),
            link,
            path: path.clone(),
        };
        member.sparse = self.sparse_of(header, flag, &mut member, &extension)?;
        Ok(member)
    }

    fn sparse_of(
        &mut self,
        header: &Header,
        flag: u8,
        member: &mut Member,
        extension: &Extension,
    ) -> Result<Option<Sparse>> {
        let shown = crate::error::shown(&member.path);
        let bad = |reason: String| Error::BadEntry { entry: shown.clone(), reason };
        if let Some(name) = &extension.sparse_name {
            member.path = name.clone();
        }
        let (pieces, size) = match (flag, extension.sparse_version, &extension.sparse_map) {
            (b'S', ..) => {
                let gnu = header.as_gnu().ok_or_else(|| bad("it is sparse in no known format".to_owned()))?;
                let mut pieces = Vec::new();
                let bytes = header.as_bytes();
                sparse::old_map(&bytes[386..482], &mut pieces).map_err(&bad)?;
                let mut continues = gnu.isextended[0] == 1;
                while continues {
                    let mut block = [0; BLOCK];
                    self.fill(&mut block)?;
                    sparse::old_map(&block[..504], &mut pieces).map_err(&bad)?;
                    continues = block[504] == 1;
                }
                let size =
                    number::unsigned(&gnu.realsize).ok_or_else(|| bad("its real size is no number".to_owned()))?;
                (pieces, size)
            }
            (_, (Some(1), Some(0)), None) => {
                let (pieces, taken) = sparse::leading_map(|| {
                    let mut block = [0; BLOCK];
                    self.read_content_exact(&mut block)?;
                    Ok(block)
                })?
                .map_err(&bad)?;
                member.size -= taken;
                (pieces, extension.sparse_size.ok_or_else(|| bad("it is sparse without a size".to_owned()))?)
            }
            (_, (None | Some(0), None | Some(0 | 1)), Some(map)) => {
                (map.clone(), extension.sparse_size.ok_or_else(|| bad("it is sparse without a size".to_owned()))?)
            }
            (_, (None, None), None) => return Ok(None),
            _ => return Err(bad("it is sparse in no known format".to_owned())),
        };
        if member.kind != Kind::File {
            return Err(bad("only files can have holes".to_owned()));
        }
        Sparse::checked(pieces, size, member.size).map(Some).map_err(bad)
    }

    /// Reads content of the current entry, at most up to its end.
    pub(super) fn read_content(&mut self, into: &mut [u8]) -> Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let length = self.read_some(&mut into[..most])?;
        if length == 0 {
            return Err(self.bad("it ends inside an entry"));
        }
        self.left -= length as u64;
        Ok(length)
    }

    /// Reads to the end of the stream: what follows the last entry counts for its digest.
    pub(super) fn drain(&mut self) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        while self.read_some(&mut buffer)? > 0 {}
        Ok(())
    }

    fn read_content_exact(&mut self, mut into: &mut [u8]) -> Result<()> {
        if into.len() as u64 > self.left {
            return Err(self.bad("an entry is shorter than its own map"));
        }
        while !into.is_empty() {
            let length = self.read_content(into)?;
            into = &mut into[length..];
        }
        Ok(())
    }

    fn expect_content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        while self.left > 0 {
            self.read_content(&mut buffer)?;
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        self.fill(&mut buffer[..padding])
    }

    /// The next header; none at the end of the archive, which is a block of zeros or the end of the stream.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read_some(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(self.bad("it ends inside a header")),
                length => filled += length,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let wanted = number::signed(&block[148..156]);
        let field = 8 * i64::from(b' ');
        let sum = |of: fn(u8) -> i64| -> i64 {
            block.iter().enumerate().filter(|(at, _)| !(148..156).contains(at)).map(|(_, byte)| of(*byte)).sum::<i64>()
                + field
        };
        // Some old writers summed signed bytes.
        if wanted != Some(sum(i64::from)) && wanted != Some(sum(|byte| i64::from(byte as i8))) {
            return Err(self.bad("a header has a wrong checksum"));
        }
        Ok(Some(block))
    }

    fn fill(&mut self, mut into: &mut [u8]) -> Result<()> {
        while !into.is_empty() {
            match self.read_some(into)? {
                0 => return Err(self.bad("it ends inside an entry")),
                length => into = &mut into[length..],
            }
        }
        Ok(())
    }

    fn read_some(&mut self, into: &mut [u8]) -> Result<usize> {
        loop {
            match self.from.read(into) {
                Ok(length) => {
                    self.offset += length as u64;
                    return Ok(length);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Input { what: "layer", source }),
            }
        }
    }

    fn bad(&self, reason: impl Into<String>) -> Error {
        Error::BadTar { offset: self.offset, reason: reason.into() }
    }
}

impl Extension {
    fn read(&mut self, content: &[u8]) -> Result<(), String> {
        let number = |key: &str, value| pax::decimal(value).ok_or_else(|| format!("`{key}` is no number"));
        for (key, value) in pax::records(content)? {
            let is_text = matches!(key, b"path" | b"linkpath" | b"GNU.sparse.name");
            if is_text && value.contains(&0) {
                return Err("a name has a NUL in it".to_owned());
            }
            match key {
                // An empty value takes back what a global header said; there is nothing to take back.
                b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" if value.is_empty() => {}
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => {
                    if self.size.replace(number("size", value)?).is_some() {
                        return Err("an entry has two sizes".to_owned());
                    }
                }
                b"uid" => self.uid = Some(number("uid", value)?),
                b"gid" => self.gid = Some(number("gid", value)?),
                b"mtime" => self.mtime = Some(pax::time(value).ok_or("`mtime` is no time")?),
                b"GNU.sparse.name" => self.sparse_name = Some(value.to_owned()),
                b"GNU.sparse.major" => self.sparse_version.0 = Some(number("GNU.sparse.major", value)?),
                b"GNU.sparse.minor" => self.sparse_version.1 = Some(number("GNU.sparse.minor", value)?),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                    self.sparse_size = Some(number("GNU.sparse.realsize", value)?);
                }
                b"GNU.sparse.map" => self.sparse_map = Some(sparse::comma_map(value)?),
                b"GNU.sparse.offset" => self.sparse_offset = Some(number("GNU.sparse.offset", value)?),
                b"GNU.sparse.numbytes" => {
                    let offset = self.sparse_offset.take().ok_or("a sparse map has a length without an offset")?;
                    let map = self.sparse_map.get_or_insert_default();
                    sparse::push(map, offset, number("GNU.sparse.numbytes", value)?)?;
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.").filter(|name| !name.contains(&0)) {
                        self.xattrs.push((pax::unescape(name), value.to_owned()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// The first part of a long name; an older dialect with the same magic uses the last bytes of it for times.
fn prefix_of(ustar: &UstarHeader) -> &[u8] {
    match ustar.as_header().as_bytes()[508..512] == *b"tar\0" {
        true => until_nul(&ustar.prefix[..131]),
        false => until_nul(&ustar.prefix),
    }
}
