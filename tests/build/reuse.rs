//! What runs again and what does not.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{can_build, Rbuild};

/// A step that leaves a different file each time it really runs.
const UUID: &str = "RUN cat /proc/sys/kernel/random/uuid > ";

#[test]
fn second_build_runs_nothing() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\nWORKDIR /app\nCOPY . .\n{UUID}/id\nRUN true\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("a", "1")]);
    let first = rbuild.tree(&context, &[]);
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/id"), second.read("/id"));
    let said = rbuild.log(&context, &[]);
    assert_eq!(said.matches("CACHED").count(), 5, "the base and four steps: {said}");
}

#[test]
fn an_edited_file_reruns_only_what_depends_on_it() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!(
        "FROM busybox AS a\nCOPY a /a\n{UUID}/ida\nFROM busybox AS b\nCOPY b /b\n{UUID}/idb\n\
         FROM busybox\nCOPY --from=a /ida /ida\nCOPY --from=b /idb /idb\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("a", "1"), ("b", "1")]);
    let first = rbuild.tree(&context, &[]);
    fs::write(context.join("b"), "2").unwrap();
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/ida"), second.read("/ida"));
    assert_ne!(first.read("/idb"), second.read("/idb"));
}

#[test]
fn a_rerun_that_makes_the_same_files_lets_all_above_it_hit() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!(
        "FROM busybox AS x\nCOPY input /input\nRUN wc -c < /input > /size && rm /input\n\
         FROM busybox\nCOPY --from=x /size /size\nCOPY other /other\nWORKDIR /w\n{UUID}/id\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("input", "abc"), ("other", "1")]);
    let first = rbuild.tree(&context, &[]);
    fs::write(context.join("input"), "xyz").unwrap();
    let second = rbuild.tree(&context, &[]);
    assert_eq!(first.read("/id"), second.read("/id"));
}

#[test]
fn a_rerun_run_step_with_the_same_result_cuts_off_in_its_own_stage() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile =
        format!("FROM busybox\nARG X\nRUN echo same > /same\nWORKDIR /w\nCOPY other /other\nENV X=\n{UUID}/id\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("other", "1")]);
    let first = rbuild.tree(&context, &["--build-arg", "X=1"]);
    let second = rbuild.tree(&context, &["--build-arg", "X=2"]);
    assert_eq!(first.read("/id"), second.read("/id"));
}

#[test]
fn touching_files_or_moving_the_context_runs_nothing() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\nCOPY . /src\n{UUID}/id\n");
    let files = [("Dockerfile", dockerfile.as_str()), ("a", "1"), ("d/b", "2")];
    let context = rbuild.context("c", &files);
    let first = rbuild.tree(&context, &[]);
    let file = fs::File::options().append(true).open(context.join("a")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(first.read("/id"), rbuild.tree(&context, &[]).read("/id"), "another mtime");
    let moved = rbuild.context("elsewhere", &files);
    assert_eq!(first.read("/id"), rbuild.tree(&moved, &[]).read("/id"), "another path");
}

#[test]
fn mode_and_names_of_copied_files_count() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\nCOPY . /src\n{UUID}/id\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile), ("a", "1")]);
    let mut seen = vec![rbuild.tree(&context, &[]).read("/id")];
    fs::set_permissions(context.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    seen.push(rbuild.tree(&context, &[]).read("/id"));
    fs::rename(context.join("a"), context.join("b")).unwrap();
    seen.push(rbuild.tree(&context, &[]).read("/id"));
    fs::write(context.join("empty"), "").unwrap();
    seen.push(rbuild.tree(&context, &[]).read("/id"));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

#[test]
fn equal_steps_run_once() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!(
        "FROM busybox AS a\n{UUID}/id\nFROM busybox AS b\n{UUID}/id\n\
         FROM scratch\nCOPY --from=a /id /a\nCOPY --from=b /id /b\n"
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let tree = rbuild.tree(&context, &[]);
    assert_eq!(tree.read("/a"), tree.read("/b"));
}

#[test]
fn independent_stages_run_at_once() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    // Each stage waits for the other through nothing but time: both must be alive in the same second.
    let stage = |name: &str| {
        format!("FROM busybox AS {name}\nRUN cat /proc/uptime > /start; sleep 1; cat /proc/uptime > /end # {name}\n")
    };
    let dockerfile = format!(
        "{}{}FROM scratch\nCOPY --from=a /start /end /a/\nCOPY --from=b /start /end /b/\n",
        stage("a"),
        stage("b")
    );
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let tree = rbuild.tree(&context, &[]);
    let at = |path: &str| tree.read(path).split(' ').next().unwrap().parse::<f64>().unwrap();
    assert!(at("/a/start") < at("/b/end") && at("/b/start") < at("/a/end"));
}

#[test]
fn no_cache_runs_every_step_anew() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = format!("FROM busybox\n{UUID}/id\n");
    let context = rbuild.context("c", &[("Dockerfile", &dockerfile)]);
    let first = rbuild.tree(&context, &[]).read("/id");
    let anew = rbuild.tree(&context, &["--no-cache"]).read("/id");
    assert_ne!(first, anew);
    assert_eq!(anew, rbuild.tree(&context, &[]).read("/id"), "what ran anew is what the cache gives next");
}

#[test]
fn a_step_sees_the_date_of_its_own_build() {
    if !can_build() {
        return;
    }
    let rbuild = Rbuild::new();
    let dockerfile = "FROM busybox\nWORKDIR /made\nCOPY a /x\nRUN stat -c %Y /x /made > /seen\n";
    let context = rbuild.context("c", &[("Dockerfile", dockerfile), ("a", "1")]);
    for date in ["1000000000", "5", "1000000000"] {
        let tree = rbuild.tree(&context, &["--build-arg", &format!("SOURCE_DATE_EPOCH={date}")]);
        assert_eq!(tree.read("/seen"), format!("{date}\n{date}\n"), "not that of a build with another date");
    }
}
