//! Work grows with the length of a file, not with its square, whatever the file is full of.

use std::fs;

use frontend::{dockerignore, parse, ImageAnswer, Lowering, Options, Query, Source, Step};
use snapshotter::pattern::Patterns;

/// Nanoseconds that this thread has worked so far; time that others took does not count.
fn worked() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

fn lower(text: &str) {
    let source = Source::new("Dockerfile", text);
    let mut lowering = Lowering::new(&source, parse(&source).0, Options::default());
    loop {
        match lowering.step() {
            Ok(Step::Need(queries)) => {
                for query in queries {
                    let Query::Image(query) = query else { continue };
                    lowering.answer(&query, ImageAnswer { config: br#"{"config":{}}"#.to_vec(), digest: None });
                }
            }
            Ok(Step::Done(_)) | Err(_) => return,
        }
    }
}

/// The least work of three tries; the clock ticks a few milliseconds at a time.
fn least(work: impl Fn()) -> u64 {
    let once = || {
        let begin = worked();
        work();
        worked() - begin
    };
    (0..3).map(|_| once()).min().unwrap_or(0).max(5_000_000)
}

/// A line by its number.
type Line = fn(usize) -> String;

#[test]
fn four_times_the_file_is_about_four_times_the_work() {
    let kinds: [(&str, &str, Line); 15] = [
        ("RUN", "FROM a\n", |n| format!("RUN install package-{n} and more\n")),
        ("COPY", "FROM a\n", |n| format!("COPY --chown=1 file-{n} /some/directory/{n}/\n")),
        ("comments", "FROM a\n", |n| format!("# comment {n}\n")),
        ("continuation", "FROM a\nRUN true \\\n", |n| format!(" && echo {n} \\\n")),
        ("heredocs", "FROM a\n", |n| format!("COPY <<EOF /file\nline {n} $PATH\nEOF\n")),
        ("ENV", "FROM a\n", |n| format!("ENV NAME{n}=value\n")),
        ("ENV again", "FROM a\n", |n| format!("ENV NAME=value{n}\n")),
        ("ARG", "FROM a\n", |n| format!("ARG NAME{n}=value\n")),
        ("LABEL", "FROM a\n", |n| format!("LABEL name{n}=value\n")),
        ("stages", "", |n| format!("FROM scratch AS stage{n}\n")),
        ("chained stages", "FROM scratch AS s0\n", |n| format!("FROM s{n} AS s{}\nCOPY a /\n", n + 1)),
        ("findings", "FROM a\n", |n| format!("LABEL a=$UNDEFINED{n}\n")),
        ("errors", "FROM a\n", |n| format!("RUNN {n}\n")),
        ("wrong values", "FROM a\n", |n| format!("EXPOSE x{n}\n")),
        ("wrong stages", "", |n| format!("FROM s$\nCOPY --chmod=9{n} a /\n")),
    ];
    for (name, head, line) in kinds {
        let text = |lines: usize| head.to_string() + &(0..lines).map(line).collect::<String>();
        let (small, large) = (text(800), text(3200));
        let (small, large) = (least(|| lower(&small)), least(|| lower(&large)));
        assert!(large < 10 * small, "{name}: {small} ns for 800 lines, {large} ns for 3,200");
    }
}

#[test]
fn ten_thousand_patterns_are_read_and_matched() {
    let text: String = (0..10_000).map(|n| format!("dir{n}/**/*.o{n}\n")).collect();
    let patterns = |lines: usize| {
        let text = text.lines().take(lines).collect::<Vec<_>>().join("\n");
        Patterns::new(&dockerignore(text.as_bytes()).unwrap()).unwrap()
    };
    assert!(patterns(10_000).matches("dir9999/a/b/x.o9999") && !patterns(10_000).matches("dir9999/a/b/x.o1"));
    let (small, large) = (least(|| drop(patterns(2_500))), least(|| drop(patterns(10_000))));
    assert!(large < 10 * small, "{small} ns for 2,500 patterns, {large} ns for 10,000");
}

#[test]
fn a_short_file_cannot_ask_for_more_than_there_is() {
    let large: String = (0..20).map(|n| format!("ENV name{n}={}\n", "x".repeat(50_000))).collect();
    let many: String = (0..520).map(|n| format!("ENV name{n}=value\n")).collect();
    let undefined: String = (0..520).map(|n| format!("LABEL a=$name{n}x\n")).collect();
    for (text, refused) in [
        (format!("FROM a\n{large}{}", "RUN x\n".repeat(100)), true),
        (format!("FROM a\n{many}{}", "FROM stage-0\n".repeat(10)), false),
        (format!("FROM a\n{many}{undefined}"), false),
        (format!("FROM a\nEXPOSE {}\n", "1-65535 ".repeat(60)), true),
        (format!("FROM a\n{}", format!("WORKDIR {}\n", "d".repeat(1000)).repeat(300)), true),
        (format!("FROM a\nSHELL [\"{}\"]\n{}", "x".repeat(60_000), "RUN x\n".repeat(1000)), true),
        (format!("FROM a\nCOPY {} /{}/\n", "a ".repeat(10_000), "d".repeat(20_000)), true),
    ] {
        let source = Source::new("Dockerfile", text);
        let mut lowering = Lowering::new(&source, parse(&source).0, Options::default());
        let told = loop {
            match lowering.step() {
                Ok(Step::Need(queries)) => queries.iter().for_each(|query| {
                    let Query::Image(query) = query else { return };
                    lowering.answer(query, ImageAnswer { config: br#"{"config":{}}"#.to_vec(), digest: None });
                }),
                Ok(Step::Done(_)) => break None,
                Err(errors) => break Some(errors[0].code),
            }
        };
        assert_eq!(told, refused.then_some("too-large"), "{}", &source.text()[..100]);
    }
}
