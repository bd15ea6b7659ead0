//! Files of other owners: of devices, at home, exported, in contexts.

use std::fs;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::process::Command;

use super::same::context;
use super::support::{self, text};
use super::user::{as_user, ordinary_user, rbuild_of, run, users_rbuild, NAME};

/// A device node, and a file beside it.
pub fn archive_of_a_device() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Char);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_mode(0o666);
    header.set_size(0);
    archive.append_data(&mut header, "null", &b""[..]).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, "file", &b""[..]).unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn device_nodes_of_a_base_image_are_left_out_and_counted() {
    let Some(user) = ordinary_user() else { return };
    let rbuild = rbuild_of(user);
    fs::write(rbuild.path("base.tar"), archive_of_a_device()).unwrap();
    let output = rbuild.run(["import", "base.tar", "base"]);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(0), 1), "{said}");
    assert_eq!(said, "WARNING: 1 device nodes were left out: only root may make them\n");
    let context = rbuild.context("c", &[("Dockerfile", "FROM base\n")]);
    let tree = rbuild.tree(&context, &[]);
    assert!(tree.has("/file") && !tree.has("/null"));
}

#[test]
fn the_store_is_at_home_and_every_command_finds_it() {
    let Some(user) = ordinary_user() else { return };
    let rbuild = rbuild_of(user);
    let archive = rbuild.path("busybox.tar");
    fs::write(&archive, support::busybox_rootfs()).unwrap();
    let at_home = |args: &[&str]| {
        let mut command = rbuild.command(args);
        let output = command.env_remove("RBUILD_ROOT").env_remove("XDG_DATA_HOME").output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    at_home(&["import", archive.to_str().unwrap(), "base"]);
    assert!(rbuild.path(".local/share/rbuild/version").exists());
    assert!(at_home(&["images"]).contains("base"));
    at_home(&["tag", "base", "other"]);
    assert!(at_home(&["inspect", "other"]).contains("other:latest"));
    assert!(at_home(&["du"]).contains("snapshots"));
    at_home(&["rmi", "base", "other"]);
    at_home(&["prune", "--all"]);
    at_home(&["fsck"]);
    let snapshots = fs::read_dir(rbuild.path(".local/share/rbuild/snapshots")).unwrap();
    assert_eq!(snapshots.count(), 0, "files of all owners were removed");
}

#[test]
fn files_exported_to_a_directory_belong_to_the_caller() {
    let Some(rbuild) = users_rbuild() else { return };
    let context = context(&rbuild);
    let tree = rbuild.tree(&context, &[]);
    let (user, group) = rbuild.user.unwrap();
    assert_eq!(tree.mode("/f"), (0o755, user, group), "no set-user-id bit that would lend the caller's rights");
    assert_eq!(tree.mode("/owned"), (0o640, user, group));
    assert_eq!(tree.mode("/extra"), (0o1770, user, group));
    assert_eq!(fs::metadata(tree.0.join("f")).unwrap().nlink(), 2);
    // Whoever owns everything can remove everything.
    run(as_user(Command::new("rm").arg("-r").arg(&tree.0), (user, group)));
}

#[test]
fn files_of_any_owner_in_a_context_are_copied_and_unreadable_ones_are_named() {
    let Some(rbuild) = users_rbuild() else { return };
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nCOPY . /c/\n"), ("a", "1"), ("secret", "2")]);
    chown(context.join("a"), Some(4242), Some(4343)).unwrap();
    assert_eq!(rbuild.tree(&context, &[]).read("/c/a"), "1");
    fs::set_permissions(context.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
    assert!(said.contains("/secret: Permission denied"), "{said}");
    assert!(said.contains(&format!("rbuild runs as {NAME}, who may not do that")), "{said}");
    // What one of the caller's groups may read, rbuild may read.
    chown(context.join("secret"), None, Some(4343)).unwrap();
    fs::set_permissions(context.join("secret"), fs::Permissions::from_mode(0o640)).unwrap();
    let ((user, group), dest) = (rbuild.user.unwrap(), rbuild.path("out"));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--groups", "4343"]);
    command.arg(&rbuild.program).args(["build", "-o"]).arg(&dest).arg(&context).env("RBUILD_ROOT", rbuild.root());
    run(&mut command);
    assert_eq!(fs::read_to_string(dest.join("c/secret")).unwrap(), "2");
    fs::write(context.join(".dockerignore"), "secret").unwrap();
    assert!(!rbuild.tree(&context, &[]).has("/c/secret"));
}

#[test]
fn a_context_on_another_file_system_is_read() {
    let Some(rbuild) = users_rbuild() else { return };
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(shm.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shm.path().join("Dockerfile"), "FROM busybox\nCOPY Dockerfile /d\nRUN cp /d /e\n").unwrap();
    assert!(rbuild.tree(shm.path(), &[]).read("/e").starts_with("FROM busybox"));
}
