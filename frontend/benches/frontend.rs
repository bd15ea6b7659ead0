//! How long the frontend takes: an ordinary file, files of 5 MB of every kind, and an ignore file of 10,000 patterns.
//!
//! `cargo bench -p frontend`; prints the median of several runs in milliseconds. Figures: benches/FIGURES.md.

use std::time::Instant;

use frontend::{dockerignore, parse, ImageAnswer, Lowering, Options, Query, Source, Step};
use snapshotter::pattern::Patterns;

/// Bytes of a file that is larger than any that people write.
const LARGE: usize = 5 << 20;

fn main() {
    time("300 lines: parse, lint, lower", 50, || lower(&ordinary(300)));
    for (name, text) in large(LARGE) {
        time(&format!("5 MB of {name}"), 3, || lower(&text));
    }
    let patterns: String = (0..10_000).map(|n| format!("dir{n}/**/*.o{n}\n!dir{n}/keep\n")).take(10_000).collect();
    time("10,000 lines of an ignore file", 5, || {
        let patterns = Patterns::new(&dockerignore(patterns.as_bytes()).unwrap()).unwrap();
        let hits = (0..1000).filter(|n| patterns.matches(format!("dir{n}/a/b/x.o{n}"))).count();
        assert_eq!(hits, 1000);
    });
}

fn time(name: &str, runs: usize, mut work: impl FnMut()) {
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:40} {:10.2} ms", times[runs / 2]);
}

fn lower(text: &str) {
    let source = Source::new("Dockerfile", text);
    let mut lowering = Lowering::new(&source, parse(&source).0, Options::default());
    loop {
        match lowering.step() {
            Ok(Step::Need(queries)) => {
                for query in queries {
                    let Query::Image(query) = query else { continue };
                    let config = br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]}}"#.to_vec();
                    lowering.answer(&query, ImageAnswer { config, digest: None });
                }
            }
            Ok(Step::Done(lowered)) => return drop(lowered),
            Err(errors) => panic!("{:?}", errors[0]),
        }
    }
}

/// A file with a bit of everything.
fn ordinary(lines: usize) -> String {
    let mut text = String::from("# syntax=docker/dockerfile:1\nARG VERSION=1\nFROM debian:${VERSION} AS s0\n");
    for n in 0..lines / 10 {
        if n % 4 == 3 {
            text.push_str(&format!("FROM s{} AS s{}\n", n / 4, n / 4 + 1));
        }
        text.push_str(&format!(
            "ARG A{n}=x\nENV E{n}=\"$A{n} ${{E0:-none}}\" F=g\nWORKDIR /w/{n}\nCOPY --chown=1:2 a{n} b* ./d/\n\
             RUN --mount=type=cache,target=/c apt-get update && \\\n    # why\n    apt-get install -y p{n} && \\\n    \
             rm -rf /x\nLABEL l{n}=$VERSION\nEXPOSE {}\n",
            n + 1
        ));
    }
    text
}

/// Files of `size` bytes, each of one kind of lines.
fn large(size: usize) -> Vec<(&'static str, String)> {
    let of = |head: &str, line: &dyn Fn(usize) -> String| {
        let mut text = head.to_string();
        let mut n = 0;
        while text.len() < size {
            text.push_str(&line(n));
            n += 1;
        }
        text
    };
    vec![
        ("RUN", of("FROM a\n", &|n| format!("RUN apt-get install -y package-{n} and some more words to read\n"))),
        ("COPY", of("FROM a\n", &|n| format!("COPY --chown=1 file-{n} other-{n} /some/directory/{n}/\n"))),
        ("comments", of("FROM a\n", &|n| format!("# comment number {n} which says nothing\n"))),
        ("one continued line", of("FROM a\nRUN true \\\n", &|n| format!("  && echo {n} and more \\\n"))),
        ("here-documents", of("FROM a\n", &|n| format!("COPY <<EOF /file\nline {n} $PATH\nmore\nEOF\n"))),
        ("ENV of one name", of("FROM a\n", &|n| format!("ENV NAME=value-{n}\n"))),
        ("ENV of many names", of("FROM a\n", &|n| format!("ENV NAME{n}=value\n"))),
        ("LABEL", of("FROM a\n", &|n| format!("LABEL name{n}=value-{n} other{n}=x\n"))),
        ("undefined variables", of("FROM a\n", &|n| format!("LABEL a=$UNDEFINED{n}\n"))),
        ("stages", of("", &|n| format!("FROM scratch AS stage{n}\n"))),
        ("chained stages", of("FROM scratch AS s0\n", &|n| format!("FROM s{n} AS s{}\nCOPY a /\n", n + 1))),
    ]
}
