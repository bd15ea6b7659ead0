//! Expansion: what quotes, escapes and patterns do, said once more in other words.

use frontend::expand::{expand, Mode, Quotes, Unset};

/// Everything that must hold of a word. The first line is the value of `x`, the rest is the word.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (value, word) = text.split_once('\n').unwrap_or(("", text));
    let env: Vec<(String, String)> =
        [("x", value), ("e", ""), ("HOME", "/root")].map(|(name, value)| (name.into(), value.into())).into();
    for escape in ['\\', '`'] {
        for quotes in [Quotes::Remove, Quotes::Keep, Quotes::Plain] {
            for unset in [Unset::Empty, Unset::Keep] {
                let mode = Mode { escape, quotes, unset };
                goes_on_behind(word, &env, mode);
                if unset == Unset::Keep && quotes != Quotes::Remove && !word.contains(escape) {
                    stays_without_values(word, mode);
                }
            }
        }
        are_only_characters(word, &env, escape);
    }
    patterns_match(value, word, &env);
}

/// What a word means does not depend on what follows behind a blank.
fn goes_on_behind(word: &str, env: &Vec<(String, String)>, mode: Mode) {
    let Ok(alone) = expand(word, env, mode) else { return };
    let letters = |text: String| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    assert_eq!(letters(alone.words().collect()), letters(alone.text.to_string()));
    if word.ends_with(mode.escape) {
        return;
    }
    let longer = format!("{word} $HOME");
    let both = expand(&longer, env, mode).unwrap();
    assert_eq!(both.text, format!("{} /root", alone.text), "{word} {mode:?}");
    assert!(alone.words().chain(["/root"]).eq(both.words()), "{word} {mode:?}");
}

/// Where nothing has a value, everything stays as written.
fn stays_without_values(word: &str, mode: Mode) {
    if let Ok(expanded) = expand(word, &Vec::new(), mode) {
        assert_eq!(expanded.text, word, "{mode:?}");
        assert!(expanded.used.is_empty());
    }
}

/// Behind escapes and in single quotes nothing has a meaning.
fn are_only_characters(text: &str, env: &Vec<(String, String)>, escape: char) {
    let escaped: String = text.chars().flat_map(|c| [escape, c]).collect();
    for (word, quotes) in
        [(escaped.clone(), Quotes::Remove), (escaped, Quotes::Plain), (format!("'{text}'"), Quotes::Remove)]
    {
        if word.starts_with('\'') && text.contains('\'') {
            continue;
        }
        let expanded = expand(&word, env, Mode { escape, quotes, unset: Unset::Empty }).unwrap();
        assert_eq!(expanded.text, text, "{word}");
        assert!(expanded.words().eq(Some(text).filter(|text| !text.is_empty())), "{word}");
        assert!(expanded.used.is_empty() && expanded.undefined.is_empty());
    }
}

/// `#`, `%` and `/` by trying everything.
fn patterns_match(value: &str, pattern: &str, env: &Vec<(String, String)>) {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '?' | '.' | ',' | '\n' | ' ');
    if !pattern.chars().all(is_plain) || value.len() > 40 || pattern.len() > 20 {
        return;
    }
    let value: Vec<char> = value.chars().collect();
    let pattern_chars: Vec<char> = pattern.chars().collect();
    let fits = |from: usize, to: usize| fits(&pattern_chars, &value[from..to]);
    let text = |chars: &[char]| chars.iter().collect::<String>();
    let all = 0..=value.len();
    let starts: Vec<usize> = all.clone().filter(|end| fits(0, *end)).collect();
    let ends: Vec<usize> = all.clone().filter(|start| fits(*start, value.len())).collect();
    let behind = |end: Option<&usize>| text(&value[*end.unwrap_or(&0)..]);
    let before = |start: Option<&usize>| text(&value[..*start.unwrap_or(&value.len())]);
    let first = all.clone().find_map(|from| (from..=value.len()).rev().find(|to| fits(from, *to)).map(|to| (from, to)));
    let replaced = first.map_or(text(&value), |(from, to)| text(&value[..from]) + "R" + &text(&value[to..]));
    for (operator, expected) in [
        ("#", behind(starts.first())),
        ("##", behind(starts.last())),
        ("%", before(ends.last())),
        ("%%", before(ends.first())),
        ("/", replaced),
    ] {
        if operator == "/" && pattern.is_empty() {
            continue;
        }
        let rest = if operator == "/" { "/R" } else { "" };
        let word = format!("${{x{operator}{pattern}{rest}}}");
        let found = expand(&word, env, Mode::words('\\')).unwrap().text;
        assert_eq!(found, expected, "{word} of {value:?}");
    }
    if !pattern.is_empty() {
        expand(&format!("${{x//{pattern}/R}}"), env, Mode::words('\\')).unwrap();
    }
}

/// Whether a pattern is all of a text; neither `*` nor `?` stands for a line's end.
fn fits(pattern: &[char], text: &[char]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for part in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let here = text.get(at).copied();
            match part {
                '*' => next[at] |= reached[at] || at > 0 && next[at - 1] && text[at - 1] != '\n',
                '?' if reached[at] && here.is_some_and(|c| c != '\n') => next[at + 1] = true,
                c if *c != '?' && reached[at] && here == Some(*c) => next[at + 1] = true,
                _ => {}
            }
        }
        reached = next;
    }
    reached[text.len()]
}
