use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn links_do_not_lead_out_of_the_source() {
    let outside = Dir::with(&["secret=outside"]);
    let out = outside.0.path().to_str().unwrap().trim_start_matches('/').to_owned();
    let up = format!("{}{out}", "../".repeat(30));
    let dir = Dir::with(&["in/x=1"]);
    dir.add(&[&format!("abs->/{out}"), &format!("in/up->{up}"), "chain->in/up/secret"]);
    for path in ["abs/secret", "in/up/secret", "chain", "abs", "../../abs", &format!("{up}/secret")] {
        let found = dir.hash(path);
        assert!(matches!(found, Err(Error::NotFound { .. })), "{path}: {found:?}");
        let copied = Copying::new(path, "/g").run(&dir, &Dir::new());
        assert!(matches!(copied, Err(Error::NotFound { .. })), "{path}: {copied:?}");
    }
    let copied = Copying::new("abs/*", "/g").run(&dir, &Dir::new()).unwrap();
    assert_eq!(copied.entries, 0);
}

#[test]
fn links_do_not_lead_out_of_the_destination() {
    let outside = Dir::with(&["victim=untouched"]);
    let out = outside.0.path().to_str().unwrap().to_owned();
    let source = Dir::with(&["f=evil", "d/victim=evil", "d/sub/x=evil"]);
    let up = format!("{}{}", "../".repeat(30), out.trim_start_matches('/'));
    for to in ["l/victim", "l/new", "u/victim", "l/", "l/a/b", "/../../u/"] {
        for what in ["f", "d"] {
            let dest = Dir::with(&[&format!("l->{out}"), &format!("u->{up}"), &format!("sub->{out}")]);
            Copying::new(what, to).run(&source, &dest).unwrap();
            assert_eq!(outside.list(), ["victim=untouched"], "{what} to {to}");
        }
    }
    let dest = Dir::with(&[&format!("sub->{out}")]);
    assert!(matches!(Copying::new("d", "/").run(&source, &dest), Err(Error::IntoNonDirectory { .. })));
    assert_eq!(outside.list(), ["victim=untouched"]);
}

#[test]
fn link_loops_end() {
    let dir = Dir::with(&["a->b", "b->a", "self->self/x", "d/up->../d"]);
    for path in ["a", "b/x", "self"] {
        assert!(matches!(dir.hash(path), Err(Error::LinkLoop { .. })), "{path}");
    }
    assert!(dir.hash("/").is_ok());
    assert!(dir.hash("d/up/up/up").is_ok());
    assert!(dir.hash(&format!("d/{}", "up/".repeat(41))).is_err());
}

#[test]
fn a_racing_replacement_is_an_error_or_the_old_or_the_new_tree() {
    let outside = Dir::with(&["f=outside", "g=outside"]);
    let dir = Dir::with(&["d/s/f=one", "d/s/g=one", "d/t/f=two", "d/t/g=two"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(dir.path("d/s"), dir.path("old")).unwrap();
                std::os::unix::fs::symlink(outside.0.path(), dir.path("d/s")).unwrap();
                fs::remove_file(dir.path("d/s")).unwrap();
                fs::rename(dir.path("old"), dir.path("d/s")).unwrap();
                fs::write(dir.path("new"), "three").unwrap();
                fs::rename(dir.path("new"), dir.path("d/t/f")).unwrap();
            }
        });
        for _ in 0..300 {
            let dest = Dir::new();
            let copied = Copying::new("d", "/out").run(&dir, &dest);
            let made = dest.list().join(" ");
            assert!(!made.contains("=outside"), "{made}");
            if let Ok(copied) = copied {
                assert_eq!(copied.digest, dest.hash("out").unwrap());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_file_that_grows_while_it_is_copied_is_never_copied_wrongly() {
    let dir = Dir::with(&["d/log="]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(dir.path("d/log")).unwrap();
            let mut size = 0;
            while !stop.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut file, &[b'x'; 3000]).unwrap();
                size += 3000;
                if size > 4 << 20 {
                    file.set_len(0).unwrap();
                    size = 0;
                }
            }
        });
        let mut changed = 0;
        for _ in 0..200 {
            let dest = Dir::new();
            match Copying::new("d/", "/").run(&dir, &dest) {
                Ok(copied) => assert_eq!(copied.digest, dest.hash("/").unwrap()),
                Err(Error::Changed { path }) => {
                    assert_eq!(path, Path::new("/d/log"));
                    changed += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(changed > 0, "the race was never lost, so this test showed nothing");
    });
}

#[test]
fn deep_directories_need_no_more_than_shallow_ones() {
    let dir = Dir::new();
    let mut at = dir.root();
    for _ in 0..2500 {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
        at = resolve::open_dir(at.as_fd(), b"d").unwrap();
    }
    drop(at);
    let dest = Dir::new();
    let copied = Copying::new("/", "/").run(&dir, &dest).unwrap();
    assert_eq!(copied.entries, 2501);
    assert_eq!(dest.hash("/").unwrap(), copied.digest);
    for dir in [dir, dest] {
        remove_all(dir.root().as_fd(), b"d").unwrap();
        assert_eq!(dir.list(), [""; 0]);
    }
}

#[test]
fn devices_and_fifos_are_not_opened() {
    let dir = Dir::new();
    rustix::fs::mknodat(dir.root(), "fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    // A FIFO without writer would block an open; this would hang instead of failing.
    let fifo = dir.hash("fifo").unwrap();
    let dest = Dir::new();
    Copying::new("/", "/").run(&dir, &dest).unwrap();
    assert_eq!((dest.list(), dest.hash("fifo").unwrap()), (vec!["fifo*".to_owned()], fifo));
    if geteuid().is_root() {
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(dir.root(), "null", rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::RUSR, null)
            .unwrap();
        Copying::new("/", "/").run(&dir, &dest).unwrap();
        assert_eq!(fs::metadata(dest.path("null")).unwrap().rdev(), null);
    }
}

#[test]
fn paths_with_nul_are_refused() {
    let dir = Dir::with(&["a=1"]);
    assert!(matches!(dir.hash("a\0b"), Err(Error::InvalidPath { .. })));
    assert!(matches!(Copying::new("a", "b\0c").run(&dir, &Dir::new()), Err(Error::InvalidPath { .. })));
}
