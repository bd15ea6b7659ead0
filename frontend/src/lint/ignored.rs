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
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    let ends = ends(&pattern, &path);
    // Past the end of the path is where it ends itself.
    ends.iter().enumerate().any(|(at, is_end)| *is_end && path.get(at).is_none_or(|c| *c == '/'))
}

/// At which places of a path a pattern can end: `*` and `?` within a name, `**` over names, `[…]`, and `\` as escape.
fn ends(mut pattern: &[char], path: &[char]) -> Vec<bool> {
    // Those of the pattern so far, so that no pattern takes longer than its length times the path's.
    let mut ends = vec![false; path.len() + 1];
    ends[0] = true;
    while !pattern.is_empty() {
        let one = |accept: &dyn Fn(char) -> bool, ends: &[bool]| {
            std::iter::once(false).chain((0..path.len()).map(|at| ends[at] && accept(path[at]))).collect::<Vec<bool>>()
        };
        (ends, pattern) = match pattern {
            ['*', '*', '/', rest @ ..] => {
                let first = ends.iter().position(|end| *end).unwrap_or(ends.len());
                let is_end = |at: usize| ends[at] || at > first && path[at - 1] == '/';
                ((0..ends.len()).map(is_end).collect(), rest)
            }
            ['*', '*', rest @ ..] => {
                let first = ends.iter().position(|end| *end).unwrap_or(ends.len());
                ((0..ends.len()).map(|at| at >= first).collect(), rest)
            }
            ['*', rest @ ..] => {
                for at in 1..ends.len() {
                    ends[at] |= ends[at - 1] && path[at - 1] != '/';
                }
                (ends, rest)
            }
            ['?', rest @ ..] => (one(&|c| c != '/', &ends), rest),
            ['[', rest @ ..] => {
                let Some(end) = rest.iter().skip(1).position(|c| *c == ']').map(|at| at + 1) else {
                    return vec![false; path.len() + 1];
                };
                (one(&|c| c != '/' && contains(&rest[..end], c), &ends), &rest[end + 1..])
            }
            ['\\', wanted, rest @ ..] | [wanted, rest @ ..] => (one(&|c| c == *wanted, &ends), rest),
            [] => return ends,
        };
    }
    ends
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
            ("**", "a/b", true),
            ("**x", "a/bx", true),
            ("a**", "a/b", true),
            (&"*a".repeat(200), &"a".repeat(199), false),
            (&"*/".repeat(1000), &"a/".repeat(2000), false),
        ] {
            assert_eq!(matches_path_or_parent(pattern, path), expected, "{pattern} {path}");
        }
    }
}
