use super::*;

const ALPINE: &str = "docker-image://docker.io/library/alpine:latest";
const BUSYBOX: &str = "docker-image://docker.io/library/busybox:latest";

fn source(identifier: &str) -> SourceOp {
    SourceOp { identifier: identifier.into(), attrs: BTreeMap::new() }
}

fn rule(action: Action, kind: Match, identifier: &str) -> Rule {
    Rule { selector: Selector::new(identifier.into(), kind, Vec::new()).unwrap(), action }
}

fn to(identifier: &str) -> Action {
    Action::Convert { identifier: identifier.into(), attrs: BTreeMap::new() }
}

fn policies(rules: Vec<Rule>) -> Policies {
    Policies::of(Policy { rules })
}

#[test]
fn the_last_rule_that_allows_or_denies_counts() {
    use Action::{Allow, Deny};
    use Match::{Exact, Regex, Wildcard};
    for (rules, is_allowed) in [
        (vec![], true),
        (vec![(Deny, Wildcard, "docker-image://*")], false),
        (vec![(Deny, Wildcard, "https://*")], true),
        (vec![(Allow, Exact, ALPINE), (Deny, Wildcard, "docker-image://*")], false),
        (vec![(Deny, Wildcard, "docker-image://*"), (Allow, Exact, ALPINE)], true),
        (vec![(Allow, Exact, ALPINE), (Deny, Exact, ALPINE), (Allow, Exact, ALPINE)], true),
        (vec![(Deny, Exact, "docker-image://docker.io/library/alpine")], true),
        (vec![(Deny, Wildcard, "docker-image://docker.io/library/alpine")], true),
        (vec![(Deny, Regex, "library/alp")], false),
        (vec![(Deny, Regex, "^library/alp")], true),
        (vec![(Deny, Regex, "(?i)ALPINE")], false),
        // A text that is no pattern of itself.
        (vec![(Deny, Wildcard, "docker-image://docker?io/*")], true),
        (vec![(Deny, Wildcard, "*")], false),
    ] {
        let shown = format!("{rules:?}");
        let rules = rules.into_iter().map(|(action, kind, identifier)| rule(action, kind, identifier)).collect();
        let found = policies(rules).evaluate(&source(ALPINE));
        let denied = Err(PolicyError::Denied(ALPINE.into()));
        assert_eq!(found, if is_allowed { Ok(None) } else { denied }, "{shown}");
    }
}

#[test]
fn one_policy_that_denies_is_enough() {
    let allows = || Policy { rules: vec![rule(Action::Allow, Match::Exact, ALPINE)] };
    let denies = || Policy { rules: vec![rule(Action::Deny, Match::Exact, ALPINE)] };
    for both in [[allows(), denies()], [denies(), allows()]] {
        assert!(Policies::default().and(both).evaluate(&source(ALPINE)).is_err());
    }
    assert!(Policies::default().and([Policy::default()]).is_empty());
}

#[test]
fn a_source_becomes_what_a_rule_says() {
    let golang = "docker-image://docker.io/library/golang:1.19";
    for (kind, selector, form, want) in [
        (Match::Exact, golang, ALPINE, ALPINE),
        (Match::Wildcard, golang, ALPINE, ALPINE),
        (
            Match::Wildcard,
            "docker-image://docker.io/library/golang:*",
            "docker-image://r.example/golang:${1}-alpine",
            "docker-image://r.example/golang:1.19-alpine",
        ),
        (
            Match::Wildcard,
            "docker-image://*/*:1.19",
            "docker-image://$1/x/${2}:2",
            "docker-image://docker.io/library/x/golang:2",
        ),
        (
            Match::Regex,
            r"docker\-image://docker\.io/library/golang:(.*)",
            "docker-image://r.example/${1}",
            "docker-image://r.example/1.19",
        ),
        // What stands around it stays.
        (Match::Regex, "1.19", "1.20", "docker-image://docker.io/library/golang:1.20"),
        (Match::Wildcard, "docker-image://docker.io/library/golang:*", "${2}$$", "$"),
    ] {
        let found = policies(vec![rule(to(form), kind, selector)]).evaluate(&source(golang)).unwrap();
        assert_eq!(found.map(|other| other.identifier).as_deref(), Some(want), "{selector} to {form}");
    }
}

#[test]
fn attributes_are_added_and_the_source_looked_at_anew() {
    let attrs: BTreeMap<String, String> = [("http.checksum".to_string(), "sha256:1".to_string())].into();
    let url = "https://example.com/foo";
    let convert = Action::Convert { identifier: String::new(), attrs: attrs.clone() };
    let found = policies(vec![rule(convert, Match::Wildcard, "https://*")]).evaluate(&source(url)).unwrap();
    assert_eq!(found, Some(SourceOp { identifier: url.into(), attrs }));
    // A conversion goes before what is said of the first one, and is held against all rules.
    let rules = |last: Action| {
        vec![
            rule(Action::Deny, Match::Exact, BUSYBOX),
            rule(to(ALPINE), Match::Exact, BUSYBOX),
            rule(last, Match::Exact, ALPINE),
        ]
    };
    let found = policies(rules(Action::Allow)).evaluate(&source(BUSYBOX)).unwrap().unwrap();
    assert_eq!(found.identifier, ALPINE);
    let denied = policies(rules(Action::Deny)).evaluate(&source(BUSYBOX));
    assert_eq!(denied, Err(PolicyError::Denied(ALPINE.into())));
    // A rule that changes nothing is none.
    assert_eq!(policies(vec![rule(to(ALPINE), Match::Exact, ALPINE)]).evaluate(&source(ALPINE)), Ok(None));
}

#[test]
fn conversions_end() {
    let circle = vec![rule(to(ALPINE), Match::Exact, BUSYBOX), rule(to(BUSYBOX), Match::Exact, ALPINE)];
    assert_eq!(policies(circle).evaluate(&source(ALPINE)), Err(PolicyError::TooManyConversions));
    let grows = vec![rule(to("${1}x"), Match::Wildcard, "*")];
    assert_eq!(policies(grows).evaluate(&source("a")), Err(PolicyError::TooManyConversions));
    let chain = (0..20).map(|n| rule(to(&format!("x://{}", n + 1)), Match::Exact, &format!("x://{n}"))).collect();
    assert_eq!(policies(chain).evaluate(&source("x://0")).unwrap().unwrap().identifier, "x://20");
}

#[test]
fn constraints_are_about_attributes() {
    use Condition::{Equal, Matches, NotEqual};
    let mut op = source("git://h/r");
    op.attrs = [("git.checksum".to_string(), "abc".to_string())].into();
    for (key, value, condition, is_met) in [
        ("git.checksum", "abc", Equal, true),
        ("git.checksum", "ab", Equal, false),
        ("git.checksum", "abc", NotEqual, false),
        ("git.checksum", "^a.c$", Matches, true),
        ("git.checksum", "^b", Matches, false),
        ("none", "", Equal, true),
        ("none", "x", NotEqual, true),
        ("none", ".", Matches, false),
    ] {
        let constraint = Constraint::new(key.into(), value.into(), condition).unwrap();
        let selector = Selector::new("git://*".into(), Match::Wildcard, vec![constraint]).unwrap();
        let found = policies(vec![Rule { selector, action: Action::Deny }]).evaluate(&op);
        assert_eq!(found.is_err(), is_met, "{key} {value} {condition:?}");
    }
}

#[test]
fn patterns_that_are_none_are_refused() {
    for (kind, text) in [(Match::Wildcard, "a**b"), (Match::Regex, "("), (Match::Regex, "a{1000}{1000}{1000}")] {
        let error = Selector::new(text.into(), kind, Vec::new()).unwrap_err().to_string();
        assert!(error.contains(text) && error.starts_with("invalid "), "{error}");
    }
    assert!(Constraint::new("k".into(), "(".into(), Condition::Matches).is_err());
    assert!(Constraint::new("k".into(), "(".into(), Condition::Equal).is_ok());
    // Half of a character is no text.
    let cuts = policies(vec![rule(to("${1}!"), Match::Regex, r"(?-u)x(\xc3)")]);
    let found = cuts.evaluate(&source("x\u{e9}"));
    assert!(matches!(found, Err(PolicyError::NotText(_))), "{found:?}");
}
