//! Real package managers inside RUN on a real Debian base, accepted by other tools. Run by `make test-wide`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{can_build, have, text, Rbuild};

/// Whether this tier was asked for: it needs minutes and package registries.
fn asked() -> bool {
    let asked = std::env::var_os("RBUILD_WIDE").is_some();
    if !asked {
        eprintln!("skipped: set RBUILD_WIDE=1, as make test-wide does");
    }
    asked && can_build()
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A Debian root file system as a tar archive, made once per checkout from the machine's own package sources.
fn debian() -> PathBuf {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-bookworm.tar");
    if !made.exists() {
        let partial = made.with_extension("partial.tar");
        // The machine's package sources and certificates go along, so that apt and pip inside reach the same places.
        let sources = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
        let sources = sources.iter().find(|path| Path::new(path).exists()).expect("apt has no sources on this machine");
        let script = format!(
            "set -e; exec mmdebstrap --variant=minbase --include=ca-certificates \
             --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs' bookworm {} {sources}",
            partial.display()
        );
        run("sh", &["-c", &script]);
        fs::rename(partial, &made).unwrap();
    }
    made
}

/// What pip needs to reach the machine's package index, as build arguments.
fn pip_arguments() -> Vec<String> {
    ["PIP_INDEX_URL", "PIP_CERT", "PIP_TRUSTED_HOST", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"]
        .iter()
        .filter_map(|name| std::env::var(name).ok().map(|value| format!("--build-arg={name}={value}")))
        .collect()
}

/// Exports `context` as OCI, lets skopeo, umoci and runc have it, and compares the unpacked tree with the local export.
fn accepted_elsewhere(rbuild: &Rbuild, context: &Path, args: &[String], expect: &str) {
    let archive = rbuild.path("app.oci.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let mut all = vec!["build".to_string(), "-o".into(), output];
    all.extend(args.iter().cloned());
    all.push(context.display().to_string());
    rbuild.ok(&all);
    let (layout, bundle) = (rbuild.path("layout"), rbuild.path("bundle"));
    let target = format!("oci:{}:app", layout.display());
    run("skopeo", &["copy", "-q", &format!("oci-archive:{}", archive.display()), &target]);
    run("umoci", &["unpack", "--image", &format!("{}:app", layout.display()), bundle.to_str().unwrap()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let tree = rbuild.tree(context, &args);
    let listing = |root: &Path| {
        let script =
            "cd \"$1\" && find . -printf '%P|%M|%U:%G|%l|%n\\n' | sed 's/^\\(.*|d.*\\)|[0-9]*$/\\1/' | LC_ALL=C sort; \
                      getfattr -R -d -m - . 2>/dev/null || true";
        run("sh", &["-c", script, "sh", root.to_str().unwrap()])
    };
    let (ours, theirs) = (listing(&tree.0), listing(&bundle.join("rootfs")));
    if ours != theirs {
        let (a, b) = (rbuild.path("ours"), rbuild.path("theirs"));
        fs::write(&a, ours).unwrap();
        fs::write(&b, theirs).unwrap();
        let difference = Command::new("diff").arg(a).arg(b).output().unwrap();
        panic!("the exported tree is not what the steps made:\n{}", text(&difference.stdout));
    }
    let config = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    spec["linux"]["resources"] = serde_json::json!({});
    fs::write(&config, serde_json::to_vec(&spec).unwrap()).unwrap();
    let said =
        run("runc", &["run", "--bundle", bundle.to_str().unwrap(), &format!("rbuild-wide-{}", std::process::id())]);
    assert!(said.contains(expect), "{said}");
    fs::remove_dir_all(bundle).unwrap();
    fs::remove_dir_all(layout).unwrap();
}

/// A second build must run nothing.
fn all_cached(rbuild: &Rbuild, context: &Path, args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = rbuild.log(context, &args);
    let steps = said.lines().filter(|l| l.contains("] RUN ") || l.contains("] COPY ")).count();
    let cached = said.lines().filter(|l| l.ends_with(" CACHED")).count();
    assert!(steps > 0 && cached >= steps, "{said}");
}

#[test]
fn debian_packages_users_and_setuid_files() {
    if !asked() || !["mmdebstrap", "skopeo", "umoci", "runc"].iter().all(|tool| have(tool)) {
        return;
    }
    let rbuild = Rbuild::empty();
    rbuild.ok(["import".as_ref(), debian().as_os_str(), "debian:bookworm".as_ref()]);
    let dockerfile = "FROM debian:bookworm AS tools\n\
        RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*\n\
        RUN useradd -m -u 1234 worker && cp /bin/true /usr/local/bin/elevated && chmod 4755 /usr/local/bin/elevated\n\
        FROM debian:bookworm AS data\n\
        RUN seq 1 100000 > /numbers && gzip -k /numbers\n\
        FROM tools\n\
        COPY --from=data --chown=worker /numbers.gz /home/worker/\n\
        COPY app.py /home/worker/\n\
        USER worker\nWORKDIR /home/worker\n\
        CMD [\"python3\", \"app.py\"]\n";
    let app = "import gzip, os\nprint(sum(int(l) for l in gzip.open('numbers.gz')), os.getuid())\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile), ("app.py", app)]);
    accepted_elsewhere(&rbuild, &context, &[], "5000050000 1234");
    all_cached(&rbuild, &context, &[]);
}

#[test]
fn a_python_application_with_requirements() {
    if !asked() || !["mmdebstrap", "skopeo", "umoci", "runc"].iter().all(|tool| have(tool)) {
        return;
    }
    let rbuild = Rbuild::empty();
    rbuild.ok(["import".as_ref(), debian().as_os_str(), "debian:bookworm".as_ref()]);
    let dockerfile = "FROM debian:bookworm\n\
        RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*\n\
        ARG PIP_INDEX_URL\nARG PIP_CERT\nARG PIP_TRUSTED_HOST\n\
        WORKDIR /app\nCOPY requirements.txt .\n\
        RUN pip install --break-system-packages --no-cache-dir -r requirements.txt\n\
        COPY app.py .\nCMD [\"python3\", \"app.py\"]\n";
    let files = [
        ("Dockerfile", dockerfile),
        ("requirements.txt", "six==1.16.0\nitsdangerous==2.2.0\n"),
        ("app.py", "import six, itsdangerous\nprint('six', six.__version__)\n"),
    ];
    let context = rbuild.context("c", &files);
    let args = pip_arguments();
    accepted_elsewhere(&rbuild, &context, &args, "six 1.16.0");
    all_cached(&rbuild, &context, &args);
    fs::write(context.join("app.py"), "import six\nprint('edited', six.__version__)\n").unwrap();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = rbuild.log(&context, &words);
    assert!(!said.contains("Collecting six"), "pip ran again:\n{said}");
}

/// What stands in for the images of compilers and interpreters: Debian with all of them.
const TOOLS: &str = "FROM debian:bookworm\n\
    RUN apt-get update && apt-get install -y --no-install-recommends g++ golang-go python3-pip python-is-python3 adduser \\\n\
      nodejs npm && rm -rf /var/lib/apt/lists/*\n\
    ARG PIP_INDEX_URL PIP_CERT PIP_TRUSTED_HOST NPM_CONFIG_REGISTRY\n\
    ENV PIP_INDEX_URL=$PIP_INDEX_URL PIP_CERT=$PIP_CERT PIP_TRUSTED_HOST=$PIP_TRUSTED_HOST PIP_BREAK_SYSTEM_PACKAGES=1 \\\n\
      NPM_CONFIG_REGISTRY=${NPM_CONFIG_REGISTRY:-https://registry.npmjs.org} \\\n\
      NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt\n\
    RUN adduser --disabled-password --gecos '' node\n";

#[test]
fn well_known_dockerfiles_build_with_real_tools() {
    if !asked() || !have("mmdebstrap") {
        return;
    }
    let rbuild = Rbuild::empty();
    rbuild.ok(["import".as_ref(), debian().as_os_str(), "debian:bookworm".as_ref()]);
    let tools = rbuild.context("tools", &[("Dockerfile", TOOLS)]);
    let mut words: Vec<String> = ["build", "-q", "-t", "tools"].map(String::from).to_vec();
    words.extend(pip_arguments());
    words.extend(std::env::var("NPM_CONFIG_REGISTRY").ok().map(|it| format!("--build-arg=NPM_CONFIG_REGISTRY={it}")));
    words.push(tools.display().to_string());
    rbuild.ok(&words);
    for name in ["gcc:14", "golang:1.23-alpine", "python:3.12-slim", "node:22-alpine"] {
        rbuild.ok(["tag", "tools", name]);
    }
    for name in ["debian:bookworm-slim", "gcr.io/distroless/cc-debian12", "gcr.io/distroless/static-debian12:nonroot"] {
        rbuild.ok(["tag", "debian:bookworm", name]);
    }
    let context = rbuild.context(
        "c",
        &[
            ("docker-entrypoint.sh", "#!/bin/sh\nexec \"$@\"\n"),
            ("CMakeLists.txt", "cmake_minimum_required(VERSION 3.20)\nproject(a CXX)\nadd_executable(app src/a.cc)\n"),
            ("src/a.cc", "#include <cstdio>\nint main() { std::puts(\"from C++\"); }\n"),
            ("go.mod", "module example.com/a\n\ngo 1.19\n"),
            ("go.sum", ""),
            ("cmd/server/main.go", "package main\n\nfunc main() { println(\"from Go\") }\n"),
            ("requirements.txt", "itsdangerous==2.2.0\n"),
            (
                "package.json",
                "{\"name\": \"a\", \"version\": \"1.0.0\", \"dependencies\": {\"left-pad\": \"1.3.0\"}}\n",
            ),
            ("package-lock.json", PACKAGE_LOCK),
            ("server.js", "console.log(require('left-pad')('from JavaScript', 20))\n"),
        ],
    );
    for (name, shown, command) in [
        ("haproxy", "/var/lib/haproxy", ""),
        ("buildpack-deps", "/usr/bin/autoconf", ""),
        ("cpp-cmake", "/app", "/app"),
        ("go-static", "/server", "/server"),
        ("python-flask", "/app/requirements.txt", ""),
        ("node-server", "/usr/src/app/node_modules/left-pad/package.json", ""),
    ] {
        let file = format!("{}/testdata/dockerfile/real-{name}/Dockerfile", env!("CARGO_MANIFEST_DIR"));
        let tree = rbuild.tree(&context, &["-f", &file]);
        assert!(tree.has(shown), "{name}: {shown}");
        if !command.is_empty() {
            // Linked with what every Debian has.
            let program = tree.0.join(command.trim_start_matches('/'));
            let output = Command::new(program).output().unwrap();
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(output.status.success() && said.starts_with("from "), "{name}: {said}");
        }
    }
}

const PACKAGE_LOCK: &str = r#"{"name": "a", "version": "1.0.0", "lockfileVersion": 2, "requires": true, "packages": {
  "": {"name": "a", "version": "1.0.0", "dependencies": {"left-pad": "1.3.0"}},
  "node_modules/left-pad": {"version": "1.3.0", "integrity":
    "sha512-XI5MPzVNApjAyhQzphX8BkmKsKUxD4LdyK24iZeQGinBN9yTQT3bFlCBy/aVx2HrNcqQGsdot8ghrjyrvMCoEA=="}},
  "dependencies": {"left-pad": {"version": "1.3.0", "integrity":
    "sha512-XI5MPzVNApjAyhQzphX8BkmKsKUxD4LdyK24iZeQGinBN9yTQT3bFlCBy/aVx2HrNcqQGsdot8ghrjyrvMCoEA=="}}}
"#;
