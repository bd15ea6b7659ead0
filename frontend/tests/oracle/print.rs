//! A parsed file as the text of a file that means the same: one line for each instruction, and its documents.

use frontend::ast::Statement;
use frontend::Ast;

/// Prints a file without errors.
pub fn print(ast: &Ast) -> String {
    let mut text = String::new();
    let escape = ast.directives.escape;
    for (key, value) in [("syntax", &ast.directives.syntax), ("check", &ast.directives.check)] {
        if let Some(value) = value {
            text.push_str(&format!("# {key}={}\n", value.text));
        }
    }
    if escape != '\\' {
        text.push_str(&format!("# escape={escape}\n"));
    }
    // So that no comment is taken for a directive.
    text.push('\n');
    for instruction in &ast.instructions {
        let statement = &instruction.statement;
        for comment in &statement.comments {
            text.push_str(&format!("# {}\n", comment.text));
        }
        let mut line = line(statement, escape);
        // An escape that stood before the blanks at the file's end would go on now.
        if line.trim_end_matches([' ', '\t']).ends_with(escape) && !line.ends_with(&format!("{escape}{escape}")) {
            line.extend([' ', escape]);
        }
        text.push_str(&line);
        text.push('\n');
        for document in &statement.heredocs {
            text.push_str(&format!("{}{}\n", document.content, document.name));
        }
        // A comment below belongs to what follows it only without a blank line.
        text.push('\n');
    }
    text
}

fn line(statement: &Statement, escape: char) -> String {
    // What opens a document is found in the whole line, with other rules for quotes than those of flags.
    if !statement.heredocs.is_empty() || statement.trigger.is_some() {
        return statement.text.to_string();
    }
    let mut line = statement.keyword.text.to_string();
    for flag in &statement.flags {
        line.push(' ');
        line.push_str(&if flag.text.len() == flag.span.end - flag.span.start && !flag.text.contains(escape) {
            flag.text.to_string()
        } else {
            quoted(&flag.text, escape)
        });
    }
    let words: Vec<&str> = statement.words.iter().map(|word| word.text.as_str()).collect();
    let rest = match statement.keyword.text.to_uppercase().as_str() {
        "HEALTHCHECK" if statement.json => format!("{} {}", words[0], array(&words[1..])),
        _ if statement.json => array(&words),
        "COPY" | "ADD" | "VOLUME" | "EXPOSE" | "FROM" | "ARG" => words.join(" "),
        "ENV" | "LABEL" if words.chunks(3).all(|three| three.get(2) == Some(&"=")) => {
            let pairs: Vec<String> = words.chunks(3).map(|three| format!("{}={}", three[0], three[1])).collect();
            pairs.join(" ")
        }
        _ => statement.rest.text.to_string(),
    };
    if rest.starts_with("--") {
        line.push_str(" --");
    }
    if !rest.is_empty() {
        line.push(' ');
        line.push_str(&rest);
    }
    line
}

/// A flag, quoted behind the hyphens by which it is known.
fn quoted(flag: &str, escape: char) -> String {
    let mut text = String::from("--\"");
    for c in flag.chars().skip(2) {
        if c == '"' || c == escape {
            text.push(escape);
        }
        text.push(c);
    }
    text + "\""
}

/// An array whose text has no quote or escape that something else could take for its own.
fn array(words: &[&str]) -> String {
    let text = |word: &&str| {
        let escaped = |c: char| match c {
            '"' | '\'' | '\\' | '`' | '<' | '\0'..='\x1f' => format!("\\u{:04x}", c as u32),
            c => c.to_string(),
        };
        format!("\"{}\"", word.chars().map(escaped).collect::<String>())
    };
    format!("[{}]", words.iter().map(text).collect::<Vec<_>>().join(", "))
}
