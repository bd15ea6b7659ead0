//! Several processes on one store, some of them killed: each role is this very program, started again.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use snapshotter::layer::apply_layer;
use snapshotter::store::fsck::Depth;
use snapshotter::store::gc::{Keep, PrunePolicy};
use snapshotter::store::record::RecordKey;
use snapshotter::{DiffId, Digest, Store};

const STORE: &str = "RBUILD_TEST_STORE";

/// Starts this program as one of the roles below.
fn start(role: &str, store: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([role, "--exact", "--nocapture", "--ignored"])
        .env(STORE, store)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits for the line by which a role says that it is ready, and returns the word after it.
fn ready(child: &mut Child) -> String {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let line = out.by_ref().lines().find(|line| line.as_ref().unwrap().contains("ready ")).unwrap().unwrap();
    // Kept open: the role has more to say at its end.
    child.stdout = Some(out.into_inner());
    line.split("ready ").nth(1).unwrap().to_owned()
}

fn store_of_role() -> Store {
    Store::open(std::env::var_os(STORE).expect("roles are started by tests")).unwrap()
}

fn wait_for_the_end() {
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
#[ignore = "a role, started by the tests below"]
fn role_holder() {
    let store = store_of_role();
    let lease = store.lease().unwrap();
    let active = store.prepare(None, &lease).unwrap();
    fs::write(active.upper().join("f"), "content").unwrap();
    let committed = store.commit(active, &lease).unwrap();
    let unfinished = store.prepare(Some(&committed.id), &lease).unwrap();
    fs::write(unfinished.upper().join("g"), "content").unwrap();
    let mut writer = store.blob_writer(&lease).unwrap();
    writer.write_all(b"unfinished").unwrap();
    let _step = store.lock_step(&RecordKey([1; 32]), &|| false).unwrap();
    println!("ready {}", committed.id);
    wait_for_the_end();
}

#[test]
#[ignore = "a role, started by the tests below"]
fn role_unpacker() {
    let store = store_of_role();
    let lease = store.lease().unwrap();
    let mut tar = Vec::new();
    for number in 0..50 {
        let mut header = tar::Header::new_ustar();
        header.set_size(1000);
        header.set_mode(0o644);
        header.as_old_mut().name[..3].copy_from_slice(format!("f{number:02}").as_bytes());
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&[b'x'; 1000]);
        tar.extend_from_slice(&[0; 24]);
    }
    tar.extend_from_slice(&[0; 1024]);
    let id = apply_layer(&store, &lease, None, &tar[..], &DiffId(Digest::of(&tar))).unwrap();
    let view = store.view(Some(&id), &lease).unwrap();
    println!("ready {id}");
    drop(view);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[test]
fn killed_process_leaves_nothing_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut child = start("role_holder", dir.path());
    let id = ready(&mut child).parse().unwrap();
    let all = PrunePolicy { records: Keep::Nothing, ..Default::default() };
    let collected = store.prune(&all).unwrap();
    assert_eq!((collected.leases, collected.snapshots), (0, 0), "it lives");
    assert!(store.has_snapshot(&id));
    assert!(store.lock_step(&RecordKey([1; 32]), &|| true).unwrap().is_none());
    assert_eq!(store.fsck(Depth::Content).unwrap(), []);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(store.lock_step(&RecordKey([1; 32]), &|| true).unwrap().is_some(), "the kernel has unlocked the step");
    let collected = store.prune(&all).unwrap();
    assert_eq!((collected.leases, collected.snapshots), (1, 1));
    for directory in ["active", "ingest", "leases", "trash", "snapshots", "locks/steps"] {
        assert_eq!(fs::read_dir(dir.path().join(directory)).unwrap().count(), 0, "{directory}");
    }
    assert_eq!(store.fsck(Depth::Content).unwrap(), []);
}

#[test]
fn processes_that_unpack_the_same_layer_share_one_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut children: Vec<_> = (0..4).map(|_| start("role_unpacker", dir.path())).collect();
    let ids: Vec<_> = children.iter_mut().map(ready).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.gc().unwrap().snapshots, 0);
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 1);
    assert_eq!(store.fsck(Depth::Content).unwrap(), []);
    for mut child in children {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(store.gc().unwrap().snapshots, 1, "nobody holds it any more");
}

#[test]
fn kills_at_any_moment_leave_a_sound_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for round in 0..25 {
        let mut child = start(["role_unpacker", "role_holder"][round % 2], dir.path());
        std::thread::sleep(Duration::from_micros(1500 * round as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        let damage: Vec<_> = store.fsck(Depth::Content).unwrap();
        // What a dead process has left is no damage, and collection takes it.
        let damage: Vec<_> = damage.iter().filter(|problem| !problem.what.contains("collection removes it")).collect();
        assert!(damage.is_empty(), "round {round}: {damage:?}");
        store.gc().unwrap();
        assert_eq!(store.fsck(Depth::Content).unwrap(), [], "round {round}");
    }
}
