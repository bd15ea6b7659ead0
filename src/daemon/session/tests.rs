//! Sessions with a client that really serves, with nothing but memory between them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use snapshotter::Store;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::engine::{Client as _, ClientError, Differ, Directory, LocalDirectory};
use crate::wire::filesync::{receive, send, DirectoryRequest, Receive, Select, Sent, Tree};
use crate::wire::health::healthy;
use crate::wire::proto::content::content_server::{Content, ContentServer};
use crate::wire::proto::content::{Info, InfoRequest, InfoResponse, ReadContentRequest, ReadContentResponse};
use crate::wire::proto::file_send::file_send_server::{FileSend, FileSendServer};
use crate::wire::proto::filesync::auth_server::{Auth, AuthServer};
use crate::wire::proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use crate::wire::proto::filesync::{
    BytesMessage, CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse,
};
use crate::wire::proto::fsutil::Packet;
use crate::wire::proto::secrets::secrets_server::{Secrets, SecretsServer};
use crate::wire::proto::secrets::{GetSecretRequest, GetSecretResponse};
use crate::wire::proto::ssh::ssh_server::{Ssh, SshServer};
use crate::wire::proto::ssh::{BytesMessage as SshBytes, CheckAgentRequest, CheckAgentResponse};
use crate::wire::proto::upload::upload_server::{Upload, UploadServer};
use crate::wire::proto::upload::BytesMessage as UploadBytes;
use crate::wire::session::{self, Headers, Session};
use crate::wire::{filesync::Delivery as Told, raw};

mod answers;
mod directories;
mod results;
mod waiting;

const SOON: Duration = Duration::from_secs(20);

/// What was asked for, and how much of it went.
type Transfer = (DirectoryRequest, Option<Sent>);

/// What a client has.
#[derive(Clone, Default)]
struct Offer {
    directories: BTreeMap<String, PathBuf>,
    /// A directory of this name is these packets and nothing more.
    forged: BTreeMap<String, Vec<Packet>>,
    /// What it was asked for, and how much of it went.
    asked: Arc<Mutex<Vec<Transfer>>>,
    /// Where results go, by exporter: 0 is a directory, the others are files.
    out: Option<PathBuf>,
    deliveries: Arc<Mutex<Vec<Told>>>,
    /// It shows its password, and fetches no tokens.
    shows_password: bool,
}

#[tonic::async_trait]
impl FileSync for Offer {
    async fn diff_copy(&self, call: Request<Streaming<Packet>>) -> Result<Response<BoxStream<Packet>>, Status> {
        let asked = DirectoryRequest::read(call.metadata()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if let Some(forged) = self.forged.get(&asked.name) {
            let packets = forged.clone().into_iter().map(Ok);
            return Ok(Response::new(Box::pin(tokio_stream::iter(packets).chain(tokio_stream::pending()))));
        }
        let Some(directory) = self.directories.get(&asked.name) else {
            return Err(Status::not_found(format!("no access allowed to dir {:?}", asked.name)));
        };
        let root = File::open(directory).unwrap();
        let select = Select::new(&root, &asked.include, &asked.exclude, &asked.follow).unwrap();
        let (outgoing, packets) = mpsc::channel(4);
        let all = Arc::clone(&self.asked);
        tokio::spawn(async move {
            let sent = send(call.into_inner(), outgoing, vec![Tree::context(root.into(), select)]).await;
            all.lock().unwrap().push((asked, sent.ok()));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(packets).map(Ok))))
    }
}

/// Answers once something was said, as servers in Go do: no header comes before the first message.
fn late<T: Send + 'static>(messages: mpsc::Receiver<Result<T, Status>>) -> BoxStream<T> {
    Box::pin(ReceiverStream::new(messages))
}

#[tonic::async_trait]
impl FileSend for Offer {
    type DiffCopyStream = BoxStream<bytes::Bytes>;

    async fn diff_copy(
        &self,
        call: Request<Streaming<bytes::Bytes>>,
    ) -> Result<Response<BoxStream<bytes::Bytes>>, Status> {
        let told = Told::read(call.metadata()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.deliveries.lock().unwrap().push(told.clone());
        let Some(out) = self.out.clone() else { return Err(Status::not_found("exporter not found")) };
        let mut messages = call.into_inner();
        if told.exporter == Some(9) {
            return Err(Status::already_exists("target already exists"));
        }
        if told.exporter != Some(0) {
            // Headers come after the last message, as from a client that writes a file.
            let mut file = Vec::new();
            while let Some(message) = messages.next().await {
                file.extend_from_slice(&raw::decode::<BytesMessage>(message?)?.data);
            }
            fs::write(out.join("file"), file).unwrap();
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        // Headers come after the first message.
        let Some(first) = messages.next().await else { return Err(Status::cancelled("nothing came")) };
        let incoming = tokio_stream::once(first).chain(messages).map(|message| message.and_then(raw::decode));
        let (outgoing, packets) = mpsc::channel(4);
        let (end, ended) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut packets = ReceiverStream::new(packets).map(|packet: Packet| Ok(raw::encode(&packet)));
            let root = File::open(out).unwrap();
            let receiving = receive(Box::pin(incoming), outgoing, root.into(), Receive::export());
            let passing = async {
                while let Some(packet) = packets.next().await {
                    let _ = end.send(packet).await;
                }
            };
            let (received, ()) = tokio::join!(receiving, passing);
            if let Err(error) = received {
                let _ = end.send(Err(Status::internal(error.to_string()))).await;
            }
        });
        Ok(Response::new(late(ended)))
    }
}

#[tonic::async_trait]
impl Secrets for Offer {
    async fn get_secret(&self, ask: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        match ask.into_inner().id.as_str() {
            "token" => Ok(Response::new(GetSecretResponse { data: b"hunter2".to_vec() })),
            "huge" => Ok(Response::new(GetSecretResponse { data: vec![b'x'; (500 << 10) + 1] })),
            "slow" => std::future::pending().await,
            "broken" => Err(Status::internal("the vault is locked")),
            id => Err(Status::not_found(format!("secret {id}: not found"))),
        }
    }
}

#[tonic::async_trait]
impl Ssh for Offer {
    async fn check_agent(&self, ask: Request<CheckAgentRequest>) -> Result<Response<CheckAgentResponse>, Status> {
        match ask.into_inner().id.as_str() {
            "default" => Ok(Response::new(CheckAgentResponse {})),
            id => Err(Status::unknown(format!("unset ssh forward key {id}"))),
        }
    }

    /// Echoes in capitals, and says goodbye when the other side has no more to say.
    async fn forward_agent(&self, call: Request<Streaming<SshBytes>>) -> Result<Response<BoxStream<SshBytes>>, Status> {
        assert_eq!(call.metadata().get("buildkit.ssh.id").unwrap(), "default");
        let mut messages = call.into_inner();
        // Headers come after the first message.
        let first = messages.next().await;
        let all = tokio_stream::iter(first).chain(messages);
        let echo = all.map(|message| message.map(|m| SshBytes { data: m.data.to_ascii_uppercase().into() }));
        let goodbye = tokio_stream::once(Ok(SshBytes { data: "bye"[..].into() }));
        Ok(Response::new(Box::pin(echo.chain(goodbye))))
    }
}

#[tonic::async_trait]
impl Auth for Offer {
    async fn get_token_authority(
        &self,
        ask: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        if self.shows_password {
            return Err(Status::unavailable("client side tokens disabled"));
        }
        assert_eq!(ask.get_ref().salt.len(), 32);
        Ok(Response::new(GetTokenAuthorityResponse { public_key: vec![7; 32] }))
    }

    async fn fetch_token(&self, ask: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        let ask = ask.into_inner();
        let token = format!("{}|{}|{}|{}", ask.host, ask.realm, ask.service, ask.scopes.join(","));
        Ok(Response::new(FetchTokenResponse { token, expires_in: 300, issued_at: -62_135_596_800 }))
    }

    async fn credentials(&self, ask: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let (username, secret) = match ask.into_inner().host.as_str() {
            "r.example" => ("user", "canary"),
            "identity.example" => ("", "canary"),
            _ => ("", ""),
        };
        Ok(Response::new(CredentialsResponse { username: username.into(), secret: secret.into() }))
    }
}

#[tonic::async_trait]
impl Upload for Offer {
    async fn pull(&self, call: Request<Streaming<UploadBytes>>) -> Result<Response<BoxStream<UploadBytes>>, Status> {
        if call.metadata().get("urlpath").is_none_or(|path| path != "/u1") {
            return Err(Status::not_found("no such upload"));
        }
        assert_eq!(call.metadata().get("urlhost").unwrap(), "buildkit-session");
        let parts = ["a tar ", "on standard input"].map(|part| Ok(UploadBytes { data: part.into() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }
}

const BLOB: &[u8] = b"a blob of a layout";

fn blob_digest() -> snapshotter::Digest {
    snapshotter::Digest::of(BLOB)
}

#[tonic::async_trait]
impl Content for Offer {
    async fn info(&self, ask: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        if ask.metadata().get("buildkit-attachable-store-id").is_none_or(|store| store != "oci:base") {
            return Err(Status::invalid_argument("no such store"));
        }
        if ask.get_ref().digest != blob_digest().to_string() {
            return Err(Status::not_found("no such blob"));
        }
        Ok(Response::new(InfoResponse { info: Some(Info { size: BLOB.len() as i64, ..Info::default() }) }))
    }

    async fn read(&self, ask: Request<ReadContentRequest>) -> Result<Response<BoxStream<ReadContentResponse>>, Status> {
        let from = ask.get_ref().offset as usize;
        let parts = BLOB[from..].chunks(5).map(|part| Ok(ReadContentResponse { offset: 0, data: part.into() }));
        let parts: Vec<_> = parts.collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }
}

/// Every method a client may serve.
fn all_methods() -> impl Iterator<Item = &'static &'static str> {
    use session::services::*;
    [HEALTH, FILE_SYNC, FILE_SEND, AUTH, SECRETS, SSH, UPLOAD, CONTENT].into_iter().flatten()
}

fn services(offer: Offer) -> Routes {
    Routes::new(healthy())
        .add_service(FileSyncServer::new(offer.clone()))
        .add_service(FileSendServer::new(offer.clone()))
        .add_service(SecretsServer::new(offer.clone()))
        .add_service(SshServer::new(offer.clone()))
        .add_service(AuthServer::new(offer.clone()))
        .add_service(UploadServer::new(offer.clone()))
        .add_service(ContentServer::new(offer))
}

/// A daemon's sessions, on a store of their own.
struct World {
    sessions: Sessions,
    _dir: TempDir,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        World { sessions: Sessions::new(store), _dir: dir }
    }

    /// A client arrives.
    async fn client(&self, id: &str, shared_key: &str, offer: Offer) -> (SessionClient, JoinHandle<()>) {
        let headers = Headers { shared_key: shared_key.to_owned(), ..Headers::new(id, all_methods()) };
        let serving = self.arrive(headers, services(offer)).await.unwrap();
        (self.sessions.client(id).await.unwrap(), serving)
    }

    async fn arrive(&self, headers: Headers, services: Routes) -> Result<JoinHandle<()>, Status> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let serving = tokio::spawn(async move { drop(session::serve(theirs, services).await) });
        let (channel, ended) = session::connect(ours).await.unwrap();
        self.sessions.attach(Session { headers, channel, ended })?;
        Ok(serving)
    }
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn all_of(name: &str) -> LocalDirectory {
    LocalDirectory::named(name)
}

/// Waits until `ready` gives something.
async fn eventually<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            match ready() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap()
}
