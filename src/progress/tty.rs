//! Progress as a screen that is drawn over and over.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use solver::event::Timestamp;

use super::text::{columns, cut};
use super::view::{Step, View};

/// The screen is not drawn more often than this.
const INTERVAL: Duration = Duration::from_millis(100);
/// Log lines shown below a running step.
const TAIL: usize = 6;
/// Columns kept free beside log lines.
const PADDING: usize = 10;

/// How large the screen is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Size {
    /// What is assumed where nothing is known.
    pub const UNKNOWN: Size = Size { width: 80, height: 10 };

    /// The size of the terminal that is standard error.
    pub fn of_stderr() -> Size {
        Size::of(rustix::stdio::stderr())
    }

    /// The size of the terminal that is standard output.
    pub fn of_stdout() -> Size {
        Size::of(rustix::stdio::stdout())
    }

    fn of(terminal: BorrowedFd<'_>) -> Size {
        match rustix::termios::tcgetwinsize(terminal) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Size { width: size.ws_col.into(), height: size.ws_row.into() }
            }
            _ => Size::UNKNOWN,
        }
    }
}

/// Where a screen learns its size from, each time it is drawn.
pub type Measure = fn() -> Size;

/// Draws the screen.
#[derive(Debug)]
pub(super) struct Tty<W> {
    out: W,
    measure: Measure,
    colours: bool,
    rows: usize,
    drawn: Option<Timestamp>,
}

impl<W: Write> Tty<W> {
    pub(super) fn new(out: W, measure: Measure, colours: bool) -> Tty<W> {
        Tty { out, measure, colours, rows: 0, drawn: None }
    }

    /// Draws, unless it was drawn a moment ago.
    pub(super) fn show(&mut self, view: &View, now: Timestamp) -> io::Result<()> {
        if self.drawn.is_some_and(|drawn| now.0 < drawn.0 + INTERVAL) {
            return Ok(());
        }
        self.draw(view, now, Extent::Screen)
    }

    /// Draws all steps, for those who scroll back.
    pub(super) fn finish(&mut self, view: &View, now: Timestamp) -> io::Result<()> {
        self.draw(view, now, Extent::All)
    }

    fn draw(&mut self, view: &View, now: Timestamp, extent: Extent) -> io::Result<()> {
        self.drawn = Some(now);
        let rows = frame(view, now, (self.measure)(), extent);
        // One write for the whole frame, without a cursor: nothing flickers.
        let mut bytes = String::from("\x1b[?25l");
        if self.rows > 0 {
            bytes.push_str(&format!("\x1b[{}A", self.rows));
        }
        for row in &rows {
            bytes.push_str("\r\x1b[2K");
            bytes.push_str(&self.painted(row));
            bytes.push('\n');
        }
        // What is left of a longer frame.
        bytes.push_str("\x1b[J\x1b[?25h");
        self.rows = rows.len();
        self.out.write_all(bytes.as_bytes())?;
        self.out.flush()
    }

    fn painted(&self, row: &Row) -> String {
        let code = match row.look {
            Look::Plain => None,
            Look::Ended => Some("34"),
            Look::Warning => Some("33"),
            Look::Failed => Some("31"),
            Look::Faint => Some("2"),
        };
        match code.filter(|_| self.colours) {
            Some(code) => format!("\x1b[{code}m{}\x1b[0m", row.text),
            None => row.text.clone(),
        }
    }
}

/// How much is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What fits on the screen.
    Screen,
    /// Everything.
    All,
}

/// One row of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) text: String,
    look: Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Plain,
    Ended,
    Warning,
    Failed,
    Faint,
}

/// A row in the making: still to be cut to the width of the screen.
struct Line<'a> {
    text: String,
    amount: String,
    elapsed: Duration,
    is_running: bool,
    look: Look,
    /// The step whose log may be shown below.
    step: Option<&'a Step>,
}

/// What the screen shows at a time.
pub(super) fn frame(view: &View, now: Timestamp, size: Size, extent: Extent) -> Vec<Row> {
    // The last column stays free: terminals disagree about what a newline does after it was filled.
    let width = size.width.saturating_sub(1).max(1);
    let mut lines: Vec<Line> = view.steps().iter().flat_map(|step| lines_of(step, now)).collect();
    let tails = tails(&lines, size.height);
    if extent == Extent::Screen {
        let below: usize = tails.iter().map(|step| step.tail.lines().count().min(TAIL)).sum();
        lines = fitting(lines, size.height.saturating_sub(2 + below));
    }

    let mut rows = vec![header(view, now, width, extent)];
    for line in lines {
        let Some(row) = row_of(&line, width) else { continue };
        rows.push(row);
        let Some(step) = line.step.filter(|step| tails.iter().any(|shown| shown.number == step.number)) else {
            continue;
        };
        let log: Vec<&str> = step.tail.lines().collect();
        for text in &log[log.len().saturating_sub(TAIL)..] {
            // The time before each line belongs to the plain layout.
            let text = text.split_once(' ').map_or(*text, |(_, rest)| rest);
            if !text.trim().is_empty() {
                let text = format!(" => => # {}", cut(text, width.saturating_sub(PADDING)));
                rows.push(Row { text, look: Look::Faint });
            }
        }
    }
    rows
}

fn header(view: &View, now: Timestamp, width: usize, extent: Extent) -> Row {
    let (ended, all) = view.count();
    let elapsed = view.began().map_or(Duration::ZERO, |began| now.0.saturating_sub(began.0));
    let mut text = format!("[+] Building {:.1}s ({ended}/{all})", elapsed.as_secs_f64());
    if extent == Extent::All && ended > 0 && ended == all {
        text.push_str(" FINISHED");
    }
    Row { text: cut(&text, width).to_owned(), look: Look::Plain }
}

fn lines_of(step: &Step, now: Timestamp) -> Vec<Line<'_>> {
    let (word, look) = match (&step.error, step.completed) {
        _ if step.is_cancelled() => ("CANCELED ", Look::Warning),
        (Some(_), _) => ("ERROR ", Look::Failed),
        _ if step.cached => ("CACHED ", Look::Ended),
        (None, Some(_)) => ("", Look::Ended),
        (None, None) => ("", Look::Plain),
    };
    let elapsed = step.elapsed(now);
    let is_running = step.completed.is_none();
    let mut lines = vec![Line {
        text: format!("{word}{}", step.name),
        amount: String::new(),
        elapsed,
        is_running,
        look,
        step: Some(step),
    }];
    let remark = |text: String, look| Line { text, amount: String::new(), elapsed, is_running, look, step: None };
    if let Some((first, others)) = step.reasons.split_first() {
        let more = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
        lines.push(remark(format!("=> MISS {first}{more}"), Look::Faint));
    }
    lines.extend(step.parts.iter().map(|part| Line {
        text: format!("=> {}", part.id),
        amount: part.amount(),
        elapsed: if part.done { part.updated } else { step.completed.unwrap_or(now) }.0.saturating_sub(part.started.0),
        is_running: !part.done && is_running,
        look: if part.done { Look::Ended } else { Look::Plain },
        step: None,
    }));
    lines.extend(step.warnings.iter().map(|short| remark(format!("WARN: {short}"), Look::Warning)));
    lines
}

/// Name on the left, time on the right, and the amount between them where there is room for it.
fn row_of(line: &Line, width: usize) -> Option<Row> {
    const PREFIX: &str = " => ";
    let seconds = line.elapsed.as_secs_f64();
    let timer = format!(" {:.1}s", if seconds < 0.05 { 0.0 } else { seconds });
    let mut room = width.saturating_sub(PREFIX.len() + timer.len());
    let mut amount = String::new();
    if !line.amount.is_empty() && room > 20 + line.amount.len() {
        amount = format!(" {}", line.amount);
        room -= amount.len();
    }
    if room < 12 {
        return None;
    }
    let name = cut(&line.text, room);
    let gap = " ".repeat(room - columns(name));
    Some(Row { text: format!("{PREFIX}{name}{amount}{gap}{timer}"), look: line.look })
}

/// The running steps whose logs are shown: the busiest ones, as far as there is room.
fn tails<'a>(lines: &[Line<'a>], height: usize) -> Vec<&'a Step> {
    let running = lines.iter().filter(|line| line.is_running).count();
    let mut steps: Vec<&Step> =
        lines.iter().filter(|line| line.is_running).filter_map(|line| line.step).filter(|s| s.tail.bytes > 0).collect();
    steps.sort_by_key(|step| std::cmp::Reverse(step.tail.bytes));
    let room = height.saturating_sub(2 + running);
    // Three rows more than the log itself, so that ended steps stay in sight.
    steps.truncate(room.saturating_sub(1) / (TAIL + 3));
    steps
}

/// As many lines as fit: what runs, and of what has ended the latest, steps rather than their details.
fn fitting(mut lines: Vec<Line<'_>>, most: usize) -> Vec<Line<'_>> {
    let may_go: [fn(&Line) -> bool; 3] =
        [|line| !line.is_running && line.step.is_none(), |line| !line.is_running, |_| true];
    for may_go in may_go {
        let mut surplus = lines.len().saturating_sub(most);
        lines.retain(|line| {
            let goes = surplus > 0 && may_go(line);
            surplus -= usize::from(goes);
            !goes
        });
    }
    lines
}
