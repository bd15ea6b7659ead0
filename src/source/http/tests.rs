use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::registry::{Config, Credentials, Limits};

fn wanted(url: &str, attrs: &[(&str, &str)]) -> Result<Wanted, Error> {
    Wanted::read(url, &attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

#[test]
fn servers_name_files_but_not_places() {
    for (header, want) in [
        ("attachment; filename=a.tgz", Some("a.tgz")),
        ("attachment; filename=\"a b.tgz\"", Some("a b.tgz")),
        ("attachment; filename=\"a\\\"b\"; size=1", Some("a\"b")),
        ("attachment; size=1; FILENAME=x", Some("x")),
        ("attachment; filename=old; filename*=UTF-8''n%C3%A9w", Some("néw")),
        ("attachment; filename=../../etc/passwd", Some("passwd")),
        ("attachment; filename*=UTF-8''..%2f..%2fx", Some("x")),
        ("attachment; filename=\"..\"", None),
        ("attachment; filename=\"a/\"", None),
        ("attachment; filename=\"\"", None),
        ("attachment; filename=\"a", None),
        ("attachment; filename=\"a\0b\"", None),
        ("attachment", None),
    ] {
        assert_eq!(disposition(header).as_deref(), want, "{header}");
    }
    let long = format!("attachment; filename={}", "x".repeat(300));
    assert_eq!(disposition(&long), None);
    for (url, want) in [
        ("http://h/a/b.tgz?x=/c", Some("b.tgz")),
        ("http://h/a/", Some("a")),
        ("http://h/", None),
        ("http://h/a%20b", Some("a b")),
        ("http://h/x%2f..", None),
    ] {
        assert_eq!(name_in(&Url::parse(url).unwrap()).as_deref(), want, "{url}");
    }
}

#[test]
fn attributes_are_understood_or_refused() {
    for (attrs, reason) in [
        (("http.filename", "../x"), "name of a file"),
        (("http.filename", "."), "name of a file"),
        (("http.checksum", "sha256:abc"), "hexadecimal"),
        (("http.checksum", "md5:d41d8cd98f00b204e9800998ecf8427e"), "hexadecimal"),
        (("http.perm", "rw"), "not a number"),
        (("http.sig.pubkey", "key"), "http.sig.signature \"\" is missing"),
        (("http.sig.signature", "sig"), "http.sig.pubkey \"\" is missing"),
    ] {
        let error = wanted("http://user:hunter2@h/x", &[attrs]).unwrap_err().to_string();
        assert!(error.contains(reason) && !error.contains("hunter2"), "{error}");
    }
    assert!(wanted("http://", &[]).is_err() && wanted("ftp://h/x", &[]).is_err());
    let error = wanted("http://user:hunter2@", &[]).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn what_is_known_meets_the_checksum_it_was_held_against() {
    let digits = "a".repeat(64);
    let known = Known { etag: None, last_modified: None, name: "x".into(), sha256: digits.clone(), checksum: None };
    let with = |checksum: String| wanted("http://h/x", &[("http.checksum", &checksum)]).unwrap();
    assert!(with(format!("sha256:{digits}")).is_met_by(&known));
    assert!(!with(format!("sha256:{}", "b".repeat(64))).is_met_by(&known));
    assert!(!with(format!("sha512:{}", "a".repeat(128))).is_met_by(&known));
    assert!(!wanted("http://h/x", &[]).unwrap().is_met_by(&known));
}

/// A server that gives each connection one of the answers, and then waits with the connection open.
async fn server(answers: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file.txt", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            kept.push(stream);
        }
        std::future::pending::<()>().await;
    });
    url
}

fn web() -> Registry {
    let limits = Limits { stall: Duration::from_millis(200), ..Limits::default() };
    Registry::new(Config::default(), Credentials::default(), limits)
}

async fn fetch(url: &str, attrs: &[(&str, &str)]) -> Result<(Known, Vec<u8>), Error> {
    let wanted = wanted(url, attrs)?;
    let Answer::File(download) = wanted.ask(&web(), None, None).await? else { panic!("nothing was known") };
    let mut bytes = Vec::new();
    let known = wanted.save(download, &mut bytes, &|_, _| {}).await?;
    Ok((known, bytes))
}

#[tokio::test]
async fn a_file_comes_with_its_name_and_date() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: \"1\"\r\nConnection: close\r\n\
                  Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\nabc";
    let (known, bytes) = fetch(&server(&[ANSWER]).await, &[]).await.unwrap();
    assert_eq!(
        (known.name.as_str(), known.etag.as_deref(), bytes.as_slice()),
        ("file.txt", Some("\"1\""), &b"abc"[..])
    );
    assert_eq!(known.modified(), 784_111_777);
}

#[tokio::test]
async fn checksums_of_all_kinds_are_held_against_the_file() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    let sha512 = format!("sha512:{}", hex::encode(Sha512::digest(b"abc")));
    let url = server(&[ANSWER, ANSWER]).await;
    let (known, _) = fetch(&url, &[("http.checksum", &sha512)]).await.unwrap();
    assert!(wanted(&url, &[("http.checksum", &sha512)]).unwrap().is_met_by(&known));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let error = fetch(&url, &[("http.checksum", &wrong)]).await.unwrap_err().to_string();
    let got = hex::encode(Sha256::digest(b"abc"));
    assert_eq!(error, format!("digest mismatch for {url}: sha256:{got} (expected: {wrong})"));
}

#[tokio::test]
async fn a_server_that_stalls_or_breaks_off_is_given_up() {
    const HALF: &str = "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc";
    let error = fetch(&server(&[HALF]).await, &[]).await.unwrap_err();
    assert!(matches!(error, Error::Transport { source: registry::Error::Stalled { .. }, .. }), "{error:?}");
    let error = fetch(&server(&[""]).await, &[]).await.unwrap_err();
    assert!(matches!(error, Error::Transport { source: registry::Error::Stalled { .. }, .. }), "{error:?}");
    let error = fetch(&server(&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]).await, &[]).await.unwrap_err();
    assert!(error.to_string().ends_with("invalid response status 404"), "{error}");
}
