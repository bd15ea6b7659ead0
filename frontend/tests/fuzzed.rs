//! What the fuzzer found worth keeping, under the laws that it looks for breaches of; see `frontend/fuzz`.

mod oracle;

use std::fs;
use std::path::Path;

/// Runs an oracle on every file of its corpus, and on every file of the golden one.
fn replay(target: &str, least: usize, oracle: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/fuzz").join(target);
    let mut files: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= least, "the corpus of {target} is not here");
    for file in files {
        let text = fs::read(&file).unwrap();
        if std::panic::catch_unwind(|| oracle(&text)).is_err() {
            panic!("{target}: a law does not hold of {}", file.display());
        }
    }
}

#[test]
fn laws_hold_of_files() {
    replay("file", 100, oracle::file::holds);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfile");
    for case in fs::read_dir(golden).unwrap() {
        let file = case.unwrap().path().join("Dockerfile");
        if let Ok(text) = fs::read(file) {
            oracle::file::holds(&text);
        }
    }
}

#[test]
fn laws_hold_of_words() {
    replay("word", 50, oracle::word::holds);
}

#[test]
fn laws_hold_of_ignore_patterns() {
    replay("ignore", 50, oracle::ignore::holds);
}

#[test]
fn laws_hold_of_arrays() {
    replay("array", 50, oracle::array::holds);
}
