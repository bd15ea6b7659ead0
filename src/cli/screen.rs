//! The thread that shows a build's events while the build goes on.

use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use solver::event::{BuildId, Event, EventKind, Timestamp, Warning};

use super::args::Progress;
use super::failure::Failure;
use crate::engine::Backlog;
use crate::progress::{Display, Mode, View};

/// How often a screen is drawn anew without events.
pub(super) const TICK: Duration = Duration::from_millis(150);

/// A running display.
pub(super) struct Screen {
    events: Sender<Event>,
    backlog: Arc<Backlog>,
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
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut display = Display::on_stderr(mode, colours)?;
        let (events, incoming) = channel::<Event>();
        let backlog = Arc::new(Backlog::default());
        let shown = Arc::clone(&backlog);
        let show = move || {
            loop {
                // A closed terminal stops the display, not the build.
                let _ = match incoming.recv_timeout(TICK) {
                    Ok(event) => {
                        let done = display.event(&event);
                        if let EventKind::Log { data, .. } = &event.kind {
                            shown.remove(data.len());
                        }
                        done
                    }
                    Err(RecvTimeoutError::Timeout) => display.tick(Timestamp::now()),
                    Err(RecvTimeoutError::Disconnected) => break,
                };
            }
            let _ = display.finish();
            display.into_view()
        };
        let thread = std::thread::Builder::new().name("screen".into()).spawn(show)?;
        Ok(Screen { events, backlog, thread })
    }

    /// Where events go.
    pub(super) fn sink(&self) -> impl Fn(Event) + Send + Sync + Clone + 'static {
        let (events, backlog) = (self.events.clone(), Arc::clone(&self.backlog));
        move |event: Event| {
            if let EventKind::Log { data, .. } = &event.kind {
                backlog.add(data.len());
            }
            // The thread ends only when all senders are gone.
            let _ = events.send(event);
        }
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
