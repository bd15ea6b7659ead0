//! One line of comma-separated fields, quoted as Go's `encoding/csv` has it.

/// Splits `k=v,"k=v,w"` into fields; says what is wrong with a line that cannot be split.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    if line.contains(['\n', '\r']) {
        return Err("it has more than one line");
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => in_quotes(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err("a quote must enclose a whole field: \"key=a,b\"");
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err("text follows a closing quote"),
        }
    }
}

fn in_quotes(mut rest: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    loop {
        let end = rest.find('"').ok_or("a quote is not closed")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_split_as_go_splits_them() {
        for (line, want) in [
            ("", &[""][..]),
            ("a=1,b=2", &["a=1", "b=2"]),
            ("a=1,,b", &["a=1", "", "b"]),
            (r#""name=a,b",c"#, &["name=a,b", "c"]),
            (r#""a ""quoted"" word""#, &["a \"quoted\" word"]),
            (r#""",x"#, &["", "x"]),
            (" a, b", &[" a", " b"]),
        ] {
            assert_eq!(fields(line).unwrap(), want, "{line}");
        }
    }

    #[test]
    fn crooked_quotes_are_refused() {
        for line in [r#"a="b""#, r#""a"#, r#""a"b,c"#, r#"a,"b"#, "a\nb"] {
            assert!(fields(line).is_err(), "{line}");
        }
    }
}
