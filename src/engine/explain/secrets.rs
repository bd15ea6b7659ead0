//! Whether a cached result was made with other secrets than those of now.
//!
//! A record keeps four bytes of a salted hash of each secret: enough to see that a secret changed, too few to tell which
//! of many guesses was right. Values are never kept.

use serde::{Deserialize, Serialize};
use solver::graph::op::{MountKind, RunOp};
use solver::graph::{Op, Vertex};

use crate::engine::Client;

/// A secret that a step was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marked {
    /// Its id.
    pub id: String,
    /// 16 random bytes, in hex.
    pub salt: String,
    /// Four bytes, in hex; empty when there was no such secret.
    pub mark: String,
}

/// The ids of the secrets that a vertex asks for.
pub(crate) fn ids(vertex: &Vertex) -> Vec<String> {
    let Op::Run(RunOp { mounts, secret_env, .. }) = &vertex.op else { return Vec::new() };
    let mounted = mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Secret(secret) => Some(secret.id.clone()),
        _ => None,
    });
    let mut ids: Vec<String> = mounted.chain(secret_env.iter().map(|secret| secret.id.clone())).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// The secrets of a vertex as they are now.
pub(crate) async fn given(client: &dyn Client, vertex: &Vertex) -> Vec<Marked> {
    let mut marked = Vec::new();
    for id in ids(vertex) {
        let salt = hex::encode(&snapshotter::SnapshotId::random().0[..16]);
        let mark = mark_of(client, &id, &salt).await;
        marked.push(Marked { id, salt, mark });
    }
    marked
}

/// The ids of those that are not what they were, each with whether it was given then and now.
pub(crate) async fn changed(client: &dyn Client, earlier: &[Marked]) -> Vec<String> {
    let mut told = Vec::new();
    for Marked { id, salt, mark } in earlier {
        let now = mark_of(client, id, salt).await;
        if now == *mark {
            continue;
        }
        let how = match (mark.is_empty(), now.is_empty()) {
            (true, _) => "was not given when its result was made",
            (_, true) => "was given when its result was made, and is not now",
            _ => "changed since its result was made",
        };
        told.push(format!("secret {id} {how}; the cached result is used, as secrets are no part of a key"));
    }
    told
}

/// What the client does not tell counts as not given.
async fn mark_of(client: &dyn Client, id: &str, salt: &str) -> String {
    let Ok(Some(secret)) = client.secret(id).await else { return String::new() };
    let mut hasher = blake3::Hasher::new_derive_key("rbuild secret mark");
    hasher.update(salt.as_bytes()).update(secret.bytes());
    hex::encode(&hasher.finalize().as_bytes()[..4])
}
