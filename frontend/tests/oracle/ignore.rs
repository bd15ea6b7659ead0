//! Ignore patterns: another matcher, walks, and the rule about copies of what is ignored all agree.

use frontend::{dockerignore, parse, Lowering, Options, Source};
use snapshotter::pattern::{Matched, Patterns};

use super::lowered;

/// Everything that must hold of an ignore file and a path. The first line is the path, the rest is the file.
pub fn holds(bytes: &[u8]) {
    let split = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (path, file) = (&bytes[..split], bytes.get(split + 1..).unwrap_or_default());
    let Ok(list) = dockerignore(file) else { return };
    // What is read is clean: reading it again changes nothing.
    let is_clear = |pattern: &&String| !pattern.starts_with(['#', '!']) && !pattern.contains(char::is_whitespace);
    let again: Vec<String> = list.iter().filter(is_clear).cloned().collect();
    assert_eq!(dockerignore(again.join("\n").as_bytes()).unwrap(), again);
    let Ok(patterns) = Patterns::new(&list) else { return };
    let matched = patterns.matches(path);
    walks(&patterns, path, matched);
    let Ok(path) = std::str::from_utf8(path) else { return };
    if path.len() <= 60 && list.iter().all(|pattern| is_plain(pattern)) && is_path(path) {
        assert_eq!(matched, slowly(&list, path), "{list:?} {path:?}");
        copies(&list, path, matched);
    }
}

/// A walk comes to the same answer, and leaves out no directory that it had to enter.
fn walks(patterns: &Patterns, path: &[u8], matched: bool) {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
    let mut at = Matched::default();
    let mut above: Option<Matched> = None;
    for end in ends {
        let (here, parent) = (&path[..end], above.take());
        let next = patterns.step(&at, here);
        if let Some(unentered) = parent {
            assert_eq!(next.is_match(), unentered.is_match(), "not entered above {here:?}");
            above = Some(unentered);
        } else if end > 0 && !patterns.may_differ_below(here, &next) {
            above = Some(next.clone());
        }
        at = next;
    }
    if !patterns.has_negations() {
        assert_eq!(at.is_match(), matched, "walked to {:?}", String::from_utf8_lossy(path));
    }
}

/// COPY of the path is told of as ignored if it is.
fn copies(list: &[String], path: &str, matched: bool) {
    if list.iter().any(|pattern| pattern.starts_with('!') || pattern.is_empty()) {
        return;
    }
    let source = Source::new("Dockerfile", format!("FROM a\nCOPY {path} /\n"));
    let options = Options { ignore_patterns: list.to_vec(), ..Options::default() };
    let lints = lowered(&mut Lowering::new(&source, parse(&source).0, options)).unwrap().lints;
    let told = lints.iter().any(|lint| lint.code == "CopyIgnoredFile");
    assert_eq!(told, matched, "{list:?} {path:?}");
}

fn is_path(path: &str) -> bool {
    let is_name = |name: &str| {
        !matches!(name, "" | "." | "..") && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    path.split('/').all(is_name) && !path.starts_with('-')
}

/// Whether a pattern means what everybody thinks it means.
fn is_plain(pattern: &str) -> bool {
    pattern.len() <= 40
        && pattern != "!"
        && !pattern.contains("***")
        // At the begin such a pattern names every end, elsewhere it does not.
        && pattern.match_indices("**").all(|(at, _)| matches!(pattern.as_bytes().get(at + 2), None | Some(b'/')))
        && pattern.chars().all(|c| c.is_ascii_alphanumeric() || "./_-*?!".contains(c))
        && !pattern.get(1..).unwrap_or_default().contains('!')
}

/// The last pattern that names the path or a directory above it counts.
fn slowly(list: &[String], path: &str) -> bool {
    let mut ignored = false;
    for pattern in list {
        let (takes_back, pattern) = pattern.strip_prefix('!').map_or((false, pattern.as_str()), |rest| (true, rest));
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        if !pattern.is_empty() && ends.into_iter().any(|end| names(pattern.as_bytes(), &path.as_bytes()[..end])) {
            ignored = !takes_back;
        }
    }
    ignored
}

/// Whether a pattern names exactly this path, by trying everything.
fn names(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        // At the end it is anything, elsewhere nothing or whole directories.
        [b'*', b'*', b'/'] | [b'*', b'*'] => true,
        [b'*', b'*', b'/', rest @ ..] | [b'*', b'*', rest @ ..] => {
            let below = (0..path.len()).filter(|at| path[*at] == b'/').map(|at| &path[at + 1..]);
            std::iter::once(path).chain(below).any(|path| names(rest, path))
        }
        [b'*', rest @ ..] => {
            let length = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
            (0..=length).any(|at| names(rest, &path[at..]))
        }
        [b'?', rest @ ..] => matches!(path, [first, path @ ..] if *first != b'/' && names(rest, path)),
        [own, rest @ ..] => matches!(path, [first, path @ ..] if first == own && names(rest, path)),
    }
}
