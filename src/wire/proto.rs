//! The messages and services of BuildKit's API, generated from `proto/*.proto`.
//!
//! Field numbers are the contract: <https://github.com/moby/buildkit/tree/v0.29.0/api>. Each module is one package. Both
//! sides of every service are there, as `<service>_client` and `<service>_server`; a method that a server does not write
//! answers `Unimplemented`.

#[allow(missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

/// All packages above as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wire.fds"));

pub use generated::containerd::services::content::v1 as content;
pub use generated::errdefs;
pub use generated::fsutil::types as fsutil;
pub use generated::google::rpc;
pub use generated::grpc::health::v1 as health;
pub use generated::moby::buildkit::secrets::v1 as secrets;
pub use generated::moby::buildkit::v1 as control;
pub use generated::moby::buildkit::v1::apicaps;
pub use generated::moby::buildkit::v1::frontend as gateway;
pub use generated::moby::buildkit::v1::sourcepolicy;
pub use generated::moby::buildkit::v1::sourcepolicy::policysession;
pub use generated::moby::buildkit::v1::types as worker;
pub use generated::moby::exporter::v1 as exporter;
pub use generated::moby::filesync::v1 as filesync;
pub use generated::moby::sshforward::v1 as ssh;
pub use generated::moby::upload::v1 as upload;
pub use generated::stack;
pub use solver::llb::pb;

/// `moby.filesync.v1.FileSend`, whose messages are [`filesync::BytesMessage`]s or [`fsutil::Packet`]s, undecoded.
#[allow(missing_docs, clippy::all)]
pub mod file_send {
    include!(concat!(env!("OUT_DIR"), "/moby.filesync.v1.FileSend.rs"));
}
