//! A process runs, and says how it ended.

use rbuild::sandbox::{Error, Exit, User};

use crate::support::{cannot_run, output, Root};

#[test]
fn exit_code_and_output_come_back() {
    if cannot_run() {
        return;
    }
    let output = Root::new().run("echo out; echo err >&2; exit 7");
    assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.exit), ("out\n", "err\n", Exit::Code(7)));
}

#[test]
fn signal_that_killed_it_comes_back() {
    if cannot_run() {
        return;
    }
    // Pid 1 is deaf to signals from inside its own namespace, so a fault has to do it.
    let root = Root::new();
    let mut spec = root.shell("ulimit -t 1; while :; do :; done");
    spec.rlimits.extend(rbuild::sandbox::Rlimit::named("cpu", 1, 1));
    assert_eq!(output(spec).expect("it starts").exit, Exit::Signal(9));
}

#[test]
fn environment_is_exactly_what_was_asked_for() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut spec = root.shell("");
    spec.args = vec!["/bin/env".into()];
    spec.env = vec!["A=1".into(), "B=two words".into()];
    assert_eq!(output(spec).expect("it starts").stdout, "A=1\nB=two words\n");
}

#[test]
fn directory_it_starts_in_is_made() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut spec = root.shell("pwd; stat -c %a .");
    spec.cwd = "/made/on/the/way".into();
    assert_eq!(output(spec).expect("it starts").stdout, "/made/on/the/way\n755\n");
    assert!(root.path("made/on/the/way").is_dir(), "it stays in the result");
}

#[test]
fn program_is_looked_for_in_its_own_path() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let start = |program: &str| {
        let mut spec = root.shell("");
        spec.args = vec![program.into()];
        spec.env = vec!["PATH=/nowhere:/bin".into()];
        output(spec)
    };
    assert_eq!(start("true").expect("found in /bin").exit, Exit::Code(0));
    std::fs::write(root.path("bin/data"), "no program").expect("write");
    std::fs::write(root.path("bin/script"), "#!/missing/interpreter\n").expect("write");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(root.path("bin/script"), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let table = [
        ("xyzzy", r#"exec: "xyzzy": executable file not found in $PATH"#),
        ("/bin/xyzzy", r#"exec: "/bin/xyzzy": stat /bin/xyzzy: no such file or directory"#),
        ("data", r#"exec: "data": permission denied"#),
        ("script", r#"exec: "script": no such file or directory (its interpreter is missing)"#),
    ];
    for (program, text) in table {
        assert_eq!(start(program).expect_err(program).to_string(), text);
    }
    for number in 3..20 {
        let program = format!("/proc/self/fd/{number}");
        assert!(matches!(start(&program), Err(Error::NotExecutable { .. })), "{program}");
    }
    assert!(matches!(start("xyzzy"), Err(Error::NotFound { .. })));
}

#[test]
fn user_has_its_groups_and_no_rights() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut spec = root.shell("id; grep -E '^Cap(Eff|Prm|Inh|Amb|Bnd)' /proc/self/status; echo to > /dev/stdout");
    spec.user = User { uid: 1000, gid: 1000, groups: vec![1000, 10] };
    let expected = "uid=1000(ann) gid=1000(ann) groups=10(wheel),1000(ann)\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nto\n";
    assert_eq!(output(spec).expect("it starts").stdout, expected);
}

#[test]
fn hostname_and_hosts_are_the_sandboxs() {
    if cannot_run() {
        return;
    }
    let root = Root::new();
    let mut spec = root.shell("hostname; cat /etc/hosts /etc/resolv.conf");
    spec.hosts = vec![("db".to_owned(), "10.1.2.3".parse().expect("an address"))];
    spec.resolv_conf = b"nameserver 9.9.9.9\n".to_vec();
    let expected = "buildkitsandbox\n127.0.0.1\tlocalhost buildkitsandbox\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\nnameserver 9.9.9.9\n";
    assert_eq!(output(spec).expect("it starts").stdout, expected);
}

#[test]
fn many_run_at_once() {
    if cannot_run() {
        return;
    }
    std::thread::scope(|scope| {
        for thread in 0..16 {
            scope.spawn(move || {
                let root = Root::new();
                for step in 0..4 {
                    let output = root.run(&format!("echo {thread}.{step}; exit {}", thread + step));
                    assert_eq!(output.stdout, format!("{thread}.{step}\n"));
                    assert_eq!(output.exit, Exit::Code(thread + step));
                }
            });
        }
    });
}
