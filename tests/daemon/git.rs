//! Commits that must be signed, and repositories in one file, by raw LLB.

use std::fs;

use rbuild::image::Digest;
use rbuild::wire::proto::control::SolveRequest;
use ssh_key::private::Ed25519Keypair;
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use super::fixture::Daemon;
use super::llb::{of_source, Play, Stores};
use super::support::served::{GitServer, Web};
use super::support::{have, text};

/// A key that is the same each time.
fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn public(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

fn sign(key: &PrivateKey, content: &str) -> String {
    key.sign("git", HashAlg::Sha512, content.as_bytes()).unwrap().to_pem(LineEnding::LF).unwrap()
}

/// Writes an object as it is, and gives its id.
fn write(git: &GitServer, kind: &str, content: &str) -> String {
    let file = git.path_of("object");
    fs::write(&file, content).unwrap();
    git.git("app", &["hash-object", "-t", kind, "-w", file.to_str().unwrap()])
}

/// The same commit, signed.
fn signed_commit(git: &GitServer, commit: &str, key: &PrivateKey) -> String {
    let content = git.git("app", &["cat-file", "commit", commit]) + "\n";
    let signature = sign(key, &content).trim_end().replace('\n', "\n ");
    let (head, message) = content.split_once("\n\n").unwrap();
    write(git, "commit", &format!("{head}\ngpgsig {signature}\n\n{message}"))
}

/// A tag, signed.
fn signed_tag(git: &GitServer, name: &str, commit: &str, key: &PrivateKey) -> String {
    let tagger = "tagger T <t@example.org> 1600000000 +0000";
    let content = format!("object {commit}\ntype commit\ntag {name}\n{tagger}\n\nmessage\n");
    let id = write(git, "tag", &(content.clone() + &sign(key, &content)));
    git.git("app", &["update-ref", &format!("refs/tags/{name}"), &id]);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_tags_must_be_signed_by_whom_the_source_says() {
    if !have("git") {
        return;
    }
    let Some(daemon) = Daemon::start() else { return };
    let git = GitServer::new(&daemon.rbuild.path("git"));
    let (ours, theirs) = (key(1), key(2));
    let plain = git.commit("app", &[("a", "1")]);
    let signed = signed_commit(&git, &plain, &ours);
    git.git("app", &["update-ref", "refs/heads/signed", &signed]);
    signed_tag(&git, "v1", &plain, &ours);
    signed_tag(&git, "v2", &signed, &theirs);
    let url = git.url_of("app");
    let (ours, theirs) = (public(&ours), public(&theirs));
    let source = |reference: &str, attrs: &[(&str, &str)]| {
        let identifier = format!("git://{}#{reference}", url.trim_start_matches("git://"));
        of_source(&identifier, &[&[("git.fullurl", url.as_str())][..], attrs].concat())
    };
    let mut play = Play::begin(&daemon, "signed").await;
    let (key, other) = (("git.sig.pubkey", ours.as_str()), ("git.sig.pubkey", theirs.as_str()));
    let (require, ignore) = (("git.sig.requiresignedtag", "true"), ("git.sig.ignoresignedtag", "true"));
    let not_signed = "it is not signed";
    let of_nobody = "it is none of the given keys";
    for (reference, attrs, want) in [
        ("main", &[][..], ""),
        ("main", &[key], not_signed),
        ("signed", &[key], ""),
        (&signed, &[key], ""),
        ("signed", &[other], of_nobody),
        ("signed", &[key, require], "signed tag required but no signed tag found"),
        ("v1", &[key], ""),
        ("v1", &[key, require], ""),
        ("v1", &[other], not_signed),
        ("v1", &[other, require], of_nobody),
        ("v1", &[key, ignore], not_signed),
        ("v1", &[key, ignore, require], "signed tag required but no signed tag found"),
        // Somebody else's tag on a commit of ours.
        ("v2", &[key], ""),
        ("v2", &[key, require], of_nobody),
        ("v2", &[other], ""),
        ("v2", &[other, ignore], of_nobody),
        ("signed", &[("git.sig.pubkey", "nonsense")], "failed to read the public key"),
    ] {
        let made = play.make(source(reference, attrs)).await;
        match made {
            Ok(made) => {
                assert_eq!(want, "", "{reference} {attrs:?}");
                assert_eq!(play.read(&made, "a").await, b"1");
            }
            Err(status) => {
                let said = status.message();
                assert!(!want.is_empty() && said.contains(want), "{reference} {attrs:?}: {said}");
                assert!(said.contains("git"), "{said}");
            }
        }
    }
    // A server that says of a signed tag that it is another commit.
    let evil = git.commit("app", &[("a", "evil")]);
    git.git("app", &["pack-refs", "--all"]);
    let packed = git.path_of("app").join(".git/packed-refs");
    let refs = fs::read_to_string(&packed).unwrap();
    let (before, after) = refs.split_once("refs/tags/v1\n^").unwrap();
    fs::write(&packed, format!("{before}refs/tags/v1\n^{evil}{}", &after[40..])).unwrap();
    let said = play.fails(source("v1", &[key])).await;
    assert!(said.contains("expected checksum to match"), "{said}");
    play.end().await;
    daemon.rbuild.ok(["fsck"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_must_be_signed_by_whom_the_source_says() {
    let Some(daemon) = Daemon::start() else { return };
    let web = Web::new();
    web.file("/f", b"signed text\n", "\"1\"");
    let url = format!("{}/f", web.url);
    macro_rules! data {
        ($name:literal) => {
            include_str!(concat!("../../src/source/signature/testdata/", $name))
        };
    }
    let (key, other) = (("http.sig.pubkey", data!("ed.asc")), ("http.sig.pubkey", data!("other.asc")));
    let signature = ("http.sig.signature", data!("ed.sig"));
    let sum = Digest::of(b"signed text\n").to_string();
    let mut play = Play::begin(&daemon, "download").await;
    let asked = |attrs: &[(&str, &str)]| of_source(&url, attrs);
    assert_eq!(play.text(asked(&[key, signature]), "f").await, "signed text\n");
    // What is here is held against the signature all the same.
    assert_eq!(play.text(asked(&[key, signature, ("http.checksum", &sum)]), "f").await, "signed text\n");
    for attrs in [&[other, signature][..], &[other, signature, ("http.checksum", &sum)]] {
        let said = play.fails(asked(attrs)).await;
        assert!(said.contains("failed to verify pgp signature: signature by 26C54562A57908BD"), "{said}");
    }
    let said = play.fails(asked(&[key, ("http.sig.signature", data!("ssh-ed25519.sig"))])).await;
    assert!(said.contains("failed to verify pgp signature"), "{said}");
    for (attr, missing) in [(key, "http.sig.signature"), (signature, "http.sig.pubkey")] {
        let said = play.fails(asked(&[attr])).await;
        assert!(said.contains("requires both pubkey and signature") && said.contains(missing), "{said}");
    }
    play.end().await;
    web.file("/f", b"another text\n", "\"2\"");
    let mut play = Play::begin(&daemon, "changed").await;
    let said = play.fails(asked(&[key, signature])).await;
    assert!(said.contains("failed to verify pgp signature"), "{said}");
    assert_eq!(play.text(asked(&[]), "f").await, "another text\n");
    play.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_travels_in_a_file() {
    if !have("git") {
        return;
    }
    let Some(daemon) = Daemon::start() else { return };
    let git = GitServer::new(&daemon.rbuild.path("git"));
    git.commit("app", &[("a", "1")]);
    let second = git.commit("app", &[("a", "2"), ("d/b", "3")]);
    git.git("app", &["tag", "-a", "-m", "tagged", "v1"]);
    let url = git.url_of("app");
    let source = |reference: &str, attrs: &[(&str, &str)]| {
        let fragment = if reference.is_empty() { String::new() } else { format!("#{reference}") };
        let identifier = format!("git://{}{fragment}", url.trim_start_matches("git://"));
        of_source(&identifier, &[&[("git.fullurl", url.as_str())][..], attrs].concat())
    };
    let mut play = Play::begin(&daemon, "bundles").await;
    let flag = ("git.checkoutbundle", "true");
    // What was fetched without history does not stay without.
    assert_eq!(play.text(source("main", &[]), "a").await, "2");
    let mut bundles = Vec::new();
    for (reference, name) in [
        ("main", "refs/heads/main"),
        ("", "refs/heads/main"),
        ("refs/tags/v1", "refs/tags/v1"),
        (&second, "refs/heads/main"),
    ] {
        let made = play.make(source(reference, &[flag])).await.unwrap();
        assert_eq!(play.list(&made).await, ["bundle"]);
        let bundle = play.read(&made, "bundle").await;
        let file = daemon.rbuild.path("read.bundle");
        fs::write(&file, &bundle).unwrap();
        let file = file.to_str().unwrap();
        let heads = git.git("app", &["bundle", "list-heads", file]);
        assert!(heads.lines().count() == 1 && heads.ends_with(&format!(" {name}")), "{heads}");
        let _ = fs::remove_dir_all(git.path_of("clone"));
        let into = git.path_of("clone");
        git.git("app", &["clone", "-q", "-n", "-b", name.rsplit('/').next().unwrap(), file, into.to_str().unwrap()]);
        assert_eq!(git.git("clone", &["rev-list", "--count", &second]), "2", "{reference}");
        bundles.push(bundle);
    }
    for (reference, attrs, want) in [
        ("main:d", &[flag][..], "git.checkoutbundle is incompatible with git.subdir"),
        ("main", &[flag, ("git.keepgitdir", "true")], "git.checkoutbundle is incompatible with git.keepgitdir"),
    ] {
        let said = play.fails(source(reference, attrs)).await;
        assert!(said.contains(want), "{said}");
    }
    play.end().await;
    drop(git);

    // Nobody serves this remote, and nobody is asked.
    let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
    let nonsense = b"no bundle".to_vec();
    let blobs = bundles.iter().chain([&nonsense]).map(|bytes| (digest(bytes), bytes.clone())).collect();
    let session = Stores([("oci:given".to_owned(), blobs)].into()).open(&daemon, "client").await;
    let request = SolveRequest { r#ref: "unbundle".into(), session: "client".into(), ..Default::default() };
    let mut play = Play::ask(&daemon, request).await;
    let locator = |bytes: &[u8]| format!("oci-layout+blob://given@{}", digest(bytes));
    let absent = |reference: &str, bundle: &str, attrs: &[(&str, &str)]| {
        let identifier = format!("git://127.0.0.1:1/elsewhere{reference}");
        of_source(&identifier, &[&[("git.bundle", bundle)][..], attrs].concat())
    };
    let (main, tag) = (locator(&bundles[0]), locator(&bundles[2]));
    let sum = ("git.checksum", second.as_str());
    for (reference, bundle, attrs) in [
        ("", &main, &[sum][..]),
        ("#main", &main, &[sum]),
        ("#v1", &tag, &[sum]),
        ("", &tag, &[("git.checksum", &second[..12])]),
        (&format!("#{second}"), &main, &[sum]),
    ] {
        assert_eq!(play.text(absent(reference, bundle, attrs), "d/b").await, "3", "{reference} {attrs:?}");
    }
    assert_eq!(play.text(absent("#main:d", &main, &[sum]), "b").await, "3");
    // From bundle to bundle.
    let again = play.make(absent("", &main, &[sum, flag])).await.unwrap();
    assert_eq!(play.list(&again).await, ["bundle"]);
    let elsewhere = "5".repeat(40);
    for (reference, bundle, attrs, want) in [
        ("", main.clone(), &[("git.checksum", elsewhere.as_str())][..], "not found in the bundle"),
        ("#other", main.clone(), &[sum], "repository does not contain ref other"),
        ("", locator(&nonsense), &[("git.checksum", &elsewhere)], "git ls-remote"),
        ("", main.clone(), &[], "git.bundle requires git.checksum to be set"),
        ("", "https://h/b".to_owned(), &[sum], "git.bundle"),
    ] {
        let said = play.fails(absent(reference, &bundle, attrs)).await;
        assert!(said.contains(want), "{want}: {said}");
    }
    play.end().await;
    session.abort();
    assert!(text(daemon.rbuild.ok(["fsck"]).as_bytes()).is_empty());
}
