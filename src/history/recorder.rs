//! Records a build's events while it runs, on a thread of its own, so that no build waits for its history.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use solver::event::{Event, EventKind, Timestamp};
use solver::graph::VertexId;

use super::record::{self, write, BuildRecord, History, Limits, Status, EVENTS};
use super::replay::{Ending, Tally};
use super::told::{Asked, Document, Told};

/// Events are compressed in pieces of this many bytes.
const PIECE: usize = 256 << 10;
/// What is not written within this time may be lost when the process is killed.
const EVERY: Duration = Duration::from_secs(2);
/// Of output that is too long so many bytes of the end are kept.
const TAIL: usize = 1 << 20;

/// What is known of a build when it begins.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// See [`BuildRecord::id`]; a name that cannot be one is replaced.
    pub id: String,
    /// See [`BuildRecord::name`].
    pub name: String,
    /// See [`BuildRecord::request`].
    pub request: BTreeMap<String, String>,
    /// See [`BuildRecord::asked`].
    pub asked: Option<Asked>,
}

impl About {
    /// The build's record as it begins.
    pub fn begun(self) -> BuildRecord {
        BuildRecord {
            version: record::VERSION,
            id: if record::is_id(&self.id) { self.id } else { record::new_id() },
            name: self.name,
            started: Timestamp::now(),
            finished: None,
            status: Status::Running,
            error: None,
            said: None,
            steps: 0,
            cached: 0,
            pinned: false,
            request: self.request,
            result: BTreeMap::new(),
            changes: 0,
            asked: self.asked,
            told: None,
        }
    }
}

/// What is known of a build when it has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How.
    pub ending: Ending,
    /// See [`BuildRecord::said`].
    pub said: Option<String>,
    /// See [`BuildRecord::result`].
    pub result: BTreeMap<String, String>,
    /// See [`Told::code`].
    pub code: i32,
    /// See [`Told::documents`], with what is in them.
    pub documents: Vec<(Document, Vec<u8>)>,
}

impl From<Ending> for Finished {
    fn from(ending: Ending) -> Finished {
        Finished { ending, said: None, result: BTreeMap::new(), code: 0, documents: Vec::new() }
    }
}

/// Held while an event waits to be recorded, and dropped then.
pub type Held = Option<Box<dyn Send>>;

/// The recording of one build. Dropped without an end, the build counts as given up.
pub struct Recorder {
    id: String,
    messages: Option<Sender<Message>>,
    thread: Option<JoinHandle<io::Result<Vec<BuildRecord>>>>,
}

enum Message {
    Event(Box<Event>, Held),
    End(Box<Finished>),
}

impl Recorder {
    /// Begins to record.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn begin(history: &History, limits: Limits, about: About) -> io::Result<Recorder> {
        let record = about.begun();
        let id = record.id.clone();
        let (messages, inbox) = channel();
        let history = history.clone();
        let work = move || {
            let writing = Writing::begin(&history, record, limits.log);
            keep(writing, &inbox, &history, &limits)
        };
        let thread = std::thread::Builder::new().name("history".into()).spawn(work)?;
        Ok(Recorder { id, messages: Some(messages), thread: Some(thread) })
    }

    /// The build's name in the history.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its events go, each with what is held until it is recorded.
    pub fn sink(&self) -> impl Fn(Event, Held) + Send + Sync + Clone + 'static {
        let messages = self.messages.clone();
        move |event, held| {
            // What comes after the end is not recorded, and nothing is held for it.
            let _ = messages.as_ref().map(|messages| messages.send(Message::Event(Box::new(event), held)));
        }
    }

    /// Ends the recording, and waits until it is written; says which builds were forgotten for it.
    ///
    /// # Errors
    /// The history cannot be written.
    pub fn finish(mut self, finished: Finished) -> io::Result<Vec<BuildRecord>> {
        if let Some(messages) = self.messages.take() {
            let _ = messages.send(Message::End(Box::new(finished)));
        }
        self.join()
    }

    fn join(&mut self) -> io::Result<Vec<BuildRecord>> {
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the history's thread panicked")))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(messages) = self.messages.take() {
            let _ = messages.send(Message::End(Box::new(Ending::Canceled.into())));
        }
        let _ = self.join();
    }
}

fn keep(
    writing: io::Result<Writing>,
    inbox: &Receiver<Message>,
    history: &History,
    limits: &Limits,
) -> io::Result<Vec<BuildRecord>> {
    let mut writing = writing;
    let mut written = Instant::now();
    loop {
        let message = match inbox.recv_timeout(EVERY) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(Vec::new()),
        };
        match message {
            Some(Message::Event(event, _held)) => {
                // Who cannot write goes on listening: the build must not wait for what is never taken.
                if let Ok(open) = &mut writing {
                    let kept = open.event(&event);
                    writing = writing.and_then(|open| kept.map(|()| open));
                }
            }
            Some(Message::End(finished)) => {
                let heavy = writing?.end(*finished)?;
                return history.trim(limits, heavy);
            }
            None => {}
        }
        if written.elapsed() > EVERY {
            if let Ok(open) = &mut writing {
                let flushed = open.flush();
                writing = writing.and_then(|open| flushed.map(|()| open));
            }
            written = Instant::now();
        }
    }
}

/// The files of a build that runs.
struct Writing {
    place: PathBuf,
    record: BuildRecord,
    file: File,
    plain: Vec<u8>,
    bytes: u64,
    tally: Tally,
    logs: HashMap<VertexId, Log>,
    most: u64,
}

/// How much of a step's output there was.
#[derive(Default)]
struct Log {
    kept: u64,
    left_out: u64,
    tail: VecDeque<Event>,
    tail_bytes: usize,
}

impl Writing {
    fn begin(history: &History, record: BuildRecord, most: u64) -> io::Result<Writing> {
        let place = history.place(&record.id);
        fs::create_dir(&place)?;
        let file = File::create_new(place.join(EVENTS))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        write(&place, &record)?;
        let (plain, bytes, tally, logs) = Default::default();
        Ok(Writing { place, record, file, plain, bytes, tally, logs, most })
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.tally.apply(event);
        match &event.kind {
            EventKind::Log { vertex, data, .. } => {
                let log = self.logs.entry(*vertex).or_default();
                // What comes after something that was put off comes after it here too.
                if !log.tail.is_empty() || log.kept + data.len() as u64 > self.most / 2 {
                    log.put_off(event.clone(), data.len());
                    return Ok(());
                }
                log.kept += data.len() as u64;
            }
            EventKind::VertexDone { vertex, .. } => self.tail_of(*vertex)?,
            EventKind::BuildFinished { .. } => {
                let open: Vec<VertexId> = self.logs.keys().copied().collect();
                open.into_iter().try_for_each(|vertex| self.tail_of(vertex))?;
            }
            _ => {}
        }
        self.line(event)
    }

    /// Writes the end of an output of which the middle is left out.
    fn tail_of(&mut self, vertex: VertexId) -> io::Result<()> {
        let Some(log) = self.logs.remove(&vertex) else { return Ok(()) };
        if let (Some(first), true) = (log.tail.front(), log.left_out > 0) {
            let data = format!("[{} bytes of output are not kept]\n", log.left_out).into_bytes();
            let marker = Event { kind: EventKind::Log { vertex, stream: 2, data }, ..first.clone() };
            self.line(&marker)?;
        }
        log.tail.iter().try_for_each(|event| self.line(event))
    }

    fn line(&mut self, event: &Event) -> io::Result<()> {
        serde_json::to_writer(&mut self.plain, event)?;
        self.plain.push(b'\n');
        match self.plain.len() >= PIECE {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        let packed = zstd::bulk::compress(&self.plain, 1)?;
        self.plain.clear();
        self.bytes += packed.len() as u64;
        self.file.write_all(&packed)
    }

    /// Answers whether it grew so large that others may have to go.
    fn end(mut self, finished: Finished) -> io::Result<bool> {
        let open: Vec<VertexId> = self.logs.keys().copied().collect();
        open.into_iter().try_for_each(|vertex| self.tail_of(vertex))?;
        self.flush()?;
        let (steps, cached) = self.tally.counts();
        let Finished { ending, said, result, code, documents } = finished;
        for (document, bytes) in &documents {
            fs::write(self.place.join(document.file()), bytes)?;
        }
        let documents = documents.into_iter().map(|(document, _)| document).collect();
        let told = self.record.asked.is_some().then_some(Told { code, documents });
        let (status, error) = ending.told();
        let finished = Some(Timestamp::now());
        let how = BuildRecord { finished, status, error, said, ..self.record };
        write(&self.place, &BuildRecord { steps, cached, result, told, ..how })?;
        Ok(self.bytes > 1 << 20)
    }
}

impl Log {
    fn put_off(&mut self, event: Event, bytes: usize) {
        self.tail.push_back(event);
        self.tail_bytes += bytes;
        while self.tail_bytes > TAIL && self.tail.len() > 1 {
            let Some(Event { kind: EventKind::Log { data, .. }, .. }) = self.tail.pop_front() else { break };
            self.tail_bytes -= data.len();
            self.left_out += data.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests;
