use super::*;
use crate::wire::proto::fsutil::{packet::PacketType, Stat};

fn offer(context: &Path) -> Offer {
    Offer { directories: [("context".to_owned(), context.to_owned())].into(), ..Offer::default() }
}

/// The last transfer's request and volume.
async fn last(offer: &Offer, count: usize) -> (DirectoryRequest, Sent) {
    let all = || offer.asked.lock().unwrap().get(count - 1).cloned();
    let (asked, sent) = eventually(all).await;
    (asked, sent.unwrap())
}

fn read(directory: &Directory, path: &str) -> String {
    fs::read_to_string(directory.path().join(path)).unwrap()
}

#[tokio::test]
async fn only_what_changed_is_sent_again() {
    let (world, context) = (World::new(), tempfile::tempdir().unwrap());
    let root = context.path();
    write(root, "src/main.c", "int main() {}");
    write(root, "src/big", &"0123456789".repeat(20_000));
    write(root, "tool", "#!/bin/sh");
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("tool"), root.join("twin")).unwrap();
    symlink("../../etc/passwd", root.join("src/link")).unwrap();
    let offer = offer(root);
    let (client, _serving) = world.client("s1", "app:node", offer.clone()).await;
    let wanted = all_of("context");
    let first = client.directory(&wanted).await.unwrap();
    assert_eq!(last(&offer, 1).await.1.files, 3);
    assert_eq!(wanted.arrived.load(std::sync::atomic::Ordering::Relaxed), 200_000 + 13 + 9);
    let path = first.path().to_owned();
    let meta = |name: &str| fs::symlink_metadata(path.join(name)).unwrap();
    assert_eq!((meta("tool").mode() & 0o7777, meta("tool").uid(), meta("tool").gid()), (0o4755, 0, 0));
    assert_eq!(meta("tool").ino(), meta("twin").ino());
    assert_eq!(meta("tool").mtime_nsec(), fs::metadata(root.join("tool")).unwrap().mtime_nsec());
    assert_eq!(fs::read_link(path.join("src/link")).unwrap(), Path::new("../../etc/passwd"));
    drop(first);

    // Another session of the same client, some time later.
    fs::remove_file(root.join("twin")).unwrap();
    write(root, "src/main.c", "int main() { return 1; }");
    let (client, _serving) = world.client("s2", "app:node", offer.clone()).await;
    let second = client.directory(&all_of("context")).await.unwrap();
    assert_eq!(last(&offer, 2).await.1, Sent { files: 1, bytes: 24 });
    assert_eq!(second.path(), path);
    assert_eq!(read(&second, "src/main.c"), "int main() { return 1; }");
    assert!(!path.join("twin").exists());
    drop(second);

    // Nothing is used again where that is not wanted, or the client does not say who it is.
    let anew = LocalDirectory { differ: Differ::Nothing, ..all_of("context") };
    drop(client.directory(&anew).await.unwrap());
    assert_eq!(last(&offer, 3).await.1.files, 3);
    let (nobody, _serving) = world.client("s3", "", offer.clone()).await;
    for count in [4, 5] {
        drop(nobody.directory(&all_of("context")).await.unwrap());
        assert_eq!(last(&offer, count).await.1.files, 3);
    }
}

#[tokio::test]
async fn the_client_is_asked_for_no_more_than_is_needed() {
    let (world, context) = (World::new(), tempfile::tempdir().unwrap());
    for path in ["a.c", "b.c", "b.h", "other/c.c", "real/x", "Dockerfile"] {
        write(context.path(), path, path);
    }
    symlink("real", context.path().join("linked")).unwrap();
    let offer = offer(context.path());
    let (client, _serving) = world.client("s1", "app:node", offer.clone()).await;
    let wanted = LocalDirectory {
        include: vec!["*.c".to_owned()],
        exclude: vec!["a.*".to_owned()],
        follow: vec!["linked/x".to_owned()],
        shared_key_hint: "hint".to_owned(),
        ..all_of("context")
    };
    let directory = client.directory(&wanted).await.unwrap();
    let (asked, sent) = last(&offer, 1).await;
    assert_eq!((asked.include, asked.exclude, asked.follow), (wanted.include, wanted.exclude, wanted.follow));
    assert_eq!(sent.files, 2);
    assert_eq!(read(&directory, "linked/x"), "real/x");
    assert!(directory.path().join("b.c").exists() && !directory.path().join("other").exists());

    // The Dockerfile alone does not take the place of all of it.
    drop(directory);
    let text = client.directory(&LocalDirectory::files("context", ["Dockerfile".to_owned()])).await.unwrap();
    assert_eq!(fs::read_dir(text.path()).unwrap().count(), 1);
    drop(client.directory(&all_of("context")).await.unwrap());
    drop(text);
    let text = client.directory(&LocalDirectory::files("context", ["Dockerfile".to_owned()])).await.unwrap();
    assert_eq!(read(&text, "Dockerfile"), "Dockerfile");
    drop(client.directory(&all_of("context")).await.unwrap());
    assert_eq!(last(&offer, 5).await.1.files, 0);

    let missing = client.directory(&all_of("/etc")).await.unwrap_err();
    assert!(matches!(&missing, ClientError::NoDirectory(name) if name == "/etc"), "{missing}");
}

#[tokio::test]
async fn who_reads_a_tree_has_it_alone() {
    let (world, context) = (World::new(), tempfile::tempdir().unwrap());
    write(context.path(), "f", "one");
    let (client, _serving) = world.client("s1", "app:node", offer(context.path())).await;
    let first = client.directory(&all_of("context")).await.unwrap();
    write(context.path(), "f", "two!");
    let second = client.directory(&all_of("context")).await.unwrap();
    assert_ne!(first.path(), second.path());
    assert_eq!((read(&first, "f"), read(&second, "f")), ("one".into(), "two!".into()));
    let path = first.path().to_owned();
    drop(first);
    let third = client.directory(&all_of("context")).await.unwrap();
    assert_eq!((third.path(), read(&third, "f")), (path.as_path(), "two!".into()));
}

#[tokio::test]
async fn a_source_may_name_another_session() {
    let (world, here, there) = (World::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(here.path(), "f", "here");
    write(there.path(), "f", "there");
    let (client, _serving) = world.client("s1", "a:node", offer(here.path())).await;
    let prefixed =
        Offer { directories: [("app-context".to_owned(), there.path().to_owned())].into(), ..Offer::default() };
    let (_other, _serving) = world.client("s2", "b:node", prefixed).await;
    let of = |session: &str| LocalDirectory { session: Some(session.to_owned()), ..all_of("context") };
    assert_eq!(read(&client.directory(&of("s1")).await.unwrap(), "f"), "here");
    assert_eq!(read(&client.directory(&of("app:s2")).await.unwrap(), "f"), "there");
}

/// A client that tells of a file, and of its bytes no more than the first.
fn half_a_transfer() -> Vec<Packet> {
    let told = |path: &str, mode: u32, size: i64| Packet {
        stat: Some(Stat { path: path.into(), mode, size, ..Stat::default() }),
        ..Packet::default()
    };
    let data = Packet { r#type: PacketType::PacketData as i32, id: 1, data: "x"[..].into(), stat: None };
    vec![told("d", 1 << 31 | 0o755, 0), told("d/f", 0o644, 3), data]
}

#[tokio::test]
async fn a_transfer_that_is_cut_short_leaves_a_tree_that_the_next_one_completes() {
    let (world, context) = (World::new(), tempfile::tempdir().unwrap());
    write(context.path(), "d/f", "abc");
    write(context.path(), "e", "e");
    let cut = Offer { forged: [("context".to_owned(), half_a_transfer())].into(), ..Offer::default() };
    let (client, serving) = world.client("s1", "app:node", cut.clone()).await;
    let leaving = client.clone();
    let waiting = tokio::spawn(async move { leaving.directory(&all_of("context")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    serving.abort();
    let error = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Gone(_)), "{error}");

    // Whoever does not wait any more lets the tree go too.
    let (client, _serving) = world.client("s2", "app:node", cut).await;
    let wanted = all_of("context");
    let waiting = tokio::time::timeout(Duration::from_millis(50), client.directory(&wanted));
    assert!(waiting.await.is_err());

    let offer = offer(context.path());
    let (client, _serving) = world.client("s3", "app:node", offer.clone()).await;
    let directory = client.directory(&all_of("context")).await.unwrap();
    assert_eq!((read(&directory, "d/f"), read(&directory, "e")), ("abc".into(), "e".into()));
    let path = directory.path().to_owned();
    drop(directory);
    let mounts = path.parent().unwrap().parent().unwrap();
    assert!(fs::read_dir(mounts).unwrap().count() <= 2, "the tree that was let go is taken again");
}

#[tokio::test]
async fn forged_transfers_are_refused_and_harm_nothing() {
    let (world, context) = (World::new(), tempfile::tempdir().unwrap());
    write(context.path(), "f", "abc");
    let stat = |stat: Stat| Packet { stat: Some(stat), ..Packet::default() };
    let told = |path: &str, mode: u32| stat(Stat { path: path.into(), mode, ..Stat::default() });
    let link = |path: &str, mode: u32, to: &str| {
        stat(Stat { path: path.into(), mode, linkname: to.into(), ..Stat::default() })
    };
    let data = |id| Packet { r#type: PacketType::PacketData as i32, id, data: "x"[..].into(), stat: None };
    let huge_xattr = [("user.x".to_owned(), vec![0; 1 << 20])].into();
    let forged = [
        vec![told("../escape", 0o644)],
        vec![told("/etc/passwd", 0o644)],
        vec![told("a/../../b", 0o644)],
        vec![told("b", 0o644), told("a", 0o644)],
        vec![told("a", 0o644), told("a", 0o644)],
        vec![told("no/directory", 0o644)],
        vec![link("out", 1 << 27, "/"), told("out/f", 0o644)],
        vec![link("hard", 0o644, "../../../version")],
        vec![link("hard", 0o644, "nothing")],
        vec![told("device", 1 << 26 | 0o666)],
        vec![told("bits", u32::MAX)],
        vec![stat(Stat { path: "x".into(), xattrs: huge_xattr, ..Stat::default() })],
        vec![stat(Stat { path: "negative".into(), size: -1, ..Stat::default() })],
        vec![stat(Stat { path: "huge".into(), size: i64::MAX, ..Stat::default() })],
        vec![data(0)],
        vec![told("a", 0o644), data(u32::MAX)],
        vec![Packet { r#type: 77, ..Packet::default() }],
        vec![Packet { r#type: PacketType::PacketErr as i32, data: "no"[..].into(), ..Packet::default() }],
    ];
    let names = |number: usize| format!("forged{number}");
    let count = forged.len();
    let forged = forged.into_iter().enumerate().map(|(number, packets)| (names(number), packets)).collect();
    let offer = Offer { forged, ..offer(context.path()) };
    let (client, _serving) = world.client("s1", "app:node", offer).await;
    for number in 0..count {
        let wanted = all_of(&names(number));
        let refused = tokio::time::timeout(SOON, client.directory(&wanted)).await.unwrap();
        assert!(matches!(refused, Err(ClientError::Failed { .. })), "{number}: {refused:?}");
    }
    assert_eq!(read(&client.directory(&all_of("context")).await.unwrap(), "f"), "abc");
}
