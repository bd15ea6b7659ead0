//! Compiles `src/wire/proto` to Rust. No protoc, no network; nothing is written outside of `OUT_DIR`.

use std::path::PathBuf;
use std::{env, fs, io};

use tonic_prost_build::{manual, FileDescriptorSet};

const PROTO_DIR: &str = "src/wire/proto";

/// Fields whose bytes are passed on: as `Bytes` they are slices of the message they came in.
const PASSED_ON: &[&str] = &[
    ".moby.buildkit.v1.BytesMessage",
    ".moby.filesync.v1.BytesMessage",
    ".moby.sshforward.v1.BytesMessage",
    ".moby.upload.v1.BytesMessage",
    ".fsutil.types.Packet",
    ".containerd.services.content.v1",
    ".moby.buildkit.v1.frontend.FdMessage",
];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed={PROTO_DIR}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?);
    let mut files: Vec<PathBuf> =
        fs::read_dir(PROTO_DIR)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let descriptors = protox::compile(&files, [PROTO_DIR]).map_err(io::Error::other)?;
    fs::write(out.join("wire.fds"), encoded(&descriptors))?;
    let configured = tonic_prost_build::configure()
        .include_file("wire.rs")
        .extern_path(".pb", "::solver::llb::pb")
        .btree_map(".")
        .generate_default_stubs(true);
    PASSED_ON
        .iter()
        .fold(configured, |configured, path| configured.bytes(path))
        .compile_fds(with_pb_opaque(descriptors))?;
    file_send();
    Ok(())
}

/// `moby.filesync.v1.FileSend`, whose one method carries `BytesMessage`s or `Packet`s: the callee knows which from the
/// request's metadata. So its messages stay undecoded here.
fn file_send() {
    let messages = "::bytes::Bytes";
    let diff_copy = manual::Method::builder()
        .name("diff_copy")
        .route_name("DiffCopy")
        .input_type(messages)
        .output_type(messages)
        .codec_path("crate::wire::raw::RawCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let service = manual::Service::builder().name("FileSend").package("moby.filesync.v1").method(diff_copy).build();
    manual::Builder::new().compile(&[service]);
}

fn encoded(descriptors: &FileDescriptorSet) -> Vec<u8> {
    use protox::prost::Message;
    descriptors.encode_to_vec()
}

/// Gives each message of `pb` a float. Its types are the solver's and not generated; they are not `Eq`, and prost derives
/// `Eq` for what contains them unless it sees a float there.
fn with_pb_opaque(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    use prost_types::{field_descriptor_proto::Type, FieldDescriptorProto};
    for file in descriptors.file.iter_mut().filter(|file| file.package() == "pb") {
        for message in &mut file.message_type {
            let mut float =
                FieldDescriptorProto { name: Some("opaque".to_owned()), number: Some(1000), ..Default::default() };
            float.set_type(Type::Float);
            message.field.push(float);
        }
    }
    descriptors
}
