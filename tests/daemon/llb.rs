//! Raw LLB as programs write it, and what comes of it as a frontend sees it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use prost::Message;
use rbuild::wire::filesync::{send, DirectoryRequest, Select, Tree};
use rbuild::wire::health::healthy;
use rbuild::wire::proto::content::content_server::{Content, ContentServer};
use rbuild::wire::proto::content::{Info, InfoRequest, InfoResponse, ReadContentRequest, ReadContentResponse};
use rbuild::wire::proto::control::{SolveRequest, SolveResponse};
use rbuild::wire::proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use rbuild::wire::proto::fsutil::{Packet, Stat};
use rbuild::wire::proto::gateway::llb_bridge_client::LlbBridgeClient;
use rbuild::wire::proto::gateway::{self, ReturnRequest};
use rbuild::wire::session::{open, services, Headers};
use solver::graph::VertexId;
use solver::llb::pb;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::StreamExt;
use tonic::codegen::BoxStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::api::within;
use super::fixture::Daemon;

/// Ops, in the order in which they are made.
#[derive(Default)]
pub struct Llb(Vec<Vec<u8>>);

impl Llb {
    /// Adds an op on these inputs, and gives its first output.
    pub fn add(&mut self, op: pb::OpKind, inputs: &[&pb::Input]) -> pb::Input {
        let inputs = inputs.iter().map(|input| (*input).clone()).collect();
        let op = pb::Op { inputs, op: Some(op), ..Default::default() }.encode_to_vec();
        let digest = VertexId::of(&op).to_string();
        if !self.0.contains(&op) {
            self.0.push(op);
        }
        pb::Input { digest, index: 0 }
    }

    /// A source.
    pub fn source(&mut self, identifier: &str, attrs: &[(&str, &str)]) -> pb::Input {
        self.add(pb::OpKind::Source(source(identifier, attrs)), &[])
    }

    /// A tree of one file.
    pub fn file(&mut self, path: &str, data: &[u8]) -> pb::Input {
        let (path, data) = (path.into(), data.to_vec());
        let mkfile = pb::FileActionMkFile { path, mode: 0o644, data, timestamp: -1, ..Default::default() };
        self.action(pb::FileActionKind::MkFile(mkfile))
    }

    /// A tree of one link.
    pub fn link(&mut self, path: &str, to: &str) -> pb::Input {
        let (newpath, oldpath) = (path.into(), to.into());
        self.action(pb::FileActionKind::Symlink(pb::FileActionSymlink {
            newpath,
            oldpath,
            timestamp: -1,
            ..Default::default()
        }))
    }

    fn action(&mut self, action: pb::FileActionKind) -> pb::Input {
        let action = pb::FileAction { input: -1, secondary_input: -1, output: 0, action: Some(action) };
        self.add(pb::OpKind::File(pb::FileOp { actions: vec![action] }), &[])
    }

    /// What a definition in a file of an input makes.
    pub fn build(&mut self, input: &pb::Input, attrs: &[(&str, &str)]) -> pb::Input {
        let value = Some(pb::InputIndex { input: 0 });
        let inputs = vec![pb::BuildInputEntry { key: Some("buildkit.llb.definition".into()), value }];
        let op = pb::BuildOp { builder: -1, inputs, def: None, attrs: entries(attrs) };
        self.add(pb::OpKind::Build(op), &[input])
    }

    /// A process without network on a tree.
    pub fn exec(&mut self, root: &pb::Input, args: &[&str], change: impl FnOnce(&mut pb::ExecOp)) -> pb::Input {
        let args = args.iter().map(|word| word.to_string()).collect();
        let meta = pb::Meta { args, cwd: "/".into(), ..Default::default() };
        let mount = pb::Mount { input: 0, dest: "/".into(), output: 0, ..Default::default() };
        let mut op = pb::ExecOp { meta: Some(meta), mounts: vec![mount], network: 2, ..Default::default() };
        change(&mut op);
        self.add(pb::OpKind::Exec(op), &[root])
    }

    /// The definition whose result this is.
    pub fn define(self, result: pb::Input) -> pb::Definition {
        let end = pb::Op { inputs: vec![result], ..Default::default() }.encode_to_vec();
        pb::Definition { def: self.0.into_iter().chain([end]).collect(), ..Default::default() }
    }
}

fn entries(attrs: &[(&str, &str)]) -> Vec<pb::AttrEntry> {
    let entry = |(key, value): &(&str, &str)| pb::AttrEntry { key: Some((*key).into()), value: Some((*value).into()) };
    attrs.iter().map(entry).collect()
}

/// A source as a message.
pub fn source(identifier: &str, attrs: &[(&str, &str)]) -> pb::SourceOp {
    pb::SourceOp { identifier: identifier.into(), attrs: entries(attrs) }
}

/// The definition of one source.
pub fn of_source(identifier: &str, attrs: &[(&str, &str)]) -> pb::Definition {
    let mut llb = Llb::default();
    let source = llb.source(identifier, attrs);
    llb.define(source)
}

/// A build that this client plays the frontend of.
pub struct Play {
    pub bridge: LlbBridgeClient<Channel>,
    pub id: String,
    solving: JoinHandle<Result<Response<SolveResponse>, Status>>,
}

impl Play {
    /// Begins a build of this name.
    pub async fn begin(daemon: &Daemon, id: &str) -> Play {
        Play::ask(daemon, SolveRequest { r#ref: id.into(), ..Default::default() }).await
    }

    /// Begins a build as this request has it.
    pub async fn ask(daemon: &Daemon, request: SolveRequest) -> Play {
        let (mut control, id) = (daemon.control().await, request.r#ref.clone());
        let solving = tokio::spawn(async move { control.solve(request).await });
        Play { bridge: LlbBridgeClient::new(daemon.channel().await), id, solving }
    }

    pub async fn solve(&mut self, request: gateway::SolveRequest) -> Result<String, Status> {
        let request = gateway::SolveRequest { evaluate: true, ..request };
        Ok(self.bridge.solve(within(&self.id, request)).await?.into_inner().r#ref)
    }

    /// Makes a definition's result and gives the name of it.
    pub async fn make(&mut self, definition: pb::Definition) -> Result<String, Status> {
        self.solve(gateway::SolveRequest { definition: Some(definition), ..Default::default() }).await
    }

    /// Why a definition makes nothing.
    pub async fn fails(&mut self, definition: pb::Definition) -> String {
        self.make(definition).await.expect_err("it makes something").message().to_owned()
    }

    /// The text of a file of a definition's result.
    pub async fn text(&mut self, definition: pb::Definition, path: &str) -> String {
        let made = self.make(definition).await.unwrap_or_else(|status| panic!("{status}"));
        String::from_utf8(self.read(&made, path).await).unwrap()
    }

    pub async fn read(&mut self, made: &str, path: &str) -> Vec<u8> {
        let request = gateway::ReadFileRequest { r#ref: made.into(), file_path: path.into(), ..Default::default() };
        self.bridge.read_file(within(&self.id, request)).await.unwrap().into_inner().data
    }

    pub async fn stat(&mut self, made: &str, path: &str) -> Stat {
        let request = gateway::StatFileRequest { r#ref: made.into(), path: path.into(), ..Default::default() };
        self.bridge.stat_file(within(&self.id, request)).await.unwrap().into_inner().stat.unwrap()
    }

    /// The names in the root directory of a result.
    pub async fn list(&mut self, made: &str) -> Vec<String> {
        let request = gateway::ReadDirRequest { r#ref: made.into(), dir_path: "/".into(), ..Default::default() };
        let entries = self.bridge.read_dir(within(&self.id, request)).await.unwrap().into_inner().entries;
        entries.into_iter().map(|entry| entry.path).collect()
    }

    /// Returns nothing, and waits for the end of the build.
    pub async fn end(mut self) {
        let request = ReturnRequest { result: Some(gateway::Result::default()), error: None };
        self.bridge.r#return(within(&self.id, request)).await.unwrap();
        self.solving.await.unwrap().unwrap();
    }
}

/// A client's content stores, by the names that daemons have for them, with their blobs by digest.
#[derive(Clone, Default)]
pub struct Stores(pub BTreeMap<String, BTreeMap<String, Vec<u8>>>);

impl Stores {
    /// Opens a session that has them, which lives until the handle is aborted.
    pub async fn open(self, daemon: &Daemon, session: &str) -> JoinHandle<()> {
        let routes = tonic::service::Routes::new(ContentServer::new(self)).add_service(healthy());
        let headers = Headers::new(session, services::CONTENT);
        let serving = open(&mut daemon.control().await, &headers, routes).await.unwrap();
        tokio::spawn(async move { drop(serving.await) })
    }

    fn blob<T>(&self, call: &Request<T>, digest: &str) -> Result<Vec<u8>, Status> {
        let store = call.metadata().get("buildkit-attachable-store-id").and_then(|name| name.to_str().ok());
        let blobs = self.0.get(store.unwrap_or_default()).ok_or_else(|| Status::not_found("no such store"))?;
        blobs.get(digest).cloned().ok_or_else(|| Status::not_found("no such blob"))
    }
}

#[tonic::async_trait]
impl Content for Stores {
    async fn info(&self, call: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let digest = call.get_ref().digest.clone();
        let size = self.blob(&call, &digest)?.len() as i64;
        Ok(Response::new(InfoResponse { info: Some(Info { digest, size, ..Default::default() }) }))
    }

    async fn read(
        &self,
        call: Request<ReadContentRequest>,
    ) -> Result<Response<BoxStream<ReadContentResponse>>, Status> {
        let blob = self.blob(&call, &call.get_ref().digest)?;
        let pieces: Vec<_> = blob.chunks(1000).map(<[u8]>::to_vec).collect();
        let answers = pieces.into_iter().map(|data| Ok(ReadContentResponse { offset: 0, data: data.into() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }
}

/// A client's directories, by the names that daemons have for them.
pub struct Directories(pub BTreeMap<String, PathBuf>);

impl Directories {
    /// Opens a session that has them, which lives until the handle is aborted. It is one of client `shared_key`.
    pub async fn open(self, daemon: &Daemon, session: &str, shared_key: &str) -> JoinHandle<()> {
        let routes = tonic::service::Routes::new(FileSyncServer::new(self)).add_service(healthy());
        let mut headers = Headers::new(session, services::FILE_SYNC);
        headers.shared_key = shared_key.to_owned();
        let serving = open(&mut daemon.control().await, &headers, routes).await.unwrap();
        tokio::spawn(async move { drop(serving.await) })
    }
}

#[tonic::async_trait]
impl FileSync for Directories {
    async fn diff_copy(&self, call: Request<Streaming<Packet>>) -> Result<Response<BoxStream<Packet>>, Status> {
        let wanted = DirectoryRequest::read(call.metadata()).unwrap();
        let path = self.0.get(&wanted.name).ok_or_else(|| Status::not_found("no access allowed to dir"))?;
        let root = File::open(path).unwrap();
        let select = Select::new(&root, &wanted.include, &wanted.exclude, &wanted.follow).unwrap();
        let (outgoing, packets) = mpsc::channel(16);
        tokio::spawn(send(call.into_inner(), outgoing, vec![Tree::context(root.into(), select)]));
        Ok(Response::new(Box::pin(ReceiverStream::new(packets).map(Ok))))
    }
}
