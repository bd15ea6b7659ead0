//! Source policies as a daemon is told of them.

use crate::engine::policy::{Action, Condition, Constraint, Match, Policies, Rule};
use crate::wire::proto::sourcepolicy::{self, AttrMatch, MatchType, PolicyAction};

/// All rules as one policy; nothing where there is none.
pub(super) fn write(policies: &Policies) -> Option<sourcepolicy::Policy> {
    let rules: Vec<_> = policies.iter().flat_map(|policy| &policy.rules).map(written).collect();
    (!rules.is_empty()).then_some(sourcepolicy::Policy { version: 1, rules })
}

fn written(rule: &Rule) -> sourcepolicy::Rule {
    let (identifier, kind, constraints) = rule.selector.parts();
    let constraint = |constraint: &Constraint| {
        let (key, value, condition) = constraint.parts();
        let condition = match condition {
            Condition::Equal => AttrMatch::Equal,
            Condition::NotEqual => AttrMatch::Notequal,
            Condition::Matches => AttrMatch::Matches,
        };
        sourcepolicy::AttrConstraint { key: key.to_owned(), value: value.to_owned(), condition: condition.into() }
    };
    let match_type = match kind {
        Match::Wildcard => MatchType::Wildcard,
        Match::Exact => MatchType::Exact,
        Match::Regex => MatchType::Regex,
    };
    let selector = sourcepolicy::Selector {
        identifier: identifier.to_owned(),
        match_type: match_type.into(),
        constraints: constraints.iter().map(constraint).collect(),
    };
    let (action, updates) = match &rule.action {
        Action::Allow => (PolicyAction::Allow, None),
        Action::Deny => (PolicyAction::Deny, None),
        Action::Convert { identifier, attrs } => {
            let updates = sourcepolicy::Update { identifier: identifier.clone(), attrs: attrs.clone() };
            (PolicyAction::Convert, Some(updates))
        }
    };
    sourcepolicy::Rule { action: action.into(), selector: Some(selector), updates }
}
