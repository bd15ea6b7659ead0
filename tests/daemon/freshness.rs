//! Base images of a daemon that lives long: as old as their registry says, and there when it says nothing.

use super::fixture::Daemon;
use super::support::registry::Registry;
use super::support::{can_build, have, scratch, Rbuild};

#[test]
fn pulled_bases_are_asked_for_again_and_used_while_nobody_answers() {
    if !can_build() || !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let scratch = scratch();
    let config = scratch.path().join("buildkitd.toml");
    // A host that no name server knows, behind a mirror.
    std::fs::write(&config, format!("[registry.\"none.invalid\"]\nmirrors = [\"{}\"]\n", registry.address)).unwrap();
    let Some(daemon) = Daemon::start_with(&["--config", &config.display().to_string()]) else { return };
    let elsewhere = Rbuild::new();
    let (base, other) = (registry.name("base:1"), registry.name("other:1"));
    let publish = |name: &str, version: &str| {
        elsewhere.context("base", &[("Dockerfile", &format!("FROM busybox\nRUN echo {version} > /version\n"))]);
        elsewhere.ok(["build", "-t", name, "--push", "base"]);
    };
    let address = daemon.address();
    let seen = |name: &str, round: &str| {
        let dockerfile = format!("FROM {name}\nRUN echo {round} && cp /version /seen\n");
        let context = daemon.rbuild.context("ctx", &[("Dockerfile", &dockerfile)]);
        let out = format!("out-{round}");
        daemon.rbuild.ok([
            "build".as_ref(),
            "--addr".as_ref(),
            address.as_ref(),
            "-o".as_ref(),
            out.as_ref(),
            context.as_os_str(),
        ]);
        std::fs::read_to_string(daemon.rbuild.path(&out).join("seen")).unwrap()
    };
    publish(&base, "one");
    assert_eq!(seen(&base, "first"), "one\n");
    publish(&base, "two");
    assert_eq!(seen(&base, "second"), "two\n");

    publish(&registry.name("mirrored:1"), "mirrored");
    let mirrored = "none.invalid/mirrored:1";
    assert_eq!(seen(mirrored, "mirrored"), "mirrored\n");

    // What was made here is meant, whatever a registry has under the name.
    publish(&other, "theirs");
    let dockerfile = format!("FROM {base}\nRUN echo ours > /version\n");
    let context = daemon.rbuild.context("ours", &[("Dockerfile", &dockerfile)]);
    daemon.rbuild.ok([
        "build".as_ref(),
        "--addr".as_ref(),
        address.as_ref(),
        "-t".as_ref(),
        other.as_ref(),
        context.as_os_str(),
    ]);
    assert_eq!(seen(&other, "third"), "ours\n");

    // Connections are refused, and the name has no address.
    drop(registry);
    assert_eq!(seen(&base, "fourth"), "two\n");
    assert_eq!(seen(&other, "fifth"), "ours\n");
    assert_eq!(seen(mirrored, "sixth"), "mirrored\n");
}
