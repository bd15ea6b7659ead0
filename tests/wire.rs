//! BuildKit's messages, byte for byte: written down by hand from the field numbers.

use std::collections::BTreeMap;
use std::fmt::Debug;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage, Value};
use rbuild::wire::proto::{
    apicaps, content, control, errdefs, exporter, filesync, fsutil, gateway, health, pb, policysession, rpc, secrets,
    sourcepolicy, ssh, stack, upload, worker, DESCRIPTORS,
};

fn wire<M: Message + Default + PartialEq + Debug>(message: M, bytes: &[u8]) {
    assert_eq!(message.encode_to_vec(), bytes, "written: {message:?}");
    assert_eq!(M::decode(bytes).unwrap(), message, "read");
}

fn map<V>(key: &str, value: V) -> BTreeMap<String, V> {
    BTreeMap::from([(key.to_owned(), value)])
}

fn at(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos })
}

#[test]
fn control_messages() {
    wire(
        control::SolveRequest {
            r#ref: "r1".into(),
            session: "s1".into(),
            frontend_attrs: map("filename", "Dockerfile".into()),
            internal: true,
            exporters: vec![control::Exporter { r#type: "image".into(), attrs: map("push", "true".into()) }],
            enable_session_exporter: true,
            source_policy_session: "p".into(),
            compatibility_version: 30,
            proxy_network: true,
            ..Default::default()
        },
        b"\x0a\x02r1\x2a\x02s1\x3a\x16\x0a\x08filename\x12\x0aDockerfile\x58\x01\
          \x6a\x15\x0a\x05image\x12\x0c\x0a\x04push\x12\x04true\x70\x01\x7a\x01p\x80\x01\x1e\x88\x01\x01",
    );
    wire(
        control::SolveRequest {
            cache: Some(control::CacheOptions {
                exports: vec![control::CacheOptionsEntry { r#type: "inline".into(), ..Default::default() }],
                imports: vec![control::CacheOptionsEntry { r#type: "registry".into(), attrs: map("ref", "x".into()) }],
                ..Default::default()
            }),
            entitlements: vec!["device".into()],
            ..Default::default()
        },
        b"\x42\x20\x22\x08\x0a\x06inline\x2a\x14\x0a\x08registry\x12\x08\x0a\x03ref\x12\x01x\x4a\x06device",
    );
    wire(
        control::StatusResponse {
            vertexes: vec![control::Vertex {
                digest: "d".into(),
                inputs: vec!["e".into()],
                name: "n".into(),
                cached: true,
                started: at(5, 6),
                completed: at(7, 0),
                error: "x".into(),
                progress_group: Some(pb::ProgressGroup { id: "g".into(), name: String::new(), weak: true }),
            }],
            statuses: vec![control::VertexStatus {
                id: "i".into(),
                vertex: "d".into(),
                current: 1,
                total: 300,
                ..Default::default()
            }],
            logs: vec![control::VertexLog { vertex: "d".into(), stream: 2, msg: b"\xff\n".to_vec(), timestamp: None }],
            warnings: vec![control::VertexWarning {
                vertex: "d".into(),
                level: 1,
                short: b"s".to_vec(),
                detail: vec![b"t".to_vec()],
                url: "u".into(),
                info: Some(pb::SourceInfo { filename: "Dockerfile".into(), ..Default::default() }),
                ranges: vec![pb::Range { start: Some(pb::Position { line: 3, character: 0 }), end: None }],
            }],
        },
        b"\x0a\x1f\x0a\x01d\x12\x01e\x1a\x01n\x20\x01\x2a\x04\x08\x05\x10\x06\x32\x02\x08\x07\x3a\x01x\
          \x42\x05\x0a\x01g\x18\x01\
          \x12\x0b\x0a\x01i\x12\x01d\x20\x01\x28\xac\x02\
          \x1a\x09\x0a\x01d\x18\x02\x22\x02\xff\n\
          \x22\x22\x0a\x01d\x10\x01\x1a\x01s\x22\x01t\x2a\x01u\x32\x0c\x0a\x0aDockerfile\x3a\x04\x0a\x02\x08\x03",
    );
    wire(
        control::BuildHistoryEvent {
            r#type: control::BuildHistoryEventType::Complete as i32,
            record: Some(control::BuildHistoryRecord {
                r#ref: "r".into(),
                error: Some(rpc::Status { code: 2, message: "m".into(), details: vec![] }),
                result: Some(control::BuildResultInfo {
                    results: [(1, control::Descriptor { size: 9, ..Default::default() })].into(),
                    ..Default::default()
                }),
                num_warnings: 4,
                ..Default::default()
            }),
        },
        b"\x08\x01\x12\x17\x0a\x01r\x2a\x05\x08\x02\x12\x01m\x52\x08\x1a\x06\x08\x01\x12\x02\x18\x09\x98\x01\x04",
    );
    wire(
        control::UsageRecord { id: "i".into(), in_use: true, size: 1, parents: vec!["p".into()], ..Default::default() },
        b"\x0a\x01i\x18\x01\x20\x01\x62\x01p",
    );
    wire(
        control::PruneRequest { all: true, keep_duration: 1, min_free_space: 2, ..Default::default() },
        b"\x10\x01\x18\x01\x30\x02",
    );
    wire(
        worker::WorkerRecord {
            id: "w".into(),
            platforms: vec![pb::Platform { architecture: "amd64".into(), os: "linux".into(), ..Default::default() }],
            gc_policy: vec![worker::GcPolicy { reserved_space: 1, ..Default::default() }],
            buildkit_version: Some(worker::BuildkitVersion { version: "v0".into(), ..Default::default() }),
            cdi_devices: vec![worker::CdiDevice { name: "c".into(), on_demand: true, ..Default::default() }],
            ..Default::default()
        },
        b"\x0a\x01w\x1a\x0e\x0a\x05amd64\x12\x05linux\x22\x02\x18\x01\x2a\x04\x12\x02v0\x32\x05\x0a\x01c\x20\x01",
    );
}

#[test]
fn gateway_messages() {
    use gateway::{exec_message::Input, result};
    // What buildx returns from the build that only asks for capabilities.
    wire(
        gateway::ReturnRequest {
            result: Some(gateway::Result {
                result: Some(result::Result::Ref(gateway::Ref::default())),
                ..Default::default()
            }),
            error: None,
        },
        b"\x0a\x02\x1a\x00",
    );
    wire(
        gateway::Result {
            result: Some(result::Result::Refs(gateway::RefMap {
                refs: map("linux/amd64", gateway::Ref { id: "i".into(), def: None }),
            })),
            metadata: map("k", b"v".to_vec()),
            attestations: map(
                "p",
                gateway::Attestations {
                    attestation: vec![gateway::Attestation {
                        kind: gateway::AttestationKind::Bundle as i32,
                        path: "/f".into(),
                        in_toto_subjects: vec![gateway::InTotoSubject {
                            kind: gateway::InTotoSubjectKind::Raw as i32,
                            ..Default::default()
                        }],
                        ..Default::default()
                    }],
                },
            ),
        },
        b"\x22\x14\x0a\x12\x0a\x0blinux/amd64\x12\x03\x0a\x01i\x52\x06\x0a\x01k\x12\x01v\
          \x62\x11\x0a\x01p\x12\x0c\x0a\x0a\x08\x01\x22\x02/f\x32\x02\x08\x01",
    );
    wire(
        gateway::SolveRequest {
            frontend: "dockerfile.v0".into(),
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            source_policies: vec![sourcepolicy::Policy { version: 1, rules: vec![] }],
            ..Default::default()
        },
        b"\x12\x0ddockerfile.v0\x28\x01\x30\x01\x70\x01\x7a\x02\x08\x01",
    );
    wire(
        gateway::PongResponse {
            llb_caps: vec![apicaps::ApiCap { id: "mergeop".into(), enabled: true, ..Default::default() }],
            ..Default::default()
        },
        b"\x12\x0b\x0a\x07mergeop\x10\x01",
    );
    for (input, bytes) in [
        (Input::Exit(gateway::ExitMessage { code: 1, error: None }), &b"\x0a\x01p\x32\x02\x08\x01"[..]),
        (Input::Started(gateway::StartedMessage {}), b"\x0a\x01p\x2a\x00"),
        (Input::Done(gateway::DoneMessage {}), b"\x0a\x01p\x3a\x00"),
        (Input::Signal(gateway::SignalMessage { name: "INT".into() }), b"\x0a\x01p\x42\x05\x0a\x03INT"),
        (Input::Resize(gateway::ResizeMessage { rows: 1, cols: 2 }), b"\x0a\x01p\x22\x04\x08\x01\x10\x02"),
        (
            Input::File(gateway::FdMessage { fd: 1, eof: false, data: b"x"[..].into() }),
            b"\x0a\x01p\x1a\x05\x08\x01\x1a\x01x",
        ),
    ] {
        wire(gateway::ExecMessage { process_id: "p".into(), input: Some(input) }, bytes);
    }
    wire(
        gateway::ResolveSourceMetaResponse {
            git: Some(gateway::ResolveSourceGitResponse { commit_object: b"c".to_vec(), ..Default::default() }),
            http: Some(gateway::ResolveSourceHttpResponse { last_modified: at(1, 0), ..Default::default() }),
            ..Default::default()
        },
        b"\x1a\x03\x22\x01c\x22\x04\x1a\x02\x08\x01",
    );
    wire(
        gateway::ReadDirResponse { entries: vec![fsutil::Stat { path: "f".into(), ..Default::default() }] },
        b"\x0a\x03\x0a\x01f",
    );
}

#[test]
fn packets() {
    use fsutil::{packet::PacketType, Packet, Stat};
    let stat = Stat {
        path: "a/b".into(),
        mode: 0o644,
        size: 5,
        mod_time: 1,
        xattrs: map("user.x", b"1".to_vec()),
        ..Default::default()
    };
    wire(
        Packet { stat: Some(stat), ..Default::default() },
        b"\x12\x19\x0a\x03a/b\x10\xa4\x03\x28\x05\x30\x01\x52\x0b\x0a\x06user.x\x12\x011",
    );
    wire(
        Stat { uid: 1, gid: 2, linkname: "l".into(), devmajor: 3, devminor: 4, mode: 1 << 31, ..Default::default() },
        b"\x10\x80\x80\x80\x80\x08\x18\x01\x20\x02\x3a\x01l\x40\x03\x48\x04",
    );
    for (kind, id, data, bytes) in [
        (PacketType::PacketReq, 7, "", &b"\x08\x01\x18\x07"[..]),
        (PacketType::PacketData, 7, "hi", b"\x08\x02\x18\x07\x22\x02hi"),
        (PacketType::PacketFin, 0, "", b"\x08\x03"),
        (PacketType::PacketErr, 0, "no", b"\x08\x04\x22\x02no"),
        (PacketType::PacketStat, 0, "", b""),
    ] {
        wire(Packet { r#type: kind as i32, id, data: data.into(), stat: None }, bytes);
    }
}

#[test]
fn session_messages() {
    for bytes in [&b"\x0a\x02hi"[..], b""] {
        let data = || bytes.get(2..).unwrap_or_default().to_vec().into();
        wire(control::BytesMessage { data: data() }, bytes);
        wire(filesync::BytesMessage { data: data() }, bytes);
        wire(ssh::BytesMessage { data: data() }, bytes);
        wire(upload::BytesMessage { data: data() }, bytes);
    }
    wire(
        filesync::FetchTokenRequest {
            client_id: "c".into(),
            host: "h".into(),
            realm: "r".into(),
            service: "s".into(),
            scopes: vec!["a".into(), "b".into()],
        },
        b"\x0a\x01c\x12\x01h\x1a\x01r\x22\x01s\x2a\x01a\x2a\x01b",
    );
    wire(
        filesync::FetchTokenResponse { token: "t".into(), expires_in: 60, issued_at: 1 },
        b"\x0a\x01t\x10\x3c\x18\x01",
    );
    wire(
        filesync::VerifyTokenAuthorityRequest { host: "h".into(), payload: b"p".to_vec(), salt: b"s".to_vec() },
        b"\x0a\x01h\x12\x01p\x1a\x01s",
    );
    wire(filesync::CredentialsResponse { username: "u".into(), secret: "s".into() }, b"\x0a\x01u\x12\x01s");
    wire(secrets::GetSecretRequest { id: "i".into(), annotations: BTreeMap::new() }, b"\x0a\x01i");
    wire(secrets::GetSecretResponse { data: b"d".to_vec() }, b"\x0a\x01d");
    wire(
        exporter::FindExportersResponse {
            exporters: vec![exporter::ExporterRequest { r#type: "local".into(), attrs: BTreeMap::new() }],
        },
        b"\x0a\x07\x0a\x05local",
    );
    wire(
        health::HealthCheckResponse { status: health::health_check_response::ServingStatus::Serving as i32 },
        b"\x08\x01",
    );
    use policysession::check_policy_response::Result::Decision;
    wire(
        policysession::CheckPolicyResponse {
            result: Some(Decision(policysession::DecisionResponse {
                action: sourcepolicy::PolicyAction::Deny as i32,
                deny_messages: vec![policysession::DenyMessage { message: "m".into() }],
                update: None,
            })),
        },
        b"\x0a\x07\x08\x01\x12\x03\x0a\x01m",
    );
}

#[test]
fn content_messages() {
    wire(
        content::WriteContentRequest {
            action: content::WriteAction::Commit as i32,
            r#ref: "r".into(),
            total: 3,
            expected: "e".into(),
            offset: 4,
            data: b"d"[..].into(),
            labels: map("k", "v".into()),
        },
        b"\x08\x02\x12\x01r\x18\x03\x22\x01e\x28\x04\x32\x01d\x3a\x06\x0a\x01k\x12\x01v",
    );
    wire(
        content::WriteContentResponse { offset: 1, total: 2, digest: "d".into(), ..Default::default() },
        b"\x20\x01\x28\x02\x32\x01d",
    );
    wire(content::ReadContentRequest { digest: "d".into(), offset: 1, size: 2 }, b"\x0a\x01d\x10\x01\x18\x02");
    wire(
        content::InfoResponse {
            info: Some(content::Info { digest: "d".into(), size: 1, created_at: at(2, 0), ..Default::default() }),
        },
        b"\x0a\x09\x0a\x01d\x10\x01\x1a\x02\x08\x02",
    );
}

#[test]
fn error_messages() {
    wire(
        errdefs::Solve {
            input_i_ds: vec!["i".into()],
            mount_i_ds: vec![String::new(), "m".into()],
            op: None,
            subject: Some(errdefs::solve::Subject::File(errdefs::FileAction { index: 2 })),
            description: map("k", "v".into()),
        },
        b"\x0a\x01i\x12\x00\x12\x01m\x22\x02\x08\x02\x32\x06\x0a\x01k\x12\x01v",
    );
    wire(
        stack::Stack {
            frames: vec![stack::Frame { name: "n".into(), file: "f".into(), line: 7 }],
            pid: 1,
            ..Default::default()
        },
        b"\x0a\x08\x0a\x01n\x12\x01f\x18\x07\x18\x01",
    );
    wire(
        rpc::Status {
            code: 5,
            message: "m".into(),
            details: vec![prost_types::Any { type_url: "t".into(), value: b"v".to_vec() }],
        },
        b"\x08\x05\x12\x01m\x1a\x06\x0a\x01t\x12\x01v",
    );
}

/// A message of `descriptor` with every field set; of a oneof, the field numbered `choice` where there is one.
fn full(descriptor: &MessageDescriptor, choice: u32, depth: u32) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let others = |oneof: prost_reflect::OneofDescriptor| oneof.fields().any(|f| f.number() == choice);
        if field.number() != choice && field.containing_oneof().is_some_and(others) {
            continue;
        }
        let single = |kind: &Kind| match kind {
            Kind::String => Some(Value::String(format!("s{}", field.number()))),
            Kind::Bytes => Some(Value::Bytes(vec![1, 2].into())),
            Kind::Bool => Some(Value::Bool(true)),
            Kind::Int32 => Some(Value::I32(-2)),
            Kind::Int64 => Some(Value::I64(-3)),
            Kind::Uint32 => Some(Value::U32(4)),
            Kind::Uint64 => Some(Value::U64(5)),
            Kind::Enum(values) => Some(Value::EnumNumber(values.values().map(|v| v.number()).max().unwrap())),
            // An empty message as value of a map is what prost leaves out and others write.
            Kind::Message(inner) if depth > 0 => {
                Some(full(inner, choice, depth - 1)).filter(|m| m.encoded_len() > 0).map(Value::Message)
            }
            Kind::Message(_) => None,
            other => panic!("no value for {other:?}"),
        };
        let value = match field.kind() {
            Kind::Message(entry) if field.is_map() => single(&entry.map_entry_value_field().kind())
                .map(|value| Value::Map([(prost_reflect::MapKey::String("k".into()), value)].into())),
            kind if field.is_list() => single(&kind).map(|value| Value::List(vec![value])),
            kind => single(&kind),
        };
        if let Some(value) = value {
            message.set_field(&field, value);
        }
    }
    message
}

#[test]
fn ops_proto_says_what_the_solver_reads() {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let message = |name: &str| pool.get_message_by_name(name).unwrap();
    for choice in 2..=8 {
        let op = full(&message("pb.Op"), choice, 4);
        let bytes = op.encode_to_vec();
        let read = pb::Op::decode(bytes.as_slice()).unwrap();
        assert_eq!(read.encode_to_vec(), bytes, "{read:?}");
    }
    let definition = full(&message("pb.Definition"), 0, 5);
    let bytes = definition.encode_to_vec();
    let read = pb::Definition::decode(bytes.as_slice()).unwrap();
    assert_eq!(read.encode_to_vec(), bytes, "{read:?}");
    assert_eq!(definition.descriptor().full_name(), "pb.Definition");
}
