use super::*;
use crate::engine::{ClientBlob, ClientStore};
use crate::registry::{Credential, Secret, TokenRequest};

#[tokio::test]
async fn secrets_are_asked_for_one_at_a_time() {
    let world = World::new();
    let (client, _serving) = world.client("s", "", Offer::default()).await;
    let secret = client.secret("token").await.unwrap().unwrap();
    assert_eq!(secret.bytes(), b"hunter2");
    assert!(client.secret("none").await.unwrap().is_none());
    assert!(matches!(client.secret("huge").await, Err(ClientError::Secret { .. })));
    let broken = client.secret("broken").await.err().unwrap();
    assert_eq!(crate::engine::chain(&broken), r#"ask for secret "broken": the vault is locked"#);
}

#[tokio::test]
async fn an_agent_is_reached_in_both_directions() {
    let world = World::new();
    let (client, _serving) = world.client("s", "", Offer::default()).await;
    assert!(client.has_agent("default").await.unwrap());
    assert!(!client.has_agent("other").await.unwrap());
    let mut agent = client.connect_agent("default").await.unwrap();
    for _ in 0..2 {
        agent.write_all(b"sign").await.unwrap();
        let mut answer = [0; 4];
        tokio::time::timeout(SOON, agent.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"SIGN");
    }
    // The end of one direction reaches the agent, which still answers.
    agent.shutdown().await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(SOON, agent.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, "bye");
}

fn wanted() -> TokenRequest {
    TokenRequest {
        host: "r.example".into(),
        realm: "https://auth.example/token".into(),
        service: "r".into(),
        scopes: vec!["repository:a:pull".into()],
    }
}

#[tokio::test]
async fn the_client_fetches_tokens_itself_or_shows_its_password() {
    let world = World::new();
    let (client, _serving) = world.client("s1", "", Offer::default()).await;
    let token = client.credentials().token(&wanted()).await.unwrap().unwrap();
    assert_eq!(token.secret.expose(), "r.example|https://auth.example/token|r|repository:a:pull");
    assert_eq!(token.life, Some(Duration::from_secs(300)));

    let (client, _serving) = world.client("s2", "", Offer { shows_password: true, ..Offer::default() }).await;
    let credentials = client.credentials();
    assert_eq!(credentials.token(&wanted()).await.unwrap(), None);
    let secret = Secret::new("canary");
    for (address, want) in [
        ("r.example", Some(Credential::Password { user: "user".into(), password: secret.clone() })),
        ("identity.example", Some(Credential::IdentityToken(secret.clone()))),
        ("unknown.example", None),
    ] {
        assert_eq!(credentials.find("name", address, "a").await.unwrap(), want, "{address}");
    }

    // A client without the service is nobody to registries.
    let services = Routes::new(healthy());
    let _serving = world.arrive(Headers::new("s3", [""; 0]), services).await.unwrap();
    let credentials = world.sessions.client("s3").await.unwrap().credentials();
    assert_eq!(credentials.token(&wanted()).await.unwrap(), None);
    assert_eq!(credentials.find("r.example", "r.example", "a").await.unwrap(), None);
}

#[tokio::test]
async fn uploads_and_blobs_come_as_bytes() {
    let world = World::new();
    let (client, _serving) = world.client("s", "", Offer::default()).await;
    let mut text = String::new();
    client.upload("/u1").await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "a tar on standard input");
    let refused = client.upload("/none").await.unwrap().read_to_string(&mut text).await.unwrap_err();
    assert_eq!(refused.to_string(), "no such upload");

    let blob = ClientBlob { session: None, store: ClientStore::Layout("base".into()), digest: blob_digest() };
    assert_eq!(client.blob_size(&blob).await.unwrap(), Some(BLOB.len() as u64));
    let absent = ClientBlob { digest: snapshotter::Digest::of(b"other"), ..blob.clone() };
    assert_eq!(client.blob_size(&absent).await.unwrap(), None);
    let unnamed = ClientBlob { store: ClientStore::Layout("other".into()), ..blob.clone() };
    assert!(client.blob_size(&unnamed).await.is_err());
    let mut rest = Vec::new();
    client.read_blob(&blob, 2).await.unwrap().read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, &BLOB[2..]);
}
