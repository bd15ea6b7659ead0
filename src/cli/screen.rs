//! The thread that shows a build's events while the build goes on.

use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use solver::event::{BuildId, Event, EventKind, EventSink, Timestamp, Warning};

use super::args::Progress;
use super::failure::Failure;
use crate::engine::Backlog;
use crate::history::{Held, Recorder};
use crate::progress::{Display, Mode, View, TICK};

/// Whether the user wants colours.
pub(super) fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A running display.
pub(super) struct Screen {
    events: Sender<Event>,
    backlog: Arc<Backlog>,
    /// Held while an event is sent; until when the screen has shown everything.
    order: Arc<Mutex<Timestamp>>,
    thread: JoinHandle<View>,
}

impl Screen {
    /// Starts to show on standard error.
    pub(super) fn start(progress: Progress, quiet: bool) -> Result<Screen, Failure> {
        let mode = match progress {
            _ if quiet => Mode::Quiet,
            Progress::Auto => Mode::Auto,
            Progress::Tty => Mode::Tty,
            Progress::Plain => Mode::Plain,
            Progress::Quiet => Mode::Quiet,
            Progress::Rawjson => Mode::RawJson,
        };
        let mut display = Display::on_stderr(mode, has_colours())?;
        let (events, incoming) = channel::<Event>();
        let backlog = Arc::new(Backlog::default());
        let order = Arc::new(Mutex::new(Timestamp(Duration::ZERO)));
        let (shown, ticks) = (Arc::clone(&backlog), Arc::clone(&order));
        let show = move || {
            loop {
                let mut next = incoming.recv_timeout(TICK);
                if next == Err(RecvTimeoutError::Timeout) {
                    let mut shown_until = ticks.lock().unwrap_or_else(PoisonError::into_inner);
                    next = incoming.try_recv().map_err(|_| RecvTimeoutError::Timeout);
                    if next.is_err() {
                        *shown_until = display.due(Timestamp::now()).unwrap_or(*shown_until);
                    }
                }
                // A closed terminal stops the display, not the build.
                let _ = match next {
                    Ok(event) => {
                        let done = display.event(&event);
                        if let EventKind::Log { data, .. } = &event.kind {
                            shown.remove(data.len());
                        }
                        done
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        let until = *ticks.lock().unwrap_or_else(PoisonError::into_inner);
                        display.pass(until)
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                };
            }
            let _ = display.finish();
            display.into_view()
        };
        let thread = std::thread::Builder::new().name("screen".into()).spawn(show)?;
        Ok(Screen { events, backlog, order, thread })
    }

    /// Where events go: into the recording and onto the screen, in one order, so that the recording shows the same.
    pub(super) fn sink(&self, recorder: Option<&Recorder>) -> EventSink {
        let record = recorder.map(Recorder::sink);
        let (events, backlog, order) = (self.events.clone(), Arc::clone(&self.backlog), Arc::clone(&self.order));
        EventSink::new(move |mut event: Event| {
            // Output waits for both.
            let held: Held = match &event.kind {
                EventKind::Log { data, .. } => {
                    backlog.add(data.len());
                    record.as_ref().map(|_| Box::new(backlog.hold(data.len())) as Box<dyn Send>)
                }
                _ => None,
            };
            let shown_until = order.lock().unwrap_or_else(PoisonError::into_inner);
            event.at = event.at.max(Timestamp(shown_until.0 + Duration::from_nanos(1)));
            if let Some(record) = &record {
                record(event.clone(), held);
            }
            // The thread ends only when all senders are gone.
            let _ = events.send(event);
        })
    }

    /// Shows a warning that no step is to blame for.
    pub(super) fn warn(&self, short: String) {
        // As above.
        let _ = self.events.send(Screen::warning(short));
    }

    /// Something to be told that no build says.
    pub(super) fn warning(short: String) -> Event {
        let warning = Warning { vertex: None, short, detail: Vec::new(), url: String::new(), file: None, range: None };
        Event { build: BuildId(0), at: Timestamp::now(), kind: EventKind::Warning(warning) }
    }

    /// Waits until nobody has anything to tell any more, but no longer than this.
    pub(super) async fn parted(&self, within: Duration) {
        // The screen itself and its thread have one each, and so has every sink.
        let has_sinks = || Arc::strong_count(&self.order) > 2;
        let look_again = Duration::from_millis(5);
        for _ in 0..within.as_millis() / look_again.as_millis() {
            if !has_sinks() {
                return;
            }
            tokio::time::sleep(look_again).await;
        }
    }

    /// How much output waits to be shown.
    pub(super) fn backlog(&self) -> Arc<Backlog> {
        Arc::clone(&self.backlog)
    }

    /// Shows what is left and gives what was shown. All sinks must be gone.
    pub(super) fn finish(self) -> View {
        drop(self.events);
        self.thread.join().unwrap_or_default()
    }
}
