//! What a step finds around it, and what it may do.

use std::collections::BTreeMap;
use std::process::Command;

use rbuild::sandbox::{Exit, Limits, Network, Rlimit, Security};

use crate::support::{cannot_run, output, Root};

#[test]
fn it_is_the_first_process_of_its_world() {
    if cannot_run() {
        return;
    }
    let output = Root::new().run("echo $$; cd /proc; echo [0-9]*; cat /proc/1/comm; true");
    assert_eq!(output.stdout, "1\n1\nsh\n");
}

#[test]
fn it_has_three_descriptors() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut spec = root.shell("");
    // One more is the directory that ls reads.
    spec.args = ["/bin/ls", "/proc/self/fd"].map(Into::into).to_vec();
    assert_eq!(output(spec).expect("it starts").stdout, "0\n1\n2\n3\n");
}

#[test]
fn its_state_is_clean() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut spec = root.shell("");
    let lines = "^(Cap...|NoNewPrivs|Seccomp|SigBlk|SigIgn|Groups|Umask):";
    spec.args = ["/bin/grep", "-E", lines, "/proc/self/status"].map(Into::into).to_vec();
    let status = output(spec).expect("it starts");
    let expected = "Umask:\t0022\nGroups:\t0 \nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n\
        CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n";
    assert_eq!(status.stdout, expected);
}

#[test]
fn limits_do_not_depend_on_the_builder() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    assert_eq!(root.run("ulimit -c; ulimit -n").stdout, "0\n1024\n");
    let mut spec = root.shell("ulimit -n; ulimit -Hn");
    spec.rlimits.extend(Rlimit::named("nofile", 300, 400));
    assert_eq!(output(spec).expect("it starts").stdout, "300\n400\n");
}

#[test]
fn devices_are_the_harmless_ones() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let list =
        root.run("ls /dev; stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty");
    let expected = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
        /dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\n";
    assert_eq!(list.stdout, expected);
    let use_them =
        root.run("head -c 4 /dev/zero | wc -c; echo x > /dev/null; echo y > /dev/full; head -c 1 /dev/urandom | wc -c");
    assert_eq!(use_them.stdout, "4\n1\n");
    // The nodes are the step's own: the host's stay as they are.
    assert_eq!(root.run("chmod 600 /dev/null && stat -c %a /dev/null").stdout, "600\n");
    assert_eq!(rustix::fs::stat("/dev/null").expect("the host's").st_mode & 0o777, 0o666);
}

#[test]
fn shared_memory_is_bounded() {
    if cannot_run() {
        return;
    }
    let output = Root::new().run("dd if=/dev/zero of=/dev/shm/x bs=1M count=65 2>/dev/null; stat -c %s /dev/shm/x");
    assert_eq!(output.stdout, "67108864\n");
}

#[test]
fn dangerous_files_are_hidden_or_read_only() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let masked = "for f in /proc/acpi /proc/keys /proc/timer_list /proc/interrupts /sys/firmware; do
        if [ -d $f ]; then ls $f | wc -l; elif [ -e $f ]; then cat $f | wc -c; else echo 0; fi; done";
    assert_eq!(root.run(masked).stdout, "0\n0\n0\n0\n0\n");
    let writable =
        "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/irq/x /sys/x /proc/fs/x /proc/bus/x
        do (echo x > $f) 2>/dev/null && echo $f; done; mkdir /sys/fs/cgroup/x 2>/dev/null && echo cgroup; true";
    assert_eq!(root.run(writable).stdout, "");
}

#[test]
fn nothing_of_the_host_can_be_seen_in_its_mounts() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mounts = root.run("cat /proc/self/mountinfo").stdout;
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(points[0], "/", "{mounts}");
    let own = ["/", "/proc", "/dev", "/sys", "/etc/hosts"];
    for point in points {
        let inside = own.iter().any(|own| point == *own || (*own != "/" && point.starts_with(&format!("{own}/"))));
        assert!(inside, "{point} in\n{mounts}");
    }
    assert!(!mounts.contains("shared:") && !mounts.contains("master:"), "{mounts}");
}

#[test]
fn without_network_there_is_a_loopback_and_nothing_else() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let script = "ls /sys/class/net; ip addr show lo | grep -c 'inet 127.0.0.1/8'; ip route | wc -l";
    assert_eq!(root.run(script).stdout, "lo\n1\n0\n");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let connect = format!("nc -w 1 127.0.0.1 {port} </dev/null && echo reached");
    assert_eq!(root.run(&connect).stdout, "");
    let mut spec = root.shell(&connect);
    spec.network = Network::Host;
    assert_eq!(output(spec).expect("it starts").stdout, "reached\n");
}

/// Compiles the probe and puts it into a root.
fn with_probe() -> Root {
    let root = Root::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sandbox/probe.c");
    let status =
        Command::new("cc").args(["-static", "-O1", "-w", "-o"]).arg(root.path("bin/probe")).arg(source).status();
    assert!(status.expect("a C compiler").success());
    root
}

fn results(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(' ')).collect()
}

#[test]
fn system_calls_answer_as_in_other_builders() {
    if cannot_run() {
        return;
    }
    let root = with_probe();
    let output = root.run("probe");
    assert_eq!(output.exit, Exit::Code(0));
    let got = results(&output.stdout);
    let mut expected: BTreeMap<&str, &str> = [
        "mount",
        "mount-proc",
        "remount",
        "umount-mask",
        "fsopen",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "pivot_root",
        "unshare-user",
        "unshare-mount",
        "unshare-net",
        "clone-user",
        "setns",
        "kcmp",
        "pidfd_getfd",
        "keyctl",
        "add_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "open_by_handle_at",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "syslog",
        "sethostname",
        "acct",
        "no-random",
        "vsock",
        "alg",
        "trusted-xattr",
    ]
    .map(|name| (name, "EPERM"))
    .into();
    expected.extend(["clone3", "newest"].map(|name| (name, "ENOSYS")));
    expected.extend(
        [
            "chroot",
            "ptrace-child",
            "process_vm_readv",
            "personality",
            "packet",
            "raw",
            "netlink",
            "setuid",
            "mknod-null",
            "mknod-mem",
            "mknod-in-dev",
            "mknod-disk",
        ]
        .map(|name| (name, "ok")),
    );
    expected.extend(["open-null", "open-mem", "open-in-dev", "open-disk"].map(|name| (name, "EACCES")));
    expected.extend(["core_pattern", "ip_forward", "pid_max", "write-sys"].map(|name| (name, "EROFS")));
    expected.insert("own-image", "ETXTBSY");
    expected.insert("kill-2", "ESRCH");
    if cfg!(target_arch = "x86_64") {
        expected.extend([
            ("i386-getuid", "ok"),
            ("i386-mount", "EPERM"),
            ("i386-clone3", "ENOSYS"),
            ("i386-unshare", "EPERM"),
            ("x32-getpid", "ENOSYS"),
        ]);
    }
    assert_eq!(got, expected);
}

#[test]
fn steps_do_not_see_each_other() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let other =
        crate::support::SANDBOX.spawn(root.shell("echo shared > /dev/shm/x; exec sleep 320001")).expect("it starts");
    let seen = root.run("ps -o args | grep -c '[3]20001'; ls /dev/shm; kill -9 -1; echo alive");
    assert_eq!(seen.stdout, "0\nalive\n");
    drop(other);
}

#[test]
fn program_of_the_builder_cannot_be_overwritten() {
    if cannot_run() {
        return;
    }
    let program = std::fs::read(env!("CARGO_BIN_EXE_rbuild")).expect("the program");
    let root = Root::new();
    // A script whose interpreter is whatever is executing it: the builder's own program, for a moment.
    std::fs::write(root.path("bin/trap"), "#!/proc/self/exe\n").expect("write");
    std::os::unix::fs::symlink("/proc/self/exe", root.path("bin/self")).expect("symlink");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(root.path("bin/trap"), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut spec = root.shell("");
    spec.args = vec!["/bin/trap".into()];
    let _ = output(spec);
    root.run(
        "for i in 1 2 3; do (echo x > /proc/1/exe); (echo x > /proc/self/exe); (echo x > /bin/self); done 2>/dev/null",
    );
    assert!(std::fs::read(env!("CARGO_BIN_EXE_rbuild")).expect("the program") == program, "its bytes changed");
}

#[test]
fn insecure_step_may_do_what_the_builder_may() {
    if cannot_run() {
        return;
    }
    let root = with_probe();
    let mut spec = root.shell("probe; grep -E 'Seccomp:' /proc/self/status");
    spec.security = Security::Insecure;
    let output = output(spec).expect("it starts");
    let got = results(&output.stdout);
    for name in ["mount", "unshare-mount", "unshare-net", "fsopen", "open-null", "sethostname", "core_pattern"] {
        assert_eq!(got[name], "ok", "{name}");
    }
    assert!(output.stdout.ends_with("Seccomp:\t0\n"), "{}", output.stdout);
}

#[test]
fn processes_are_limited_without_touching_the_host() {
    if cannot_run() {
        return;
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("pid_max");
    let root = Root::new();
    // The kernel's own limit of a pid namespace begins at 301; below that it takes a control group.
    for pids in [400, 40] {
        let mut spec = root.shell("i=0; while [ $i -lt 700 ]; do sleep 9 & i=$((i+1)); done; echo all");
        spec.limits = Limits { pids, ..Limits::default() };
        let output = match output(spec) {
            Err(error)
                if pids < 301 && error.to_string().contains("cannot be set") && std::env::var_os("CI").is_none() =>
            {
                eprintln!("skipped: {error}: {:?}", std::error::Error::source(&error));
                continue;
            }
            other => other.expect("it starts"),
        };
        assert_eq!(output.stdout, "", "700 processes where {pids} were allowed");
        assert!(output.stderr.contains("can't fork"), "{output:?}");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("pid_max"), host);
}

#[test]
fn memory_is_limited_where_asked() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut spec = root.shell("dd if=/dev/zero of=/dev/null bs=200M count=1");
    spec.limits.memory = Some(64 << 20);
    spec.network = Network::Host;
    let mut running = match crate::support::SANDBOX.spawn(spec) {
        Err(error) if error.to_string().contains("cannot be set") && std::env::var_os("CI").is_none() => {
            eprintln!("skipped: {error}: {:?}", std::error::Error::source(&error));
            return;
        }
        other => other.expect("it starts"),
    };
    let exit = running.wait().expect("it ends");
    assert_ne!(exit, Exit::Code(0));
    assert!(running.was_out_of_memory(), "{exit:?}");
}
