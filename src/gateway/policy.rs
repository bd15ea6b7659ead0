//! Source policies as clients send them.

use tonic::Code;

use crate::engine::policy::{Action, Condition, Constraint, Match, Policy, PolicyError, Rule, Selector};
use crate::wire::failure::Failure;
use crate::wire::proto::sourcepolicy::{self, AttrMatch, MatchType, PolicyAction};

fn invalid(text: impl std::fmt::Display) -> Failure {
    Failure::new(Code::InvalidArgument, format!("invalid source policy: {text}"))
}

/// Reads one policy.
///
/// # Errors
/// It makes no sense.
pub fn read(policy: &sourcepolicy::Policy) -> Result<Policy, Failure> {
    // Policies without a version are those of before there were versions.
    if !matches!(policy.version, 0 | 1) {
        return Err(invalid(format!("version {} is not known", policy.version)));
    }
    let rules = policy.rules.iter().map(rule).collect::<Result<_, _>>()?;
    Ok(Policy { rules })
}

/// Reads all policies of a request.
///
/// # Errors
/// As [`read`].
pub fn read_all<'p>(policies: impl IntoIterator<Item = &'p sourcepolicy::Policy>) -> Result<Vec<Policy>, Failure> {
    policies.into_iter().map(read).collect()
}

fn rule(rule: &sourcepolicy::Rule) -> Result<Rule, Failure> {
    let selector = rule.selector.as_ref().ok_or_else(|| invalid("a rule without a selector"))?;
    let unknown = |what: &str, value: i32| invalid(format!("unknown {what} {value}"));
    let kind = match MatchType::try_from(selector.match_type) {
        Ok(MatchType::Wildcard) => Match::Wildcard,
        Ok(MatchType::Exact) => Match::Exact,
        Ok(MatchType::Regex) => Match::Regex,
        Err(_) => return Err(unknown("match type", selector.match_type)),
    };
    let constraint = |given: &sourcepolicy::AttrConstraint| {
        let condition = match AttrMatch::try_from(given.condition) {
            Ok(AttrMatch::Equal) => Condition::Equal,
            Ok(AttrMatch::Notequal) => Condition::NotEqual,
            Ok(AttrMatch::Matches) => Condition::Matches,
            Err(_) => return Err(unknown("attr condition", given.condition)),
        };
        Constraint::new(given.key.clone(), given.value.clone(), condition).map_err(invalid)
    };
    let constraints = selector.constraints.iter().map(constraint).collect::<Result<_, _>>()?;
    let selector = Selector::new(selector.identifier.clone(), kind, constraints).map_err(invalid)?;
    let action = match (PolicyAction::try_from(rule.action), &rule.updates) {
        (Ok(PolicyAction::Allow), _) => Action::Allow,
        (Ok(PolicyAction::Deny), _) => Action::Deny,
        (Ok(PolicyAction::Convert), Some(updates)) => {
            Action::Convert { identifier: updates.identifier.clone(), attrs: updates.attrs.clone() }
        }
        (Ok(PolicyAction::Convert), None) => return Err(invalid(PolicyError::NoDestination)),
        (Err(_), _) => return Err(unknown("action", rule.action)),
    };
    Ok(Rule { selector, action })
}

#[cfg(test)]
mod tests {
    use solver::graph::op::SourceOp;

    use super::*;

    fn one(change: impl FnOnce(&mut sourcepolicy::Rule)) -> Result<Policy, Failure> {
        let selector = sourcepolicy::Selector { identifier: "local://*".into(), ..Default::default() };
        let mut rule = sourcepolicy::Rule { selector: Some(selector), ..Default::default() };
        change(&mut rule);
        read(&sourcepolicy::Policy { version: 1, rules: vec![rule] })
    }

    #[test]
    fn what_is_sent_is_what_counts() {
        let source = SourceOp { identifier: "local://a".into(), attrs: Default::default() };
        let found = |policy: Policy| crate::engine::policy::Policies::of(policy).evaluate(&source);
        assert_eq!(found(one(|_| ()).unwrap()), Ok(None), "they are wildcards that allow unless they say otherwise");
        assert!(found(one(|rule| rule.action = 1).unwrap()).is_err());
        let updates = sourcepolicy::Update { identifier: "oci-layout://b-${1}".into(), ..Default::default() };
        let converts = one(|rule| (rule.action, rule.updates) = (2, Some(updates))).unwrap();
        assert_eq!(found(converts).unwrap().unwrap().identifier, "oci-layout://b-a");
        let constraint = sourcepolicy::AttrConstraint { key: "x".into(), value: "y".into(), condition: 1 };
        let constrained = one(|rule| {
            rule.action = 1;
            rule.selector.iter_mut().for_each(|selector| selector.constraints = vec![constraint.clone()]);
        });
        assert!(found(constrained.unwrap()).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let selector = |rule: &mut sourcepolicy::Rule, change: fn(&mut sourcepolicy::Selector)| {
            rule.selector.iter_mut().for_each(change);
        };
        let constraint =
            |condition| sourcepolicy::AttrConstraint { value: "(".into(), condition, ..Default::default() };
        for (policy, want) in [
            (one(|rule| rule.action = 3), "unknown action 3"),
            (one(|rule| rule.action = 2), "missing destination for convert rule"),
            (one(|rule| rule.selector = None), "without a selector"),
            (one(|rule| selector(rule, |it| it.match_type = 7)), "unknown match type 7"),
            (one(|rule| selector(rule, |it| (it.match_type, it.identifier) = (2, "(".into()))), "invalid regex"),
            (one(|rule| rule.selector.iter_mut().for_each(|it| it.constraints.push(constraint(2)))), "invalid regex"),
            (one(|rule| rule.selector.iter_mut().for_each(|it| it.constraints.push(constraint(-1)))), "condition -1"),
            (read(&sourcepolicy::Policy { version: 2, rules: Vec::new() }), "version 2"),
        ] {
            let failure = policy.expect_err(want);
            assert!(failure.code == Code::InvalidArgument && failure.message.contains(want), "{failure:?}");
        }
    }
}
