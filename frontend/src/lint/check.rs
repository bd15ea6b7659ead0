//! `check=`: which findings are told, and whether they stop the build.

use std::sync::Arc;

use crate::ast::Instruction;
use crate::diagnostic::Diagnostic;

/// Rules that are only looked at on request.
const EXPERIMENTAL: [&str; 1] = ["InvalidDefinitionDescription"];

/// What a directive, a build argument, or a comment above an instruction says about findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checks {
    skip: Rules,
    experimental: Rules,
    is_error: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rules {
    all: bool,
    named: Vec<String>,
}

impl Rules {
    fn read(list: &str) -> Rules {
        let named = list.split(',').map(|name| name.trim().to_string()).collect();
        if list.trim().eq_ignore_ascii_case("all") {
            Rules { all: true, named: Vec::new() }
        } else {
            Rules { all: false, named }
        }
    }

    fn has(&self, rule: &str) -> bool {
        self.all || self.named.iter().any(|name| name == rule)
    }
}

impl Checks {
    /// Reads options such as `skip=RuleA,RuleB;error=true`.
    ///
    /// # Errors
    /// The text of the first option that is none.
    pub fn read(text: &str) -> Result<Checks, String> {
        let mut checks = Checks::default();
        for option in text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').ok_or_else(|| option.to_string())?;
            match (key.trim(), value.trim()) {
                ("skip", list) => checks.skip = Rules::read(list),
                ("experimental", list) => checks.experimental = Rules::read(list),
                ("error", "true" | "True" | "TRUE" | "1" | "t") => checks.is_error = true,
                ("error", "false" | "False" | "FALSE" | "0" | "f") => checks.is_error = false,
                ("error", _) => return Err(option.to_string()),
                (key, _) => return Err(key.to_string()),
            }
        }
        Ok(checks)
    }

    fn tells(&self, rule: &str) -> bool {
        if EXPERIMENTAL.contains(&rule) {
            self.experimental.has(rule)
        } else {
            !self.skip.has(rule)
        }
    }
}

/// Keeps the findings that `checks`, and comments above their instructions, do not skip.
///
/// # Errors
/// All of them, and one more that says so, if findings shall stop the build.
pub(crate) fn filter(
    lints: Vec<Diagnostic>,
    instructions: &[Arc<Instruction>],
    checks: &Checks,
) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let around = |lint: &Diagnostic| crate::ast::around(instructions, lint.span().start);
    let is_skipped = |lint: &Diagnostic| {
        around(lint).is_some_and(|statement| {
            let options = statement.comments.iter().filter_map(|comment| comment.text.strip_prefix("check="));
            let mut checks = options.filter_map(|text| Checks::read(text.split_whitespace().next()?).ok());
            checks.any(|checks| checks.skip.has(lint.code))
        })
    };
    // Rules are named in the order they were broken, instruction by instruction.
    let mut broken: Vec<(usize, &'static str)> =
        lints.iter().map(|lint| (around(lint).map_or(0, |statement| statement.span.start), lint.code)).collect();
    broken.sort_by_key(|(start, _)| *start);
    let in_order: Vec<&'static str> = broken.into_iter().map(|(_, rule)| rule).collect();
    let mut told: Vec<Diagnostic> =
        lints.into_iter().filter(|lint| checks.tells(lint.code) && !is_skipped(lint)).collect();
    told.sort_by_key(|lint| lint.span().start);
    told.iter_mut().for_each(|lint| lint.find(instructions));
    if !checks.is_error || told.is_empty() {
        return Ok(told);
    }
    let mut rules: Vec<&str> = Vec::new();
    for rule in in_order.into_iter().filter(|rule| told.iter().any(|lint| lint.code == *rule)) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    let message = format!("lint violation found for rules: {}", rules.join(", "));
    let mut error = Diagnostic::error("lint-violation", told[0].span(), message);
    error.instruction = told[0].instruction;
    told.push(error);
    Err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let rules = |names: &[&str]| Rules { all: false, named: names.iter().map(|name| name.to_string()).collect() };
        let all = Rules { all: true, named: Vec::new() };
        for (text, skip, experimental, is_error) in [
            ("skip=A, B;error=true", rules(&["A", "B"]), Rules::default(), true),
            ("skip=all", all.clone(), Rules::default(), false),
            ("experimental=all;skip=X", rules(&["X"]), all, false),
            ("", Rules::default(), Rules::default(), false),
        ] {
            assert_eq!(Checks::read(text), Ok(Checks { skip, experimental, is_error }), "{text}");
        }
        for (wrong, told) in [("skip", "skip"), ("foo=bar", "foo"), ("error=maybe", "error=maybe")] {
            assert_eq!(Checks::read(wrong), Err(told.to_string()));
        }
    }
}
