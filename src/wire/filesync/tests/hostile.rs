//! What hostile senders and receivers can do, and what they cannot.

use super::*;
use crate::wire::filesync::receiver::failed;

/// Attributes need a file system that has them; without one this says nothing.
#[tokio::test]
async fn attributes_of_others_are_set_only_where_allowed() {
    let set = |path: &Path, name: &str| rustix::fs::setxattr(path, name, b"1", rustix::fs::XattrFlags::empty()).is_ok();
    let has = |path: &Path, name: &str| rustix::fs::getxattr(path, name, &mut [0; 8]).is_ok();
    let from = tempfile::tempdir().unwrap();
    write(&from, "f", "x");
    let file = from.path().join("f");
    if !set(&file, "user.mine") {
        return;
    }
    for (rules, taken) in [(Receive::export(), false), (Receive::context(), true)] {
        let into = tempfile::tempdir().unwrap();
        let stat = |path: &str, mode| Stat {
            path: path.into(),
            mode,
            xattrs: ["user.mine", "user.overlay.opaque", "security.capability", "trusted.overlay.opaque"]
                .map(|name| (name.to_owned(), b"y".to_vec()))
                .into(),
            ..Stat::default()
        };
        let (_, received) =
            forge(vec![told(stat("d", 1 << 31 | 0o755)), told(stat("f", 0o644))], into.path(), rules).await;
        received.unwrap();
        for path in ["d", "f"] {
            let path = into.path().join(path);
            assert_eq!(has(&path, "user.mine"), taken);
            for never in ["user.overlay.opaque", "security.capability", "trusted.overlay.opaque"] {
                assert!(!has(&path, never), "{never}");
            }
        }
    }
    // and honest senders do tell of them
    let into = tempfile::tempdir().unwrap();
    copy(from.path(), into.path(), Receive::context()).await;
    assert!(has(&into.path().join("f"), "user.mine"));
}

fn told(stat: Stat) -> Packet {
    Packet { stat: Some(stat), ..Packet::default() }
}

/// Receives exactly these packets, then the end of the list and of the transfer where the receiver gets so far; gives what
/// the receiver said.
async fn forge(packets: Vec<Packet>, into: &Path, rules: Receive) -> (Vec<Packet>, Result<Received, Error>) {
    let (to_receiver, from_sender) = mpsc::channel(1);
    let (to_sender, mut from_receiver) = mpsc::channel(64);
    let receiving = receive(ReceiverStream::new(from_sender).map(Ok), to_sender, opened(into), rules);
    let sending = async move {
        for packet in packets.into_iter().chain([Packet::default()]) {
            let _ = to_receiver.send(packet).await;
        }
        let mut said = Vec::new();
        while let Some(packet) = from_receiver.recv().await {
            let last = packet.r#type == PacketType::PacketFin as i32;
            said.push(packet);
            if last {
                let _ = to_receiver.send(finish()).await;
                break;
            }
        }
        drop(to_receiver);
        said
    };
    tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(sending, receiving) }).await.unwrap()
}

#[tokio::test]
async fn hostile_senders_reach_nothing_outside_and_are_told_why() {
    let stat = |path: &str, mode, linkname: &str, size| {
        told(Stat { path: path.into(), mode, linkname: linkname.into(), size, ..Stat::default() })
    };
    let (dir, link, device) = (1_u32 << 31 | 0o755, 1_u32 << 27 | 0o777, 1_u32 << 26);
    let bytes = |id, text: &'static str| data(id, text.into());
    for (packets, why) in [
        (vec![stat("../canary", 0o644, "", 0)], "invalid path"),
        (vec![stat("/tmp/canary", 0o644, "", 0)], "invalid path"),
        (vec![stat("d", dir, "", 0), stat("d/../../canary", 0o644, "", 0)], "invalid path"),
        // through a link made just before, or by the transfer before it
        (vec![stat("out", link, "..", 0), stat("out/canary", 0o644, "", 0)], "before its directory"),
        (vec![stat("old", link, "..", 0), stat("old/canary", dir, "", 0)], "before its directory"),
        (vec![stat("d", dir, "", 0), stat("d", link, "..", 0), stat("d/canary", 0o644, "", 0)], "out of order"),
        (vec![stat("f", 0o644, "", 1), stat("f", link, "../canary", 0), bytes(0, "x")], "out of order"),
        (vec![stat("h", 0o644, "../canary", 0)], "a hard link to no clean path"),
        (vec![stat("a", link, "..", 0), stat("h", 0o644, "a/canary", 0)], "a hard link to nothing"),
        (vec![stat("a", link, "../canary", 0), stat("h", 0o644, "a", 0)], "a hard link to no file"),
        (vec![stat("d", dir, "", 0), stat("h", 0o644, "d", 0)], "a hard link to no file"),
        (vec![stat("h", 0o644, "gone", 0)], "a hard link to nothing"),
        (vec![stat("f", 0o644, "", -1)], "negative size"),
        (vec![stat("f", 0o644, "", i64::MAX)], "more than 1000 bytes"),
        (vec![stat("a", 0o644, "", 600), stat("b", 0o644, "", 600)], "more than 1000 bytes"),
        (vec![bytes(0, "x")], "invalid file request 0"),
        (vec![stat("f", 0o644, "", 0), bytes(0, "x")], "invalid file request 0"),
        (vec![stat("d", dir, "", 0), bytes(0, "x")], "invalid file request 0"),
        (vec![stat("f", 0o644, "", 1), bytes(0, "x"), bytes(0, ""), bytes(0, "y")], "invalid file request 0"),
        (vec![stat("null", device | 1 << 21, "", 0)], "is a device"),
        (vec![stat("f", u32::MAX, "", 0)], "no type of file"),
        (vec![finish()], "unexpected packet of type 3"),
        (vec![Packet { r#type: 77, ..Packet::default() }], "unexpected packet of type 77"),
        ((0..9).map(|n| stat(&n.to_string(), 0, "", 0)).collect(), "more than 8 entries"),
    ] {
        let above = tempfile::tempdir().unwrap();
        write(&above, "canary", "sings");
        write(&above, "into/old/canary", "of before");
        let canary = || {
            let meta = above.path().join("canary").metadata().unwrap();
            (fs::read_to_string(above.path().join("canary")).unwrap(), meta.nlink(), meta.mode(), meta.mtime_nsec())
        };
        let before = canary();
        let rules = Receive { limits: Limits { entries: 8, bytes: 1000, told: 10_000 }, ..Receive::context() };
        let (said, received) = forge(packets.clone(), &above.path().join("into"), rules).await;
        let error = received.unwrap_err();
        assert!(error.to_string().contains(why), "{error}, not {why}: {packets:?}");
        let last = said.last().unwrap();
        assert_eq!(last.r#type, PacketType::PacketErr as i32);
        assert_eq!(last.data, error.to_string().as_bytes());
        assert_eq!(canary(), before, "{packets:?}");
        assert_eq!(fs::read_dir(above.path()).unwrap().count(), 2);
    }
}

#[tokio::test]
async fn links_that_were_there_before_are_replaced_and_not_followed() {
    let above = tempfile::tempdir().unwrap();
    write(&above, "outside/f", "theirs");
    fs::create_dir(above.path().join("into")).unwrap();
    for name in ["d", "f"] {
        symlink(above.path().join("outside"), above.path().join("into").join(name)).unwrap();
    }
    symlink("../outside/f", above.path().join("into/g")).unwrap();
    let from = tempfile::tempdir().unwrap();
    write(&from, "d/f", "ours");
    write(&from, "f", "ours");
    write(&from, "g", "ours");
    for rules in [Receive::export(), Receive::context()] {
        copy(from.path(), &above.path().join("into"), rules).await;
        assert_eq!(fs::read_to_string(above.path().join("outside/f")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(above.path().join("into/g")).unwrap(), "ours");
        assert!(above.path().join("into/d").symlink_metadata().unwrap().is_dir());
    }
}

#[tokio::test]
async fn what_vanished_under_the_sender_fails_the_transfer_by_name() {
    let from = tempfile::tempdir().unwrap();
    write(&from, "f", "four");
    for (change, why) in [("gone", r#"open "f""#), ("short", r#"file "f" shrank"#), ("link", r#"open "f""#)] {
        write(&from, "f", "four");
        let (to_receiver, mut from_sender) = mpsc::channel(8);
        let (to_sender, from_receiver) = mpsc::channel(8);
        let sending = tokio::spawn(send(ReceiverStream::new(from_receiver).map(Ok), to_receiver, context(from.path())));
        assert!(from_sender.recv().await.unwrap().stat.is_some());
        let file = from.path().join("f");
        match change {
            "gone" => fs::remove_file(&file).unwrap(),
            "short" => fs::write(&file, "fo").unwrap(),
            _ => {
                fs::remove_file(&file).unwrap();
                symlink("/etc/passwd", &file).unwrap();
            }
        }
        to_sender.send(Packet { r#type: PacketType::PacketReq as i32, ..Packet::default() }).await.unwrap();
        let error = sending.await.unwrap().unwrap_err();
        assert!(error.to_string().contains(why), "{error}, not {why}");
        let mut last = Packet::default();
        while let Some(packet) = from_sender.recv().await {
            assert!(!String::from_utf8_lossy(&packet.data).contains("root:"));
            last = packet;
        }
        assert_eq!(last.data, error.to_string().as_bytes());
        let _ = fs::remove_file(&file);
    }
}

#[tokio::test]
async fn a_file_that_grows_while_it_is_sent_is_cut() {
    let stat = Stat { path: "log".into(), mode: 0o644, size: 3, ..Stat::default() };
    let packets = vec![told(stat), data(0, "hello".into()), data(0, " you".into()), data(0, "".into())];
    let into = tempfile::tempdir().unwrap();
    let (_, received) = forge(packets, into.path(), Receive::context()).await;
    assert_eq!(received.unwrap().changed, ["log"]);
    assert_eq!(fs::read_to_string(into.path().join("log")).unwrap(), "hel");
}

#[tokio::test]
async fn more_open_files_than_are_kept_open() {
    let mut packets = Vec::new();
    let stat = |n: u32| Stat { path: format!("{n:03}"), mode: 0o644, size: 2, ..Stat::default() };
    packets.extend((0..200).map(|n| told(stat(n))));
    for text in ["a", "b", ""] {
        packets.extend((0..200).map(|n| data(n, text.into())));
    }
    let into = tempfile::tempdir().unwrap();
    let (_, received) = forge(packets, into.path(), Receive::context()).await;
    assert_eq!(received.unwrap(), Received { entries: 200, files: 200, changed: vec![] });
    for entry in fs::read_dir(into.path()).unwrap() {
        assert_eq!(fs::read_to_string(entry.unwrap().path()).unwrap(), "ab");
    }
}

#[tokio::test]
async fn a_receiver_that_leaves_or_lies_ends_the_sender() {
    let from = zoo();
    let req = |id| Packet { r#type: PacketType::PacketReq as i32, id, ..Packet::default() };
    for (said, why) in [
        (vec![], "the other side left in the middle of a transfer"),
        (vec![req(0)], "invalid file id 0"),
        (vec![req(u32::MAX)], "invalid file id 4294967295"),
        (vec![data(0, "x".into())], "unexpected packet of type 2"),
        (vec![failed("full")], "error from receiver: full"),
    ] {
        let (to_receiver, mut from_sender) = mpsc::channel(1);
        let (to_sender, from_receiver) = mpsc::channel(8);
        for packet in said {
            to_sender.send(packet).await.unwrap();
        }
        drop(to_sender);
        let sending = tokio::spawn(send(ReceiverStream::new(from_receiver).map(Ok), to_receiver, context(from.path())));
        while from_sender.recv().await.is_some() {}
        assert_eq!(sending.await.unwrap().unwrap_err().to_string(), why);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_packets_panic_or_leave_the_directory(packets in proptest::collection::vec(any_packet(), 0..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let above = tempfile::tempdir().unwrap();
        write(&above, "canary", "sings");
        fs::create_dir(above.path().join("into")).unwrap();
        let rules = Receive { limits: Limits { entries: 10, bytes: 1000, told: 10_000 }, ..Receive::context() };
        // Who tells of files and does not send them is waited for, as long as the session lasts: here not for long.
        let into = above.path().join("into");
        let forged = async { tokio::time::timeout(Duration::from_millis(300), forge(packets, &into, rules)).await };
        drop(runtime.block_on(forged));
        drop(runtime);
        prop_assert_eq!(fs::read_to_string(above.path().join("canary")).unwrap(), "sings");
        prop_assert_eq!(fs::read_dir(above.path()).unwrap().count(), 2);
    }
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let paths = || proptest::sample::select(vec!["", "a", "a/b", "a/c", "b", "..", "../canary", "/", "a/../b", "c"]);
    let kinds = proptest::sample::select(vec![0, 0o644, 1 << 31 | 0o755, 1 << 27, 1 << 25, 1 << 24, u32::MAX]);
    let stat = (paths(), kinds, paths(), -1_i64..5).prop_map(|(path, mode, linkname, size)| {
        told(Stat { path: path.into(), mode, linkname: linkname.into(), size, ..Stat::default() })
    });
    prop_oneof![
        5 => stat,
        2 => (0_u32..6, 0_usize..4).prop_map(|(id, length)| data(id, vec![b'x'; length].into())),
        1 => (0_i32..7).prop_map(|kind| Packet { r#type: kind, ..Packet::default() }),
    ]
}
