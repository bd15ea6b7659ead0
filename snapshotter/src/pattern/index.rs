//! Which of many patterns could match a path, by a piece of a name that each of them asks for.
//!
//! A pattern is found under the rarest of its pieces, so that thousands that differ in one piece are not tried one by one.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::program::State;

/// Patterns by their pieces.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_start: ByPiece,
    by_end: ByPiece,
    /// Those that ask for no piece.
    others: Vec<u32>,
}

/// Patterns by a piece, and how long pieces are, in bytes.
#[derive(Debug, Default)]
struct ByPiece {
    patterns: HashMap<Box<[u8]>, Vec<u32>>,
    lengths: BTreeSet<usize>,
}

impl ByPiece {
    fn add(&mut self, piece: Box<[u8]>, pattern: u32) {
        self.lengths.insert(piece.len());
        self.patterns.entry(piece).or_default().push(pattern);
    }
}

/// Text that some name in a matching path begins or ends with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Piece {
    Start(Box<[u8]>),
    End(Box<[u8]>),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Start(text) | Piece::End(text) => text.len(),
        }
    }
}

impl Index {
    /// Sorts patterns, each given with its number, by their pieces.
    pub fn new<'a>(patterns: impl Iterator<Item = (u32, &'a [State])>) -> Index {
        let patterns: Vec<(u32, Vec<Piece>)> = patterns.map(|(number, states)| (number, pieces(states))).collect();
        let mut users: HashMap<&Piece, u32> = HashMap::new();
        for piece in patterns.iter().flat_map(|(_, pieces)| pieces) {
            *users.entry(piece).or_default() += 1;
        }
        let rarest =
            |pieces: &[Piece]| pieces.iter().min_by_key(|piece| (users.get(piece), Reverse(piece.len()))).cloned();
        let chosen: Vec<(u32, Option<Piece>)> =
            patterns.iter().map(|(number, pieces)| (*number, rarest(pieces))).collect();
        let mut index = Index::default();
        for (number, piece) in chosen {
            match piece {
                Some(Piece::Start(piece)) => index.by_start.add(piece, number),
                Some(Piece::End(piece)) => index.by_end.add(piece, number),
                None => index.others.push(number),
            }
        }
        index
    }

    /// The patterns that could match `path`, in order, each once.
    pub fn candidates(&self, path: &[u8]) -> Vec<u32> {
        let mut found = self.others.clone();
        if !self.by_start.lengths.is_empty() || !self.by_end.lengths.is_empty() {
            for name in path.split(|byte| *byte == b'/') {
                let fits = |length: &&usize| **length <= name.len();
                for length in self.by_start.lengths.iter().take_while(fits) {
                    found.extend(self.by_start.patterns.get(&name[..*length]).into_iter().flatten());
                }
                for length in self.by_end.lengths.iter().take_while(fits) {
                    found.extend(self.by_end.patterns.get(&name[name.len() - length..]).into_iter().flatten());
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The pieces that a pattern asks for: text at the begin or the end of a name.
fn pieces(states: &[State]) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut piece = String::new();
    // Whether the piece stands where a name begins.
    let mut begins = true;
    for at in 0..=states.len() {
        let literal = match states.get(at) {
            // What stands for bytes that are no text is not found by them.
            Some(State::Char(c)) if *c != '/' && *c != char::REPLACEMENT_CHARACTER => {
                piece.push(*c);
                continue;
            }
            state => state,
        };
        let ends = matches!(literal, None | Some(State::Char('/')));
        let bytes: Box<[u8]> = std::mem::take(&mut piece).into_bytes().into();
        if !bytes.is_empty() && begins {
            found.push(Piece::Start(bytes));
        } else if !bytes.is_empty() && ends {
            found.push(Piece::End(bytes));
        }
        begins = matches!(literal, Some(State::Char('/') | State::Tree | State::Inside));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::program::Program;
    use super::*;

    fn index(patterns: &[&str]) -> Index {
        let programs: Vec<Program> = patterns.iter().map(|pattern| Program::compile(pattern).unwrap()).collect();
        let states = programs.iter().enumerate().map(|(at, program)| match program {
            Program::States { states, .. } => (at as u32, &states[..]),
            other => panic!("{other:?}"),
        });
        Index::new(states)
    }

    #[test]
    fn patterns_are_found_under_their_rarest_piece() {
        let index = index(&["src/**/*.o1", "src/**/*.o2", "*/x3*/**/y", "?*", "a*b", "**/c?d/e", "src/[a-z]"]);
        for (path, expected) in [
            ("src/a/b.o1", vec![0, 3, 4, 6]),
            ("src/b.o2", vec![1, 3, 6]),
            ("q/x33/y", vec![2, 3]),
            ("q/axb", vec![3, 4]),
            ("z", vec![3]),
            ("cxd/e", vec![3, 5]),
            ("", vec![3]),
        ] {
            assert_eq!(index.candidates(path.as_bytes()), expected, "{path}");
        }
    }
}
