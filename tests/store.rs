//! The store's directory from the outside: which are refused, what keeps the trees, how much stays.

mod support;

use std::fs;
use std::process::Command;

use support::{can_build, text, Rbuild};

/// A store whose `version` says something else in one place.
fn other_store(rbuild: &Rbuild, field: &str, value: serde_json::Value) {
    let version = rbuild.root().join("version");
    let mut said: serde_json::Value = serde_json::from_str(&fs::read_to_string(&version).unwrap()).unwrap();
    said[field] = value;
    fs::write(&version, said.to_string()).unwrap();
}

#[test]
fn stores_that_cannot_be_used_are_refused_by_name_and_with_a_way_out() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::empty();
    rbuild.ok(["images"]);
    let ours = fs::read_to_string(rbuild.root().join("version")).unwrap();
    for (field, value, said) in [
        ("format", serde_json::json!(99), "its format is 99"),
        ("id_map", serde_json::json!("0 100000 65536"), "its id map is 0 100000 65536"),
        ("driver", serde_json::json!("erofs"), "its driver is erofs"),
    ] {
        other_store(&rbuild, field, value);
        for command in ["images", "prune", "fsck"] {
            let refused = rbuild.fails(1, [command]);
            assert!(refused.contains(said), "{command}: {refused}");
            assert!(refused.contains(rbuild.root().to_str().unwrap()), "{command}: {refused}");
            assert!(refused.contains("choose another with --root"), "{command}: {refused}");
        }
        fs::write(rbuild.root().join("version"), &ours).unwrap();
    }
    fs::write(rbuild.root().join("version"), "{\"format\":99,\"layout\":[]}").unwrap();
    assert!(rbuild.fails(1, ["images"]).contains("its format is 99"));
    let thesis = rbuild.path("thesis");
    fs::create_dir(&thesis).unwrap();
    fs::write(thesis.join("thesis.tex"), "").unwrap();
    let refused = rbuild.fails(1, ["--root".as_ref(), thesis.as_os_str(), "images".as_ref()]);
    assert!(refused.contains("thesis") && refused.contains("not empty"), "{refused}");
    assert_eq!(fs::read_dir(&thesis).unwrap().count(), 1);
}

#[test]
fn a_store_keeps_its_driver() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::empty();
    let with = |driver: &str| rbuild.command(["images"]).env("RBUILD_SNAPSHOTTER", driver).output().unwrap();
    assert!(with("native").status.success());
    rbuild.ok(["images"]);
    let refused = with("overlay");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("its driver is native"), "{}", text(&refused.stderr));
    assert_eq!(with("vfs").status.code(), Some(1));
}

const DOCKERFILE: &str =
    "FROM busybox AS tools\nRUN mkdir -p /out/d && echo tool > /out/d/tool && chmod 4755 /out/d/tool\n\
    FROM busybox\nWORKDIR /app\nCOPY --link a b/ /app/\nCOPY --from=tools /out /out\n\
    RUN rm -r /var /app/a && mkdir -p /var/new && ln /etc/passwd /etc/again && echo changed >> /etc/group\n\
    RUN rm -r /out/d && mkdir /out/d && echo other > /out/d/other\nUSER builder\nRUN id -u > /tmp/id\n";

/// The same Dockerfile gives the same image, bit by bit, whatever keeps the trees: also in a directory on an overlay,
/// where no overlay can be, and nobody says which driver to take.
#[test]
fn images_do_not_depend_on_what_keeps_the_trees() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::empty();
    let archive = rbuild.path("busybox.tar");
    fs::write(&archive, support::busybox_rootfs()).unwrap();
    let context = rbuild.context("c", &[("Dockerfile", DOCKERFILE), ("a", "a"), ("b/c", "c")]);
    let script = format!(
        "set -e\n\
         mkdir -p {dir}/lower {dir}/upper {dir}/work {dir}/on\n\
         mount -t overlay -o lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work none {dir}/on\n\
         build() {{\n\
           export RBUILD_ROOT=$1\n\
           {rbuild} import {archive} busybox > /dev/null\n\
           {rbuild} build -q --no-cache -o type=oci,dest=$2,rewrite-timestamp=true {context}\n\
           {rbuild} build --progress=plain {context} 2>&1 | grep -c CACHED\n\
           {rbuild} run busybox echo run\n\
           {rbuild} prune --all\n\
           {rbuild} fsck\n\
         }}\n\
         build {dir}/plain {dir}/plain.tar > {dir}/plain.said\n\
         build {dir}/on/store {dir}/on.tar > {dir}/on.said\n\
         RBUILD_SNAPSHOTTER=native build {dir}/native {dir}/native.tar > {dir}/native.said\n",
        dir = rbuild.dir.path().display(),
        rbuild = env!("CARGO_BIN_EXE_rbuild"),
        archive = archive.display(),
        context = context.display(),
    );
    let output =
        Command::new("unshare").args(["-m", "sh", "-c", &script]).env("SOURCE_DATE_EPOCH", "0").output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let driver = |store: &str| {
        let version = fs::read_to_string(rbuild.path(store).join("version")).unwrap();
        serde_json::from_str::<serde_json::Value>(&version).unwrap()["driver"].as_str().unwrap().to_owned()
    };
    assert_eq!([driver("plain"), driver("upper/store"), driver("native")], ["overlay", "native", "native"]);
    // What is printed has the image ids in it; what is reclaimed differs.
    let said = |name: &str| {
        let said = fs::read_to_string(rbuild.path(name)).unwrap();
        said.lines().filter(|line| !line.starts_with("Total reclaimed")).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(said("on.said"), said("plain.said"));
    assert_eq!(said("native.said"), said("plain.said"));
    assert!(said("plain.said").iter().any(|line| line == "run"), "{:?}", said("plain.said"));
    let archive = |name: &str| fs::read(rbuild.path(name)).unwrap();
    assert!(archive("on.tar") == archive("plain.tar"), "the images differ");
    assert!(archive("native.tar") == archive("plain.tar"), "the images differ");
}

#[test]
fn prune_keeps_what_its_options_say() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nRUN dd if=/dev/zero of=/zeroes bs=1M count=3\nRUN rm /zeroes; echo 1 > /one\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    let cached = || rbuild.log(&context, &[]).matches("CACHED").count();
    let run_steps = |args: &[&str]| {
        rbuild.ok(["prune"].iter().chain(args));
        cached()
    };
    cached();
    let all = cached();
    assert!(all >= 2);
    assert_eq!(run_steps(&["-f"]), all, "plain prune leaves the cache");
    assert_eq!(run_steps(&["--all", "--filter", "until=24h"]), all, "nothing is that old");
    assert_eq!(run_steps(&["--max-used-space", "10GB"]), all, "it is not that much");
    assert_eq!(run_steps(&["--keep-storage", "10GB", "--max-used-space", "1"]), all, "it is reserved");
    assert!(run_steps(&["--max-used-space", "2MB"]) < all, "the large step had to go");
    assert!(run_steps(&["--all", "--force"]) < all);
    let verbose = rbuild.ok(["prune", "--all", "--verbose"]);
    assert!(verbose.contains("snapshots") && verbose.contains("Total reclaimed space: "), "{verbose}");
    for wrong in [&["prune", "--filter", "label=a"][..], &["prune", "--max-used-space", "much"]] {
        rbuild.fails(2, wrong);
    }
    for line in rbuild.ok(["du", "--format", "json"]).lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(row["Type"].is_string() && row["Count"].is_u64() && row["Size"].is_u64(), "{row}");
    }
}

#[test]
fn a_build_beyond_the_limit_collects_what_was_used_longest_ago() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let build = |number: usize, gc: &str| {
        let dockerfile =
            format!("FROM busybox\nRUN dd if=/dev/urandom of=/noise bs=1M count=4 2>/dev/null # {number}\n");
        let context = rbuild.context(&format!("c{number}"), &[("Dockerfile", &dockerfile)]);
        let mut command = rbuild.command(["build", "--progress=plain", "-t"]);
        let output = command.arg(format!("app{}", number % 2)).arg(context).env("RBUILD_GC", gc).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let small = "max-used-space=16MB,reserved-space=0,min-free-space=0";
    for number in 0..6 {
        assert!(!build(number, "off").contains("removed"), "nothing is collected");
    }
    let said = build(6, small);
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with(" - removed ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("the store took ") && lines[0].contains("may take 16.8MB"), "{}", lines[0]);
    assert!(!build(6, small).contains("removed "), "there is nothing more to collect");
    assert!(build(6, small).contains("CACHED"), "what was used last is here");
    assert!(!build(0, "off").contains("RUN dd if=/dev/urandom of=/noise bs=1M count=4 2>/dev/null # 0\n#5 CACHED"));
    let refused = rbuild.command(["build", "."]).env("RBUILD_GC", "sometimes").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("RBUILD_GC"));
    rbuild.ok(["fsck"]);
}

#[test]
fn du_and_prune_take_the_filters_of_other_builders() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile =
        "FROM busybox\nRUN --mount=type=cache,target=/npm head -c 300000 /dev/zero > /npm/f; echo a > /a\n\
                      RUN head -c 200000 /dev/zero > /large\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
    rbuild.ok(["build".as_ref(), "-t".as_ref(), "app".as_ref(), context.as_os_str()]);
    let du = |filters: &[&str]| -> Vec<serde_json::Value> {
        let mut args = vec!["du", "--format=json", "--verbose"];
        filters.iter().for_each(|filter| args.extend(["--filter", *filter]));
        rbuild.ok(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let descriptions = |filters: &[&str]| -> Vec<String> {
        du(filters).iter().map(|row| row["Description"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(descriptions(&["type=exec.cachemount"]), ["cached mount //npm"]);
    assert_eq!(descriptions(&["mutable"]), ["cached mount //npm"]);
    let large = du(&["description~=/large"]);
    assert_eq!(large.len(), 1);
    let (id, parent) = (large[0]["ID"].as_str().unwrap(), large[0]["Parents"][0].as_str().unwrap());
    assert!(large[0]["Size"].as_u64().unwrap() >= 200_000 && large[0]["LastUsedAt"].is_string(), "{large:?}");
    assert_eq!(du(&[&format!("id={}", &id[..12])]).len(), 1);
    assert_eq!(du(&[&format!("parents={parent}")])[0]["ID"], id);
    assert!(du(&["inuse"]).is_empty(), "nothing runs");
    assert_eq!(du(&["type=regular", "private"]).len(), 0, "the image needs all of them");
    assert_eq!(du(&["type=regular", "shared"]).len(), 3, "the base and two steps");
    assert!(rbuild.ok(["du", "--filter", "type=regular"]).contains("RECLAIMABLE"));
    rbuild.fails(2, ["du", "--filter", "owner=me"]);

    let gone = rbuild.ok(["prune", "--verbose", "--filter", "description~=npm$"]);
    assert!(gone.contains("removed exec.cachemount") && gone.contains("cached mount //npm"), "{gone}");
    assert!(descriptions(&["mutable"]).is_empty());
    let gone = rbuild.ok(["prune", "--verbose", "--filter", &format!("id={id}")]);
    assert!(gone.contains("RUN head -c 200000") && gone.matches("removed ").count() == 1, "{gone}");
    let said = rbuild.log(&context, &["-t", "app"]);
    assert_eq!((said.matches("CACHED").count(), said.matches("[3/3] RUN").count() >= 1), (2, true), "{said}");
    rbuild.ok(["fsck"]);
}

#[test]
fn a_cache_mount_that_is_too_large_goes_and_the_log_says_so() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let build = |gc: &str| {
        let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/npm head -c 30000000 /dev/zero > /npm/f\n";
        let context = rbuild.context("c", &[("Dockerfile", dockerfile)]);
        let mut command = rbuild.command(["build", "--progress=plain", "-t", "app"]);
        let output = command.arg(context).env("RBUILD_GC", gc).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    build("off");
    let said = build("max-used-space=20MB,reserved-space=0,min-free-space=0");
    assert!(said.contains("removed ") && said.contains(" cache mounts): the store took "), "{said}");
    assert!(said.contains("last used within the hour: exec.cachemount cached mount //npm"), "{said}");
    assert_eq!(rbuild.ok(["history", "logs"]), said, "the recorded build says so too");
}

/// What becomes of a file; nothing if it is lost.
type How<'h> = &'h dyn Fn(Vec<u8>) -> Option<Vec<u8>>;

/// Half of a file.
fn half(bytes: Vec<u8>) -> Option<Vec<u8>> {
    Some(bytes[..bytes.len() / 2].to_vec())
}

/// Every file of the store whose path below it begins like this, changed; a directory of the name is lost.
fn damage(rbuild: &Rbuild, start: &str, end: &str, how: How<'_>) -> usize {
    let (mut open, mut changed) = (vec![rbuild.root().join(start)], 0);
    while let Some(at) = open.pop() {
        let is_all = at.is_dir() && at.file_name().is_some_and(|name| name == end);
        if is_all {
            fs::remove_dir_all(&at).unwrap();
            changed += 1;
        } else if at.is_dir() {
            open.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        } else if at.to_str().unwrap().ends_with(end) {
            let bytes = fs::read(&at).unwrap();
            fs::remove_file(&at).unwrap();
            how(bytes).into_iter().for_each(|bytes| fs::write(&at, bytes).unwrap());
            changed += 1;
        }
    }
    changed
}

#[test]
fn what_is_damaged_in_the_store_is_told_and_made_again() {
    if !can_build() {
        return;
    }
    let zeroes = |bytes: Vec<u8>| Some(vec![0; bytes.len()]);
    for (start, end, how) in [("records", "", &half as How), ("results", "", &half), ("results", "", &zeroes)] {
        let rbuild = Rbuild::new();
        let dockerfile =
            "FROM busybox AS make\nCOPY f /f\nRUN cat /f > /out\nFROM busybox\nCOPY --from=make /out /out\n";
        let context = rbuild.context("c", &[("Dockerfile", dockerfile), ("f", "right")]);
        rbuild.log(&context, &[]);
        assert!(damage(&rbuild, start, end, how) > 0, "{start}");
        let said = rbuild.log(&context, &[]);
        assert!(said.contains(&format!("the store was damaged, and what was lost is made again: {start}/")), "{said}");
        assert_eq!(rbuild.tree(&context, &[]).read("/out"), "right", "{start}");
        let said = rbuild.log(&context, &[]);
        assert!(!said.contains("damaged") && !said.contains("MISS"), "{said}");
    }
}

#[test]
fn a_pulled_image_that_is_damaged_is_pulled_again() {
    if !can_build() || !support::have("docker-registry") {
        return;
    }
    let registry = support::registry::Registry::start();
    let name = registry.name("base:1");
    let first = Rbuild::new();
    first.ok(["tag", "busybox:latest", &name]);
    first.ok(["push", &name]);
    // As many bytes as there were, and still JSON.
    let other = |bytes: Vec<u8>| Some(text(&bytes).replace("amd64", "arm64").into_bytes());
    let lost = |_: Vec<u8>| None;
    for (start, end, how) in [
        ("snapshots", "meta", &half as How),
        ("snapshots", "meta", &lost),
        ("snapshots", "fs", &lost),
        ("blobs", "", &half),
        ("blobs", "", &other),
    ] {
        let rbuild = Rbuild::empty();
        let context = rbuild.context("c", &[("Dockerfile", &format!("FROM {name}\nRUN echo right > /out\n"))]);
        rbuild.log(&context, &[]);
        assert!(damage(&rbuild, start, end, how) > 0, "{start}");
        let dest = rbuild.path("out");
        let said = rbuild.log(&context, &["-o", &format!("type=local,dest={}", dest.display())]);
        assert_eq!(fs::read_to_string(dest.join("out")).unwrap(), "right\n", "{start}: {said}");
        assert!(said.contains("the store was damaged"), "{start}: {said}");
        let said = rbuild.log(&context, &[]);
        assert!(!said.contains("damaged"), "{start}: {said}");
    }
}

#[test]
fn an_image_that_only_the_store_had_says_what_to_do_when_it_is_damaged() {
    if !can_build() {
        return;
    }
    for (start, end) in [("blobs", ""), ("tags", ""), ("snapshots", "meta")] {
        let rbuild = Rbuild::new();
        let context = rbuild.context("c", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
        damage(&rbuild, start, end, &half);
        let said = rbuild.fails(1, ["build".as_ref(), context.as_os_str()]);
        assert!(said.contains("build, pull or import it again"), "{start}: {said}");
        rbuild.import_busybox();
        rbuild.ok(["build".as_ref(), context.as_os_str()]);
    }
}
