//! The part of an input that an op reads, and whether only that part counts.

use serde::{Deserialize, Serialize};

/// How an input enters the cache key of the vertex that uses it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Via {
    /// The whole tree counts, by its identity digest: a writable root, the base of a file op, merge and diff inputs.
    Identity,
    /// Only the selected files count, by their content: COPY sources, read-only mounts.
    Content(Selector),
}

/// Which files of a tree are read: the union of its paths, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector(pub Vec<PathSelector>);

/// One selected path and all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PathSelector {
    /// Slash-separated, rooted at the tree's root (a leading slash makes no difference); `/` is the whole tree.
    pub path: String,
    /// `path` is a pattern: `*`, `?`, `[…]` and `\` within one component, as Go's `filepath.Match`.
    pub wildcard: bool,
    /// A symbolic link as last component is followed (inside the tree); those before it always are.
    pub follow: bool,
    /// Patterns relative to `path`; when there are any, only what matches one is read.
    pub include: Vec<String>,
    /// Patterns relative to `path` of what is not read.
    pub exclude: Vec<String>,
}

impl Selector {
    /// Selects one path and all below it.
    pub fn path(path: impl Into<String>) -> Selector {
        Selector(vec![PathSelector { path: path.into(), follow: true, ..PathSelector::default() }])
    }
}
