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

/// A view of one build, and one way to show it.
pub struct Display {
    view: View,
    screen: Screen,
    last: Timestamp,
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
        Display { view: View::default(), screen, last: Timestamp(std::time::Duration::ZERO) }
    }

    /// Takes in one event and shows what is due.
    ///
    /// # Errors
    /// When writing fails. The view has taken in the event all the same.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let step = self.view.apply(event);
        self.last = self.last.max(event.at);
        match &mut self.screen {
            Screen::Plain(plain) => plain.event(&self.view, step, event),
            Screen::Tty(tty) => tty.show(&self.view, event.at),
            Screen::RawJson(rawjson) => rawjson.event(event),
            Screen::Quiet => Ok(()),
        }
    }

    /// Shows what is due by now. To be called about every 150 ms: without events too, time passes on a screen, and
    /// lines that were held back come due.
    ///
    /// # Errors
    /// When writing fails.
    pub fn tick(&mut self, now: Timestamp) -> io::Result<()> {
        self.last = self.last.max(now);
        match &mut self.screen {
            Screen::Plain(plain) => plain.show(&self.view, now),
            Screen::Tty(tty) => tty.show(&self.view, now),
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
            Screen::Tty(tty) => tty.finish(&self.view, self.last),
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
