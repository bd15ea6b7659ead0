//! The JSON form: another reader of JSON decides the same.

use frontend::ast::{Command, Kind};
use frontend::{parse, Source};

/// What a text is, read as an array.
#[derive(Debug, PartialEq)]
enum Form {
    Strings(Vec<String>),
    /// An array with something else in it.
    Mixed,
    /// No JSON.
    Other,
}

/// Compares the arguments of CMD with what they are as JSON.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let text = text.trim();
    if !text.starts_with('[') || text.contains(['\n', '\r']) || text.ends_with('\\') || text.len() > 60_000 {
        return;
    }
    let source = Source::new("Dockerfile", format!("FROM a\nCMD {text}"));
    let (ast, diagnostics) = parse(&source);
    let is_mixed = diagnostics.iter().any(|found| found.code == "mixed-array");
    let ours = match ast.instructions.get(1).and_then(|instruction| instruction.kind.as_ref()) {
        _ if is_mixed => Form::Mixed,
        Some(Kind::Cmd(Command::Exec(words))) => {
            for word in words {
                let written = &source.text()[word.span.range()];
                assert!(written.starts_with('"') && written.ends_with('"') && written.len() > 1, "{written}");
            }
            Form::Strings(words.iter().map(|word| word.text.to_string()).collect())
        }
        Some(Kind::Cmd(Command::Shell(line))) => {
            assert_eq!(line.text, text);
            Form::Other
        }
        other => panic!("{other:?} {diagnostics:?}"),
    };
    let mut reader = Reader { rest: text, depth: 0, is_deep: false };
    let theirs = reader.form();
    if !reader.is_deep {
        assert_eq!(ours, theirs, "{text}");
    }
}

/// A reader of JSON as short as it can be (RFC 8259), which is as lenient as Go's with halves of surrogate pairs.
struct Reader<'a> {
    rest: &'a str,
    depth: usize,
    /// Nested deeper than somebody might want to follow.
    is_deep: bool,
}

impl Reader<'_> {
    fn form(&mut self) -> Form {
        let Some(values) = self.array() else { return Form::Other };
        self.blanks();
        if !self.rest.is_empty() {
            return Form::Other;
        }
        values.into_iter().collect::<Option<Vec<String>>>().map_or(Form::Mixed, Form::Strings)
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn next_if(&mut self, text: &str) -> bool {
        let found = self.rest.strip_prefix(text);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// Its strings; `None` for what is no string.
    fn array(&mut self) -> Option<Vec<Option<String>>> {
        self.next_if("[").then_some(())?;
        let mut values = Vec::new();
        self.blanks();
        if self.next_if("]") {
            return Some(values);
        }
        loop {
            values.push(self.value()?);
            if self.next_if("]") {
                return Some(values);
            }
            self.next_if(",").then_some(())?;
        }
    }

    /// A value with the blanks around it.
    fn value(&mut self) -> Option<Option<String>> {
        self.depth += 1;
        self.is_deep |= self.depth > 100;
        self.blanks();
        let value = match self.rest.chars().next()? {
            _ if self.is_deep => return None,
            '"' => Some(self.string()?),
            '[' => self.array().map(|_| None)?,
            '{' => self.object().map(|()| None)?,
            '-' | '0'..='9' => self.number().map(|()| None)?,
            _ => ["true", "false", "null"].iter().any(|word| self.next_if(word)).then_some(None)?,
        };
        self.blanks();
        self.depth -= 1;
        Some(value)
    }

    fn object(&mut self) -> Option<()> {
        self.next_if("{").then_some(())?;
        self.blanks();
        if self.next_if("}") {
            return Some(());
        }
        loop {
            self.blanks();
            self.string()?;
            self.blanks();
            self.next_if(":").then_some(())?;
            self.value()?;
            if self.next_if("}") {
                return Some(());
            }
            self.next_if(",").then_some(())?;
        }
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let found = rest.len() < self.rest.len();
        self.rest = rest;
        found.then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let written = self.rest;
        self.next_if("-");
        if !self.next_if("0") {
            self.digits()?;
        }
        if self.next_if(".") {
            self.digits()?;
        }
        if self.next_if("e") || self.next_if("E") {
            let _sign = self.next_if("+") || self.next_if("-");
            self.digits()?;
        }
        let number: f64 = written[..written.len() - self.rest.len()].parse().ok()?;
        number.is_finite().then_some(())
    }

    fn string(&mut self) -> Option<String> {
        self.next_if("\"").then_some(())?;
        let mut units = Vec::new();
        loop {
            let c = self.rest.chars().next()?;
            self.rest = &self.rest[c.len_utf8()..];
            match c {
                '"' => return Some(String::from_utf16_lossy(&units)),
                '\0'..='\x1f' => return None,
                '\\' => {
                    let c = self.rest.chars().next()?;
                    self.rest = &self.rest[c.len_utf8()..];
                    let plain = match c {
                        '"' | '\\' | '/' => c,
                        'b' => '\x08',
                        'f' => '\x0c',
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        'u' => {
                            let digits =
                                self.rest.get(..4).filter(|text| text.chars().all(|c| c.is_ascii_hexdigit()))?;
                            units.push(u16::from_str_radix(digits, 16).ok()?);
                            self.rest = &self.rest[4..];
                            continue;
                        }
                        _ => return None,
                    };
                    units.push(plain as u16);
                }
                c => units.extend(c.encode_utf16(&mut [0; 2]).iter()),
            }
        }
    }
}
