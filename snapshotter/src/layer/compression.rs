//! The compressions of layers: told apart by their first bytes, and undone.

use std::io::{self, BufRead, BufReader, Read};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// gzip, levels 1 to 9.
    Gzip {
        /// 1 to 9; others are brought into the range.
        level: u32,
    },
    /// zstd, levels 1 to 19.
    Zstd {
        /// 1 to 19; others are brought into the range.
        level: u32,
    },
}

impl Compression {
    /// The level the compressor is told.
    pub(super) fn level(self) -> u32 {
        match self {
            Self::Uncompressed => 0,
            Self::Gzip { level } => level.clamp(1, 9),
            // Higher ones need more memory to unpack than other tools grant.
            Self::Zstd { level } => level.clamp(1, 19),
        }
    }

    /// What blobs made this way are remembered by; a change of their bytes changes it.
    pub fn codec(self) -> String {
        match self {
            Self::Uncompressed => "tar".to_owned(),
            Self::Gzip { .. } => format!("gzip-zlibrs-1m-{}", self.level()),
            Self::Zstd { .. } => format!("zstd-4m-{}", self.level()),
        }
    }

    /// The layer's media type in OCI documents.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Uncompressed => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip { .. } => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Whether `other` is the same format, at whatever level.
    pub(super) fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// The most memory a zstd stream may ask for, as a power of two.
const LARGEST_WINDOW: u32 = 27;

/// Undoes whatever compression the first bytes tell of; returns it with the plain bytes.
///
/// Everything up to the end of the input is read: several gzip members or zstd frames are one stream.
pub(super) fn decompress<'a>(from: impl Read + Send + 'a) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut from = BufReader::with_capacity(128 << 10, Prefixed::new(from)?);
    let first = from.fill_buf()?;
    if first.starts_with(&[0x1f, 0x8b]) {
        return Ok((Compression::Gzip { level: 6 }, Box::new(flate2::bufread::MultiGzDecoder::new(from))));
    }
    // A skippable frame may come first.
    let is_zstd = first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || (first.len() >= 4 && first[0] & 0xf0 == 0x50 && first[1..4] == [0x2a, 0x4d, 0x18]);
    if is_zstd {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(from)?;
        decoder.window_log_max(LARGEST_WINDOW)?;
        return Ok((Compression::Zstd { level: 3 }, Box::new(decoder)));
    }
    Ok((Compression::Uncompressed, Box::new(from)))
}

/// Gives the first bytes all at once, however small the pieces they come in.
struct Prefixed<R> {
    first: [u8; 4],
    given: usize,
    length: usize,
    rest: R,
}

impl<R: Read> Prefixed<R> {
    fn new(mut rest: R) -> io::Result<Self> {
        let (mut first, mut length) = ([0; 4], 0);
        while length < first.len() {
            match rest.read(&mut first[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { first, given: 0, length, rest })
    }
}

impl<R: Read> Read for Prefixed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.length {
            return self.rest.read(into);
        }
        let length = into.len().min(self.length - self.given);
        into[..length].copy_from_slice(&self.first[self.given..self.given + length]);
        self.given += length;
        Ok(length)
    }
}
