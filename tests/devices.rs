//! Devices of vendors' specifications in RUN steps: what a step gets, who may have it, and what is refused.

mod support;

use std::fs;

use support::{can_build, Rbuild};

const DEVICES: &str = r#"
cdiVersion: "0.7.0"
kind: rbuild.test/thing
containerEdits:
  env: [COMMON=yes]
devices:
- name: nothing
  containerEdits:
    env: [THING=nothing, PATH=/bin:/extra]
    additionalGids: [4711]
    deviceNodes:
    - path: /dev/things/nothing
      hostPath: /dev/null
      fileMode: 0640
      uid: 5
      gid: 6
    - path: /opt/full
      hostPath: /dev/full
      permissions: rw
    mounts:
    - { hostPath: HOST, containerPath: /vendor/lib, options: [ro, nosuid, nodev, bind] }
- name: open
  annotations: { org.mobyproject.buildkit.device.autoallow: true, org.mobyproject.buildkit.device.class: free }
  containerEdits: { env: [THING=open] }
- name: hooked
  containerEdits:
    hooks: [{ hookName: createContainer, path: /bin/true }]
- name: missing
  containerEdits: { deviceNodes: [{ path: /dev/rbuild-no-such-device }] }
- name: file
  containerEdits: { deviceNodes: [{ path: /dev/x, hostPath: HOST/lib.so }] }
"#;

/// A store whose configuration file names a directory with these devices.
fn with_devices(more: &str) -> Rbuild {
    let rbuild = Rbuild::new();
    let host = rbuild.context("host", &[("lib.so", "of the host\n")]);
    let specs = rbuild.context("cdi", &[("things.yaml", &DEVICES.replace("HOST", host.to_str().unwrap()))]);
    fs::write(rbuild.path("config.toml"), format!("[cdi]\nspecDirs = [{specs:?}]\n{more}")).unwrap();
    rbuild
}

fn build(rbuild: &Rbuild, steps: &str, flags: &[&str]) -> (bool, String) {
    let context = rbuild.context("ctx", &[("Dockerfile", &format!("FROM busybox\n{steps}\n"))]);
    let mut command = rbuild.command(["build", "--progress=plain", "-o", "type=local,dest=out"]);
    command.args(flags).arg(context).env("RBUILD_CONFIG", rbuild.path("config.toml"));
    let output = command.output().unwrap();
    (output.status.success(), support::text(&output.stderr))
}

#[test]
fn a_step_gets_what_its_device_brings_and_the_image_nothing_of_it() {
    if !can_build() {
        return;
    }
    let rbuild = with_devices("");
    // Each look at it is a line of the output; a node on a mount of its own is one that can be opened.
    let look = "echo $COMMON $THING $PATH; id -G; cat /vendor/lib/lib.so; touch /vendor/lib/x 2>&1; \
                stat -c '%F %a %u %g %t %T' /dev/things/nothing /opt/full; echo x > /dev/things/nothing && echo written; \
                echo x > /opt/full || echo full; mknod /dev/own c 1 3; (cat /dev/own) 2>&1 || true";
    let steps =
        format!("RUN --device=rbuild.test/thing=nothing,required {look}\nRUN ls /opt /vendor /dev/things 2>&1 | wc -l");
    let (is_built, said) = build(&rbuild, &steps, &["--allow", "device=rbuild.test/thing=nothing"]);
    assert!(is_built, "{said}");
    for line in [
        "yes nothing /bin:/extra",
        "0 4711",
        "of the host",
        "touch: /vendor/lib/x: Read-only file system",
        "character special file 640 5 6 1 3",
        "character special file 666 0 0 1 7",
        "written",
        "full",
        "cat: can't open '/dev/own': Permission denied",
    ] {
        assert!(said.lines().any(|said| said.ends_with(&format!(" {line}"))), "{line:?} is not in\n{said}");
    }
    let mut left: Vec<_> = fs::read_dir(rbuild.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    let left: Vec<_> = left.iter().map(|name| name.to_str().unwrap()).collect();
    assert_eq!(left, ["bin", "etc", "root", "tmp", "usr", "var"], "no mount point stays");
}

#[test]
fn nobody_has_a_device_that_was_not_allowed() {
    if !can_build() {
        return;
    }
    let rbuild = with_devices("");
    let nothing = "RUN --device=rbuild.test/thing=nothing echo THING is $THING";
    let (is_built, said) = build(&rbuild, nothing, &[]);
    let sentence = "device rbuild.test/thing=nothing is requested by the build but not allowed";
    assert!(!is_built && said.contains(sentence), "{said}");
    assert!(said.contains("help: allow it with --allow device=rbuild.test/thing=nothing"), "{said}");
    for (step, flags, want) in [
        (nothing, &["--allow", "device"][..], "THING is nothing"),
        (nothing, &["--allow", "device=rbuild.test/thing=*"], "THING is nothing"),
        ("RUN --device=rbuild.test/thing=free echo THING is $THING", &[], "THING is open"),
        (
            "RUN --device=my/gpu=any echo THING is $THING",
            &["--allow", "device=rbuild.test/thing=nothing,alias=my/gpu=any"],
            "THING is nothing",
        ),
        ("RUN --device=no.such/thing=1 echo THING is $THING.", &[], "THING is ."),
    ] {
        let (is_built, said) = build(&rbuild, step, &[&["--no-cache"], flags].concat());
        assert!(is_built && said.contains(want), "{step}: {said}");
    }
    let rbuild = with_devices("autoAllowed = [\"rbuild.test/thing\"]");
    let (is_built, said) = build(&rbuild, nothing, &[]);
    assert!(is_built && said.contains("THING is nothing"), "{said}");
}

#[test]
fn a_device_that_cannot_be_given_is_refused_by_name() {
    if !can_build() {
        return;
    }
    let rbuild = with_devices("");
    for (device, want) in [
        ("no.such/thing=1,required", "required device \"no.such/thing=1\" is not registered"),
        ("rbuild.test/thing=hooked", "device \"rbuild.test/thing=hooked\" needs a hook (createContainer)"),
        ("rbuild.test/thing=missing", "the device at /dev/rbuild-no-such-device cannot be used"),
        ("rbuild.test/thing=file", "lib.so cannot be used"),
        ("../etc,required", "invalid device \"../etc\""),
    ] {
        let (is_built, said) = build(&rbuild, &format!("RUN --device={device} true"), &["--allow", "device"]);
        assert!(!is_built && said.contains(want), "{device}: {said}");
    }
    let rbuild = with_devices("disabled = true");
    let (is_built, said) = build(&rbuild, "RUN --device=rbuild.test/thing,required true", &["--allow", "device"]);
    assert!(!is_built && said.contains("devices are disabled in the configuration file"), "{said}");
}
