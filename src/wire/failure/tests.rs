//! Each detail in the very form that Go clients read and write.

use super::*;
use crate::wire::proto::{pb, sourcepolicy};

fn url(name: &str) -> String {
    format!("github.com/moby/buildkit/{name}+json")
}

/// `detail` is written as `json`, and `json` is read as `detail`.
fn travels(detail: Detail, name: &str, json: &str) {
    let any = Any::from(detail.clone());
    assert_eq!(any.type_url, url(name));
    let written: serde_json::Value = serde_json::from_slice(&any.value).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(json).unwrap(), "{name}");
    let given = Any { type_url: url(name), value: json.as_bytes().to_vec() };
    assert_eq!(Detail::from(given), detail, "{name}");
}

#[test]
fn details_are_the_json_of_go() {
    travels(
        Detail::Vertex(errdefs::Vertex { digest: "sha256:ab".into() }),
        "errdefs.Vertex",
        r#"{"digest":"sha256:ab"}"#,
    );
    let at = |line, character| Some(pb::Position { line, character });
    travels(
        Detail::Source(errdefs::Source {
            info: Some(pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: b"FROM a\n".to_vec(),
                language: "Dockerfile".into(),
                definition: Some(pb::Definition { def: vec![vec![1, 2]], ..Default::default() }),
            }),
            ranges: vec![pb::Range { start: at(2, 0), end: at(2, 4) }, pb::Range { start: at(3, 0), end: None }],
        }),
        "errdefs.Source",
        r#"{"info":{"filename":"Dockerfile","data":"RlJPTSBhCg==","definition":{"def":["AQI="]},"language":"Dockerfile"},
            "ranges":[{"start":{"line":2},"end":{"line":2,"character":4}},{"start":{"line":3}}]}"#,
    );
    travels(
        Detail::Frontend(errdefs::Frontend { name: "dockerfile.v0".into(), source: String::new() }),
        "errdefs.Frontend",
        r#"{"name":"dockerfile.v0"}"#,
    );
    travels(Detail::FrontendCap(errdefs::FrontendCap { name: "x".into() }), "errdefs.FrontendCap", r#"{"name":"x"}"#);
    travels(Detail::Subrequest(errdefs::Subrequest { name: "x".into() }), "errdefs.Subrequest", r#"{"name":"x"}"#);
    travels(
        Detail::CompatibilityFeature(errdefs::CompatibilityFeature { version: 20, feature: "zstd".into() }),
        "errdefs.CompatibilityFeature",
        r#"{"version":20,"feature":"zstd"}"#,
    );
    travels(
        Detail::ProvenanceMaterialsIncomplete(errdefs::ProvenanceMaterialsIncomplete {
            incomplete: vec![errdefs::ProvenanceMaterialIncomplete { final_uri: "u".into(), ..Default::default() }],
        }),
        "errdefs.ProvenanceMaterialsIncomplete",
        r#"{"incomplete":[{"final_uri":"u"}]}"#,
    );
    travels(
        Detail::Stack(stack::Stack {
            frames: vec![stack::Frame { name: "main.main".into(), file: "main.go".into(), line: 33 }],
            cmdline: vec!["dockerd".into()],
            pid: 20047,
            ..Default::default()
        }),
        "stack.Stack",
        r#"{"frames":[{"Name":"main.main","File":"main.go","Line":33}],"cmdline":["dockerd"],"pid":20047}"#,
    );
    travels(
        Detail::Decision(policysession::DecisionResponse {
            action: sourcepolicy::PolicyAction::Deny as i32,
            deny_messages: vec![policysession::DenyMessage { message: "no".into() }],
            update: None,
        }),
        "policysession.DecisionResponse",
        r#"{"action":1,"denyMessages":[{"message":"no"}]}"#,
    );
    travels(Detail::Exit(gateway::ExitMessage { code: 3, error: None }), "gatewayapi.ExitMessage", r#"{"Code":3}"#);
    let inner = Any { type_url: "some/type".into(), value: vec![1, 2] };
    travels(
        Detail::Exit(gateway::ExitMessage {
            code: 255,
            error: Some(rpc::Status { code: 2, message: "m".into(), details: vec![inner] }),
        }),
        "gatewayapi.ExitMessage",
        r#"{"Code":255,"Error":{"code":2,"message":"m","details":[{"type_url":"some/type","value":"AQI="}]}}"#,
    );
}

#[test]
fn a_failed_op_travels_as_the_json_of_protobuf() {
    let exec = pb::ExecOp {
        meta: Some(pb::Meta { args: vec!["false".into()], cgroup_parent: "c".into(), ..Default::default() }),
        mounts: vec![pb::Mount { input: -1, dest: "/".into(), mount_type: 3, ..Default::default() }],
        ..Default::default()
    };
    travels(
        Detail::Solve(Box::new(errdefs::Solve {
            input_i_ds: vec!["i".into()],
            mount_i_ds: vec!["m".into(), String::new()],
            op: Some(pb::Op { op: Some(pb::OpKind::Exec(exec)), ..Default::default() }),
            subject: Some(errdefs::solve::Subject::File(errdefs::FileAction { index: 2 })),
            description: [("k".to_owned(), "v".to_owned())].into(),
        })),
        "errdefs.Solve",
        r#"{"inputIDs":["i"],"mountIDs":["m",""],
            "op":{"exec":{"meta":{"args":["false"],"cgroupParent":"c"},
                          "mounts":[{"input":"-1","dest":"/","mountType":"CACHE"}]}},
            "file":{"index":"2"},"description":{"k":"v"}}"#,
    );
}

#[test]
fn a_failure_survives_the_way_through_a_status() {
    let failure = Failure::new(Code::Unimplemented, "unsupported request x")
        .about(Detail::Stack(stack::Stack { pid: 1, ..Default::default() }))
        .about(Detail::Other(Any { type_url: "type.googleapis.com/foreign".into(), value: vec![0xff] }))
        .about(Detail::Subrequest(errdefs::Subrequest { name: "x".into() }));
    let status = Status::from(failure.clone());
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "unsupported request x"));
    assert_eq!(Failure::from(&status), failure);
    assert_eq!(Failure::from(rpc::Status::from(failure.clone())), failure);

    let bare = Status::from(Failure::new(Code::Unknown, "m"));
    assert!(bare.details().is_empty());
}

#[test]
fn what_cannot_be_read_is_passed_on_untouched() {
    for (name, value) in [
        (url("errdefs.Vertex"), "not json"),
        (url("errdefs.Vertex"), r#"{"digest":7}"#),
        (url("errdefs.Solve"), r#"{"op":[]}"#),
        (url("gatewayapi.ExitMessage"), r#"{"Code":1,"Error":{"details":[{"value":"%"}]}}"#),
        (url("errdefs.Later"), "{}"),
        ("errdefs.Vertex".to_owned(), "{}"),
    ] {
        let any = Any { type_url: name, value: value.as_bytes().to_vec() };
        assert_eq!(Detail::from(any.clone()), Detail::Other(any.clone()));
        assert_eq!(Any::from(Detail::Other(any.clone())), any);
    }
    let garbled = Status::with_details(Code::Internal, "m", vec![0xff, 0xff].into());
    assert_eq!(Failure::from(&garbled), Failure::new(Code::Internal, "m"));
}

#[test]
fn fields_of_a_later_version_are_no_reason_to_forget_the_others() {
    let any = Any { type_url: url("errdefs.Frontend"), value: br#"{"name":"n","since":1}"#.to_vec() };
    assert_eq!(Detail::from(any), Detail::Frontend(errdefs::Frontend { name: "n".into(), source: String::new() }));
}
