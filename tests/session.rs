//! Sessions of real clients: docker-buildx opens one, and what a build would ask of it is asked.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use rbuild::daemon::session::{SessionClient, Sessions};
use rbuild::engine::{pipe, Client, ClientBlob, ClientStore, DeliveredTree, Delivery, Directory, LocalDirectory};
use rbuild::wire::proto::control::control_server::{Control, ControlServer};
use rbuild::wire::proto::control::{
    BytesMessage, InfoRequest, InfoResponse, ListWorkersRequest, ListWorkersResponse, SolveRequest, SolveResponse,
    StatusRequest, StatusResponse,
};
use rbuild::wire::proto::gateway::llb_bridge_server::{LlbBridge, LlbBridgeServer};
use rbuild::wire::proto::gateway::{self, PingRequest, PongResponse, ReturnRequest, ReturnResponse};
use rbuild::wire::proto::{apicaps, pb, worker};
use snapshotter::{Digest, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{oneshot, watch, Notify};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

mod support;

/// A daemon that hands out the first session it is asked to build for, and never builds. Before that clients ask what it
/// can do, in a build of their own.
struct Daemon {
    sessions: Sessions,
    returned: Notify,
    /// Builds that have ended.
    ended: watch::Sender<HashSet<String>>,
    to_build: Mutex<Option<oneshot::Sender<SolveRequest>>>,
    /// What the client's own frontend asks for, once.
    to_solve: Mutex<Option<oneshot::Sender<BTreeMap<String, String>>>>,
}

#[tonic::async_trait]
impl Control for Daemon {
    async fn session(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<BoxStream<BytesMessage>>, Status> {
        self.sessions.serve(call).await
    }

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        if request.get_ref().internal {
            self.returned.notified().await;
            self.ended.send_if_modified(|ended| ended.insert(request.into_inner().r#ref));
            return Ok(Response::new(SolveResponse::default()));
        }
        let to_build = self.to_build.lock().unwrap().take();
        to_build.ok_or_else(|| Status::resource_exhausted("one build"))?.send(request.into_inner()).unwrap();
        std::future::pending().await
    }

    async fn status(&self, of: Request<StatusRequest>) -> Result<Response<BoxStream<StatusResponse>>, Status> {
        let mut ended = self.ended.subscribe();
        let ends = async move { drop(ended.wait_for(|ended| ended.contains(&of.get_ref().r#ref)).await) };
        Ok(Response::new(Box::pin(tokio_stream::pending().take_until(Box::pin(ends)))))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse::default()))
    }

    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        let platform = pb::Platform { architecture: "amd64".into(), os: "linux".into(), ..pb::Platform::default() };
        let record =
            worker::WorkerRecord { id: "w".into(), platforms: vec![platform], ..worker::WorkerRecord::default() };
        Ok(Response::new(ListWorkersResponse { record: vec![record] }))
    }
}

#[tonic::async_trait]
impl LlbBridge for Daemon {
    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PongResponse>, Status> {
        let able = |id: &&str| apicaps::ApiCap { id: id.to_string(), enabled: true, ..apicaps::ApiCap::default() };
        let caps: Vec<_> =
            ["solve.base", "return", "returnmap", "frontend.inputs", "exporter.multiple"].iter().map(able).collect();
        Ok(Response::new(PongResponse { frontend_api_caps: caps.clone(), llb_caps: caps, workers: vec![] }))
    }

    async fn r#return(&self, _: Request<ReturnRequest>) -> Result<Response<ReturnResponse>, Status> {
        self.returned.notify_one();
        Ok(Response::new(ReturnResponse::default()))
    }

    async fn solve(&self, request: Request<gateway::SolveRequest>) -> Result<Response<gateway::SolveResponse>, Status> {
        if let Some(to_solve) = self.to_solve.lock().unwrap().take() {
            let _ = to_solve.send(request.into_inner().frontend_opt);
        }
        std::future::pending().await
    }
}

/// A client while it waits for its build.
struct Building {
    program: std::process::Child,
    client: SessionClient,
    options: oneshot::Receiver<BTreeMap<String, String>>,
}

impl Building {
    async fn begin(program: &Path, dir: &Path, sessions: &Sessions, args: &[&str], input: Stdio) -> Building {
        let socket = dir.join("daemon.sock");
        let _ = fs::remove_file(&socket);
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let ((to_build, asked), (to_solve, options)) = (oneshot::channel(), oneshot::channel());
        let daemon = Arc::new(Daemon {
            sessions: sessions.clone(),
            returned: Notify::new(),
            ended: watch::Sender::default(),
            to_build: Mutex::new(Some(to_build)),
            to_solve: Mutex::new(Some(to_solve)),
        });
        let server = tonic::transport::Server::builder()
            .add_service(ControlServer::from_arc(Arc::clone(&daemon)))
            .add_service(LlbBridgeServer::from_arc(daemon));
        let connections = futures_util::stream::unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(connection, _)| connection), listener))
        });
        tokio::spawn(server.serve_with_incoming(Box::pin(connections)));
        let command = || {
            let mut command = Command::new(program);
            command.env("DOCKER_CONFIG", dir.join("docker")).env("BUILDX_CONFIG", dir.join("buildx")).current_dir(dir);
            command.env("TOKEN", "hunter2").stdin(Stdio::null());
            command
        };
        let address = format!("unix://{}", socket.display());
        let create = ["create", "--name", "t", "--driver", "remote", &address];
        let mut creating = command();
        creating.args(create).stdout(Stdio::null()).stderr(Stdio::null());
        tokio::task::spawn_blocking(move || creating.status().unwrap()).await.unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let program = command().args(["build", "--builder", "t"]).args(args).stdin(input).stderr(log).spawn().unwrap();
        let asked = tokio::time::timeout(Duration::from_secs(20), asked).await;
        let asked = asked.unwrap_or_else(|_| panic!("{}", fs::read_to_string(dir.join("log")).unwrap())).unwrap();
        let client = sessions.client(&asked.session).await.unwrap();
        Building { program, client, options }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn read(directory: &Directory, path: &str) -> String {
    fs::read_to_string(directory.path().join(path)).unwrap()
}

/// What a request for an agent's keys is, and the answer of one that has none:
/// <https://datatracker.ietf.org/doc/html/draft-ietf-sshm-ssh-agent>.
const KEYS: [u8; 5] = [0, 0, 0, 1, 11];
const NO_KEYS: [u8; 9] = [0, 0, 0, 5, 12, 0, 0, 0, 0];

/// An agent without keys.
fn agent(at: &Path) {
    let listener = UnixListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = [0; 5];
            while connection.read_exact(&mut request).is_ok() {
                assert_eq!(request, KEYS);
                connection.write_all(&NO_KEYS).unwrap();
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_buildx_is_asked_and_answers() {
    let Some(program) = support::client("docker-buildx") else { return };
    let scratch = support::scratch();
    let dir = scratch.path();
    let sessions = Sessions::new(Store::open(dir.join("store")).unwrap());
    let context = dir.join("app");
    fs::create_dir_all(context.join("src")).unwrap();
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY src /src\n").unwrap();
    fs::write(context.join("src/a"), "a".repeat(1 << 20)).unwrap();
    fs::write(context.join("src/b"), "b").unwrap();
    fs::create_dir(dir.join("docker")).unwrap();
    fs::write(dir.join("docker/config.json"), r#"{"auths":{"r.example":{"auth":"dXNlcjpjYW5hcnk="}}}"#).unwrap();
    agent(&dir.join("agent.sock"));
    let ssh = format!("default={}", dir.join("agent.sock").display());
    let args = [
        "--secret",
        "id=token,env=TOKEN",
        "--ssh",
        &ssh,
        "--output",
        "type=local,dest=out",
        "--output",
        "type=tar,dest=out.tar",
        "app",
    ];

    let building = Building::begin(program.as_ref(), dir, &sessions, &args, Stdio::null()).await;
    let client = &building.client;
    let all = LocalDirectory::named("context");
    let directory = client.directory(&all).await.unwrap();
    assert_eq!((read(&directory, "src/a").len(), read(&directory, "src/b").as_str()), (1 << 20, "b"));
    drop(directory);
    let text = LocalDirectory::files("dockerfile", ["Dockerfile".to_owned()]);
    assert!(read(&client.directory(&text).await.unwrap(), "Dockerfile").starts_with("FROM scratch"));
    assert!(client.directory(&LocalDirectory::named("/etc")).await.is_err());

    assert!(client.secret("token").await.unwrap().is_some());
    assert!(client.secret("none").await.unwrap().is_none());
    assert!(client.has_agent("default").await.unwrap() && !client.has_agent("none").await.unwrap());
    let mut connection = client.connect_agent("default").await.unwrap();
    connection.write_all(&KEYS).await.unwrap();
    let mut answer = [0; 9];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, NO_KEYS);
    // The end reaches the agent, and its end us: a pipe of the client's breaks then, or not.
    connection.shutdown().await.unwrap();
    assert!(matches!(connection.read(&mut answer).await, Ok(0) | Err(_)));
    let credentials = client.credentials();
    let found = format!("{:?}", credentials.find("r.example", "r.example", "a").await.unwrap());
    assert!(found.contains("\"user\""), "{found}");
    assert!(credentials.find("other.example", "other.example", "a").await.unwrap().is_none());

    let root = fs::File::open(&context).unwrap().into();
    let tree = DeliveredTree { root, at: String::new(), latest: None };
    client.take_trees(&Delivery::default(), vec![tree]).await.unwrap();
    assert_eq!(fs::read_to_string(dir.join("out/src/b")).unwrap(), "b");
    let (mut writer, content) = pipe();
    let writing = tokio::task::spawn_blocking(move || {
        writer.write_all(&[7; 1 << 20])?;
        writer.finish()
    });
    client.take_file(&Delivery { exporter: 1, ..Delivery::default() }, content).await.unwrap();
    writing.await.unwrap().unwrap();
    assert_eq!(fs::read(dir.join("out.tar")).unwrap(), [7; 1 << 20]);
    drop(building);

    // The same directory in another session: only what changed is sent.
    fs::write(context.join("src/b"), "changed").unwrap();
    let building = Building::begin(program.as_ref(), dir, &sessions, &args, Stdio::null()).await;
    let all = LocalDirectory::named("context");
    let directory = building.client.directory(&all).await.unwrap();
    assert_eq!(read(&directory, "src/b"), "changed");
    assert_eq!(all.arrived.load(Ordering::Relaxed), 7);

    // It leaves, and is missed.
    let client = building.client.clone();
    drop(building);
    tokio::time::timeout(Duration::from_secs(10), client.gone()).await.unwrap();
}

/// A layout with one image, of which only the manifest is there.
fn layout(at: &Path) -> (Digest, Vec<u8>) {
    let manifest =
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#.to_vec();
    let digest = Digest::of(&manifest);
    let descriptor = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest.to_string(),
        "size": manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": "latest" },
    });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    fs::create_dir_all(at.join("blobs/sha256")).unwrap();
    fs::write(at.join("blobs/sha256").join(digest.hex()), &manifest).unwrap();
    fs::write(at.join("index.json"), index.to_string()).unwrap();
    fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    (digest, manifest)
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_buildx_uploads_its_standard_input_and_reads_layouts() {
    let Some(program) = support::client("docker-buildx") else { return };
    let scratch = support::scratch();
    let dir = scratch.path();
    let sessions = Sessions::new(Store::open(dir.join("store")).unwrap());
    let (digest, manifest) = layout(&dir.join("layout"));
    let mut header = tar::Header::new_gnu();
    header.set_size(12);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "Dockerfile", &b"FROM scratch"[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    fs::write(dir.join("context.tar"), &archive).unwrap();
    let input = fs::File::open(dir.join("context.tar")).unwrap();
    let args = ["--build-context", "base=oci-layout://layout:latest", "-"];
    let mut building = Building::begin(program.as_ref(), dir, &sessions, &args, input.into()).await;
    let options = tokio::time::timeout(Duration::from_secs(20), &mut building.options).await.unwrap().unwrap();

    let path = options["context"].strip_prefix("http://buildkit-session").unwrap();
    let mut uploaded = Vec::new();
    building.client.upload(path).await.unwrap().read_to_end(&mut uploaded).await.unwrap();
    assert!(uploaded == archive, "{} bytes, not {}", uploaded.len(), archive.len());

    let (store, _) = options["context:base"].strip_prefix("oci-layout://").unwrap().split_once('@').unwrap();
    let store = store.split(':').next().unwrap().to_owned();
    let blob = ClientBlob { session: None, store: ClientStore::Layout(store), digest };
    assert_eq!(building.client.blob_size(&blob).await.unwrap(), Some(manifest.len() as u64));
    let mut read = Vec::new();
    building.client.read_blob(&blob, 1).await.unwrap().read_to_end(&mut read).await.unwrap();
    assert_eq!(read, manifest[1..]);
    let absent = ClientBlob { digest: Digest::of(b"absent"), ..blob };
    assert_eq!(building.client.blob_size(&absent).await.unwrap(), None);
}
