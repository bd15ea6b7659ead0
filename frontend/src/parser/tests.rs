use super::*;
use crate::ast::{dump, Command};

fn errors(text: &str) -> Vec<(String, usize, String)> {
    let source = Source::new("Dockerfile", text);
    let (_, diagnostics) = parse(&source);
    let errors = diagnostics.iter().filter(|d| d.is_error());
    errors.map(|d| (d.message.clone(), d.line(&source), source.text()[d.span().range()].to_string())).collect()
}

#[test]
fn wrong_instructions_are_refused_where_they_stand() {
    for (text, message, line, place) in [
        ("FROM a\nFNTRYPOINT x", "unknown instruction: FNTRYPOINT (did you mean ENTRYPOINT?)", 2, "FNTRYPOINT"),
        ("FROM a\nfoobar baz", "unknown instruction: foobar", 2, "foobar"),
        ("FROM a\nRUN --mont=x y", "unknown flag: --mont (did you mean mount?)", 2, "--mont=x"),
        ("FROM a\nCOPY --from=a --from=b x /", "duplicate flag specified: --from", 2, "--from=b"),
        ("FROM a\nCOPY --from x /", "missing a value on flag: --from", 2, "--from"),
        ("FROM a\nCOPY --link=x a /", "expecting boolean value for flag --link, not: x", 2, "--link=x"),
        ("FROM a\nCOPY --from=$x a /", "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround", 2, "$x"),
        ("FROM a b", "FROM requires either one or three arguments", 1, "FROM a b"),
        ("FROM a of b", "FROM requires either one or three arguments", 1, "FROM a of b"),
        ("FROM", "FROM requires either one or three arguments", 1, "FROM"),
        ("FROM a AS 1x", "invalid name for build stage: \"1x\", name can't start with a number or contain symbols", 1, "1x"),
        ("FROM a\nWORKDIR", "WORKDIR requires exactly one argument", 2, "WORKDIR"),
        ("FROM a\nCOPY x", "COPY requires at least two arguments, but only one was provided. Destination could not be determined", 2, "COPY x"),
        ("FROM a\nCOPY x <<E\nE", "COPY cannot accept a heredoc as a destination", 2, "<<E"),
        ("FROM a\nSHELL sh -c", "SHELL requires the arguments to be in JSON form", 2, "sh -c"),
        ("FROM a\nVOLUME [\"\"]", "VOLUME specified can not be an empty string", 2, "\"\""),
        ("FROM a\nENV x", "ENV must have two arguments", 2, "x"),
        ("FROM a\nENV =x", "ENV names can not be blank", 2, "=x"),
        ("FROM a\nARG =x", "ARG names can not be blank", 2, "=x"),
        ("FROM a\nCMD [\"x\", 1]", "when using JSON array syntax, arrays must be comprised of strings only", 2, "[\"x\", 1]"),
        ("FROM a\nRUN []", "arguments are required", 2, "RUN []"),
        ("FROM a\nRUN --network=hosd x", "invalid network mode \"hosd\" (did you mean host?)", 2, "hosd"),
        ("FROM a\nRUN --security=x y", "security \"x\" is not valid", 2, "x"),
        ("FROM a\nRUN --mount=type=bind,tagret=/x y", "unexpected key 'tagret' in 'tagret=/x' (did you mean target?)", 2, "type=bind,tagret=/x"),
        ("FROM a\nRUN --mount=type y", "invalid field 'type' must be a key=value pair", 2, "type"),
        ("FROM a\nRUN --mount=type=bind,from=$x,target=/x y", "'from' doesn't support variable expansion, define alias stage instead", 2, "type=bind,from=$x,target=/x"),
        ("FROM a\nRUN --device=v/c=x,requird=1 y", "unexpected key 'requird' in 'requird=1' (did you mean required?)", 2, "v/c=x,requird=1"),
        ("FROM a\nHEALTHCHECK", "HEALTHCHECK requires at least one argument", 2, "HEALTHCHECK"),
        ("FROM a\nHEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments", 2, "HEALTHCHECK NONE x"),
        ("FROM a\nHEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD", 2, "HEALTHCHECK CMD"),
        ("FROM a\nHEALTHCHECK TCP x", "Unknown type \"TCP\" in HEALTHCHECK (try CMD)", 2, "TCP"),
        ("FROM a\nHEALTHCHECK --interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms", 2, "1us"),
        ("FROM a\nHEALTHCHECK --timeout=5 CMD x", "time: missing unit in duration \"5\"", 2, "5"),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)", 2, "-1"),
        ("FROM a\nONBUILD", "ONBUILD requires at least one argument", 2, "ONBUILD"),
        ("FROM a\nONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", 2, "ONBUILD"),
        ("FROM a\nONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger", 2, "FROM"),
        ("", "the Dockerfile cannot be empty", 1, ""),
        ("# x\n", "file with no instructions", 1, "# x\n"),
        ("ARG x\n", "dockerfile contains no stages to build", 1, "ARG x\n"),
        ("ARG x\nRUN y\nFROM z", "no build stage in current context", 2, "RUN y"),
        ("FROM a\nMAINTAINER --boo x", "unknown flag: --boo", 2, "--boo"),
        ("FROM a\nRUN x \\\n  <<E", "unterminated heredoc", 2, "<<E"),
    ] {
        assert_eq!(errors(text), [(message.to_string(), line, place.to_string())], "{text}");
    }
}

#[test]
fn texts_say_the_line_where_the_instruction_begins() {
    for (text, expected) in [
        ("FROM a\nRUN x \\\n  <<E", "unterminated heredoc"),
        ("RUN x\nFROM a", "no build stage in current context"),
        ("FROM a\n\nCOPY x", "dockerfile parse error on line 3: COPY requires at least two arguments, but only one was provided. Destination could not be determined"),
        ("", "the Dockerfile cannot be empty"),
        ("ARG x", "dockerfile contains no stages to build"),
        ("# escape=x\nFROM a", "invalid escape token 'x' does not match ` or \\"),
    ] {
        let source = Source::new("Dockerfile", text);
        let (_, diagnostics) = parse(&source);
        assert_eq!(diagnostics[0].text(&source), expected);
    }
}

#[test]
fn a_deep_pile_of_triggers_is_refused() {
    let text = format!("FROM a\n{}x", "ONBUILD \\\n".repeat(100_000));
    assert_eq!(errors(&text).len(), 1);
}

#[test]
fn several_errors_are_told_at_once() {
    let found = errors("FROM a b\nRNU x\nCOPY --frm=x a /\nEXPOSE\n");
    let lines: Vec<usize> = found.iter().map(|(_, line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 3, 4]);
}

#[test]
fn bytes_that_are_not_utf8_are_refused_in_instructions_only() {
    let source = Source::new("Dockerfile", b"# \xe9\nFROM a\nLABEL x=\xff\n".to_vec());
    let (_, diagnostics) = parse(&source);
    let [found] = &diagnostics[..] else { panic!("{diagnostics:?}") };
    assert_eq!((found.code, found.line(&source)), ("invalid-utf8", 3));
}

#[test]
fn spans_of_words_lead_to_the_words() {
    let text =
        "FROM --platform=linux/amd64 base AS x\nRUN --network=none a \\\n  # c\n  b\nCOPY --chown=1:2 s1 \\\n s2 /d\n";
    let source = Source::new("Dockerfile", text);
    let (ast, diagnostics) = parse(&source);
    assert_eq!(diagnostics, []);
    let at = |span: Span| &text[span.range()];
    let Some(Kind::From(from)) = &ast.instructions[0].kind else { panic!() };
    assert_eq!((at(from.base.span), at(from.platform.as_ref().unwrap().span)), ("base", "linux/amd64"));
    let Some(Kind::Run(run)) = &ast.instructions[1].kind else { panic!() };
    let Command::Shell(line) = &run.command else { panic!() };
    assert_eq!((line.text.as_str(), at(line.span)), ("a   b", "a \\\n  # c\n  b"));
    let Some(Kind::Copy(copy)) = &ast.instructions[2].kind else { panic!() };
    assert_eq!(at(copy.sources[1].span), "s2");
    assert_eq!(at(copy.chown.as_ref().unwrap().span), "1:2");
}

#[test]
fn triggers_keep_their_documents() {
    let source = Source::new("Dockerfile", "FROM a\nonbuild  run cat <<E\nx $y\nE\n");
    let (ast, diagnostics) = parse(&source);
    assert_eq!(diagnostics.iter().filter(|d| d.is_error()).count(), 0, "{diagnostics:?}");
    let Some(Kind::Onbuild(text)) = &ast.instructions[1].kind else { panic!() };
    assert_eq!(text, "run cat <<E\nx $y\nE");
    let again = parse_trigger(text, '\\').unwrap();
    assert_eq!(again.statement.heredocs[0].content, "x $y\n");
    for two in ["RUN a\nRUN b", ""] {
        assert_eq!(parse_trigger(two, '\\').unwrap_err()[0].message, "onbuild trigger should be a single expression");
    }
}

#[test]
fn dumps_show_shapes() {
    let source = Source::new(
        "Dockerfile",
        "FROM a AS b\nCOPY --chown=1 [\"x y\", \"/z\"]\nENV a b c\nONBUILD RUN [\"x\"]\nRUN <<'E'\nx\nE\n",
    );
    let (ast, _) = parse(&source);
    assert_eq!(
        dump(&ast),
        "(from \"a\" \"AS\" \"b\")\n(copy [\"--chown=1\"] \"x y\" \"/z\")\n(env \"a\" \"b c\" \"\")\n\
         (onbuild (run \"x\"))\n(run \"<<'E'\" (<<'E \"x\\n\"))\n"
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_point_outside(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        stays_inside(bytes)?;
    }

    #[test]
    fn no_likely_text_makes_it_panic_or_point_outside(parts in proptest::collection::vec(
        proptest::sample::select(vec![
            "FROM ", "RUN ", "COPY ", "ENV ", "ARG ", "LABEL ", "HEALTHCHECK ", "ONBUILD ", "CMD ", "SHELL ", "VOLUME ",
            "# escape=`\n", "# syntax=x\n", "#", "\n", "\r\n", "\\\n", "`\n", "\\", "'", "\"", "<<E", "<<-'E F'", "\nE\n",
            "--mount=type=bind,", "--from=x", "--", "=", " ", "\t", "[\"a\", \"b\"]", "[1]", "é", "\u{2028}", "$x", "${x:-y}",
            "a", "AS", "x=y", "CMD", "NONE", "--interval=3s",
        ]), 0..30)) {
        stays_inside(parts.concat().into_bytes())?;
    }
}

fn stays_inside(bytes: Vec<u8>) -> Result<(), proptest::test_runner::TestCaseError> {
    let source = Source::new("Dockerfile", bytes);
    let (ast, diagnostics) = parse(&source);
    let length = source.text().len();
    for diagnostic in &diagnostics {
        for (span, _) in &diagnostic.labels {
            proptest::prop_assert!(span.start <= span.end && span.end <= length, "{diagnostic:?}");
            proptest::prop_assert!(source.text().get(span.range()).is_some(), "{diagnostic:?} splits a character");
        }
    }
    for instruction in &ast.instructions {
        let statement = &instruction.statement;
        let words = statement.words.iter().chain(&statement.flags).chain([&statement.keyword, &statement.rest]);
        for span in words.map(|word| word.span).chain([statement.span]).chain(statement.heredocs.iter().map(|h| h.body))
        {
            proptest::prop_assert!(span.start <= span.end && span.end <= length, "{statement:?}");
            proptest::prop_assert!(source.text().get(span.range()).is_some(), "{statement:?} splits a character");
        }
    }
    dump(&ast);
    Ok(())
}
