//! Text of strangers, made fit for one line of a screen.

/// The name of a step on one line: control characters become spaces.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect()
}

/// What a terminal would show after one line of output, without colours.
///
/// Carriage returns and backspaces overwrite, as progress bars want; sequences that move the cursor elsewhere, set
/// titles or clear screens have no effect.
pub(super) fn visible(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut cells: Vec<char> = Vec::new();
    let mut at = 0_usize;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => at = 0,
            '\u{8}' => at = at.saturating_sub(1),
            '\t' => {
                at = at / 8 * 8 + 8;
                cells.resize(cells.len().max(at), ' ');
            }
            '\u{1b}' => match escape(&mut chars) {
                // Erases from the cursor on: what a progress bar writes before its next state.
                Erase::ToEnd => cells.truncate(at),
                Erase::All => cells.fill(' '),
                Erase::Nothing => {}
            },
            c if is_unprintable(c) => {}
            c => {
                if at < cells.len() {
                    cells[at] = c;
                } else {
                    cells.push(c);
                }
                at += 1;
            }
        }
    }
    let shown: String = cells.into_iter().collect();
    shown.trim_end().to_owned()
}

enum Erase {
    Nothing,
    ToEnd,
    All,
}

/// Reads the rest of an escape sequence: <https://ecma-international.org/publications-and-standards/standards/ecma-48/>.
fn escape(chars: &mut std::str::Chars<'_>) -> Erase {
    match chars.next() {
        Some('[') => {
            let mut parameters = String::new();
            for c in chars.by_ref() {
                match c {
                    '\u{40}'..='\u{7e}' => {
                        return match (c, parameters.as_str()) {
                            ('K', "" | "0") => Erase::ToEnd,
                            ('K', "1" | "2") => Erase::All,
                            _ => Erase::Nothing,
                        };
                    }
                    '\u{20}'..='\u{3f}' => parameters.push(c),
                    _ => return Erase::Nothing,
                }
            }
        }
        // Titles, links, images: text up to BEL or ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let mut before = ' ';
            for c in chars.by_ref() {
                if c == '\u{7}' || (before == '\u{1b}' && c == '\\') {
                    break;
                }
                before = c;
            }
        }
        // Character sets: ESC, one of these, one more.
        Some('(' | ')' | '*' | '+' | '#' | '%' | ' ') => {
            chars.next();
        }
        _ => {}
    }
    Erase::Nothing
}

fn is_unprintable(c: char) -> bool {
    // Controls of either set, and what turns the direction of the text around.
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How many columns a character takes: two for the wide ones of East Asia and emoji.
fn columns_of(c: char) -> usize {
    match c as u32 {
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// How many columns a text takes.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// The beginning of a text that takes at most so many columns.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut taken = 0;
    for (at, c) in text.char_indices() {
        taken += columns_of(c);
        if taken > most {
            return &text[..at];
        }
    }
    text
}

/// Bytes as people read them, in powers of 1000: `97B`, `2.05kB`.
pub(super) fn bytes(count: i64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count.unsigned_abs() < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_as_a_terminal_would_show_them() {
        for (line, want) in [
            (&b"plain"[..], "plain"),
            (b"10%\r20%\r100%", "100%"),
            (b"longer\rab", "abnger"),
            (b"longer\r\x1b[Kab", "ab"),
            (b"longer\x1b[2K\rab", "ab"),
            (b"abc\x08\x08X", "aXc"),
            (b"\x1b[1;31mred\x1b[0m", "red"),
            (b"\x1b]0;evil title\x07ok", "ok"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1bPq#0\x1b\\ok", "ok"),
            (b"\x1b[2J\x1b[Hok\x1b(B", "ok"),
            (b"a\tb", "a       b"),
            (b"bell\x07 nul\x00 del\x7f", "bell nul del"),
            (b"cut \x1b[3", "cut"),
            (b"cut \x1b", "cut"),
            (b"\xff\xfe ok", "\u{fffd}\u{fffd} ok"),
            ("\u{202e}gnp.exe \u{9b}31m".as_bytes(), "gnp.exe 31m"),
        ] {
            assert_eq!(visible(line), want, "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn no_sequence_of_bytes_gets_through() {
        const BYTES: [u8; 9] = [0x1b, b'[', b']', b'K', b'2', b'\r', b'\t', 0xc2, 0x9b];
        for number in 0..BYTES.len().pow(5) {
            let mut left = number;
            let line: Vec<u8> = std::iter::repeat_with(|| {
                let byte = BYTES[left % BYTES.len()];
                left /= BYTES.len();
                byte
            })
            .take(5)
            .collect();
            assert!(!visible(&line).contains(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn names_stay_on_one_line() {
        assert_eq!(one_line("RUN <<EOF\necho\t\x1b[31m\nEOF"), "RUN <<EOF echo  [31m EOF");
    }

    #[test]
    fn bytes_are_written_as_buildkit_writes_them() {
        for (count, want) in
            [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (2048, "2.05kB"), (3_400_000, "3.40MB"), (-5, "-5B")]
        {
            assert_eq!(bytes(count), want);
        }
        assert_eq!(bytes(i64::MAX), "9.22EB");
    }

    #[test]
    fn texts_are_cut_by_columns() {
        assert_eq!((cut("héllo", 3), cut("日本語", 5), cut("ab", 5), cut("ab", 0)), ("hél", "日本", "ab", ""));
        assert_eq!((columns("日本"), columns("e\u{301}")), (4, 1));
    }
}
