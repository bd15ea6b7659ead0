//! What a user sees at the end of a build: what failed, where, what helps, and the exit code.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use solver::event::Warning;

use super::excerpt::{printable, Excerpt, Span};

/// Who can do something about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Who wrote the Dockerfile or typed the command.
    User,
    /// Who runs the machine, the network or the registry.
    Environment,
    /// Who writes rbuild.
    Bug,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Well.
    Success,
    /// Badly.
    Failed(Failure),
    /// The command line made no sense.
    Misuse(Failure),
    /// The user interrupted it.
    Cancelled,
}

impl Ending {
    /// The process's exit code: 0, 1, 2, and 130 as shells have it for an interrupt.
    pub fn code(&self) -> u8 {
        match self {
            Ending::Success => 0,
            Ending::Failed(_) => 1,
            Ending::Misuse(_) => 2,
            Ending::Cancelled => 130,
        }
    }
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was being done, as in "failed to {}": `build`, `prune`.
    pub doing: String,
    /// What went wrong, the outermost error first and its causes after it.
    pub causes: Vec<String>,
    /// Who can do something about it.
    pub fault: Fault,
    /// Steps that failed, with the ends of their logs.
    pub steps: Vec<FailedStep>,
    /// Where in the sources.
    pub excerpts: Vec<Excerpt>,
    /// What may help, one line each.
    pub help: Vec<String>,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStep {
    /// Its name: `[2/3] RUN make`.
    pub name: String,
    /// The end of its log, one line each.
    pub log: Vec<String>,
}

impl Failure {
    /// A failure of which only a message is known.
    pub fn new(doing: impl Into<String>, message: impl Into<String>, fault: Fault) -> Failure {
        let causes = vec![message.into()];
        Failure { doing: doing.into(), causes, fault, steps: Vec::new(), excerpts: Vec::new(), help: Vec::new() }
    }

    /// The failure that `error` and its causes are.
    pub fn of(doing: impl Into<String>, error: &dyn std::error::Error, fault: Fault) -> Failure {
        let mut failure = Failure::new(doing, error.to_string(), fault);
        let mut next = error.source();
        while let Some(cause) = next {
            failure.causes.push(cause.to_string());
            next = cause.source();
        }
        failure
    }
}

impl fmt::Display for Ending {
    /// Writes what goes to standard error, whole lines; nothing after success.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Success => Ok(()),
            Ending::Failed(failure) => failure.fmt(f),
            Ending::Misuse(failure) => {
                writeln!(f, "ERROR: {}", message(&failure.causes))?;
                failure.write_help(f)
            }
            Ending::Cancelled => writeln!(f, "ERROR: canceled"),
        }
    }
}

impl fmt::Display for Failure {
    /// The log first, then the place in the source, then what helps; what failed is the last line, where people and
    /// log viewers look.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "------\n > {}:", printable(&step.name))?;
            for line in &step.log {
                writeln!(f, "{}", printable(line))?;
            }
            writeln!(f, "------")?;
        }
        for excerpt in &self.excerpts {
            excerpt.fmt(f)?;
        }
        self.write_help(f)?;
        writeln!(f, "ERROR: failed to {}: {}", self.doing, message(&self.causes))
    }
}

impl Failure {
    fn write_help(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.help {
            writeln!(f, "help: {}", printable(line))?;
        }
        if self.fault == Fault::Bug {
            writeln!(f, "note: this is a bug in rbuild; please report it with the lines above")?;
        }
        Ok(())
    }
}

/// The causes in one line; one that its predecessor spelled out already is left out.
fn message(causes: &[String]) -> String {
    let mut line = String::new();
    for cause in causes {
        // Several lines of one message stay: a program's own words may need them.
        let cause: String = cause.lines().map(printable).collect::<Vec<_>>().join("\n");
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            let _ = write!(line, ": {cause}");
        }
    }
    line
}

/// `help: did you mean …`, when one of the known words is close to what was written.
///
/// `known` holds each word with what is said behind it, such as `line 1`.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = (&'a str, String)>) -> Option<String> {
    let written = written.to_lowercase();
    let letters = written.chars().count();
    if letters > 64 {
        return None;
    }
    // A third of the letters may be wrong: more, and it is another word.
    let most = (letters / 3).max(1);
    let distance = |word: &str| distance(&written, &word.to_lowercase());
    let (_, word, place) = known
        .into_iter()
        .filter(|(word, _)| word.chars().count().abs_diff(letters) <= most)
        .map(|(word, place)| (distance(word), word, place))
        .filter(|(distance, ..)| *distance <= most)
        .min_by_key(|(distance, ..)| *distance)?;
    let place = if place.is_empty() { String::new() } else { format!(" ({place})") };
    Some(format!("did you mean `{word}`{place}?"))
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Lists the warnings of a build at its end; writes nothing where there are none.
///
/// # Errors
/// When writing fails.
pub fn warnings(all: &[Warning], out: &mut dyn Write) -> io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let many = if all.len() == 1 { "" } else { "s" };
    writeln!(out, "\n {} warning{many} found:", all.len())?;
    for warning in all {
        writeln!(out, " - {}", printable(&warning.short))?;
    }
    Ok(())
}

/// One warning with its explanation, link and place in the source, whose text is `source`.
///
/// # Errors
/// When writing fails.
pub fn explained(warning: &Warning, source: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let url = if warning.url.is_empty() { String::new() } else { format!(" - {}", warning.url) };
    writeln!(out, "\nWARNING: {}{}", printable(&warning.short), printable(&url))?;
    for line in &warning.detail {
        writeln!(out, "{}", printable(line))?;
    }
    if let (Some(text), Some(file), Some(range)) = (source, &warning.file, &warning.range) {
        let line = |line: i32| usize::try_from(line).unwrap_or(0);
        let first = line(range.start.line);
        let spans = vec![Span::lines(first..=line(range.end.line).max(first))];
        write!(out, "{}", Excerpt { file: file.clone(), text: text.to_owned(), spans })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use solver::graph::{Position, Range};

    use super::*;

    #[test]
    fn a_failed_step_is_told_from_log_to_cause() {
        let text = "FROM alpine\nRUN mkae\n";
        let failure = Failure {
            steps: vec![FailedStep { name: "[2/2] RUN mkae".into(), log: vec!["0.101 sh: mkae: not found".into()] }],
            excerpts: vec![Excerpt { file: "Dockerfile".into(), text: text.into(), spans: vec![Span::lines(2..=2)] }],
            help: vec!["the image has no such program".into()],
            ..Failure::new(
                "build",
                "process \"/bin/sh -c mkae\" did not complete successfully: exit code: 127",
                Fault::User,
            )
        };
        let want = "\
------
 > [2/2] RUN mkae:
0.101 sh: mkae: not found
------
Dockerfile:2
--------------------
   1 |     FROM alpine
   2 | >>> RUN mkae
   3 |     \n\
--------------------
help: the image has no such program
ERROR: failed to build: process \"/bin/sh -c mkae\" did not complete successfully: exit code: 127
";
        let ending = Ending::Failed(failure);
        assert_eq!((ending.to_string().as_str(), ending.code()), (want, 1));
    }

    #[test]
    fn each_ending_has_its_code_and_words() {
        let odd =
            Failure { help: vec!["see rbuild --help".into()], ..Failure::new("build", "no context", Fault::User) };
        for (ending, code, text) in [
            (Ending::Success, 0, ""),
            (Ending::Misuse(odd), 2, "ERROR: no context\nhelp: see rbuild --help\n"),
            (Ending::Cancelled, 130, "ERROR: canceled\n"),
            (
                Ending::Failed(Failure::new("build", "index out of range", Fault::Bug)),
                1,
                "note: this is a bug in rbuild; please report it with the lines above\n\
                 ERROR: failed to build: index out of range\n",
            ),
        ] {
            assert_eq!((ending.code(), ending.to_string().as_str()), (code, text));
        }
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("write out.tar")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk full"));
        let failure = Failure::of("export", &error, Fault::Environment);
        assert_eq!(failure.to_string(), "ERROR: failed to export: write out.tar: disk full\n");
        let twice = Failure { causes: vec!["a: b".into(), "b".into(), "c\x1b[31m".into()], ..failure };
        assert_eq!(twice.to_string(), "ERROR: failed to export: a: b: c\u{fffd}[31m\n");
    }

    #[test]
    fn only_close_words_are_meant() {
        let known = || [("build", "line 1".to_owned()), ("test", String::new()), ("base", "line 3".into())];
        for (written, want) in [
            ("buidl", Some("did you mean `build` (line 1)?")),
            ("Bulid", Some("did you mean `build` (line 1)?")),
            ("tset", Some("did you mean `test`?")),
            ("bas", Some("did you mean `base` (line 3)?")),
            ("deploy", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(written, known()).as_deref(), want, "{written}");
        }
    }

    #[test]
    fn warnings_are_listed_or_explained() {
        let at = |line| Position { line, character: 0 };
        let stage = Warning {
            vertex: None,
            short: "StageNameCasing: Stage name 'Base' should be lowercase (line 1)".into(),
            detail: vec!["Stage names should be lowercase".into()],
            url: "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/".into(),
            file: Some("Dockerfile".into()),
            range: Some(Range { start: at(1), end: at(1) }),
        };
        let network = Warning { short: "no network\x1b[2J".into(), url: String::new(), ..stage.clone() };
        let list = |all: &[Warning]| {
            let mut out = Vec::new();
            warnings(all, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(list(&[]), "");
        assert!(list(std::slice::from_ref(&network)).starts_with("\n 1 warning found:\n - no network"));
        assert_eq!(
            list(&[stage.clone(), network]),
            "\n 2 warnings found:\n \
             - StageNameCasing: Stage name 'Base' should be lowercase (line 1)\n - no network\u{fffd}[2J\n"
        );
        let full = |source: Option<&str>| {
            let mut out = Vec::new();
            explained(&stage, source, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let head = "\nWARNING: StageNameCasing: Stage name 'Base' should be lowercase (line 1) - \
                    https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\nStage names should be lowercase\n";
        assert_eq!(full(None), head);
        assert!(full(Some("FROM alpine AS Base\n")).contains("\n   1 | >>> FROM alpine AS Base\n"));
    }
}
