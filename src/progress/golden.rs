//! What each display makes of recorded streams. `UPDATE=1` rewrites the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::tty::{frame, Extent};
use super::*;

const SIZE: Size = Size { width: 72, height: 20 };

/// A writer whose text can be read while it is in use.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn recorded() -> Vec<(PathBuf, Vec<Event>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/events");
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    assert!(paths.len() >= 7, "the recorded streams are gone");
    let events = |path: &Path| -> Vec<Event> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    paths.into_iter().map(|path| (path.clone(), events(&path))).collect()
}

fn agrees(path: &Path, with: &str, got: &str) {
    let golden = path.with_extension(with);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&golden, got).unwrap();
        return;
    }
    let want = fs::read_to_string(&golden).unwrap_or_default();
    if let Some((number, (got, want))) =
        got.lines().chain([""]).zip(want.lines().chain([""])).enumerate().find(|(_, (got, want))| got != want)
    {
        panic!("{} line {}:\n   is {got:?}\n want {want:?}", golden.display(), number + 1);
    }
    assert_eq!(got, want, "{}", golden.display());
}

fn play(display: &mut Display, events: &[Event]) {
    for event in events {
        display.event(event).unwrap();
    }
    display.finish().unwrap();
}

/// Plays a stream as it happened, with looks at a clock between events.
fn play_live(display: &mut Display, events: &[Event], look: Duration) {
    let mut clock = events[0].at.0;
    for event in events {
        while clock + look < event.at.0 {
            clock += look;
            display.pass(Timestamp(clock)).unwrap();
        }
        clock = event.at.0;
        display.event(event).unwrap();
    }
    display.finish().unwrap();
}

#[test]
fn lines_are_as_recorded() {
    for (path, events) in recorded() {
        let out = Shared::default();
        play(&mut Display::plain(Box::new(out.clone())), &events);
        agrees(&path, "plain.txt", &out.text());
    }
}

#[test]
fn how_often_the_clock_is_looked_at_changes_no_line() {
    for (path, events) in recorded() {
        for millis in [7, 150, 151, 400, 60_000] {
            let out = Shared::default();
            play_live(&mut Display::plain(Box::new(out.clone())), &events, Duration::from_millis(millis));
            agrees(&path, "plain.txt", &out.text());
        }
    }
}

#[test]
fn a_clock_that_leaps_stops_nothing() {
    let out = Shared::default();
    let mut display = Display::plain(Box::new(out.clone()));
    for (_, mut events) in recorded() {
        events.iter_mut().for_each(|event| event.at.0 *= 3);
        let end = Timestamp(Duration::MAX);
        events.push(Event { at: end, ..events[events.len() - 1].clone() });
        play(&mut display, &events);
    }
}

#[test]
fn json_is_as_recorded() {
    for (path, events) in recorded() {
        let out = Shared::default();
        play(&mut Display::rawjson(Box::new(out.clone())), &events);
        for line in out.text().lines() {
            assert!(serde_json::from_str::<serde_json::Value>(line).unwrap().is_object());
        }
        agrees(&path, "rawjson.txt", &out.text());
    }
}

#[test]
fn screens_are_as_recorded() {
    for (path, events) in recorded() {
        let mut display = Display::quiet();
        let (mut text, mut next) = (String::new(), events[0].at.0);
        let mut photograph = |view: &View, at: Timestamp, extent| {
            let seconds = (at.0 - events[0].at.0).as_secs_f64();
            text.push_str(&format!("--- {seconds:.1}s\n"));
            let rows = frame(view, at, SIZE, extent);
            assert!(extent == Extent::All || rows.len() < SIZE.height, "{} rows at {seconds}s", rows.len());
            for row in rows {
                assert!(text::columns(&row.text) < SIZE.width, "{row:?} is too wide");
                assert!(!row.text.contains(|c: char| c.is_control()), "{row:?} holds controls");
                text.push_str(row.text.trim_end());
                text.push('\n');
            }
        };
        for event in &events {
            display.event(event).unwrap();
            if event.at.0 >= next {
                photograph(display.view(), event.at, Extent::Screen);
                // A look a second, then less and less often.
                let elapsed = event.at.0 - events[0].at.0;
                next = event.at.0 + Duration::from_secs(1).max(elapsed / 2);
            }
        }
        photograph(display.view(), display.clock.unwrap(), Extent::All);
        agrees(&path, "tty.txt", &text);
    }
}

/// A terminal that knows what a screen needs: rows, a cursor that goes up, and erasing.
#[derive(Default)]
struct Terminal {
    rows: Vec<String>,
    row: usize,
}

impl Terminal {
    fn cells(&mut self) -> &mut String {
        self.rows.resize(self.rows.len().max(self.row + 1), String::new());
        &mut self.rows[self.row]
    }

    fn feed(&mut self, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(sequence) = rest.strip_prefix("\x1b[") {
                let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                match (&sequence[..end], &sequence[end..=end]) {
                    (count, "A") => self.row = self.row.checked_sub(count.parse().unwrap()).expect("above the top"),
                    ("2", "K") => self.cells().clear(),
                    ("", "J") => self.rows.truncate(self.row),
                    ("?25", "l" | "h") => {}
                    other => panic!("unknown sequence {other:?}"),
                }
                rest = &sequence[end + 1..];
                continue;
            }
            match c {
                '\n' => self.row += 1,
                '\r' => {}
                c => self.cells().push(c),
            }
            rest = &rest[c.len_utf8()..];
        }
    }
}

#[test]
fn a_screen_is_drawn_over_itself() {
    for (path, events) in recorded() {
        let out = Shared::default();
        let mut display = Display::tty(Box::new(out.clone()), || SIZE, false);
        play(&mut display, &events);
        let mut terminal = Terminal::default();
        terminal.feed(&out.text());
        let want = frame(display.view(), display.clock.unwrap(), SIZE, Extent::All);
        let want: Vec<&str> = want.iter().map(|row| row.text.as_str()).collect();
        assert_eq!(terminal.rows, want, "{}", path.display());
    }
}

#[test]
fn lines_hold_the_whole_log_however_it_is_cut() {
    let (_, events) = recorded().into_iter().find(|(path, _)| path.ends_with("cold.jsonl")).unwrap();
    let whole = Shared::default();
    play(&mut Display::plain(Box::new(whole.clone())), &events);
    let mut cut = Vec::new();
    for event in &events {
        match &event.kind {
            solver::event::EventKind::Log { vertex, stream, data } => {
                cut.extend(data.iter().map(|byte| {
                    let kind = solver::event::EventKind::Log { vertex: *vertex, stream: *stream, data: vec![*byte] };
                    Event { kind, ..event.clone() }
                }));
            }
            _ => cut.push(event.clone()),
        }
    }
    let pieces = Shared::default();
    play(&mut Display::plain(Box::new(pieces.clone())), &cut);
    assert_eq!(pieces.text(), whole.text());
}

#[test]
fn a_line_without_an_end_is_broken_not_hoarded() {
    let (_, events) = recorded().into_iter().find(|(path, _)| path.ends_with("failure.jsonl")).unwrap();
    let log = events.iter().position(|event| matches!(event.kind, solver::event::EventKind::Log { .. })).unwrap();
    let solver::event::EventKind::Log { vertex, stream, .. } = events[log].kind else { unreachable!() };
    let endless =
        Event { kind: solver::event::EventKind::Log { vertex, stream, data: vec![b'x'; 1000] }, ..events[log].clone() };
    let out = Shared::default();
    let mut display = Display::plain(Box::new(out.clone()));
    play(&mut display, &[&events[..log], &vec![endless; 500]].concat());
    let text = out.text();
    assert_eq!(text.matches('x').count(), 500_000 + events_with_an_x(&events[..log]));
    assert!(text.lines().all(|line| line.len() < 70_000));
    let kept: usize = display.view().steps().iter().flat_map(|step| step.tail.lines()).map(str::len).sum();
    assert!(kept < 10_000, "{kept} bytes are kept");
}

/// Names and reasons that hold the letter counted above.
fn events_with_an_x(events: &[Event]) -> usize {
    let out = Shared::default();
    play(&mut Display::plain(Box::new(out.clone())), events);
    out.text().matches('x').count()
}

#[test]
fn failures_come_with_their_logs() {
    let (_, events) = recorded().into_iter().find(|(path, _)| path.ends_with("failure.jsonl")).unwrap();
    let mut display = Display::quiet();
    play(&mut display, &events);
    let failures = display.view().failures();
    assert_eq!(failures.len(), 1, "the cancelled step is none");
    assert_eq!(failures[0].name, "[2/3] RUN make test");
    let log = &failures[0].log;
    assert_eq!((log.len(), log[99].as_str()), (100, "1.660 make: *** [Makefile:3: test] Error 1"));
    assert_eq!(display.view().outcome(), Some(Err(failures[0].error.as_str())));
}

#[test]
fn modes_are_read() {
    for (word, mode) in [("", Mode::Auto), ("plain", Mode::Plain), ("none", Mode::Quiet), ("rawjson", Mode::RawJson)] {
        assert_eq!(word.parse(), Ok(mode));
    }
    let error = "fancy".parse::<Mode>().unwrap_err().to_string();
    assert_eq!(error, "invalid progress mode \"fancy\": want auto, plain, tty, quiet or rawjson");
}
