//! A registry in memory that misbehaves on demand.
//!
//! It is stricter than real ones: a manifest needs its blobs, a token its scopes, an upload its digest. Everything it
//! was asked is kept, so that tests can say who was told what.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// What the registry asks of its users.
#[derive(Clone, Default)]
pub enum Asks {
    #[default]
    Nothing,
    /// `user:password` in base64.
    Basic(&'static str),
    /// A token from `realm`; given to those with these credentials, or to anybody.
    Bearer { realm: String, basic: Option<&'static str>, identity: Option<&'static str>, uses: usize },
}

/// What goes wrong with a request.
#[derive(Clone)]
pub enum Act {
    /// This status with these headers and this body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection is reset after so many bytes of the body.
    Reset(usize),
    /// The connection is closed after so many bytes of the body.
    Truncate(usize),
    /// One bit of the body is another.
    Corrupt,
    /// The body is announced to be so much longer than it is.
    Longer(usize),
    /// The length is not announced, and the connection is closed after so many bytes.
    NoLength(usize),
    /// Another header.
    Header(&'static str, String),
    /// Nothing is answered.
    Silence,
    /// Nothing comes after so many bytes of the body.
    Stall(usize),
    /// The body comes in pieces of so many bytes, each after a pause.
    Slow(usize, Duration),
    /// The request is carried out, but its answer is lost.
    LoseAnswer,
    /// The upload session is forgotten first.
    LoseSession,
    /// All tokens expire first.
    Expire,
    /// Zeros without end.
    Endless,
}

struct Fault {
    method: &'static str,
    path: &'static str,
    /// Which of the requests that match, counted from 1.
    which: fn(usize) -> bool,
    matched: usize,
    act: Act,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Default)]
pub struct State {
    pub asks: Asks,
    /// By repository and digest.
    pub blobs: BTreeMap<(String, String), Arc<Vec<u8>>>,
    /// By repository and tag or digest: media type and bytes.
    pub manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    /// Other paths.
    pub files: BTreeMap<String, Arc<Vec<u8>>>,
    pub seen: Vec<Seen>,
    faults: Vec<Fault>,
    sessions: BTreeSet<String>,
    /// Scopes and uses left.
    tokens: BTreeMap<String, (String, usize)>,
    minted: usize,
    /// Whether HEAD of a manifest is answered.
    pub hides_heads: bool,
    /// Whether a Range header is passed over.
    pub ignores_ranges: bool,
}

/// The running registry.
pub struct Server {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    pub connections: Arc<AtomicUsize>,
    /// The most requests that were open at the same time.
    pub busiest: Arc<AtomicUsize>,
    /// Bytes of bodies written.
    pub written: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    open: Arc<AtomicUsize>,
    busiest: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
    address: SocketAddr,
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Server {
    pub fn start() -> Server {
        Server::start_at("127.0.0.1:0")
    }

    pub fn start_at(address: &str) -> Server {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (busiest, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shared = Shared { state: state.clone(), open, busiest: busiest.clone(), written: written.clone(), address };
        let counted = connections.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                counted.fetch_add(1, Ordering::SeqCst);
                let shared = shared.clone();
                thread::spawn(move || shared.serve(stream));
            }
        });
        Server { address, state, connections, busiest, written }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes a token server of it, too, and asks for its tokens.
    pub fn asks_for_tokens(&self, basic: Option<&'static str>) {
        let realm = format!("http://{}/token", self.address);
        self.state().asks = Asks::Bearer { realm, basic, identity: None, uses: usize::MAX };
    }

    /// From now on, requests of this method whose path contains this go wrong: those that `which` picks.
    pub fn fault(&self, method: &'static str, path: &'static str, which: fn(usize) -> bool, act: Act) {
        self.state().faults.push(Fault { method, path, which, matched: 0, act });
    }

    /// From now on nothing goes wrong.
    pub fn behaves(&self) {
        self.state().faults.clear();
    }

    /// Requests of this method whose path contains this.
    pub fn seen(&self, method: &str, path: &str) -> Vec<Seen> {
        self.state().seen.iter().filter(|seen| seen.method == method && seen.path.contains(path)).cloned().collect()
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.state().seen.clear();
    }
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
}

impl Reply {
    fn new(status: u16) -> Reply {
        Reply { status, headers: vec![], body: Arc::default() }
    }

    fn error(status: u16, code: &str, message: &str) -> Reply {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
        Reply { status, headers: vec![], body: Arc::new(body.into_bytes()) }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.to_string()));
        self
    }

    fn body(self, body: Arc<Vec<u8>>) -> Reply {
        Reply { body, ..self }
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        while let Some(seen) = read_request(&mut stream) {
            if self.answer(&mut stream, seen, Open::new(self)).is_none() {
                return;
            }
        }
    }

    /// None when the connection is of no more use.
    fn answer(&self, stream: &mut TcpStream, seen: Seen, open: Open) -> Option<()> {
        let is_head = seen.method == "HEAD";
        let act = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(seen.clone());
            let mut act = None;
            for fault in &mut state.faults {
                if seen.method == fault.method && seen.path.contains(fault.path) {
                    fault.matched += 1;
                    if (fault.which)(fault.matched) {
                        act = Some(fault.act.clone());
                    }
                }
            }
            act
        };
        match &act {
            Some(Act::Silence) => {
                thread::sleep(Duration::from_secs(20));
                return None;
            }
            Some(Act::LoseSession) => self.state.lock().unwrap().sessions.clear(),
            Some(Act::Expire) => self.state.lock().unwrap().tokens.clear(),
            Some(Act::Answer(status, headers, body)) => {
                let mut reply = Reply::new(*status).body(Arc::new(body.clone().into_bytes()));
                for (name, value) in headers {
                    reply = reply.with(name, value);
                }
                return self.write(stream, &reply, is_head, None, open);
            }
            _ => {}
        }
        let mut reply = self.state.lock().unwrap().reply(&seen, self.address);
        match act {
            Some(Act::LoseAnswer) => None,
            Some(Act::Corrupt) => {
                let mut body = reply.body.to_vec();
                let middle = body.len() / 2;
                body[middle] ^= 1;
                reply.body = Arc::new(body);
                self.write(stream, &reply, is_head, None, open)
            }
            Some(Act::Header(name, value)) => {
                reply = reply.with(name, value);
                self.write(stream, &reply, is_head, None, open)
            }
            other => self.write(stream, &reply, is_head, other, open),
        }
    }

    fn write(&self, stream: &mut TcpStream, reply: &Reply, is_head: bool, act: Option<Act>, open: Open) -> Option<()> {
        let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = reply.body.len();
        match &act {
            Some(Act::NoLength(_) | Act::Endless) => head.push_str("connection: close\r\n"),
            Some(Act::Longer(more)) => head.push_str(&format!("content-length: {}\r\n", length + more)),
            _ => head.push_str(&format!("content-length: {length}\r\n")),
        }
        head.push_str("\r\n");
        let open = Some(open).filter(|_| !is_head && length > 0);
        stream.write_all(head.as_bytes()).ok()?;
        if is_head {
            return Some(());
        }
        let mut send = |bytes: &[u8]| {
            self.written.fetch_add(bytes.len(), Ordering::SeqCst);
            stream.write_all(bytes).ok()
        };
        let body = &reply.body[..];
        let upto = |end: usize| &body[..end.min(length)];
        match act {
            Some(Act::Reset(after)) => {
                send(upto(after))?;
                // What is on its way should arrive before the reset overtakes it.
                thread::sleep(Duration::from_millis(20));
                rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO)).unwrap();
                None
            }
            Some(Act::Truncate(after) | Act::NoLength(after)) => {
                send(upto(after))?;
                stream.shutdown(Shutdown::Write).ok()?;
                None
            }
            Some(Act::Longer(_)) => {
                send(body)?;
                None
            }
            Some(Act::Stall(after)) => {
                send(upto(after))?;
                thread::sleep(Duration::from_secs(20));
                None
            }
            Some(Act::Slow(piece, pause)) => {
                let (pieces, last) = body.split_at(body.len() - piece.min(body.len()));
                for bytes in pieces.chunks(piece) {
                    send(bytes)?;
                    thread::sleep(pause);
                }
                drop(open);
                send(last)
            }
            Some(Act::Endless) => loop {
                send(&[b' '; 65536])?;
            },
            _ => {
                drop(open);
                send(body)
            }
        }
    }
}

/// A request that is being answered, until its last bytes are on their way: then the client may begin another one.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(shared: &Shared) -> Open {
        let now = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
        shared.busiest.fetch_max(now, Ordering::SeqCst);
        Open(shared.open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl State {
    /// Puts a blob there without a request.
    pub fn add_blob(&mut self, repository: &str, bytes: &[u8]) -> String {
        let name = digest(bytes);
        self.blobs.insert((repository.into(), name.clone()), Arc::new(bytes.to_vec()));
        name
    }

    /// Puts a manifest there without a request.
    pub fn add_manifest(&mut self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let name = digest(bytes);
        for selector in [tag, &name] {
            self.manifests.insert((repository.into(), selector.into()), (media_type.into(), bytes.to_vec()));
        }
        name
    }

    fn reply(&mut self, seen: &Seen, me: SocketAddr) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                Some((key.to_owned(), value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",")))
            })
            .collect();
        if path == "/token" {
            return self.token(seen);
        }
        if let Some(file) = self.files.get(path) {
            return Reply::new(200).body(file.clone());
        }
        if let Some(refusal) = self.refuse(seen, path, &query) {
            return refusal;
        }
        let Some(rest) = path.strip_prefix("/v2/") else { return Reply::new(404) };
        if rest.is_empty() {
            return Reply::new(200);
        }
        if let Some((repository, selector)) = rest.split_once("/manifests/") {
            return self.manifest(seen, repository, selector);
        }
        if let Some((repository, session)) = rest.split_once("/blobs/uploads/") {
            return self.upload(seen, repository, session, &query, me);
        }
        match rest.split_once("/blobs/") {
            Some((repository, name)) => self.blob(seen, repository, name),
            None => Reply::new(404),
        }
    }

    fn refuse(&mut self, seen: &Seen, path: &str, query: &BTreeMap<String, String>) -> Option<Reply> {
        let given = seen.header("authorization").unwrap_or_default();
        let unauthorized = Reply::error(401, "UNAUTHORIZED", "authentication required");
        match &self.asks {
            Asks::Nothing => None,
            Asks::Basic(expected) if given == format!("Basic {expected}") => None,
            Asks::Basic(_) => Some(unauthorized.with("WWW-Authenticate", r#"Basic realm="here""#)),
            Asks::Bearer { realm, .. } => {
                let repository = path.strip_prefix("/v2/").unwrap_or_default();
                let end = ["/manifests/", "/blobs/"].iter().find_map(|mark| repository.find(mark));
                let repository = end.map_or("", |end| &repository[..end]);
                let actions = if matches!(seen.method.as_str(), "GET" | "HEAD") { "pull" } else { "pull,push" };
                let mut wanted = vec![format!("repository:{repository}:{actions}")];
                wanted.extend(query.get("from").map(|from| format!("repository:{from}:pull")));
                let challenge = format!(r#"Bearer realm="{realm}",service="here",scope="{}""#, wanted[0]);
                let token = given.strip_prefix("Bearer ").unwrap_or_default();
                if let Some((scopes, uses)) = self.tokens.get_mut(token) {
                    let grants = |want: &String| {
                        let pull = want.trim_end_matches(":pull");
                        scopes.split(' ').any(|scope| scope == want || scope == format!("{pull}:pull,push"))
                    };
                    if *uses > 0 && wanted.iter().all(grants) {
                        *uses -= 1;
                        return None;
                    }
                }
                Some(unauthorized.with("WWW-Authenticate", challenge))
            }
        }
    }

    fn token(&mut self, seen: &Seen) -> Reply {
        let Asks::Bearer { basic, identity, uses, .. } = self.asks.clone() else { return Reply::new(404) };
        let form = match seen.method.as_str() {
            "POST" => String::from_utf8(seen.body.clone()).unwrap(),
            _ => seen.path.split_once('?').map_or(String::new(), |(_, query)| query.to_owned()),
        };
        let all = |name: &str| -> Vec<String> {
            let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
            let decoded =
                |value: &str| value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace('+', " ");
            pairs.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).collect()
        };
        let is_known = match (seen.method.as_str(), basic, identity) {
            ("POST", _, Some(identity)) => {
                all("grant_type") == ["refresh_token"]
                    && all("refresh_token") == [identity]
                    && all("service") == ["here"]
            }
            ("POST", _, None) => return Reply::new(405),
            (_, Some(basic), _) => seen.header("authorization") == Some(&format!("Basic {basic}")),
            (_, None, _) => true,
        };
        if !is_known {
            return Reply::error(401, "UNAUTHORIZED", "wrong password");
        }
        self.minted += 1;
        let token = format!("token-{}", self.minted);
        self.tokens.insert(token.clone(), (all("scope").join(" "), uses));
        Reply::new(200).body(Arc::new(format!(r#"{{"token":"{token}","expires_in":300}}"#).into_bytes()))
    }

    fn manifest(&mut self, seen: &Seen, repository: &str, selector: &str) -> Reply {
        if seen.method == "PUT" {
            let missing = self.missing_from(repository, &seen.body);
            if let Some(missing) = missing {
                return Reply::error(400, "MANIFEST_BLOB_UNKNOWN", &format!("{missing} is not here"));
            }
            let media_type = seen.header("content-type").unwrap_or_default().to_owned();
            let name = self.add_manifest(repository, selector, &media_type, &seen.body);
            return Reply::new(201).with("Docker-Content-Digest", name);
        }
        if seen.method == "HEAD" && self.hides_heads {
            return Reply::new(405);
        }
        match self.manifests.get(&(repository.to_owned(), selector.to_owned())) {
            None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            Some((media_type, bytes)) => Reply::new(200)
                .with("Content-Type", media_type)
                .with("Docker-Content-Digest", digest(bytes))
                .body(Arc::new(bytes.clone())),
        }
    }

    /// The first thing a manifest names that is not in its repository.
    fn missing_from(&self, repository: &str, manifest: &[u8]) -> Option<String> {
        let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        let name = |of: &serde_json::Value| (repository.to_owned(), of["digest"].as_str().unwrap().to_owned());
        let list = |key: &str| manifest[key].as_array().cloned().unwrap_or_default();
        let blobs = manifest.get("config").cloned().into_iter().chain(list("layers"));
        let blobs =
            blobs.filter(|blob| !blob["mediaType"].as_str().unwrap().contains("foreign")).map(|blob| name(&blob));
        let missing_blob = blobs.into_iter().find(|blob| !self.blobs.contains_key(blob));
        let missing = missing_blob
            .or_else(|| list("manifests").iter().map(name).find(|manifest| !self.manifests.contains_key(manifest)));
        missing.map(|(_, digest)| digest)
    }

    fn upload(
        &mut self,
        seen: &Seen,
        repository: &str,
        session: &str,
        query: &BTreeMap<String, String>,
        me: SocketAddr,
    ) -> Reply {
        if seen.method == "POST" {
            if let (Some(name), Some(from)) = (query.get("mount"), query.get("from")) {
                if let Some(blob) = self.blobs.get(&(from.clone(), name.clone())).cloned() {
                    self.blobs.insert((repository.into(), name.clone()), blob);
                    return Reply::new(201).with("Location", format!("/v2/{repository}/blobs/{name}"));
                }
            }
            self.minted += 1;
            let session = format!("session-{}", self.minted);
            self.sessions.insert(session.clone());
            let absolute = if self.minted.is_multiple_of(2) { format!("http://{me}") } else { String::new() };
            let location = format!("{absolute}/v2/{repository}/blobs/uploads/{session}?_state=abc%2Fd");
            return Reply::new(202).with("Location", location);
        }
        if !self.sessions.remove(session) || query.get("_state").map(String::as_str) != Some("abc/d") {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
        }
        let name = digest(&seen.body);
        if query.get("digest") != Some(&name) {
            return Reply::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
        }
        self.blobs.insert((repository.into(), name), Arc::new(seen.body.clone()));
        Reply::new(201)
    }

    fn blob(&self, seen: &Seen, repository: &str, name: &str) -> Reply {
        let Some(blob) = self.blobs.get(&(repository.to_owned(), name.to_owned())) else {
            return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let start =
            seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match start.filter(|_| !self.ignores_ranges) {
            None => Reply::new(200).body(blob.clone()),
            Some(start) if start >= blob.len() => Reply::new(416),
            Some(start) => Reply::new(206)
                .with("Content-Range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len()))
                .body(Arc::new(blob[start..].to_vec())),
        }
    }
}

fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
        // A TLS handshake: whoever speaks it is at the wrong door.
        if head[0] == 0x16 {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ').map(str::to_owned);
    let (method, path) = (first.next()?, first.next()?);
    // To a proxy the whole URL is said.
    let path = match path.strip_prefix("http://").and_then(|rest| rest.split_once('/')) {
        Some((_, path)) => format!("/{path}"),
        None => path,
    };
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    assert!(!headers.contains_key("transfer-encoding"), "uploads announce their length: {head}");
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Seen { method, path, headers, body })
}
