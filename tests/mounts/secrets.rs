//! `type=secret`: in the step and nowhere else.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use base64::Engine;

use crate::support::{can_build, text, Rbuild};
use crate::trees::files_below;
use crate::{fails, tree};

/// 32 random bytes as text, and the forms in which they could leak.
fn canary() -> (String, Vec<String>) {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let value = hex::encode(bytes);
    // Base64 has three forms, by where the value begins; what differs at the ends is cut off.
    let base64 = (0..3).map(|shift| {
        let shifted = [vec![b'.'; shift], value.clone().into_bytes()].concat();
        base64::engine::general_purpose::STANDARD.encode(shifted)[4..40].to_string()
    });
    let forms = base64.chain([value.clone(), hex::encode(&value)]).collect();
    (value, forms)
}

/// Whether some bytes have any of these texts in them.
fn has_any(bytes: &[u8], forms: &[String]) -> bool {
    forms.iter().any(|form| bytes.windows(form.len()).any(|window| window == form.as_bytes()))
}

#[test]
fn a_canary_is_seen_in_all_its_forms() {
    let (value, forms) = canary();
    let base64 = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let shown = [
        format!("x{value}y"),
        base64(value.clone()),
        base64(format!("TOKEN={value}\n")),
        base64(format!("ab{value}")),
        hex::encode(&value),
    ];
    for shown in shown {
        assert!(has_any(shown.as_bytes(), &forms), "{shown}");
    }
    assert!(!has_any(&value.as_bytes()[1..], &forms));
}

#[test]
fn a_secret_is_in_its_step_and_nowhere_else() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let (value, forms) = canary();
    fs::write(rbuild.path("secret"), &value).unwrap();
    let dockerfile = r#"FROM busybox
RUN --mount=type=secret,id=file,required sha256sum < /run/secrets/file > /sum; stat -c '%a %u %g' /run/secrets/file > /stat; \
    mount | grep /run/secrets/file > /mount; echo x > /run/secrets/file || echo refused > /refused; sleep 2
RUN --mount=type=secret,id=file,env=TOKEN,required printf %s "$TOKEN" | sha256sum > /envsum; sleep 2
RUN --mount=type=secret,id=file,target=/a/b,mode=0444,uid=1000,gid=1001 stat -c '%a %u %g' /a/b > /stat2
RUN --mount=type=secret,id=file,target=relative,env=BOTH [ "$BOTH" = "$(cat /relative)" ] && touch /both
RUN ls /run/secrets /a > /after 2>&1; env > /env; true
"#;
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let archive = rbuild.path("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let secret = format!("--secret=id=file,src={}", rbuild.path("secret").display());
    let context = context.to_str().unwrap();
    let mut build = rbuild
        .command(["build", "--progress=rawjson", &secret, "-t", "app", "-o", &output, context])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut looked = 0;
    while build.try_wait().unwrap().is_none() {
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let of = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
            let status = text(&of("status"));
            let ids = status.lines().find(|line| line.starts_with("NSpid:")).unwrap_or_default();
            // The step's own processes, three namespaces deep, have what they were given.
            let in_step = ids.split_whitespace().count() > 3;
            looked += usize::from(in_step);
            assert!(!has_any(&of("cmdline"), &forms), "{status}");
            assert!(in_step || !has_any(&of("environ"), &forms), "{status}");
        }
        for file in files_below(&rbuild.root()) {
            assert!(!has_any(&fs::read(&file).unwrap_or_default(), &forms), "{}", file.display());
        }
    }
    let said = build.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert!(looked > 0, "the step was seen");
    assert!(!has_any(&said.stdout, &forms) && !has_any(&said.stderr, &forms));
    for file in files_below(&rbuild.root()) {
        assert!(!has_any(&fs::read(&file).unwrap(), &forms), "{}", file.display());
    }
    let layout = rbuild.path("layout");
    fs::create_dir(&layout).unwrap();
    tar::Archive::new(fs::File::open(&archive).unwrap()).unpack(&layout).unwrap();
    for file in files_below(&layout) {
        let mut bytes = fs::read(&file).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let plain = std::process::Command::new("gzip").arg("-dc").stdin(fs::File::open(&file).unwrap()).output();
            bytes = plain.unwrap().stdout;
            assert!(bytes.len() > 1000, "a layer as an archive");
        }
        assert!(!has_any(&bytes, &forms), "{}", file.display());
    }
    // Another value of the same secret makes nothing run again, so this is what the steps above made.
    fs::write(rbuild.path("secret"), "another").unwrap();
    let tree = rbuild.tree(Path::new(context), &[&secret]);
    let sum = tree.read("/sum");
    assert_eq!(sum, tree.read("/envsum"));
    assert!(sum.starts_with(&sha256(&value)), "{sum}");
    assert_eq!((tree.read("/stat"), tree.read("/stat2")), ("400 0 0\n".into(), "444 1000 1001\n".into()));
    for option in ["ro,", "nosuid", "nodev", "noexec", "tmpfs"] {
        assert!(tree.read("/mount").contains(option), "{option}: {}", tree.read("/mount"));
    }
    assert!(tree.has("/refused") && tree.has("/both"));
    assert!(!tree.has("/run/secrets") && !tree.has("/a"));
    let after = tree.read("/after");
    assert!(after.contains("/run/secrets: No such file") && after.contains("/a: No such file"), "{after}");
    assert!(!tree.read("/env").contains("TOKEN"));
}

fn sha256(value: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(value))
}

#[test]
fn secrets_come_from_files_pipes_and_variables() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    fs::write(rbuild.path("named"), "a file").unwrap();
    fs::write(rbuild.path("with,comma"), "quoted").unwrap();
    let dockerfile = "FROM busybox\nARG ROUND\nRUN --mount=type=secret,id=s,required cp /run/secrets/s /copy\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let cases = [
        ("id=s,src=named", "a file"),
        ("type=file,id=s,source=named", "a file"),
        ("\"id=s\",\"src=with,comma\"", "quoted"),
        ("id=s,env=VARIABLE", "a variable"),
        ("type=env,id=s,src=VARIABLE", "a variable"),
        ("id=s,env=NOT_SET_ANYWHERE", ""),
        ("id=s", "by its name"),
    ];
    for (round, (secret, want)) in cases.into_iter().enumerate() {
        let dest = rbuild.path(&format!("out-{round}"));
        let words = ["build".into(), format!("--build-arg=ROUND={round}"), format!("--secret={secret}"), "-o".into()];
        let mut command = rbuild.command(words);
        command.arg(&dest).arg(&context).env("VARIABLE", "a variable").env("s", "by its name");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{secret}: {}", text(&output.stderr));
        assert_eq!(fs::read_to_string(dest.join("copy")).unwrap(), want, "{secret}");
    }
    let script = "\"$1\" build --build-arg=ROUND=pipe --secret id=s,src=<(printf piped) -o out-pipe c";
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_rbuild")]).current_dir(rbuild.dir.path());
    let output = command.env("RBUILD_ROOT", rbuild.root()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(rbuild.path("out-pipe/copy")).unwrap(), "piped");
}

#[test]
fn an_absent_secret_is_told_or_left_out() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let said = fails(&rbuild, "FROM busybox\nRUN --mount=type=secret,id=token,required true\n", &[]);
    for part in ["secret token: not found", "Dockerfile:2", "--secret id=token,src=FILE"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let said = fails(&rbuild, "FROM busybox\nRUN --mount=type=secret,id=token,env=T,required true\n", &[]);
    assert!(said.contains("secret token: not found"), "{said}");
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token ls /run/secrets > /list 2>&1 || true\n\
                      RUN --mount=type=secret,id=token,env=T echo \"${T-unset}\" > /t\n";
    let optional = tree(&rbuild, dockerfile, &[]);
    assert!(optional.read("/list").contains("No such file") && optional.read("/t") == "\n");
    let (value, forms) = canary();
    fs::write(rbuild.path("nul"), format!("{value}\0")).unwrap();
    fs::write(rbuild.path("big"), vec![b'x'; (500 << 10) + 1]).unwrap();
    fs::write(rbuild.path("most"), vec![b'x'; 500 << 10]).unwrap();
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=s,env=S true\n";
    let said = fails(&rbuild, dockerfile, &["--secret=id=s,src=nul"]);
    assert!(said.contains("NUL") && !has_any(said.as_bytes(), &forms), "{said}");
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s > /size\n";
    let said = fails(&rbuild, dockerfile, &["--secret=id=s,src=big"]);
    assert!(said.contains("500 KiB"), "{said}");
    assert_eq!(tree(&rbuild, dockerfile, &["--secret=id=s,src=most"]).read("/size"), "512000\n");
    assert!(fails(&rbuild, dockerfile, &["--secret=id=s,src=none"]).contains("none: no such file"));
    assert!(rbuild.fails(2, ["build", "--secret=id=s,file=x", "c"]).contains("unexpected key 'file'"));
}
