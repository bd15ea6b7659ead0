//! The fields of a `RUN --mount`: what they may say, and which go together.

use solver::graph::op::Sharing;

use crate::ast::quote;
use crate::diagnostic::nearest;

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

/// The fields of one `--mount`, variables replaced.
#[derive(Default)]
pub(super) struct Fields {
    pub kind: String,
    pub from: String,
    pub source: String,
    pub target: String,
    pub id: String,
    pub sharing: Option<Sharing>,
    pub readonly: Option<bool>,
    pub required: bool,
    pub size: i64,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// The variable a secret becomes; empty is its id.
    pub env: Option<String>,
}

impl Fields {
    /// Reads fields, variables replaced; later ones of the same key count.
    ///
    /// # Errors
    /// The message about the first value that makes no sense, or about fields that do not go together.
    pub fn read(given: &[(&str, Option<String>)]) -> Result<Fields, String> {
        let mut fields = Fields { kind: "bind".into(), ..Fields::default() };
        for (key, value) in given {
            fields.set(key, value.as_deref())?;
        }
        fields.check(given)?;
        Ok(fields)
    }

    /// Takes over one field.
    ///
    /// # Errors
    /// Its value makes no sense, whatever the others say.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let text = value.unwrap_or_default();
        let switch = || match value.map(str::to_lowercase).as_deref() {
            None | Some("true" | "1" | "t") => Ok(true),
            Some("false" | "0" | "f") => Ok(false),
            Some(_) => Err(format!("invalid value for {key}: {text}")),
        };
        let number =
            |radix| u32::from_str_radix(text, radix).map(Some).map_err(|_| format!("invalid value {text} for {key}"));
        match key {
            "type" => {
                self.kind = text.to_lowercase();
                if !TYPES.contains(&self.kind.as_str()) {
                    let message = format!("unsupported mount type {}", quote(&self.kind));
                    return Err(suggesting(message, &self.kind, &TYPES));
                }
            }
            "from" => self.from = text.into(),
            "source" | "src" => self.source = text.into(),
            "target" | "dst" | "destination" => self.target = text.into(),
            "id" => self.id = text.into(),
            "env" => self.env = Some(text.into()),
            "readonly" | "ro" => self.readonly = Some(switch()?),
            "readwrite" | "rw" => self.readonly = Some(!switch()?),
            "required" => self.required = switch()?,
            "size" => self.size = size(text).ok_or_else(|| format!("invalid value for {key}: {text}"))?,
            "mode" => self.mode = number(8)?,
            "uid" => self.uid = number(10)?,
            "gid" => self.gid = number(10)?,
            "sharing" => {
                self.sharing = Some(match text.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let message = format!("unsupported sharing value {}", quote(text));
                        return Err(suggesting(message, text, &["shared", "private", "locked"]));
                    }
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Which fields go together.
    fn check(&self, given: &[(&str, Option<String>)]) -> Result<(), String> {
        let kind = self.kind.as_str();
        for (kinds, key) in [(&["secret", "ssh"][..], "required"), (&["tmpfs"], "size"), (&["secret"], "env")] {
            if !kinds.contains(&kind) && given.iter().any(|(known, _)| *known == key) {
                return Err(format!("unexpected key '{key}' for mount type '{kind}'"));
            }
        }
        if matches!(kind, "bind" | "tmpfs") {
            for (name, is_set) in
                [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())]
            {
                if is_set {
                    return Err(format!("{name} not allowed for {} type mounts", quote(kind)));
                }
            }
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(match kind {
                "secret" => "secret mount should not define sharing".into(),
                _ => format!("invalid cache sharing set for {kind} mount"),
            });
        }
        match kind {
            "secret" if !self.from.is_empty() => Err("secret mount should not have a from".into()),
            "secret" if !self.source.is_empty() && !self.id.is_empty() => Err("both source and id can't be set".into()),
            "secret" if self.source.is_empty() && self.id.is_empty() && self.target.is_empty() => {
                Err("invalid secret mount. one of source, target required".into())
            }
            "ssh" if !self.source.is_empty() => Err("ssh does not support source".into()),
            "ssh" if !self.from.is_empty() => Err("ssh mount should not have a from".into()),
            _ => Ok(()),
        }
    }
}

/// Adds what was meant, if there is a value that is nearly this one.
fn suggesting(message: String, word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(best) => format!("{message} (did you mean {best}?)"),
        None => message,
    }
}

/// Bytes, with `k`, `m`, `g`, `t` for powers of 1024.
fn size(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let scale = match lower[number.len()..].trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    match number.split_once('.') {
        None => number.parse::<i64>().ok().filter(|size| *size >= 0)?.checked_mul(1 << scale),
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // a fraction is never exact
        Some(_) => {
            number.parse::<f64>().ok().filter(|size| *size >= 0.0).map(|size| (size * (1_i64 << scale) as f64) as i64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("64m", Some(64 << 20)),
            ("1.5k", Some(1536)),
            ("2 GB", Some(2 << 30)),
            ("1GiB", Some(1 << 30)),
            ("x", None),
            ("1q", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
