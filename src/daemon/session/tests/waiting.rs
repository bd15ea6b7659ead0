use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Server};

use super::*;
use crate::wire::proto::control::control_client::ControlClient;
use crate::wire::proto::control::control_server::{Control, ControlServer};
use crate::wire::proto::control::BytesMessage;

#[tokio::test(start_paused = true)]
async fn a_session_that_is_to_come_is_waited_for() {
    let world = World::new();
    let waiting = {
        let sessions = world.sessions.clone();
        tokio::spawn(async move { sessions.client("late").await })
    };
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (_client, _serving) = world.client("late", "", Offer::default()).await;
    assert_eq!(waiting.await.unwrap().unwrap().id(), "late");

    let start = tokio::time::Instant::now();
    let error = world.sessions.client("never").await.err().unwrap();
    assert_eq!(error.to_string(), "no active session for never: context deadline exceeded");
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn nobody_takes_the_place_of_a_session() {
    let world = World::new();
    let (client, serving) = world.client("s", "", Offer::default()).await;
    let refused = world.arrive(Headers::new("s", [""; 0]), Routes::new(healthy())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    assert_eq!(client.secret("token").await.unwrap().unwrap().bytes(), b"hunter2");
    serving.abort();
    timeout(SOON, client.gone()).await.unwrap();
    let (client, _serving) = world.client("s", "", Offer::default()).await;
    assert!(client.secret("token").await.unwrap().is_some());
}

#[tokio::test]
async fn a_client_that_leaves_wakes_all_who_wait() {
    let world = World::new();
    let (client, serving) = world.client("s", "", Offer::default()).await;
    let waits: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.secret("slow").await })
        })
        .collect();
    let gone = {
        let client = client.clone();
        tokio::spawn(async move { client.gone().await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    serving.abort();
    for wait in waits {
        let answer = timeout(SOON, wait).await.unwrap().unwrap();
        assert!(matches!(answer, Err(ClientError::Gone(_))));
    }
    assert_eq!(timeout(SOON, gone).await.unwrap().unwrap(), "its connection ended");
    assert!(matches!(client.secret("token").await, Err(ClientError::Gone(_))));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_is_gone() {
    let world = World::new();
    // It has no health service, which is an answer too.
    let _serving = world.arrive(Headers::new("s", [""; 0]), services_without_health()).await.unwrap();
    let client = world.sessions.client("s").await.unwrap();
    let slow = client.secret("slow").await;
    assert!(matches!(slow, Err(ClientError::Gone(why)) if why.contains("health")));
}

fn services_without_health() -> Routes {
    Routes::new(SecretsServer::new(Offer::default()))
}

/// A daemon that does nothing else.
struct Daemon(Sessions);

#[tonic::async_trait]
impl Control for Daemon {
    async fn session(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<BoxStream<BytesMessage>>, Status> {
        self.0.serve(call).await
    }
}

/// A connection to a daemon.
async fn daemon(sessions: Sessions) -> ControlClient<Channel> {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let connections = tokio_stream::once(Ok::<_, std::io::Error>(theirs)).chain(tokio_stream::pending());
    tokio::spawn(Server::builder().add_service(ControlServer::new(Daemon(sessions))).serve_with_incoming(connections));
    let ours = Mutex::new(Some(hyper_util::rt::TokioIo::new(ours)));
    let dial = tower::service_fn(move |_| {
        let line = ours.lock().unwrap().take();
        async { line.ok_or_else(|| std::io::Error::other("once")) }
    });
    ControlClient::new(Endpoint::from_static("http://localhost").connect_with_connector(dial).await.unwrap())
}

#[tokio::test]
async fn a_session_lives_inside_a_call() {
    let (world, context) = (World::new(), tempfile::tempdir().unwrap());
    write(context.path(), "f", &"x".repeat(3 << 20));
    let offer = Offer { directories: [("context".to_owned(), context.path().to_owned())].into(), ..Offer::default() };
    let mut control = daemon(world.sessions.clone()).await;
    let headers = Headers::new("s", all_methods());
    let serving = tokio::spawn(session::open(&mut control, &headers, services(offer)).await.unwrap());
    let client = world.sessions.client("s").await.unwrap();
    let directory = client.directory(&all_of("context")).await.unwrap();
    assert_eq!(fs::metadata(directory.path().join("f")).unwrap().len(), 3 << 20);

    let again = session::open(&mut control, &headers, Routes::new(healthy())).await;
    assert_eq!(again.err().map(|status| status.code()), Some(tonic::Code::AlreadyExists));
    serving.abort();
    timeout(SOON, client.gone()).await.unwrap();
}
