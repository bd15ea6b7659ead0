use super::*;

fn says(patterns: &[&str], path: &str) -> bool {
    Patterns::new(patterns).unwrap().matches(path)
}

/// As a walk would come to the answer.
fn walked(patterns: &[&str], path: &str) -> bool {
    let patterns = Patterns::new(patterns).unwrap();
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.fold(Matched::default(), |parent, end| patterns.step(&parent, &path.as_bytes()[..end])).is_match()
}

#[test]
fn patterns_are_found_by_their_first_component_wherever_it_is_one() {
    let many = |more: &[&str]| {
        let list: Vec<String> =
            (0..50).map(|n| format!("dir{n}/**/*.o")).chain(more.iter().map(|s| s.to_string())).collect();
        Patterns::new(&list).unwrap()
    };
    let patterns = many(&["a+/x*", "(b)/y*", "c|d/z*", "/e/*", "!dir7/**/keep.o"]);
    for (path, wanted) in [
        ("dir7/a/b/x.o", true),
        ("dir7/x.o", true),
        ("dir7/a/keep.o", false),
        ("dir77/x.o", false),
        ("x/dir7/x.o", false),
        ("a+/x1", true),
        ("aaa/x1", false),
        ("(b)/y1", true),
        ("c|d/z1", true),
        ("e/f", false),
        ("/e/f", true),
    ] {
        assert_eq!(patterns.matches(path), wanted, "{path}");
    }
    let excluded = patterns.step(&Matched::default(), b"dir7/x.o");
    assert!(patterns.may_differ_below(b"dir7", &excluded) && !patterns.may_differ_below(b"dir8", &excluded));
    let anywhere = many(&["!**/keep"]);
    assert!(anywhere.may_differ_below(b"dir8", &excluded));
}

#[test]
fn patterns_name_paths_and_all_below_them() {
    let cases: &[(&[&str], &str, bool)] = &[
        (&[], "a", false),
        (&[""], "a", false),
        (&["a"], "a", true),
        (&["a"], "a/b/c", true),
        (&["a"], "b/a", false),
        (&["/a"], "a", false),
        (&["./a/"], "a/b", true),
        (&["a/../b"], "b", true),
        (&["*"], ".hidden", true),
        (&["*.rs"], "main.rs", true),
        (&["*.rs"], "src/main.rs", false),
        (&["*/main.rs"], "src/main.rs", true),
        (&["**/*.rs"], "main.rs", true),
        (&["**/*.rs"], "a/b/main.rs", true),
        (&["src/**/x"], "src/x", true),
        (&["src/**/x"], "src/a/b/x", true),
        (&["src/**"], "src", false),
        (&["src/**"], "src/a", true),
        (&["**/target"], "target", true),
        (&["**/target"], "a/target/b", true),
        (&["**target"], "a/xtarget", true),
        (&["tar**"], "target/x", true),
        (&["?"], "a", true),
        (&["?"], "é", true),
        (&["??"], "é", false),
        (&["?"], "ab", false),
        (&["[a-c]x"], "bx", true),
        (&["[^a-c]x"], "bx", false),
        (&["[!a]x"], "bx", false),
        (&["[!a]x"], "!x", true),
        (&["a\\*b"], "a*b", true),
        (&["a\\*b"], "axb", false),
        (&["a.b"], "axb", false),
        (&["a+(b)|{c}$"], "a+(b)|{c}$", true),
        (&["*", "!a"], "a", false),
        (&["*", "!a"], "a/b", false),
        (&["*", "!a", "a/b"], "a/b", true),
        (&["!a", "a"], "a", true),
        (&["a", "! a"], "a", true),
        (&["a", "!a/b"], "a/b/c", false),
        (&["a", "!a/b"], "a/c", true),
        (&["**", "!**/keep/*.txt"], "x/keep/a.txt", false),
        (&["**", "!**/keep/*.txt"], "x/drop/a.txt", true),
        (&["with space"], "with space", true),
        (&["line\nbreak"], "line\nbreak/x", true),
    ];
    for (patterns, path, expected) in cases {
        assert_eq!(says(patterns, path), *expected, "{patterns:?} on {path:?}");
        assert_eq!(walked(patterns, path), *expected, "{patterns:?} walked to {path:?}");
    }
}

#[test]
fn a_negated_parent_that_was_not_excluded_stays_unnoticed_by_a_walk() {
    let patterns = ["dir/x", "!dir"];
    assert!(!says(&patterns, "dir/x"));
    assert!(walked(&patterns, "dir/x"));
}

#[test]
fn names_need_not_be_text() {
    let patterns = Patterns::new(&["?", "x?y", "*.bin", "**/raw"]).unwrap();
    assert!(patterns.matches(b"\xff"));
    assert!(patterns.matches(b"x\xffy"));
    assert!(!patterns.matches(b"x\xff\xfey"));
    assert!(patterns.matches(b"\xff\xfe.bin"));
    assert!(patterns.matches(b"\xff/raw"));
}

#[test]
fn patterns_that_mean_nothing_are_refused() {
    for pattern in ["[", "[]", "[a", "[-a]", "[a-]", "a\\", "[]a]", "x/[b-a]/*", "\\j*"] {
        let error = Patterns::new(&[pattern]).unwrap_err();
        assert!(error.to_string().starts_with("syntax error in pattern"), "{pattern}: {error}");
    }
    assert_eq!(Patterns::new(&["!"]).unwrap_err(), BadPattern::LoneNegation);
}

#[test]
fn a_directory_is_entered_only_if_its_entries_could_differ() {
    let cases: &[(&[&str], &str, bool)] = &[
        (&["a"], "a", false),
        (&["a", "!b/x"], "a", false),
        (&["a", "!a/x"], "a", true),
        (&["a", "!a/x/y"], "a/x", true),
        (&["a", "!a/x/y"], "a/z", false),
        (&["a", "!**/x"], "a", true),
        (&["a", "!a/b"], "a/b/c", false),
        (&["*", "!a*/x"], "b", true),
        (&["a", "!a/**"], "a", true),
    ];
    for (patterns, dir, enter) in cases {
        let patterns = Patterns::new(patterns).unwrap();
        let at = Matched { by: Vec::new(), hit: true };
        assert_eq!(patterns.may_differ_below(dir.as_bytes(), &at), *enter, "{patterns:?} at {dir}");
    }
}

#[test]
fn every_path_below_an_unentered_directory_is_judged_like_it() {
    let lists: &[&[&str]] =
        &[&["a", "!a/b/c"], &["*", "!a/b"], &["**/b", "!a/**/d"], &["a*", "!?/b", "a/b/c"], &["a/**", "!a/b", "**/d"]];
    let names = ["a", "b", "c", "d", "ab"];
    for list in lists {
        let patterns = Patterns::new(list).unwrap();
        for one in names {
            let first = patterns.step(&Matched::default(), one.as_bytes());
            for two in names {
                let path = format!("{one}/{two}");
                let second = patterns.step(&first, path.as_bytes());
                let entered = patterns.may_differ_below(one.as_bytes(), &first);
                assert!(entered || second.is_match() == first.is_match(), "{list:?}: {path} differs from {one}");
                for three in names {
                    let path = format!("{one}/{two}/{three}");
                    let third = patterns.step(&second, path.as_bytes());
                    assert!(entered || third.is_match() == first.is_match(), "{list:?}: {path} differs from {one}");
                }
            }
        }
    }
}

#[test]
fn many_and_deep_patterns_are_tried_quickly() {
    // What this thread works; what others take does not count.
    let worked = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).tv_sec;
    let began = worked();
    let mut list: Vec<String> = (0..10_000).map(|n| format!("dir{n}/*/file{n}*.[ch]")).collect();
    list.extend((0..10_000).map(|n| format!("**/name{n}")));
    list.push(format!("{}x", "**/".repeat(500)));
    list.push(format!("{}b", "a*".repeat(500)));
    let patterns = Patterns::new(&list).unwrap();
    for n in 0..200 {
        assert!(!patterns.matches(format!("dir{n}/sub/other{n}/{}", "a".repeat(200))));
        assert!(patterns.matches(format!("dir{n}/sub/file{n}-1.c")));
        assert!(patterns.matches(format!("some/where/name{n}")));
    }
    assert!(worked() - began < 5, "took {} s", worked() - began);
}

#[test]
fn globs_match_all_of_a_name() {
    let cases = [
        ("abc", "abc", true),
        ("*", "abc", true),
        ("*c", "abc", true),
        ("a*", "ab/c", false),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("ab[^e-g]", "abc", true),
        ("ab[^b-d]", "abc", false),
        ("a[\\-x]", "a-", true),
        ("[\\]a]", "]", true),
        ("a\\*b", "a*b", true),
        ("a?", "aé", true),
        ("", "", true),
        ("", "a", false),
    ];
    for (pattern, name, expected) in cases {
        assert_eq!(Glob::new(pattern).unwrap().matches(name), expected, "{pattern} on {name}");
    }
    assert!(has_wildcards("a[") && !has_wildcards("a\\*b\\?"));
}

#[test]
fn paths_are_cleaned_as_go_does() {
    let cases = [
        ("", "."),
        ("a//b/./c/", "a/b/c"),
        ("../a", "../a"),
        ("/../a", "/a"),
        ("a/../..", ".."),
        ("/", "/"),
        ("a/..", "."),
    ];
    for (given, cleaned) in cases {
        assert_eq!(clean(given), cleaned, "{given}");
    }
}
