//! Both ends of a session talking, with nothing but memory between them.

use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::oneshot;
use tokio::time::{timeout, Instant};
use tokio_stream::StreamExt;
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use super::*;
use crate::wire::failure::{Detail, Failure};
use crate::wire::health::healthy;
use crate::wire::proto::control::control_client::ControlClient;
use crate::wire::proto::control::control_server::{Control, ControlServer};
use crate::wire::proto::control::BytesMessage;
use crate::wire::proto::health::health_client::HealthClient;
use crate::wire::proto::health::health_server::{Health, HealthServer};
use crate::wire::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::wire::proto::secrets::secrets_client::SecretsClient;
use crate::wire::proto::secrets::secrets_server::{Secrets, SecretsServer};
use crate::wire::proto::secrets::{GetSecretRequest, GetSecretResponse};
use crate::wire::proto::ssh::ssh_client::SshClient;
use crate::wire::proto::ssh::ssh_server::{Ssh, SshServer};
use crate::wire::proto::ssh::BytesMessage as SshBytes;
use crate::wire::proto::{errdefs, pb};

const SOON: Duration = Duration::from_secs(10);

/// Hands out the one session it is called with.
struct Daemon(Mutex<Option<oneshot::Sender<Session>>>);

#[tonic::async_trait]
impl Control for Daemon {
    async fn session(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<BoxStream<BytesMessage>>, Status> {
        let (session, answers) = accept(call).await?;
        let to = self.0.lock().unwrap().take().ok_or_else(|| Status::resource_exhausted("one session"))?;
        to.send(session).map_err(|_| Status::cancelled("nobody waits"))?;
        Ok(Response::new(Box::pin(answers)))
    }
}

struct Client;

#[tonic::async_trait]
impl Secrets for Client {
    async fn get_secret(&self, ask: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        match ask.into_inner().id.as_str() {
            "big" => Ok(Response::new(GetSecretResponse { data: vec![b'x'; 3 << 20] })),
            "slow" => std::future::pending().await,
            "lines" => Err(with_dockerfile().into()),
            id => Err(Status::not_found(format!("secret {id}: not found"))),
        }
    }
}

#[tonic::async_trait]
impl Ssh for Client {
    async fn forward_agent(&self, call: Request<Streaming<SshBytes>>) -> Result<Response<BoxStream<SshBytes>>, Status> {
        let doubled = |message: SshBytes| SshBytes { data: [&message.data[..], &message.data[..]].concat().into() };
        Ok(Response::new(Box::pin(call.into_inner().map(move |message| message.map(doubled)))))
    }
}

/// An error larger than what HTTP/2 peers grant by default.
fn with_dockerfile() -> Failure {
    let data = b"RUN x\n".repeat(40_000);
    let info = Some(pb::SourceInfo { data, ..Default::default() });
    Failure::new(Code::Unknown, "m").about(Detail::Source(errdefs::Source { info, ranges: vec![] }))
}

fn services() -> Routes {
    Routes::new(healthy()).add_service(SecretsServer::new(Client)).add_service(SshServer::new(Client))
}

/// A daemon, and a client of it.
async fn daemon() -> (ControlClient<Channel>, oneshot::Receiver<Session>) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (to, session) = oneshot::channel();
    let control = ControlServer::new(Daemon(Mutex::new(Some(to))));
    let connections = tokio_stream::once(Ok::<_, std::io::Error>(theirs)).chain(tokio_stream::pending());
    tokio::spawn(Server::builder().add_service(control).serve_with_incoming(connections));
    let ours = Mutex::new(Some(TokioIo::new(ours)));
    let dial = tower::service_fn(move |_| {
        let line: Option<TokioIo<DuplexStream>> = ours.lock().unwrap().take();
        async { line.ok_or_else(|| std::io::Error::other("once")) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(dial).await.unwrap();
    (ControlClient::new(channel), session)
}

#[tokio::test]
async fn the_daemon_asks_and_the_client_answers() {
    let (mut control, session) = daemon().await;
    let headers = Headers { shared_key: "ctx:node".into(), ..Headers::new("s1", services::SECRETS) };
    let serving = tokio::spawn(open(&mut control, &headers, services()).await.unwrap());
    let session = session.await.unwrap();
    assert_eq!(session.headers, headers);
    assert!(session.headers.serves("/moby.buildkit.secrets.v1.Secrets/GetSecret"));

    let mut secrets = SecretsClient::new(session.channel.clone());
    let ask = |id: &str| GetSecretRequest { id: id.into(), ..Default::default() };
    let refused = secrets.get_secret(ask("none")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "secret none: not found"));
    let big = secrets.get_secret(ask("big")).await.unwrap().into_inner();
    assert_eq!(big.data.len(), 3 << 20);

    let error = secrets.get_secret(ask("lines")).await.unwrap_err();
    assert_eq!(Failure::from(&error), with_dockerfile());

    let mut ssh = SshClient::new(session.channel);
    let sent = tokio_stream::iter([b"a", b"b"]).map(|data| SshBytes { data: data[..].into() });
    let got: Vec<_> = ssh.forward_agent(sent).await.unwrap().into_inner().collect::<Vec<_>>().await;
    assert_eq!(got.into_iter().map(|m| m.unwrap().data).collect::<Vec<_>>(), ["aa", "bb"]);

    // The daemon leaves: the client's future ends.
    drop((secrets, ssh));
    timeout(SOON, serving).await.unwrap().unwrap().unwrap();
    timeout(SOON, session.ended).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_session_and_what_waits_on_it() {
    let (mut control, session) = daemon().await;
    let serving = tokio::spawn(open(&mut control, &Headers::new("s", [""; 0]), services()).await.unwrap());
    let session = session.await.unwrap();
    let mut secrets = SecretsClient::new(session.channel.clone());
    let waiting =
        tokio::spawn(
            async move { secrets.get_secret(GetSecretRequest { id: "slow".into(), ..Default::default() }).await },
        );
    let mut health = HealthClient::new(session.channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();
    serving.abort();
    timeout(SOON, session.ended).await.unwrap();
    assert!(timeout(SOON, waiting).await.unwrap().unwrap().is_err());
    // There is no second try.
    assert!(health.check(HealthCheckRequest::default()).await.is_err());
}

#[tokio::test]
async fn a_call_without_an_id_is_refused() {
    let (mut control, _session) = daemon().await;
    let refused = control.session(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "header x-docker-expose-session-uuid is missing");
}

/// Answers well `left` times, then never.
struct Dying(Mutex<u32>);

#[tonic::async_trait]
impl Health for Dying {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let alive = {
            let mut left = self.0.lock().unwrap();
            let alive = *left > 0;
            *left = left.saturating_sub(1);
            alive
        };
        if alive {
            return Ok(Response::new(HealthCheckResponse { status: 1 }));
        }
        std::future::pending().await
    }
}

async fn lost_after(pulse: Pulse, services: Routes) -> (Lost, Duration) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let serving = tokio::spawn(serve(theirs, services));
    let (channel, _ended) = connect(ours).await.unwrap();
    let start = Instant::now();
    let lost = pulse.until_lost(channel).await;
    serving.abort();
    (lost, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_lost_after_two_failures_in_a_row() {
    let dying = || Routes::new(HealthServer::new(Dying(Mutex::new(3))));
    let (lost, after) = lost_after(Pulse::default(), dying()).await;
    assert!(matches!(lost, Lost::Silent(patience) if patience == Duration::from_millis(22_500)), "{lost:?}");
    // three answers, five seconds apart, then 5 + 15 and, more patient after that, 5 + 22.5 seconds
    assert_eq!(after.as_secs(), 3 * 5 + 5 + 15 + 5 + 22);

    let (lost, after) = lost_after(Pulse::of(Some(Duration::ZERO)), dying()).await;
    assert!(matches!(lost, Lost::Silent(patience) if patience == Duration::from_secs(1)), "{lost:?}");
    assert_eq!(after.as_secs(), 3 + 1 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_health_checks_is_lost() {
    let (lost, _) = lost_after(Pulse::default(), Routes::new(SecretsServer::new(Client))).await;
    assert!(matches!(lost, Lost::Failed(status) if status.code() == Code::Unimplemented));
}

#[test]
fn sessions_can_be_passed_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Session>();
    is_send::<Tunnel<Streaming<BytesMessage>>>();
}
