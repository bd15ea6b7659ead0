use super::*;

fn wanted(reference: &str, attrs: &[(&str, &str)]) -> Result<Wanted, Error> {
    Wanted::read(reference, &attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

#[test]
fn remotes_are_reached_by_four_transports_only() {
    for (url, want) in [
        ("https://h.example/a.git", Some("https://h.example/a.git")),
        ("http://h.example:8080/a.git", Some("http://h.example:8080/a.git")),
        ("git://h.example/a", Some("git://h.example/a")),
        ("ssh://git@h.example:22/a", Some("ssh://git@h.example:22/a")),
        ("git@h.example:a/b.git", Some("git@h.example:a/b.git")),
        ("h.example/a.git", Some("https://h.example/a.git")),
        ("https://user:hunter2@h.example/a.git", Some("https://h.example/a.git")),
        ("https://hunter2@h.example/a.git", Some("https://h.example/a.git")),
        ("ssh://git:hunter2@h.example/a", Some("ssh://git@h.example/a")),
        ("file:///etc", None),
        ("ext::sh -c id", None),
        ("ext::sh", None),
        ("/etc", None),
        ("-upload-pack=x", None),
        ("ssh://-oProxyCommand=id/a", None),
        ("ssh://-l@h/a", None),
        ("-x@h:a", None),
        ("git@h:-x", None),
        ("https://h.example/a\nb", None),
        ("https:///a", None),
    ] {
        // git itself reads nothing here that could lead elsewhere, and a path without host has none to be sent to.
        let found = Remote::parse(url).map(|remote| remote.to_string());
        match want {
            Some(want) => assert_eq!(found.unwrap(), want, "{url}"),
            None => {
                let said = found.expect_err(url).to_string();
                assert!(!said.contains("hunter2"), "{said}");
            }
        }
    }
    let with_token = wanted("h.example/a", &[("git.fullurl", "https://me:p%40ss@h.example/a.git")]).unwrap();
    assert_eq!(with_token.remote.introduction().unwrap().expose(), "Basic bWU6cEBzcw==");
    assert!(!format!("{with_token:?}").contains("p@ss"));
}

#[test]
fn a_full_url_is_that_of_the_identifier() {
    for (identifier, url, is_fine) in [
        ("h.example/u/r.git#main:sub", "https://h.example/u/r.git", true),
        ("h.example/u/r.git", "git://h.example/u/r.git", true),
        ("h.example/u/r.git", "https://user:password@h.example/u/r.git", true),
        ("h.example/u/r.git#main", "ssh://git@h.example/u/r.git", true),
        ("h.example/u/r.git", "git@h.example:u/r.git", true),
        ("h.example/u/r", "git@h.example:/u/r.git", true),
        ("h.example/u/r.git", "h.example/u/r.git", true),
        ("h.example/u/r.git", "https://H.EXAMPLE/u/r.git/", true),
        ("H.example/u/r", "https://h.example/u/r.git", true),
        ("h.example/u/r.git", "https://h.example/u/r?variant=other#main", true),
        ("h.example:443/u/r", "https://h.example:443/u/r", true),
        ("h.example/My Project/r", "https://h.example/My%20Project/r", true),
        ("h.example/My%20Project/r", "https://h.example/My%20Project/r", true),
        ("[::1]:9418/r", "git://[::1]:9418/r", true),
        ("b\u{fc}cher.example/r", "https://b\u{fc}cher.example/r", true),
        ("h.example/u/r.git", "https://mirror.h.example/u/r.git", false),
        ("h.example/u/r.git", "https://h.example@mirror.example/u/r.git", false),
        ("h.example/u/r.git", "https://h.example:8443/u/r.git", false),
        ("h.example/u/r.git", "ssh://git@h.example:2222/u/r.git", false),
        ("h.example/u/r.git", "https://h.example/u/other.git", false),
        ("h.example/u/r.git", "https://h.example/u/r.git.backup", false),
        ("h.example/u/r.git", "https://h.example/u/r/../other", false),
        ("h.example/u/r.git", "https://h.example/U/r.git", false),
        ("h.example/u/r", "https://h.example/u%2fr", true), // as Go decodes it
        ("h.example", "https://h.example/u/r", false),
        ("", "https://h.example/u/r", false),
        ("h.example/u/r", "git@mirror.example:h.example/u/r", false),
    ] {
        let found = wanted(identifier, &[("git.fullurl", url)]);
        assert_eq!(found.is_ok(), is_fine, "{identifier} {url}");
        let said = found.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(is_fine || said.contains("git.fullurl does not match source identifier"), "{said}");
        assert!(!said.contains("password"), "{said}");
    }
}

#[test]
fn refs_are_names_and_subdirs_are_below() {
    for (fragment, is_fine) in [
        ("main", true),
        ("feature/a-b_c", true),
        ("refs/tags/v1.0", true),
        ("--upload-pack=x", false),
        ("-c", false),
        ("a b", false),
        ("a\nb", false),
        ("a..b", false),
        ("a^{}", false),
        ("a~1", false),
        ("@{-1}", false),
        ("a*", false),
        ("a.lock", false),
        ("main:sub/dir", true),
        ("main:/sub//./dir/", true),
        (":sub", true),
        ("main:..", false),
        ("main:a/../../b", false),
        ("main:.git/hooks", false),
        ("main:a/.GIT", false),
        ("main:a\0b", false),
    ] {
        assert_eq!(wanted(&format!("h/r#{fragment}"), &[]).is_ok(), is_fine, "{fragment:?}");
    }
    assert_eq!(wanted("h/r#main:/sub//./dir/", &[]).unwrap().subdir, ["sub", "dir"]);
    assert_eq!(wanted("h/r#main:%2e%2e/x", &[]).unwrap().subdir, ["%2e%2e", "x"], "nothing is decoded");
}

#[test]
fn attributes_are_understood_or_refused() {
    for (attr, is_fine) in [
        (("git.checksum", "deadbee"), true),
        (("git.checksum", "dead"), false),
        (("git.checksum", "xyzxyzx"), false),
        (("git.mtime", "commit"), true),
        (("git.mtime", "now"), false),
        (("git.keepgitdir", "true"), true),
        (("git.keepgitdir", "yes"), false),
        (("git.bundle", "x"), false),
        (("git.checkoutbundle", "true"), true),
        (("git.sig.pubkey", "x"), true),
        (("git.sig.requiresignedtag", "true"), false),
        (("git.sig.requiresignedtag", "false"), true),
        (("git.of.the.future", "x"), true),
    ] {
        assert_eq!(wanted("h/r", &[attr]).is_ok(), is_fine, "{attr:?}");
    }
    assert!(!wanted("h/r#m:sub", &[("git.keepgitdir", "true")]).unwrap().keep_git_dir);
}

#[test]
fn bundles_name_a_blob_and_a_commit() {
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    let bundle = ("git.bundle", &*format!("docker-image+blob://r.example/bundles@sha256:{}", "a".repeat(64)));
    let (sum, flag) = (("git.checksum", one.as_str()), ("git.checkoutbundle", "true"));
    for (reference, attrs, want) in [
        ("h/r", &[bundle, sum][..], ""),
        ("h/r", &[bundle, sum, flag], ""),
        ("h/r", &[flag], ""),
        (&format!("h/r#{one}"), &[bundle, sum], ""),
        (&format!("h/r#{two}"), &[bundle, sum], "expected checksum to match"),
        ("h/r", &[bundle], "git.bundle requires git.checksum to be set"),
        ("h/r", &[("git.bundle", "https://h/bundle"), sum], "want docker-image+blob://"),
        ("h/r", &[("git.bundle", "oci-layout+blob://x"), sum], "named by its digest"),
        ("h/r#main:sub", &[flag], "git.checkoutbundle is incompatible with git.subdir"),
        ("h/r", &[flag, ("git.keepgitdir", "true")], "git.checkoutbundle is incompatible with git.keepgitdir"),
    ] {
        let said = wanted(reference, attrs).map_or_else(|error| error.to_string(), |_| String::new());
        assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{reference} {attrs:?}: {said}");
    }
}
