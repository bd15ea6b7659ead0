//! What enters and leaves a store as tar: the layers of images.
//!
//! *Job*: unpacking layers that may be hostile, and packing snapshots so that equal trees give equal bytes.
//! *Not its job*: manifests and media types beyond a layer's own, and moving blobs over a network.
//! *Start reading at* [`apply_layer`] for what comes in, at [`pack`](pack()) for what goes out.
//!
//! <https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md>

mod apply;
mod archive;
mod compression;
mod import;
mod number;
mod pack;
mod pax;
mod pipeline;
mod place;
mod sparse;
mod tree_tar;

pub use apply::{apply, apply_to_directory, Limits};
pub use compression::Compression;
pub use import::{apply_layer, import_rootfs, remember_pulled, unpack_ahead, unpacks_ahead, Ahead, Imported};
pub use pack::{diff_id, pack, write_tar, Layer, PackOptions, Pulled};

#[cfg(test)]
mod tests;
