//! The order in which entries come.

use std::cmp::Ordering;

use super::{Entry, Kind, Violation};

/// Checks that entries come as a walk gives them: each directory directly before what is in it, names in byte order.
///
/// So no entry comes twice, and none through something that is no directory.
#[derive(Debug, Default)]
pub struct Listing {
    last: String,
    /// The directories around `last`, outermost first; `last` itself if it is one.
    directories: Vec<String>,
}

impl Listing {
    /// Takes the next entry.
    ///
    /// # Errors
    /// It may not come here.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Violation> {
        let path = &entry.path;
        if !self.last.is_empty() && compare(path, &self.last) != Ordering::Greater {
            return Err(Violation::OutOfOrder { path: path.clone(), after: self.last.clone() });
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        while self.directories.last().is_some_and(|directory| !is_within(parent, directory)) {
            self.directories.pop();
        }
        if self.directories.last().map_or("", String::as_str) != parent {
            return Err(Violation::NoDirectory { path: path.clone() });
        }
        match &entry.kind {
            Kind::HardLink { to, .. } if compare(to, path) != Ordering::Less => {
                return Err(Violation::Entry { path: path.clone(), reason: "a hard link to what comes later" });
            }
            Kind::Directory => self.directories.push(path.clone()),
            _ => {}
        }
        self.last.clone_from(path);
        Ok(())
    }
}

fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Byte order, but with the slash below every other byte.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    a.split('/').map(str::as_bytes).cmp(b.split('/').map(str::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::fsutil::Stat;

    fn entry(text: &str) -> Entry {
        let (path, linkname) = text.split_once("=").unwrap_or((text, ""));
        let mode = if path.ends_with('/') { 1 << 31 } else { 0 };
        let path = path.trim_end_matches('/').into();
        Entry::try_from(Stat { path, mode, linkname: linkname.into(), ..Stat::default() }).unwrap()
    }

    fn list(entries: &str) -> Result<(), Violation> {
        let mut listing = Listing::default();
        entries.split_whitespace().try_for_each(|text| listing.take(&entry(text)))
    }

    #[test]
    fn walks_are_in_order() {
        for good in
            ["", "a b c", "a/ a/b a/c/ a/c/d a/e b", "a/ a/x a.b", "a/ a/b/ a/b/c a/b.c a! b", "B a é", "a b=a c=a"]
        {
            assert_eq!(list(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn other_orders_are_refused() {
        for (wrong, text) in [
            ("b a", r#"changes out of order: "a" after "b""#),
            ("a a", r#"changes out of order: "a" after "a""#),
            ("a/ a/b a", r#"changes out of order: "a" after "a/b""#),
            ("a/ b a/c", r#"changes out of order: "a/c" after "b""#),
            ("a/ a.b a/c", r#"changes out of order: "a/c" after "a.b""#),
            ("a/b", r#"changes out of order: "a/b" before its directory"#),
            ("a a/b", r#"changes out of order: "a/b" before its directory"#),
            ("a/ a/b/c", r#"changes out of order: "a/b/c" before its directory"#),
            ("a/ ab/c", r#"changes out of order: "ab/c" before its directory"#),
            ("a=b b", r#"invalid entry "a": a hard link to what comes later"#),
            ("a=a", r#"invalid entry "a": a hard link to what comes later"#),
        ] {
            assert_eq!(list(wrong).unwrap_err().to_string(), text, "{wrong}");
        }
    }
}
