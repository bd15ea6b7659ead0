//! What a frontend returns: for each platform an image's configuration, and the files it is about.

use std::collections::BTreeMap;

use frontend::Target;
use serde_json::{json, Value};
use solver::graph::Platform;

use super::job::Tree;
use super::statements::Statements;

/// What a frontend returns.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// One for each platform, in the order of the index to be.
    pub products: Vec<Product>,
    /// An index is wanted, even of one image.
    pub index: bool,
    /// The time of all that is written, if the frontend says one; seconds since 1970.
    pub epoch: Option<i64>,
    /// What the frontend wants the client to know, by its own keys (`frontend.…`, `result.json`).
    pub metadata: BTreeMap<String, Vec<u8>>,
}

/// An image to be.
#[derive(Clone, Debug)]
pub struct Product {
    /// For which platform.
    pub platform: Platform,
    /// Its configuration document, whose layers are filled in at export; none where only files were asked for.
    pub config: Option<Value>,
    /// How much of the configuration is the base image's.
    pub base: Base,
    /// Its files; `None` is an empty tree.
    pub tree: Option<Tree>,
    /// More files that count for what is in it, by name: earlier stages, the context.
    pub scans: BTreeMap<String, Tree>,
    /// What the frontend says of it.
    pub statements: Vec<Statements>,
}

/// How much of an image is its base's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// So many of its layers, from below.
    pub layers: usize,
    /// So many of its history entries, from the first.
    pub history: usize,
}

impl Base {
    /// Counts what a base image's configuration document has.
    pub fn of_config(config: &Value) -> Base {
        let count = |pointer: &str| config.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len);
        Base { layers: count("/rootfs/diff_ids"), history: count("/history") }
    }
}

impl Product {
    /// A product of which nothing more is said.
    pub fn new(platform: Platform, config: Option<Value>, base: Base, tree: Option<Tree>) -> Product {
        Product { platform, config, base, tree, scans: BTreeMap::new(), statements: Vec::new() }
    }

    /// The base image's part of the configuration, for those who count layers by it.
    pub fn base_config(&self) -> Option<Value> {
        let config = self.config.as_ref().filter(|_| self.base != Base::default())?;
        let first = |pointer: &str, count: usize| -> Vec<Value> {
            config.pointer(pointer).and_then(Value::as_array).into_iter().flatten().take(count).cloned().collect()
        };
        Some(json!({
            "architecture": config.get("architecture"),
            "os": config.get("os"),
            "rootfs": { "type": "layers", "diff_ids": first("/rootfs/diff_ids", self.base.layers) },
            "history": first("/history", self.base.history),
        }))
    }
}

impl Outcome {
    /// What the built-in frontend made; `trees` are those of the targets' files, where they have some, each before what
    /// is scanned with them.
    pub(crate) fn of_targets(targets: Vec<Target>, trees: &mut impl Iterator<Item = Tree>, index: bool) -> Outcome {
        let product = |target: Target| {
            let tree = target.output.and_then(|_| trees.next());
            let scans = target.scans.into_keys().zip(&mut *trees).collect();
            let base = Base { layers: target.base_layers, history: target.base_history };
            // A configuration is plain data with text keys: it always serializes.
            let config = serde_json::to_value(&target.config).ok();
            Product { scans, ..Product::new(target.platform, config, base, tree) }
        };
        Outcome { products: targets.into_iter().map(product).collect(), index, ..Outcome::default() }
    }
}
