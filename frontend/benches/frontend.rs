//! How long the frontend takes: an ordinary file, files of 5 MB of every kind, lowered and only checked, and an ignore file
//! of 10,000 patterns.
//!
//! `cargo bench -p frontend [-- NAME]`; prints the median of several runs in milliseconds of work (time that others took
//! does not count), with what reading takes of it, and dropping after it. Figures: benches/FIGURES.md.

use std::fs;

use frontend::{
    dockerignore, parse, subrequest, ImageAnswer, Lowering, Options, Query, Request, Source, Step, SubStep,
};
use snapshotter::pattern::{Matched, Patterns};

/// Bytes of a file that is larger than any that people write.
const LARGE: usize = 5 << 20;

fn main() {
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|only| name.contains(only));
    let time = |name: &str, runs: usize, work: &dyn Fn() -> [Worked; 3]| {
        if is_wanted(name) {
            time(name, runs, work);
        }
    };
    time("300 lines", 51, &|| lower(&ordinary(300)));
    for (name, text) in large(LARGE) {
        time(&format!("5 MB of {name}"), 3, &|| lower(&text));
        time(&format!("5 MB of {name}, checked"), 3, &|| check(&text));
    }
    let wrong = format!("FROM a\n{}", "EXPOSE x\n".repeat(LARGE / 9));
    time("5 MB of wrong ports, checked", 3, &|| check(&wrong));
    let anchored: String = (0..10_000).map(|n| format!("dir{n}/**/*.o{n}\n!dir{n}/keep\n")).take(10_000).collect();
    let floating: String = (0..10_000).map(|n| format!("**/*.o{n}\n")).collect();
    let middle: String = (0..10_000).map(|n| format!("*/x{n}*/**/y\n")).collect();
    for (name, file) in [("anchored", anchored), ("by ending", floating), ("of all places", middle)] {
        time(&format!("10,000 patterns {name}, 10,000 files"), 3, &|| ignore(&file));
    }
}

/// How long this thread has worked, in nanoseconds.
#[derive(Clone, Copy)]
struct Worked(u64);

impl Worked {
    fn now() -> Worked {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        Worked(text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0))
    }

    fn since(self, begin: Worked) -> u64 {
        self.0 - begin.0
    }
}

/// Prints the median of several runs, from begin to end, and of their two parts.
fn time(name: &str, runs: usize, work: &dyn Fn() -> [Worked; 3]) {
    let mut times: Vec<[f64; 3]> = (0..runs)
        .map(|_| {
            let begin = Worked::now();
            let [read, done, dropped] = work();
            [done.since(begin), read.since(begin), dropped.since(done)].map(|nanoseconds| nanoseconds as f64 / 1e6)
        })
        .collect();
    times.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let [all, read, dropped] = times[runs / 2];
    println!("{name:46} {all:10.2} ms (reading {read:.2}; then dropping {dropped:.2})");
}

/// Reads an ignore file and walks 100 directories of 100 files.
fn ignore(file: &str) -> [Worked; 3] {
    let patterns = Patterns::new(&dockerignore(file.as_bytes()).unwrap()).unwrap();
    let read = Worked::now();
    for dir in 0..100 {
        let at = patterns.step(&Matched::default(), format!("dir{dir}").as_bytes());
        for file in 0..100 {
            patterns.step(&at, format!("dir{dir}/some-file{file}.o{dir}").as_bytes());
        }
    }
    let done = Worked::now();
    drop(patterns);
    [read, done, Worked::now()]
}

/// Parses, lints and lowers.
fn lower(text: &str) -> [Worked; 3] {
    let source = Source::new("Dockerfile", text);
    let (ast, _) = parse(&source);
    let read = Worked::now();
    let mut lowering = Lowering::new(&source, ast, Options::default());
    let lowered = loop {
        match lowering.step() {
            Ok(Step::Need(queries)) => answer(&mut lowering, queries),
            Ok(Step::Done(lowered)) => break lowered,
            Err(errors) => panic!("{:?}", errors[0]),
        }
    };
    let done = Worked::now();
    drop((lowering, lowered));
    [read, done, Worked::now()]
}

/// Tells what is doubtful and what is wrong, as `--check` does.
fn check(text: &str) -> [Worked; 3] {
    let source = Source::new("Dockerfile", text);
    let (ast, _) = parse(&source);
    let read = Worked::now();
    let mut lowering = Lowering::new(&source, ast, Options::default());
    let found = loop {
        match subrequest(Request::Lint, &mut lowering) {
            Ok(SubStep::Need(queries)) => answer(&mut lowering, queries),
            Ok(SubStep::Done(found)) => break found.text(),
            Err(errors) => panic!("{:?}", errors[0]),
        }
    };
    let done = Worked::now();
    drop((lowering, found));
    [read, done, Worked::now()]
}

fn answer(lowering: &mut Lowering, queries: Vec<Query>) {
    for query in queries {
        let Query::Image(query) = query else { continue };
        let config = br#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]}}"#.to_vec();
        lowering.answer(&query, ImageAnswer { config, digest: None });
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
