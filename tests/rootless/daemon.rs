//! `rbuild serve` of an ordinary user, asked by the real docker-buildx of the same user.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::client::Buildx;
use super::fixture::Daemon;
use super::support::mounts;
use super::user::users_rbuild;

#[test]
fn an_ordinary_user_serves_buildx() {
    let Some(rbuild) = users_rbuild() else { return };
    let dockerfile =
        "FROM busybox\nRUN --mount=type=secret,id=tok cp /run/secrets/tok /tok && chown 5:7 /tok && chmod 644 /tok\n\
        COPY --chown=builder f /f\nUSER builder\nRUN test $(stat -c %u /tok) = 5 && id -un > /tmp/who\n";
    rbuild.context("ctx", &[("Dockerfile", dockerfile), ("f", "data")]);
    fs::write(rbuild.path("tok"), "sesame").unwrap();
    let user = rbuild.user.unwrap().0;
    let mut daemon = Daemon::of(rbuild, &[]);
    assert_eq!(fs::metadata(daemon.socket()).unwrap().uid(), user);
    let Some(buildx) = Buildx::new(&daemon) else { return };
    let words = ["build", "--progress=plain", "--secret", "id=tok,src=tok"];
    buildx.ok(&[&words[..], &["-o", "out", "ctx"]].concat());
    let read = |name: &str| fs::read_to_string(daemon.rbuild.path("out").join(name)).unwrap();
    assert_eq!((read("tok"), read("f"), read("tmp/who")), ("sesame".into(), "data".into(), "builder\n".into()));
    let said = buildx.ok(&[&words[..], &["-o", "type=oci,dest=o.tar", "ctx"]].concat());
    assert_eq!(said.lines().filter(|line| line.ends_with("CACHED")).count(), 4, "{said}");
    assert!(daemon.end().1.success(), "{}", daemon.log());
    assert!(mounts(&daemon.rbuild.root()).is_empty());
}
