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
    About { id: id.into(), name: "app".into(), request: [("target".to_string(), "t".to_string())].into(), asked: None }
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
    let recorder = Recorder::begin(&history, Limits::default(), about("one")).unwrap();
    let sink = recorder.sink();
    told.iter().cloned().for_each(|event| sink(event, None));
    let result = [("image".to_string(), "i".to_string())].into();
    recorder.finish(Finished { result, ..Ending::Completed.into() }).unwrap();
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
        said: None,
        steps: 0,
        cached: 0,
        pinned: false,
        request: BTreeMap::new(),
        changes: 0,
        asked: None,
        told: None,
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
    let recorder = Recorder::begin(&history, limits, about("long")).unwrap();
    let (sink, vertex) = (recorder.sink(), VertexId::of(b"v"));
    (0..30).for_each(|n| sink(log(vertex, format!("{n:09}\n").repeat(10_000).as_bytes()), None));
    sink(event(3, EventKind::VertexDone { vertex, error: None, cancelled: false }), None);
    recorder.finish(Ending::Failed("it broke".into()).into()).unwrap();
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
        let recorder = Recorder::begin(&history, limits, about(id)).unwrap();
        recorder.finish(Ending::Completed.into()).unwrap();
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
    let recorder = Recorder::begin(&history, Limits::default(), about("x")).unwrap();
    recorder.sink()(log(VertexId::of(b"v"), b"x"), None);
    assert!(recorder.finish(Ending::Completed.into()).is_err());
}

#[test]
fn what_is_held_for_an_event_is_let_go_whether_it_is_recorded_or_not() {
    struct Counted(std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let waiting = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::begin(&History::at(dir.path()), Limits::default(), about("held")).unwrap();
    let sink = recorder.sink();
    let send = || {
        waiting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        sink(log(VertexId::of(b"v"), b"x"), Some(Box::new(Counted(waiting.clone()))));
    };
    (0..5).for_each(|_| send());
    recorder.finish(Ending::Completed.into()).unwrap();
    send();
    assert_eq!(waiting.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn what_a_client_asked_for_and_was_told_is_kept_with_the_build() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::at(dir.path());
    let asked = Asked { reference: "a ref/with signs".into(), ..Asked::default() };
    let about = About { id: "a ref/with signs".into(), asked: Some(asked), ..About::default() };
    let recorder = Recorder::begin(&history, Limits::default(), about).unwrap();
    let document = Document {
        hex: "ab".into(),
        size: 4,
        media_type: "text/plain".into(),
        annotations: BTreeMap::new(),
        about: crate::history::Subject::Error,
    };
    let documents = vec![(document.clone(), b"text".to_vec())];
    let finished = Finished { code: 2, documents, ..Ending::Failed("no".into()).into() };
    recorder.finish(finished).unwrap();
    let record = history.called("a ref/with signs").unwrap().unwrap();
    assert!(record::is_id(&record.id));
    assert_eq!(record.told.as_ref().map(|told| (told.code, &told.documents[..])), Some((2, &[document.clone()][..])));
    assert_eq!(history.document(&record.id, &document).unwrap(), b"text");
    let elsewhere = Document { hex: "../../x".into(), ..document };
    assert!(history.document(&record.id, &elsewhere).is_err());
}

#[test]
fn a_record_of_before_there_were_clients_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("old");
    fs::create_dir(&place).unwrap();
    let text = r#"{"version":1,"id":"old","name":"n","started":{"secs":1,"nanos":0},"finished":{"secs":2,"nanos":0},
        "status":"completed","error":null,"steps":1,"cached":0}"#;
    fs::write(place.join("build.json"), text).unwrap();
    let record = History::at(dir.path()).get("old").unwrap();
    assert_eq!((record.reference(), record.changes, &record.asked), ("old", 0, &None));
}
