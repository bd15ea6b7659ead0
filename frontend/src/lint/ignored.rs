//! CopyIgnoredFile: whether what is copied stays outside of the context.
//!
//! Only for this rule: who sends or reads the context has a complete matcher, and never asks here.

use crate::ast::quote;
use crate::diagnostic::Diagnostic;
use crate::ignore::clean;
use crate::source::Span;

/// Tells of a source that an ignore pattern leaves out. Where some patterns take files back in nothing is said, as that
/// cannot be known without the files.
pub(crate) fn ignored(span: Span, command: &str, source: &str, patterns: &[String], lints: &mut Vec<Diagnostic>) {
    let source = clean(source);
    let is_left_out = |pattern: &String| match source.as_str() {
        "." => matches!(pattern.as_str(), "*" | "**"),
        path => matches_path_or_parent(pattern, path.trim_start_matches('/')),
    };
    if !patterns.iter().any(|pattern| pattern.starts_with('!')) && patterns.iter().any(is_left_out) {
        let message = format!("Attempting to {command} file {} that is excluded by .dockerignore", quote(&source));
        lints.push(Diagnostic::warning("CopyIgnoredFile", span, message));
    }
}

/// Whether a pattern matches a path, or a directory above it.
fn matches_path_or_parent(pattern: &str, path: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.into_iter().any(|end| matches(&pattern, &path[..end].chars().collect::<Vec<char>>()))
}

/// Whether a pattern matches all of a path: `*` and `?` within a name, `**` over names, `[…]`, and `\` as escape.
fn matches(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*', rest @ ..] => {
            // Between slashes it also stands for no name at all.
            let without_slash = rest.strip_prefix(&['/']).unwrap_or(rest);
            matches(without_slash, path) || (0..=path.len()).any(|skipped| matches(rest, &path[skipped..]))
        }
        ['*', rest @ ..] => {
            let name = path.iter().position(|c| *c == '/').unwrap_or(path.len());
            (0..=name).any(|skipped| matches(rest, &path[skipped..]))
        }
        ['?', rest @ ..] => path.first().is_some_and(|c| *c != '/') && matches(rest, &path[1..]),
        ['[', rest @ ..] => {
            let Some(end) = rest.iter().skip(1).position(|c| *c == ']').map(|at| at + 1) else { return false };
            let (set, rest) = (&rest[..end], &rest[end + 1..]);
            path.first().is_some_and(|c| *c != '/' && contains(set, *c)) && matches(rest, &path[1..])
        }
        ['\\', c, rest @ ..] | [c, rest @ ..] => path.first() == Some(c) && matches(rest, &path[1..]),
    }
}

/// Whether a character is in a set such as `a-z_`, or `^0-9` for all others.
fn contains(set: &[char], c: char) -> bool {
    let (negated, mut set) = set.strip_prefix(&['^']).map_or((false, set), |set| (true, set));
    let mut found = false;
    while let [first, rest @ ..] = set {
        match rest {
            ['-', last, rest @ ..] => {
                found |= (*first..=*last).contains(&c);
                set = rest;
            }
            rest => {
                found |= *first == c;
                set = rest;
            }
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_paths_and_what_is_below() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "a/b/c", true),
            ("a", "b/a", false),
            ("*.md", "x.md", true),
            ("*.md", "d/x.md", false),
            ("**/*.md", "x.md", true),
            ("**/*.md", "d/e/x.md", true),
            ("a/**", "a/b", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a/**/c", "a/x/y/d", false),
            ("?[a-c]", "xb", true),
            ("?[^a-c]", "xb", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("[a", "a", false),
        ] {
            assert_eq!(matches_path_or_parent(pattern, path), expected, "{pattern} {path}");
        }
    }
}
