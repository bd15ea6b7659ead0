//! What comes from elsewhere: files, repositories, credentials.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::server;
use super::support::served::{GitServer, Web};
use super::support::{self, have, text};
use super::user::users_rbuild;

#[test]
fn what_is_elsewhere_comes_to_an_ordinary_user_too() {
    let Some(rbuild) = users_rbuild() else { return };
    if !have("git") {
        return;
    }
    let (web, served) = (Web::new(), support::scratch());
    fs::set_permissions(served.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let git = GitServer::new(&served.path().join("git"));
    git.commit("lib", &[("l", "inner")]);
    git.commit("app", &[("a", "1")]);
    git.git("app", &["submodule", "-q", "add", &git.url_of("lib"), "lib"]);
    git.commit("app", &[]);
    web.file("/f", b"web", "\"1\"");
    let (url, repository) = (&web.url, git.url_of("app"));
    let dockerfile = format!(
        "FROM busybox\nADD {url}/f /f\nADD --chown=1000:1000 {url}/f /owned\nADD --keep-git-dir {repository} /app\n\
         RUN test $(stat -c %u:%g:%a /f) = 0:0:600 && test $(stat -c %u /owned) = 1000 && \
         test $(stat -c %u /app/lib/l) = 0 && test -d /app/.git && cat /proc/sys/kernel/random/uuid > /id\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let first = rbuild.tree(&context, &[]);
    assert_eq!((first.read("/f"), first.read("/app/lib/l")), ("web".into(), "inner".into()));
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/id"), second.read("/id"));
    let statuses: Vec<u16> = web.log().into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[test]
fn credential_helpers_are_run_by_the_user_themselves() {
    use base64::Engine as _;
    let Some(rbuild) = users_rbuild() else { return };
    let registry = server::Server::start();
    let user = rbuild.user.unwrap().0;
    let introduction = base64::engine::general_purpose::STANDARD.encode(format!("me:secret-of-{user}"));
    registry.state().asks = server::Asks::Basic(introduction.leak());

    let (bin, config) = (rbuild.path("bin"), rbuild.path("docker"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&config).unwrap();
    // What a keyring does: it looks who asks.
    let helper = "#!/bin/sh\nread server\necho \"helper for $server of $(id -u)\" >&2\n\
                  echo \"{\\\"ServerURL\\\":\\\"$server\\\",\\\"Username\\\":\\\"me\\\",\\\"Secret\\\":\\\"secret-of-$(id -u)\\\"}\"\n";
    let path = bin.join("docker-credential-whoami");
    fs::write(&path, helper).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(config.join("config.json"), r#"{"credsStore":"whoami"}"#).unwrap();

    let name = format!("{}/team/app:1", registry.host());
    rbuild.ok(["tag", "busybox", &name]);
    let with_helper = |args: &[&str]| {
        let mut command = rbuild.command(args);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let output = command.env("DOCKER_CONFIG", &config).env("PATH", path).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = with_helper(&["push", &name]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("secret-of"), "{said}");

    fs::write(&path, "#!/bin/sh\necho \"no keyring of $(id -u)\" >&2\nexit 1\n").unwrap();
    let (code, said) = with_helper(&["push", &name]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("docker-credential-whoami failed: no keyring of {user}")), "{said}");

    fs::write(&path, "#!/bin/sh\nyes secret-of-nobody\n").unwrap();
    let (code, said) = with_helper(&["push", &name]);
    assert_eq!(code, Some(1));
    assert!(said.contains("more than 64 KiB") && !said.contains("secret-of"), "{said}");
}
