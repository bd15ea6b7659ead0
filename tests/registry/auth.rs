//! Introductions: passwords, tokens that expire, helpers, and registries that are never satisfied.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rbuild::registry::{
    Credential, CredentialSource, Credentials, Error, Held, HeldToken, Holder, Registry, Secret, TokenRequest,
};

use crate::fixture::*;
use crate::server::{Act, Asks, Server};

// user:canary
const BASIC: &str = "dXNlcjpjYW5hcnk=";

fn with(server: &Server, credentials: Credentials) -> Registry {
    Registry::new(plain_http(&[server]), credentials, impatient())
}

/// Pushes and pulls an image.
async fn round_trip(client: &Registry, server: &Server) -> Result<(), Error> {
    let image = Image::of(&[1000, 20]);
    let reference = reference(server, "team/app:1");
    client.push(&reference, &image.content(), &Told::default().listener()).await?;
    let (_, layers) = pull(client, &reference).await?;
    assert!(layers == image.layers);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn password_is_sent_when_asked_for() {
    let server = Server::start();
    server.state().asks = Asks::Basic(BASIC);
    round_trip(&with(&server, password(&server.host(), "user", "canary")), &server).await.unwrap();
    let seen = server.state().seen.clone();
    assert!(seen[0].header("authorization").is_none(), "it was sent before it was asked for");
    let refused = seen.iter().filter(|seen| seen.header("authorization").is_none()).count();
    // Blobs start in parallel, before the first answer is there.
    assert!(refused <= 4, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_is_sent_once_and_shown_nowhere() {
    for basic in [Asks::Basic(BASIC), Asks::Nothing] {
        let server = Server::start();
        if matches!(basic, Asks::Nothing) {
            server.asks_for_tokens(Some(BASIC));
        } else {
            server.state().asks = basic;
        }
        Image::of(&[10]).put(&server, "a", "1");
        let client = with(&server, password(&server.host(), "user", "wrong-canary"));
        let error = resolve(&client, &reference(&server, "a:1")).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{}", told(&error));
        let sent = server.state().seen.iter().filter(|seen| seen.header("authorization").is_some()).count();
        assert_eq!(sent, 1);
        let shown = format!("{} {error:?} {client:?}", told(&error));
        assert!(!shown.contains("canary") && !shown.contains("d3Jvbmct"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_the_error_says_so() {
    let server = Server::start();
    server.state().asks = Asks::Basic(BASIC);
    let error = resolve(&with(&server, Credentials::default()), &reference(&server, "a:1")).await.unwrap_err();
    let want = format!("no credentials for {} are known", server.host());
    assert!(told(&error).ends_with(&want), "{}", told(&error));
    // An answer with a body brings the registry's words, too.
    let image = Image::of(&[10]);
    let pinned = reference(&server, "a").pinned(image.descriptor().digest);
    let error = resolve(&with(&server, Credentials::default()), &pinned).await.unwrap_err();
    assert!(told(&error).ends_with(&format!("unauthorized: authentication required ({want})")), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_once_per_need() {
    for basic in [None, Some(BASIC)] {
        let server = Server::start();
        server.asks_for_tokens(basic);
        let client = with(&server, password(&server.host(), "user", "canary"));
        round_trip(&client, &server).await.unwrap();
        round_trip(&client, &server).await.unwrap();
        let scopes: Vec<String> = server.seen("GET", "/token").into_iter().map(|seen| seen.path).collect();
        assert_eq!(scopes.len(), 2, "one to push, one to pull: {scopes:?}");
        assert!(scopes[0].contains("service=here") && scopes[0].contains("repository%3Ateam%2Fapp%3Apull%2Cpush"));
        // Passwords go to the token server only.
        let strays = server.state().seen.iter().any(|seen| {
            !seen.path.starts_with("/token")
                && seen.header("authorization").is_some_and(|given| given.starts_with("Basic"))
        });
        assert!(!strays);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_expire_half_way_are_renewed() {
    let server = Server::start();
    server.asks_for_tokens(None);
    // In the middle of the push and of the pull, after the body of an upload and before that of a download.
    server.fault("PUT", "/blobs/", |nth| nth == 2, Act::Expire);
    server.fault("PUT", "/manifests/", |nth| nth == 1, Act::Expire);
    server.fault("GET", "/blobs/", |nth| nth == 2, Act::Expire);
    round_trip(&with(&server, Credentials::default()), &server).await.unwrap();
    // One to push, one to pull, and one for each that expired.
    assert_eq!(server.seen("GET", "/token").len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_that_is_never_satisfied_is_given_up() {
    let server = Server::start();
    let realm = format!("http://{}/token", server.host());
    server.state().asks = Asks::Bearer { realm, basic: None, identity: None, uses: 0 };
    let error = resolve(&with(&server, Credentials::default()), &reference(&server, "a:1")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{}", told(&error));
    assert!(server.seen("HEAD", "/manifests/").len() <= 3, "{:?}", server.seen("HEAD", ""));
    assert!(server.seen("GET", "/token").len() <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_tokens_are_exchanged() {
    let server = Server::start();
    let realm = format!("http://{}/token", server.host());
    server.state().asks = Asks::Bearer { realm, basic: None, identity: Some("identity-canary"), uses: 100 };
    let credential = Credential::IdentityToken(Secret::new("identity-canary"));
    let credentials = Credentials(vec![CredentialSource::Fixed { host: server.host(), credential }]);
    round_trip(&with(&server, credentials.clone()), &server).await.unwrap();
    assert!(!server.seen("POST", "/token").is_empty() && server.seen("GET", "/token").is_empty());
    // A server without that exchange gets it as a password.
    let old = Server::start();
    // <token>:identity-canary
    old.asks_for_tokens(Some("PHRva2VuPjppZGVudGl0eS1jYW5hcnk="));
    let credential = Credential::IdentityToken(Secret::new("identity-canary"));
    let credentials = Credentials(vec![CredentialSource::Fixed { host: old.host(), credential }]);
    round_trip(&with(&old, credentials), &old).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn token_server_is_tried_again_and_its_nonsense_refused() {
    let server = Server::start();
    server.asks_for_tokens(None);
    Image::of(&[10]).put(&server, "a", "1");
    server.fault("GET", "/token", |nth| nth <= 2, Act::Answer(503, vec![], String::new()));
    resolve(&with(&server, Credentials::default()), &reference(&server, "a:1")).await.unwrap();
    for nonsense in ["", "{}", "[]", r#"{"token":""}"#, r#"{"token":"a\r\nX-Evil: b"}"#, r#"{"token":7}"#] {
        let server = Server::start();
        server.asks_for_tokens(None);
        server.fault("GET", "/token", |_| true, Act::Answer(200, vec![], nonsense.into()));
        let error = resolve(&with(&server, Credentials::default()), &reference(&server, "a:1")).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{nonsense}: {}", told(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn echoed_secrets_are_not_shown() {
    let server = Server::start();
    server.asks_for_tokens(Some(BASIC));
    let body = r#"{"errors":[{"code":"DENIED","message":"bad password secret-canary for user"}]}"#;
    server.fault("GET", "/token", |_| true, Act::Answer(403, vec![], body.into()));
    let client = with(&server, password(&server.host(), "user", "secret-canary"));
    let error = resolve(&client, &reference(&server, "a:1")).await.unwrap_err();
    let said = format!("{} {error:?}", told(&error));
    assert!(said.contains("bad password *** for user") && !said.contains("canary"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_and_files_of_docker_are_used() {
    let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::start();
    server.state().asks = Asks::Basic(BASIC);
    Image::of(&[10]).put(&server, "a", "1");
    let reference = reference(&server, "a:1");
    let file = dir.path().join("config.json");
    let log = dir.path().join("asked");
    // Helpers are found by PATH only; this one is named so that its full path results.
    let helper = dir.path().join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\nread host; echo \"$1 $host\" >> {}\ncase $host in\n{}) echo '{{\"Username\":\"user\",\"Secret\":\"canary\"}}';;\n\
         bad*) echo half-a-canary; echo 'vault is locked' >&2; exit 1;;\n*) echo 'credentials not found in native keychain'; exit 1;;\nesac\n",
        log.display(),
        server.host()
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    // The only test that changes the environment, and no other test here reads PATH.
    std::env::set_var("PATH", path);
    for config in [
        format!(r#"{{"auths":{{"{}":{{"auth":"{BASIC}"}}}}}}"#, server.host()),
        format!(r#"{{"auths":{{"{}":{{}}}},"credsStore":"test"}}"#, server.host()),
        format!(r#"{{"credHelpers":{{"{}":"test","other.example":"absent"}}}}"#, server.host()),
    ] {
        std::fs::write(&file, &config).unwrap();
        let client = with(&server, Credentials(vec![CredentialSource::File(file.clone())]));
        resolve(&client, &reference).await.unwrap_or_else(|error| panic!("{config}: {}", told(&error)));
    }
    // Asked once per client, however many requests there are.
    let asked = std::fs::read_to_string(&log).unwrap();
    assert_eq!(asked, format!("get {0}\nget {0}\n", server.host()));
    let all = Credentials(vec![CredentialSource::File(file.clone())]);
    std::fs::write(&file, r#"{"credsStore":"test"}"#).unwrap();
    assert_eq!(all.find("unknown.example", "unknown.example", "a").await.unwrap(), None);
    let error = all.find("bad.example", "bad.example", "a").await.unwrap_err().to_string();
    assert!(error.contains("vault is locked") && !error.contains("canary"), "{error}");
    std::fs::write(&file, r#"{"credsStore":"absent"}"#).unwrap();
    assert!(all
        .find("unknown.example", "unknown.example", "a")
        .await
        .unwrap_err()
        .to_string()
        .contains("credential helper"));
}

/// Fetches tokens as somebody else would, and never shows its password.
#[derive(Debug)]
struct Elsewhere {
    token: Option<&'static str>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Holder for Elsewhere {
    fn token<'a>(&'a self, wanted: &'a TokenRequest) -> Held<'a, Option<HeldToken>> {
        self.asked.lock().unwrap().push(format!("token {} {}", wanted.host, wanted.scopes.join(" ")));
        let token = self.token.map(|token| HeldToken { secret: Secret::new(token), life: None });
        Box::pin(async { Ok(token) })
    }

    fn credential<'a>(&'a self, address: &'a str) -> Held<'a, Option<Credential>> {
        self.asked.lock().unwrap().push(format!("credential {address}"));
        Box::pin(async { Err("the vault is locked".into()) })
    }
}

fn held_elsewhere(token: Option<&'static str>) -> (Credentials, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::default();
    let holder = Elsewhere { token, asked: Arc::clone(&asked) };
    (Credentials(vec![CredentialSource::Holder(Arc::new(holder))]), asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_fetched_elsewhere_is_used_and_no_password_asked_for() {
    let server = Server::start();
    server.asks_for_tokens(Some(BASIC));
    Image::of(&[10]).put(&server, "a", "1");
    // A token that the registry has given to somebody else.
    let other = with(&server, password(&server.host(), "user", "canary"));
    resolve(&other, &reference(&server, "a:1")).await.unwrap();
    let given: &'static str = {
        let seen = server.state().seen.clone();
        let last = seen.iter().filter_map(|seen| seen.header("authorization")).next_back().unwrap().to_owned();
        Box::leak(last.trim_start_matches("Bearer ").to_owned().into_boxed_str())
    };
    let fetched = server.seen("GET", "/token").len();
    let (credentials, asked) = held_elsewhere(Some(given));
    resolve(&other.with(credentials), &reference(&server, "a:1")).await.unwrap();
    assert_eq!(server.seen("GET", "/token").len(), fetched);
    assert_eq!(*asked.lock().unwrap(), [format!("token {} repository:a:pull", server.host())]);

    // One that the registry does not take is fetched three times, and then the error tells whose it was.
    let (credentials, asked) = held_elsewhere(Some("forged"));
    let error = resolve(&other.with(credentials), &reference(&server, "a:1")).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{}", told(&error));
    assert!(told(&error).contains("a token of the client's"), "{}", told(&error));
    assert!(asked.lock().unwrap().iter().all(|asked| asked.starts_with("token")));

    let (credentials, _) = held_elsewhere(None);
    let error = resolve(&other.with(credentials), &reference(&server, "a:1")).await.unwrap_err();
    assert!(told(&error).contains("the vault is locked"), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_uses_what_the_credentials_of_others_opened() {
    for basic in [true, false] {
        let server = Server::start();
        match basic {
            true => server.state().asks = Asks::Basic(BASIC),
            false => server.asks_for_tokens(Some(BASIC)),
        }
        Image::of(&[10]).put(&server, "a", "1");
        let first = with(&server, password(&server.host(), "user", "canary"));
        resolve(&first, &reference(&server, "a:1")).await.unwrap();
        let second = first.with(Credentials::default());
        let error = resolve(&second, &reference(&server, "a:1")).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{}", told(&error));
        resolve(&first, &reference(&server, "a:1")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_tokens_does_not_deadlock_the_connections() {
    let server = Server::start();
    let realm = format!("http://{}/token", server.host());
    // Every token is good for one request, so all transfers fetch tokens all the time.
    server.state().asks = Asks::Bearer { realm, basic: None, identity: None, uses: 1 };
    let image = Image::of_layers((1..=10).map(|seed| noise(seed, 5_000)).collect(), "amd64");
    image.put(&server, "a", "1");
    let client = with(&server, Credentials::default());
    let reference = reference(&server, "a:1");
    let pulling = pull(&client, &reference);
    let done = tokio::time::timeout(Duration::from_secs(10), pulling).await.expect("it hangs");
    // With such a registry a transfer may lose every race for a token; it must end, one way or the other.
    if let Err(error) = done {
        assert!(matches!(error, Error::Unauthorized { .. }), "{}", told(&error));
    }
}
