use super::*;

fn env() -> Vec<(String, String)> {
    [("HOME", "/root"), ("EMPTY", ""), ("LIST", "a b  c"), ("FILE", "dir/lib.tar.gz"), ("A", "old"), ("A", "new")]
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .to_vec()
}

fn word(text: &str) -> String {
    expand(text, &env(), Mode::words('\\')).unwrap().text
}

#[test]
fn words_lose_quotes_and_gain_values() {
    for (text, expected) in [
        ("plain", "plain"),
        ("a'b c'd", "ab cd"),
        ("\"$HOME\"", "/root"),
        ("'$HOME'", "$HOME"),
        ("\\$HOME", "$HOME"),
        ("\"\\$HOME \\x \\\"\"", "$HOME \\x \""),
        ("$HOME/$A/${A}b", "/root/new/newb"),
        ("$Ab", ""),
        ("$", "$"),
        ("a$/b", "a$/b"),
        ("$1$@x", "x"),
        ("end\\", "end"),
        ("한$HOME.글", "한/root.글"),
        ("${NONE:-x}${EMPTY:-y}${EMPTY-z}", "xy"),
        ("${A:+x}${EMPTY:+y}${EMPTY+z}${NONE+w}", "xz"),
        ("${A:?no}${EMPTY?no}", "new"),
        ("${NONE:-${HOME}/x}", "/root/x"),
        ("${NONE:-'a}b'}", "a}b"),
        ("${NONE:-\\}}", "}"),
        ("${FILE#*/}", "lib.tar.gz"),
        ("${FILE##*.}", "gz"),
        ("${FILE%.*}", "dir/lib.tar"),
        ("${FILE%%.*}", "dir/lib"),
        ("${FILE%.zip}", "dir/lib.tar.gz"),
        ("${FILE/lib/bin}", "dir/bin.tar.gz"),
        ("${FILE//[.]/-}", "dir/lib.tar.gz"),
        ("${FILE//./-}", "dir/lib-tar-gz"),
        ("${FILE/\\//:}", "dir:lib.tar.gz"),
        ("${FILE/r*a/X}", "diXr.gz"),
        ("${EMPTY//*/x}", "x"),
        ("${HOME//?/x}", "xxxxx"),
        ("${NONE%x}", ""),
    ] {
        assert_eq!(word(text), expected, "{text}");
    }
}

#[test]
fn wrong_words_are_refused() {
    for (text, reason) in [
        ("'a", "unexpected end of statement while looking for matching single-quote"),
        ("\"a", "unexpected end of statement while looking for matching double-quote"),
        ("${A", "syntax error: missing '}'"),
        ("${", "syntax error: missing '}'"),
        ("${A:-b", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${A=b}", "unsupported modifier (=) in substitution"),
        ("${A:=b}", "unsupported modifier (:=) in substitution"),
        ("${A:#b}", "unsupported modifier (:#) in substitution"),
        ("${NONE?gone}", "NONE: gone"),
        ("${NONE:?}", "NONE: is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${A/x}", "syntax error: missing '/' in ${}"),
        ("${A#\\x}", "invalid pattern (\\x) in substitution: invalid escape '\\x'"),
    ] {
        let error = expand(text, &env(), Mode::words('\\')).unwrap_err();
        assert_eq!(error.reason, reason, "{text}");
        assert_eq!(error.to_string(), format!("failed to process {}: {reason}", quote(text)));
    }
}

#[test]
fn hostile_words_are_refused_in_time() {
    let nested = "${NONE:-".repeat(100_000);
    let error = expand(&nested, &env(), Mode::words('\\')).unwrap_err();
    assert_eq!(error.reason, "substitutions are nested too deeply");
    let long = vec![("X".to_string(), "x".repeat(LONGEST))];
    let error = expand("$X$X$X", &long, Mode::words('\\')).unwrap_err();
    assert_eq!(error.reason, "the result is too long");
    let long = vec![("X".to_string(), "a".repeat(60_000)), ("P".to_string(), "*a".repeat(30_000))];
    let error = expand("${X%$P}", &long, Mode::words('\\')).unwrap_err();
    assert_eq!(error.reason, "the pattern is too long for its value");
    // Trying each place by itself would take minutes.
    assert_eq!(expand("${X%*b}${X//*b/}${X##*a*a}", &long, Mode::words('\\')).unwrap().text.len(), 120_000);
}

#[test]
fn patterns_stay_on_a_line_and_match_in_turn() {
    let lines = vec![("L".to_string(), "ab\nab".to_string()), ("A".to_string(), "aXbXc".to_string())];
    for (text, expected) in [
        ("${L#*b}", "\nab"),
        ("${L##*b}", "\nab"),
        ("${L%%a*}", "ab\n"),
        ("${L//b*/-}", "a-\na-"),
        ("${L//*/-}", "-\n-"),
        ("${A//X/}", "abc"),
        ("${A/X*X/}", "ac"),
        ("${A//**/-}", "-"),
        ("${A%X?}", "aXb"),
        ("${A%%X*}", "a"),
        ("${A##*X}", "c"),
    ] {
        assert_eq!(expand(text, &lines, Mode::words('\\')).unwrap().text, expected, "{text}");
    }
}

#[test]
fn values_are_split_unless_quoted() {
    for (text, expected) in [
        ("x$LIST", vec!["xa", "b", "c"]),
        ("\"$LIST\" d", vec!["a b  c", "d"]),
        ("a\\ b", vec!["a b"]),
        ("\\ a \u{a0}b' c '", vec![" a", "b c "]),
        ("$NONE", vec![]),
        ("  ", vec![]),
    ] {
        let expanded = expand(text, &env(), Mode::words('\\')).unwrap();
        assert_eq!(expanded.words().collect::<Vec<_>>(), expected, "{text}");
    }
}

#[test]
fn command_lines_keep_what_is_not_known() {
    for (text, expected) in [
        ("echo \"$HOME\" '$HOME' $NONE", "echo \"/root\" '$HOME' $NONE"),
        ("${NONE} ${NONE:-$A}", "${NONE} ${NONE:-new}"),
        ("${NONE//a/b}", "${NONE//a/b}"),
    ] {
        assert_eq!(expand(text, &env(), Mode::display('\\')).unwrap().text, expected, "{text}");
    }
}

#[test]
fn documents_keep_their_quotes() {
    let document = "it's \"$HOME\" \\$HOME\n";
    assert_eq!(expand(document, &env(), Mode::document()).unwrap().text, "it's \"/root\" $HOME\n");
}

#[test]
fn names_are_told_apart() {
    let found = expand("$HOME ${NONE:-$A} $B", &env(), Mode::words('\\')).unwrap();
    assert_eq!(found.used.into_iter().collect::<Vec<_>>(), ["A", "HOME"]);
    assert_eq!(found.undefined.into_iter().collect::<Vec<_>>(), ["B", "NONE"]);
}

proptest::proptest! {
    #[test]
    fn no_word_makes_it_panic(parts in proptest::collection::vec(proptest::sample::select(vec![
        "$", "{", "}", ":", "-", "+", "?", "#", "%", "/", "*", "\\", "'", "\"", "A", "FILE", "NONE", " ", "é", "\n", "1",
    ]), 0..20)) {
        let word = parts.concat();
        for mode in [Mode::words('\\'), Mode::display('`'), Mode::document()] {
            let _ = expand(&word, &env(), mode);
        }
    }
}
