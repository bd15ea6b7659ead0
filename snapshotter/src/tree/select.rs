//! The part of a tree that is read.

use crate::pattern::{has_wildcards, Glob, Matched, Patterns};

use super::cache::StatCache;
use super::error::rooted;
use super::resolve::{resolve, Found};
use super::scan::{self, Scan};
use super::{Error, Tree};

/// The union of some paths, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(pub Vec<SelectPath>);

/// One selected path and all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectPath {
    /// Slash-separated, rooted at the tree's root; `/` is the whole tree. A slash at the end: the directory's own
    /// metadata does not count.
    pub path: String,
    /// `path` is a pattern, each component a [`Glob`].
    pub wildcard: bool,
    /// A symbolic link as last component is followed (inside the tree); those before it always are.
    pub follow: bool,
    /// [`Patterns`] relative to `path`; when there are any, only what matches one is read.
    pub include: Vec<String>,
    /// [`Patterns`] relative to `path` of what is not read.
    pub exclude: Vec<String>,
}

impl Selection {
    /// Everything.
    pub fn all() -> Selection {
        Selection(vec![SelectPath::new("/")])
    }
}

impl SelectPath {
    /// One path and all below it; a link is followed.
    pub fn new(path: impl Into<String>) -> SelectPath {
        SelectPath { path: path.into(), follow: true, ..SelectPath::default() }
    }

    /// Whether what is selected counts with its names, since a pattern chose them.
    pub(super) fn is_pattern(&self) -> bool {
        self.wildcard && has_wildcards(&self.path)
    }
}

/// Walks what a path selects: one scan for each match, in order. The contents that `cache` knows are in them.
pub(super) fn scan(tree: Tree<'_>, what: &SelectPath, cache: Option<&StatCache>) -> Result<Vec<Scan>, Error> {
    let include = Patterns::new(&what.include)?;
    let exclude = Patterns::new(&what.exclude)?;
    let mut scans = Vec::new();
    for (path, base) in matches(tree, what)? {
        let missing = || Error::NotFound { path: rooted(&path) };
        let found = match resolve(tree.root, &path, what.follow, tree.filter) {
            Err(Error::NotDirectory { .. }) => return Err(missing()),
            other => other?,
        };
        let Found::Entry(entry) = found else { return Err(missing()) };
        match scan::walk(tree, entry, base, &include, &exclude, cache)? {
            Some(scan) => scans.push(scan),
            // A pattern may have met a directory of which the filter leaves nothing.
            None if what.is_pattern() => {}
            None => return Err(missing()),
        }
    }
    Ok(scans)
}

/// A path, and the name that a copy gives what is there.
type Match = (Vec<u8>, Vec<u8>);

/// The paths that a selected path stands for, each with the name that a copy would give it.
pub(super) fn matches(tree: Tree<'_>, what: &SelectPath) -> Result<Vec<Match>, Error> {
    if what.path.contains('\0') {
        return Err(Error::InvalidPath { path: what.path.clone() });
    }
    if !what.is_pattern() {
        let path = crate::pattern::clean(&format!("/{}", what.path));
        // `dir/.` keeps no name: it means what is in the directory.
        let name = path.rsplit('/').next().filter(|_| !what.path.ends_with("/."));
        let base = name.unwrap_or_default().as_bytes().to_vec();
        return Ok(vec![(path.into_bytes(), base)]);
    }
    let path = crate::pattern::clean(&format!("/{}", what.path));
    let components: Vec<&str> = path[1..].split('/').collect();
    let literal = components.iter().take_while(|part| !has_wildcards(part)).count();
    let start = format!("/{}", components[..literal].join("/"));
    let globs: Result<Vec<Glob>, _> = components[literal..].iter().map(|part| Glob::new(part)).collect();
    let globs = globs?;
    let base = match resolve(tree.root, start.as_bytes(), what.follow, tree.filter) {
        Ok(Found::Entry(entry)) if entry.is_dir() => entry,
        Ok(_) | Err(Error::NotDirectory { .. }) => return Ok(Vec::new()),
        Err(other) => return Err(other),
    };
    let mut level = vec![(base.real, start.into_bytes())];
    for (depth, glob) in globs.iter().enumerate() {
        let last = depth + 1 == globs.len();
        let mut next = Vec::new();
        for (real, shown) in level {
            // Links are not followed between wildcards, as the reference's walk does not.
            for (name, is_dir) in scan::names(tree, &real)? {
                if (is_dir || last) && glob.matches(&name) {
                    next.push((join(&real, &name), join(&shown, &name)));
                }
            }
        }
        level = next;
    }
    Ok(level
        .into_iter()
        .map(|(_, shown)| {
            let base = shown.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
            (shown, base)
        })
        .collect())
}

/// The paths that match a pattern, in order: each component of it is a [`Glob`], links before the first wildcard are
/// followed. A path without wildcards is its own match, whether it exists or not.
///
/// # Errors
/// [`Error::Pattern`], and what reading directories gives.
pub fn expand(tree: Tree<'_>, pattern: &str) -> Result<Vec<Vec<u8>>, Error> {
    let what = SelectPath { path: pattern.to_owned(), wildcard: true, ..SelectPath::default() };
    Ok(matches(tree, &what)?.into_iter().map(|(path, _)| path).collect())
}

/// One path below another.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() && !dir.ends_with(b"/") && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Whether the filter leaves a path; the state to walk on with if so.
pub(super) fn visible(tree: Tree<'_>, path: &[u8], is_dir: bool, parent: &Matched) -> Option<Matched> {
    let Some(filter) = tree.filter else { return Some(Matched::default()) };
    let matched = filter.step(parent, path);
    let seen = !matched.is_match() || is_dir && filter.may_differ_below(path, &matched);
    seen.then_some(matched)
}
