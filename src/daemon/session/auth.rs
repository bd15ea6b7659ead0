//! Who a client is to registries: it fetches tokens itself, so that its passwords stay where they are.

use std::time::Duration;

use snapshotter::SnapshotId;
use tonic::Code;

use super::live::Live;
use crate::engine::ClientError;
use crate::registry::{Credential, Held, HeldToken, Holder, Secret, TokenRequest};
use crate::wire::proto::filesync::auth_client::AuthClient;
use crate::wire::proto::filesync::{CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest};

/// The credentials of a session's client. What is learned with them lasts as long as the build that asked: no token is
/// ever used for another session, so nobody has to prove whose it is.
#[derive(Debug)]
pub(super) struct Asked(pub Live);

/// The client would rather show its credentials, or has no such service.
fn would_not(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unimplemented)
}

impl Asked {
    async fn fetch(&self, wanted: &TokenRequest) -> Result<Option<HeldToken>, ClientError> {
        let mut client = AuthClient::new(self.0.channel());
        let asking = format!("ask for a token for {}", wanted.host);
        let salt = SnapshotId::random().0.to_vec();
        let authority = client.get_token_authority(GetTokenAuthorityRequest { host: wanted.host.clone(), salt });
        let Some(authority) = self.0.ask(&asking, would_not, authority).await? else { return Ok(None) };
        if authority.public_key.is_empty() {
            return Ok(None);
        }
        let request = FetchTokenRequest {
            client_id: "rbuild".to_owned(),
            host: wanted.host.clone(),
            realm: wanted.realm.clone(),
            service: wanted.service.clone(),
            scopes: wanted.scopes.clone(),
        };
        let Some(token) = self.0.ask(&asking, would_not, client.fetch_token(request)).await? else { return Ok(None) };
        let life = u64::try_from(token.expires_in).ok().filter(|life| *life > 0).map(Duration::from_secs);
        Ok(Some(HeldToken { secret: Secret::new(token.token), life }))
    }

    async fn show(&self, host: &str) -> Result<Option<Credential>, ClientError> {
        let mut client = AuthClient::new(self.0.channel());
        let asking = format!("ask for credentials for {host}");
        let request = CredentialsRequest { host: host.to_owned() };
        let Some(shown) = self.0.ask(&asking, would_not, client.credentials(request)).await? else { return Ok(None) };
        let (user, secret) = (shown.username, Secret::new(shown.secret));
        Ok(match (user.is_empty(), secret.expose().is_empty()) {
            (true, true) => None,
            (true, false) => Some(Credential::IdentityToken(secret)),
            (false, _) => Some(Credential::Password { user, password: secret }),
        })
    }
}

impl Holder for Asked {
    fn token<'a>(&'a self, wanted: &'a TokenRequest) -> Held<'a, Option<HeldToken>> {
        Box::pin(async move { Ok(self.fetch(wanted).await?) })
    }

    fn credential<'a>(&'a self, address: &'a str) -> Held<'a, Option<Credential>> {
        Box::pin(async move { Ok(self.show(address).await?) })
    }
}
