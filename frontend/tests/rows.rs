//! Every row of `testdata/rows.txt` is seen: by a case of the corpus with its number, or by a test that it names.

use std::fs;
use std::path::{Path, PathBuf};

const ROWS: usize = 123;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Whether a file has a test, or a behaviour case, of this name; without a name, tests at all.
fn has(reference: &str) -> bool {
    let (file, name) = reference.split_once(' ').unwrap_or((reference, ""));
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();
    match name {
        "" => text.contains("#[test]") || text.contains("mod tests;"),
        name if file.ends_with(".txt") => text.contains(&format!("\n== {name}\n")),
        name => text.contains(&format!("fn {name}(")),
    }
}

#[test]
fn every_row_has_a_case() {
    let entries = fs::read_dir(root().join("testdata/dockerfile")).unwrap();
    let cases: Vec<String> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    let text = fs::read_to_string(root().join("testdata/rows.txt")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut wrong = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let (number, about) = row.split_once(' ').unwrap();
        assert_eq!(number.parse(), Ok(at + 1), "rows are numbered");
        let (prefix, error) = (format!("row{number}-"), format!("error-row{number}-"));
        let is_seen = cases.iter().any(|case| case.starts_with(&prefix) || case.starts_with(&error));
        match about.split_once(": ") {
            Some((_, reference)) if !has(reference) => wrong.push(format!("row {number}: there is no {reference}")),
            None if !is_seen => wrong.push(format!("row {number} ({about}) has no case")),
            _ => {}
        }
    }
    assert_eq!((rows.len(), wrong), (ROWS, Vec::new()));
}
