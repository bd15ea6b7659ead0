//! A commit or tag as git keeps it: what of it is signed, and by what signature.
//!
//! <https://git-scm.com/docs/gitformat-signature>

use sha2::{Digest as _, Sha256};

/// What kind of object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Commit,
    Tag,
}

/// What of an object is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signed {
    /// The object without its signature.
    pub content: Vec<u8>,
    /// Armored; empty where there is none.
    pub signature: String,
}

impl Kind {
    /// As git calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::Tag => "tag",
        }
    }

    /// Whether bytes are the object of an id.
    pub fn is(self, bytes: &[u8], id: &str) -> bool {
        let head = format!("{} {}\0", self.name(), bytes.len());
        match id.len() {
            40 => {
                let mut hash = sha1_checked::Sha1::new();
                sha1_checked::Digest::update(&mut hash, head.as_bytes());
                sha1_checked::Digest::update(&mut hash, bytes);
                let found = hash.try_finalize();
                // Two files of one hash were made by somebody who means harm.
                !found.has_collision() && hex::encode(found.hash()) == id
            }
            _ => hex::encode(Sha256::new().chain_update(head.as_bytes()).chain_update(bytes).finalize()) == id,
        }
    }

    /// Takes an object apart; `id` says with which hash.
    pub fn signed(self, bytes: &[u8], id: &str) -> Option<Signed> {
        match self {
            Kind::Commit => commit(bytes, if id.len() == 64 { b"gpgsig-sha256 " } else { b"gpgsig " }),
            Kind::Tag => tag(bytes),
        }
    }
}

/// The signatures of a commit are headers; no signature is part of what is signed. `None` if there are several of a kind.
fn commit(bytes: &[u8], wanted: &[u8]) -> Option<Signed> {
    let mut signed = Signed { content: Vec::with_capacity(bytes.len()), signature: String::new() };
    let mut signature: Option<Vec<u8>> = None;
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    // Whose lines these are: those of a header go on with a space.
    let (mut is_signature, mut is_wanted) = (false, false);
    for line in lines.by_ref() {
        if line == b"\n" {
            signed.content.extend(line);
            break;
        }
        let first = [&b"gpgsig "[..], b"gpgsig-sha256 "].into_iter().find_map(|name| {
            let rest = line.strip_prefix(name)?;
            Some((name == wanted, rest))
        });
        match (first, line.strip_prefix(b" ")) {
            (Some((wanted, rest)), _) => {
                (is_signature, is_wanted) = (true, wanted);
                if wanted && signature.replace(rest.to_vec()).is_some() {
                    return None;
                }
            }
            (None, Some(rest)) if is_signature => {
                if let Some(signature) = signature.as_mut().filter(|_| is_wanted) {
                    signature.extend(rest);
                }
            }
            (None, _) => {
                is_signature = false;
                signed.content.extend(line);
            }
        }
    }
    lines.for_each(|line| signed.content.extend(line));
    signed.signature = String::from_utf8(signature.unwrap_or_default()).ok()?;
    Some(signed)
}

/// The signature of a tag follows its message.
fn tag(bytes: &[u8]) -> Option<Signed> {
    let begins = |line: &&[u8]| {
        matches!(
            line.strip_suffix(b"\n").unwrap_or(line),
            b"-----BEGIN PGP SIGNATURE-----" | b"-----BEGIN SSH SIGNATURE-----"
        )
    };
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if begins(&line) {
            break;
        }
        at += line.len();
    }
    let (content, signature) = bytes.split_at(at);
    Some(Signed { content: content.to_vec(), signature: String::from_utf8(signature.to_vec()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0000000000000000000000000000000000000000";
    const COMMIT: &str = "tree 1\nauthor A\ngpgsig -----BEGIN SSH SIGNATURE-----\n one\n \n -----END SSH SIGNATURE-----\nencoding x\n\nmessage\ngpgsig no\n more\n";

    #[test]
    fn a_commits_signature_is_a_header() {
        let signed = Kind::Commit.signed(COMMIT.as_bytes(), ID).unwrap();
        assert_eq!(signed.signature, "-----BEGIN SSH SIGNATURE-----\none\n\n-----END SSH SIGNATURE-----\n");
        assert_eq!(signed.content, b"tree 1\nauthor A\nencoding x\n\nmessage\ngpgsig no\n more\n");
        let other = COMMIT.replace("gpgsig -", "gpgsig-sha256 -");
        let of_other = Kind::Commit.signed(other.as_bytes(), ID).unwrap();
        assert_eq!((of_other.signature.as_str(), of_other.content), ("", signed.content.clone()));
        assert_eq!(Kind::Commit.signed(other.as_bytes(), &"0".repeat(64)).unwrap(), signed);
        let both = COMMIT.replace("encoding x\n", "gpgsig-sha256 two\n three\n");
        let of_both = Kind::Commit.signed(both.as_bytes(), ID).unwrap();
        assert_eq!((of_both.signature, of_both.content.len()), (signed.signature, signed.content.len() - 11));
        let twice = COMMIT.replace("encoding x\n", "gpgsig two\n");
        assert_eq!(Kind::Commit.signed(twice.as_bytes(), ID), None);
        let bare = Kind::Commit.signed(b"tree 1\n\nx", ID).unwrap();
        assert_eq!((bare.signature.as_str(), &bare.content[..]), ("", &b"tree 1\n\nx"[..]));
        assert!(Kind::Commit.signed(b"", ID).is_some() && Kind::Commit.signed(b"gpgsig \xff\n\n", ID).is_none());
    }

    #[test]
    fn a_tags_signature_follows_its_message() {
        let tag = "object 1\n\nmessage\n-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n";
        let signed = Kind::Tag.signed(tag.as_bytes(), ID).unwrap();
        assert_eq!(signed.content, b"object 1\n\nmessage\n");
        assert!(
            signed.signature.starts_with("-----BEGIN PGP")
                && signed.signature.ends_with("-----END PGP SIGNATURE-----\n")
        );
        let bare = Kind::Tag.signed(b"object 1\n\n -----BEGIN PGP SIGNATURE-----\n", ID).unwrap();
        assert_eq!(bare.signature, "");
    }

    #[test]
    fn an_object_has_the_id_of_its_bytes() {
        // `git hash-object -t commit --stdin`, and with --object-format=sha256.
        let empty_tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
        assert!(!Kind::Commit.is(b"", empty_tree));
        let commit = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\nx\n";
        let mut hash = sha1_checked::Sha1::new();
        sha1_checked::Digest::update(&mut hash, [&b"commit 49\0"[..], commit].concat());
        let id = hex::encode(sha1_checked::Digest::finalize(hash));
        assert!(Kind::Commit.is(commit, &id) && !Kind::Tag.is(commit, &id) && !Kind::Commit.is(b"x", &id));
        let long = hex::encode(Sha256::digest([&b"tag 1\0"[..], b"x"].concat()));
        assert!(Kind::Tag.is(b"x", &long) && !Kind::Commit.is(b"x", &long));
    }
}
