//! Signatures that gpg and ssh-keygen made of `TEXT` in 2020 and 2021.

use super::*;

const TEXT: &[u8] = b"signed text\n";

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("testdata/", $name))
    };
}

const ED: &str = data!("ed.asc");

/// How an OpenPGP signature of the text is told apart from others; `Ok` is empty.
fn openpgp(keys: &str, signature: &str, reject_expired: bool) -> String {
    let keys = Keys { text: keys.to_owned(), reject_expired };
    said(keys.verify_openpgp(&mut Cursor::new(TEXT), signature))
}

fn said(result: Result<(), Error>) -> String {
    result.map_or_else(|error| error.to_string(), |()| String::new())
}

#[test]
fn what_a_key_signed_counts() {
    for (keys, signature) in [
        (ED, data!("ed.sig")),
        (data!("sub.asc"), data!("sub.sig")),
        (data!("rsa.asc"), data!("rsa.sig")),
        (data!("p256.asc"), data!("p256.sig")),
        (ED, data!("text.sig")),
        // One of several keys, in one block or in more.
        (&[data!("other.asc"), "\n\n", ED, data!("rsa.asc")].concat(), data!("ed.sig")),
    ] {
        assert_eq!(openpgp(keys, signature, false), "");
        assert_eq!(openpgp(keys, signature, true), "");
    }
}

#[test]
fn other_bytes_and_other_keys_do_not_count() {
    let keys = Keys { text: ED.to_owned(), reject_expired: false };
    for other in [&b"signed text"[..], b"signed text\n\n", b"", b"signed text\r\n"] {
        let said = said(keys.verify_openpgp(&mut Cursor::new(other), data!("ed.sig")));
        assert!(said.starts_with("signature by 26C54562A57908BD: "), "{said}");
    }
    // Of a text, not of its line ends.
    assert!(keys.verify_openpgp(&mut Cursor::new(b"signed text\r\n"), data!("text.sig")).is_ok());
    assert_eq!(
        openpgp(data!("other.asc"), data!("ed.sig"), false),
        "signature by 26C54562A57908BD: no given key has this id"
    );
}

#[test]
fn keys_that_may_not_sign_do_not_count() {
    for (keys, signature, want) in [
        (ED, data!("sha1.sig"), "rejecting weak/unknown hash: SHA1"),
        (ED, data!("future.sig"), "signature creation time is in the future: 2090-01-01"),
        (data!("short.asc"), data!("short.sig"), "rejecting RSA key: 1024 bits"),
        (data!("revoked.asc"), data!("revoked.sig"), "key revoked"),
        (ED, "", "failed to read the signature"),
        (ED, "x", "failed to read the signature"),
        (ED, data!("ed.asc"), "failed to read the signature"),
        ("", data!("ed.sig"), "failed to read the public key: there is no armored key in it"),
        ("key", data!("ed.sig"), "failed to read the public key"),
        (data!("ed.sig"), data!("ed.sig"), "failed to read the public key"),
        (data!("ssh-ed25519.pub"), data!("ed.sig"), "failed to read the public key"),
    ] {
        let said = openpgp(keys, signature, false);
        assert!(said.contains(want), "{want}: {said}");
    }
}

#[test]
fn an_expired_key_counts_for_what_it_signed_before_unless_that_is_refused() {
    assert_eq!(openpgp(data!("old.asc"), data!("old.sig"), false), "");
    assert_eq!(openpgp(data!("old.asc"), data!("old.sig"), true), "key expired at 2020-12-31T00:00:00Z");
    // So does a key that another one vouches for, but not one that somebody else has got hold of.
    assert_eq!(openpgp(data!("subold.asc"), data!("subold.sig"), false), "");
    assert_eq!(openpgp(data!("subold.asc"), data!("subold.sig"), true), "key expired at 2020-12-31T00:00:00Z");
    assert_eq!(openpgp(data!("subretired.asc"), data!("subretired.sig"), false), "");
    assert_eq!(openpgp(data!("subretired.asc"), data!("subretired.sig"), true), "key revoked");
    assert_eq!(openpgp(data!("subtaken.asc"), data!("subtaken.sig"), false), "key revoked");
}

#[test]
fn forged_keys_and_signatures_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for (keys, signature) in [
        (ED, data!("ed.sig")),
        (data!("rsa.asc"), data!("rsa.sig")),
        (data!("sub.asc"), data!("sub.sig")),
        (data!("ssh-rsa.pub"), data!("ssh-rsa.sig")),
        (data!("ssh-ecdsa.pub"), data!("ssh-ecdsa.sig")),
    ] {
        for _ in 0..120 {
            let mut both = [keys.as_bytes().to_vec(), signature.as_bytes().to_vec()];
            let forged = &mut both[next(2)];
            let at = next(forged.len());
            match next(3) {
                0 => forged.truncate(at),
                1 => forged[at] = b"ABCDabcd0123+/=\n-"[next(17)],
                _ => drop(forged.remove(at)),
            }
            let [keys, signature] = both.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            // Whether it still counts depends on what was hit; that it ends is what matters.
            let keys = Keys { text: keys, reject_expired: next(2) == 0 };
            let _ = keys.verify_object(TEXT, &signature);
        }
    }
}

#[test]
fn ssh_keys_sign_git_objects() {
    let verify = |keys: &str, signature: &str| {
        said(Keys { text: keys.to_owned(), reject_expired: false }.verify_object(TEXT, signature))
    };
    let all = [data!("ssh-ed25519.pub"), data!("ssh-ecdsa.pub"), "# comment\n\n", data!("ssh-rsa.pub")].concat();
    for (key, signature) in [
        (data!("ssh-ed25519.pub"), data!("ssh-ed25519.sig")),
        (data!("ssh-ecdsa.pub"), data!("ssh-ecdsa.sig")),
        (data!("ssh-rsa.pub"), data!("ssh-rsa.sig")),
    ] {
        assert_eq!(verify(key, signature), "");
        assert_eq!(verify(&all, signature), "");
        let other = Keys { text: key.to_owned(), reject_expired: false };
        assert!(other.verify_object(b"another text\n", signature).is_err());
    }
    for (keys, signature, want) in [
        (data!("ssh-rsa.pub"), data!("ssh-ed25519.sig"), "it is none of the given keys"),
        (data!("ssh-ed25519.pub"), data!("ssh-file.sig"), "unexpected SSH signature namespace: \"file\""),
        (ED, data!("ssh-ed25519.sig"), "failed to read the public key"),
        ("", data!("ssh-ed25519.sig"), "failed to read the public key"),
        (data!("ssh-ed25519.pub"), "-----BEGIN SSH SIGNATURE-----\nx\n-----END SSH SIGNATURE-----\n", "failed to read"),
        (data!("ssh-ed25519.pub"), "", "it is not signed"),
        (data!("ssh-ed25519.pub"), "-----BEGIN SIGNED MESSAGE-----\n", "invalid signature format"),
    ] {
        let said = verify(keys, signature);
        assert!(said.contains(want), "{want}: {said}");
    }
    // The same of gpg's, which say themselves what they are.
    assert_eq!(verify(ED, data!("ed.sig")), "");
}
