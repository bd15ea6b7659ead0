use std::fs;
use std::os::unix::fs::symlink;

use solver::graph::PathSelector;
use tempfile::TempDir;

use super::*;

fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
}

#[test]
fn a_context_that_cannot_be_opened_is_named() {
    let dir = dir(&[("file", "")]);
    let missing = dir.path().join("missing");
    assert_eq!(Context::open(&missing).unwrap_err().to_string(), format!("open build context {}", missing.display()));
    let file = dir.path().join("file");
    let error = Context::open(&file).unwrap_err();
    assert_eq!(error.to_string(), format!("build context {} is not a directory", file.display()));
}

#[test]
fn a_dockerfile_is_read_if_it_is_a_file() {
    let dir = dir(&[("Dockerfile", "FROM scratch\n"), ("sub/x", "")]);
    symlink("../Dockerfile", dir.path().join("sub/link")).unwrap();
    fifo(&dir.path().join("fifo"));
    let read = |name: &str| read_text(&dir.path().join(name)).map_err(|error| error.to_string());
    assert_eq!(read("Dockerfile").unwrap(), b"FROM scratch\n");
    assert_eq!(read("sub/link").unwrap(), b"FROM scratch\n");
    // A FIFO without writer would block an open; this would hang instead of failing.
    for name in ["fifo", "sub"] {
        assert_eq!(read(name).unwrap_err(), format!("{} is not a regular file", dir.path().join(name).display()));
    }
    assert!(matches!(read_text(Path::new("/dev/zero")), Err(Error::NotAFile { .. })));
    assert!(matches!(read_text(&dir.path().join("none")), Err(Error::Unreadable { .. })));
    fs::File::create(dir.path().join("huge")).unwrap().set_len(MAX_TEXT + 1).unwrap();
    assert!(matches!(read_text(&dir.path().join("huge")), Err(Error::TooLarge { .. })));
}

#[test]
fn the_dockerfiles_own_ignore_file_comes_first() {
    let dir = dir(&[(".dockerignore", "general"), ("a.dockerignore", "own"), ("b.dockerignore", "")]);
    let context = Context::open(dir.path()).unwrap();
    let text = |dockerfile: &str| {
        let found = context.read_ignore(Some(&dir.path().join(dockerfile))).unwrap();
        found.map(|found| String::from_utf8(found.text).unwrap())
    };
    assert_eq!(text("a").as_deref(), Some("own"));
    assert_eq!(text("b"), None, "an empty one ignores nothing");
    assert_eq!(text("c").as_deref(), Some("general"));
    assert_eq!(context.read_ignore(None).unwrap().unwrap().text, b"general");
    fs::remove_file(dir.path().join(".dockerignore")).unwrap();
    assert_eq!(context.read_ignore(None).unwrap(), None);
    fifo(&dir.path().join(".dockerignore"));
    assert!(matches!(context.read_ignore(None), Err(Error::NotAFile { .. })));
}

#[test]
fn ignore_files_are_read_line_by_line() {
    let text = "\u{feff}a\n/b\n c/d/ \r\n\n#comment\n #no comment\n! /e/../f\n!\n! \n./g//h\n/\nlast";
    let expected = ["a", "b", "c/d", "#no comment", "!f", "!", "!", "g/h", "/", "last"];
    assert_eq!(ignore_patterns(text.as_bytes()), expected);
}

#[test]
fn a_bad_pattern_names_the_ignore_file() {
    let dir = dir(&[(".dockerignore", "ok\n[\n")]);
    let error = Context::open_filtered(dir.path(), None).unwrap_err();
    assert!(error.to_string().starts_with("failed parsing "), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("syntax error in pattern"), "{cause}");
}

#[test]
fn ignored_files_do_not_count() {
    let dir = dir(&[("a", "1"), ("secret", "2"), (".dockerignore", "secret\n.dockerignore\n")]);
    let context = Context::open_filtered(dir.path(), None).unwrap();
    let digest = |path: &str| context.digest(&Selector::path(path), None);
    let before = digest("/").unwrap();
    fs::write(dir.path().join("secret"), "3").unwrap();
    assert_eq!(digest("/").unwrap(), before);
    assert_eq!(digest("secret").unwrap_err().to_string(), "\"/secret\": not found");
    fs::write(dir.path().join("a"), "3").unwrap();
    assert_ne!(digest("/").unwrap(), before);
}

#[test]
fn devices_are_refused_only_where_they_are_selected() {
    let dir = dir(&[("a/x", "1"), ("b/x", "2")]);
    fifo(&dir.path().join("a/pipe"));
    let device = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("b/null"), device, rustix::fs::Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("a/socket")).unwrap();
    let context = Context::open(dir.path()).unwrap();
    context.digest(&Selector::path("a"), None).unwrap();
    let error = context.digest(&Selector::path("/"), None).unwrap_err().to_string();
    assert!(error.starts_with("/b/null is a character device"), "{error}");
    let without = PathSelector { path: "/".into(), exclude: vec!["**/null".into()], ..PathSelector::default() };
    context.digest(&Selector(vec![without]), None).unwrap();
    context.without(Patterns::new(&["b/null"]).unwrap()).digest(&Selector::path("/"), None).unwrap();
}

#[test]
fn a_digest_does_not_depend_on_the_place() {
    let files = [("a/x", "1"), ("b", "2")];
    let digest = |dir: &TempDir| Context::open(dir.path()).unwrap().digest(&Selector::path("/"), None).unwrap();
    assert_eq!(digest(&dir(&files)), digest(&dir(&files)));
}
