//! What decoding accepts, what it refuses, and that it survives anything.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::dice::Dice;
use crate::graph::op::*;
use crate::graph::ContentCache;
use crate::llb::{encode, encode_op};

fn text(dice: &mut Dice) -> String {
    dice.pick(&["", "/", "a", "/src/x*", "ä/b c", "KEY=value", "-1"]).to_owned()
}

fn texts(dice: &mut Dice) -> Vec<String> {
    (0..dice.below(3)).map(|_| text(dice)).collect()
}

fn attrs(dice: &mut Dice) -> BTreeMap<String, String> {
    (0..dice.below(3)).map(|_| (text(dice), text(dice))).collect()
}

fn optional(dice: &mut Dice, below: usize) -> Option<usize> {
    (below > 0 && !dice.one_in(4)).then(|| dice.below(below))
}

fn run(dice: &mut Dice, inputs: usize) -> Op {
    let proxy_env = dice.one_in(3).then(|| ProxyEnv { http: text(dice), ..ProxyEnv::default() });
    let mut mounts = vec![Mount {
        input: optional(dice, inputs),
        selector: String::new(),
        dest: "/".into(),
        output: Some(OutputIndex(0)),
        readonly: dice.one_in(4),
        kind: MountKind::Bind,
        content_cache: dice.pick(&[ContentCache::Default, ContentCache::Off]),
    }];
    for _ in 0..dice.below(4) {
        let secret = SecretMount {
            id: text(dice),
            uid: dice.below(9) as u32,
            optional: dice.one_in(2),
            ..SecretMount::default()
        };
        let sharing = dice.pick(&[Sharing::Shared, Sharing::Private, Sharing::Locked]);
        let kind = match dice.below(5) {
            0 => MountKind::Secret(secret),
            1 => MountKind::Ssh(secret),
            2 => MountKind::Cache { id: text(dice), sharing },
            3 => MountKind::Tmpfs { size: dice.below(99) as i64 },
            _ => MountKind::Bind,
        };
        mounts.push(Mount {
            input: optional(dice, inputs),
            selector: text(dice),
            dest: text(dice),
            output: None,
            readonly: dice.one_in(2),
            kind,
            content_cache: dice.pick(&[ContentCache::Default, ContentCache::On, ContentCache::Off]),
        });
    }
    if dice.one_in(3) {
        let second = Mount { dest: "/out".into(), output: Some(OutputIndex(1)), ..mounts[0].clone() };
        mounts.push(second);
    }
    Op::Run(RunOp {
        meta: Box::new(Meta {
            args: vec!["sh".into(), text(dice)],
            env: texts(dice),
            cwd: text(dice),
            user: text(dice),
            proxy_env,
            extra_hosts: vec![HostIp { host: text(dice), ip: text(dice) }],
            hostname: text(dice),
            ulimits: vec![Ulimit { name: text(dice), soft: -1, hard: dice.below(9) as i64 }],
            cgroup_parent: text(dice),
            remove_mount_stubs_recursive: dice.one_in(2),
            valid_exit_codes: vec![0, -1, 300],
        }),
        mounts,
        network: dice.pick(&[Network::Sandbox, Network::Host, Network::None]),
        security: dice.pick(&[Security::Sandbox, Security::Insecure]),
        secret_env: vec![SecretEnv { id: text(dice), name: text(dice), optional: dice.one_in(2) }],
        devices: vec![CdiDevice { name: text(dice), optional: dice.one_in(2) }],
    })
}

fn file(dice: &mut Dice, inputs: usize) -> Op {
    let mut actions: Vec<FileAction> = vec![];
    let count = 1 + dice.below(4);
    for number in 0..count {
        let existing = |dice: &mut Dice| match dice.below(3) {
            0 if number > 0 => ActionInput::Action(dice.below(number)),
            1 if inputs > 0 => ActionInput::Input(dice.below(inputs)),
            _ => ActionInput::Scratch,
        };
        let owner = |dice: &mut Dice| {
            let named = match existing(dice) {
                ActionInput::Scratch => UserOpt::Id(7),
                input => UserOpt::Name { name: text(dice), input },
            };
            dice.one_in(2).then_some(ChownOpt { user: Some(named), group: dice.one_in(2).then_some(UserOpt::Id(0)) })
        };
        let timestamp = dice.one_in(2).then(|| dice.below(99) as i64);
        let symbolic = if dice.one_in(2) { text(dice) } else { String::new() };
        let kind = match dice.below(5) {
            0 => FileActionKind::MkFile {
                path: text(dice),
                mode: 0o644,
                data: vec![0xff, 0],
                owner: owner(dice),
                timestamp,
            },
            1 => FileActionKind::MkDir {
                path: text(dice),
                mode: 0o755,
                make_parents: dice.one_in(2),
                owner: owner(dice),
                timestamp,
            },
            2 => {
                FileActionKind::Rm { path: text(dice), allow_not_found: dice.one_in(2), allow_wildcard: dice.one_in(2) }
            }
            3 => FileActionKind::Symlink { oldpath: text(dice), newpath: text(dice), owner: owner(dice), timestamp },
            _ => FileActionKind::Copy(FileCopy {
                src: text(dice),
                dest: text(dice),
                owner: owner(dice),
                // One of the two: a symbolic mode is stronger, so the wire has no place for both.
                mode: if symbolic.is_empty() { dice.one_in(2).then(|| dice.below(0o777) as u32) } else { None },
                mode_str: symbolic,
                follow_symlink: dice.one_in(2),
                dir_copy_contents: dice.one_in(2),
                attempt_unpack: dice.one_in(2),
                create_dest_path: dice.one_in(2),
                allow_wildcard: dice.one_in(2),
                allow_empty_wildcard: dice.one_in(2),
                timestamp,
                include: texts(dice),
                exclude: texts(dice),
                always_replace: dice.one_in(2),
                required_paths: texts(dice),
            }),
        };
        let output = (number + 1 == count).then_some(OutputIndex(0));
        actions.push(FileAction { input: existing(dice), secondary: existing(dice), output, kind });
    }
    Op::File(FileOp { actions })
}

fn random_graph(seed: u64) -> Graph {
    let dice = &mut Dice::new(seed);
    let mut graph = GraphBuilder::new();
    let mut outputs: Vec<OutputRef> = vec![];
    let info =
        Arc::new(SourceInfo { filename: "Dockerfile".into(), language: "Dockerfile".into(), data: vec![1, 0xff] });
    for number in 0..1 + dice.below(12) {
        let inputs: Vec<OutputRef> =
            if outputs.is_empty() { vec![] } else { (0..dice.below(4)).map(|_| dice.pick(&outputs)).collect() };
        let n = inputs.len();
        let op = match dice.below(8) {
            0 | 1 => run(dice, n),
            2 | 3 => file(dice, n),
            4 => Op::Merge(MergeOp { inputs: (0..dice.below(3)).map(|_| optional(dice, n)).collect() }),
            5 => Op::Diff(DiffOp { lower: optional(dice, n), upper: optional(dice, n) }),
            6 if n > 0 => Op::Build(BuildOp { inputs: [(text(dice), dice.below(n))].into(), attrs: attrs(dice) }),
            7 if n > 0 => Op::Passthrough(PassthroughOp { id: "id".into(), outputs: (0..n).collect() }),
            _ => Op::Source(SourceOp { identifier: format!("local://{number}"), attrs: attrs(dice) }),
        };
        let hints = Hints {
            ignore_cache: dice.one_in(3),
            export_cache: dice.one_in(3).then(|| dice.one_in(2)),
            description: attrs(dice),
            caps: if dice.one_in(2) { [("mergeop".to_owned(), true)].into() } else { BTreeMap::new() },
            progress_group: dice.one_in(3).then(|| ProgressGroup { id: text(dice), name: text(dice), weak: true }),
            resources: dice.one_in(3).then(|| LinuxResources { memory: 1 << 30, ..LinuxResources::default() }),
        };
        let at = Range { start: Position { line: number as i32, character: 3 }, end: Position::default() };
        let origin =
            dice.one_in(2).then(|| Origin { locations: vec![Location { source: info.clone(), ranges: vec![at] }] });
        let platform = dice.one_in(2).then(Platform::host);
        let count = op.outputs() as u32;
        let vertex = graph.add(NewVertex { op, inputs, platform, hints, origin });
        outputs.extend((0..count).map(|output| OutputRef { vertex, output: OutputIndex(output) }));
    }
    let target = dice.pick(&outputs);
    graph.finish(vec![target]).unwrap()
}

proptest! {
    #[test]
    fn what_was_encoded_decodes_to_the_same_graph(seed: u64) {
        let graph = random_graph(seed);
        let definition = encode(&graph, graph.targets()[0]);
        let again = decode_bytes(&definition.encode_to_vec()).unwrap();
        prop_assert_eq!(&again, &graph);
        prop_assert_eq!(encode(&again, again.targets()[0]), definition);
    }

    #[test]
    fn any_bytes_are_a_graph_or_an_error(bytes: Vec<u8>) {
        let _ = decode_bytes(&bytes);
        let definition = pb::Definition { def: vec![bytes.clone(), bytes], ..pb::Definition::default() };
        let _ = decode(&definition);
        let _ = crate::llb::json(&definition);
    }

    #[test]
    fn a_damaged_definition_is_a_graph_or_an_error(seed: u64, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9)) {
        let graph = random_graph(seed);
        let mut definition = encode(&graph, graph.targets()[0]);
        let mut bytes = definition.encode_to_vec();
        for (at, byte) in &damage {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        let _ = decode_bytes(&bytes);
        // Damage inside one op, with every reference to it renamed: it gets further than the digests.
        let (at, byte) = &damage[0];
        let op = definition.def.first_mut().unwrap();
        let at = at.index(op.len());
        op[at] = *byte;
        let id = VertexId::of(op);
        let terminal = pb::Op { inputs: vec![pb::Input { digest: id.to_string(), index: 0 }], ..pb::Op::default() };
        let _ = decode(&pb::Definition { def: vec![op.clone(), terminal.encode_to_vec()], ..pb::Definition::default() });
    }
}

/// A definition of one op on `inputs` scratch-like sources, without any check on the way.
fn definition(inputs: usize, op: pb::OpKind) -> pb::Definition {
    let source = |n: usize| {
        encode_op(&Op::Source(SourceOp { identifier: format!("local://{n}"), attrs: BTreeMap::new() }), &[], None)
    };
    let mut def: Vec<Vec<u8>> = (0..inputs).map(source).collect();
    let reference = |bytes: &Vec<u8>| pb::Input { digest: VertexId::of(bytes).to_string(), index: 0 };
    let message = pb::Op { inputs: def.iter().map(reference).collect(), op: Some(op), ..pb::Op::default() };
    def.push(message.encode_to_vec());
    let terminal = pb::Op { inputs: def.last().map(reference).into_iter().collect(), ..pb::Op::default() };
    def.push(terminal.encode_to_vec());
    pb::Definition { def, ..pb::Definition::default() }
}

fn root() -> pb::Mount {
    pb::Mount { input: -1, dest: "/".into(), output: 0, ..pb::Mount::default() }
}

fn exec(mounts: Vec<pb::Mount>) -> pb::ExecOp {
    pb::ExecOp {
        meta: Some(pb::Meta { args: vec!["true".into()], ..pb::Meta::default() }),
        mounts,
        ..pb::ExecOp::default()
    }
}

fn rm(input: i64, output: i64) -> pb::FileAction {
    let action = pb::FileActionRm { path: "/x".into(), ..pb::FileActionRm::default() };
    pb::FileAction { input, secondary_input: -1, output, action: Some(pb::FileActionKind::Rm(action)) }
}

fn files(actions: Vec<pb::FileAction>) -> pb::OpKind {
    pb::OpKind::File(pb::FileOp { actions })
}

fn mkdir_by(user: pb::NamedUserOpt) -> pb::FileAction {
    let user = Some(pb::UserOpt { user: Some(pb::UserKind::ByName(user)) });
    let owner = Some(pb::ChownOpt { user, group: None });
    let action = pb::FileActionMkDir { path: "/x".into(), owner, ..pb::FileActionMkDir::default() };
    pb::FileAction { action: Some(pb::FileActionKind::MkDir(action)), ..rm(-1, 0) }
}

#[test]
fn ops_that_make_no_sense_are_refused_in_the_words_of_buildkit() {
    let run = |mounts| pb::OpKind::Exec(exec(mounts));
    let on = pb::Mount { content_cache: 1, selector: "/src".into(), ..root() };
    let cases: Vec<(pb::Definition, &str)> = vec![
        (definition(0, pb::OpKind::Exec(pb::ExecOp::default())), "invalid exec op with no meta"),
        (
            definition(0, pb::OpKind::Exec(pb::ExecOp { meta: Some(pb::Meta::default()), ..exec(vec![root()]) })),
            "invalid exec op with no args",
        ),
        (definition(0, run(vec![])), "invalid exec op with no mounts"),
        (definition(0, run(vec![pb::Mount { dest: "/x".into(), ..root() }])), "invalid exec op with no rootfs"),
        (definition(0, run(vec![pb::Mount { mount_type: 9, ..root() }])), "invalid mount type 9"),
        (
            definition(0, run(vec![pb::Mount { mount_type: 3, ..root() }])),
            "invalid exec op with no cache mount options",
        ),
        (definition(0, run(vec![pb::Mount { input: 1, ..root() }])), "invalid input index 1, 0 provided"),
        (definition(0, run(vec![pb::Mount { input: -2, ..root() }])), "invalid mount input -2"),
        (definition(0, run(vec![on])), "invalid mount cache content /"),
        (definition(0, run(vec![root(), root()])), "duplicate output 0"),
        (definition(0, run(vec![root(), pb::Mount { output: 2, ..root() }])), "missing output index 1"),
        (definition(0, pb::OpKind::Exec(pb::ExecOp { network: 3, ..exec(vec![root()]) })), "invalid network mode 3"),
        (
            definition(0, pb::OpKind::Exec(pb::ExecOp { security: -1, ..exec(vec![root()]) })),
            "invalid security mode -1",
        ),
        (definition(0, files(vec![])), "invalid file op with no actions"),
        (definition(0, files(vec![pb::FileAction { action: None, ..rm(-1, 0) }])), "invalid file op with nil action"),
        (definition(1, files(vec![rm(2, 0)])), "invalid input index 2, 2 provided"),
        (definition(1, files(vec![rm(1, 0)])), "loop from index 0"),
        (definition(0, files(vec![rm(-1, -1)])), "no outputs specified"),
        (definition(0, files(vec![rm(-1, 0), rm(0, 0)])), "duplicate output 0"),
        (definition(0, files(vec![rm(-1, 1)])), "missing output index 0"),
        (
            definition(0, files(vec![mkdir_by(pb::NamedUserOpt { name: "app".into(), input: -1 })])),
            "invalid user index -1",
        ),
        (definition(0, pb::OpKind::Diff(pb::DiffOp::default())), "invalid diff op with nil lower or upper input"),
        (
            definition(0, pb::OpKind::Merge(pb::MergeOp { inputs: vec![pb::InputIndex { input: 0 }] })),
            "invalid input index 0, 0 provided",
        ),
        (definition(0, pb::OpKind::Build(pb::BuildOp::default())), "invalid builder 0"),
        (definition(0, pb::OpKind::Passthrough(pb::PassthroughOp::default())), "invalid passthrough op with no id"),
        (
            definition(0, pb::OpKind::Passthrough(pb::PassthroughOp { id: "a".into(), outputs: vec![] })),
            "invalid passthrough op with no outputs",
        ),
    ];
    for (definition, expected) in cases {
        assert_eq!(decode(&definition).unwrap_err().to_string(), expected);
    }
    decode(&definition(0, run(vec![root()]))).unwrap();
    decode(&definition(1, files(vec![rm(0, -1), rm(1, 0)]))).unwrap();
}

#[test]
fn definitions_without_a_result_are_refused_in_the_words_of_buildkit() {
    let good = definition(1, files(vec![rm(0, 0)]));
    let with = |change: fn(&mut pb::Definition)| {
        let mut changed = good.clone();
        change(&mut changed);
        decode(&changed).unwrap_err().to_string()
    };
    fn terminal(definition: &mut pb::Definition, input: pb::Input) {
        let bytes = pb::Op { inputs: vec![input], ..pb::Op::default() }.encode_to_vec();
        *definition.def.last_mut().unwrap() = bytes;
    }
    assert_eq!(with(|d| d.def.clear()), "invalid empty definition");
    assert_eq!(with(|d| d.def.truncate(1)), "invalid LLB with 1 vertexes");
    assert_eq!(with(|d| *d.def.last_mut().unwrap() = vec![]), "invalid LLB with no inputs on last vertex");
    assert_eq!(with(|d| drop(d.def.pop())), "invalid LLB with an op on last vertex");
    let missing = with(|d| drop(d.def.remove(0)));
    assert!(missing.starts_with("invalid missing input digest sha256:"), "{missing}");
    let garbage = with(|d| d.def[0] = vec![0xff]);
    assert!(garbage.starts_with("failed to parse llb proto op: "), "{garbage}");
    assert_eq!(with(|d| d.def[0] = vec![]), "invalid nil op");
    let first = VertexId::of(&good.def[1]).to_string();
    assert_eq!(first.len(), 71);
    let negative = with(|d| {
        let digest = VertexId::of(&d.def[1]).to_string();
        terminal(d, pb::Input { digest, index: -1 });
    });
    assert_eq!(negative, "invalid input 0 output index -1");
    let beyond = with(|d| {
        let digest = VertexId::of(&d.def[1]).to_string();
        terminal(d, pb::Input { digest, index: 7 });
    });
    assert_eq!(beyond, "invalid input 0 output index 7");
    let digest = with(|d| terminal(d, pb::Input { digest: "sha256:XY".into(), index: 0 }));
    assert!(digest.starts_with("invalid digest"), "{digest}");
    let cap = with(|d| {
        let caps = [("source.teleport".to_owned(), true)].into();
        let id = VertexId::of(&d.def[1]).to_string();
        d.metadata.insert(id, pb::OpMetadata { caps, ..pb::OpMetadata::default() });
    });
    assert_eq!(cap, "unknown API capability source.teleport");
}

#[test]
fn inputs_may_follow_their_users() {
    let mut backwards = definition(2, files(vec![rm(0, 0)]));
    backwards.def[..3].reverse();
    let graph = decode(&backwards).unwrap();
    assert_eq!(graph.vertices().last().unwrap().id, graph.targets()[0].vertex);
}

/// What a Go client writes for `llb.Local("src")` and a copy from it, byte for byte.
#[test]
fn ops_are_written_as_go_writes_them() {
    let attrs = [("local.unique".to_owned(), String::new()), ("local.differ".to_owned(), "none".to_owned())];
    let source = Op::Source(SourceOp { identifier: "local://s".into(), attrs: attrs.into() });
    // field 3 (source) { 1: identifier, 2: entries sorted by key, each with key and value even when empty }, field 11 {}
    let expected = [
        b"\x1a\x33\x0a\x09local://s\x12\x14\x0a\x0clocal.differ\x12\x04none".as_slice(),
        b"\x12\x10\x0a\x0clocal.unique\x12\x00\x5a\x00",
    ]
    .concat();
    assert_eq!(encode_op(&source, &[], None), expected);
}
