//! Whole files: what `testdata/dockerfile/<case>` holds is parsed and lowered, and compared with what lies beside it.
//!
//! A case has a `Dockerfile`, perhaps `options.json` and `images.json` (configurations of base images by name; every
//! other image is a small one; `time` is how old commits and files of the web are), and the expected `ast.txt`, `graph.txt`, `config.json`, `diagnostics.txt`.
//! `UPDATE=1 cargo test -p frontend` rewrites the expected files.

mod show;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use frontend::{
    dump, parse, parse_platform, Diagnostic, GitRef, ImageAnswer, Lowering, MainContext, Options, Query, Source, Step,
};
use serde_json::{json, Value};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfile")
}

#[test]
fn files_lower_as_written_down() {
    let entries = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 250, "the corpus is not here");
    let mut wrong = Vec::new();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        for (file, found) in outcome(&case) {
            let path = case.join(file);
            let expected = fs::read_to_string(&path).unwrap_or_default();
            if found == expected {
                continue;
            }
            if std::env::var_os("UPDATE").is_some() {
                if found.is_empty() {
                    fs::remove_file(&path).unwrap();
                } else {
                    fs::write(&path, found).unwrap();
                }
            } else {
                wrong.push(format!("{name}/{file}:\n{}", difference(&expected, &found)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE=1 rewrites the files", wrong.join("\n"));
}

/// The text of each expected file; empty where there is none.
fn outcome(case: &Path) -> BTreeMap<&'static str, String> {
    let source = Source::new("Dockerfile", fs::read(case.join("Dockerfile")).unwrap());
    let (ast, _) = parse(&source);
    let mut diagnostics = Vec::new();
    let mut files = BTreeMap::from([("ast.txt", dump(&ast))]);
    let mut lowering = Lowering::new(&source, ast, options(case));
    let images = read_json(&case.join("images.json"));
    let ignores: BTreeMap<String, Vec<String>> = read_json(&case.join("options.json"))
        .get("ignores")
        .map(|ignores| serde_json::from_value(ignores.clone()).unwrap())
        .unwrap_or_default();
    let (mut asked, mut unused) = (String::new(), String::new());
    let lowered = loop {
        match lowering.step() {
            Ok(Step::Done(lowered)) => break Some(lowered),
            Ok(Step::Need(queries)) => {
                assert!(!queries.is_empty());
                for query in queries {
                    let query = match query {
                        Query::Image(query) => query,
                        Query::Ignore(query) => {
                            let patterns = ignores.get(&query.directory).cloned().unwrap_or_default();
                            lowering.answer_ignore(&query, patterns);
                            continue;
                        }
                        Query::Time(query) => {
                            asked.push_str(&format!("asks for the time of\n{}", show::graph(&query.graph().unwrap())));
                            lowering.answer_time(&query, read_json(&case.join("options.json"))["time"].as_i64());
                            continue;
                        }
                    };
                    let config = images
                        .get(&query.reference)
                        .cloned()
                        .unwrap_or_else(|| small_image(&query.platform.architecture));
                    let digest = config.get("digest").and_then(Value::as_str).map(String::from);
                    let config = serde_json::to_vec(&config).unwrap();
                    lowering.answer(&query, ImageAnswer { config, digest });
                }
            }
            Err(errors) => {
                diagnostics = errors;
                break None;
            }
        }
    };
    let (mut graph, mut config) = (String::new(), String::new());
    if let Some(lowered) = lowered {
        diagnostics.extend(lowered.lints.iter().cloned());
        unused = lowered.unused.iter().map(|sentence| format!("{sentence}\n")).collect();
        graph = asked + &show::graph(&lowered.graph);
        for target in &lowered.targets {
            let document = json!({
                "platform": target.platform.to_string(),
                "empty": target.output.is_none(),
                "base_layers": target.base_layers,
                "base_history": target.base_history,
                "config": target.config,
            });
            config.push_str(&serde_json::to_string_pretty(&document).unwrap());
            config.push('\n');
        }
    }
    files.insert("graph.txt", graph);
    files.insert("config.json", config);
    files.insert(
        "diagnostics.txt",
        diagnostics.iter().map(|found| report(&source, found)).collect::<String>() + &unused,
    );
    files
}

fn options(case: &Path) -> Options {
    let given = read_json(&case.join("options.json"));
    let build_platform = parse_platform("linux/amd64", &solver::graph::Platform::host()).unwrap();
    let mut options = Options { build_platform: build_platform.clone(), ..Options::default() };
    let text = |key: &str| given.get(key).and_then(Value::as_str).map(String::from);
    let strings = |key: &str| -> BTreeMap<String, String> {
        given.get(key).map(|map| serde_json::from_value(map.clone()).unwrap()).unwrap_or_default()
    };
    options.target = text("target");
    options.build_args = strings("build_args");
    options.labels = strings("labels").into_iter().collect();
    let platforms = text("platform").unwrap_or_default();
    options.platforms = platforms
        .split(',')
        .filter(|platform| !platform.is_empty())
        .map(|platform| parse_platform(platform, &build_platform).unwrap())
        .collect();
    options.contexts = strings("contexts");
    options.context = match text("context") {
        None => MainContext::Local,
        Some(address) => match GitRef::parse(&address).unwrap() {
            Some(git) => MainContext::Git(git),
            None if address.ends_with(".tar") => MainContext::Archive(address),
            None => MainContext::File(address),
        },
    };
    options.all_stages = given.get("all_stages").is_some();
    options.no_cache = given.get("no_cache").is_some();
    options.ignore_patterns =
        given.get("ignore").map(|list| serde_json::from_value(list.clone()).unwrap()).unwrap_or_default();
    options
}

fn read_json(path: &Path) -> Value {
    fs::read(path).map(|text| serde_json::from_slice(&text).unwrap()).unwrap_or(json!({}))
}

fn small_image(architecture: &str) -> Value {
    json!({
        "architecture": architecture, "os": "linux", "created": "2024-05-06T07:08:09Z",
        "digest": format!("sha256:{}", "5".repeat(64)),
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))]},
        "history": [{"created": "2024-05-06T07:08:09Z", "created_by": "base"}],
    })
}

/// A finding as the command line would show it, in short.
fn report(source: &Source, found: &Diagnostic) -> String {
    let severity = if found.is_error() { "error" } else { "warning" };
    let mut text = format!("{severity}: {} [{}]\n", found.message, found.code);
    for (span, remark) in &found.labels {
        let (line, column) = (source.line_of(span.start), source.column_of(span.start) + 1);
        let excerpt = source.text()[span.range()].lines().next().unwrap_or_default();
        text.push_str(format!("  {line}:{column} `{excerpt}` {remark}").trim_end());
        text.push('\n');
    }
    if let Some(help) = &found.help {
        text.push_str(&format!("  help: {help}\n"));
    }
    text
}

/// The first lines that differ.
fn difference(expected: &str, found: &str) -> String {
    let (mut old, mut new) = (expected.lines(), found.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (old.next(), new.next()) {
            (None, None) => return "  only line ends differ".into(),
            (a, b) if a == b => {}
            (a, b) => return format!("  line {number}\n  - {}\n  + {}", a.unwrap_or("(end)"), b.unwrap_or("(end)")),
        }
    }
}
