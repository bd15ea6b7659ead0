//! What a lowering asks for, refuses, and never does.

use frontend::{
    parse, parse_platform, Diagnostic, ImageAnswer, ImageQuery, Lowered, Lowering, Options, Query, Source, Step,
};
use proptest::prelude::*;
use solver::graph::Platform;

fn platform(text: &str) -> Platform {
    parse_platform(text, &Platform::default()).unwrap()
}

fn options() -> Options {
    Options { build_platform: platform("linux/amd64"), ..Options::default() }
}

fn answer(config: &str) -> ImageAnswer {
    ImageAnswer { config: config.as_bytes().to_vec(), digest: None }
}

const SMALL: &str =
    r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:1"]}}"#;

/// Lowers a text; answers what it asked for beside the result.
fn lower(text: &str, options: Options, image: &str) -> (Vec<ImageQuery>, Result<Lowered, Vec<Diagnostic>>) {
    let source = Source::new("Dockerfile", text);
    let (ast, diagnostics) = parse(&source);
    if diagnostics.iter().any(Diagnostic::is_error) {
        return (Vec::new(), Err(diagnostics));
    }
    let mut lowering = Lowering::new(&source, ast, options);
    let mut asked = Vec::new();
    loop {
        match lowering.step() {
            Err(errors) => return (asked, Err(errors)),
            Ok(Step::Done(lowered)) => return (asked, Ok(lowered)),
            Ok(Step::Need(queries)) => {
                for query in queries {
                    let Query::Image(query) = query else { panic!("{query:?}") };
                    assert!(!asked.contains(&query), "{query:?} is asked again");
                    lowering.answer(&query, answer(image));
                    asked.push(query);
                }
            }
        }
    }
}

fn asked(text: &str, options: Options, image: &str) -> Vec<String> {
    let (asked, result) = lower(text, options, image);
    result.unwrap();
    asked.iter().map(|query| format!("{} {}", query.reference, query.platform)).collect()
}

#[test]
fn only_needed_images_are_asked_for() {
    let arm = Options { platforms: vec![platform("linux/arm64")], ..options() };
    let target = Options { target: Some("B".into()), ..options() };
    for (text, options, expected) in [
        ("FROM a\nFROM b", options(), vec!["docker.io/library/b:latest linux/amd64"]),
        ("FROM a AS x\nFROM b AS b\nFROM x", target, vec!["docker.io/library/b:latest linux/amd64"]),
        ("FROM scratch\nCOPY --from=c:1 x /", options(), vec!["docker.io/library/c:1 linux/amd64"]),
        ("FROM scratch\nRUN --mount=from=m.io/t,target=/t x", options(), vec!["m.io/t:latest linux/amd64"]),
        (
            "FROM --platform=$BUILDPLATFORM a AS a\nFROM a AS t\nCOPY --from=a x /\nFROM a2\nCOPY --from=t y /",
            arm,
            vec!["docker.io/library/a:latest linux/amd64", "docker.io/library/a2:latest linux/arm64"],
        ),
        ("FROM scratch", options(), vec![]),
    ] {
        assert_eq!(asked(text, options, SMALL), expected, "{text}");
    }
}

#[test]
fn triggers_can_ask_for_more_images() {
    let image = r#"{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":["sha256:1"]},
        "config":{"OnBuild":["COPY --from=tools /t /t"]}}"#;
    assert_eq!(
        asked("FROM base", options(), image),
        ["docker.io/library/base:latest linux/amd64", "docker.io/library/tools:latest linux/amd64"]
    );
}

#[test]
fn all_stages_are_looked_at_for_checks() {
    let all = Options { all_stages: true, ..options() };
    let (asked, result) = lower("FROM a\nCOPY $x /\nFROM b\nCOPY $y /", all, SMALL);
    assert_eq!(asked.len(), 2);
    let lints: Vec<String> = result.unwrap().lints.into_iter().map(|lint| lint.message).collect();
    assert_eq!(lints, ["Usage of undefined variable '$x'", "Usage of undefined variable '$y'"]);
}

#[test]
fn what_cannot_be_lowered_is_refused_where_it_stands() {
    for (text, message, place) in [
        (
            "FROM a AS x\nCOPY --from=later f /\nFROM b AS later\nFROM x",
            "cannot copy from stage \"later\", it needs to be defined before current stage \"x\"",
            "later",
        ),
        (
            "FROM a AS x\nRUN --mount=from=later,target=/l f\nFROM b AS later\nFROM x",
            "cannot mount from stage \"later\" to \"/l\", stage needs to be defined before current command",
            "from=later,target=/l",
        ),
        ("FROM a AS x\nCOPY --from=x f /", "circular dependency detected on stage: x", "x"),
        ("FROM scratch\nCOPY --from=1 f /", "invalid stage index 1", "1"),
        (
            "FROM scratch\nCOPY --from=a:b:c f /",
            "failed to parse stage name \"a:b:c\": invalid reference format",
            "a:b:c",
        ),
        ("FROM scratch\nCOPY --chown=me f /", "invalid user index: -1", "me"),
        ("FROM scratch\nUSER me\nWORKDIR /x", "invalid user index: -1", "/x"),
        ("FROM scratch\nRUN --mount=type=tmpfs x", "invalid mount target \"/\"", "type=tmpfs"),
        ("FROM a\nRUN --mount=type=secret x", "invalid secret mount. one of source, target required", "type=secret"),
        ("FROM a\nRUN --mount=target=/x,mode=7 x", "mode not allowed for \"bind\" type mounts", "target=/x,mode=7"),
        (
            "FROM a\nRUN --mount=target=/x,required x",
            "unexpected key 'required' for mount type 'bind'",
            "target=/x,required",
        ),
        ("FROM a\nRUN --mount=target=/x,ro=si x", "invalid value for ro: si", "target=/x,ro=si"),
        (
            "FROM a\nRUN --mount=type=cache,target=/x,mode=9 x",
            "invalid value 9 for mode",
            "type=cache,target=/x,mode=9",
        ),
        (
            "FROM a\nRUN --mount=type=cache,target=/x,sharing=prvate x",
            "unsupported sharing value \"prvate\" (did you mean private?)",
            "type=cache,target=/x,sharing=prvate",
        ),
        ("FROM a\nADD --checksum=sha256:1 f /", "checksum requires HTTP(S) or Git sources", "sha256:1"),
        (
            "# syntax=vendor/frontend:2 x\nFROM a",
            "frontends other than docker/dockerfile are not supported yet: vendor/frontend:2",
            "vendor/frontend:2 x",
        ),
        ("# check=foo=bar\nFROM a", "failed to parse check options: invalid check option \"foo\"", "foo=bar"),
    ] {
        let (_, result) = lower(text, options(), SMALL);
        let errors: Vec<(String, String)> = result
            .unwrap_err()
            .into_iter()
            .filter(Diagnostic::is_error)
            .map(|error| (error.message.clone(), text[error.span().range()].to_string()))
            .collect();
        assert_eq!(errors, [(message.to_string(), place.to_string())], "{text}");
    }
}

#[test]
fn a_long_chain_of_stages_is_no_danger() {
    let mut text = String::from("FROM scratch AS s0\n");
    for stage in 1..5_000 {
        text.push_str(&format!("FROM s{} AS s{stage}\n", stage - 1));
    }
    assert!(lower(&text, options(), SMALL).1.unwrap().targets[0].output.is_none());
}

#[test]
fn a_wrong_trigger_is_blamed_on_from() {
    let image = r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["RUNN x"]}}"#;
    let (_, result) = lower("FROM base\nRUN y", options(), image);
    let [error] = &result.unwrap_err()[..] else { panic!() };
    assert_eq!(error.message, "unknown instruction: RUNN (did you mean RUN?)");
    assert_eq!(error.labels[0].0.range(), 0.."FROM base".len());
}

#[test]
fn an_answer_that_is_no_config_is_an_error() {
    let (_, result) = lower("FROM base", options(), "[1]");
    assert_eq!(result.unwrap_err()[0].code, "invalid-config");
}

#[test]
fn a_later_stage_of_the_same_name_counts_only_later() {
    let (_, result) = lower(
        "FROM scratch AS x\nCOPY one /\nFROM scratch AS y\nCOPY --from=x /one /\nFROM scratch AS x\nCOPY two /\nFROM y",
        options(),
        SMALL,
    );
    let graph = result.unwrap().graph;
    let names: Vec<&str> = graph.vertices().iter().filter_map(|vertex| vertex.hints.name()).collect();
    assert_eq!(names, ["[internal] load build context", "[x 1/1] COPY one /", "[y 1/1] COPY --from=x /one /"]);
}

#[test]
fn findings_stop_the_build_on_request() {
    let (_, result) = lower("# check=error=true\nFROM scratch as x", options(), SMALL);
    let told: Vec<&str> = result.as_ref().unwrap_err().iter().map(|found| found.code).collect();
    assert_eq!(told, ["FromAsCasing", "lint-violation"]);
    let skipped =
        Options { build_args: [("BUILDKIT_DOCKERFILE_CHECK".to_string(), "skip=all".to_string())].into(), ..options() };
    let (_, result) = lower("# check=error=true\nFROM scratch as x", skipped, SMALL);
    assert_eq!(result.unwrap().lints, []);
}

#[test]
fn the_usual_frontends_are_this_one() {
    for name in [
        "docker/dockerfile",
        "docker/dockerfile:1.7-labs",
        "docker.io/docker/dockerfile:1",
        "docker/dockerfile-upstream:master",
        "docker/dockerfile@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "dockerfile.v0",
    ] {
        assert!(lower(&format!("# syntax={name}\nFROM a"), options(), SMALL).1.is_ok(), "{name}");
    }
    let other = Options { build_args: [("BUILDKIT_SYNTAX".to_string(), "x/y".to_string())].into(), ..options() };
    assert_eq!(
        lower("# syntax=docker/dockerfile\nFROM a", other, SMALL).1.unwrap_err()[0].code,
        "unsupported-frontend"
    );
}

#[test]
fn equal_inputs_give_equal_graphs() {
    let text = "FROM a AS b\nRUN --mount=type=cache,target=/c x\nFROM a\nCOPY --link --from=b /x /y\n";
    let build = || lower(text, options(), SMALL).1.unwrap();
    assert_eq!(build().graph, build().graph);
}

#[test]
fn the_order_of_mounts_changes_no_vertex() {
    let id = |flags: &str| {
        let text = format!("FROM a AS x\nRUN x\nFROM a\nRUN {flags} y");
        lower(&text, options(), SMALL).1.unwrap().targets[0].output
    };
    let (first, second) = ("--mount=from=x,target=/x", "--mount=from=b,target=/b");
    assert_eq!(id(&format!("{first} {second}")), id(&format!("{second} {first}")));
}

#[test]
fn a_comment_changes_no_vertex() {
    let id = |text: &str| lower(text, options(), SMALL).1.unwrap().targets[0].output;
    assert_eq!(id("FROM a\nRUN x\nCOPY y /"), id("# hello\nFROM a\n# there\nRUN x\n\ncopy y /"));
}

proptest! {
    #[test]
    fn no_likely_text_makes_it_panic_or_point_outside(parts in proptest::collection::vec(prop::sample::select(vec![
        "FROM a\n", "FROM scratch AS s\n", "FROM s\n", "ARG x=1\n", "ENV y=$x\n", "RUN z $x\n", "RUN <<E\nq\nE\n",
        "COPY --from=s a b\n", "COPY --link --from=0 a /\n", "COPY a* --x /y/\n", "COPY <<F /f\n$x\nF\n", "WORKDIR $y\n",
        "USER u\n", "CMD c\n", "ENTRYPOINT [\"e\"]\n", "EXPOSE $x 1-2\n", "VOLUME v\n", "LABEL k=${y%?}\n", "STOPSIGNAL 9\n",
        "SHELL [\"s\"]\n", "ONBUILD RUN t $x\n", "ONBUILD COPY --from=s p /\n", "RUN --mount=type=cache,target=/c r\n",
        "RUN --mount=from=s,target=m r\n", "ADD --chmod=$x --chown=u:1 t /t\n", "HEALTHCHECK CMD h\n", "MAINTAINER m\n",
    ]), 0..25)) {
        let text = format!("FROM a\n{}", parts.concat());
        if let (_, Err(errors)) = lower(&text, options(), SMALL) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(error.code != "internal", "{:?}", error);
                prop_assert!(text.get(error.span().range()).is_some(), "{:?}", error);
            }
        }
    }
}

#[test]
fn a_stage_that_was_meant_is_suggested_where_an_image_is_missing() {
    let text = "FROM a AS builder\nFROM scratch\nCOPY --from=bulder x /";
    let source = Source::new("Dockerfile", text);
    let mut lowering = Lowering::new(&source, parse(&source).0, options());
    let Ok(Step::Need(queries)) = lowering.step() else { panic!("nothing is asked") };
    let [Query::Image(query)] = &queries[..] else { panic!("{queries:?}") };
    lowering.answer_missing(query, "not found");
    let errors = lowering.step().map(drop).unwrap_err();
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(
        error.message,
        "bulder: failed to resolve source metadata for docker.io/library/bulder:latest: not found (did you mean builder?)"
    );
    assert_eq!(&text[error.span().range()], "bulder");
}

#[test]
fn a_stage_to_be_built_without_cache_that_is_not_there_is_told() {
    let filter = |names: &[&str]| {
        let no_cache_filter = names.iter().map(|name| (*name).to_string()).collect();
        let text = "FROM a AS build\nRUN make\nFROM build\nRUN test";
        lower(text, Options { no_cache_filter, ..options() }, SMALL).1.unwrap().unused
    };
    assert_eq!(filter(&["Build", ""]), [""; 0]);
    let said = |name: &str, near: &str| {
        format!("no stage is called {name}: nothing is built anew because of that --no-cache-filter{near}")
    };
    assert_eq!(filter(&["build", "buidl"]), [said("buidl", " (did you mean build?)")]);
    assert_eq!(filter(&["elsewhere"]), [said("elsewhere", "")]);
}
