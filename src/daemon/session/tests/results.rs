use std::io::Write;

use super::*;
use crate::engine::{pipe, DeliveredTree, Delivery, FileContent, FileWriter};

async fn with_out() -> (World, TempDir, Offer, SessionClient, JoinHandle<()>) {
    let (world, out) = (World::new(), tempfile::tempdir().unwrap());
    let offer = Offer { out: Some(out.path().to_owned()), ..Offer::default() };
    let (client, serving) = world.client("s", "", offer.clone()).await;
    (world, out, offer, client, serving)
}

#[tokio::test]
async fn a_file_arrives_with_what_is_said_of_it() {
    let (_world, out, offer, client, _serving) = with_out().await;
    let metadata = [("containerimage.digest".to_owned(), "sha256:ab".to_owned())].into();
    let delivery = Delivery { exporter: 1, metadata, multi_platform: false };
    let (mut writer, content) = pipe();
    let long = vec![b'x'; 1 << 20];
    let writing = tokio::task::spawn_blocking(move || {
        writer.write_all(&long)?;
        writer.finish()
    });
    client.take_file(&delivery, content).await.unwrap();
    writing.await.unwrap().unwrap();
    assert_eq!(fs::read(out.path().join("file")).unwrap().len(), 1 << 20);
    let told = offer.deliveries.lock().unwrap().pop().unwrap();
    assert_eq!((told.exporter, told.metadata), (Some(1), delivery.metadata));
}

async fn half_written() -> (FileWriter, FileContent) {
    let (mut writer, content) = pipe();
    let written = tokio::task::spawn_blocking(move || {
        writer.write_all(b"half").unwrap();
        writer.flush().unwrap();
        writer
    });
    (written.await.unwrap(), content)
}

#[tokio::test]
async fn half_a_file_does_not_arrive() {
    let (_world, out, offer, client, _serving) = with_out().await;
    let (writer, content) = half_written().await;
    drop(writer);
    let delivery = Delivery { exporter: 1, ..Delivery::default() };
    let error = client.take_file(&delivery, content).await.unwrap_err();
    assert_eq!(crate::engine::chain(&error), "send the file of exporter 1: the result could not be written");
    eventually(|| offer.deliveries.lock().unwrap().pop()).await;
    assert!(!out.path().join("file").exists());

    // A client that has it already is content; one that does not know the exporter is not.
    let (writer, content) = pipe();
    client.take_file(&Delivery { exporter: 9, ..Delivery::default() }, content).await.unwrap();
    drop(writer);
    let world = World::new();
    let (client, _serving) = world.client("s", "", Offer::default()).await;
    let (_writer, content) = pipe();
    let error = client.take_file(&delivery, content).await.unwrap_err();
    assert!(crate::engine::chain(&error).ends_with("exporter not found"), "{error}");
}

#[tokio::test]
async fn directories_arrive_in_one_transfer() {
    let (_world, out, offer, client, _serving) = with_out().await;
    let result = tempfile::tempdir().unwrap();
    write(result.path(), "bin/app", "app");
    write(result.path(), "empty", "");
    let tree = |at: &str| DeliveredTree {
        root: File::open(result.path()).unwrap().into(),
        at: at.to_owned(),
        latest: Some(1_000_000_000),
    };
    let delivery = Delivery { multi_platform: true, ..Delivery::default() };
    let trees = vec![tree("linux_arm64"), tree("linux_amd64")];
    client.take_trees(&delivery, trees).await.unwrap();
    for platform in ["linux_amd64", "linux_arm64"] {
        let file = out.path().join(platform).join("bin/app");
        assert_eq!(fs::read_to_string(&file).unwrap(), "app");
        assert_eq!(fs::metadata(&file).unwrap().mtime(), 1);
    }
    assert!(offer.deliveries.lock().unwrap().pop().unwrap().multi_platform);

    // What the client says in the end counts.
    write(out.path(), "bin/app/in/the/way", "");
    let error = client.take_trees(&Delivery::default(), vec![tree("")]).await.unwrap_err();
    assert!(crate::engine::chain(&error).contains("in the way"), "{}", crate::engine::chain(&error));
}

#[tokio::test]
async fn a_client_that_leaves_takes_nothing_more() {
    let (_world, _out, offer, client, serving) = with_out().await;
    let (mut writer, content) = half_written().await;
    let delivery = Delivery { exporter: 1, ..Delivery::default() };
    let leaving = async {
        eventually(|| offer.deliveries.lock().unwrap().pop()).await;
        serving.abort();
    };
    let (taken, ()) = tokio::join!(client.take_file(&delivery, content), leaving);
    assert!(matches!(taken, Err(ClientError::Gone(_))), "{taken:?}");
    let gone = tokio::task::spawn_blocking(move || writer.write_all(&[0; 1 << 20])).await.unwrap();
    assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}
