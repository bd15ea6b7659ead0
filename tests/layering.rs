//! The layering of ARCHITECTURE.md as a test: which room may name which, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room of `src/` with the rooms and crates it may name. A room missing here fails the test.
const MAY_USE: &[(&str, &[&str])] = &[
    // leaves: know nothing of builds, nor of each other but registry -> image
    ("image", &["solver", "snapshotter"]),
    ("registry", &["image", "snapshotter", "solver"]),
    ("sandbox", &[]),
    ("agent", &[]),
    ("cdi", &[]),
    ("wire", &["solver", "snapshotter"]),
    // each faces one outside thing
    ("source", &["image", "registry", "sandbox", "snapshotter", "solver"]),
    ("export", &["image", "snapshotter", "solver"]),
    ("progress", &["solver"]),
    ("cache", &["image", "snapshotter", "solver"]),
    ("history", &["snapshotter", "solver"]),
    // where the others meet
    (
        "engine",
        &[
            "registry",
            "source",
            "export",
            "progress",
            "history",
            "cache",
            "image",
            "cdi",
            "sandbox",
            "snapshotter",
            "solver",
            "frontend",
        ],
    ),
    // builds that somebody else does
    ("courier", &["wire", "agent", "engine", "history", "cache", "source", "export", "image", "registry", "solver"]),
    // the edges
    (
        "cli",
        &[
            "courier",
            "agent",
            "wire",
            "daemon",
            "gateway",
            "registry",
            "engine",
            "source",
            "export",
            "progress",
            "history",
            "cache",
            "image",
            "cdi",
            "sandbox",
            "snapshotter",
            "solver",
            "frontend",
        ],
    ),
    ("gateway", &["wire", "cache", "cdi", "engine", "snapshotter", "solver", "frontend"]),
    (
        "daemon",
        &[
            "gateway",
            "wire",
            "registry",
            "engine",
            "source",
            "export",
            "progress",
            "history",
            "cache",
            "image",
            "cdi",
            "sandbox",
            "snapshotter",
            "solver",
            "frontend",
        ],
    ),
];

/// Names that only some rooms may write.
const RESERVED: &[(&str, &[&str])] = &[
    ("solver::port", &["engine"]),
    ("solver::drive", &["engine"]),
    ("solver::Solver", &["engine"]),
    ("frontend::", &["engine", "gateway", "cli"]),
];

/// Where `unsafe` may stand; everywhere else it fails the test.
const UNSAFE_ROOMS: &[&str] = &["src/sandbox/", "snapshotter/src/overlay/"];

const CRATES: &[&str] = &["solver", "snapshotter", "frontend"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).unwrap_or_else(|e| panic!("{}: {e}", below.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file without its line comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The rooms and crates named in `code`: what follows `crate::`, `rbuild::`, or starts a path with a crate's name.
fn named(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split_once(';').map_or(group, |(g, _)| g);
                names.extend(group.split(',').map(first_word));
            }
            None => names.push(first_word(rest)),
        }
    }
    for name in CRATES {
        let mention = format!("{name}::");
        let starts = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        if code.match_indices(&mention).any(|(at, _)| starts(at)) {
            names.push(name.to_string());
        }
    }
    names
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn rooms_name_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let room = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("room src/{room} has no row in MAY_USE"));
            continue;
        };
        for file in sources(&path) {
            let code = code(&file);
            for name in named(&code) {
                let is_room = MAY_USE.iter().any(|(r, _)| *r == name) || CRATES.contains(&name.as_str());
                if is_room && name != room && !may.contains(&name.as_str()) {
                    wrong.push(format!("{}: {room} may not use {name}", file.display()));
                }
            }
            for (reserved, rooms) in RESERVED {
                if code.contains(reserved) && !rooms.contains(&room.as_str()) {
                    wrong.push(format!("{}: only {rooms:?} may name {reserved}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn crates_depend_only_downward() {
    for (name, may) in [("frontend", &["solver"][..]), ("solver", &[]), ("snapshotter", &[])] {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        // Tests and programs beside a crate may look at others.
        let manifest = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for other in CRATES.iter().filter(|other| **other != name) {
            let depends = manifest.lines().any(|line| line.starts_with(&format!("{other}.")));
            assert!(!depends || may.contains(other), "crate {name} may not depend on {other}");
        }
    }
}

#[test]
fn unsafe_stands_only_in_the_sandbox_and_the_overlay_code() {
    let mut wrong = Vec::new();
    for top in ["src", "frontend/src", "solver/src", "snapshotter/src"] {
        for file in sources(&root().join(top)) {
            let place = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            let allowed = UNSAFE_ROOMS.iter().any(|room| place.starts_with(room));
            let word = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            if !allowed && code(&file).lines().any(word) {
                wrong.push(place);
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe outside its rooms: {wrong:?}");
}

#[test]
fn every_file_says_its_one_idea_first() {
    let mut wrong = Vec::new();
    for top in ["src", "frontend/src", "solver/src", "snapshotter/src"] {
        for file in sources(&root().join(top)) {
            let text = fs::read_to_string(&file).unwrap();
            // Tests stand beside what they test, and say what it is.
            let is_test = file.iter().any(|part| part == "tests") || file.ends_with("tests.rs");
            if !is_test && !text.starts_with("//!") {
                wrong.push(file);
            }
        }
    }
    assert!(wrong.is_empty(), "files without a first line: {wrong:?}");
}

#[test]
fn the_test_itself_sees_a_forbidden_use() {
    assert_eq!(named("use crate::engine::Engine;"), ["engine"]);
    assert_eq!(named("use crate::{image, sandbox as s};"), ["image", "sandbox"]);
    assert_eq!(named("let x = solver::graph::Op::Merge;"), ["solver"]);
    assert!(named("use resolver::graph;").is_empty());
}
