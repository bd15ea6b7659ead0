//! Which sessions there are, and who waits for one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use snapshotter::Store;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::client::SessionClient;
use super::live::Live;
use crate::engine::{chain, ClientError};
use crate::wire::proto::control::BytesMessage;
use crate::wire::proto::health::health_client::HealthClient;
use crate::wire::proto::health::HealthCheckRequest;
use crate::wire::session::{accept, Ended, Pulse, Session};

/// How long a session is waited for: a client opens it beside its first request, and either may be first.
const TO_COME: Duration = Duration::from_secs(5);

/// The same for a request that is answered already.
const TO_OPEN: Duration = Duration::from_secs(2);

/// The sessions that clients have with this daemon. Clones share them.
#[derive(Clone)]
pub struct Sessions {
    store: Store,
    live: Arc<watch::Sender<HashMap<String, Live>>>,
}

impl Sessions {
    /// None yet. What clients send is kept in `store`.
    pub fn new(store: Store) -> Sessions {
        Sessions { store, live: Arc::new(watch::Sender::new(HashMap::new())) }
    }

    /// Answers `Control.Session`. The answer lasts as long as the session.
    ///
    /// # Errors
    /// `InvalidArgument` for headers that name no session, `AlreadyExists` for an id that is in use: a client that could
    /// take another's place could have its secrets asked of it.
    pub async fn serve(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<BoxStream<BytesMessage>>, Status> {
        let (session, answers) = accept(call).await?;
        let live = self.attach(session)?;
        let gone = async move { live.gone().await };
        Ok(Response::new(Box::pin(answers.take_until(Box::pin(gone)))))
    }

    /// Makes a session known until its client leaves, does not answer any more, or its connection ends.
    ///
    /// # Errors
    /// `AlreadyExists` for an id that is in use.
    pub(super) fn attach(&self, session: Session) -> Result<Live, Status> {
        let Session { headers, channel, ended } = session;
        let live = Live::new(headers, channel);
        let entered = self.live.send_if_modified(|all| {
            let is_new = !all.contains_key(live.id());
            if is_new {
                all.insert(live.id().to_owned(), live.clone());
            }
            is_new
        });
        if !entered {
            return Err(Status::already_exists(format!("session {:?} is open already", live.id())));
        }
        tokio::spawn(self.clone().watch(live.clone(), ended));
        Ok(live)
    }

    /// Waits until the client is gone, and tells everybody.
    async fn watch(self, live: Live, ended: Ended) {
        let pulse = Pulse::of(live.headers().health_timeout);
        let why = tokio::select! {
            () = ended => "its connection ended".to_owned(),
            lost = pulse.until_lost(live.channel()) => chain(&lost),
        };
        self.live.send_modify(|all| drop(all.remove(live.id())));
        live.leave(why);
    }

    /// What a build may ask of the client whose session this is. Waits a few seconds for one that is to come.
    ///
    /// # Errors
    /// [`ClientError::NoSession`].
    pub async fn client(&self, id: &str) -> Result<SessionClient, ClientError> {
        let mut changes = self.live.subscribe();
        let found = timeout(TO_COME, changes.wait_for(|all| all.contains_key(id))).await;
        let live = found.ok().and_then(Result::ok).and_then(|all| all.get(id).cloned());
        let live = live.ok_or_else(|| ClientError::NoSession(id.to_owned()))?;
        Ok(SessionClient::new(self.clone(), live))
    }

    /// What tells a client's builds from those of others, as a person may read it, if its session is open.
    pub fn project(&self, id: &str) -> Option<String> {
        let live = self.live.borrow().get(id).cloned()?;
        let name = live.headers().shared_key.split(':').next().unwrap_or_default().to_owned();
        Some(name).filter(|name| !name.is_empty())
    }

    /// Waits a moment until the client has taken up all that it was sent, before it is told something that makes it close
    /// the session.
    ///
    /// BuildKit's client reads a message that comes while it closes together with what its buffer has behind it, takes
    /// that for frames, and prints a protocol error. A build may be over while its session is still being opened.
    pub async fn settle(&self, id: &str) {
        if id.is_empty() {
            return;
        }
        let Ok(Ok(client)) = timeout(TO_OPEN, self.client(id)).await else { return };
        // Whatever is answered: answers come after all that was sent before the question.
        let asked = async { HealthClient::new(client.channel()).check(HealthCheckRequest::default()).await };
        tokio::select! {
            _ = timeout(TO_COME, asked) => {}
            _ = client.gone() => {}
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}
