//! Layers on their way into a store, from a registry that lies.

use std::sync::Arc;

use rbuild::engine::{Ask, Remote};
use sha2::{Digest as _, Sha256};
use snapshotter::store::fsck::Depth;
use snapshotter::Store;

use crate::fixture::{amd64, noise, told, Image};
use crate::server::{Act, Server};

/// Three layers, each with one file; uncompressed, so that one wrong bit is one wrong bit of a file.
fn image() -> Image {
    let layer = |name: &str, seed: u64| {
        let mut archive = tar::Builder::new(Vec::new());
        let content = noise(seed, 300_000);
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, &content[..]).unwrap();
        archive.into_inner().unwrap()
    };
    let layers: Vec<Vec<u8>> = [("a", 1), ("b", 2), ("c", 3)].map(|(name, seed)| layer(name, seed)).into();
    let ids: Vec<String> =
        layers.iter().map(|layer| format!("sha256:{}", hex::encode(Sha256::digest(layer)))).collect();
    Image::with_diff_ids(layers, "amd64", &ids)
}

async fn pull(server: &Server, store: &Store) -> Result<(), String> {
    let remote = Remote::new(store.clone(), Arc::new(store.lease().unwrap()), rbuild::registry::Credentials::default());
    let name = format!("{}/a:1", server.host());
    let image = remote.image(&name, &amd64(), Ask::Registry).await.map_err(|error| told(&error))?;
    remote.fetch(&image).await.map_err(|error| told(&error))
}

fn scratch() -> (tempfile::TempDir, Store) {
    let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

fn trees(store: &Store) -> usize {
    let mut trees = 0;
    store
        .walk(&mut |_| {
            trees += 1;
            Ok(())
        })
        .unwrap();
    trees
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_what_it_should_be_is_never_seen() {
    let image = image();
    for wrong in 0..3 {
        let server = Server::start();
        image.put(&server, "a", "1");
        let path: &'static str = crate::server::digest(&image.layers[wrong]).leak();
        server.fault("GET", path, |_| true, Act::Corrupt);
        let (_dir, store) = scratch();
        let said = pull(&server, &store).await.unwrap_err();
        assert!(said.contains(path), "{said}");
        let blobs = store.blobs().unwrap();
        assert!(!blobs.iter().any(|blob| blob.to_string() == path), "a blob under a name that is not its own");
        assert!(trees(&store) <= wrong, "layer {wrong} is wrong, so nothing on it can be");
        assert_eq!(store.fsck(Depth::Content).unwrap(), []);
        server.behaves();
        pull(&server, &store).await.unwrap();
        assert_eq!(trees(&store), 3);
        assert_eq!(store.fsck(Depth::Content).unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_the_config_does_not_promise_is_never_seen() {
    let honest = image();
    let mut ids: Vec<String> = honest.layers.iter().map(|layer| crate::server::digest(layer)).collect();
    ids[1] = crate::server::digest(b"something else");
    let lying = Image::with_diff_ids(honest.layers, "amd64", &ids);
    let server = Server::start();
    lying.put(&server, "a", "1");
    let (_dir, store) = scratch();
    let said = pull(&server, &store).await.unwrap_err();
    assert!(said.contains(&ids[1]), "{said}");
    assert_eq!(trees(&store), 1, "the layer below it is as it should be");
    assert_eq!(store.fsck(Depth::Content).unwrap(), []);
}
