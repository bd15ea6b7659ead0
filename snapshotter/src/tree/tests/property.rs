use proptest::prelude::*;

use super::*;

/// What a tree may be made of; two maps are equal iff their trees are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    File { content: Vec<u8>, mode: u32 },
    Link(String),
    Dir { mode: u32 },
}

type Plan = BTreeMap<Vec<u8>, Made>;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"a".to_vec()),
        Just(b"b".to_vec()),
        Just(b"ab".to_vec()),
        Just(b"\xff\n".to_vec()),
        Just(b"c d".to_vec())
    ]
}

fn made() -> impl Strategy<Value = Made> {
    let mode = prop_oneof![Just(0o644), Just(0o755), Just(0o600)];
    prop_oneof![
        3 => (prop::collection::vec(any::<u8>(), 0..3), mode).prop_map(|(content, mode)| Made::File { content, mode }),
        1 => prop_oneof![Just("a".to_owned()), Just("../b".to_owned())].prop_map(Made::Link),
        1 => prop_oneof![Just(0o755), Just(0o700)].prop_map(|mode| Made::Dir { mode }),
    ]
}

/// Entries whose parents are all directories.
fn plan() -> impl Strategy<Value = Plan> {
    let entry = (prop::collection::vec(name(), 1..4), made());
    prop::collection::vec(entry, 0..8).prop_map(|entries| {
        let mut plan = Plan::new();
        'next: for (path, made) in entries {
            for depth in 1..path.len() {
                let parent = path[..depth].join(&b'/');
                match plan.entry(parent).or_insert(Made::Dir { mode: 0o755 }) {
                    Made::Dir { .. } => {}
                    _ => continue 'next,
                }
            }
            plan.entry(path.join(&b'/')).or_insert(made);
        }
        plan
    })
}

fn build(plan: &Plan) -> Dir {
    let dir = Dir::new();
    for (path, made) in plan {
        let path = dir.0.path().join(bytes(path));
        let mode = match made {
            Made::File { content, mode } => {
                fs::write(&path, content).unwrap();
                *mode
            }
            Made::Dir { mode } => {
                fs::create_dir(&path).unwrap();
                *mode
            }
            Made::Link(target) => {
                std::os::unix::fs::symlink(target, &path).unwrap();
                continue;
            }
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    dir
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn digests_are_equal_iff_trees_are(one in plan(), two in plan()) {
        let digests = [&one, &two, &one].map(|plan| build(plan).hash("/").unwrap());
        prop_assert_eq!(digests[0], digests[2]);
        prop_assert_eq!(digests[0] == digests[1], one == two);
    }

    #[test]
    fn one_change_changes_the_digest(mut plan in plan(), at in any::<prop::sample::Index>(), to in made()) {
        prop_assume!(!plan.is_empty());
        let before = build(&plan).hash("/").unwrap();
        let path = at.get(&plan.keys().cloned().collect::<Vec<_>>()).clone();
        let below = [path.clone(), b"/".to_vec()].concat();
        prop_assume!(!plan.keys().any(|other| other.starts_with(&below)));
        let old = plan.insert(path, to.clone());
        prop_assert_eq!(build(&plan).hash("/").unwrap() == before, old == Some(to));
    }

    #[test]
    fn a_copy_has_the_digest_of_what_was_copied(plan in plan()) {
        let (from, to) = (build(&plan), Dir::new());
        let copied = Copying::new("/", "/").run(&from, &to).unwrap();
        prop_assert_eq!(copied.digest, from.hash("/").unwrap());
        prop_assert_eq!(copied.digest, to.hash("/").unwrap());
    }
}
