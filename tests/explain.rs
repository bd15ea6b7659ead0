//! A step that has to run says why: seeded changes, each named exactly, and what does not count.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::served::{GitServer, Web};
use support::{can_build, mark, Rbuild};

/// The reasons that a build prints, in the order of its steps.
fn misses(said: &str) -> Vec<String> {
    said.lines().filter_map(|line| line.split_once("MISS ").map(|(_, reason)| reason.to_string())).collect()
}

const DOCKERFILE: &str = "FROM busybox AS base\nARG VERSION=1.2\nCOPY . /src\nRUN echo $VERSION > /version\n";

/// A store in which a context of four files was built; then `change` is made, and the next build's reasons are given.
fn after(args: &[&str], change: impl FnOnce(&Rbuild, &Path)) -> Vec<String> {
    let rbuild = Rbuild::new();
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("src/main.c", "int main;"),
        ("run.sh", "#!"),
        ("x.log", "1"),
        (".dockerignore", "Dockerfile\n.dockerignore\n"),
    ];
    let context = rbuild.context("c", &files);
    let said = rbuild.log(&context, &[]);
    assert_eq!(misses(&said), [""; 0], "nothing is compared with what never was: {said}");
    change(&rbuild, &context);
    misses(&rbuild.log(&context, args))
}

#[test]
fn changed_content_is_named() {
    if !can_build() {
        return;
    }
    let told = after(&[], |_, context| fs::write(context.join("src/main.c"), "int mein;").unwrap());
    let step = "because step 2 ran again and its files changed: /src/src/main.c";
    assert_eq!(told, ["src/main.c changed (1 of 3 files)", step]);
}

#[test]
fn a_changed_mode_is_named() {
    if !can_build() {
        return;
    }
    let mode = fs::Permissions::from_mode(0o755);
    let told = after(&[], |_, context| fs::set_permissions(context.join("run.sh"), mode).unwrap());
    let step = "because step 2 ran again and its files changed: /src/run.sh (mode 644 → 755)";
    assert_eq!(told, ["mode of run.sh 644 → 755", step]);
}

#[test]
fn a_changed_attribute_is_named() {
    if !can_build() {
        return;
    }
    let mut is_set = false;
    let told = after(&[], |_, context| is_set = mark(&context.join("run.sh"), "user.mime", "text/x-sh"));
    if !is_set {
        return;
    }
    let step = "because step 2 ran again and its files changed: /src/run.sh (extended attributes)";
    assert_eq!(told, ["extended attributes of run.sh changed", step]);
}

#[test]
fn a_file_that_came_and_one_that_went_are_named() {
    if !can_build() {
        return;
    }
    let told = after(&[], |_, context| {
        fs::write(context.join("src/new.c"), "1").unwrap();
        fs::remove_file(context.join("x.log")).unwrap();
    });
    let step = "because step 2 ran again and its files changed: /src/src/new.c (new), /src/x.log (gone)";
    assert_eq!(told, ["src/new.c was added (1 of 3 files)", "x.log was removed", step]);
}

#[test]
fn a_file_that_is_ignored_now_is_named_as_such() {
    if !can_build() {
        return;
    }
    let told = after(&[], |_, context| {
        fs::write(context.join(".dockerignore"), "Dockerfile\n.dockerignore\n*.log\n").unwrap();
    });
    let step = "because step 2 ran again and its files changed: /src/x.log (gone)";
    assert_eq!(told, ["x.log is left out by the ignore file now", step]);
    let told = after(&[], |rbuild, context| {
        fs::write(context.join(".dockerignore"), "Dockerfile\n.dockerignore\n*.log\n").unwrap();
        rbuild.log(context, &[]);
        fs::write(context.join(".dockerignore"), "Dockerfile\n.dockerignore\n").unwrap();
        fs::write(context.join("x.log"), "2").unwrap();
    });
    let step = "because step 2 ran again and its files changed: /src/x.log (new)";
    assert_eq!(told, ["x.log is no longer left out by the ignore file", step]);
}

#[test]
fn a_changed_argument_is_named_and_nothing_else_runs() {
    if !can_build() {
        return;
    }
    assert_eq!(after(&["--build-arg", "VERSION=1.3"], |_, _| {}), ["ARG/ENV VERSION 1.2 → 1.3"]);
}

#[test]
fn a_step_is_compared_with_its_last_result_though_a_newer_one_was_made() {
    if !can_build() {
        return;
    }
    let told = after(&["--build-arg", "VERSION=1.3"], |rbuild, context| {
        let file = context.join("src/main.c");
        fs::write(&file, "int other;").unwrap();
        rbuild.log(context, &[]);
        fs::write(&file, "int main;").unwrap();
        assert_eq!(misses(&rbuild.log(context, &[])), [""; 0]);
    });
    assert_eq!(told, ["ARG/ENV VERSION 1.2 → 1.3"]);
}

#[test]
fn steps_of_a_first_build_are_not_compared_with_each_other() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\n")]);
    assert_eq!(misses(&rbuild.log(&context, &[])), [""; 0]);
}

#[test]
fn an_edited_instruction_is_named() {
    if !can_build() {
        return;
    }
    let edit = |from: &'static str, to: &'static str| {
        move |_: &Rbuild, context: &Path| {
            fs::write(context.join("Dockerfile"), DOCKERFILE.replace(from, to)).unwrap();
        }
    };
    let told = after(&[], edit("> /version", "> /v"));
    assert_eq!(told, ["instruction RUN echo $VERSION > /version → RUN echo $VERSION > /v"]);
    let told = after(&[], edit("COPY . /src\n", "COPY . /src\nRUN touch /new\n"));
    assert_eq!(told, ["instruction RUN touch /new is new", "because step 3 is new"]);
}

#[test]
fn a_changed_owner_is_named() {
    if !can_build() {
        return;
    }
    let told = after(&[], |rbuild, context| {
        let with = |owner: &str| DOCKERFILE.replace("COPY .", &format!("COPY --chown={owner} ."));
        fs::write(context.join("Dockerfile"), with("1:1")).unwrap();
        rbuild.log(context, &[]);
        fs::write(context.join("Dockerfile"), with("2:3")).unwrap();
    });
    assert_eq!(told[0], "owner 1:1 → 2:3");
    assert!(told[1].starts_with("because step 2 ran again and its files changed: "), "{told:?}");
    assert!(told[1].contains("(owner 1:1 → 2:3)"), "{told:?}");
}

#[test]
fn a_base_image_that_moved_is_named_with_both_digests() {
    if !can_build() {
        return;
    }
    let told = after(&[], |rbuild, _| {
        let context = rbuild.context("other", &[("Dockerfile", "FROM busybox\nRUN touch /moved\n")]);
        rbuild.ok(["build".as_ref(), "-t".as_ref(), "busybox".as_ref(), context.as_os_str()]);
    });
    assert_eq!(told.len(), 2, "{told:?}");
    for told in told {
        let rest = told.strip_prefix("base image busybox:latest moved sha256:").unwrap_or_else(|| panic!("{told}"));
        assert!(rest.contains(" → sha256:") && rest.len() == 64 + " → sha256:".len() + 64, "{told}");
    }
}

#[test]
fn a_file_of_another_stage_that_changed_is_named_with_its_step() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox AS make\nCOPY in /in\nRUN mkdir /out; cp /in /out/bin; touch -d @0 /out/doc\n\
                      FROM busybox\nCOPY --from=make /out /out\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile), ("in", "1")]);
    rbuild.log(&context, &[]);
    fs::write(context.join("in"), "2").unwrap();
    let told = misses(&rbuild.log(&context, &[]));
    assert_eq!(
        told,
        [
            "in changed (1 of 1 file)",
            "because step 2 ran again and its files changed: /in",
            "because step 3 of make ran again and its files changed: /out/bin",
        ]
    );
}

#[test]
fn a_checkout_elsewhere_is_compared_with_the_first_and_says_so() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let files = [("Dockerfile", "FROM busybox\nCOPY a /a\n"), ("a", "1")];
    let (here, there) = (rbuild.context("here", &files), rbuild.context("there", &files));
    rbuild.log(&here, &[]);
    let changed = || fs::set_permissions(there.join("a"), fs::Permissions::from_mode(0o664)).unwrap();
    changed();
    let told = misses(&rbuild.log(&there, &[]));
    assert_eq!(told, [format!("compared with the build of {}: mode of a 644 → 664", here.display())]);
}

#[test]
fn a_checkout_that_was_built_is_compared_with_its_own_last_build() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let files = [("Dockerfile", "FROM busybox\nCOPY a /a\n"), ("a", "1")];
    let (here, there) = (rbuild.context("here", &files), rbuild.context("there", &files));
    rbuild.log(&here, &[]);
    assert_eq!(misses(&rbuild.log(&there, &[])), [""; 0], "the same files elsewhere hit");
    fs::set_permissions(there.join("a"), fs::Permissions::from_mode(0o664)).unwrap();
    assert_eq!(misses(&rbuild.log(&there, &[])), ["mode of a 644 → 664"]);
}

#[test]
fn a_result_that_another_text_had_is_what_the_step_had_last() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nARG TO=/out\nCOPY a /out\n"), ("a", "1")]);
    rbuild.log(&context, &[]);
    fs::write(context.join("Dockerfile"), "FROM busybox\nARG TO=/out\nCOPY a $TO\n").unwrap();
    assert_eq!(misses(&rbuild.log(&context, &[])), [""; 0], "both say the same");
    fs::write(context.join("a"), "2").unwrap();
    assert_eq!(misses(&rbuild.log(&context, &[])), ["a changed (1 of 1 file)"], "the instruction is what it was");
}

#[test]
fn a_setting_that_the_base_image_changed_is_named_as_its() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let base = |says: &str| {
        let context = rbuild.context("base", &[("Dockerfile", &format!("FROM busybox\n{says}\n"))]);
        rbuild.log(&context, &["-t", "base:1"]);
    };
    base("ENV LEVEL=1");
    let dockerfile = "FROM base:1\nARG OWN=1\nRUN echo $LEVEL $OWN > /tmp/level\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    rbuild.log(&context, &[]);
    base("ENV LEVEL=1\nLABEL any=thing");
    assert_eq!(misses(&rbuild.log(&context, &[])), [""; 0], "labels are nothing to a step");
    base("ENV LEVEL=2\nUSER 1000");
    let told = misses(&rbuild.log(&context, &["--build-arg", "OWN=2"]));
    let of_base = ["ARG/ENV LEVEL 1 → 2 in base image base:1", "user (none) → 1000 in base image base:1"];
    assert_eq!(told, [of_base[0], of_base[1], "ARG/ENV OWN 1 → 2"]);
}

#[test]
fn a_step_below_that_is_cached_is_named_too() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let with = |between: &str| format!("FROM busybox\n{between}RUN echo 1 > /1\n");
    let context = rbuild.context("c", &[("Dockerfile", &with(""))]);
    rbuild.log(&context, &[]);
    let other = rbuild.context("other", &[("Dockerfile", &with("WORKDIR /w\n"))]);
    rbuild.log(&other, &[]);
    // Its directory is cached, and the step after it is not.
    fs::write(context.join("Dockerfile"), with("WORKDIR /w\nUSER 0\n")).unwrap();
    let told = misses(&rbuild.log(&context, &[]));
    assert_eq!(told, ["working directory / → /w", "user (none) → 0", "because step 2 is new"]);
}

#[test]
fn a_download_and_a_commit_that_changed_are_named() {
    if !can_build() || !support::have("git") {
        return;
    }
    let (rbuild, web) = (Rbuild::new(), Web::new());
    web.file("/f", b"one", "\"1\"");
    let context = rbuild.context("c", &[("Dockerfile", &format!("FROM busybox\nADD {}/f /f\n", web.url))]);
    rbuild.log(&context, &[]);
    web.file("/f", b"two", "\"2\"");
    let digest = |bytes: &[u8]| rbuild::image::Digest::of(bytes);
    let told = misses(&rbuild.log(&context, &[]));
    assert_eq!(told, [format!("{}/f changed {} → {}", web.url, digest(b"one"), digest(b"two"))]);

    let server = GitServer::new(&rbuild.path("r"));
    let first = server.commit("r.git", &[("d/f", "1"), ("other", "1")]);
    let url = server.url_of("r.git");
    let context = rbuild.context("g", &[("Dockerfile", &format!("FROM busybox\nADD {url}#main:d /g\n"))]);
    rbuild.log(&context, &[]);
    server.commit("r.git", &[("other", "2")]);
    assert_eq!(misses(&rbuild.log(&context, &[])), [""; 0], "another directory of the repository");
    let third = server.commit("r.git", &[("d/f", "2")]);
    let told = misses(&rbuild.log(&context, &[]));
    assert_eq!(told, [format!("{url}#main:d moved {first} → {third}")]);
}

#[test]
fn an_instruction_that_is_several_steps_is_not_its_own_cause() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nCOPY --link f /f\n"), ("f", "1")]);
    rbuild.log(&context, &[]);
    fs::write(context.join("f"), "2").unwrap();
    let said = rbuild.log(&context, &[]);
    assert_eq!(misses(&said), ["f changed (1 of 1 file)", "its files changed: /f"], "{said}");
    // A part of it that is not shown is not waited for.
    let number = said.lines().find_map(|line| line.strip_suffix(" MISS f changed (1 of 1 file)")).unwrap();
    assert!(said.contains(&format!("\n{number} DONE ")), "{said}");
}

#[test]
fn a_context_from_standard_input_is_compared_with_the_last_one_from_there() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let build = |content: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in [("Dockerfile", "FROM busybox\nCOPY f /f\n"), ("f", content)] {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        let file = rbuild.path("context.tar");
        fs::write(&file, archive.into_inner().unwrap()).unwrap();
        let mut command = rbuild.command(["build", "--progress=plain", "-"]);
        let output = command.stdin(fs::File::open(file).unwrap()).output().unwrap();
        let said = support::text(&output.stderr);
        assert!(output.status.success(), "{said}");
        misses(&said)
    };
    assert_eq!(build("1"), [""; 0]);
    // What comes so is downloaded and unpacked, as an archive in the web is.
    let unpacked = "because [internal] load remote build context has other files: /context";
    assert_eq!(build("2"), [unpacked, "because copy /context / ran again and its files changed: /f"]);
}

#[test]
fn an_edited_here_document_is_named() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nCOPY <<E /f\none\nE\n")]);
    rbuild.log(&context, &[]);
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY <<E /f\ntwo\nE\n").unwrap();
    let told = misses(&rbuild.log(&context, &[]));
    assert_eq!(told[0], "the text of /E changed", "{told:?}");
}

/// Platforms of images; nothing in them is executed.
const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

#[test]
fn another_platform_of_a_base_image_is_named_as_such() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let files =
        [("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n"), ("amd64", "1"), ("arm64", "2")];
    let base = rbuild.context("base", &files);
    rbuild.log(&base, &["-t", "both", "--platform", &PLATFORMS.join(",")]);
    let context = rbuild.context("c", &[("Dockerfile", "FROM both\nCOPY f /f\nWORKDIR /w\n"), ("f", "1")]);
    let [first, second] = PLATFORMS.map(|platform| misses(&rbuild.log(&context, &["--platform", platform])));
    assert_eq!(first, [""; 0], "nothing is compared with what never was");
    let changed = format!("platform {} → {}", PLATFORMS[0], PLATFORMS[1]);
    assert_eq!(second, [changed.clone(), changed]);
    for platform in PLATFORMS {
        assert_eq!(misses(&rbuild.log(&context, &["--platform", platform])), [""; 0], "each is in the cache");
    }
}

#[test]
fn what_a_platform_says_to_a_step_is_named() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM --platform=$BUILDPLATFORM busybox AS make\nRUN cat /proc/sys/kernel/random/uuid > /id\n\
                      ARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
                      FROM scratch\nCOPY --from=make /id /arch /\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let [first, second] = PLATFORMS.map(|platform| rbuild.tree(&context, &["--platform", platform]));
    assert_eq!(first.read("/id"), second.read("/id"), "what does not look at the platform does not run again");
    assert_eq!([first.read("/arch"), second.read("/arch")], ["amd64\n", "arm64\n"]);
    let told = misses(&rbuild.log(&context, &["--platform", "linux/s390x"]));
    assert_eq!(told[0], "ARG/ENV TARGETARCH arm64 → s390x");
    assert_eq!(told[1..], ["because step 3 of make ran again and its files changed: /arch"]);
}

#[test]
fn a_secret_that_changed_runs_nothing_neither_its_step_nor_those_above() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let uuid = "cat /proc/sys/kernel/random/uuid";
    let dockerfile = format!(
        "FROM busybox\nRUN --mount=type=secret,id=word,env=WORD test -n \"$WORD\"; {uuid} > /id\nRUN {uuid} > /above\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let secret = rbuild.path("word");
    let option = format!("id=word,src={}", secret.display());
    let with = |word: &str| {
        fs::write(&secret, word).unwrap();
        let tree = rbuild.tree(&context, &["--secret", &option]);
        (tree.read("/id"), tree.read("/above"))
    };
    let first = with("swordfish");
    assert_eq!(with("marlin"), first);
    let said = rbuild.log(&context, &["--secret", &option]);
    assert_eq!(misses(&said), [""; 0], "{said}");
    let note = "secret word changed since its result was made";
    assert!(said.contains(note), "{said}");
    fs::write(&secret, "swordfish").unwrap();
    let said = rbuild.log(&context, &["--secret", &option]);
    assert!(!said.contains(note), "it is the first one again: {said}");
}

#[test]
fn secrets_that_come_go_or_change_are_told() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let uuid = "cat /proc/sys/kernel/random/uuid > /id";
    let dockerfile = format!("FROM busybox\nRUN --mount=type=secret,id=token {uuid}\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let secret = rbuild.path("token");
    let option = format!("id=token,src={}", secret.display());
    fs::write(&secret, "hunter2").unwrap();
    let first = rbuild.tree(&context, &["--secret", &option]);
    assert!(!rbuild.log(&context, &["--secret", &option]).contains("secret token"));
    fs::write(&secret, "hunter3").unwrap();
    let said = rbuild.log(&context, &["--secret", &option]);
    assert!(said.contains("secret token changed since its result was made"), "{said}");
    assert_eq!(first.read("/id"), rbuild.tree(&context, &["--secret", &option]).read("/id"));
    let said = rbuild.log(&context, &[]);
    assert!(said.contains("secret token was given when its result was made, and is not now"), "{said}");
    for entry in walk(&rbuild.root()) {
        let content = fs::read(&entry).unwrap_or_default();
        assert!(!content.windows(7).any(|w| w == b"hunter2" || w == b"hunter3"), "{}", entry.display());
    }
    fs::write(context.join("Dockerfile"), format!("FROM busybox\nRUN {uuid}\n")).unwrap();
    let told = misses(&rbuild.log(&context, &[]));
    assert_eq!(told[0], format!("instruction RUN --mount=type=secret,id=token {uuid} → RUN {uuid}"));
}

#[test]
fn an_edited_comment_compiles_again_and_links_nothing_anew() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    // What a compiler does with comments, a script can do.
    let uuid = "cat /proc/sys/kernel/random/uuid";
    let dockerfile = format!(
        "FROM busybox AS compile\nCOPY a.c /a.c\nRUN {uuid} > /tmp/compiled; sed 's://.*::' /a.c > /a.o; rm /a.c /tmp/compiled\n\
         FROM busybox\nARG NAME=x\nCOPY --from=compile /a.o /a.o\nRUN {uuid} > /linked\nRUN {uuid} > /named-$NAME\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("a.c", "int main; // one")]);
    let first = rbuild.tree(&context, &[]);
    fs::write(context.join("a.c"), "int main; // two").unwrap();
    let said = rbuild.log(&context, &[]);
    let told = misses(&said);
    assert_eq!(told, ["a.c changed (1 of 1 file)", "because step 2 ran again and its files changed: /a.c"], "{said}");
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/linked"), second.read("/linked"), "nothing after the compiler runs");
    // One argument: exactly its dependents. `ARG` is in the environment of both steps.
    let third = rbuild.tree(&context, &["--build-arg", "NAME=y"]);
    assert!(third.has("/named-y") && third.read("/a.o") == first.read("/a.o"));
    let mut command = rbuild.command(["build", "--no-cache-filter", "compile", "--progress=plain"]);
    let said = support::text(&command.arg(&context).output().unwrap().stderr);
    assert!(said.contains("no cached result was wanted"), "{said}");
    let fourth = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/linked"), fourth.read("/linked"), "the stage ran anew and made the same");
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}
