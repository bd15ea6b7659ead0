//! What layers look like from outside, and that they are made once.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::builder::Tar;
use crate::layer::{apply_layer, import_rootfs, pack, remember_pulled, write_tar, Compression, PackOptions, Pulled};
use crate::testing::{listing, needs_root, path_of, scratch_store};
use crate::{DiffId, Digest, Error, Lease, SnapshotInfo, Store};

const PLAIN: PackOptions =
    PackOptions { compression: Compression::Uncompressed, epoch: None, pulled: Pulled::Converted };

fn with(compression: Compression) -> PackOptions {
    PackOptions { compression, epoch: None, pulled: Pulled::Converted }
}

fn snapshot(store: &Store, lease: &Lease, write: impl FnOnce(&Path)) -> SnapshotInfo {
    let active = store.prepare(None, lease).unwrap();
    write(&active.upper());
    store.commit(active, lease).unwrap()
}

fn set_age(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// A tree of about 9 MiB, so that there are several blocks of every compression.
fn large(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    let mut random = 88172645463325252u64;
    for number in 0..30 {
        let mut content = Vec::new();
        while content.len() < 300_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            content.extend_from_slice(format!("{:x} ", random >> 40).as_bytes());
        }
        fs::write(root.join(format!("d/{number}")), content).unwrap();
        fs::set_permissions(root.join(format!("d/{number}")), fs::Permissions::from_mode(0o644)).unwrap();
        set_age(&root.join(format!("d/{number}")), 1_600_000_000);
    }
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o755)).unwrap();
    set_age(&root.join("d"), 1_600_000_000);
}

#[test]
fn every_compression_unpacks_to_the_same_diff() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let info = snapshot(&store, &lease, large);
    let plain = pack(&store, &lease, &info.id, &PLAIN).unwrap();
    assert_eq!(plain.diff_id.digest(), &plain.digest);
    let wanted = store.read_blob(&plain.digest, u64::MAX).unwrap();
    for compression in [Compression::Gzip { level: 6 }, Compression::Gzip { level: 1 }, Compression::Zstd { level: 3 }]
    {
        let layer = pack(&store, &lease, &info.id, &with(compression)).unwrap();
        assert_eq!(layer.diff_id, plain.diff_id);
        assert!(layer.size < plain.size * 9 / 10, "{compression:?}: {} of {}", layer.size, plain.size);
        let packed = store.read_blob(&layer.digest, u64::MAX).unwrap();
        let mut unpacked = Vec::new();
        match compression {
            // A single member: readers that know no more than one must get all of it.
            Compression::Gzip { .. } => flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap(),
            _ => zstd::stream::read::Decoder::new(&packed[..]).unwrap().read_to_end(&mut unpacked).unwrap(),
        };
        assert!(unpacked == wanted, "{compression:?}");
    }
}

#[test]
fn gzip_of_other_tools_agrees() {
    let (dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let info = snapshot(&store, &lease, large);
    let layer = pack(&store, &lease, &info.id, &with(Compression::Gzip { level: 3 })).unwrap();
    let file = store.open_blob(&lease, &layer.digest).unwrap();
    let Ok(checked) = std::process::Command::new("gzip").arg("-t").stdin(file).output() else {
        eprintln!("skipped: no gzip here");
        return;
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let file = store.open_blob(&lease, &layer.digest).unwrap();
    let untar = std::process::Command::new("tar").arg("-xzf-").arg("-C").arg(&out).stdin(file).output().unwrap();
    assert!(untar.status.success() && untar.stderr.is_empty(), "{}", String::from_utf8_lossy(&untar.stderr));
    assert_eq!(listing(&out), listing(&store.delta_path(&info)));
}

/// A change here makes every layer another one: raise the codec's number with it.
#[test]
fn bytes_of_layers_are_stable() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let info = snapshot(&store, &lease, large);
    let table = [
        (Compression::Uncompressed, "sha256:da0427824fbef1e496c8b572cd14c11d504983eaa7b1644e95cf27d66f37095e"),
        (Compression::Gzip { level: 6 }, "sha256:85c10cc1f87b6f9eff78dba43a84d4d6480b2a3b65859971092649eb57512c08"),
        (Compression::Zstd { level: 3 }, "sha256:7d77a4b007ba4754f56c1db5ec530b83e53442684d671ac0fe10868c3b0dd55e"),
    ];
    let digests =
        table.map(|(compression, _)| pack(&store, &lease, &info.id, &with(compression)).unwrap().digest.to_string());
    assert_eq!(digests, table.map(|(_, golden)| golden.to_owned()));
}

#[test]
fn layer_is_made_once() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let info = snapshot(&store, &lease, |root| fs::write(root.join("f"), "content").unwrap());
    let gzip = with(Compression::Gzip { level: 6 });
    let layer = pack(&store, &lease, &info.id, &gzip).unwrap();
    // The files cannot be read any more: only what is remembered can answer.
    fs::write(store.delta_path(&info).join("f"), "changed").unwrap();
    assert_eq!(pack(&store, &lease, &info.id, &gzip).unwrap(), layer);
    fs::remove_file(store.layout().blob(&layer.digest)).unwrap();
    let other = pack(&store, &lease, &info.id, &gzip).unwrap();
    assert_ne!(other.digest, layer.digest, "a lost blob is made again");
}

#[test]
fn epoch_clamps_times() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let make = |times: [u64; 2]| {
        snapshot(&store, &lease, |root| {
            for (name, time) in ["a", "b"].iter().zip(times) {
                fs::write(root.join(name), "").unwrap();
                set_age(&root.join(name), time);
            }
        })
    };
    let (old, new) = (make([5, 100]), make([5, 200]));
    let digest =
        |info: &SnapshotInfo, epoch| pack(&store, &lease, &info.id, &PackOptions { epoch, ..PLAIN }).unwrap().diff_id;
    assert_ne!(digest(&old, None), digest(&new, None));
    assert_eq!(digest(&old, Some(50)), digest(&new, Some(50)));
    assert_eq!(digest(&old, Some(150)), digest(&old, None), "earlier times stay");
    assert_ne!(digest(&old, Some(150)), digest(&new, Some(150)));
}

#[test]
fn names_of_deletions_cannot_be_packed_and_sockets_are_left_out() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let socket = snapshot(&store, &lease, |root| {
        drop(std::os::unix::net::UnixListener::bind(root.join("s")).unwrap());
    });
    let empty = snapshot(&store, &lease, |_| {});
    let empty = pack(&store, &lease, &empty.id, &PLAIN).unwrap();
    assert_eq!(pack(&store, &lease, &socket.id, &PLAIN).unwrap().digest, empty.digest);
    assert_eq!(store.read_blob(&empty.digest, 2000).unwrap(), vec![0; 1024]);
    let named = snapshot(&store, &lease, |root| fs::write(root.join(".wh.f"), "").unwrap());
    let refused = pack(&store, &lease, &named.id, &PLAIN).unwrap_err();
    assert!(matches!(&refused, Error::Unpackable { path, .. } if path == ".wh.f"), "{refused}");
}

#[test]
fn pulled_layer_is_exported_as_it_came() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    // No writer of ours makes this: owners' names, an odd order, something after the end.
    let mut tar = Tar::new().file(b"z", b"1").entry(b'0', b"a", b"2", |h| h.set_username("somebody").unwrap()).end();
    tar.extend_from_slice(&[0; 9000]);
    let diff_id = DiffId(Digest::of(&tar));
    let blob = store.put_blob(&lease, &zstd::encode_all(&tar[..], 7).unwrap()).unwrap();
    let id = apply_layer(&store, &lease, None, store.open_blob(&lease, &blob).unwrap(), &diff_id).unwrap();
    remember_pulled(&store, &lease, &diff_id, &blob).unwrap();
    let zstd = PackOptions { compression: Compression::Zstd { level: 3 }, epoch: Some(0), pulled: Pulled::Converted };
    let same = pack(&store, &lease, &id, &zstd).unwrap();
    assert_eq!((same.digest, same.diff_id), (blob, diff_id));
    let gzip = pack(&store, &lease, &id, &with(Compression::Gzip { level: 6 })).unwrap();
    assert_eq!(gzip.diff_id, diff_id, "another compression of the very same tar");
    let plain = pack(&store, &lease, &id, &PLAIN).unwrap();
    assert_eq!(store.read_blob(&plain.digest, u64::MAX).unwrap(), tar);
}

#[test]
fn imported_root_file_system_packs_to_its_own_diff_id() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let rootfs = |first: &[u8]| {
        let tar = Tar::new().entry(b'5', b"./", b"", |header| header.set_mode(0o711));
        tar.directory(b"./etc").file(first, b"1").file(b"./b", b"2").end()
    };
    let info = import_rootfs(&store, &lease, &zstd::encode_all(&rootfs(b"./a")[..], 1).unwrap()[..]).unwrap().snapshot;
    let layer = pack(&store, &lease, &info.id, &with(Compression::Gzip { level: 6 })).unwrap();
    assert_eq!(Some(layer.diff_id), info.diff_id);
    assert_eq!(fs::metadata(store.delta_path(&info)).unwrap().permissions().mode() & 0o7777, 0o711);
    // The same tree by another tar is the same base.
    assert_eq!(import_rootfs(&store, &lease, &rootfs(b"a")[..]).unwrap().snapshot.id, info.id);
    // What leaves can come back.
    let blob = store.open_blob(&lease, &layer.digest).unwrap();
    let other_store = scratch_store();
    let lease = other_store.1.lease().unwrap();
    let id = apply_layer(&other_store.1, &lease, None, blob, &layer.diff_id).unwrap();
    assert_eq!((id, other_store.1.snapshot(&id).unwrap().delta), (info.id, info.delta));
}

#[test]
fn merged_tree_is_written_without_marks_or_dots() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = snapshot(&store, &lease, |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/gone"), "").unwrap();
        fs::write(root.join("d/stays"), "1").unwrap();
        fs::write(root.join(".wh.name"), "just a name").unwrap();
    });
    let active = store.prepare(Some(&base.id), &lease).unwrap();
    let mounted = active.mount().unwrap();
    fs::remove_file(path_of(&mounted).join("d/gone")).unwrap();
    fs::write(path_of(&mounted).join("d/new"), "2").unwrap();
    fs::hard_link(path_of(&mounted).join("d/new"), path_of(&mounted).join("link")).unwrap();
    drop(mounted);
    let info = store.commit(active, &lease).unwrap();
    let view = store.view(Some(&info.id), &lease).unwrap().mount().unwrap();
    let mut tar = Vec::new();
    write_tar(view.root(), Some(0), &mut tar).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect();
    assert_eq!(names, [".wh.name", "d/", "d/new", "d/stays", "link"]);
    let out = tempfile::tempdir().unwrap();
    let root = crate::snapshot::open_directory(out.path()).unwrap();
    let limits = crate::layer::Limits::default();
    let without_it = tar[1024..].to_vec();
    crate::layer::apply_to_directory(&without_it[..], root.as_fd(), &limits).unwrap();
    let wanted: Vec<_> = listing(&path_of(&view)).into_iter().filter(|line| !line.contains(".wh.")).collect();
    assert_eq!(listing(out.path()), wanted);
}

#[test]
fn packing_on_a_thread_of_the_shared_pool_does_not_wait_for_itself() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let info = snapshot(&store, &lease, large);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let gzip = with(Compression::Gzip { level: 1 });
    let layer = pool.install(|| pack(&store, &lease, &info.id, &gzip)).unwrap();
    assert!(layer.size > 0);
}
