//! Bills of materials: by docker-buildx and by the command line, with a scanner of the test's own.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::client::Buildx;
use super::fixture::Daemon;
use super::support::registry::Registry;
use super::support::{self, Rbuild};

/// Says which files it was shown, in the protocol that BuildKit has for scanners.
const SCANNER: &str = r#"#!/bin/sh
list() { (cd "$1" 2>/dev/null && find . -type f | sort | tr '\n' ' '); }
for part in $(ls "$BUILDKIT_SCAN_SOURCE_EXTRAS" 2>/dev/null); do
    extras="$extras$part: $(list "$BUILDKIT_SCAN_SOURCE_EXTRAS/$part"); "
done
touch "$BUILDKIT_SCAN_SOURCE/x" 2>/dev/null && extras=writable
echo "{\"_type\":\"https://in-toto.io/Statement/v0.1\",\"predicateType\":\"$BUILDKIT_SCAN_SAYS\",\"predicate\":{
  \"files\":\"$(list "$BUILDKIT_SCAN_SOURCE")\",\"extras\":\"$extras\",\"run\":\"$(cat /proc/sys/kernel/random/uuid)\"
}}" > "${BUILDKIT_SCAN_DESTINATION}sbom.spdx.json"
"#;

const DOCKERFILE: &str =
    "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nFROM busybox AS make\nARG BUILDKIT_SBOM_SCAN_STAGE=true\n\
    RUN cat /proc/sys/kernel/random/uuid > /made\nFROM scratch\nCOPY --from=make /made /made\nCOPY src /src\n";
const SPDX: &str = "https://spdx.dev/Document";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// The scanner's image, which says by itself what kind of statement it makes.
fn make_scanner(rbuild: &Rbuild) {
    let dockerfile =
        format!("FROM busybox\nENV BUILDKIT_SCAN_SAYS={SPDX}\nCOPY --chmod=755 scan /scan\nCMD [\"/scan\"]\n");
    let context = rbuild.context("scanner", &[("Dockerfile", &dockerfile), ("scan", SCANNER)]);
    rbuild.ok(["build".as_ref(), "-t".as_ref(), "scanner:1".as_ref(), context.as_os_str()]);
    rbuild.context("app", &[("Dockerfile", DOCKERFILE), ("src/main.c", "int main;")]);
}

/// What the scanner saw.
fn seen(statement: &Value) -> (String, String) {
    let text = |key: &str| statement["predicate"][key].as_str().unwrap().to_owned();
    assert_eq!(statement["predicateType"], SPDX);
    (text("files"), text("extras"))
}

#[test]
fn the_command_line_tells_what_is_in_files_and_images() {
    if !support::can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    make_scanner(&rbuild);
    let app = rbuild.path("app");
    let build = |more: &[&str]| {
        let words = [&["build", "--progress=plain"][..], more, &[app.to_str().unwrap()]].concat();
        let done = rbuild.run(words);
        (done.status.success(), support::text(&done.stderr))
    };
    let out = rbuild.path("out");
    let to = out.to_str().unwrap();
    let (built, said) = build(&["--sbom=generator=scanner:1", "--provenance=true", "-o", to]);
    assert!(built && said.contains("[linux/amd64] generating sbom using scanner:1"), "{said}");
    let statement = json(&out.join("sbom.spdx.json"));
    let (files, extras) = seen(&statement);
    assert_eq!(files, "./made ./src/main.c ");
    assert!(extras.starts_with("sbom-context: ") && extras.contains("./src/main.c"), "{extras}");
    assert!(
        extras.contains("sbom-make: ") && extras.contains("./bin/busybox") && extras.contains("./made"),
        "{extras}"
    );
    // The statement is about the files, and not about the other statement.
    let about = statement["subject"].as_array().unwrap();
    let names: Vec<&str> = about.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["made", "src/main.c"]);
    assert!(out.join("provenance.json").exists());

    // Nothing runs again, nor does the scanner; without cache each runs once, and what is scanned is what is built.
    let again = rbuild.path("again");
    build(&["--sbom=generator=scanner:1", "-o", again.to_str().unwrap()]);
    assert_eq!(json(&again.join("sbom.spdx.json"))["predicate"], statement["predicate"]);
    let anew = rbuild.path("anew");
    let (_, said) = build(&["--no-cache", "--sbom=generator=scanner:1", "-o", anew.to_str().unwrap()]);
    assert_eq!(said.matches("no cached result was wanted").count(), 4, "{said}");
    assert_ne!(json(&anew.join("sbom.spdx.json"))["predicate"]["run"], statement["predicate"]["run"]);

    let (built, said) = build(&["--sbom=generator=scanner:1,SAYS=other"]);
    assert!(!built && said.contains("its predicate type is \"other\""), "{said}");
    let (built, said) = build(&["--sbom=generator=no/such:1"]);
    assert!(!built && said.contains("no/such:1"), "{said}");
    assert!(rbuild.fails(2, ["build", "--attest=type=sbom,generator=", "app"]).contains("cannot be empty"));
    // What nobody scans is not made.
    let (built, said) = build(&["--sbom=false", "-o", rbuild.path("plain").to_str().unwrap()]);
    assert!(built && !rbuild.path("plain/sbom.spdx.json").exists(), "{said}");
}

#[test]
fn buildx_pushes_an_image_with_its_bill_of_materials() {
    let Some(daemon) = Daemon::start() else { return };
    let Some(buildx) = Buildx::new(&daemon) else { return };
    if !support::have("docker-registry") {
        return;
    }
    make_scanner(&daemon.rbuild);
    let registry = Registry::start();
    let name = registry.name("app:1");
    buildx.ok(&["build", "--attest=type=sbom,generator=scanner:1", "--push", "-t", &name, "app"]);
    let read = |of: &str| -> Value {
        let output = buildx.run(&["imagetools", "inspect", &name, "--format", &format!("{{{{json .{of}}}}}")]);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let files = read("SBOM")["SPDX"]["files"].as_str().unwrap().to_owned();
    assert_eq!(files, "./made ./src/main.c ");
    assert!(read("Provenance")["SLSA"].is_object(), "both are said of the image");
    // The command line has the daemon do the same.
    let far = daemon.rbuild.path("far");
    let address = daemon.address();
    let words = ["build", "--addr", &address, "--sbom=generator=scanner:1", "-o", far.to_str().unwrap()];
    let app = daemon.rbuild.path("app");
    daemon.rbuild.ok(words.into_iter().chain([app.to_str().unwrap()]));
    assert_eq!(seen(&json(&far.join("sbom.spdx.json"))).0, "./made ./src/main.c ");
}
