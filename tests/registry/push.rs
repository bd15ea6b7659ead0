//! Pushing to registries that forget, lose answers and complain.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild::image::media_type::OCI_INDEX;
use rbuild::image::Digest;
use rbuild::registry::{Error, PushEvent};

use crate::fixture::*;
use crate::server::{Act, Server};

const MIB: usize = 1 << 20;

fn all(_: usize) -> bool {
    true
}

fn first(nth: usize) -> bool {
    nth == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_image_can_be_pulled() {
    let server = Server::start();
    let image = Image::of(&[2 * MIB, 0, 10, 300_000]);
    let (client, reference) = (client(&server), reference(&server, "team/app:1"));
    let told = Told::default();
    let pushed = client.push(&reference, &image.content(), &told.listener()).await.unwrap();
    assert_eq!((pushed.digest, pushed.sent), (image.descriptor().digest, 5));
    assert_eq!(told.bytes()[&Digest::of(&image.layers[0])], 2 * MIB as u64);
    let (resolved, layers) = pull(&client, &reference).await.unwrap();
    assert!(resolved.documents[0].1 == image.manifest && layers == image.layers);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_push_sends_nothing() {
    let server = Server::start();
    let image = Image::of(&[MIB, 10]);
    let (client, reference) = (client(&server), reference(&server, "app:1"));
    client.push(&reference, &image.content(), &Told::default().listener()).await.unwrap();
    server.forget();
    let told = Told::default();
    let pushed = client.push(&reference, &image.content(), &told.listener()).await.unwrap();
    assert_eq!(pushed.sent, 0);
    assert_eq!(told.count(|event| matches!(event, PushEvent::Existing(_))), 3);
    let methods: Vec<String> = server.state().seen.iter().map(|seen| seen.method.clone()).collect();
    assert!(methods.iter().all(|method| method == "HEAD"), "{methods:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_appears_last() {
    let server = Server::start();
    let images = [1, 2].map(|seed| Image::of_layers(vec![noise(seed, 1000)], "amd64"));
    let (index, bytes) = index_of(&[images[0].descriptor(), images[1].descriptor()]);
    // The order within the list does not matter, but for the top.
    let mut content = images[1].content();
    content.blobs.extend(images[0].content().blobs);
    content.documents.extend(images[0].content().documents);
    content.documents.push((index.clone(), bytes));
    let pushed = client(&server).push(&reference(&server, "app:1"), &content, &Told::default().listener()).await;
    assert_eq!(pushed.unwrap().digest, index.digest);
    let puts = server.seen("PUT", "");
    let tags: Vec<usize> = (0..puts.len()).filter(|at| puts[*at].path.ends_with("/manifests/1")).collect();
    assert_eq!((tags, puts.len()), (vec![puts.len() - 1], 7));
    assert_eq!(puts.last().unwrap().header("content-type"), Some(OCI_INDEX));
}

#[tokio::test(flavor = "multi_thread")]
async fn push_by_digest_makes_no_tag() {
    let server = Server::start();
    let image = Image::of(&[10]);
    let reference = reference(&server, "app").pinned(image.descriptor().digest);
    client(&server).push(&reference, &image.content(), &Told::default().listener()).await.unwrap();
    let names: Vec<String> = server.state().manifests.keys().map(|(_, name)| name.clone()).collect();
    assert_eq!(names, [image.descriptor().digest.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_other_repositories_are_mounted() {
    let server = Server::start();
    let image = Image::of(&[MIB]);
    image.put(&server, "base", "1");
    server.asks_for_tokens(None);
    let mut content = image.content();
    for blob in &mut content.blobs {
        blob.also_in = vec!["elsewhere.example/base".parse().unwrap(), reference(&server, "base")];
    }
    let told = Told::default();
    let pushed = client(&server).push(&reference(&server, "app:1"), &content, &told.listener()).await.unwrap();
    assert_eq!((pushed.sent, told.count(|event| matches!(event, PushEvent::Mounted(_)))), (0, 2));
    assert_eq!(server.seen("PUT", "/blobs/").len(), 0);
    let tokens = server.seen("GET", "/token");
    assert!(tokens.iter().any(|seen| seen.path.contains("repository%3Abase%3Apull")), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_mount_becomes_an_upload() {
    for act in [None, Some(Act::Answer(403, vec![], String::new())), Some(Act::Answer(405, vec![], String::new()))] {
        let server = Server::start();
        if let Some(act) = act {
            server.fault("POST", "mount=", all, act);
        }
        let image = Image::of(&[1000]);
        let mut content = image.content();
        for blob in &mut content.blobs {
            blob.also_in = vec![reference(&server, "nowhere")];
        }
        let pushed = client(&server).push(&reference(&server, "app:1"), &content, &Told::default().listener()).await;
        assert_eq!(pushed.unwrap().sent, 2);
        // A registry that does not mount starts an upload: that one is used.
        assert!(server.seen("POST", "").len() <= 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_uploads_start_again() {
    for (method, act) in [
        ("PUT", Act::LoseSession),
        ("PUT", Act::Answer(416, vec![], String::new())),
        ("PUT", Act::Answer(500, vec![], String::new())),
        ("PUT", Act::Answer(503, vec![], String::new())),
        ("POST", Act::Answer(429, vec![("Retry-After", "0".into())], String::new())),
        ("POST", Act::LoseAnswer),
        ("HEAD", Act::LoseAnswer),
    ] {
        let server = Server::start();
        server.fault(method, "/blobs/", first, act);
        let image = Image::of(&[MIB]);
        let (client, reference) = (client(&server), reference(&server, "app:1"));
        let pushed = client.push(&reference, &image.content(), &Told::default().listener()).await;
        assert_eq!(
            pushed.unwrap_or_else(|error| panic!("{method}: {}", told(&error))).digest,
            image.descriptor().digest
        );
        assert!(pull(&client, &reference).await.unwrap().1 == image.layers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_acknowledgement_does_not_send_twice() {
    let server = Server::start();
    server.fault("PUT", "/blobs/", all, Act::LoseAnswer);
    let image = Image::of(&[MIB]);
    let pushed =
        client(&server).push(&reference(&server, "app:1"), &image.content(), &Told::default().listener()).await;
    pushed.unwrap();
    assert_eq!(server.seen("PUT", "/blobs/").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_is_not_stored() {
    let server = Server::start();
    server.fault("PUT", "/blobs/", all, Act::Answer(202, vec![], String::new()));
    let image = Image::of(&[10]);
    let pushed =
        client(&server).push(&reference(&server, "app:1"), &image.content(), &Told::default().listener()).await;
    let error = pushed.unwrap_err();
    assert!(told(&error).contains("accepted but is not there"), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_explains_itself() {
    let server = Server::start();
    let body = r#"{"errors":[{"code":"TAG_INVALID","message":"tag 1 is immutable","detail":{}}]}"#;
    server.fault("PUT", "/manifests/1", all, Act::Answer(400, vec![], body.into()));
    let image = Image::of(&[10]);
    let pushed =
        client(&server).push(&reference(&server, "app:1"), &image.content(), &Told::default().listener()).await;
    let error = pushed.unwrap_err();
    assert!(told(&error).contains("400: tag invalid: tag 1 is immutable"), "{}", told(&error));
    assert_eq!(server.seen("PUT", "/manifests/1").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_registry_gets_five_tries_and_no_tag() {
    let server = Server::start();
    server.fault("PUT", "/blobs/", all, Act::Answer(502, vec![], String::new()));
    let image = Image::of(&[10]);
    let mut content = image.content();
    content.blobs.truncate(1);
    let error = client(&server).push(&reference(&server, "app:1"), &content, &Told::default().listener()).await;
    assert_eq!(error.unwrap_err().status(), Some(502));
    assert_eq!(server.seen("PUT", "/blobs/").len(), 5);
    assert_eq!(server.seen("PUT", "/manifests/").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_that_stores_something_else_is_noticed() {
    let server = Server::start();
    let other = format!("sha256:{}", "ab".repeat(32));
    server.fault("PUT", "/manifests/", all, Act::Header("Docker-Content-Digest", other));
    let image = Image::of(&[10]);
    let pushed =
        client(&server).push(&reference(&server, "app:1"), &image.content(), &Told::default().listener()).await;
    assert!(matches!(pushed, Err(Error::Mismatch { .. })), "{pushed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn standstill_is_an_error_soon() {
    let server = Server::start();
    server.fault("PUT", "/blobs/", all, Act::Silence);
    let image = Image::of(&[10]);
    let before = Instant::now();
    let pushed =
        hasty_client(&server).push(&reference(&server, "app:1"), &image.content(), &Told::default().listener()).await;
    assert!(matches!(pushed, Err(Error::Stalled { .. })), "{pushed:?}");
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_blob_is_named_and_sends_no_tag() {
    let server = Server::start();
    let image = Image::of(&[MIB]);
    let mut content = image.content();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let layer = image.layers[0].clone();
    content.blobs[0].open = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        let broken = io::Cursor::new(layer[..500_000].to_vec());
        Ok(Box::new(broken.chain(Fails)))
    });
    let error = client(&server).push(&reference(&server, "app:1"), &content, &Told::default().listener()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }) && told(&error).contains("bad disk"), "{}", told(&error));
    // Reading again would not help.
    assert_eq!((opened.load(Ordering::SeqCst), server.seen("PUT", "/manifests/").len()), (1, 0));
}

struct Fails;

impl Read for Fails {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("bad disk"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_stay_at_home() {
    let server = Server::start();
    let foreign = blob("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"licensed");
    let image = Image::of(&[10]);
    let mut content = image.content();
    content.blobs.push(foreign);
    let pushed = client(&server).push(&reference(&server, "app:1"), &content, &Told::default().listener()).await;
    assert_eq!(pushed.unwrap().sent, 2);
    assert!(!server.state().blobs.keys().any(|(_, name)| *name == crate::server::digest(b"licensed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_descriptors_go_nowhere() {
    let server = Server::start();
    let mut content = Image::of(&[10]).content();
    content.documents[0].1.push(b' ');
    let pushed = client(&server).push(&reference(&server, "app:1"), &content, &Told::default().listener()).await;
    assert!(matches!(pushed, Err(Error::Mismatch { .. })), "{pushed:?}");
    assert!(server.state().seen.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_few() {
    let server = Server::start();
    let image = Image::of_layers((1..=12).map(|seed| noise(seed, 50_000)).collect(), "amd64");
    client(&server).push(&reference(&server, "app:1"), &image.content(), &Told::default().listener()).await.unwrap();
    assert!(server.busiest.load(Ordering::SeqCst) <= 4, "{:?}", server.busiest);
}
