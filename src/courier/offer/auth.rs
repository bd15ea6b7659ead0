//! Who we are to registries, for the daemon: tokens where registries take them, so that it sees no password.

use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};
use tonic::{Request, Response, Status};

use super::told;
use crate::courier::{random, Error};
use crate::engine::config_file;
use crate::registry::{Config, Credential, Credentials, Limits, Registry, TokenRequest};
use crate::wire::proto::filesync as messages;

/// The most that is signed for a daemon.
const LARGEST_PAYLOAD: usize = 4 << 10;

/// Goes to registries for a daemon.
pub(super) struct Auth {
    registry: Registry,
    /// Daemons use a token again for who proves to have the key it was fetched with. Ours last as long as this process.
    seed: hmac::Key,
}

impl Auth {
    pub(super) fn new(credentials: Credentials) -> Result<Auth, Error> {
        let seed = hmac::Key::new(hmac::HMAC_SHA256, &random::bytes::<32>()?);
        let mut config = Config::of_the_system();
        if let Some(file) = config_file() {
            config = config.with_file(&file).map_err(|error| Error::Unsupported(error.to_string()))?;
        }
        Ok(Auth { registry: Registry::new(config, credentials, Limits::default()), seed })
    }

    /// The key for one registry and one daemon.
    fn key(&self, host: &str, salt: &[u8]) -> Result<Ed25519KeyPair, Status> {
        let mut context = hmac::Context::with_key(&self.seed);
        context.update(&(salt.len() as u64).to_le_bytes());
        context.update(salt);
        context.update(host.as_bytes());
        let seed = context.sign();
        Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(|_| Status::internal("make a key"))
    }
}

#[tonic::async_trait]
impl messages::auth_server::Auth for Auth {
    async fn credentials(
        &self,
        ask: Request<messages::CredentialsRequest>,
    ) -> Result<Response<messages::CredentialsResponse>, Status> {
        let host = ask.into_inner().host;
        let found = self.registry.credential_at(&host).await.map_err(|error| told(&error))?;
        let (username, secret) = match found {
            None => (String::new(), String::new()),
            Some(Credential::Password { user, password }) => (user, password.expose().to_owned()),
            // A secret without a name is such a token.
            Some(Credential::IdentityToken(token)) => (String::new(), token.expose().to_owned()),
        };
        Ok(Response::new(messages::CredentialsResponse { username, secret }))
    }

    async fn fetch_token(
        &self,
        ask: Request<messages::FetchTokenRequest>,
    ) -> Result<Response<messages::FetchTokenResponse>, Status> {
        let messages::FetchTokenRequest { host, realm, service, scopes, .. } = ask.into_inner();
        let wanted = TokenRequest { host, realm, service, scopes };
        let token = self.registry.token(&wanted).await.map_err(|error| told(&error))?;
        let life = token.life.unwrap_or_default().as_secs();
        Ok(Response::new(messages::FetchTokenResponse {
            token: token.secret.expose().to_owned(),
            expires_in: i64::try_from(life).unwrap_or(i64::MAX),
            issued_at: crate::rfc3339::Time::now().seconds(),
        }))
    }

    async fn get_token_authority(
        &self,
        ask: Request<messages::GetTokenAuthorityRequest>,
    ) -> Result<Response<messages::GetTokenAuthorityResponse>, Status> {
        let ask = ask.into_inner();
        let key = self.key(&ask.host, &ask.salt)?;
        Ok(Response::new(messages::GetTokenAuthorityResponse { public_key: key.public_key().as_ref().to_vec() }))
    }

    /// The signature, and after it what is signed.
    async fn verify_token_authority(
        &self,
        ask: Request<messages::VerifyTokenAuthorityRequest>,
    ) -> Result<Response<messages::VerifyTokenAuthorityResponse>, Status> {
        let ask = ask.into_inner();
        if ask.payload.len() > LARGEST_PAYLOAD {
            return Err(Status::invalid_argument("more than anybody has to sign"));
        }
        let signature = self.key(&ask.host, &ask.salt)?.sign(&ask.payload);
        let signed = [signature.as_ref(), &ask.payload].concat();
        Ok(Response::new(messages::VerifyTokenAuthorityResponse { signed }))
    }
}

#[cfg(test)]
mod tests {
    use super::messages::auth_server::Auth as _;
    use super::*;
    use crate::registry::{CredentialSource, Secret};

    fn auth() -> Auth {
        let credential = Credential::Password { user: "u".into(), password: Secret::new("p") };
        Auth::new(Credentials(vec![CredentialSource::Fixed { host: "docker.io".into(), credential }])).unwrap()
    }

    #[tokio::test]
    async fn a_key_is_of_one_registry_and_proves_itself() {
        let auth = auth();
        let key = async |host: &str, salt: &[u8]| {
            let ask = messages::GetTokenAuthorityRequest { host: host.into(), salt: salt.to_vec() };
            auth.get_token_authority(Request::new(ask)).await.unwrap().into_inner().public_key
        };
        let public = key("r.example", b"salt").await;
        assert_eq!(public, key("r.example", b"salt").await);
        assert_ne!(public, key("s.example", b"salt").await);
        assert_ne!(public, key("r.example", b"other").await);
        let prove = |payload: Vec<u8>| {
            let ask =
                messages::VerifyTokenAuthorityRequest { host: "r.example".into(), salt: b"salt".to_vec(), payload };
            auth.verify_token_authority(Request::new(ask))
        };
        let signed = prove(b"payload".to_vec()).await.unwrap().into_inner().signed;
        let (signature, payload) = signed.split_at(64);
        assert_eq!(payload, b"payload");
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public).verify(payload, signature).unwrap();
        assert!(prove(vec![0; LARGEST_PAYLOAD + 1]).await.is_err());
    }

    #[tokio::test]
    async fn credentials_are_those_of_the_host_only() {
        let auth = auth();
        let ask = async |host: &str| {
            let ask = messages::CredentialsRequest { host: host.into() };
            let found = auth.credentials(Request::new(ask)).await.unwrap().into_inner();
            (found.username, found.secret)
        };
        assert_eq!(ask("registry-1.docker.io").await, ("u".into(), "p".into()));
        assert_eq!(ask("r.example").await, (String::new(), String::new()));
    }
}
