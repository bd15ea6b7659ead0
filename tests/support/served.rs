//! What sources are fetched from: a web server and a git server on this machine, which count what they are asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{kill_process_group, Pid, Signal};

use super::{text, until};

/// What the web server gives at a path.
#[derive(Clone)]
pub enum Page {
    /// A file with its tag, and `Last-Modified` if there is one.
    File { body: Vec<u8>, etag: &'static str, modified: Option<&'static str> },
    /// As a file, under another name.
    Named { body: Vec<u8>, disposition: &'static str },
    /// A redirect.
    To(String),
    /// A file for those who introduce themselves so.
    Guarded { body: Vec<u8>, authorization: &'static str },
    /// The beginning of an answer, and nothing more.
    Stalls,
}

#[derive(Default)]
struct Shared {
    pages: BTreeMap<String, Page>,
    /// Paths and statuses, in order.
    log: Vec<(String, u16)>,
    /// Values of `Authorization`.
    introductions: Vec<String>,
}

/// A web server that ends with the test.
pub struct Web {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    shared: Arc<Mutex<Shared>>,
}

impl Web {
    pub fn new() -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let known = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let known = Arc::clone(&known);
                std::thread::spawn(move || answer(stream, &known));
            }
        });
        Web { url, shared }
    }

    pub fn put(&self, path: &str, page: Page) {
        self.shared.lock().unwrap().pages.insert(path.to_owned(), page);
    }

    pub fn file(&self, path: &str, body: &[u8], etag: &'static str) {
        self.put(path, Page::File { body: body.to_vec(), etag, modified: None });
    }

    /// The statuses given since this was last asked.
    pub fn log(&self) -> Vec<(String, u16)> {
        std::mem::take(&mut self.shared.lock().unwrap().log)
    }

    pub fn introductions(&self) -> Vec<String> {
        self.shared.lock().unwrap().introductions.clone()
    }
}

fn answer(mut stream: TcpStream, shared: &Mutex<Shared>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let authorization = headers.get("authorization").cloned();
    let mut known = shared.lock().unwrap();
    known.introductions.extend(authorization.clone());
    let (status, extra, body) = match known.pages.get(path.split('?').next().unwrap_or_default()).cloned() {
        None => (404, String::new(), b"nothing here".to_vec()),
        Some(Page::File { etag, .. }) if headers.get("if-none-match").is_some_and(|tag| tag == etag) => {
            (304, format!("ETag: {etag}\r\n"), Vec::new())
        }
        Some(Page::File { body, etag, modified }) => {
            let modified = modified.map(|date| format!("Last-Modified: {date}\r\n")).unwrap_or_default();
            (200, format!("ETag: {etag}\r\n{modified}"), body)
        }
        Some(Page::Named { body, disposition }) => (200, format!("Content-Disposition: {disposition}\r\n"), body),
        Some(Page::To(url)) => (302, format!("Location: {url}\r\n"), Vec::new()),
        Some(Page::Guarded { body, authorization: wanted }) => match authorization.as_deref() == Some(wanted) {
            true => (200, String::new(), body),
            false => (401, String::new(), Vec::new()),
        },
        Some(Page::Stalls) => (0, String::new(), Vec::new()),
    };
    known.log.push((path, status));
    drop(known);
    if status == 0 {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
        // Until the other side has left.
        let _ = stream.read_to_end(&mut Vec::new());
        return;
    }
    let head = format!("HTTP/1.1 {status} X\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// Repositories that `git daemon` serves.
pub struct GitServer {
    /// `git://127.0.0.1:PORT`
    pub url: String,
    dir: PathBuf,
    daemon: Child,
}

impl Drop for GitServer {
    fn drop(&mut self) {
        // `git daemon` is a program of its own below git.
        let _ = kill_process_group(Pid::from_child(&self.daemon), Signal::KILL);
        let _ = self.daemon.wait();
    }
}

impl GitServer {
    /// Serves what is made below `dir`.
    pub fn new(dir: &Path) -> GitServer {
        fs::create_dir_all(dir).unwrap();
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let daemon = Command::new("git")
            .args(["daemon", "--listen=127.0.0.1", "--export-all", "--reuseaddr", "--informative-errors"])
            .args([format!("--port={port}"), format!("--base-path={}", dir.display())])
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("git daemon listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        std::thread::sleep(Duration::from_millis(20));
        GitServer { url: format!("git://127.0.0.1:{port}"), dir: dir.to_owned(), daemon }
    }

    /// Runs git in a repository of this server and gives what it wrote.
    pub fn git(&self, name: &str, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "protocol.file.allow=always"])
            .args(args)
            .current_dir(self.dir.join(name))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", "2020-01-02T03:04:05Z")
            .env("GIT_COMMITTER_DATE", "2020-01-02T03:04:05Z")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// Commits files; makes the repository if it is not there. Gives the commit.
    pub fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        let at = self.dir.join(name);
        if !at.exists() {
            fs::create_dir_all(&at).unwrap();
            self.git(name, &["init", "-q", "-b", "main", "."]);
        }
        for (path, content) in files {
            let file = at.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        self.git(name, &["add", "-A"]);
        self.git(name, &["commit", "-q", "--allow-empty", "-m", "change"]);
        self.git(name, &["rev-parse", "HEAD"])
    }

    /// Where a repository is served.
    pub fn url_of(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Where a repository is on this machine.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}
