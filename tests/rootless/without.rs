//! Machines that lack something: newuidmap, subordinate ids, the right to mount.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::owners::archive_of_a_device;
use super::same::{self, context, listing};
use super::support::{self, text, Rbuild};
use super::user::{as_user, ordinary_user, rbuild_of, users_rbuild};

/// A directory with all programs but those that map ids.
fn path_without_uidmap(rbuild: &Rbuild) -> PathBuf {
    let bin = rbuild.path("bin");
    fs::create_dir_all(&bin).unwrap();
    bin
}

#[test]
fn without_newuidmap_builds_have_one_owner_and_say_what_is_missing() {
    let Some(user) = ordinary_user() else { return };
    let rbuild = rbuild_of(user);
    let archive = rbuild.path("busybox.tar");
    fs::write(&archive, support::busybox_rootfs()).unwrap();
    let alone = |args: &[&str]| {
        let output = rbuild.command(args).env("PATH", path_without_uidmap(&rbuild)).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let remedy = "install newuidmap and newgidmap (`apt-get install uidmap`)";
    let (code, _, said) = alone(&["import", archive.to_str().unwrap(), "busybox"]);
    assert_eq!(code, Some(0), "{said}");
    let cases = [
        ("RUN id -u > /id && echo fine > /fine", None),
        ("COPY --chown=7 Dockerfile /d", Some("write /d: Invalid argument")),
        ("ADD extra.tar /", Some("set the owner: Invalid argument")),
        ("RUN touch /x && chown 5 /x", Some("chown: /x: Invalid argument")),
        ("USER builder\nRUN true", Some("become the user: Operation not permitted")),
    ];
    for (index, (line, error)) in cases.into_iter().enumerate() {
        let context = rbuild.context(&format!("c{index}"), &[("Dockerfile", &format!("FROM busybox\n{line}\n"))]);
        fs::write(context.join("extra.tar"), same::archive()).unwrap();
        let (code, _, said) = alone(&["build", "--progress=plain", context.to_str().unwrap()]);
        let warning = format!(
            "\n - there is no user id but your own here: files of other owners and steps of other users will fail; {remedy}"
        );
        assert_eq!(said.matches(&warning).count(), 1, "{said}");
        assert_eq!(code, Some(i32::from(error.is_some())), "{line}: {said}");
        if let Some(error) = error {
            assert!(said.contains(error), "{line}: {said}");
            let help = said.lines().find(|l| l.starts_with("help: ")).unwrap_or_else(|| panic!("{line}: {said}"));
            assert!(help.ends_with(remedy), "{line}: {help}");
        }
    }
    let (code, out, said) = alone(&["run", "busybox", "id", "-u"]);
    assert_eq!((code, out.as_str()), (Some(0), "0\n"), "{said}");
    // With all ids the same store would mean other owners.
    let said = rbuild.fails(1, ["images"]);
    assert!(said.contains("its id map is") && said.contains("choose another with --root"), "{said}");
}

#[test]
fn a_user_without_subordinate_ids_is_told_where_they_are_listed() {
    if ordinary_user().is_none() {
        return;
    }
    // A number that no file knows.
    let rbuild = rbuild_of((1_234_567, 1_234_567));
    let context = rbuild.context("c", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let said = rbuild.log(&context, &[]);
    let remedy = "add a line `1234567:100000:65536` with ids that nobody has to /etc/subuid and to /etc/subgid";
    assert!(said.contains(remedy), "{said}");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let Some(rbuild) = users_rbuild() else { return };
    let user = rbuild.user.unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs"]).arg(&rbuild.program).arg("images").env("RBUILD_ROOT", rbuild.root());
    let output = as_user(&mut command, user).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("ERROR: newuidmap failed: ") && said.contains("no_new_privs"), "{said}");

    let bin = rbuild.path("copies");
    fs::create_dir(&bin).unwrap();
    fs::copy("/usr/bin/newuidmap", bin.join("newuidmap")).unwrap();
    fs::set_permissions(bin.join("newuidmap"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = rbuild.command(["images"]).env("PATH", path).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("newuidmap lacks its set-user-id bit"), "{said}");

    // The switch of a user namespace, so that the machine's stays as it is.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -sys_admin {} images",
        rbuild.program.display()
    );
    let output = Command::new("unshare").args(["-Ur", "sh", "-c", &script]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("user namespaces, and here they are switched off"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn root_without_the_right_to_mount_builds_too() {
    if ordinary_user().is_none() {
        return;
    }
    let rbuild = Rbuild::empty();
    let archive = rbuild.path("busybox.tar");
    fs::write(&archive, support::busybox_rootfs()).unwrap();
    let context = context(&rbuild);
    let limited = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_admin"]).arg(&rbuild.program).args(args);
        let output = command.env("RBUILD_ROOT", rbuild.root()).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stderr)
    };
    let device = rbuild.path("device.tar");
    fs::write(&device, archive_of_a_device()).unwrap();
    assert!(limited(&["import", device.to_str().unwrap(), "device"]).contains("1 device nodes were left out"));
    limited(&["import", archive.to_str().unwrap(), "busybox"]);
    let tree = rbuild.path("tree.tar");
    limited(&["build", "-o", &format!("type=tar,dest={}", tree.display()), context.to_str().unwrap()]);
    assert!(listing(&tree)["owned"].contains("60000:60001"));
}
