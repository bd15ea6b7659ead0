//! One session while its client is there: every question ends with an answer or with the client's leaving.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{stream, StreamExt, TryFutureExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::codegen::BoxStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use crate::engine::ClientError;
use crate::wire::session::Headers;

/// How long an answer may take that needs no more than a look, or a round trip of the client's.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session. Clones share it.
#[derive(Clone)]
pub(super) struct Live(Arc<Inner>);

struct Inner {
    headers: Headers,
    channel: Channel,
    /// Why the client is gone, once it is.
    gone: watch::Sender<Option<String>>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.0.headers.id).finish()
    }
}

/// What a client said when it refused. Its code is for programs.
#[derive(Debug, thiserror::Error)]
#[error("{}", match .0.message() { "" => .0.code().description(), said => said })]
pub(super) struct Said(pub Status);

impl Live {
    pub(super) fn new(headers: Headers, channel: Channel) -> Live {
        Live(Arc::new(Inner { headers, channel, gone: watch::Sender::new(None) }))
    }

    pub(super) fn id(&self) -> &str {
        &self.0.headers.id
    }

    pub(super) fn headers(&self) -> &Headers {
        &self.0.headers
    }

    pub(super) fn channel(&self) -> Channel {
        self.0.channel.clone()
    }

    /// The client is gone.
    pub(super) fn leave(&self, why: String) {
        self.0.gone.send_replace(Some(why));
    }

    /// Waits until the client is gone; says why.
    pub(super) async fn gone(&self) -> String {
        let mut gone = self.0.gone.subscribe();
        let why = gone.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    /// Asks the client something, `asking` as what was tried: `ask for secret "id"`. `None` when it refuses with a code
    /// that `absent` takes for not having it.
    pub(super) async fn ask<T>(
        &self,
        asking: &str,
        absent: fn(tonic::Code) -> bool,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Option<T>, ClientError> {
        let answer = tokio::select! {
            // What was answered counts, also if the client left then.
            biased;
            answer = timeout(PATIENCE, answer) => answer,
            why = self.gone() => return Err(ClientError::Gone(why)),
        };
        match answer {
            Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
            Ok(Err(status)) if absent(status.code()) => Ok(None),
            Ok(Err(status)) => Err(self.refused(asking, status).await),
            Err(_) => Err(ClientError::failed(asking, format!("no answer for {} s", PATIENCE.as_secs()))),
        }
    }

    /// Why something failed: its own status, or that the client left.
    pub(super) async fn refused(&self, asking: &str, status: Status) -> ClientError {
        // The connection's end breaks calls a moment before it is known here.
        let is_broken =
            matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled);
        if is_broken {
            if let Ok(why) = timeout(Duration::from_millis(100), self.gone()).await {
                return ClientError::Gone(why);
            }
        }
        ClientError::failed(asking, Said(status))
    }

    /// The messages of a call, which is made once they are asked for. If the client leaves before their end the last one
    /// is an error.
    ///
    /// The call may answer its first message only after it was sent some: whoever sends must not wait for this.
    pub(super) fn messages<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
    ) -> BoxStream<T> {
        let live = self.clone();
        let gone = async move { Status::unavailable(format!("the client has left: {}", live.gone().await)) };
        let messages = call.map_ok(Response::into_inner).try_flatten_stream();
        let state = Some((Box::pin(messages), Box::pin(gone)));
        Box::pin(stream::unfold(state, |state| async {
            let (mut messages, mut gone) = state?;
            tokio::select! {
                biased;
                message = messages.next() => message.map(|message| (message, Some((messages, gone)))),
                why = &mut gone => Some((Err(why), None)),
            }
        }))
    }
}
