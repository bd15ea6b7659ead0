//! Builds that check behaviour from inside: every rule a small Dockerfile whose steps assert what they see.
//!
//! The cases stand in `testdata/behaviour/*.txt`, and `tests/reference/behaviour.py` gives them to BuildKit. `= ` begins
//! a heading and `== ` a case: its name, then lines that say what else there is to it, then its Dockerfile.
//!
//! ```text
//! args: words for the command line; {http} is a web server with the context's files
//! ignore: patterns of its .dockerignore
//! fails: LINE TEXT: it fails there and says so; `-` for an error of no line
//! config: JSON, what the image's configuration says under these keys; null for nothing
//! history: a line of the image's history      no-history: what is in none of them      author: the image's author
//! ```

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use serde_json::Value;
use support::served::Web;
use support::{can_build, text, Rbuild};

#[derive(Default)]
struct Case {
    name: String,
    dockerfile: String,
    args: String,
    ignore: Option<String>,
    fails: Option<(String, String)>,
    config: Option<Value>,
    history: Option<String>,
    no_history: Option<String>,
    author: Option<String>,
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// The cases of all files, in order.
fn cases() -> Vec<Case> {
    let entries = fs::read_dir(testdata("behaviour")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|it| it == "txt")).collect();
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    for file in files {
        let group = file.file_stem().unwrap().to_string_lossy().into_owned();
        // Whether the lines that come are still about the case, or nobody's.
        let (mut is_head, mut is_heading) = (false, true);
        for line in fs::read_to_string(&file).unwrap().lines() {
            if let Some(name) = line.strip_prefix("== ") {
                cases.push(Case { name: format!("{group}: {name}"), ..Case::default() });
                (is_head, is_heading) = (true, false);
            } else if line.starts_with("= ") {
                is_heading = true;
            } else if let (false, Some(case)) = (is_heading, cases.last_mut()) {
                is_head = is_head && case.takes(line);
                if !is_head {
                    case.dockerfile.push_str(line);
                    case.dockerfile.push('\n');
                }
            }
        }
    }
    for case in &mut cases {
        let text = case.dockerfile.trim_end().len();
        case.dockerfile.truncate(text);
        case.dockerfile.push_str(if text > 0 { "\n" } else { "" });
    }
    cases
}

impl Case {
    /// Whether a line is one of those that stand before the Dockerfile.
    fn takes(&mut self, line: &str) -> bool {
        let Some((key, value)) = line.split_once(": ") else { return false };
        let value = value.to_owned();
        match key {
            "args" => self.args = value,
            "ignore" => self.ignore = Some(value),
            "fails" => self.fails = value.split_once(' ').map(|(line, text)| (line.into(), text.into())),
            "config" => self.config = Some(serde_json::from_str(&value).unwrap()),
            "history" => self.history = Some(value),
            "no-history" => self.no_history = Some(value),
            "author" => self.author = Some(value),
            _ => return false,
        }
        true
    }

    fn asks_for_the_image(&self) -> bool {
        self.config.is_some() || self.history.is_some() || self.no_history.is_some() || self.author.is_some()
    }

    /// What is wrong with an image's configuration.
    fn image(&self, image: &Value) -> Result<(), String> {
        let none =
            |value: &Value| value.is_null() || value == &serde_json::json!([]) || value == &serde_json::json!({});
        for (key, wanted) in self.config.iter().filter_map(Value::as_object).flatten() {
            let found = &image["config"][key];
            if found != wanted && !(wanted.is_null() && none(found)) {
                return Err(format!("{key} is {found}, not {wanted}"));
            }
        }
        let entries = image["history"].as_array().into_iter().flatten();
        let history: Vec<&str> = entries.filter_map(|entry| entry["created_by"].as_str()).collect();
        let lacks = self.history.as_ref().is_some_and(|wanted| !history.contains(&wanted.as_str()));
        let shows = self.no_history.as_ref().is_some_and(|secret| history.iter().any(|line| line.contains(secret)));
        if lacks || shows {
            return Err(format!("the history is {history:#?}"));
        }
        match &self.author {
            Some(author) if image["author"] != **author => Err(format!("the author is {}", image["author"])),
            _ => Ok(()),
        }
    }
}

/// One store, one context, and what lies beside it.
struct World {
    rbuild: Rbuild,
    context: PathBuf,
    web: Web,
    _agent: UnixListener,
}

impl World {
    fn new() -> World {
        let rbuild = Rbuild::new();
        let (context, cases) = (rbuild.path("context"), testdata("behaviour"));
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        rbuild.ok(["build", "-f", &path(&cases.join("base.dockerfile")), "-t", "base", &path(&cases)]);
        let made = path(&cases.join("context.dockerfile"));
        rbuild.ok(["build", "-f", &made, "-o", &path(&context), &path(&testdata("archives"))]);
        fs::write(rbuild.path("secret"), "sesame").unwrap();
        rbuild.context("other", &[("f", "from another directory\n")]);
        let web = Web::new();
        web.file("/", b"a page", "\"1\"");
        for name in ["a", "archive.tar.gz"] {
            web.file(&format!("/{name}"), &fs::read(context.join(name)).unwrap(), "\"1\"");
        }
        let agent = UnixListener::bind(rbuild.path("agent.sock")).unwrap();
        World { rbuild, context, web, _agent: agent }
    }

    /// What is wrong with a case.
    fn build(&self, number: usize, case: &Case) -> Result<(), String> {
        let (home, archive) = (format!("case-{number}"), format!("case-{number}/image.tar"));
        let files = [("Dockerfile", case.dockerfile.as_str())];
        let home = self.rbuild.context(&home, &files);
        if let Some(ignore) = &case.ignore {
            fs::write(home.join("Dockerfile.dockerignore"), ignore.replace(' ', "\n")).unwrap();
        }
        let mut command = self.rbuild.command(["build", "--progress=plain", "-f"]);
        command.arg(home.join("Dockerfile")).env("BEHAVIOUR", "from a variable");
        command.args(case.args.replace("{http}", &self.web.url).split_whitespace());
        if case.asks_for_the_image() {
            command.args(["-o", &format!("type=docker,dest={archive}")]);
        }
        let output = command.arg(&self.context).output().unwrap();
        let said = text(&output.stderr);
        if said.contains("panicked") {
            return Err(said);
        }
        match &case.fails {
            Some(_) if output.status.success() => return Err("it does not fail".into()),
            Some((line, text)) => {
                let is_placed = line == "-" || said.contains(&format!("Dockerfile:{line}\n"));
                return if is_placed && said.contains(text) { Ok(()) } else { Err(said) };
            }
            None if !output.status.success() => return Err(said),
            None => {}
        }
        match case.asks_for_the_image() {
            true => case.image(&configuration(&self.rbuild.path(&archive))),
            false => Ok(()),
        }
    }
}

/// The configuration of the image in an archive.
fn configuration(archive: &Path) -> Value {
    let read = |wanted: &str| -> Value {
        let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let mut entry = entries.find(|entry| entry.path().unwrap() == Path::new(wanted)).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    read(read("manifest.json")[0]["Config"].as_str().unwrap())
}

#[test]
fn every_rule_is_seen_from_inside() {
    if !can_build() {
        return;
    }
    let world = World::new();
    // For whoever works on one rule.
    let part = std::env::var("RBUILD_CASE").unwrap_or_default();
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.name.contains(&part)).collect();
    assert!(!cases.is_empty(), "no case is called {part}");
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((number, case)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|number| cases.get(number).map(|case| (number, case)))
                {
                    if let Err(why) = world.build(number, case) {
                        wrong.lock().unwrap().push(format!("--- {}\n{why}", case.name));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} cases", cases.len());
}
