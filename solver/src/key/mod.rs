//! Under what a result is kept: keys, and the readable parts they are made of.
//!
//! A key is the hash of its [`KeyParts`], so two keys differ exactly where a person can see a difference in the parts.
//! Nothing here is compared between builders: other builders have other keys.
//!
//! - `id`: the names of keys, records and content.
//! - `parts`: what a key is made of.
//! - `op`: an op as parts, without what does not change its result.

mod id;
mod op;
mod parts;

pub use id::{CacheKey, ContentDigest, DefinitionKey, InvalidId, RecordId, ResultRef};
pub use op::op_parts;
pub use parts::{InputPart, KeyParts, OpKey, Part};
