//! Holds the frontend against tables of inputs and expected answers, and prints how many rows agree.
//!
//! usage: cargo run -p frontend --example conformance -- FOLDER [--verbose]
//!
//! Tables are JSON files with `cases`; their names say what is asked. Rows that are known to disagree are listed in
//! [`KNOWN`], each with its reason. Ends with 1 if any other row disagrees, or none could be read.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use frontend::ast::{Ast, Kind};
use frontend::expand::{expand, Mode};
use frontend::{
    dockerignore, dump, parse, parse_platform, Diagnostic, GitRef, ImageAnswer, Lowered, Lowering, Options, Query,
    Source, Step,
};
use serde_json::{json, Value};
use snapshotter::pattern::Patterns;

/// Rows that disagree on purpose: table, a part of the row, and why.
const KNOWN: &[(&str, &str, &str)] =
    &[("lint_docs", "ENV DEPS", "a fragment without FROM: what is doubtful in it is told beside the error")];

/// What one row says: nothing if it agrees, else both sides.
type Verdict = Result<(), String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let verbose = words.iter().any(|word| word == "--verbose");
    let Some(folder) = words.iter().find(|word| !word.starts_with("--")) else {
        eprintln!("usage: conformance FOLDER [--verbose]");
        return ExitCode::from(2);
    };
    type Check = fn(&Value, &Value) -> Verdict;
    let tables: [(&str, Check); 22] = [
        ("shell_env_words", env_word),
        ("shell_params", param),
        ("shell_words", words_of),
        ("parser_positive", tree),
        ("parser_negative", refused),
        ("parser_lines", lines),
        ("parser_json_arrays", json_array),
        ("parser_words", quoted_words),
        ("parser_heredoc", heredocs),
        ("instr_arity", message),
        ("instr_errors", message),
        ("instr_copy_heredoc", copy_heredoc),
        ("instr_run_heredoc", run_heredoc),
        ("expose_empty", port),
        ("expose_ipv6", port),
        ("git_ref", git),
        ("git_fragment", fragment),
        ("ignorefile", ignore_file),
        ("patternmatcher", pattern),
        ("patternmatcher_compile", pattern_compiles),
        ("lint", lint),
        ("lint_docs", lint),
    ];
    let (mut failed, mut all) = (0, 0);
    for (name, check) in tables {
        let path = Path::new(folder).join(format!("{name}.json"));
        let table: Value = match std::fs::read(&path).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(table)) => table,
            _ => {
                println!("{name:24} cannot be read");
                failed += 1;
                continue;
            }
        };
        let (mut agree, mut known) = (0, 0);
        let mut rows = table["cases"].as_array().cloned().unwrap_or_default();
        if name == "parser_heredoc" {
            rows = vec![table.clone()];
        }
        for row in &rows {
            match check(row, &table) {
                Ok(()) => agree += 1,
                Err(_) if KNOWN.iter().any(|(table, part, _)| *table == name && row.to_string().contains(part)) => {
                    known += 1;
                }
                Err(why) => {
                    failed += 1;
                    if verbose {
                        println!("  {name}: {why}");
                    }
                }
            }
        }
        all += rows.len();
        let remark = if known > 0 { format!(", {known} differ on purpose") } else { String::new() };
        println!("{name:24} {agree:4} of {}{remark}", rows.len());
    }
    for (table, part, why) in KNOWN {
        println!("on purpose: {table}, {part:?}: {why}");
    }
    println!("{failed} of {all} rows disagree");
    ExitCode::from(u8::from(failed > 0 || all == 0))
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, of: &Value) -> Verdict {
    if found == expected {
        return Ok(());
    }
    Err(format!("{of}: {found:?} instead of {expected:?}"))
}

fn text<'v>(row: &'v Value, key: &str) -> &'v str {
    row[key].as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect()
}

fn variables(value: &Value) -> Vec<(String, String)> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_string())).collect()
}

fn expanded(word: &str, env: &Vec<(String, String)>, row: &Value) -> Verdict {
    let found = expand(word, env, Mode::words('\\')).ok().map(|expanded| expanded.text);
    same(found.as_deref(), row["expect"].as_str(), row)
}

fn env_word(row: &Value, table: &Value) -> Verdict {
    expanded(text(row, "word"), &variables(&table["env"]), row)
}

fn param(row: &Value, _: &Value) -> Verdict {
    expanded(text(row, "word"), &variables(&row["env"]), row)
}

fn words_of(row: &Value, _: &Value) -> Verdict {
    let env: Vec<(String, String)> = strings(&row["envs"])
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let found = expand(text(row, "input"), &env, Mode::words('\\'))
        .ok()
        .map(|expanded| expanded.words().map(String::from).collect::<Vec<_>>());
    same(found, row["expect"].as_array().map(|_| strings(&row["expect"])), row)
}

fn parsed(text: &str) -> (Source, Ast, Vec<Diagnostic>) {
    let source = Source::new("Dockerfile", text);
    let (ast, found) = parse(&source);
    (source, ast, found)
}

fn tree(row: &Value, _: &Value) -> Verdict {
    same(dump(&parsed(text(row, "dockerfile")).1).as_str(), text(row, "ast_dump"), &row["name"])
}

fn refused(row: &Value, _: &Value) -> Verdict {
    same(parsed(text(row, "dockerfile")).2.iter().any(Diagnostic::is_error), true, row)
}

fn lines(row: &Value, _: &Value) -> Verdict {
    let (source, ast, _) = parsed(text(row, "dockerfile"));
    let range = |span: frontend::Span| [source.line_of(span.start), source.line_of(span.end.max(1) - 1)];
    let found: Vec<[usize; 2]> = ast.instructions.iter().map(|instruction| range(instruction.statement.span)).collect();
    same(json!(found), row["children"].clone(), &json!("lines"))
}

fn json_array(row: &Value, _: &Value) -> Verdict {
    let (_, ast, found) = parsed(&format!("CMD {}\n", text(row, "input")));
    let Some(statement) = ast.instructions.first().map(|instruction| &instruction.statement) else {
        return Err(format!("{row}: no instruction"));
    };
    let words: Vec<String> = statement.words.iter().map(|word| word.text.to_string()).collect();
    let is_refused = found.iter().any(|found| found.message.contains("comprised of strings"));
    let found = (statement.json && !is_refused).then_some(words);
    same(found, (row["invalid"] != true).then(|| strings(&row["expect"])), row)
}

fn quoted_words(row: &Value, _: &Value) -> Verdict {
    let ast = parsed(&format!("ARG {}\n", text(row, "input"))).1;
    let words = ast.instructions.iter().flat_map(|instruction| &instruction.statement.words);
    same(words.map(|word| word.text.to_string()).collect(), strings(&row["expect"]), row)
}

fn heredocs(table: &Value, _: &Value) -> Verdict {
    let ast = parsed(text(table, "dockerfile")).1;
    let expected = table["cases"].as_array().cloned().unwrap_or_default();
    let skipped = ast.instructions.len().saturating_sub(expected.len());
    for (instruction, expected) in ast.instructions.iter().skip(skipped).zip(&expected) {
        let found: Vec<Value> = instruction
            .statement
            .heredocs
            .iter()
            .map(|heredoc| json!([heredoc.name, heredoc.content, heredoc.expand, heredoc.chomp, heredoc.descriptor,]))
            .collect();
        let expected: Vec<Value> = expected
            .as_array()
            .into_iter()
            .flatten()
            .map(|heredoc| {
                json!([
                    heredoc["Name"],
                    heredoc["Content"],
                    heredoc["Expand"] == true,
                    heredoc["Chomp"] == true,
                    heredoc["FileDescriptor"].as_u64().unwrap_or(0),
                ])
            })
            .collect();
        same(found, expected, &json!(instruction.statement.text.as_str()))?;
    }
    same(ast.instructions.len() - skipped, expected.len(), &json!("heredocs"))
}

fn message(row: &Value, _: &Value) -> Verdict {
    let expected = row["error"].as_str().or(row["expectedError"].as_str()).unwrap_or_default();
    let found = parsed(text(row, "dockerfile")).2;
    match found.iter().any(|found| found.is_error() && found.message.contains(expected)) {
        true => Ok(()),
        false => Err(format!("{row}: {found:?}")),
    }
}

fn copy_heredoc(row: &Value, _: &Value) -> Verdict {
    let ast = parsed(text(row, "dockerfile")).1;
    let expected = &row["sourcesAndDest"];
    let Some((instruction, Some(Kind::Copy(copy)))) =
        ast.instructions.first().map(|instruction| (instruction, instruction.kind.as_ref()))
    else {
        return Err(format!("{row}: no COPY"));
    };
    let documents: Vec<Value> = copy
        .documents
        .iter()
        .map(|index| &instruction.statement.heredocs[*index])
        .map(|heredoc| json!([heredoc.name, heredoc.document(), heredoc.expand]))
        .collect();
    let wanted: Vec<Value> = expected["SourceContents"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|source| json!([source["Path"], source["Data"], source["Expand"]]))
        .collect();
    same(documents, wanted, row)?;
    same(copy.dest.text.as_str(), text(expected, "DestPath"), row)?;
    same(copy.sources.iter().map(|source| source.text.to_string()).collect(), strings(&expected["SourcePaths"]), row)
}

fn run_heredoc(row: &Value, _: &Value) -> Verdict {
    let ast = parsed(text(row, "dockerfile")).1;
    let Some(statement) = ast.instructions.first().map(|instruction| &instruction.statement) else {
        return Err(format!("{row}: no instruction"));
    };
    let files: Vec<Value> = statement.heredocs.iter().map(|heredoc| json!([heredoc.name, heredoc.content])).collect();
    let expected: Vec<Value> =
        row["files"].as_array().into_iter().flatten().map(|file| json!([file["Name"], file["Data"]])).collect();
    same(files, expected, row)?;
    same(json!(!statement.json), row["shell"].clone(), row)?;
    same(statement.words.iter().map(|word| word.text.to_string()).collect(), strings(&row["command"]), row)
}

/// Lowers a text with a small image for every base.
fn lowered(text: &str, options: Options) -> (Source, Result<Lowered, Vec<Diagnostic>>) {
    let (source, ast, _) = parsed(text);
    let mut lowering = Lowering::new(&source, ast, options);
    loop {
        match lowering.step() {
            Err(errors) => return (source, Err(errors)),
            Ok(Step::Done(lowered)) => return (source, Ok(lowered)),
            Ok(Step::Need(queries)) => {
                for query in queries {
                    match query {
                        Query::Ignore(query) => lowering.answer_ignore(&query, Vec::new()),
                        Query::Time(query) => lowering.answer_time(&query, None),
                        Query::Image(query) => {
                            let config = json!({
                                "architecture": "amd64", "os": "linux", "config": {},
                                "rootfs": {"type": "layers", "diff_ids": ["sha256:a"]},
                            });
                            let config = config.to_string().into_bytes();
                            lowering.answer(&query, ImageAnswer { config, digest: None });
                        }
                    }
                }
            }
        }
    }
}

fn port(row: &Value, _: &Value) -> Verdict {
    let build_args = BTreeMap::from([("S".to_string(), text(row, "spec").to_string())]);
    let (_, found) = lowered("FROM scratch\nARG S\nEXPOSE \"$S\"\n", Options { build_args, ..Options::default() });
    match found {
        Ok(lowered) => {
            let ports = lowered.targets[0].config.config.exposed_ports.keys().cloned().collect();
            same(ports, strings(&row["expected"]), row)
        }
        Err(errors) => same(Some(errors[0].message.as_str()), row["expError"].as_str(), row),
    }
}

fn git(row: &Value, _: &Value) -> Verdict {
    let found = match (GitRef::parse(text(row, "ref")), row["err"].as_str()) {
        (Err(error), Some(part)) if error.to_string().contains(part) => return Ok(()),
        (Err(error), _) => return Err(format!("{row}: {error}")),
        (Ok(_), Some(_)) => return Err(format!("{row}: understood")),
        (Ok(found), None) => found,
    };
    let mut shown = serde_json::Map::new();
    let texts = |git: &GitRef| {
        [
            ("Remote", &git.remote),
            ("ShortName", &git.short_name),
            ("Ref", &git.reference),
            ("SubDir", &git.subdir),
            ("Checksum", &git.checksum),
            ("MTime", &git.mtime),
        ]
        .map(|(key, value)| (key, value.clone()))
    };
    if let Some(git) = &found {
        for (key, value) in texts(git).into_iter().filter(|(_, value)| !value.is_empty()) {
            shown.insert(key.into(), value.into());
        }
        for (key, is_set) in [
            ("IndistinguishableFromLocal", git.may_be_path),
            ("UnencryptedTCP", git.is_unencrypted),
            ("FetchByCommit", git.fetch_by_commit),
        ] {
            if is_set {
                shown.insert(key.into(), true.into());
            }
        }
    }
    let mut expected = row["expected"].as_object().cloned().unwrap_or_default();
    expected.remove("_line");
    same(shown, expected, row)
}

fn fragment(row: &Value, _: &Value) -> Verdict {
    let found = GitRef::parse(text(row, "ref")).ok().flatten();
    same(found.is_some(), row["ok"] == true, row)?;
    let shown = found.map_or_else(
        || text(row, "ref").to_string(),
        |git| {
            let reference = if git.reference.is_empty() { String::new() } else { format!("#{}", git.reference) };
            format!("{}{reference}", git.remote)
        },
    );
    same(shown.as_str(), text(row, "expected"), row)
}

fn ignore_file(row: &Value, _: &Value) -> Verdict {
    same(dockerignore(text(row, "content").as_bytes()).unwrap_or_default(), strings(&row["expect"]), row)
}

fn pattern(row: &Value, _: &Value) -> Verdict {
    match Patterns::new(&strings(&row["patterns"])) {
        Err(_) => same(true, row["error"] == true, row),
        // What an invalid pattern leads to shows only when it is used.
        Ok(patterns) => same(patterns.matches(text(row, "path").trim_end_matches('/')), row["match"] == true, row),
    }
}

fn pattern_compiles(row: &Value, _: &Value) -> Verdict {
    same(Patterns::new(&[text(row, "pattern")]).is_ok(), true, row)
}

fn lint(row: &Value, _: &Value) -> Verdict {
    let dockerfile = row["Dockerfile"].as_str().or(row["dockerfile"].as_str()).unwrap_or_default();
    let mut options = Options { all_stages: true, ..Options::default() };
    options.build_platform = parse_platform("linux/amd64", &options.build_platform).map_err(|e| e.to_string())?;
    for (key, value) in variables(&row["FrontendAttrs"]) {
        if let Some(name) = key.strip_prefix("build-arg:") {
            options.build_args.insert(name.to_string(), value);
        }
    }
    if let Some(ignore) = row["DockerIgnore"].as_str() {
        options.ignore_patterns = dockerignore(ignore.as_bytes()).map_err(|error| error.to_string())?;
    }
    let (source, found) = lowered(dockerfile, options);
    let all = found.map_or_else(|errors| errors, |lowered| lowered.lints);
    let (errors, warnings): (Vec<_>, Vec<_>) = all.into_iter().partition(Diagnostic::is_error);
    let mut found: Vec<(u64, String, String)> =
        warnings.iter().map(|lint| (lint.line(&source) as u64, lint.code.to_string(), lint.message.clone())).collect();
    let expected = [&row["UnmarshalWarnings"], &row["Warnings"], &row["reference"]];
    let expected = expected.into_iter().find_map(Value::as_array).cloned().unwrap_or_default();
    let any = |warning: &Value, keys: [&str; 2]| keys.iter().map(|key| warning[*key].clone()).find(|v| !v.is_null());
    let mut expected: Vec<(u64, String, String)> = expected
        .iter()
        .map(|warning| {
            let text = |keys| any(warning, keys).and_then(|v| v.as_str().map(String::from)).unwrap_or_default();
            let line = any(warning, ["Line", "line"]).and_then(|line| line.as_u64()).unwrap_or_default();
            (line, text(["RuleName", "rule"]), text(["Detail", "detail"]))
        })
        .collect();
    found.sort();
    expected.sort();
    same(found, expected, &json!(dockerfile))?;
    let expected = row["BuildErr"].as_str().or(row["reference_error"].as_str());
    let is_told = |expected: &str| {
        errors.iter().any(|error| expected.contains(&error.message) || error.message.contains(expected))
    };
    match expected {
        Some(expected) if is_told(expected) => Ok(()),
        None if errors.is_empty() => Ok(()),
        _ => Err(format!("{dockerfile:?}: {errors:?} instead of {expected:?}")),
    }
}
