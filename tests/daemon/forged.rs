//! Messages that no client of good will sends, against one daemon: it answers each, lives on, and builds the next right.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use rbuild::wire::health::healthy;
use rbuild::wire::proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use rbuild::wire::proto::fsutil::{Packet, Stat};
use rbuild::wire::proto::{gateway, DESCRIPTORS};
use rbuild::wire::raw::RawCodec;
use rbuild::wire::session::{open, services, Headers};
use serde_json::{json, Value};
use solver::graph::VertexId;
use solver::llb::pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::BoxStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::api::{numbers, within};
use super::fixture::Daemon;
use super::mutants;

/// How many messages are sent: all there are with `RBUILD_SOAK`, else some.
fn amount(few: usize, many: usize) -> usize {
    if std::env::var_os("RBUILD_SOAK").is_some() {
        many
    } else {
        few
    }
}

fn pool() -> DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap());
    POOL.clone()
}

fn message(name: &str, value: Value) -> DynamicMessage {
    let descriptor = pool().get_message_by_name(name).unwrap_or_else(|| panic!("no message {name}"));
    DynamicMessage::deserialize(descriptor, value).unwrap()
}

/// Ops of every kind that could be served; inputs 0 and 1 are images.
fn ops() -> Vec<DynamicMessage> {
    let chown = json!({"user": {"byName": {"name": "root", "input": 1}}, "group": {"byID": 5}});
    let file = |name: &str, action: Value| json!({"file": {"actions": [{"input": 0, "secondaryInput": 1, "output": 0, name: action}]}});
    let source = |identifier: &str, attrs: Value| json!({"source": {"identifier": identifier, "attrs": attrs}});
    let zeros = "0".repeat(64);
    [
        json!({"exec": {
            "meta": {"args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/", "user": "root", "hostname": "h",
                "proxyEnv": {"httpProxy": "http://p"}, "extraHosts": [{"Host": "a", "IP": "127.0.0.1"}],
                "ulimit": [{"Name": "nofile", "Soft": 1000, "Hard": 1000}], "validExitCodes": [0]},
            "mounts": [{"input": 0, "dest": "/", "output": 0},
                {"input": 1, "dest": "/bind", "selector": "/bin", "readonly": true, "output": -1},
                {"input": -1, "dest": "/cache", "output": -1, "mountType": 3, "cacheOpt": {"ID": "c", "sharing": 2}},
                {"input": -1, "dest": "/tmp", "output": -1, "mountType": 4, "TmpfsOpt": {"size": 65536}},
                {"input": -1, "dest": "/secret", "output": -1, "mountType": 1, "secretOpt": {"ID": "s", "optional": true}},
                {"input": -1, "dest": "/agent", "output": -1, "mountType": 2, "SSHOpt": {"ID": "s", "optional": true}}],
            "network": 2, "secretenv": [{"ID": "s", "name": "S", "optional": true}]}}),
        file("copy", json!({"src": "/bin/b*", "dest": "/to/", "owner": chown, "mode": 420, "followSymlink": true,
            "createDestPath": true, "allowWildcard": true, "timestamp": 1, "includePatterns": ["*"],
            "excludePatterns": ["x"], "modeStr": "u+rwX"})),
        file("mkfile", json!({"path": "/f", "mode": 420, "data": "eA==", "owner": chown, "timestamp": -1})),
        file("mkdir", json!({"path": "/d/e", "mode": 493, "makeParents": true, "owner": chown, "timestamp": -1})),
        file("rm", json!({"path": "/bin/b*", "allowNotFound": true, "allowWildcard": true})),
        file("symlink", json!({"oldpath": "/a", "newpath": "/b", "owner": chown, "timestamp": -1})),
        json!({"merge": {"inputs": [{"input": 0}, {"input": 1}]}}),
        json!({"diff": {"lower": {"input": 0}, "upper": {"input": 1}}}),
        json!({"passthrough": {"id": "x", "outputs": [0]}}),
        json!({"build": {"builder": -1, "inputs": {"buildkit.llb.definition": {"input": 0}},
            "attrs": {"llbbuild.filename": "bin/busybox"}}}),
        source("docker-image://docker.io/library/busybox:latest",
            json!({"image.resolvemode": "local", "image.layerlimit": "1", "image.checksum": format!("sha256:{zeros}")})),
        source(&format!("docker-image+blob://127.0.0.1:1/n@sha256:{zeros}"),
            json!({"http.filename": "f", "http.perm": "0600", "http.uid": "1"})),
        source(&format!("oci-layout+blob://n@sha256:{zeros}"), json!({"oci.session": "s", "oci.store": "n"})),
        source("local://context", json!({"local.session": "s", "local.includepattern": "[\"a\"]", "local.differ": "none",
            "local.metadatatransfer": "true", "local.metadatatransferexclude": "[\"a\"]"})),
        source("http://127.0.0.1:1/f", json!({"http.checksum": format!("sha256:{zeros}"), "http.perm": "420",
            "http.sig.pubkey": "k", "http.sig.signature": "s"})),
        source("git://127.0.0.1:1/r#main:sub", json!({"git.keepgitdir": "true", "git.fullurl": "git://127.0.0.1:1/r"})),
        source("git://127.0.0.1:1/r", json!({"git.checksum": "0".repeat(40), "git.checkoutbundle": "true",
            "git.bundle": format!("oci-layout+blob://n@sha256:{zeros}"), "git.sig.pubkey": "k", "git.sig.requiresignedtag": "true"})),
        source(&format!("oci-layout://n/x@sha256:{zeros}"), json!({"oci.session": "s", "oci.store": "n", "oci.layerlimit": "1"})),
    ]
    .map(|op| {
        let mut op = op;
        op["platform"] = json!({"Architecture": "amd64", "OS": "linux"});
        op["constraints"] = json!({"filter": []});
        message("pb.Op", op)
    })
    .into()
}

/// The image that ops are done to, as an op and its digest.
fn base() -> (Vec<u8>, String) {
    let identifier = "docker-image://docker.io/library/busybox:latest".into();
    let source = pb::SourceOp { identifier, ..Default::default() };
    let op = pb::Op { op: Some(pb::OpKind::Source(source)), ..Default::default() }.encode_to_vec();
    let digest = VertexId::of(&op).to_string();
    (op, digest)
}

/// A definition whose last vertex is this op.
fn definition(op: Vec<u8>) -> pb::Definition {
    let end = pb::Input { digest: VertexId::of(&op).to_string(), index: 0 };
    let end = pb::Op { inputs: vec![end], ..Default::default() };
    pb::Definition { def: vec![base().0, op, end.encode_to_vec()], ..Default::default() }
}

/// The op as it would be sent: an op without inputs gets the images.
fn encoded(op: &DynamicMessage) -> Vec<u8> {
    let input = pb::Input { digest: base().1, index: 0 };
    let inputs = pb::Op { inputs: vec![input.clone(), input], ..Default::default() };
    // The encodings of messages can be joined.
    [inputs.encode_to_vec(), op.encode_to_vec()].concat()
}

/// What is sent to a method; the build it belongs to is whoever sends it to say.
struct Forged {
    method: String,
    bytes: Bytes,
    streams: bool,
    /// The call is one of a build's own.
    bridge: bool,
}

impl Forged {
    fn new(method: &MethodDescriptor, bytes: Vec<u8>) -> Forged {
        let service = method.parent_service().full_name().to_owned();
        Forged {
            method: format!("/{service}/{}", method.name()),
            bytes: bytes.into(),
            streams: method.is_server_streaming(),
            bridge: service.ends_with("LLBBridge"),
        }
    }

    fn solve(op: Vec<u8>, name: &str) -> Forged {
        let request = rbuild::wire::proto::control::SolveRequest {
            r#ref: name.into(),
            definition: Some(definition(op)),
            ..Default::default()
        };
        let service = pool().get_service_by_name("moby.buildkit.v1.Control").unwrap();
        let solve = service.methods().find(|method| method.name() == "Solve").unwrap();
        Forged::new(&solve, request.encode_to_vec())
    }
}

/// A request that could be served, where an empty one would not reach far.
fn plausible(method: &MethodDescriptor) -> DynamicMessage {
    let (op, digest) = base();
    let made = pool().get_message_by_name("pb.Definition").unwrap();
    let made = DynamicMessage::decode(made, definition(op).encode_to_vec().as_slice()).unwrap();
    let made = serde_json::to_value(made).unwrap();
    let mut policy = json!({"version": 1, "rules": [{"action": 1, "selector": {"identifier": "docker-image://x"}}]});
    policy["rules"][0]["updates"] = json!({"identifier": "docker-image://y", "attrs": {"a": "b"}});
    let cache = json!([{"Type": "inline", "Attrs": {"ref": "127.0.0.1:1/c"}}]);
    let value = match method.full_name() {
        "moby.buildkit.v1.Control.Solve" => {
            json!({"Ref": "solve", "Definition": made, "FrontendAttrs": {"platform": "linux/amd64",
            "attest:provenance": "mode=max"}, "Cache": {"Exports": cache, "Imports": cache}, "Entitlements": [],
            "SourcePolicy": policy, "Exporters": [{"Type": "image", "Attrs": {"name": "x:1", "compression": "gzip"}}]})
        }
        "moby.buildkit.v1.Control.ListenBuildHistory" => json!({"EarlyExit": true, "Filter": ["status==completed"]}),
        "moby.buildkit.v1.frontend.LLBBridge.Solve" => json!({"Definition": made, "allowResultReturn": true,
            "allowResultArrayRef": true, "CacheImports": cache, "SourcePolicies": [policy]}),
        "moby.buildkit.v1.frontend.LLBBridge.Return" => json!({"result": {"ref": {"id": "x", "def": made},
            "metadata": {"refs.platforms": "e30=", "containerimage.config": "e30="},
            "attestations": {"x": {"attestation": [{"path": "/a", "inTotoSubjects": [{"digest": [digest]}]}]}}}}),
        "moby.buildkit.v1.frontend.LLBBridge.ResolveSourceMeta" => json!({"Source": {"identifier":
            "docker-image://docker.io/library/busybox:latest"}, "Platform": {"OS": "linux", "Architecture": "amd64"}}),
        "moby.buildkit.v1.frontend.LLBBridge.ResolveImageConfig" => json!({"Ref": "docker.io/library/busybox:latest",
            "Platform": {"OS": "linux", "Architecture": "amd64"}, "ResolveMode": "local"}),
        "moby.buildkit.v1.frontend.LLBBridge.Warn" => json!({"digest": digest, "level": 1, "short": "eA==",
            "detail": ["eA=="], "url": "u", "info": {"filename": "f", "data": "eA=="},
            "ranges": [{"start": {"line": 1}, "end": {"line": 2}}]}),
        _ => json!({}),
    };
    DynamicMessage::deserialize(method.input(), value).unwrap()
}

/// Every field of every op and of every request, as nobody should send it.
fn field_by_field() -> Vec<Forged> {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    for op in ops() {
        for mutant in mutants::of(&op, 5).iter().chain([&op]) {
            let op = encoded(mutant);
            if seen.insert(op.clone()) {
                all.push(Forged::solve(op, &format!("op{}", all.len())));
            }
        }
    }
    for service in [
        "moby.buildkit.v1.Control",
        "moby.buildkit.v1.frontend.LLBBridge",
        "grpc.health.v1.Health",
        "containerd.services.content.v1.Content",
    ] {
        let service = pool().get_service_by_name(service).unwrap();
        for method in service.methods().filter(|method| !method.is_client_streaming()) {
            let request = plausible(&method);
            for mutant in mutants::of(&request, 3).iter().chain([&request]) {
                let forged = Forged::new(&method, mutant.encode_to_vec());
                if seen.insert([forged.method.as_bytes(), &forged.bytes].concat()) {
                    all.push(forged);
                }
            }
        }
    }
    all
}

/// One of many that send forged messages.
struct Forger {
    channel: Channel,
    /// The build whose calls it makes.
    build: String,
    ended: Arc<AtomicBool>,
    opened: u64,
}

impl Forger {
    /// Opens a build, whose frontend we are.
    async fn begin(&mut self, name: &str) {
        self.opened += 1;
        self.build = format!("{name}-{}", self.opened);
        let ended = Arc::new(AtomicBool::new(false));
        self.ended = Arc::clone(&ended);
        let mut control = rbuild::wire::proto::control::control_client::ControlClient::new(self.channel.clone());
        let r#ref = self.build.clone();
        tokio::spawn(async move {
            let _ = control.solve(rbuild::wire::proto::control::SolveRequest { r#ref, ..Default::default() }).await;
            ended.store(true, Ordering::Relaxed);
        });
    }

    async fn send(&self, forged: &Forged) -> Result<(), Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let request = within(&self.build, forged.bytes.clone());
        let path = PathAndQuery::try_from(forged.method.as_str()).unwrap();
        if !forged.streams {
            return client.unary(request, path, RawCodec).await.map(drop);
        }
        let mut stream = client.server_streaming(request, path, RawCodec).await?.into_inner();
        // Some of them last as long as somebody listens.
        while let Ok(Some(item)) = tokio::time::timeout(Duration::from_millis(20), stream.next()).await {
            item?;
        }
        Ok(())
    }
}

/// Sends them all, some at a time; every one is answered, and by no failure of our own.
///
/// Many at once cost little more: most of the time of a call is waiting, for a process, a disk or a stream's silence.
async fn send_all(daemon: &Daemon, all: Vec<Forged>) {
    let (all, at) = (Arc::new(all), Arc::new(AtomicU64::new(0)));
    let (mut forgers, began) = (Vec::new(), Instant::now());
    for who in 0..amount(8, 32) {
        let (all, at, channel) = (Arc::clone(&all), Arc::clone(&at), daemon.channel().await);
        forgers.push(tokio::spawn(async move {
            let name = format!("forger{who}");
            let mut forger =
                Forger { channel, build: String::new(), ended: Arc::new(AtomicBool::new(true)), opened: 0 };
            loop {
                let number = at.fetch_add(1, Ordering::Relaxed) as usize;
                let Some(forged) = all.get(number) else { break };
                if number % 5000 == 4999 {
                    eprintln!("{} messages in {:.0?}", number + 1, began.elapsed());
                }
                if forged.bridge && forger.ended.load(Ordering::Relaxed) {
                    forger.begin(&name).await;
                }
                let shown = || {
                    let bytes = &forged.bytes[..forged.bytes.len().min(300)];
                    format!("{} {}", forged.method, bytes.escape_ascii())
                };
                let sent = tokio::time::timeout(Duration::from_secs(60), forger.send(forged)).await;
                let Err(status) = sent.unwrap_or_else(|_| panic!("no answer: {}", shown())) else { continue };
                let ours = matches!(status.code(), Code::Internal | Code::Unavailable);
                let undecodable = status.message().contains("decode");
                assert!(!ours || undecodable, "{status}\n{}", shown());
                assert!(!status.message().is_empty(), "{status:?}\n{}", shown());
                if forged.method.ends_with("LLBBridge/Return") {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }));
    }
    for forger in forgers {
        forger.await.unwrap();
    }
}

/// The process is the same, nothing in it has panicked, and it builds.
fn is_well(daemon: &mut Daemon) {
    assert!(daemon.process.try_wait().unwrap().is_none(), "it still runs");
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    daemon.rbuild.context("next", &[("Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f /f > /g\n"), ("f", "right")]);
    let address = daemon.address();
    daemon.rbuild.ok(["build", "--addr", &address, "-o", "next-out", "next"]);
    assert_eq!(std::fs::read_to_string(daemon.rbuild.path("next-out/g")).unwrap(), "rightright");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_any_message_does_harm() {
    let Some(mut daemon) = Daemon::start() else { return };
    let mut next = numbers(0x2545_f491_4f6c_dd1d);
    let mut all = field_by_field();
    let fields = all.len();
    // What follows is damaged by chance: the encoded op or request.
    let ops: Vec<Vec<u8>> = ops().iter().take(11).map(encoded).collect();
    let requests: Vec<(usize, Bytes)> =
        all.iter().enumerate().filter(|(_, f)| f.bridge).map(|(at, f)| (at, f.bytes.clone())).collect();
    let wanted = amount(3000, 90_000);
    while all.len() < wanted.max(fields) {
        if next(3) > 0 {
            let mut op = ops[next(ops.len() as u64) as usize].clone();
            mutants::damage(&mut op, &mut next);
            all.push(Forged::solve(op, &format!("damaged{}", all.len())));
        } else {
            let (at, bytes) = &requests[next(requests.len() as u64) as usize];
            let mut bytes = bytes.to_vec();
            mutants::damage(&mut bytes, &mut next);
            let like = &all[*at];
            let forged = Forged { method: like.method.clone(), bytes: bytes.into(), ..*like };
            all.push(forged);
        }
    }
    if all.len() > wanted {
        // Some of every kind.
        all.retain(|_| next(fields as u64) < wanted as u64);
    }
    eprintln!("{fields} fields, {} messages", all.len());
    send_all(&daemon, all).await;
    is_well(&mut daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_speak_nonsense_are_closed() {
    let Some(mut daemon) = Daemon::start() else { return };
    let mut next = numbers(77);
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for _ in 0..amount(300, 5000) {
        let mut connection = tokio::net::UnixStream::connect(daemon.socket()).await.unwrap();
        let mut bytes = settings[..settings.len() - next(12) as usize].to_vec();
        for _ in 0..next(6) {
            let length = next(40) as usize;
            // A frame that says how long it is, rightly or not.
            bytes.extend([
                0,
                0,
                (length as u64 + next(3)) as u8,
                next(11) as u8,
                next(256) as u8,
                0,
                0,
                0,
                next(4) as u8,
            ]);
            bytes.extend((0..length).map(|_| next(256) as u8));
        }
        let _ = connection.write_all(&bytes).await;
        if next(2) == 0 {
            let _ = connection.shutdown().await;
            let _ = tokio::time::timeout(Duration::from_millis(200), connection.read_to_end(&mut Vec::new())).await;
        }
    }
    is_well(&mut daemon);
}

/// A client whose directories are forged, each time otherwise.
struct Forging(AtomicU64);

fn forged_packets(seed: u64) -> Vec<Packet> {
    let mut next = numbers(seed | 1);
    let paths = [
        "a",
        "b",
        "a/b",
        "a/../..",
        "..",
        "../../etc/cron.d/x",
        "/etc/passwd",
        "",
        ".",
        "a//b",
        "a\0b",
        "z",
        "zz/y",
        "c\\d",
    ];
    let mut packets = Vec::new();
    for _ in 0..next(12) {
        let kinds = [0, 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24, 1 << 21, 1 << 23, u64::from(u32::MAX)];
        let mode = (kinds[next(9) as usize] | next(0o1000)) as u32;
        let huge = [0, 1, 5, -1, i64::MIN, i64::MAX, 1 << 40];
        let long = "n".repeat(5000);
        let path = if next(30) == 0 { &long } else { paths[next(paths.len() as u64) as usize] };
        let linkname = [paths[next(paths.len() as u64) as usize], ""][next(2) as usize];
        let stat = Stat {
            path: path.into(),
            mode,
            uid: [0, 7, u32::MAX][next(3) as usize],
            size: huge[next(7) as usize],
            mod_time: huge[next(7) as usize],
            linkname: linkname.into(),
            devmajor: huge[next(7) as usize],
            xattrs: [("trusted.overlay.opaque".to_owned(), b"y".to_vec())].into(),
            ..Stat::default()
        };
        let stat = (next(10) > 0).then_some(stat);
        let r#type = [0, 0, 0, 0, 1, 2, 3, 4, -1, 99][next(10) as usize];
        packets.push(Packet { r#type, stat, id: next(5) as u32, data: vec![b'x'; next(9) as usize].into() });
    }
    packets.push(Packet::default());
    packets.push(Packet { r#type: 2, id: next(3) as u32, data: Bytes::from_static(b"data"), ..Packet::default() });
    packets.push(Packet { r#type: 2, id: next(3) as u32, ..Packet::default() });
    packets.push(Packet { r#type: 3, ..Packet::default() });
    packets
}

#[tonic::async_trait]
impl FileSync for Forging {
    async fn diff_copy(&self, call: Request<Streaming<Packet>>) -> Result<Response<BoxStream<Packet>>, Status> {
        let packets = forged_packets(self.0.fetch_add(2, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut asked = call.into_inner();
        tokio::spawn(async move { while let Some(Ok(_)) = asked.next().await {} });
        Ok(Response::new(Box::pin(tokio_stream::iter(packets.into_iter().map(Ok)))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_directories_do_no_harm() {
    let Some(mut daemon) = Daemon::start() else { return };
    let headers = Headers::new("forger", services::FILE_SYNC);
    let services = tonic::service::Routes::new(FileSyncServer::new(Forging(AtomicU64::new(1))));
    // Whoever does not say now and then that it lives counts as gone after a while.
    let services = services.add_service(healthy());
    let session = open(&mut daemon.control().await, &headers, services).await.unwrap();
    let serving = tokio::spawn(session);
    let (mut control, mut refused) = (daemon.control().await, 0);
    for round in 0..amount(300, 5000) {
        let attrs = vec![pb::AttrEntry { key: Some("local.session".into()), value: Some("forger".into()) }];
        let source = pb::SourceOp { identifier: format!("local://d{}", round % 7), attrs };
        let op = pb::Op { op: Some(pb::OpKind::Source(source)), ..Default::default() };
        let request = rbuild::wire::proto::control::SolveRequest {
            r#ref: format!("forged{round}"),
            session: "forger".into(),
            definition: Some(definition(op.encode_to_vec())),
            ..Default::default()
        };
        let solved = tokio::time::timeout(Duration::from_secs(30), control.solve(request)).await;
        if let Err(status) = solved.expect("each transfer ends") {
            refused += 1;
            assert!(!matches!(status.code(), Code::Internal | Code::Unavailable), "{round}: {status}");
        }
    }
    assert!(refused > 50, "{refused} of them refused");
    assert!(!std::path::Path::new("/etc/cron.d/x").exists());
    serving.abort();
    is_well(&mut daemon);
}

/// Results that are not there, or of another build.
#[tokio::test(flavor = "multi_thread")]
async fn references_reach_no_other_build() {
    let Some(mut daemon) = Daemon::start() else { return };
    let mut bridge = gateway::llb_bridge_client::LlbBridgeClient::new(daemon.channel().await);
    for id in ["", "\0", "none", "../x"] {
        let request =
            gateway::ReadFileRequest { r#ref: id.into(), file_path: "/etc/passwd".into(), ..Default::default() };
        let mut call = Request::new(request);
        call.metadata_mut().insert("buildkit-controlapi-buildid", "nobody".parse().unwrap());
        let status = bridge.read_file(call).await.unwrap_err();
        assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument), "{status}");
    }
    is_well(&mut daemon);
}
