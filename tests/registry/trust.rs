//! Who gets to see credentials: the registry, and nobody it points at.

use rbuild::image::Descriptor;
use rbuild::registry::{Error, HostConfig, Registry, Scheme};

use crate::fixture::*;
use crate::server::{Act, Asks, Seen, Server};

// user:canary
const BASIC: &str = "dXNlcjpjYW5hcnk=";

fn with_password(server: &Server) -> Registry {
    Registry::new(plain_http(&[server]), password(&server.host(), "user", "canary"), impatient())
}

/// A registry that asks for a password, with an image of one layer, and another origin.
fn pair() -> (Server, Server, Image) {
    let (server, other) = (Server::start(), Server::start());
    let image = Image::of(&[100_000]);
    image.put(&server, "a", "1");
    server.state().asks = Asks::Basic(BASIC);
    (server, other, image)
}

fn leaks(seen: &[Seen]) -> bool {
    seen.iter().any(|seen| {
        let everything = format!("{seen:?}{}", String::from_utf8_lossy(&seen.body));
        seen.header("authorization").is_some() || everything.contains("canary") || everything.contains(BASIC)
    })
}

fn redirect(to: String) -> Act {
    Act::Answer(307, vec![("Location", to)], String::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_store_elsewhere_gets_no_authorization() {
    for code in [301, 302, 303, 307, 308] {
        let (server, other, image) = pair();
        let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
        other.state().files.insert("/cdn/layer".into(), image.layers[0].clone().into());
        let to = format!("http://{}/cdn/layer?signature=abc", other.host());
        server.fault("GET", "/blobs/", |nth| nth > 1, Act::Answer(code, vec![("Location", to)], String::new()));
        let client = with_password(&server);
        assert!(fetch(&client, &reference(&server, "a:1"), &layer).await.unwrap() == image.layers[0]);
        let seen = other.state().seen.clone();
        assert!(seen.len() == 1 && !leaks(&seen), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_within_the_registry_keeps_authorization() {
    let (server, _, image) = pair();
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    server.state().add_blob("b", &image.layers[0]);
    server.fault("GET", "/v2/a/blobs/", |nth| nth > 1, redirect(format!("/v2/b/blobs/{}", layer.digest)));
    assert!(fetch(&with_password(&server), &reference(&server, "a:1"), &layer).await.unwrap() == image.layers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn detour_over_another_origin_brings_no_authorization_back() {
    let (server, other, image) = pair();
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    server.fault("GET", "/v2/a/blobs/", |nth| nth > 1, redirect(format!("http://{}/away", other.host())));
    other.fault("GET", "/away", |_| true, redirect(format!("http://{}/v2/private/secret", server.host())));
    let error = fetch(&with_password(&server), &reference(&server, "a:1"), &layer).await.unwrap_err();
    assert!(matches!(error, Error::Status { status: 401, .. }), "{}", told(&error));
    let back = server.seen("GET", "/private/secret");
    assert!(back.len() == 1 && !leaks(&back), "{back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn challenge_of_another_origin_is_not_answered() {
    let (server, other, image) = pair();
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    other.state().asks = Asks::Basic(BASIC);
    server.fault("GET", "/blobs/", |nth| nth > 1, redirect(format!("http://{}/v2/x/blobs/y", other.host())));
    let error = fetch(&with_password(&server), &reference(&server, "a:1"), &layer).await.unwrap_err();
    assert_eq!(error.status(), Some(401), "{}", told(&error));
    let seen = other.state().seen.clone();
    assert!(seen.len() == 1 && !leaks(&seen), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_end() {
    let (server, _, image) = pair();
    server.state().asks = Asks::Nothing;
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    server.fault("GET", "/blobs/", |_| true, redirect(format!("/v2/a/blobs/{}", layer.digest)));
    let error = fetch(&with_password(&server), &reference(&server, "a:1"), &layer).await.unwrap_err();
    assert!(told(&error).contains("more than 10 redirects"), "{}", told(&error));
    assert_eq!(server.seen("GET", "/blobs/").len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_lead_astray_are_refused() {
    for to in ["", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://user:canary@127.0.0.1/", "http://[::1/"] {
        let (server, _, image) = pair();
        server.state().asks = Asks::Nothing;
        let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
        server.fault("GET", "/blobs/", |_| true, redirect(to.into()));
        let error = fetch(&with_password(&server), &reference(&server, "a:1"), &layer).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }) && !told(&error).contains("canary"), "{}", told(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_elsewhere_gets_no_authorization() {
    let (server, other, _) = pair();
    other.fault("PUT", "/elsewhere", |_| true, Act::Answer(201, vec![], String::new()));
    let to = format!("http://{}/elsewhere?session=1", other.host());
    server.fault("POST", "/uploads/", |_| true, Act::Answer(202, vec![("Location", to)], String::new()));
    let image = Image::of(&[10]);
    let mut content = image.content();
    content.blobs.truncate(1);
    let client = with_password(&server);
    // The manifest is refused: its blobs are elsewhere.
    let error = client.push(&reference(&server, "new:1"), &content, &Told::default().listener()).await.unwrap_err();
    assert!(told(&error).contains("manifest blob unknown"), "{}", told(&error));
    let seen = other.state().seen.clone();
    assert!(seen.len() == 1 && seen[0].path.contains("session=1&digest=sha256%3A") && !leaks(&seen), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn evil_realms_hear_nothing() {
    let evil = Server::start();
    let port = evil.address.port();
    for realm in [
        format!("http://127.0.0.1:{port}/token"),
        format!("http://localhost:{port}/token"),
        format!("http://user@127.0.0.1:{port}/token"),
        format!("http://0x7f000001:{port}/token"),
        "gopher://127.0.0.1/".to_owned(),
        "not a url".to_owned(),
    ] {
        let server = Server::start();
        Image::of(&[10]).put(&server, "a", "1");
        server.state().asks = Asks::Bearer { realm, basic: None, identity: None, uses: 9 };
        let error = resolve(&with_password(&server), &reference(&server, "a:1")).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{}", told(&error));
        assert!(told(&error).contains("token realm"), "{}", told(&error));
    }
    assert_eq!(evil.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_server_that_the_user_named_may_speak_http() {
    let (server, tokens) = (Server::start(), Server::start());
    let image = Image::of(&[10]);
    image.put(&server, "a", "1");
    tokens.asks_for_tokens(Some(BASIC));
    let realm = format!("http://{}/token", tokens.host());
    server.state().asks = Asks::Bearer { realm, basic: None, identity: None, uses: 9 };
    let client =
        Registry::new(plain_http(&[&server, &tokens]), password(&server.host(), "user", "canary"), impatient());
    let error = resolve(&client, &reference(&server, "a:1")).await.unwrap_err();
    // The registry here does not know the other server's tokens; but the password went where the user allowed it.
    assert_eq!(error.status(), Some(401));
    assert!(tokens.seen("GET", "/token").iter().any(|seen| seen.header("authorization").is_some()));
    assert!(!leaks(
        &server.state().seen.iter().filter(|seen| seen.header("authorization").is_none()).cloned().collect::<Vec<_>>()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_servers_redirect_gets_no_password() {
    let (server, other) = (Server::start(), Server::start());
    server.asks_for_tokens(Some(BASIC));
    server.fault("GET", "/token", |_| true, redirect(format!("http://{}/token", other.host())));
    let error = resolve(&with_password(&server), &reference(&server, "a:1")).await.unwrap_err();
    assert!(!told(&error).contains("canary"), "{}", told(&error));
    let seen = other.state().seen.clone();
    assert!(seen.len() == 1 && !leaks(&seen), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_are_not_spoken_to_in_plain_http() {
    // Only this machine falls back: a name that is not loopback is asked by TLS, and a server without it is an error.
    let server = Server::start();
    Image::of(&[10]).put(&server, "a", "1");
    let about = HostConfig { schemes: vec![Scheme::Https], ..HostConfig::default() };
    let config = rbuild::registry::Config { hosts: [(server.host(), about)].into(), ..Default::default() };
    let client = Registry::new(config, Default::default(), impatient());
    assert!(resolve(&client, &reference(&server, "a:1")).await.is_err());
    assert!(server.state().seen.is_empty());
}
