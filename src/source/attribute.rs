//! Attributes of sources that several kinds of source have.

use std::collections::BTreeMap;

/// The longest name a file may have, in bytes.
const NAME_MAX: usize = 255;

/// An attribute that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} {value:?} {reason}")]
pub struct InvalidAttribute {
    /// Which.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl InvalidAttribute {
    pub(super) fn new(name: &'static str, value: &str, reason: &'static str) -> InvalidAttribute {
        InvalidAttribute { name, value: value.chars().take(200).collect(), reason }
    }
}

/// The value of an attribute; an empty one is none.
pub(super) fn given<'a>(attrs: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    attrs.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// What a file becomes that is the whole of a source: `http.filename`, `http.perm`, `http.uid` and `http.gid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAs {
    /// What it is called, where the source says so.
    pub name: Option<String>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl FileAs {
    /// Reads the attributes.
    ///
    /// # Errors
    /// A name that leads elsewhere, and what is no number.
    pub fn read(attrs: &BTreeMap<String, String>) -> Result<FileAs, InvalidAttribute> {
        let number = |name: &'static str| match given(attrs, name) {
            None => Ok(0),
            Some(text) => go_number(text).ok_or_else(|| InvalidAttribute::new(name, text, "is not a number")),
        };
        let name = match given(attrs, "http.filename") {
            None => None,
            Some(name) if is_name(name) => Some(name.to_owned()),
            Some(name) => return Err(InvalidAttribute::new("http.filename", name, "cannot be the name of a file")),
        };
        // As with BuildKit, a file without permissions cannot be asked for.
        let mode = Some(number("http.perm")?).filter(|mode| *mode != 0).unwrap_or(0o600) & 0o7777;
        Ok(FileAs { name, mode, uid: number("http.uid")?, gid: number("http.gid")? })
    }

    /// All that it says of the file but the name, to be part of a key.
    pub fn about(&self) -> [u8; 12] {
        let mut about = [0; 12];
        let parts = [self.mode, self.uid, self.gid].map(u32::to_le_bytes).concat();
        about.copy_from_slice(&parts);
        about
    }
}

/// Whether this can be the name of a file, and of nothing else.
pub(super) fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_MAX && !name.contains(['/', '\0'])
}

/// A number as Go reads it: `0x1f`, `0o17`, `017`, `0b11`, `15`.
pub(super) fn go_number(text: &str) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    let radix = |prefix: &str, radix| lower.strip_prefix(prefix).map(|digits| (digits, radix));
    let (digits, radix) = radix("0x", 16)
        .or_else(|| radix("0o", 8))
        .or_else(|| radix("0b", 2))
        .or_else(|| radix("0", 8).filter(|(digits, _)| !digits.is_empty()))
        .unwrap_or((&lower, 10));
    u32::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
}

/// How many layers of an image are wanted, by the attribute `name`.
///
/// # Errors
/// It is no number of layers.
pub fn layer_limit(attrs: &BTreeMap<String, String>, name: &'static str) -> Result<Option<usize>, InvalidAttribute> {
    let Some(text) = given(attrs, name) else { return Ok(None) };
    let limit = text.parse::<usize>().ok().filter(|limit| *limit > 0 && !text.starts_with('+'));
    limit.map(Some).ok_or_else(|| InvalidAttribute::new(name, text, "is not a number of layers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_file_is_what_its_attributes_say() {
        let plain = FileAs { name: None, mode: 0o600, uid: 0, gid: 0 };
        for (pairs, want) in [
            (&[][..], plain.clone()),
            (&[("http.perm", "0"), ("http.filename", "")], plain.clone()),
            (&[("http.perm", "0755")], FileAs { mode: 0o755, ..plain.clone() }),
            (&[("http.perm", "420")], FileAs { mode: 0o644, ..plain.clone() }),
            (
                &[("http.filename", "a b"), ("http.uid", "0x10"), ("http.gid", "0b11")],
                FileAs { name: Some("a b".into()), uid: 16, gid: 3, ..plain },
            ),
        ] {
            assert_eq!(FileAs::read(&attrs(pairs)).unwrap(), want, "{pairs:?}");
        }
        let long = "x".repeat(256);
        for wrong in [
            ("http.filename", ".."),
            ("http.filename", "a/b"),
            ("http.filename", "a\0"),
            ("http.filename", &long),
            ("http.perm", "0o"),
            ("http.uid", "-1"),
            ("http.uid", "+1"),
            ("http.gid", "4294967296"),
        ] {
            assert!(FileAs::read(&attrs(&[wrong])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_are_read_as_go_writes_them() {
        for (text, want) in [
            ("0644", Some(0o644)),
            ("0o644", Some(0o644)),
            ("420", Some(420)),
            ("0x1A4", Some(420)),
            ("0", Some(0)),
            ("-1", None),
            ("+1", None),
            ("9999999999", None),
            ("0789", None),
        ] {
            assert_eq!(go_number(text), want, "{text}");
        }
    }

    #[test]
    fn a_limit_is_a_number_of_layers() {
        let limit = |text: &str| layer_limit(&attrs(&[("image.layerlimit", text)]), "image.layerlimit");
        assert_eq!((limit("3"), limit("")), (Ok(Some(3)), Ok(None)));
        for wrong in ["0", "-1", "+1", "x", "1.0", "99999999999999999999999"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }
}
