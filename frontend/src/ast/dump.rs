//! A tree as text: one S-expression per instruction.

use super::{Ast, Statement};

/// Writes one line per instruction: `(copy ["--chown=1"] "a" "/b")`, keyword, flags, words.
///
/// The words of ENV and LABEL come in threes: name, value, and what stood between them (`=` or nothing).
pub fn dump(ast: &Ast) -> String {
    let mut out = String::new();
    for instruction in &ast.instructions {
        statement(&instruction.statement, &mut out);
        out.push('\n');
    }
    out
}

fn statement(statement: &Statement, out: &mut String) {
    out.push('(');
    out.push_str(&statement.keyword.text.to_lowercase());
    if !statement.flags.is_empty() {
        let flags: Vec<String> = statement.flags.iter().map(|flag| quote(&flag.text)).collect();
        out.push_str(&format!(" [{}]", flags.join(" ")));
    }
    if let Some(trigger) = &statement.trigger {
        out.push(' ');
        self::statement(trigger, out);
    }
    for word in &statement.words {
        out.push(' ');
        out.push_str(&quote(&word.text));
    }
    for heredoc in &statement.heredocs {
        let how = if heredoc.expand { "<<" } else { "<<'" };
        out.push_str(&format!(" ({how}{} {})", heredoc.name, quote(&heredoc.document())));
    }
    out.push(')');
}

/// A text in double quotes, as Go's `%q` writes it.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || matches!(c, '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{200b}') => {
                quoted.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_like_go_does() {
        for (text, quoted) in [
            ("a b", r#""a b""#),
            ("\"\\", r#""\"\\""#),
            ("\t\n\r\0\u{7f}", r#""\t\n\r\x00\x7f""#),
            ("♥é\u{a0}", "\"♥é\\u00a0\""),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }
}
