//! Answers about a file, compared with those of docker-buildx 0.29 and BuildKit 0.25 for the same file.

use frontend::{parse, subrequest, ImageAnswer, Lowering, Options, Query, Request, Source, SubResult, SubStep};

const FILE: &str = "\
# GLOBAL is for all
ARG GLOBAL=1.0
ARG UNUSED=2
ARG BASE=busybox

# base is the first
FROM ${BASE}:latest AS base
# key is nothing
ARG key=val
# foo is foo
ARG foo=${GLOBAL} bar
RUN --mount=type=secret,id=tok,required --mount=type=ssh --mount=type=cache,target=/c true

# fin makes it
FROM --platform=$BUILDPLATFORM base AS fin
ARG GLOBAL
ARG TARGETARCH
RUN --mount=type=secret,id=other --mount=type=secret,id=tok true
FROM scratch AS no
COPY x /x
from fin as Last
cmd foo
";

fn ask(request: &str, text: &str, options: Options) -> SubResult {
    let source = Source::new("Dockerfile", text);
    let mut lowering = Lowering::new(&source, parse(&source).0, options);
    let image = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"diff_ids":["sha256:1"]}}"#;
    loop {
        match subrequest(Request::named(request).unwrap(), &mut lowering).unwrap() {
            SubStep::Done(result) => return *result,
            SubStep::Need(queries) => {
                for query in queries {
                    let Query::Image(query) = query else { panic!("{query:?}") };
                    lowering.answer(&query, ImageAnswer { config: image.to_vec(), digest: None });
                }
            }
        }
    }
}

fn target(name: &str) -> Options {
    Options { target: Some(name.into()), ..Options::default() }
}

#[test]
fn an_outline_has_what_the_target_and_its_bases_take() {
    let found = ask("frontend.outline", FILE, Options::default());
    let expected = [
        "TARGET: last",
        "",
        "BUILD ARG   VALUE     DESCRIPTION",
        "GLOBAL      1.0       is for all",
        "BASE        busybox   ",
        "key         val       is nothing",
        "foo                   is foo",
        "bar                   ",
        "",
        "SECRET   REQUIRED",
        "other    ",
        "tok      ",
        "",
        "SSH       REQUIRED",
        "default   ",
        "",
        "CACHE",
        "/c",
        "",
        "",
    ];
    assert_eq!(found.text(), expected.join("\n"));
    let json: serde_json::Value = serde_json::from_str(&found.json()).unwrap();
    let first = serde_json::json!({"name": "GLOBAL", "description": "is for all", "value": "1.0",
        "location": {"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]}});
    assert_eq!(json["args"][0], first);
    assert_eq!(json["secrets"][1]["location"]["ranges"][0]["start"]["line"], 18);
    assert!(found.json().starts_with("{\n  \"name\": \"last\",\n  \"args\": [\n    {\n      \"name\": \"GLOBAL\","));
}

#[test]
fn an_outline_of_another_target_knows_its_description() {
    let mut options = target("base");
    options.build_args = [("foo".to_string(), "xx".to_string())].into();
    let found = ask("frontend.outline", FILE, options);
    assert!(found.text().starts_with("TARGET:      base\nDESCRIPTION: is the first\n\nBUILD ARG"), "{}", found.text());
    assert!(
        found.text().contains("\nfoo         xx        is foo\n") && !found.text().contains("GLOBAL"),
        "{}",
        found.text()
    );
    assert!(found.text().contains("\ntok      true\n"), "{}", found.text());
}

#[test]
fn defaults_made_of_others_bring_them_along() {
    let text = "ARG A=1\nARG B=1$A\nFROM busybox AS x\nARG B\nARG C=$B\nFROM busybox\nARG C=4\nCOPY --from=x / /\n";
    let found = ask("frontend.outline", text, Options::default());
    assert_eq!(
        found.text(),
        "BUILD ARG   VALUE   DESCRIPTION\nA           1       \nB           11      \nC           4       \n\n"
    );
}

#[test]
fn targets_are_listed_as_they_are_written() {
    let found = ask("frontend.targets", FILE, Options::default());
    assert_eq!(
        found.text(),
        "TARGET         DESCRIPTION\nbase           is the first\nfin            makes it\nno             \nlast (default) \n"
    );
    let json: serde_json::Value = serde_json::from_str(&found.json()).unwrap();
    assert_eq!(json["targets"][1]["platform"], "$BUILDPLATFORM");
    assert_eq!((&json["targets"][3]["default"], &json["targets"][0]["base"]), (&true.into(), &"${BASE}:latest".into()));
    let unnamed = ask("frontend.targets", "FROM a\nFROM b\n", Options::default());
    assert_eq!(unnamed.text(), "TARGET    DESCRIPTION\n          \n(default) \n");
}

#[test]
fn checks_tell_what_is_doubtful_and_what_is_wrong() {
    let found = ask("frontend.lint", "FROM busybox AS x\nCOPY $foo /\nFROM busybox\n", Options::default());
    let expected = "
WARNING: UndefinedVar - https://docs.docker.com/go/dockerfile/rule/undefined-var/
Usage of undefined variable '$foo'
Dockerfile:2
--------------------
   1 |     FROM busybox AS x
   2 | >>> COPY $foo /
   3 |     FROM busybox
   4 |     \n--------------------
";
    assert_eq!((found.text().as_str(), found.status, found.warnings), (expected, 1, 1));
    assert!(
        found.json().contains("\"description\": \"Variables should be defined before their use\""),
        "{}",
        found.json()
    );

    let found = ask("frontend.lint", "FROM busybox\nRUNN x\n", Options::default());
    let json: serde_json::Value = serde_json::from_str(&found.json()).unwrap();
    assert_eq!(json["warnings"], serde_json::Value::Null);
    let error = serde_json::json!({
        "message": "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
        "location": {"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]},
    });
    assert_eq!((&json["buildError"], found.status), (&error, 1));

    let found = ask("frontend.lint", "FROM busybox\n", Options::default());
    assert_eq!((found.text().as_str(), found.status, found.error), ("", 0, None));
    let found = ask("frontend.lint", "# check=error=true\nFROM busybox as x\n", Options::default());
    assert_eq!(found.error.unwrap().message, "lint violation found for rules: FromAsCasing");
}

#[test]
fn checks_tell_what_is_doubtful_up_to_an_error() {
    let file = "FROM busybox as x\nLABEL a=$A\nEXPOSE x\nLABEL b=$B\nFROM busybox\nLABEL c=$C\n";
    let found = ask("frontend.lint", file, Options::default());
    let json: serde_json::Value = serde_json::from_str(&found.json()).unwrap();
    let details: Vec<_> =
        json["warnings"].as_array().unwrap().iter().map(|one| one["detail"].as_str().unwrap()).collect();
    let expected = [
        "'as' and 'FROM' keywords' casing do not match",
        "Usage of undefined variable '$A'",
        "Usage of undefined variable '$C'",
    ];
    assert_eq!((&details[..], found.warnings), (&expected[..], 3));
    assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 3);
}

#[test]
fn checks_tell_of_missing_images_beside_what_is_doubtful() {
    let source = Source::new("Dockerfile", "FROM busyboks as x\n");
    let mut lowering = Lowering::new(&source, parse(&source).0, Options::default());
    let Ok(SubStep::Need(queries)) = subrequest(Request::Lint, &mut lowering) else { panic!("nothing is asked") };
    let [Query::Image(query)] = &queries[..] else { panic!("{queries:?}") };
    lowering.answer_missing(query, "not found");
    let Ok(SubStep::Done(found)) = subrequest(Request::Lint, &mut lowering) else { panic!("asked again") };
    assert_eq!((found.warnings, found.status), (1, 1));
    assert!(found.error.unwrap().message.ends_with("not found (did you mean busybox?)"));
}

#[test]
fn requests_are_described() {
    let found = ask("frontend.subrequests.describe", "FROM a", Options::default());
    assert_eq!(
        found.text(),
        "NAME                 VERSION DESCRIPTION\n\
         outline              1.0.0   List all parameters current build target supports\n\
         targets              1.0.0   List all targets current build supports\n\
         subrequests.describe 1.0.0   List available subrequest types\n"
    );
    assert!(found.json().contains("\"opts\": [],\n    \"inputs\": null,"), "{}", found.json());
    assert_eq!(Request::named("frontend.nosuch"), None);
}
