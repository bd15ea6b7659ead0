use solver::event::{BuildId, Timestamp};

use super::*;
use crate::history::{events, Step};

fn event(at: u64, kind: EventKind) -> Event {
    Event { build: BuildId(1), at: Timestamp(Duration::from_millis(at)), kind }
}

fn log(vertex: VertexId, data: &[u8]) -> Event {
    event(2, EventKind::Log { vertex, stream: 1, data: data.to_vec() })
}

fn about(id: &str) -> About {
    About { id: id.into(), name: "app".into(), request: [("target".to_string(), "t".to_string())].into() }
}

#[test]
fn what_was_recorded_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::at(dir.path());
    let vertex = VertexId::of(b"v");
    let told = vec![
        event(0, EventKind::BuildStarted { version: 1 }),
        event(1, EventKind::VertexAdded { vertex, name: "[2/2] RUN x".into(), inputs: vec![], group: None }),
        event(1, EventKind::VertexStarted { vertex }),
        event(1, EventKind::VertexMissed { vertex, reasons: vec!["a changed".into()] }),
        log(vertex, b"\xff\n"),
        event(3, EventKind::VertexDone { vertex, error: None, cancelled: false }),
        event(3, EventKind::BuildFinished { error: None }),
    ];
    let recorder = Recorder::begin(&history, Limits::default(), about("one"), |_| {}).unwrap();
    let sink = recorder.sink();
    told.iter().cloned().for_each(&sink);
    recorder.finish(Ending::Completed, [("image".to_string(), "i".to_string())].into()).unwrap();
    let read: Vec<Event> = events(&history, "one").unwrap().collect();
    assert_eq!(read, told);
    let build = history.find(None).unwrap().unwrap();
    assert_eq!((&*build.id, build.status, build.steps, build.cached), ("one", Status::Completed, 1, 0));
    assert_eq!((build.request["target"].as_str(), build.result["image"].as_str()), ("t", "i"));
    let steps: Vec<Step> = crate::history::steps(read.iter());
    assert_eq!((&*steps[0].name, steps[0].missed.as_deref()), ("[2/2] RUN x", Some(&["a changed".to_string()][..])));
}

#[test]
fn a_killed_build_is_told_from_one_that_runs_and_keeps_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::at(dir.path());
    let record = BuildRecord {
        version: record::VERSION,
        id: "a".into(),
        name: String::new(),
        started: Timestamp::now(),
        finished: None,
        status: Status::Running,
        error: None,
        steps: 0,
        cached: 0,
        pinned: false,
        request: BTreeMap::new(),
        result: BTreeMap::new(),
    };
    let mut writing = Writing::begin(&history, record, 1 << 20).unwrap();
    writing.event(&event(0, EventKind::BuildStarted { version: 1 })).unwrap();
    writing.flush().unwrap();
    assert_eq!(history.get("a").unwrap().status, Status::Running);
    assert!(history.remove("a").is_err(), "a build that runs stays");
    writing.file.write_all(b"a frame cut short").unwrap();
    drop(writing);
    assert_eq!(history.get("a").unwrap().status, Status::Killed);
    assert_eq!(events(&history, "a").unwrap().count(), 1);
    history.remove("a").unwrap();
    assert_eq!(history.list().unwrap(), []);
}

#[test]
fn of_long_output_the_begin_and_the_end_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::at(dir.path());
    let limits = Limits { log: 200, ..Limits::default() };
    let recorder = Recorder::begin(&history, limits, about("long"), |_| {}).unwrap();
    let (sink, vertex) = (recorder.sink(), VertexId::of(b"v"));
    (0..30).for_each(|n| sink(log(vertex, format!("{n:09}\n").repeat(10_000).as_bytes())));
    sink(event(3, EventKind::VertexDone { vertex, error: None, cancelled: false }));
    recorder.finish(Ending::Failed("it broke".into()), BTreeMap::new()).unwrap();
    let text: Vec<String> = events(&history, "long")
        .unwrap()
        .filter_map(|event| match event.kind {
            EventKind::Log { data, .. } => Some(String::from_utf8(data).unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(text[0], "[2000000 bytes of output are not kept]\n");
    assert!(text.len() == 11 && text[10].starts_with("000000029\n"), "{}", text.len());
    assert_eq!(history.get("long").unwrap().error.as_deref(), Some("it broke"));
}

#[test]
fn the_oldest_builds_go_and_pinned_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::at(dir.path());
    let limits = Limits { builds: 2, ..Limits::default() };
    for id in ["a", "b", "c", "d"] {
        let recorder = Recorder::begin(&history, limits, about(id), |_| {}).unwrap();
        recorder.finish(Ending::Completed, BTreeMap::new()).unwrap();
        if id == "a" {
            history.pin("a", true).unwrap();
        }
    }
    let mut left: Vec<String> = history.list().unwrap().into_iter().map(|build| build.id).collect();
    left.sort();
    assert_eq!(left, ["a", "c", "d"]);
    assert_eq!(history.find(Some("^1")).unwrap().unwrap().id, "c");
    assert_eq!(history.get("../a"), None, "a name is no path");
}

#[test]
fn a_disk_that_cannot_be_written_does_not_hold_up_the_build() {
    let history = History::at("/proc/nowhere");
    let recorder = Recorder::begin(&history, Limits::default(), about("x"), |_| {}).unwrap();
    recorder.sink()(log(VertexId::of(b"v"), b"x"));
    assert!(recorder.finish(Ending::Completed, BTreeMap::new()).is_err());
}
