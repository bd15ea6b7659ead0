//! What people and programs see of a running build.
//!
//! Job: fold the event stream into a view and show it: as a screen, as lines, as JSON, or not at all. Not its job:
//! saying how a build ended; that is `cli`'s. Feeding a recorded stream shows the same as the build did.
//! Start reading at [`Display`].

mod plain;
mod rawjson;
mod text;
mod tty;
mod view;

#[cfg(test)]
mod golden;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::time::Duration;

use solver::event::{Event, Timestamp};

pub use tty::{Measure, Size};
pub use view::{Failure, Part, Step, Tail, View};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A screen on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// Lines.
    Plain,
    /// A screen.
    Tty,
    /// Nothing.
    Quiet,
    /// JSON lines.
    RawJson,
}

/// The word names no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid progress mode {0:?}: want auto, plain, tty, quiet or rawjson")]
pub struct InvalidMode(pub String);

impl FromStr for Mode {
    type Err = InvalidMode;

    fn from_str(word: &str) -> Result<Mode, InvalidMode> {
        match word {
            "auto" | "" => Ok(Mode::Auto),
            "plain" => Ok(Mode::Plain),
            "tty" => Ok(Mode::Tty),
            "quiet" | "none" => Ok(Mode::Quiet),
            "rawjson" => Ok(Mode::RawJson),
            _ => Err(InvalidMode(word.to_owned())),
        }
    }
}

/// Where a display writes.
pub type Output = Box<dyn Write + Send>;

/// Without events, what is shown is looked at this often: time passes on a screen, and lines that were held back come due.
pub const TICK: Duration = Duration::from_millis(150);

/// A view of one build, and one way to show it.
///
/// Its clock is that of the events: it ticks at every [`TICK`] after the last one. So a stream shows the same, whether
/// its events come when they happen or all at once.
pub struct Display {
    view: View,
    screen: Screen,
    clock: Option<Timestamp>,
}

enum Screen {
    Plain(plain::Plain<Output>),
    Tty(tty::Tty<Output>),
    RawJson(rawjson::RawJson<Output>),
    Quiet,
}

impl fmt::Debug for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Display").field("view", &self.view).finish_non_exhaustive()
    }
}

impl Display {
    /// Shows progress on standard error.
    ///
    /// `colours` is the user's word (`NO_COLOR`); only screens have any.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] when a screen is demanded and standard error is no terminal.
    pub fn on_stderr(mode: Mode, colours: bool) -> io::Result<Display> {
        let is_terminal = io::stderr().is_terminal();
        let can_move_the_cursor = std::env::var_os("TERM").is_none_or(|kind| kind != "dumb");
        if mode == Mode::Tty && !is_terminal {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "standard error is no terminal, as --progress=tty needs; use --progress=plain",
            ));
        }
        let out = Box::new(io::stderr());
        Ok(match mode {
            Mode::Auto if is_terminal && can_move_the_cursor => Display::tty(out, Size::of_stderr, colours),
            Mode::Tty => Display::tty(out, Size::of_stderr, colours),
            Mode::Auto | Mode::Plain => Display::plain(out),
            Mode::Quiet => Display::quiet(),
            Mode::RawJson => Display::rawjson(out),
        })
    }

    /// Lines.
    pub fn plain(out: Output) -> Display {
        // Lines are gathered and flushed together when they are due.
        Display::with(Screen::Plain(plain::Plain::new(Box::new(io::BufWriter::new(out)))))
    }

    /// A screen, whose size is asked for each time it is drawn.
    pub fn tty(out: Output, measure: Measure, colours: bool) -> Display {
        Display::with(Screen::Tty(tty::Tty::new(out, measure, colours)))
    }

    /// JSON lines.
    pub fn rawjson(out: Output) -> Display {
        Display::with(Screen::RawJson(rawjson::RawJson::new(out)))
    }

    /// Nothing; the view is kept all the same.
    pub fn quiet() -> Display {
        Display::with(Screen::Quiet)
    }

    fn with(screen: Screen) -> Display {
        Display { view: View::default(), screen, clock: None }
    }

    /// Takes in one event and shows what is due, and before that what was due since the last one.
    ///
    /// # Errors
    /// When writing fails. The view has taken in the event all the same.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let passed = self.pass(event.at);
        self.clock = self.clock.max(Some(event.at));
        let step = self.view.apply(event);
        let shown = match &mut self.screen {
            Screen::Plain(plain) => plain.event(&self.view, step, event),
            Screen::Tty(tty) => tty.show(&self.view, event.at),
            Screen::RawJson(rawjson) => rawjson.event(event),
            Screen::Quiet => Ok(()),
        };
        passed.and(shown)
    }

    /// The last tick before now, if any is due. What comes later and happened earlier is not shown as a recording of it
    /// would be.
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let clock = self.clock?;
        let ticks = now.0.saturating_sub(clock.0).as_nanos().saturating_sub(1) / TICK.as_nanos();
        (ticks > 0).then(|| Timestamp(clock.0 + TICK * u32::try_from(ticks).unwrap_or(u32::MAX)))
    }

    /// Shows what is due by now. To be called about every [`TICK`].
    ///
    /// # Errors
    /// When writing fails.
    pub fn pass(&mut self, now: Timestamp) -> io::Result<()> {
        let Some(until) = self.due(now) else { return Ok(()) };
        let Some(clock) = self.clock.replace(until) else { return Ok(()) };
        match &mut self.screen {
            Screen::Plain(plain) => {
                let mut tick = clock;
                while tick < until {
                    tick = if plain.is_quiet(&self.view) { until } else { Timestamp(tick.0 + TICK) };
                    plain.show(&self.view, tick)?;
                }
                Ok(())
            }
            Screen::Tty(tty) => tty.show(&self.view, until),
            Screen::RawJson(_) | Screen::Quiet => Ok(()),
        }
    }

    /// Shows all that is left.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(&mut self) -> io::Result<()> {
        match &mut self.screen {
            Screen::Plain(plain) => plain.finish(&self.view),
            Screen::Tty(tty) => tty.finish(&self.view, self.clock.unwrap_or(Timestamp(Duration::ZERO))),
            Screen::RawJson(_) | Screen::Quiet => Ok(()),
        }
    }

    /// The build so far: failures, warnings, counts.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The build as it was shown.
    pub fn into_view(self) -> View {
        self.view
    }
}
