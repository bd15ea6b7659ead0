//! The lifecycle, run against the real kernel.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::FileType;

use super::*;
use crate::overlay::mount::{overlay_by, Interface, Stack, MOST_LOWERS};
use crate::testing::{listing, needs_machine_root, needs_root, path_of, scratch_store};
use crate::Lease;

/// Commits what `write` leaves in a mounted tree on top of `parent`.
fn step(store: &Store, lease: &Lease, parent: Option<&SnapshotId>, write: impl FnOnce(&Path)) -> SnapshotInfo {
    let active = store.prepare(parent, lease).unwrap();
    let mounted = active.mount().unwrap();
    write(&path_of(&mounted));
    drop(mounted);
    store.commit(active, lease).unwrap()
}

fn names(store: &Store, lease: &Lease, id: Option<&SnapshotId>) -> Vec<String> {
    let mounted = store.view(id, lease).unwrap().mount().unwrap();
    let mut names: Vec<_> =
        listing(&path_of(&mounted)).iter().map(|line| line.split(' ').nth(3).unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn three_steps_stack() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = step(&store, &lease, None, |root| {
        fs::write(root.join("a"), "1").unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/x"), "x").unwrap();
    });
    let changed = step(&store, &lease, Some(&base.id), |root| {
        fs::write(root.join("a"), "2").unwrap();
        fs::remove_file(root.join("d/x")).unwrap();
    });
    let replaced = step(&store, &lease, Some(&changed.id), |root| {
        fs::remove_dir(root.join("d")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/y"), "y").unwrap();
    });
    assert_eq!(names(&store, &lease, None), [""; 0]);
    assert_eq!(names(&store, &lease, Some(&base.id)), ["a", "d", "d/x"]);
    assert_eq!(names(&store, &lease, Some(&changed.id)), ["a", "d"]);
    assert_eq!(names(&store, &lease, Some(&replaced.id)), ["a", "d", "d/y"]);
    let chain: Vec<_> = store.chain(&replaced.id).unwrap().into_iter().map(|info| info.id).collect();
    assert_eq!(chain, [base.id, changed.id, replaced.id]);
    let view = store.view(Some(&replaced.id), &lease).unwrap().mount().unwrap();
    assert_eq!(fs::read(path_of(&view).join("a")).unwrap(), b"2");
    let refused = fs::write(path_of(&view).join("b"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let one = store.view(Some(&base.id), &lease).unwrap().mount().unwrap();
    assert!(fs::write(path_of(&one).join("b"), "").is_err());
}

#[test]
fn new_directories_do_not_hide_what_they_are_stacked_on() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = step(&store, &lease, None, |root| fs::write(root.join("a"), "").unwrap());
    let made = step(&store, &lease, Some(&base.id), |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/made"), "").unwrap();
    });
    let other = step(&store, &lease, None, |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/other"), "").unwrap();
    });
    let both = store.restack(&made.id, Some(&other.id), &lease).unwrap();
    assert_eq!(names(&store, &lease, Some(&both.id)), ["etc", "etc/made", "etc/other"]);
    assert_eq!(both.delta, made.delta);
}

#[test]
fn marks_that_hide_nothing_are_dropped() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = step(&store, &lease, None, |root| {
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("d/e/x"), "x").unwrap();
    });
    let made_and_removed = step(&store, &lease, Some(&base.id), |root| {
        fs::write(root.join("tmp"), "").unwrap();
        fs::remove_file(root.join("tmp")).unwrap();
    });
    let nothing = step(&store, &lease, Some(&base.id), |_| {});
    assert_eq!(made_and_removed.delta, nothing.delta);
    let removed = step(&store, &lease, Some(&base.id), |root| fs::remove_dir_all(root.join("d")).unwrap());
    assert!(removed.has_whiteouts);
    // Made anew where it is deleted already: the mark on the directory covers nothing.
    let anew = step(&store, &lease, Some(&removed.id), |root| fs::create_dir_all(root.join("d/e")).unwrap());
    assert_eq!(names(&store, &lease, Some(&anew.id)), ["d", "d/e"]);
    let upper = store.delta_path(&anew);
    assert!(!crate::overlay::whiteout::is_opaque(open_directory(&upper.join("d")).unwrap(), store.xattrs()).unwrap());
    // Made anew where it still is: there the mark is all that hides the old content.
    let replaced = step(&store, &lease, Some(&base.id), |root| {
        fs::remove_dir_all(root.join("d")).unwrap();
        fs::create_dir_all(root.join("d/e")).unwrap();
    });
    assert_eq!(names(&store, &lease, Some(&replaced.id)), ["d", "d/e"]);
    assert_ne!(replaced.delta, anew.delta);
    // Made anew as it was, inside an opaque directory: nothing below shows through, so it is no copy of what is below.
    assert!(store.delta_path(&replaced).join("d/e").is_dir());
    // Deletions in a hidden directory cover nothing.
    let active = store.prepare(Some(&base.id), &lease).unwrap();
    let upper = active.upper();
    fs::create_dir(upper.join("d")).unwrap();
    crate::overlay::whiteout::mark_opaque(open_directory(&upper.join("d")).unwrap(), store.xattrs()).unwrap();
    crate::overlay::whiteout::make_whiteout(open_directory(&upper.join("d")).unwrap(), b"e").unwrap();
    let hidden = store.commit(active, &lease).unwrap();
    assert_eq!(hidden.entries, 2, "the directory, and one deletion of all that was in it");
    assert_eq!(names(&store, &lease, Some(&hidden.id)), ["d"]);
}

#[test]
fn delta_counts_all_but_times() {
    needs_machine_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let make = |change: &dyn Fn(&Path)| {
        step(&store, &lease, None, |root| {
            fs::write(root.join("f"), "content").unwrap();
            fs::hard_link(root.join("f"), root.join("g")).unwrap();
            fs::create_dir(root.join("d")).unwrap();
            symlink("f", root.join("l")).unwrap();
            change(root);
        })
        .delta
    };
    let plain = make(&|_| {});
    let age = |root: &Path| {
        let file = fs::File::options().write(true).open(root.join("f")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    };
    assert_eq!(make(&age), plain);
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change<'_>; 11] = [
        ("content", &|root| fs::write(root.join("f"), "CONTENT").unwrap()),
        ("mode", &|root| fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o4755)).unwrap()),
        ("owner", &|root| std::os::unix::fs::chown(root.join("d"), Some(7), None).unwrap()),
        ("group", &|root| std::os::unix::fs::chown(root.join("d"), None, Some(7)).unwrap()),
        ("root", &|root| fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap()),
        ("target", &|root| {
            fs::remove_file(root.join("l")).unwrap();
            symlink("g", root.join("l")).unwrap();
        }),
        ("link", &|root| {
            fs::remove_file(root.join("g")).unwrap();
            fs::write(root.join("g"), "content").unwrap();
        }),
        ("name", &|root| fs::rename(root.join("d"), root.join("e")).unwrap()),
        ("type", &|root| {
            fs::remove_dir(root.join("d")).unwrap();
            fs::write(root.join("d"), "").unwrap();
        }),
        ("xattr", &|root| {
            rustix::fs::setxattr(root.join("f"), "user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap()
        }),
        ("device", &|root| {
            let null = rustix::fs::makedev(1, 3);
            rustix::fs::mknodat(rustix::fs::CWD, root.join("n"), FileType::CharacterDevice, Mode::RWXU, null).unwrap();
        }),
    ];
    let mut seen = vec![("plain", plain)];
    for (what, change) in changes {
        let delta = make(change);
        if let Some((same, _)) = seen.iter().find(|(_, other)| *other == delta) {
            panic!("{what} and {same} have the same digest");
        }
        seen.push((what, delta));
    }
}

/// A change here makes every kept result a miss: raise the number in the digest's context with it.
#[test]
fn delta_digest_is_stable() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let info = step(&store, &lease, None, |root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/file"), "content").unwrap();
        fs::hard_link(root.join("d/file"), root.join("d/link")).unwrap();
        symlink("file", root.join("d/symlink")).unwrap();
        for (path, mode) in [("", 0o755), ("d", 0o750), ("d/file", 0o4711)] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        rustix::fs::setxattr(root.join("d/file"), "user.key", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    });
    assert_eq!(info.delta.to_string(), GOLDEN);
    assert_eq!((info.entries, info.size), (4, 7));
}

const GOLDEN: &str = "3b3f1a72dd5f9fcbf0a6f916c8374765f7c55c1390ebee60feaea16b3587c57b";

#[test]
fn both_mount_interfaces_show_the_same() {
    needs_root!();
    let (dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let mut parent = None;
    for number in 0..3 {
        let info = step(&store, &lease, parent.as_ref(), |root| {
            fs::write(root.join(format!("f{number}")), "").unwrap();
        });
        parent = Some(info.id);
    }
    let chain = store.chain(&parent.unwrap()).unwrap();
    let lowers: Vec<_> = chain.iter().rev().map(|info| open_directory(&store.delta_path(info)).unwrap()).collect();
    let spot = dir.path().join("spot");
    fs::create_dir(&spot).unwrap();
    for interface in [Interface::Descriptors, Interface::Paths, Interface::Page] {
        let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let (upper_fd, work_fd) = (open_directory(&upper).unwrap(), open_directory(&work).unwrap());
        let stack = |upper| Stack { lowers: &lowers, upper, xattrs: store.xattrs(), spot: &spot };
        let root = overlay_by(interface, &stack(Some((upper_fd.as_fd(), work_fd.as_fd()))))
            .unwrap_or_else(|(what, error)| panic!("{interface:?}: {what}: {error}"));
        let mounted = Mounted::new(root, None);
        fs::write(path_of(&mounted).join("new"), "").unwrap();
        fs::remove_file(path_of(&mounted).join("f1")).unwrap();
        assert_eq!(listing(&path_of(&mounted)).len(), 3, "{interface:?}");
        drop(mounted);
        assert_eq!(fs::read_dir(&upper).unwrap().count(), 2, "{interface:?}");
        let view = Mounted::new(overlay_by(interface, &stack(None)).unwrap(), None);
        assert_eq!(listing(&path_of(&view)).len(), 3, "{interface:?}");
        assert!(fs::write(path_of(&view).join("new"), "").is_err(), "{interface:?}");
        fs::remove_dir_all(&upper).unwrap();
        fs::remove_dir_all(&work).unwrap();
    }
    assert_eq!(fs::read_dir(&spot).unwrap().count(), 0, "nothing stays mounted");
}

#[test]
fn an_upper_is_mounted_once_at_a_time_and_again_after() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = step(&store, &lease, None, |_| {});
    let active = store.prepare(Some(&base.id), &lease).unwrap();
    let first = active.mount().unwrap();
    fs::write(path_of(&first).join("a"), "").unwrap();
    assert!(matches!(active.mount(), Err(Error::InUse { .. })));
    drop(first);
    // A volatile overlay forbids this by a mark in its work directory.
    let second = active.mount().unwrap();
    assert!(path_of(&second).join("a").exists());
    drop(second);
    let info = store.commit(active, &lease).unwrap();
    assert_eq!(fs::read_dir(store.layout().snapshot(&info.id)).unwrap().count(), 2, "only fs and meta stay");
}

#[test]
fn mounted_tree_cannot_be_committed() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let active = store.prepare(None, &lease).unwrap();
    let _mounted = active.mount().unwrap();
    assert!(matches!(store.commit(active, &lease), Err(Error::InUse { .. })));
}

#[test]
fn upper_takes_over_the_root_of_its_parent() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = step(&store, &lease, None, |root| {
        fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap();
        std::os::unix::fs::chown(root, Some(3), Some(4)).unwrap();
    });
    let above = step(&store, &lease, Some(&base.id), |_| {});
    let view = store.view(Some(&above.id), &lease).unwrap().mount().unwrap();
    let found = fs::metadata(path_of(&view)).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o711, 3, 4));
}

#[test]
fn a_stack_that_grows_too_high_is_flattened() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let mut parent = None;
    for number in 0..MOST_LOWERS + 2 {
        let active = store.prepare(parent.as_ref(), &lease).unwrap();
        fs::write(active.upper().join(format!("f{}", number % 7)), number.to_string()).unwrap();
        parent = Some(store.commit(active, &lease).unwrap().id);
    }
    let chain = store.chain(&parent.unwrap()).unwrap();
    assert_eq!(chain.len(), MOST_LOWERS + 2);
    let flattened = chain.iter().filter(|info| store.whole_path(&info.id).exists()).count();
    assert_eq!(flattened, 1);
    let removed = step(&store, &lease, parent.as_ref(), |root| fs::remove_file(root.join("f0")).unwrap());
    let view = store.view(Some(&removed.id), &lease).unwrap().mount().unwrap();
    for number in 1..7 {
        let last = (0..MOST_LOWERS + 2).rfind(|other| other % 7 == number).unwrap();
        assert_eq!(fs::read_to_string(path_of(&view).join(format!("f{number}"))).unwrap(), last.to_string());
    }
    assert_eq!(listing(&path_of(&view)).len(), 6);
    assert_eq!(store.fsck(crate::store::fsck::Depth::Content).unwrap(), []);
}

#[test]
fn dropped_tree_leaves_nothing() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let active = store.prepare(None, &lease).unwrap();
    let upper = active.upper();
    assert!(upper.exists());
    drop(active);
    assert!(!upper.exists());
    assert_eq!(fs::read_dir(lease.active_directory()).unwrap().count(), 0);
}

#[test]
fn snapshot_in_use_is_not_removed() {
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = store.commit(store.prepare(None, &lease).unwrap(), &lease).unwrap();
    let above = store.commit(store.prepare(Some(&base.id), &lease).unwrap(), &lease).unwrap();
    assert!(matches!(store.remove(&above.id), Err(Error::InUse { .. })));
    drop(lease);
    assert!(matches!(store.remove(&base.id), Err(Error::InUse { .. })));
    store.remove(&above.id).unwrap();
    store.remove(&base.id).unwrap();
    assert!(matches!(store.remove(&base.id), Err(Error::NotFound { .. })));
}

#[test]
fn directories_that_were_only_copied_up_are_no_part_of_a_delta() {
    needs_root!();
    let (_dir, store) = scratch_store();
    let lease = store.lease().unwrap();
    let base = step(&store, &lease, None, |root| fs::create_dir_all(root.join("etc/deep/er")).unwrap());
    let touched = step(&store, &lease, Some(&base.id), |root| {
        fs::write(root.join("etc/deep/er/stub"), "").unwrap();
        fs::remove_file(root.join("etc/deep/er/stub")).unwrap();
    });
    assert_eq!(touched.entries, 0);
    let changed = step(&store, &lease, Some(&base.id), |root| {
        fs::set_permissions(root.join("etc/deep"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    assert_eq!(changed.entries, 2, "etc is there for the sake of etc/deep");
}
