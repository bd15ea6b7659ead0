//! Archives that ADD extracts.

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};

use lzma_rust2::XzReader;

use crate::pattern::clean;

use super::super::content::{open, read_all};
use super::super::error::{rooted, Error};
use super::super::resolve::{make_parents, set_times};
use super::super::scan::{Kind, Scan};
use super::{Change, CopyRequest};

/// The most memory an xz stream may ask for, in KiB: twice what `xz -9` needs.
const XZ_MEMORY: u32 = 128 << 10;
/// The most memory a zstd stream may ask for, as a power of two.
const LARGEST_WINDOW: u32 = 27;

/// How a tar archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// <https://sourceware.org/bzip2/>.
    Bzip2,
    /// <https://tukaani.org/xz/xz-file-format.txt>.
    Xz,
    /// RFC 8878.
    Zstd,
}

/// A tar archive to be extracted.
pub struct Archive<'a> {
    /// At its start.
    pub file: File,
    /// As its first bytes say.
    pub compression: Compression,
    /// The directory to extract into.
    pub dest: BorrowedFd<'a>,
    /// What becomes different: the owner and time of all entries.
    pub change: &'a Change,
}

/// Extracts an archive.
pub type Unpack<'a> = &'a (dyn Fn(Archive<'_>) -> Result<(), Box<dyn StdError + Send + Sync>> + Sync);

/// Extracts a scan that is an archive, if the request says so; false if it is to be copied.
pub(super) fn try_unpack(scan: &mut Scan, dest: BorrowedFd<'_>, request: &CopyRequest<'_>) -> Result<bool, Error> {
    let Some(unpack) = request.unpack else { return Ok(false) };
    if scan.nodes[0].kind != Kind::File {
        return Ok(false);
    }
    let real = scan.entry.real.clone();
    let unreadable = |source: io::Error| Error::unreadable(&real, source);
    let mut file = File::from(open(scan, 0, scan.entry.dir.as_fd())?);
    let compression = match sniff(&mut file).map_err(unreadable)? {
        Sniffed::Tar(compression) => compression,
        Sniffed::Other => return Ok(false),
        Sniffed::TooLarge(compression) => return Err(Error::Memory { path: rooted(&real), compression }),
    };
    // The archive's bytes are the content that counts; they are hashed here and read again by the extraction.
    file.rewind().map_err(unreadable)?;
    let hashed = file.try_clone().map_err(unreadable)?.into();
    let mut hasher = blake3::Hasher::new();
    read_all(scan, 0, &hashed, &mut Vec::new(), &mut |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    file.rewind().map_err(unreadable)?;
    let path = clean(&format!("/{}", request.to.path));
    let (dir, dir_path, made) = make_parents(dest, path.as_bytes(), 0o755, request.change)?;
    let dir =
        super::super::resolve::open_beneath(dir.as_fd(), b"").map_err(|errno| Error::unwritable(&dir_path, errno))?;
    let archive = Archive { file, compression, dest: dir.as_fd(), change: request.change };
    unpack(archive).map_err(|source| Error::Unpack { path: rooted(&real), source })?;
    super::super::content::check(scan, 0, &hashed)?;
    set_times(&made, request.change).map_err(|errno| Error::unwritable(&dir_path, errno))?;
    scan.contents = vec![*hasher.finalize().as_bytes()];
    Ok(true)
}

impl Compression {
    /// What the first bytes of a file tell of.
    fn told_by(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
            [b'B', b'Z', b'h', _, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ if is_skippable_frame(head) => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// Undoes it. Several streams one after the other are one.
    pub(super) fn undo<'r>(self, from: impl BufRead + 'r) -> io::Result<Box<dyn Read + 'r>> {
        Ok(match self {
            Compression::None => Box::new(from),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(from)),
            Compression::Xz => Box::new(XzReader::new_mem_limit(from, true, XZ_MEMORY)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(from)?;
                decoder.window_log_max(LARGEST_WINDOW)?;
                Box::new(decoder)
            }
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Sniffed {
    Tar(Compression),
    /// Nobody knows what is in it.
    TooLarge(&'static str),
    Other,
}

fn sniff(file: &mut File) -> io::Result<Sniffed> {
    let mut head = Vec::with_capacity(512);
    file.take(512).read_to_end(&mut head)?;
    if is_tar(&head) {
        return Ok(Sniffed::Tar(Compression::None));
    }
    let compression = Compression::told_by(&head);
    if compression == Compression::None {
        return Ok(Sniffed::Other);
    }
    file.rewind()?;
    let mut block = Vec::with_capacity(512);
    let inside = compression.undo(BufReader::new(&*file)).and_then(|inside| inside.take(512).read_to_end(&mut block));
    Ok(match inside {
        Ok(_) if is_tar(&block) => Sniffed::Tar(compression),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Sniffed::TooLarge("xz"),
        // The library has no code for it.
        Err(error) if error.to_string().contains("too much memory") => Sniffed::TooLarge("zstd"),
        // What does not decompress is an ordinary file.
        _ => Sniffed::Other,
    })
}

/// Whether a file that begins so is an archive, or something compressed that may be one.
pub fn begins_as_archive(head: &[u8]) -> bool {
    is_tar(head) || Compression::told_by(head) != Compression::None
}

fn is_skippable_frame(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Whether this is a tar header: its checksum is right, summed with the field itself as spaces.
fn is_tar(block: &[u8]) -> bool {
    let Some(block) = block.get(..512) else { return false };
    let mut digits = block[148..156].iter().filter(|byte| !matches!(byte, b' ' | 0));
    let told = digits.try_fold(0_u32, |sum, digit| match digit {
        b'0'..=b'7' => Some(sum * 8 + u32::from(digit - b'0')),
        _ => None,
    });
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) })
        .sum();
    let blank = block.iter().all(|byte| *byte == 0);
    !blank && told == Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_texts() {
        let mut header = tar::Header::new_old();
        header.set_path("a").unwrap();
        header.set_cksum();
        for head in [&b"\x1f\x8b\x08\0"[..], b"BZh91AY&SY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", header.as_bytes()] {
            assert!(begins_as_archive(head), "{head:?}");
        }
        for head in [&b"FROM scratch\n"[..], b"", b"BZh is no archive", &[b' '; 512]] {
            assert!(!begins_as_archive(head), "{head:?}");
        }
    }
}
