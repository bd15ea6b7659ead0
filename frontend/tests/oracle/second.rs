//! Another parser, `dockerfile-parser`, on the files that it reads as Docker does.
//!
//! It knows no directives, no here-documents, no flags with quotes and few escapes, so only plain files are compared.

use dockerfile_parser::{Dockerfile, Instruction, ShellOrExecExpr};
use frontend::ast::{Command, Kind};
use frontend::{Ast, Source};

/// Panics where the two read something else.
pub fn agrees(source: &Source, ast: &Ast) {
    if !source.text().lines().all(is_plain) || source.text().len() > 4096 {
        return;
    }
    let Ok(other) = Dockerfile::parse(source.text()) else { return };
    assert_eq!(other.instructions.len(), ast.instructions.len(), "{:?}", source.text());
    for (theirs, ours) in other.instructions.iter().zip(&ast.instructions) {
        let text = &ours.statement.text;
        match (theirs, ours.kind.as_ref()) {
            (Instruction::From(theirs), Some(Kind::From(ours))) => {
                assert_eq!(theirs.image.content, ours.base.text, "{text}");
                let names = (
                    theirs.alias.as_ref().map(|name| name.content.clone()),
                    ours.name.as_ref().map(|name| name.text.to_string()),
                );
                assert_eq!(names.0, names.1, "{text}");
            }
            (Instruction::Run(theirs), Some(Kind::Run(ours))) => command(&theirs.expr, &ours.command, text),
            (Instruction::Cmd(theirs), Some(Kind::Cmd(ours))) => command(&theirs.expr, ours, text),
            (Instruction::Entrypoint(theirs), Some(Kind::Entrypoint(ours))) => command(&theirs.expr, ours, text),
            (Instruction::Copy(theirs), Some(Kind::Copy(ours))) => {
                let (sources, own): (Vec<&str>, Vec<&str>) = (
                    theirs.sources.iter().map(|source| source.content.as_str()).collect(),
                    ours.sources.iter().map(|source| source.text.as_str()).collect(),
                );
                assert_eq!((sources, theirs.destination.content.as_str()), (own, ours.dest.text.as_str()), "{text}");
            }
            (Instruction::Arg(theirs), Some(Kind::Arg(ours))) if ours.len() == 1 => {
                assert_eq!(theirs.name.content, ours[0].name.text, "{text}");
                let theirs = theirs.value.as_ref().map(|value| value.content.as_str());
                assert_eq!(theirs, ours[0].value.as_ref().map(|value| value.text.as_str()), "{text}");
            }
            (Instruction::Env(theirs), Some(Kind::Env(ours))) => {
                let names: Vec<&String> = theirs.vars.iter().map(|pair| &pair.key.content).collect();
                assert_eq!(names, ours.iter().map(|pair| &pair.name.text).collect::<Vec<_>>(), "{text}");
            }
            _ => {}
        }
    }
}

fn command(theirs: &ShellOrExecExpr, ours: &Command, text: &str) {
    match (theirs, ours) {
        (ShellOrExecExpr::Exec(theirs), Command::Exec(ours)) => {
            let ours: Vec<&str> = ours.iter().map(|word| word.text.as_str()).collect();
            assert_eq!(theirs.as_str_vec(), ours, "{text}");
        }
        (ShellOrExecExpr::Shell(theirs), Command::Shell(ours)) => {
            let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
            assert_eq!(words(&theirs.to_string()), words(&ours.text), "{text}");
        }
        _ => panic!("one of the two takes it for an array: {text}"),
    }
}

/// Whether a line is one that both are meant to read.
fn is_plain(line: &str) -> bool {
    let keywords = ["FROM ", "RUN ", "CMD ", "ENTRYPOINT ", "COPY ", "ARG ", "ENV "];
    let plain = |c: char| c.is_ascii_alphanumeric() || " ./:_-=$*@+".contains(c);
    let Some(keyword) = keywords.iter().find(|keyword| line.starts_with(**keyword)) else { return line.is_empty() };
    let rest = &line[keyword.len()..];
    if rest.starts_with(' ') || rest.ends_with(' ') || rest.contains("  ") || rest.contains("--") {
        return false;
    }
    match rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) if matches!(*keyword, "RUN " | "CMD " | "ENTRYPOINT ") => {
            let is_string = |item: &str| {
                let item = item.trim_matches(' ');
                item.len() > 2
                    && item.starts_with('"')
                    && item.ends_with('"')
                    && item[1..item.len() - 1].chars().all(plain)
            };
            inner.split(',').all(is_string)
        }
        _ => rest.chars().all(plain) && (*keyword != "ENV " || rest.split(' ').all(|pair| pair.contains('='))),
    }
}
