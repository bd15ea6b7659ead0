//! Pulling from registries that break off, lie and dawdle.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild::image::media_type::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use rbuild::image::{Descriptor, Digest};
use rbuild::registry::{Error, HostConfig, Limits, Registry, Scheme};
use snapshotter::Store;
use solver::graph::Platform;

use crate::fixture::*;
use crate::server::{Act, Server};

const MIB: usize = 1 << 20;

fn all(_: usize) -> bool {
    true
}

fn first(nth: usize) -> bool {
    nth == 1
}

fn on(architecture: &str) -> Platform {
    Platform { architecture: architecture.into(), os: "linux".into(), ..Platform::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn image_arrives_as_it_was() {
    let server = Server::start();
    let image = Image::of(&[3 * MIB, 10, 0, 70_000]);
    image.put(&server, "a/b", "1");
    let reference = reference(&server, "a/b:1");
    let (resolved, layers) = pull(&client(&server), &reference).await.unwrap();
    assert_eq!(resolved.documents, [(image.descriptor(), image.manifest.clone())]);
    assert_eq!((resolved.top.digest, resolved.config), (Digest::of(&image.manifest), image.config));
    assert!(layers == image.layers);
    // The tag was asked for its digest, and all else by digest.
    assert_eq!(server.seen("HEAD", "/manifests/1").len(), 1);
    assert_eq!(server.seen("GET", "/manifests/1").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn futures_can_be_spawned() {
    let server = Server::start();
    Image::of(&[10]).put(&server, "a", "1");
    let (client, reference) = (client(&server), reference(&server, "a:1"));
    let task = tokio::spawn(async move { pull(&client, &reference).await.map(|(_, layers)| layers.len()) });
    assert_eq!(task.await.unwrap().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_is_chosen_from_nested_indexes() {
    let server = Server::start();
    let images = ["amd64", "arm64"].map(|arch| Image::of_layers(vec![noise(7, 100)], arch));
    for image in &images {
        image.put(&server, "a", "unused");
    }
    let [amd, arm] = [0, 1].map(|at: usize| images[at].descriptor());
    let (inner, inner_bytes) = index_of(&[arm.on(on("arm64"))]);
    let attestation = Descriptor::of(OCI_MANIFEST, b"{}").on(Platform {
        architecture: "unknown".into(),
        os: "unknown".into(),
        ..Platform::default()
    });
    let (top, top_bytes) = index_of(&[amd.on(on("amd64")), inner.on(on("arm64")), attestation]);
    server.state().add_manifest("a", "inner", OCI_INDEX, &inner_bytes);
    server.state().add_manifest("a", "1", OCI_INDEX, &top_bytes);
    let (client, reference) = (client(&server), reference(&server, "a:1"));
    for (arch, image, depth) in [("amd64", &images[0], 2), ("arm64", &images[1], 3)] {
        let resolved = client.resolve(&reference, &on(arch), &|_| None).await.unwrap();
        assert_eq!((resolved.top.digest, resolved.documents.len()), (top.digest, depth), "{arch}");
        assert_eq!(
            (resolved.manifest_descriptor().digest, &resolved.config),
            (image.descriptor().digest, &image.config)
        );
    }
    let error = client.resolve(&reference, &on("s390x"), &|_| None).await.unwrap_err().to_string();
    assert!(error.starts_with("no match for platform in manifest"), "{error}");
    assert!(error.contains("want linux/s390x, there is linux/amd64, linux/arm64"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_not_fetched_but_verified() {
    let server = Server::start();
    let image = Image::of(&[10]);
    image.put(&server, "a", "1");
    let (client, reference) = (client(&server), reference(&server, "a:1"));
    let known =
        |digest: &Digest| [&image.manifest, &image.config].into_iter().find(|b| Digest::of(b) == *digest).cloned();
    let resolved = client.resolve(&reference, &amd64(), &known).await.unwrap();
    assert_eq!(resolved.config, image.config);
    assert_eq!(server.seen("GET", "").len(), 0);
    let wrong = |_: &Digest| Some(b"{}".to_vec());
    assert_eq!(client.resolve(&reference, &amd64(), &wrong).await.unwrap().config, image.config);
    assert_eq!(server.seen("GET", "").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_without_heads_is_asked_directly() {
    let server = Server::start();
    let image = Image::of(&[10]);
    image.put(&server, "a", "1");
    server.state().hides_heads = true;
    let resolved = resolve(&client(&server), &reference(&server, "a:1")).await.unwrap();
    assert_eq!(resolved.top.digest, image.descriptor().digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_that_moves_meanwhile_changes_nothing() {
    let server = Server::start();
    let (old, new) = (Image::of(&[10]), Image::of(&[20]));
    new.put(&server, "a", "1");
    old.put(&server, "a", "1");
    let client = client(&server);
    let reference = reference(&server, "a:1");
    let digest = client.digest_of(&reference).await.unwrap();
    new.put(&server, "a", "1");
    let resolved = resolve(&client, &reference.pinned(digest)).await.unwrap();
    assert_eq!(resolved.top.digest, old.descriptor().digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_transfers_go_on_where_they_broke_off() {
    for act in [Act::Reset(600_000), Act::Truncate(600_000), Act::NoLength(600_000)] {
        for ignores_ranges in [false, true] {
            let server = Server::start();
            let image = Image::of(&[MIB]);
            image.put(&server, "a", "1");
            server.state().ignores_ranges = ignores_ranges;
            let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
            server.fault("GET", "/blobs/", |nth| nth <= 2, act.clone());
            let progress = Arc::new(AtomicU64::new(0));
            let seen = progress.clone();
            let moved: rbuild::registry::OnBytes = Arc::new(move |at| {
                // Bytes that come again are not counted again.
                assert!(seen.swap(at, Ordering::SeqCst) < at);
            });
            let reference = reference(&server, "a:1");
            let fetched = client(&server).fetch_blob(&reference, &layer, &moved, read_all).await;
            assert!(fetched.unwrap() == image.layers[0]);
            assert_eq!(progress.load(Ordering::SeqCst), MIB as u64);
            let asked = server.seen("GET", "/blobs/");
            assert!(asked.len() >= 2, "{}", asked.len());
            assert!(asked[1].header("range").is_some_and(|range| range.starts_with("bytes=")), "{:?}", asked[1]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transfer_that_always_breaks_is_given_up_after_five_tries() {
    let server = Server::start();
    let image = Image::of(&[MIB]);
    image.put(&server, "a", "1");
    server.fault("GET", "/blobs/", all, Act::Reset(1000));
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    let error = fetch(&client(&server), &reference(&server, "a:1"), &layer).await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{}", told(&error));
    assert_eq!(server.seen("GET", "/blobs/").len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_registry_is_asked_again() {
    for (status, times) in [(429, 1), (500, 1), (502, 3), (503, 4), (408, 1)] {
        let server = Server::start();
        let image = Image::of(&[1000]);
        image.put(&server, "a", "1");
        let answer = Act::Answer(status, vec![], String::new());
        let which: fn(usize) -> bool = match times {
            1 => |nth| nth <= 1,
            3 => |nth| nth <= 3,
            _ => |nth| nth <= 4,
        };
        server.fault("GET", "/manifests/", which, answer.clone());
        server.fault("HEAD", "/manifests/", which, answer.clone());
        server.fault("GET", "/blobs/", which, answer);
        let (_, layers) = pull(&client(&server), &reference(&server, "a:1")).await.unwrap();
        assert!(layers == image.layers);
        assert_eq!(server.seen("HEAD", "/manifests/").len(), times + 1, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_registry_is_given_up_with_its_own_words() {
    let server = Server::start();
    Image::of(&[10]).put(&server, "a", "1");
    let body = r#"{"errors":[{"code":"UNAVAILABLE","message":"we are \u001b[31mmoving\u001b[0m"}]}"#;
    server.fault("HEAD", "/manifests/", all, Act::Answer(200, vec![], String::new()));
    server.fault("GET", "/manifests/", all, Act::Answer(503, vec![], body.into()));
    let error = resolve(&client(&server), &reference(&server, "a:1")).await.unwrap_err();
    assert_eq!(server.seen("GET", "/manifests/").len(), 5);
    let said = told(&error);
    assert!(said.contains("503: unavailable: we are  [31mmoving") && !said.contains('\u{1b}'), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured() {
    let server = Server::start();
    Image::of(&[10]).put(&server, "a", "1");
    let wait = |seconds: &str| Act::Answer(429, vec![("Retry-After", seconds.into())], String::new());
    server.fault("HEAD", "/manifests/", first, wait("1"));
    let before = Instant::now();
    resolve(&client(&server), &reference(&server, "a:1")).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(1), "{:?}", before.elapsed());
    // An hour is more than anybody waits without being told.
    server.fault("HEAD", "/manifests/", all, wait("3600"));
    server.forget();
    let error = resolve(&client(&server), &reference(&server, "a:1")).await.unwrap_err();
    assert_eq!((error.status(), server.seen("HEAD", "").len()), (Some(429), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn standstill_is_an_error_soon() {
    for act in [Act::Silence, Act::Stall(500)] {
        let server = Server::start();
        let image = Image::of(&[1000]);
        image.put(&server, "a", "1");
        server.fault("GET", "/blobs/", all, act);
        let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
        let before = Instant::now();
        let error = fetch(&hasty_client(&server), &reference(&server, "a:1"), &layer).await.unwrap_err();
        assert!(matches!(error, Error::Stalled { .. }), "{}", told(&error));
        assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_is_not_still() {
    let server = Server::start();
    let image = Image::of(&[1000]);
    image.put(&server, "a", "1");
    // Longer than the limit in all, but never without progress.
    server.fault("GET", "/blobs/", all, Act::Slow(25, Duration::from_millis(60)));
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    let client =
        Registry::new(plain_http(&[&server]), Default::default(), Limits { stall: Duration::from_secs(2), ..hasty() });
    let fetched = fetch(&client, &reference(&server, "a:1"), &layer).await.unwrap();
    assert!(fetched == image.layers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_transfer_ends_its_sink() {
    let server = Server::start();
    let image = Image::of(&[1000]);
    image.put(&server, "a", "1");
    server.fault("GET", "/blobs/", all, Act::Stall(500));
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    let limits = Limits { stall: Duration::from_secs(60), ..impatient() };
    let client = Registry::new(plain_http(&[&server]), Default::default(), limits);
    let failed = Arc::new(AtomicBool::new(false));
    let seen = failed.clone();
    let reference = reference(&server, "a:1");
    let moved = silent();
    let fetching = client.fetch_blob(&reference, &layer, &moved, move |reader| {
        let result = read_all(reader);
        seen.store(result.is_err(), Ordering::SeqCst);
        result
    });
    assert!(tokio::time::timeout(Duration::from_millis(300), fetching).await.is_err());
    let before = Instant::now();
    while !failed.load(Ordering::SeqCst) {
        assert!(before.elapsed() < Duration::from_secs(20), "the sink still waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_blobs_never_reach_the_store() {
    for (act, want) in [
        (Act::Corrupt, Err("got sha256:")),
        (Act::Longer(10), Err("got 1048586 bytes")),
        (Act::Answer(200, vec![], "short".into()), Err("got 5 bytes")),
        (Act::Reset(1000), Err("the connection broke")),
        (Act::Endless, Err("expected 1048576 bytes")),
        // A header proves nothing, so a wrong one harms nothing.
        (Act::Header("Docker-Content-Digest", "sha256:00".into()), Ok(())),
    ] {
        let server = Server::start();
        let image = Image::of(&[MIB]);
        image.put(&server, "a", "1");
        server.fault("GET", "/blobs/", all, act);
        let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
        let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let lease = Arc::new(store.lease().unwrap());
        let (into, held, digest) = (store.clone(), lease.clone(), layer.digest);
        let (client, reference, moved) = (client(&server), reference(&server, "a:1"), silent());
        let result = client.fetch_blob(&reference, &layer, &moved, move |reader| {
            let mut writer = into.blob_writer(&held).map_err(io::Error::other)?;
            io::copy(reader, &mut writer)?;
            // Even without being told what to expect: a reader that has an end is right.
            writer.commit(None).map_err(io::Error::other)
        });
        match (result.await, want) {
            (Ok((stored, _)), Ok(())) => assert_eq!(stored, digest),
            (Err(error), Err(want)) => assert!(told(&error).contains(want), "want {want}: {}", told(&error)),
            (result, want) => panic!("{result:?}, want {want:?}"),
        }
        // What fits into the sockets' buffers, five times where it is tried again.
        assert!(server.written.load(Ordering::SeqCst) < 24 * MIB, "{want:?}");
        // The sink is a thread of its own and may still be about to notice.
        let left = || std::fs::read_dir(lease.ingest_directory()).unwrap().count();
        let since = Instant::now();
        while left() > 0 {
            assert!(since.elapsed() < Duration::from_secs(5), "unfinished files stay");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(store.blobs().unwrap(), if want.is_ok() { vec![digest] } else { vec![] });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_manifests_are_never_believed() {
    let other = format!("sha256:{}", "ab".repeat(32));
    for (method, path, act, want) in [
        ("GET", "/manifests/", Act::Corrupt, "verify manifest"),
        ("GET", "/manifests/", Act::Header("Docker-Content-Digest", other.clone()), "verify manifest"),
        ("GET", "/manifests/", Act::Header("Content-Type", DOCKER_MANIFEST.into()), "calls itself"),
        ("GET", "/manifests/", Act::Header("Content-Type", "text/html".into()), "calls itself"),
        ("GET", "/manifests/", Act::Endless, "more than"),
        ("GET", "/manifests/", Act::Longer(100 * MIB), "more than"),
        ("HEAD", "/manifests/", Act::Header("Docker-Content-Digest", other), "manifest unknown"),
        ("GET", "/blobs/", Act::Corrupt, "verify config"),
        ("GET", "/blobs/", Act::Endless, "more than"),
        ("GET", "/blobs/", Act::Answer(200, vec![], "{}".into()), "bytes"),
    ] {
        let server = Server::start();
        Image::of(&[10]).put(&server, "a", "1");
        server.fault(method, path, all, act);
        let error = resolve(&client(&server), &reference(&server, "a:1")).await.unwrap_err();
        let said = told(&error);
        assert!(said.contains(want), "want {want:?}: {said}");
        // 4 MiB, and what fits into the sockets' buffers.
        assert!(server.written.load(Ordering::SeqCst) < 24 * MIB, "{want}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_images_are_refused_by_name() {
    let config = serde_json::json!({"mediaType": "x", "digest": Digest::of(b"{}"), "size": 2});
    let foreign = Descriptor::of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"x");
    let deep = |levels: usize| {
        let server = Server::start();
        let mut entry = Image::of(&[10]).descriptor();
        for _ in 0..levels {
            let (descriptor, bytes) = index_of(&[entry.clone().on(on("amd64"))]);
            server.state().add_manifest("a", "1", OCI_INDEX, &bytes);
            entry = descriptor;
        }
        server
    };
    let serving = |media_type: &str, document: serde_json::Value| {
        let server = Server::start();
        server.state().add_blob("a", b"{}");
        server.state().add_manifest("a", "1", media_type, &serde_json::to_vec(&document).unwrap());
        server
    };
    for (server, want) in [
        (
            serving(
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                serde_json::json!({"schemaVersion": 1, "fsLayers": []}),
            ),
            "schema 1",
        ),
        (
            serving(OCI_MANIFEST, serde_json::json!({"schemaVersion": 2, "config": config, "layers": [foreign]})),
            "is foreign",
        ),
        (
            serving(OCI_MANIFEST, serde_json::json!({"schemaVersion": 2, "config": config, "manifests": []})),
            "both manifests and layers",
        ),
        (deep(8), "nest deeper"),
    ] {
        let error = resolve(&client(&server), &reference(&server, "a:1")).await.unwrap_err();
        assert!(told(&error).contains(want), "want {want:?}: {}", told(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_image_is_not_found_without_waiting() {
    let server = Server::start();
    let error = resolve(&client(&server), &reference(&server, "a:1")).await.unwrap_err();
    assert!(error.is_not_found(), "{}", told(&error));
    assert_eq!(server.state().seen.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_few_and_kept() {
    let server = Server::start();
    let image = Image::of(&[50_000; 12]);
    // Equal layers are one blob; what counts is the number of requests.
    image.put(&server, "a", "1");
    server.fault("GET", "/blobs/", all, Act::Slow(25_000, Duration::from_millis(10)));
    pull(&client(&server), &reference(&server, "a:1")).await.unwrap();
    assert_eq!(server.seen("GET", "/blobs/").len(), 13);
    let busiest = server.busiest.load(Ordering::SeqCst);
    assert!((2..=4).contains(&busiest), "{busiest}");
    // A connection may come back to the pool too late for the next request.
    assert!(server.connections.load(Ordering::SeqCst) <= 8, "{:?}", server.connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn sink_that_fails_ends_the_transfer() {
    let server = Server::start();
    let image = Image::of(&[3 * MIB]);
    image.put(&server, "a", "1");
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    let (client, reference) = (client(&server), reference(&server, "a:1"));
    let full = |_: &mut rbuild::registry::BlobReader| Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull));
    let error = client.fetch_blob(&reference, &layer, &silent(), full).await.unwrap_err();
    assert!(matches!(error, Error::Sink { .. }), "{}", told(&error));
    assert_eq!(server.seen("GET", "/blobs/").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sink_that_stops_early_still_gets_the_blob_verified() {
    let image = Image::of(&[3 * MIB]);
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    for (act, is_right) in [(None, true), (Some(Act::Corrupt), false)] {
        let server = Server::start();
        image.put(&server, "a", "1");
        if let Some(act) = act {
            server.fault("GET", "/blobs/", all, act);
        }
        let (client, reference) = (client(&server), reference(&server, "a:1"));
        let peek = |reader: &mut rbuild::registry::BlobReader| {
            let mut start = [0; 4];
            reader.read_exact(&mut start).map(|()| start)
        };
        let result = client.fetch_blob(&reference, &layer, &silent(), peek).await;
        assert_eq!(result.is_ok(), is_right);
        assert!(result.is_err() || result.unwrap() == image.layers[0][..4]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_origin_helps_out() {
    let (mirror, origin, dead) = (Server::start(), Server::start(), Server::start());
    let image = Image::of(&[MIB, 100]);
    image.put(&mirror, "proxy/a", "1");
    image.put(&origin, "a", "1");
    dead.fault("HEAD", "", all, Act::Answer(503, vec![], String::new()));
    dead.fault("GET", "", all, Act::Answer(503, vec![], String::new()));
    // Half of the layer comes from the mirror, the rest from the origin.
    mirror.fault("GET", "/blobs/", first, Act::Truncate(600));
    let mut config = plain_http(&[&mirror, &dead]);
    let mirrors = vec![dead.host(), format!("{}/proxy", mirror.host())];
    let about = HostConfig { mirrors, schemes: vec![Scheme::Http], ..HostConfig::default() };
    config.hosts.insert(origin.host(), about);
    let credentials = password(&origin.host(), "user", "canary");
    origin.state().asks = crate::server::Asks::Basic("dXNlcjpjYW5hcnk=");
    let client = Registry::new(config, credentials, impatient());
    let reference = reference(&origin, "a:1");
    let layer = Descriptor::of(GZIP_LAYER, &image.layers[0]);
    assert!(fetch(&client, &reference, &layer).await.unwrap() == image.layers[0]);
    let ranges: Vec<_> =
        origin.seen("GET", "/blobs/").iter().filter_map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert!(ranges.contains(&"bytes=600-".to_owned()), "{ranges:?}");
    let (_, layers) = pull(&client, &reference).await.unwrap();
    assert!(layers == image.layers);
    assert_eq!(origin.seen("GET", "/manifests/").len(), 0);
    for stranger in [&mirror, &dead] {
        let seen = stranger.state().seen.clone();
        assert!(!seen.is_empty() && seen.iter().all(|seen| seen.header("authorization").is_none()), "{seen:?}");
        assert!(seen.iter().all(|seen| seen.path.ends_with(&format!("?ns={}", origin.host()))), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_on_this_machine_may_speak_plain_http() {
    let server = Server::start();
    let image = Image::of(&[10]);
    image.put(&server, "a", "1");
    let client = Registry::new(Default::default(), Default::default(), impatient());
    assert_eq!(resolve(&client, &reference(&server, "a:1")).await.unwrap().config, image.config);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_said_at_once() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let about = HostConfig { schemes: vec![Scheme::Http], ..HostConfig::default() };
    let config = rbuild::registry::Config { hosts: [(gone.to_string(), about)].into(), ..Default::default() };
    // A second try would come after a minute.
    let limits = Limits { first_wait: Duration::from_secs(60), ..Limits::default() };
    let client = Registry::new(config, Default::default(), limits);
    let before = Instant::now();
    let error = resolve(&client, &format!("{gone}/a").parse().unwrap()).await.unwrap_err();
    assert!(told(&error).contains("Connection refused"), "{}", told(&error));
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_of_the_environment_is_used_but_not_for_this_machine() {
    let proxy = Server::start();
    let image = Image::of(&[1000]);
    image.put(&proxy, "a", "1");
    // Every other test asks this machine only, which no proxy is asked for.
    std::env::set_var("HTTP_PROXY", format!("http://{}", proxy.host()));
    let about = HostConfig { schemes: vec![Scheme::Http], ..HostConfig::default() };
    let name = "registry.invalid:5000";
    let config = rbuild::registry::Config { hosts: [(name.to_owned(), about)].into(), ..Default::default() };
    let client = Registry::new(config, Default::default(), impatient());
    let pulled = pull(&client, &format!("{name}/a:1").parse().unwrap()).await;
    std::env::remove_var("HTTP_PROXY");
    assert!(pulled.unwrap().1 == image.layers);
    let seen = proxy.seen("GET", "");
    assert!(seen.iter().all(|seen| seen.header("host") == Some(name)), "{seen:?}");
}
