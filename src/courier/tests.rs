//! Builds at a daemon that does what the tests say, over a real socket.

use std::collections::BTreeMap;
use std::fs;
use std::future::{pending, Future};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use solver::event::{Event, EventKind, EventSink};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::BoxStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use super::*;
use crate::agent::Agent;
use crate::engine::{BuildRequest, Dockerfile, ExportRequest, Recipe, Rights, Secret};
use crate::export::Output;
use crate::wire::failure::{Detail, Failure};
use crate::wire::filesync::{finish, listed, receive, Delivery, DirectoryRequest, Receive};
use crate::wire::proto::control::control_server::{Control, ControlServer};
use crate::wire::proto::control::*;
use crate::wire::proto::file_send::file_send_client::FileSendClient;
use crate::wire::proto::filesync::file_sync_client::FileSyncClient;
use crate::wire::proto::filesync::BytesMessage as FileBytes;
use crate::wire::proto::fsutil::{Packet, Stat};
use crate::wire::proto::secrets::secrets_client::SecretsClient;
use crate::wire::proto::secrets::GetSecretRequest;
use crate::wire::proto::ssh::ssh_client::SshClient;
use crate::wire::proto::ssh::{BytesMessage as SshBytes, CheckAgentRequest};
use crate::wire::proto::{errdefs, worker};
use crate::wire::{raw, session};

const SOON: Duration = Duration::from_secs(20);

/// Boxed, since the compiler does not see of itself that such futures can be sent.
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Answer = Result<BTreeMap<String, String>, Status>;
type Work = Arc<dyn Fn(Channel, SolveRequest) -> Boxed<Answer> + Send + Sync>;

/// A daemon whose work on a build is the test's.
struct Fake {
    work: Work,
    session: watch::Sender<Option<Channel>>,
    status: Vec<StatusResponse>,
}

#[tonic::async_trait]
impl Control for Fake {
    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        Ok(Response::new(ListWorkersResponse { record: vec![worker::WorkerRecord::default()] }))
    }

    async fn session(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<BoxStream<BytesMessage>>, Status> {
        let (session, answers) = session::accept(call).await?;
        self.session.send_replace(Some(session.channel));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn solve(&self, ask: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let mut sessions = self.session.subscribe();
        let channel = sessions.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        let exporter_response = (self.work)(channel, ask.into_inner()).await?;
        Ok(Response::new(SolveResponse { exporter_response }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<BoxStream<StatusResponse>>, Status> {
        let all: Vec<_> = self.status.iter().cloned().map(Ok).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(all))))
    }
}

/// What a test has: scratch, and a daemon in it.
struct Stage {
    dir: tempfile::TempDir,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Stage {
    fn new() -> Stage {
        Stage { dir: tempfile::tempdir().unwrap(), events: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A context with a file that is left out.
    fn context(&self) -> PathBuf {
        let context = self.path("context");
        fs::create_dir_all(context.join("sub")).unwrap();
        fs::write(context.join("Dockerfile"), "FROM scratch").unwrap();
        fs::write(context.join("sub/kept"), "kept").unwrap();
        fs::write(context.join("sub/left"), "left").unwrap();
        context
    }

    fn order(&self, outputs: &[&str]) -> Order {
        let recipe = Recipe {
            dockerfile: Dockerfile::File("Dockerfile".into()),
            dockerfile_dir: "dockerfile".into(),
            options: Default::default(),
            sbom: None,
        };
        let outputs = outputs.iter().map(|word| Output::parse(word).unwrap()).collect();
        let exports = ExportRequest { outputs, ..ExportRequest::default() };
        let directories = BTreeMap::from([("context".to_owned(), self.context())]);
        let secrets = BTreeMap::from([("token".to_owned(), Secret::new(b"s3cret".to_vec()).unwrap())]);
        let offer = Offer { directories, secrets, ..Offer::default() };
        Order {
            request: BuildRequest { recipe, rights: Rights::default(), cache_from: Vec::new(), exports },
            offer,
            wants_id: false,
        }
    }

    async fn daemon<F>(
        &self,
        status: Vec<StatusResponse>,
        work: impl Fn(Channel, SolveRequest) -> F + Send + Sync + 'static,
    ) -> Daemon
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let socket = self.path("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let fake = Fake {
            work: Arc::new(move |channel, ask| Box::pin(work(channel, ask))),
            session: watch::Sender::new(None),
            status,
        };
        tokio::spawn(
            Server::builder().add_service(ControlServer::new(fake)).serve_with_incoming(connections(listener)),
        );
        Daemon::connect(&Address::Unix(socket), &Tls::default()).await.unwrap()
    }

    async fn build(&self, daemon: &Daemon, order: Order, stop: impl Future<Output = ()>) -> Result<Made, Error> {
        let events = Arc::clone(&self.events);
        let events = EventSink::new(move |event| events.lock().unwrap().push(event));
        let audience = Audience { events, backlog: &Arc::default() };
        timeout(SOON, daemon.build(order, audience, stop)).await.expect("it takes too long")
    }
}

fn connections(listener: UnixListener) -> impl Stream<Item = std::io::Result<UnixStream>> {
    futures_util::stream::unfold(listener, |listener| async {
        Some((listener.accept().await.map(|(line, _)| line), listener))
    })
}

/// Gives a file to the client, in pieces that mean nothing. Without an end, it never says that this is all.
fn deliver(channel: Channel, exporter: u32, pieces: Vec<&'static str>, has_end: bool) -> Boxed<Result<(), Status>> {
    Box::pin(async move {
        let (to, messages) = tokio::sync::mpsc::channel(8);
        for piece in pieces {
            to.send(raw::encode(&FileBytes { data: Bytes::from_static(piece.as_bytes()) })).await.unwrap();
        }
        match has_end {
            true => drop(to),
            // Dropped together with the call, it could end the stream before the call is taken back.
            false => std::mem::forget(to),
        }
        let mut call = Request::new(tokio_stream::wrappers::ReceiverStream::new(messages));
        Delivery { exporter: Some(exporter), ..Delivery::default() }.write(call.metadata_mut());
        let mut answers = FileSendClient::new(channel).diff_copy(call).await?.into_inner();
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    })
}

/// Gives a directory of one entry to the client.
fn deliver_entry(channel: Channel, exporter: u32, path: &'static str) -> Boxed<Result<(), Status>> {
    Box::pin(async move {
        let stat = Stat { path: path.into(), mode: 0o644 | 1 << 23, ..Stat::default() };
        let told = Packet { stat: Some(stat), ..Packet::default() };
        let messages = vec![raw::encode(&told), raw::encode(&listed()), raw::encode(&finish())];
        let mut call = Request::new(tokio_stream::iter(messages));
        Delivery { exporter: Some(exporter), ..Delivery::default() }.write(call.metadata_mut());
        let mut answers = FileSendClient::new(channel).diff_copy(call).await?.into_inner();
        while let Some(answer) = answers.next().await {
            let packet: Packet = raw::decode(answer?)?;
            // An error as the protocol has it.
            if packet.r#type == 4 {
                return Err(Status::unknown(String::from_utf8_lossy(&packet.data)));
            }
        }
        Ok(())
    })
}

/// Has a directory of the client's copied.
fn fetch(channel: Channel, wanted: DirectoryRequest, into: PathBuf) -> Boxed<Result<u32, Status>> {
    Box::pin(async move {
        fs::create_dir_all(&into).unwrap();
        let (outgoing, packets) = tokio::sync::mpsc::channel(8);
        let mut call = Request::new(tokio_stream::wrappers::ReceiverStream::new(packets));
        wanted.write(call.metadata_mut());
        let incoming = FileSyncClient::new(channel).diff_copy(call).await?.into_inner();
        let into = fs::File::open(into).unwrap().into();
        let received = receive(incoming, outgoing, into, Receive::context()).await;
        received.map(|received| received.files).map_err(|error| Status::unknown(error.to_string()))
    })
}

#[tokio::test]
async fn a_daemon_gets_what_was_offered_and_brings_what_was_asked_for() {
    let stage = Stage::new();
    let copy = stage.path("copy");
    let daemon = stage.daemon(vec![], move |channel, ask| {
        let copy = copy.clone();
        async move {
            assert_eq!((ask.frontend.as_str(), ask.exporters.len()), ("dockerfile.v0", 2));
            let wanted =
                DirectoryRequest { name: "context".into(), exclude: vec!["sub/left".into()], ..Default::default() };
            assert_eq!(fetch(channel.clone(), wanted, copy).await?, 2);
            let ask = |id: &str| GetSecretRequest { id: id.into(), ..Default::default() };
            let mut secrets = SecretsClient::new(channel.clone());
            assert_eq!(secrets.get_secret(ask("token")).await?.into_inner().data, b"s3cret");
            deliver(channel.clone(), 0, vec!["ar", "", "chive"], true).await?;
            deliver_entry(channel.clone(), 1, "file").await?;
            Ok(BTreeMap::from([("image.name".to_owned(), "app".to_owned())]))
        }
    });
    let daemon = daemon.await;
    let outputs = [format!("type=oci,dest={}", stage.path("a.tar").display()), stage.path("out").display().to_string()];
    let order = stage.order(&outputs.each_ref().map(String::as_str));
    let made = stage.build(&daemon, order, pending()).await.unwrap();
    assert_eq!(made.0["image.name"], "app");
    assert_eq!(fs::read(stage.path("a.tar")).unwrap(), b"archive");
    // No rights come with what somebody else built.
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(stage.path("out/file")).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(fs::read(stage.path("copy/sub/kept")).unwrap(), b"kept");
    assert!(!stage.path("copy/sub/left").exists());
}

#[tokio::test]
async fn nothing_else_is_given_or_taken() {
    let stage = Stage::new();
    let daemon = stage.daemon(vec![], |channel, _| async move {
        let refusal = |wanted: Code, outcome: Result<(), Status>| assert_eq!(outcome.unwrap_err().code(), wanted);
        let elsewhere = tempfile::tempdir().unwrap();
        for name in ["/etc", "..", "dockerfile", "Context"] {
            let wanted = DirectoryRequest { name: name.into(), ..Default::default() };
            refusal(Code::NotFound, fetch(channel.clone(), wanted, elsewhere.path().to_path_buf()).await.map(drop));
        }
        let mut secrets = SecretsClient::new(channel.clone());
        let unknown = secrets.get_secret(GetSecretRequest { id: "other".into(), ..Default::default() }).await;
        refusal(Code::NotFound, unknown.map(drop));
        let mut ssh = SshClient::new(channel.clone());
        refusal(Code::Unimplemented, ssh.check_agent(CheckAgentRequest { id: "default".into() }).await.map(drop));
        refusal(Code::NotFound, deliver(channel.clone(), 7, vec!["x"], true).await);
        for path in ["../escaped", "/escaped", "a/../../escaped", "x/y"] {
            refusal(Code::Unknown, deliver_entry(channel.clone(), 0, path).await);
        }
        deliver(channel.clone(), 1, vec!["first"], true).await?;
        refusal(Code::FailedPrecondition, deliver(channel.clone(), 1, vec!["second"], true).await);
        Err(Status::unknown("enough"))
    });
    let daemon = daemon.await;
    let outputs = [stage.path("out").display().to_string(), format!("type=tar,dest={}", stage.path("a.tar").display())];
    let order = stage.order(&outputs.each_ref().map(String::as_str));
    let error = stage.build(&daemon, order, pending()).await.unwrap_err();
    assert_eq!(error.to_string(), "enough");
    assert_eq!(fs::read(stage.path("a.tar")).unwrap(), b"first");
    let mut there: Vec<_> = fs::read_dir(stage.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, ["a.tar", "context", "out", "socket"]);
    assert_eq!(fs::read_dir(stage.path("out")).unwrap().count(), 0);
}

#[tokio::test]
async fn agents_are_reached_through_the_session() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stage = Stage::new();
    let agent = UnixListener::bind(stage.path("agent")).unwrap();
    tokio::spawn(async move {
        let (mut line, _) = agent.accept().await.unwrap();
        let mut asked = Vec::new();
        line.read_to_end(&mut asked).await.unwrap();
        asked.reverse();
        line.write_all(&asked).await.unwrap();
    });
    let daemon = stage.daemon(vec![], |channel, _| -> Boxed<Answer> {
        Box::pin(async move {
            let mut ssh = SshClient::new(channel);
            ssh.check_agent(CheckAgentRequest::default()).await?;
            assert!(ssh.check_agent(CheckAgentRequest { id: "other".into() }).await.is_err());
            let said = [SshBytes { data: "ab".into() }, SshBytes { data: "c".into() }];
            let mut call = Request::new(tokio_stream::iter(said));
            call.metadata_mut().insert("buildkit.ssh.id", "default".parse().unwrap());
            let answers = ssh.forward_agent(call).await?.into_inner().collect::<Vec<_>>().await;
            let heard: Vec<u8> = answers.into_iter().flat_map(|answer| answer.unwrap().data).collect();
            assert_eq!(heard, b"cba");
            Ok(BTreeMap::new())
        })
    });
    let daemon = daemon.await;
    let mut order = stage.order(&[]);
    order.offer.agents.insert("default".to_owned(), Agent::Raw(stage.path("agent")));
    stage.build(&daemon, order, pending()).await.unwrap();
}

#[tokio::test]
async fn an_output_is_whole_or_not_there_and_its_absence_is_told() {
    let stage = Stage::new();
    let output = format!("type=tar,dest={}", stage.path("a.tar").display());
    let daemon = stage.daemon(vec![], |channel, _| async move {
        // Begins, and leaves.
        let _ = timeout(Duration::from_millis(300), deliver(channel.clone(), 0, vec!["half"], false)).await;
        Ok(BTreeMap::new())
    });
    let daemon = daemon.await;
    let error = stage.build(&daemon, stage.order(&[&output]), pending()).await.unwrap_err();
    assert!(matches!(&error, Error::NotDelivered(what) if what == "the output of type tar"), "{error}");
    assert!(!stage.path("a.tar").exists());
}

#[tokio::test]
async fn a_place_that_cannot_be_is_told_to_the_daemon() {
    let stage = Stage::new();
    let output = format!("type=tar,dest={}", stage.path("no/such/a.tar").display());
    let daemon = stage.daemon(vec![], |channel, _| async move {
        deliver(channel.clone(), 0, vec!["x"], true).await?;
        Ok(BTreeMap::new())
    });
    let daemon = daemon.await;
    let error = stage.build(&daemon, stage.order(&[&output]), pending()).await.unwrap_err();
    assert!(error.to_string().contains("a.tar: its directory does not exist"), "{error}");
}

#[tokio::test]
async fn progress_and_reasons_reach_the_user() {
    let stage = Stage::new();
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let vertex = Vertex { digest: "d".into(), name: "[1/1] RUN x".into(), started: at(1), ..Vertex::default() };
    let log = VertexLog { vertex: "d".into(), stream: 1, msg: b"hello".to_vec(), timestamp: at(2) };
    let status = StatusResponse { vertexes: vec![vertex], logs: vec![log], ..StatusResponse::default() };
    let daemon = stage.daemon(vec![status], |_, _| async {
        let failure = Failure::new(Code::Unknown, "exit code: 1").about(Detail::Source(errdefs::Source::default()));
        Err(failure.into())
    });
    let daemon = daemon.await;
    let error = stage.build(&daemon, stage.order(&[]), pending()).await.unwrap_err();
    assert!(matches!(&error, Error::Said(said) if said.details.len() == 1), "{error:?}");
    let events = stage.events.lock().unwrap();
    let kinds: Vec<_> = events.iter().map(|event| &event.kind).collect();
    assert!(matches!(kinds[0], EventKind::BuildStarted { .. }));
    assert!(kinds.iter().any(|kind| matches!(kind, EventKind::Log { data, .. } if data == b"hello")), "{kinds:?}");
    assert!(matches!(kinds.last(), Some(EventKind::BuildFinished { error: Some(text) }) if text == "exit code: 1"));
}

#[tokio::test]
async fn a_build_that_is_given_up_is_given_up_there_too() {
    struct Dropped(watch::Sender<bool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.send_replace(true);
        }
    }
    let stage = Stage::new();
    let (began, dropped) = (Arc::new(tokio::sync::Notify::new()), watch::Sender::new(false));
    let mut is_dropped = dropped.subscribe();
    let begins = Arc::clone(&began);
    let daemon = stage.daemon(vec![], move |_, _| {
        let guard = Dropped(dropped.clone());
        begins.notify_one();
        async move {
            let _guard = guard;
            pending().await
        }
    });
    let daemon = daemon.await;
    let error = stage.build(&daemon, stage.order(&[]), async { began.notified().await }).await.unwrap_err();
    assert!(matches!(error, Error::Stopped));
    timeout(SOON, is_dropped.wait_for(|gone| *gone)).await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_is_no_daemon_is_told_apart() {
    let stage = Stage::new();
    let connect = async |path: PathBuf| Daemon::connect(&Address::Unix(path), &Tls::default()).await.unwrap_err();
    let error = connect(stage.path("nothing")).await;
    assert!(
        matches!(&error, Error::Connect { source, .. } if source.to_string() == "no such file or directory"),
        "{error:?}"
    );
    // Says hello in another language.
    let listener = UnixListener::bind(stage.path("http")).unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut line, _)) = listener.accept().await {
            line.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await.unwrap();
        }
    });
    let error = connect(stage.path("http")).await;
    assert!(matches!(error, Error::NoDaemon { .. }), "{error:?}");
    // Speaks gRPC, of other things.
    let listener = UnixListener::bind(stage.path("grpc")).unwrap();
    let health = crate::wire::health::healthy();
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(connections(listener)));
    let error = connect(stage.path("grpc")).await;
    assert!(matches!(error, Error::NoDaemon { .. }), "{error:?}");
}
