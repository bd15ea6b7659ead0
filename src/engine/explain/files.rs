//! Files that changed, in words.

use snapshotter::tree::{Difference, FileChange};

/// So many files are named; the others are counted.
const NAMED: usize = 3;

/// Something that happened to several files.
struct Group {
    what: What,
    paths: Vec<String>,
}

#[derive(PartialEq)]
enum What {
    Changed,
    Added,
    Removed,
    /// It is there, but an ignore file names it.
    Ignored,
    /// It was there, but an ignore file named it.
    NoLongerIgnored,
    Other(FileChange),
}

/// What is known of paths that came or went.
pub(super) struct Ignore<'i> {
    /// Whether the file is in the directory all the same.
    pub is_there: &'i dyn Fn(&[u8]) -> bool,
    /// Whether it was left out then.
    pub was_left_out: &'i dyn Fn(&[u8]) -> bool,
}

/// One line per cause; `total` is how many files there are now.
pub(super) fn causes(differences: &[Difference], total: usize, ignore: &Ignore<'_>) -> Vec<String> {
    let mut groups: Vec<Group> = Vec::new();
    for Difference { path, change } in differences {
        let what = match change {
            FileChange::Content => What::Changed,
            FileChange::Added if (ignore.was_left_out)(path) => What::NoLongerIgnored,
            FileChange::Added => What::Added,
            FileChange::Removed if (ignore.is_there)(path) => What::Ignored,
            FileChange::Removed => What::Removed,
            other => What::Other(other.clone()),
        };
        match groups.iter_mut().find(|group| group.what == what) {
            Some(group) => group.paths.push(shown(path)),
            None => groups.push(Group { what, paths: vec![shown(path)] }),
        }
    }
    groups.iter().map(|group| line(group, total)).collect()
}

fn line(Group { what, paths }: &Group, total: usize) -> String {
    let names = several(paths);
    let was = if paths.len() == 1 { "was" } else { "were" };
    let is = if paths.len() == 1 { "is" } else { "are" };
    let of = format!("({} of {} file{})", thousands(paths.len()), thousands(total), if total == 1 { "" } else { "s" });
    match what {
        What::Changed => format!("{names} changed {of}"),
        What::Added => format!("{names} {was} added {of}"),
        What::Removed => format!("{names} {was} removed"),
        What::Ignored => format!("{names} {is} left out by the ignore file now"),
        What::NoLongerIgnored => format!("{names} {is} no longer left out by the ignore file"),
        What::Other(FileChange::Mode(old, new)) => format!("mode of {names} {old:o} → {new:o}"),
        What::Other(FileChange::Owner((user, group), (new_user, new_group))) => {
            format!("owner of {names} {user}:{group} → {new_user}:{new_group}")
        }
        What::Other(FileChange::Kind(old, new)) => format!("{names} {is} a {new} and {was} a {old}"),
        What::Other(FileChange::Xattrs) => format!("extended attributes of {names} changed"),
        What::Other(FileChange::Content | FileChange::Added | FileChange::Removed) => names,
    }
}

/// The files by which a result differs, on one line: `/etc/ld.so.cache, /usr/lib (mode 755 → 700)`.
pub(super) fn in_a_row(differences: &[Difference]) -> String {
    let one = |Difference { path, change }: &Difference| {
        let path = format!("/{}", shown(path));
        match change {
            FileChange::Content => path,
            FileChange::Added => format!("{path} (new)"),
            FileChange::Removed => format!("{path} (gone)"),
            FileChange::Mode(old, new) => format!("{path} (mode {old:o} → {new:o})"),
            FileChange::Owner((user, group), (new_user, new_group)) => {
                format!("{path} (owner {user}:{group} → {new_user}:{new_group})")
            }
            FileChange::Kind(_, new) => format!("{path} (a {new} now)"),
            FileChange::Xattrs => format!("{path} (extended attributes)"),
        }
    };
    several(&differences.iter().map(one).collect::<Vec<_>>())
}

fn several(names: &[String]) -> String {
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {} more", names[..NAMED].join(", "), thousands(more)),
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// `3,401`
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(path: &str, change: FileChange) -> Difference {
        Difference { path: path.as_bytes().to_vec(), change }
    }

    #[test]
    fn each_kind_of_change_has_its_words() {
        let ignore = Ignore { is_there: &|path| path == b"x.log", was_left_out: &|path| path == b"y.log" };
        let mut changes = vec![
            difference("a", FileChange::Added),
            difference("b", FileChange::Removed),
            difference("run", FileChange::Mode(0o644, 0o755)),
            difference("src/main.rs", FileChange::Content),
            difference("w", FileChange::Kind("file", "link")),
            difference("x.log", FileChange::Removed),
            difference("y.log", FileChange::Added),
        ];
        assert_eq!(
            causes(&changes, 3401, &ignore),
            [
                "a was added (1 of 3,401 files)",
                "b was removed",
                "mode of run 644 → 755",
                "src/main.rs changed (1 of 3,401 files)",
                "w is a link and was a file",
                "x.log is left out by the ignore file now",
                "y.log is no longer left out by the ignore file",
            ]
        );
        changes = ["a", "b", "c", "d", "e"].map(|path| difference(path, FileChange::Content)).to_vec();
        assert_eq!(causes(&changes, 5, &ignore), ["a, b, c and 2 more changed (5 of 5 files)"]);
        assert_eq!(in_a_row(&changes[..2]), "/a, /b");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
