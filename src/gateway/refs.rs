//! Results by the names that frontends have for them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::engine::Tree;
use crate::wire::failure::Failure;
use crate::wire::proto::gateway::Ref;
use tonic::Code;

/// The results that a frontend was told of.
#[derive(Debug, Default)]
pub(super) struct Refs(Mutex<HashMap<String, Tree>>);

impl Refs {
    /// Gives a result a name. The name of an empty tree is empty.
    pub(super) fn name(&self, tree: Option<&Tree>) -> Ref {
        let Some(tree) = tree else { return Ref::default() };
        let id = snapshotter::SnapshotId::random().to_string();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), tree.clone());
        Ref { id, def: Some(tree.definition()) }
    }

    /// The result of a name; `None` is an empty tree.
    pub(super) fn get(&self, id: &str) -> Result<Option<Tree>, Failure> {
        if id.is_empty() {
            return Ok(None);
        }
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(id).cloned();
        known.map(Some).ok_or_else(|| {
            let shown: String = id.chars().take(100).collect();
            Failure::new(Code::NotFound, format!("no such ref: {shown}"))
        })
    }

    /// The result of a name that must be one.
    pub(super) fn files(&self, id: &str) -> Result<Tree, Failure> {
        self.get(id)?.ok_or_else(|| Failure::new(Code::NotFound, "empty ref: there are no files in it"))
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
