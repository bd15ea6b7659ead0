//! Whole files: places lie inside, printing and reading again is the identity, another parser agrees, lowering ends.

use frontend::ast::{Directives, Kind, Statement};
use frontend::{dump, parse, Ast, Diagnostic, Lowering, Options, Request, Source, Span};

use super::{asked, lowered, print, second};

/// Everything that must hold of a file.
pub fn holds(bytes: &[u8]) {
    let source = Source::new("Dockerfile", bytes);
    let (ast, diagnostics) = parse(&source);
    stays_inside(&source, &ast, &diagnostics);
    if diagnostics.is_empty() {
        prints_itself(&source, &ast);
        second::agrees(&source, &ast);
    }
    let arguments = [("arg", "given"), ("HTTP_PROXY", "p")].map(|(name, value)| (name.to_string(), value.to_string()));
    let options = Options {
        build_args: arguments.into(),
        ignore_patterns: vec!["*.md".into()],
        labels: vec![("label".into(), "value".into())],
        ..Options::default()
    };
    let mut whole = Lowering::new(&source, ast.clone(), options.clone());
    let found = match lowered(&mut whole) {
        Ok(lowered) => {
            for vertex in lowered.graph.vertices() {
                for range in vertex.origin.iter().flat_map(|origin| &origin.locations).flat_map(|place| &place.ranges) {
                    assert!(range.start.line >= 1 && range.start.line <= range.end.line, "{range:?}");
                }
            }
            lowered.lints
        }
        Err(errors) => {
            assert!(errors.iter().any(Diagnostic::is_error), "refused without a reason: {errors:?}");
            assert!(errors.iter().all(|error| error.code != "internal"), "{errors:?}");
            errors
        }
    };
    points_inside(&source, &found);
    for request in [Request::Outline, Request::Targets, Request::Lint] {
        asked(request, &mut Lowering::new(&source, ast.clone(), options.clone()));
    }
}

fn points_inside(source: &Source, diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        for (span, _) in &diagnostic.labels {
            is_inside(source, *span, &diagnostic.message);
        }
        assert!(diagnostic.line(source) >= 1 && !diagnostic.text(source).is_empty());
        assert!(source.line(diagnostic.line(source)).is_some(), "{diagnostic:?}");
        source.column_of(diagnostic.span().start);
    }
}

fn is_inside(source: &Source, span: Span, what: &str) {
    assert!(span.start <= span.end && source.text().get(span.range()).is_some(), "{what}: {span:?}");
}

fn stays_inside(source: &Source, ast: &Ast, diagnostics: &[Diagnostic]) {
    points_inside(source, diagnostics);
    let mut last = 0;
    for statement in ast.instructions.iter().map(|instruction| &instruction.statement) {
        assert!(statement.span.start >= last, "instructions overlap: {statement:?}");
        last = statement.span.end;
        let words = statement.words.iter().chain(&statement.flags).chain([&statement.keyword, &statement.rest]);
        for word in words.chain(&statement.comments) {
            is_inside(source, word.span, &word.text);
        }
        for heredoc in &statement.heredocs {
            is_inside(source, heredoc.body, &heredoc.name);
            is_inside(source, heredoc.word, &heredoc.name);
            assert_eq!(&source.text()[heredoc.body.range()], heredoc.content);
        }
        assert!(
            source.text()[statement.span.range()].starts_with(statement.keyword.text.as_str())
                || statement.span.end > 0
        );
    }
}

/// A file printed and read again is the same file.
fn prints_itself(source: &Source, ast: &Ast) {
    let printed = print::print(ast);
    if printed.lines().any(|line| line.len() > 65_535) {
        return;
    }
    let again = Source::new("Dockerfile", printed.as_str());
    let (read, diagnostics) = parse(&again);
    assert_eq!(diagnostics, [], "{:?} was printed as {printed:?}", source.text());
    assert_eq!(shape(ast), shape(&read), "{:?} was printed as {printed:?}", source.text());
    assert_eq!(printed, print::print(&read), "printed once and twice");
    assert_eq!(dump(ast), dump(&read));
}

/// All that a file means, without places.
fn shape(ast: &Ast) -> String {
    let Directives { syntax, check, escape } = &ast.directives;
    let directives = [syntax, check].map(|directive| directive.as_ref().map(|directive| directive.text.as_str()));
    let mut text = format!("{directives:?} {escape:?}\n");
    for instruction in &ast.instructions {
        statement(&instruction.statement, &mut text);
        let kind: &Option<Kind> = &instruction.kind;
        text.push_str(&without_places(&format!("  {kind:?}\n")));
    }
    text
}

fn statement(it: &Statement, text: &mut String) {
    let Statement { keyword, flags, words, json, comments, heredocs, trigger, .. } = it;
    let rest = if *json { "" } else { it.rest.text.as_str() };
    // How words were parted is told by the words alone.
    let rest: Vec<&str> = rest.split_whitespace().collect();
    let texts = |words: &[frontend::Spanned]| words.iter().map(|word| word.text.to_string()).collect::<Vec<_>>();
    let (keyword, flags, words, comments) = (&keyword.text, texts(flags), texts(words), texts(comments));
    text.push_str(&format!("{keyword:?} {flags:?} {words:?} {json} {rest:?} {comments:?}\n"));
    for document in heredocs {
        let (name, expand, chomp, fd) = (&document.name, document.expand, document.chomp, document.descriptor);
        text.push_str(&format!("  {name:?} {expand} {chomp} {fd} {:?} {:?}\n", document.content, document.document()));
    }
    if let Some(trigger) = trigger {
        statement(trigger, text);
    }
}

/// Debug output without the numbers of spans.
fn without_places(debug: &str) -> String {
    const PLACE: &str = "Span { start: ";
    let mut parts = debug.split(PLACE);
    let mut text = parts.next().unwrap_or_default().to_string();
    for part in parts {
        text.push_str(part.split_once('}').map_or(part, |(_, behind)| behind));
    }
    text
}
