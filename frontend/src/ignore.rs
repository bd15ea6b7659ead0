//! The text of a `.dockerignore` file as a list of patterns.

/// A line that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed parsing .dockerignore: line {line}: {reason}")]
pub struct IgnoreError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// Reads the patterns of an ignore file, in order; `!` in front takes what it matches back in.
///
/// Lines that begin with `#` and blank lines are left out; paths are cleaned and lose a leading slash. The patterns
/// themselves are not looked at: whoever matches them does.
///
/// # Errors
/// Text that is not UTF-8.
pub fn dockerignore(text: &[u8]) -> Result<Vec<String>, IgnoreError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut patterns = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let Ok(line) = std::str::from_utf8(line) else {
            return Err(IgnoreError { line: number + 1, reason: "not valid UTF-8".into() });
        };
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        let (negated, path) = match line.strip_prefix('!') {
            Some(path) => (true, path.trim()),
            None => (false, line),
        };
        if line.is_empty() {
            continue;
        }
        let mut pattern = if path.is_empty() { String::new() } else { clean(path) };
        if pattern.len() > 1 && pattern.starts_with('/') {
            pattern.remove(0);
        }
        patterns.push(if negated { format!("!{pattern}") } else { pattern });
    }
    Ok(patterns)
}

/// A slash-separated path without `.`, `..` and empty parts where these can be resolved.
pub(crate) fn clean(path: &str) -> String {
    if is_clean(path) {
        return path.to_string();
    }
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => _ = parts.pop(),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

/// Whether a path is as [`clean`] would leave it. Not of all that are: `/` and `.` need another look.
pub(crate) fn is_clean(path: &str) -> bool {
    let inner = path.strip_prefix('/').unwrap_or(path);
    !inner.is_empty() && inner.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_patterns() {
        let text = "\u{feff}a\n/b/\n./c/../d\n\n # not a comment\n#comment\n! /e\n!\n  **/*.o  \r\n/\n.\n../x\n";
        assert_eq!(
            dockerignore(text.as_bytes()).unwrap(),
            ["a", "b", "d", "# not a comment", "!e", "!", "**/*.o", "/", ".", "../x"]
        );
        assert_eq!(dockerignore(b"a\n\xff\n").unwrap_err().line, 2);
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("", "."),
            ("/", "/"),
            ("a//b/", "a/b"),
            ("/../a", "/a"),
            ("../../a", "../../a"),
            ("a/../..", ".."),
            ("/a/./b/..", "/a"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
