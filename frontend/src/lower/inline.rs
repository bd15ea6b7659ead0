//! Files that are written in the Dockerfile itself.

use solver::graph::op::{ActionInput, FileAction, FileActionKind, FileOp, Op};
use solver::graph::{OutputIndex, OutputRef};

use super::build::{About, Build};
use super::workdir::joined;
use crate::ast::{quote, Heredoc};
use crate::diagnostic::Diagnostic;

/// No file system has longer names.
const LONGEST_NAME: usize = 255;

/// Where the file of a here-document is in a tree of its own.
///
/// # Errors
/// There is no directory in that tree but its root, so not every path can be the file's.
pub(super) fn path(document: &Heredoc) -> Result<String, Diagnostic> {
    let path = joined("/", &document.name);
    let name = path.trim_start_matches('/');
    let why = if name.is_empty() {
        "that is a directory"
    } else if name.contains('/') {
        "there are no directories where it is written"
    } else if name.len() > LONGEST_NAME {
        "that is longer than 255 bytes"
    } else if name.contains('\0') {
        "there is a NUL in it"
    } else {
        return Ok(path);
    };
    let message = format!("invalid name of a here-document's file: {}: {why}", quote(&document.name));
    let error = Diagnostic::error("invalid-document-name", document.word, message);
    Err(error.with_help("take a plain name, such as EOF"))
}

/// A tree with one file.
pub(super) fn tree(build: &mut Build, path: String, mode: i32, data: Vec<u8>) -> OutputRef {
    let kind = FileActionKind::MkFile { path, mode, data, owner: None, timestamp: None };
    let (input, secondary) = (ActionInput::Scratch, ActionInput::Scratch);
    let action = FileAction { input, secondary, output: Some(OutputIndex(0)), kind };
    let op = Op::File(FileOp { actions: vec![action] });
    build.add(op, Vec::new(), None, About::internal("preparing inline document"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_document_lies_in_the_root_of_its_tree() {
        let path = |name: &str| path(&Heredoc { name: name.into(), ..Heredoc::default() });
        for (name, expected) in [
            ("EOF", "/EOF"),
            ("/EOF", "/EOF"),
            ("./a", "/a"),
            ("a/", "/a"),
            ("../x", "/x"),
            ("a/../b", "/b"),
            ("E*", "/E*"),
            (&"x".repeat(255), &format!("/{}", "x".repeat(255))),
        ] {
            assert_eq!(path(name).unwrap(), expected, "{name}");
        }
        for (name, why) in [
            ("a/b", "there are no directories where it is written"),
            ("/a//b", "there are no directories where it is written"),
            (".", "that is a directory"),
            ("..", "that is a directory"),
            ("/", "that is a directory"),
            ("a/..", "that is a directory"),
            (&"x".repeat(256), "that is longer than 255 bytes"),
            ("a\0b", "there is a NUL in it"),
        ] {
            let message = path(name).unwrap_err().message;
            assert!(message.ends_with(why), "{name}: {message}");
        }
    }
}
