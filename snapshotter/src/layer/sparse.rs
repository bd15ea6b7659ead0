//! Files with holes, in the forms GNU tar writes: where the stored pieces belong.
//!
//! <https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html>

use super::{number, pax};

/// Where the content of a file with holes belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Offset and length of each stored piece, ascending.
    pub(super) pieces: Vec<(u64, u64)>,
    /// The file's length.
    pub(super) size: u64,
}

/// More pieces than this are no file of this world.
const MOST_PIECES: usize = 1 << 20;

impl Sparse {
    /// Checks that the pieces ascend, stay inside the file, and are as long as what is stored.
    pub(super) fn checked(pieces: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Self, String> {
        let (mut end, mut total) = (0, 0u64);
        for (offset, length) in &pieces {
            let piece_end = offset.checked_add(*length).filter(|piece_end| *piece_end <= size);
            let (true, Some(piece_end)) = (*offset >= end, piece_end) else {
                return Err("the pieces of the sparse file overlap or leave it".to_owned());
            };
            end = piece_end;
            total += length;
        }
        if total != stored || i64::try_from(size).is_err() {
            return Err("the pieces of the sparse file are not as long as its content".to_owned());
        }
        Ok(Self { pieces, size })
    }
}

/// Reads the map of the old format: pairs of 12-byte fields; an empty one ends it.
pub(super) fn old_map(fields: &[u8], into: &mut Vec<(u64, u64)>) -> Result<(), String> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            return Ok(());
        }
        let (offset, length) = (number::unsigned(&pair[..12]), number::unsigned(&pair[12..]));
        let (Some(offset), Some(length)) = (offset, length) else {
            return Err("the sparse map has no numbers".to_owned());
        };
        push(into, offset, length)?;
    }
    Ok(())
}

/// Reads the map of format 0.1: numbers between commas.
pub(super) fn comma_map(text: &[u8]) -> Result<Vec<(u64, u64)>, String> {
    let mut pieces = Vec::new();
    if text.is_empty() {
        return Ok(pieces);
    }
    let numbers: Option<Vec<u64>> = text.split(|byte| *byte == b',').map(pax::decimal).collect();
    let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0).ok_or("the sparse map has no pairs of numbers")?;
    for pair in numbers.chunks_exact(2) {
        push(&mut pieces, pair[0], pair[1])?;
    }
    Ok(pieces)
}

/// The pieces of a map, and how many bytes it took; or what is wrong with it.
type LeadingMap = Result<(Vec<(u64, u64)>, u64), String>;

/// Reads the map of format 1.0 from before the content, block by block.
pub(super) fn leading_map(mut next_block: impl FnMut() -> crate::Result<[u8; 512]>) -> crate::Result<LeadingMap> {
    let mut taken = 0;
    let mut numbers = Vec::new();
    let mut digits = Vec::new();
    let mut wanted = None;
    while wanted.is_none_or(|wanted| numbers.len() < wanted) {
        let block = next_block()?;
        taken += block.len() as u64;
        for byte in block {
            if wanted.is_some_and(|wanted| numbers.len() >= wanted) {
                break;
            }
            if byte != b'\n' {
                digits.push(byte);
                if digits.len() > 20 {
                    return Ok(Err("the sparse map has no numbers".to_owned()));
                }
                continue;
            }
            let Some(number) = pax::decimal(&digits) else {
                return Ok(Err("the sparse map has no numbers".to_owned()));
            };
            digits.clear();
            if wanted.is_some() {
                numbers.push(number);
            } else if number > MOST_PIECES as u64 {
                return Ok(Err("the sparse map has too many pieces".to_owned()));
            } else {
                wanted = Some(2 * number as usize);
            }
        }
    }
    Ok(Ok((numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), taken)))
}

pub(super) fn push(into: &mut Vec<(u64, u64)>, offset: u64, length: u64) -> Result<(), String> {
    if into.len() >= MOST_PIECES {
        return Err("the sparse map has too many pieces".to_owned());
    }
    into.push((offset, length));
    Ok(())
}
