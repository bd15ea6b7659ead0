//! Which sources a build may use, and which it uses instead.
//!
//! Pure. Rules are scanned in order: the last one that allows or denies counts, and one that converts has the source looked
//! at anew. The words of errors are BuildKit's: <https://github.com/moby/buildkit/tree/v0.29.0/sourcepolicy>.

mod graph;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use solver::graph::op::SourceOp;

/// So often one source may be converted.
const MOST_CONVERSIONS: usize = 20;
/// The most bytes that a compiled pattern may have: 1 MiB.
const LARGEST_PATTERN: usize = 1 << 20;

/// Why a source may not be used, or a policy makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is denied.
    #[error("source {0:?} denied by policy: source denied by policy")]
    Denied(String),
    /// Rules that convert it lead in a circle.
    #[error("too many mutations on a single source: too many operations")]
    TooManyConversions,
    /// What it becomes is no text.
    #[error("error mutating source policy: error formatting destination: {0:?} cuts a character")]
    NotText(String),
    /// A rule is to convert and does not say to what.
    #[error("missing destination for convert rule")]
    NoDestination,
    /// A pattern is none.
    #[error("invalid {kind} {pattern:?}: {reason}")]
    Pattern {
        /// Of which kind.
        kind: &'static str,
        /// As given.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
}

/// What a rule does with a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It may be used.
    Allow,
    /// It may not.
    Deny,
    /// Another one is used. Without an identifier only attributes change.
    Convert {
        /// What it is called; groups of the pattern are `${1}`, `${2}` ….
        identifier: String,
        /// What is said of it besides what was said before.
        attrs: BTreeMap<String, String>,
    },
}

/// How a selector compares identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// `*` is any text.
    Wildcard,
    /// As they are.
    Exact,
    /// A regular expression, found anywhere.
    Regex,
}

/// What an attribute must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// This value.
    Equal,
    /// Another value.
    NotEqual,
    /// A text in which the regular expression is found.
    Matches,
}

/// What must hold of an attribute; one that is not there is empty.
#[derive(Clone, Debug)]
pub struct Constraint {
    key: String,
    value: String,
    condition: Condition,
    pattern: Option<Regex>,
}

/// Which sources a rule is about.
#[derive(Clone, Debug)]
pub struct Selector {
    identifier: String,
    kind: Match,
    constraints: Vec<Constraint>,
    pattern: Option<Regex>,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// About which sources.
    pub selector: Selector,
    /// What is done.
    pub action: Action,
}

/// Rules of one author, in order.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// They.
    pub rules: Vec<Rule>,
}

/// All policies that a build is under. Without any, everything is allowed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Policies(Vec<Arc<Policy>>);

fn pattern(kind: &'static str, given: &str, text: &str) -> Result<Regex, PolicyError> {
    // Bytes, as in Go: classes and cases are those of ASCII.
    let compiled = RegexBuilder::new(text).unicode(false).size_limit(LARGEST_PATTERN).build();
    compiled.map_err(|error| PolicyError::Pattern {
        kind,
        pattern: given.chars().take(200).collect(),
        reason: error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

impl Constraint {
    /// Makes one.
    ///
    /// # Errors
    /// [`PolicyError::Pattern`].
    pub fn new(key: String, value: String, condition: Condition) -> Result<Constraint, PolicyError> {
        let pattern = (condition == Condition::Matches).then(|| pattern("regex", &value, &value)).transpose()?;
        Ok(Constraint { key, value, condition, pattern })
    }

    fn holds(&self, attrs: &BTreeMap<String, String>) -> bool {
        let found = attrs.get(&self.key).map(String::as_str).unwrap_or_default();
        match (self.condition, &self.pattern) {
            (Condition::Equal, _) => found == self.value,
            (Condition::NotEqual, _) => found != self.value,
            (Condition::Matches, pattern) => pattern.as_ref().is_some_and(|regex| regex.is_match(found.as_bytes())),
        }
    }

    /// Key, value and condition.
    pub fn parts(&self) -> (&str, &str, Condition) {
        (&self.key, &self.value, self.condition)
    }
}

impl Selector {
    /// Makes one.
    ///
    /// # Errors
    /// [`PolicyError::Pattern`].
    pub fn new(identifier: String, kind: Match, constraints: Vec<Constraint>) -> Result<Selector, PolicyError> {
        let pattern = match kind {
            Match::Exact => None,
            Match::Regex => Some(pattern("regex", &identifier, &identifier)?),
            Match::Wildcard if identifier.contains("**") => {
                let reason = "** means nothing".to_owned();
                return Err(PolicyError::Pattern { kind: "wildcard", pattern: identifier, reason });
            }
            Match::Wildcard => {
                let text = format!("^{}$", regex::escape(&identifier).replace("\\*", "(.*)"));
                Some(pattern("wildcard", &identifier, &text)?)
            }
        };
        Ok(Selector { identifier, kind, constraints, pattern })
    }

    fn selects(&self, source: &SourceOp) -> bool {
        let is_found = |regex: &Regex| regex.is_match(source.identifier.as_bytes());
        self.constraints.iter().all(|constraint| constraint.holds(&source.attrs))
            && (self.identifier == source.identifier || self.pattern.as_ref().is_some_and(is_found))
    }

    /// What `form` is for an identifier that was selected.
    fn format(&self, identifier: &str, form: &str) -> Result<String, PolicyError> {
        let formed = match (self.kind, &self.pattern) {
            (Match::Exact, _) | (_, None) => Cow::Borrowed(form.as_bytes()),
            // Found anywhere, so what stands around it stays.
            (Match::Regex, Some(regex)) => regex.replace_all(identifier.as_bytes(), form.as_bytes()),
            (Match::Wildcard, Some(regex)) => {
                let mut formed = Vec::new();
                match regex.captures(identifier.as_bytes()) {
                    Some(captures) => captures.expand(form.as_bytes(), &mut formed),
                    None => formed.extend(identifier.as_bytes()),
                }
                Cow::Owned(formed)
            }
        };
        String::from_utf8(formed.into_owned()).map_err(|_| PolicyError::NotText(form.to_owned()))
    }

    /// Identifier, how it is compared, and constraints.
    pub fn parts(&self) -> (&str, Match, &[Constraint]) {
        (&self.identifier, self.kind, &self.constraints)
    }
}

impl Rule {
    /// The source instead, if this is a rule that converts and changes something.
    fn converted(&self, source: &SourceOp) -> Result<Option<SourceOp>, PolicyError> {
        let Action::Convert { identifier, attrs } = &self.action else { return Ok(None) };
        let mut other = source.clone();
        if !identifier.is_empty() {
            other.identifier = self.selector.format(&source.identifier, identifier)?;
        }
        other.attrs.extend(attrs.clone());
        Ok((other != *source).then_some(other))
    }
}

impl Policy {
    /// The source instead, if a rule converts it.
    fn look(&self, source: &SourceOp) -> Result<Option<SourceOp>, PolicyError> {
        let mut is_denied = false;
        for rule in self.rules.iter().filter(|rule| rule.selector.selects(source)) {
            match &rule.action {
                Action::Allow => is_denied = false,
                Action::Deny => is_denied = true,
                Action::Convert { .. } => {
                    if let Some(other) = rule.converted(source)? {
                        return Ok(Some(other));
                    }
                }
            }
        }
        match is_denied {
            true => Err(PolicyError::Denied(source.identifier.clone())),
            false => Ok(None),
        }
    }
}

impl Policies {
    /// One policy.
    pub fn of(policy: Policy) -> Policies {
        Policies::default().and([policy])
    }

    /// These and further ones, which are asked later.
    #[must_use]
    pub fn and(&self, more: impl IntoIterator<Item = Policy>) -> Policies {
        let more = more.into_iter().filter(|policy| !policy.rules.is_empty()).map(Arc::new);
        Policies(self.0.iter().cloned().chain(more).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// They, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.0.iter().map(|policy| &**policy)
    }

    /// What is used in place of a source; `None` if that is the source itself.
    ///
    /// # Errors
    /// It may not be used.
    pub fn evaluate(&self, source: &SourceOp) -> Result<Option<SourceOp>, PolicyError> {
        let mut current = Cow::Borrowed(source);
        for _ in 0..=MOST_CONVERSIONS {
            let mut converted = None;
            for policy in self.iter() {
                converted = policy.look(&current)?;
                if converted.is_some() {
                    break;
                }
            }
            match converted {
                Some(other) => current = Cow::Owned(other),
                None => {
                    return Ok(match current {
                        Cow::Borrowed(_) => None,
                        Cow::Owned(other) => Some(other),
                    })
                }
            }
        }
        Err(PolicyError::TooManyConversions)
    }
}

#[cfg(test)]
mod tests;
