//! What a build asks of a client, over its session.

use std::borrow::Cow;
use std::sync::Arc;

use super::live::Live;
use super::sessions::Sessions;
use super::{agent, auth, content, deliver, sync};
use crate::engine::{
    Answer, Bytes, Client, ClientBlob, ClientError, Connection, DeliveredTree, Delivery, Directory, FileContent,
    LocalDirectory, Secret,
};
use crate::registry::{CredentialSource, Credentials};
use crate::wire::proto::secrets::secrets_client::SecretsClient;
use crate::wire::proto::secrets::GetSecretRequest;

/// A client at the other end of a session.
#[derive(Clone)]
pub struct SessionClient {
    sessions: Sessions,
    live: Live,
}

impl SessionClient {
    pub(super) fn new(sessions: Sessions, live: Live) -> SessionClient {
        SessionClient { sessions, live }
    }

    /// The way to the client's services.
    pub(super) fn channel(&self) -> tonic::transport::Channel {
        self.live.channel()
    }

    /// The session's id.
    pub fn id(&self) -> &str {
        self.live.id()
    }

    /// Waits until the client has left; says why. All that is asked of it fails then, so a build ends by itself; this is
    /// for ending it sooner.
    pub async fn gone(&self) -> String {
        self.live.gone().await
    }

    /// The session that a source names: another one's id, or none for this one.
    async fn other(&self, id: Option<&str>) -> Result<Cow<'_, Live>, ClientError> {
        match id {
            Some(id) if id != self.live.id() => Ok(Cow::Owned(self.sessions.client(id).await?.live)),
            _ => Ok(Cow::Borrowed(&self.live)),
        }
    }
}

/// A source's session may have a prefix, which belongs to the directory's name: `prefix:id` and `name` are the directory
/// `prefix-name` of session `id`.
fn parted<'a>(session: Option<&'a str>, name: &'a str) -> (Option<&'a str>, Cow<'a, str>) {
    match session.and_then(|session| session.split_once(':')) {
        Some((prefix, id)) => (Some(id), Cow::Owned(format!("{prefix}-{name}"))),
        None => (session, Cow::Borrowed(name)),
    }
}

impl Client for SessionClient {
    fn project(&self) -> String {
        self.live.headers().shared_key.clone()
    }

    /// A copy of what is asked for, in the store.
    fn directory<'a>(&'a self, wanted: &'a LocalDirectory) -> Answer<'a, Directory> {
        Box::pin(async move {
            let (session, name) = parted(wanted.session.as_deref(), &wanted.name);
            let live = self.other(session).await?;
            sync::directory(self.sessions.store(), &live, &name, wanted).await
        })
    }

    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async move {
            let asking = format!("ask for secret {id:?}");
            let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
            let mut client = SecretsClient::new(self.live.channel());
            let absent = |code| matches!(code, tonic::Code::NotFound | tonic::Code::Unimplemented);
            let Some(answer) = self.live.ask(&asking, absent, client.get_secret(request)).await? else {
                return Ok(None);
            };
            let secret = Secret::new(answer.data);
            secret.map(Some).map_err(|source| ClientError::Secret { id: id.to_owned(), source })
        })
    }

    fn has_agent<'a>(&'a self, id: &'a str) -> Answer<'a, bool> {
        Box::pin(agent::is_there(&self.live, id))
    }

    fn connect_agent<'a>(&'a self, id: &'a str) -> Answer<'a, Box<dyn Connection>> {
        Box::pin(async move { agent::connect(&self.live, id) })
    }

    fn credentials(&self) -> Credentials {
        Credentials(vec![CredentialSource::Holder(Arc::new(auth::Asked(self.live.clone())))])
    }

    fn upload<'a>(&'a self, path: &'a str) -> Answer<'a, Box<dyn Bytes>> {
        Box::pin(async move { content::upload(&self.live, path) })
    }

    fn blob_size<'a>(&'a self, blob: &'a ClientBlob) -> Answer<'a, Option<u64>> {
        Box::pin(async move { content::size(&*self.other(blob.session.as_deref()).await?, blob).await })
    }

    fn read_blob<'a>(&'a self, blob: &'a ClientBlob, offset: u64) -> Answer<'a, Box<dyn Bytes>> {
        Box::pin(async move { content::read(&*self.other(blob.session.as_deref()).await?, blob, offset) })
    }

    fn take_blob<'a>(&'a self, blob: &'a ClientBlob, size: u64, content: FileContent) -> Answer<'a, ()> {
        Box::pin(async move { content::write(&*self.other(blob.session.as_deref()).await?, blob, size, content).await })
    }

    fn take_file<'a>(&'a self, delivery: &'a Delivery, content: FileContent) -> Answer<'a, ()> {
        Box::pin(deliver::file(&self.live, delivery, content))
    }

    fn take_trees<'a>(&'a self, delivery: &'a Delivery, trees: Vec<DeliveredTree>) -> Answer<'a, ()> {
        Box::pin(deliver::trees(&self.live, delivery, trees))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_a_session_belongs_to_the_name() {
        assert_eq!(parted(None, "context"), (None, "context".into()));
        assert_eq!(parted(Some("abc"), "context"), (Some("abc"), "context".into()));
        assert_eq!(parted(Some("app:abc"), "context"), (Some("abc"), "app-context".into()));
    }
}
