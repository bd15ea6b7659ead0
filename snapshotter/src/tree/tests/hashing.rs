use super::*;
use std::time::{Duration, SystemTime};

fn tree() -> Dir {
    let dir = Dir::with(&["src/main=fn", "src/lib/x=1", "src/lib/y=2", "docs/a=doc", "link->src", "empty/"]);
    dir.chmod("src/main", 0o644).chmod("src", 0o755);
    dir
}

#[test]
fn a_digest_tells_what_counts() {
    let before = tree();
    let everything = before.hash("/").unwrap();
    type Edit = (&'static str, fn(&Dir), bool);
    let changes: &[Edit] = &[
        ("nothing", |_| {}, true),
        (
            "time",
            |dir| {
                let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
                fs::File::options().write(true).open(dir.path("src/main")).unwrap().set_modified(long_ago).unwrap();
            },
            true,
        ),
        ("mode of the root", |dir| _ = dir.chmod("", 0o700), true),
        ("content", |dir| fs::write(dir.path("src/main"), "mm").unwrap(), false),
        ("mode", |dir| _ = dir.chmod("src/main", 0o755), false),
        ("mode of a directory", |dir| _ = dir.chmod("src/lib", 0o700), false),
        ("name", |dir| fs::rename(dir.path("src/main"), dir.path("src/mail")).unwrap(), false),
        ("place", |dir| fs::rename(dir.path("src/lib/x"), dir.path("docs/x")).unwrap(), false),
        ("new directory", |dir| _ = dir.add(&["new/"]), false),
        ("removed directory", |dir| fs::remove_dir(dir.path("empty")).unwrap(), false),
        (
            "link",
            |dir| {
                fs::remove_file(dir.path("link")).unwrap();
                dir.add(&["link->docs"]);
            },
            false,
        ),
        (
            "type",
            |dir| {
                fs::remove_dir(dir.path("empty")).unwrap();
                dir.add(&["empty="]);
            },
            false,
        ),
    ];
    for (what, change, same) in changes {
        let after = tree();
        change(&after);
        assert_eq!(after.hash("/").unwrap() == everything, *same, "{what}");
    }
}

/// `cap_net_bind_service`, permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn owners_and_capabilities_count_only_in_snapshots_and_attributes_of_users_always() {
    let none = Patterns::default();
    let dir = tree();
    let root = dir.root();
    let hashes = || {
        let of = |tree| hash_tree(tree, &Selection::all(), None).unwrap();
        (of(Tree::snapshot(root.as_fd())), of(Tree::context(root.as_fd(), &none)))
    };
    let mut before = hashes();
    let mut marks =
        vec![("src/main", "user.mime", &b"text"[..]), ("src/main", "user.mime", b"html"), ("src", "user.d", b"")];
    if geteuid().is_root() {
        marks.push(("src/main", "security.capability", &CAPABILITY));
        marks.push(("src", "user.overlay.x", b"1"));
    }
    for (path, name, value) in marks {
        if !dir.mark(path, name, value) {
            continue;
        }
        let after = hashes();
        assert_eq!(before.0 != after.0, name != "user.overlay.x", "{name} of {path} in a snapshot");
        assert_eq!(before.1 != after.1, ["user.mime", "user.d"].contains(&name), "{name} of {path} in a context");
        before = after;
    }
    if geteuid().is_root() {
        std::os::unix::fs::chown(dir.path("src/main"), Some(7), Some(7)).unwrap();
        let chowned = hashes();
        assert_ne!(before.0, chowned.0);
        assert_eq!(before.1, chowned.1);
    }
}

#[test]
fn attributes_count_though_the_cache_knew_the_file() {
    let (dir, file, none) = (tree(), Dir::new(), Patterns::default());
    settle();
    let (root, path) = (dir.root(), file.path("cache"));
    let context = || Tree::context(root.as_fd(), &none);
    let hash = |cache: Option<&StatCache>| hash_tree(context(), &Selection::all(), cache).unwrap();
    let cache = StatCache::new();
    let plain = hash(Some(&cache));
    assert_eq!(cache.learned(), 4);
    cache.save(&path).unwrap();
    if !dir.mark("src/main", "user.mime", b"text") {
        return;
    }
    let marked = hash(None);
    assert_ne!(marked, plain);
    assert_eq!(hash(Some(&StatCache::load(&path))), marked);
    settle();
    let cache = StatCache::load(&path);
    assert_eq!((hash(Some(&cache)), hash(Some(&cache))), (marked, marked));
    let to = Dir::new();
    let copying = Copying { what: SelectPath::new("/"), ..Copying::new("/", "/") };
    assert_eq!(copying.run_cached(context(), &to, None, Some(&cache)).unwrap().digest, marked);
    assert_eq!(to.mark_of("src/main", "user.mime").unwrap(), b"text");
    assert_eq!(cache.learned(), 0, "of a file with attributes nothing is remembered");

    // A directory's count too, and a file without any is as before.
    dir.mark("src/lib", "user.d", b"1");
    assert_eq!(hash(Some(&cache)), hash(None));
    assert_ne!(hash(Some(&cache)), marked);
    rustix::fs::removexattr(dir.path("src/lib"), "user.d").unwrap();
    rustix::fs::removexattr(dir.path("src/main"), "user.mime").unwrap();
    settle();
    assert_eq!(hash(Some(&cache)), plain);
    assert_eq!(cache.learned(), 1);
}

#[test]
fn only_what_is_selected_counts_and_is_read() {
    let dir = tree();
    let none = Patterns::default();
    let root = dir.root();
    // One that whoever may not make devices may make.
    let device = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(&root, "docs/device", device, rustix::fs::Mode::RUSR, 0).unwrap();
    rustix::fs::mknodat(&root, "src/fifo", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let hash =
        |path: &str| hash_tree(Tree::context(root.as_fd(), &none), &Selection(vec![SelectPath::new(path)]), None);
    let src = hash("src").unwrap();
    fs::write(dir.path("docs/a"), "changed").unwrap();
    assert_eq!(hash("/src").unwrap(), src);
    assert_eq!(hash("docs/../src").unwrap(), src);
    let error = hash("docs").unwrap_err();
    assert!(matches!(&error, Error::Special { path, .. } if path == Path::new("/docs/device")), "{error}");
    assert!(dir.hash("docs").is_ok(), "a snapshot may have devices");
}

#[test]
fn sockets_count_as_absent() {
    let dir = tree();
    let before = dir.hash("/").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path("src/socket")).unwrap();
    assert_eq!(dir.hash("/").unwrap(), before);
    assert!(matches!(dir.hash("src/socket"), Err(Error::NotFound { .. })));
}

#[test]
fn a_file_counts_without_its_name_a_pattern_with_names() {
    let dir = Dir::with(&["a=same", "b=same", "x1=same", "x2=same"]);
    assert_eq!(dir.hash("a").unwrap(), dir.hash("b").unwrap());
    let glob = |path: &str| SelectPath { wildcard: true, ..SelectPath::new(path) };
    let digest = |path: &str| dir.hash_all(&[glob(path)]).unwrap();
    assert_eq!(digest("a"), dir.hash("a").unwrap());
    assert_ne!(digest("[a]"), digest("[b]"));
    assert_ne!(digest("x*"), digest("x1*"));
    assert_eq!(digest("none*"), Dir::new().hash_all(&[glob("other*")]).unwrap());
    assert_eq!(digest("none/*"), digest("none*"));
    assert!(matches!(dir.hash_all(&[glob("none")]), Err(Error::NotFound { .. })));
    let joined = TreeDigest::join(&[digest("a"), digest("x*")]);
    assert_eq!(dir.hash_all(&[glob("a"), glob("x*")]).unwrap(), joined);
}

#[test]
fn a_missing_path_is_named_absolutely() {
    let dir = tree();
    for path in ["nope", "/nope", "src/../nope"] {
        assert_eq!(dir.hash(path).unwrap_err().to_string(), "\"/nope\": not found", "{path}");
    }
    assert!(matches!(dir.hash("src/main/x"), Err(Error::NotFound { .. })));
}

#[test]
fn links_are_followed_where_asked() {
    let dir = tree();
    dir.add(&["deep/up->../src", "abs->/docs", "gone->/nowhere"]);
    assert_eq!(dir.hash("link").unwrap(), dir.hash("src").unwrap());
    assert_eq!(dir.hash("deep/up/main").unwrap(), dir.hash("src/main").unwrap());
    assert_eq!(dir.hash("abs").unwrap(), dir.hash("docs").unwrap());
    let itself = |path: &str| dir.hash_all(&[SelectPath { follow: false, ..SelectPath::new(path) }]).unwrap();
    assert_ne!(itself("link"), dir.hash("src").unwrap());
    assert_ne!(itself("gone"), itself("abs"));
    assert!(matches!(dir.hash("gone"), Err(Error::NotFound { .. })));
}

#[test]
fn patterns_choose_below_the_selected_path() {
    let dir = Dir::with(&["src/a.rs=1", "src/b.c=2", "src/sub/c.rs=3", "src/sub/d.c=4", "src/only/e.c=5"]);
    let same = |what: SelectPath, as_if: &[&str]| {
        let other = Dir::with(as_if);
        for (path, kind) in [("src", 0o755), ("src/sub", 0o755), ("src/only", 0o755)] {
            dir.chmod(path, kind);
            if other.path(path).exists() {
                other.chmod(path, kind);
            }
        }
        assert_eq!(dir.hash_all(std::slice::from_ref(&what)).unwrap(), other.hash("src").unwrap(), "{what:?}");
    };
    let what = |include: &[&str], exclude: &[&str]| SelectPath {
        include: include.iter().map(ToString::to_string).collect(),
        exclude: exclude.iter().map(ToString::to_string).collect(),
        ..SelectPath::new("src")
    };
    same(what(&["**/*.rs"], &[]), &["src/a.rs=1", "src/sub/c.rs=3"]);
    same(what(&["sub"], &[]), &["src/sub/c.rs=3", "src/sub/d.c=4"]);
    same(what(&["sub"], &["**/d.*"]), &["src/sub/c.rs=3"]);
    same(what(&[], &["**/*.rs"]), &["src/b.c=2", "src/sub/d.c=4", "src/only/e.c=5"]);
    same(what(&[], &["*", "!sub/c.rs"]), &["src/sub/c.rs=3"]);
    same(what(&["none"], &[]), &["src/"]);
}

#[test]
fn what_the_filter_matches_does_not_exist() {
    let dir = Dir::with(&["keep/a=1", "drop/a=1", "drop/b=2", "all/x=1", "to->drop/b", "through->drop"]);
    let filter = Patterns::new(&["drop", "!drop/a", "all"]).unwrap();
    let root = dir.root();
    let hash = |what: SelectPath| hash_tree(Tree::context(root.as_fd(), &filter), &Selection(vec![what]), None);
    let glob = |path: &str| SelectPath { wildcard: true, ..SelectPath::new(path) };
    assert_eq!(hash(SelectPath::new("drop/a")).unwrap(), hash(SelectPath::new("keep/a")).unwrap());
    assert_eq!(hash(SelectPath::new("through/a")).unwrap(), hash(SelectPath::new("keep/a")).unwrap());
    assert_eq!(hash(glob("*/a")).unwrap(), {
        let (one, two) = (Dir::with(&["drop/a=1", "keep/a=1"]), Patterns::default());
        hash_tree(Tree::context(one.root().as_fd(), &two), &Selection(vec![glob("*/a")]), None).unwrap()
    });
    for path in ["drop/b", "all", "all/x", "to", "through/b"] {
        let found = hash(SelectPath::new(path));
        assert!(matches!(found, Err(Error::NotFound { .. })), "{path}: {found:?}");
    }
}

#[test]
fn names_may_be_any_bytes() {
    let names: [&[u8]; 8] =
        [b"new\nline", b"sp ace", b"\xff\xfe", b"-x", b"a:b,c\\", b"\xc3\xa9", b"e\xcc\x81", &[b'n'; 255]];
    let (dir, to) = (Dir::new(), Dir::new());
    let mut digests = vec![dir.hash("/").unwrap()];
    for name in names {
        fs::write(dir.0.path().join(bytes(name)), name).unwrap();
        digests.push(dir.hash("/").unwrap());
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), names.len() + 1);
    let copied = Copying::new("/", "/").run(&dir, &to).unwrap();
    assert_eq!((copied.digest, copied.entries), (dir.hash("/").unwrap(), 9));
    assert_eq!(to.hash("/").unwrap(), dir.hash("/").unwrap());
    let mut made: Vec<_> = fs::read_dir(to.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    made.sort();
    assert!(made.iter().all(|path| names.contains(&name_of(path))), "{made:?}");
}

/// Sets all times back, so that the cache trusts the files. Changing times is itself a change, so it needs a moment.
fn settle() {
    std::thread::sleep(Duration::from_millis(120));
}

#[test]
fn a_cache_answers_for_unchanged_files_only() {
    let dir = tree();
    settle();
    let file = Dir::new();
    let (root, path) = (dir.root(), file.path("cache"));
    let hash = |cache: &StatCache| hash_tree(Tree::snapshot(root.as_fd()), &Selection::all(), Some(cache)).unwrap();
    let first = StatCache::load(&path);
    let digest = hash(&first);
    first.save(&path).unwrap();
    let second = StatCache::load(&path);
    assert_eq!(second.len(), 4);
    assert_eq!(hash(&second), digest);
    assert_eq!(second.learned(), 0, "all was known");

    // Same size, and the time set back: only the change time tells.
    let before = fs::metadata(dir.path("src/main")).unwrap().modified().unwrap();
    fs::write(dir.path("src/main"), "mf").unwrap();
    fs::File::options().write(true).open(dir.path("src/main")).unwrap().set_modified(before).unwrap();
    assert_ne!(hash(&second), digest);
    assert_eq!(second.learned(), 0, "what was just written is not trusted");
    settle();
    let changed = hash(&second);
    assert_eq!(second.learned(), 1);
    second.save(&path).unwrap();
    assert_eq!(hash(&StatCache::load(&path)), changed);
}

#[test]
fn a_damaged_cache_is_empty() {
    let dir = tree();
    settle();
    let file = Dir::new();
    let path = file.path("cache");
    let cache = StatCache::new();
    hash_tree(Tree::snapshot(dir.root().as_fd()), &Selection::all(), Some(&cache)).unwrap();
    cache.save(&path).unwrap();
    assert_eq!(fs::read_dir(file.0.path()).unwrap().count(), 1, "no other file stays");
    let good = fs::read(&path).unwrap();
    assert_eq!(StatCache::load(&path).len(), 4);
    for at in [0, 20, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert_eq!(StatCache::load(&path).len(), 0, "byte {at}");
    }
    for length in [0, 10, good.len() - 88] {
        fs::write(&path, &good[..length]).unwrap();
        assert_eq!(StatCache::load(&path).len(), 0, "{length} bytes");
    }
    assert_eq!(StatCache::load(&file.path("none")).len(), 0);
}

#[test]
fn unchanged_files_are_verified_with_what_was_saved() {
    // In memory where possible: making so many files on a disk takes longer than all other tests.
    let dir = tempfile::tempdir_in("/dev/shm").map_or_else(|_| Dir::new(), Dir);
    for n in 0..10_000 {
        if n % 100 == 0 {
            fs::create_dir(dir.path(&format!("d{}", n / 100))).unwrap();
        }
        fs::write(dir.path(&format!("d{}/f{n}", n / 100)), format!("{n}").repeat(100)).unwrap();
    }
    settle();
    let (none, root, file) = (Patterns::default(), dir.root(), Dir::new());
    let hash =
        |cache: &StatCache| hash_tree(Tree::context(root.as_fd(), &none), &Selection::all(), Some(cache)).unwrap();
    let cache = StatCache::new();
    let digest = hash(&cache);
    cache.save(&file.path("cache")).unwrap();
    let cache = StatCache::load(&file.path("cache"));
    assert!(cache.len() >= 10_000, "{}", cache.len());
    assert_eq!(hash(&cache), digest);
}
