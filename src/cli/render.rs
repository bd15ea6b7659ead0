//! What a user sees at the end of a build: what failed, where, and what helps.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use solver::event::Warning;

use super::excerpt::{printable, Excerpt};

/// Who can do something about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Who wrote the Dockerfile or typed the command.
    User,
    /// Who writes rbuild.
    Bug,
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
}

impl fmt::Display for Failure {
    /// The log first, then the place in the source, then what helps; what failed is the last line, where people and
    /// log viewers look.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.logs())?;
        for excerpt in &self.excerpts {
            excerpt.fmt(f)?;
        }
        self.write_help(f)?;
        writeln!(f, "ERROR: failed to {}: {}", self.doing, message(&self.causes))
    }
}

impl Failure {
    /// The output of the steps that failed.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let _ = writeln!(text, "------\n > {}:", printable(&step.name));
            for line in &step.log {
                let _ = writeln!(text, "{}", printable(line));
            }
            text.push_str("------\n");
        }
        text
    }

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

#[cfg(test)]
mod tests {
    use solver::graph::{Position, Range};

    use super::*;
    use crate::cli::excerpt::Span;

    #[test]
    fn a_failed_step_is_told_from_log_to_cause() {
        let text = "FROM alpine\nRUN mkae\n";
        let failure = Failure {
            steps: vec![FailedStep { name: "[2/2] RUN mkae".into(), log: vec!["0.101 sh: mkae: not found".into()] }],
            excerpts: vec![Excerpt {
                file: "Dockerfile".into(),
                text: text.into(),
                above: 0,
                spans: vec![Span::lines(2..=2)],
            }],
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
        assert_eq!(failure.to_string(), want);
    }

    #[test]
    fn causes_are_told_once_and_bugs_as_what_they_are() {
        let causes = vec!["a: b".into(), "b".into(), "c\x1b[31m".into()];
        let twice = Failure { causes, ..Failure::new("export", "", Fault::User) };
        assert_eq!(twice.to_string(), "ERROR: failed to export: a: b: c\u{fffd}[31m\n");
        let bug = Failure::new("build", "index out of range", Fault::Bug);
        let want = "note: this is a bug in rbuild; please report it with the lines above\n\
                    ERROR: failed to build: index out of range\n";
        assert_eq!(bug.to_string(), want);
    }

    #[test]
    fn warnings_are_listed() {
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
    }
}
