//! What a build says of itself: steps that are no vertices of its graph, and warnings.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use frontend::diagnostic::Diagnostic;
use frontend::Source;
use solver::event::{BuildId, EventKind, EventSink, Warning};
use solver::graph::{Graph, Position, Range, Vertex, VertexId};

/// Where a build's own events go.
pub struct Notes {
    build: BuildId,
    events: EventSink,
    count: AtomicU64,
}

impl Notes {
    pub(crate) fn new(build: BuildId, events: EventSink) -> Notes {
        Notes { build, events, count: AtomicU64::new(0) }
    }

    /// Where the solver's events of this build go.
    pub(crate) fn sink(&self) -> EventSink {
        self.events.clone()
    }

    pub(crate) fn emit(&self, kind: EventKind) {
        self.events.send(self.build, kind);
    }

    /// Begins a step that a person sees under this name.
    pub(crate) fn begin(&self, name: &str) -> Note<'_> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let vertex = VertexId::of(format!("{} {number} {name}", self.build.0).as_bytes());
        self.emit(EventKind::VertexAdded { vertex, name: name.to_string(), inputs: Vec::new(), group: None });
        self.emit(EventKind::VertexStarted { vertex });
        Note { notes: self, vertex, ended: false }
    }

    /// Begins what is done about a vertex of a graph before the graph is solved.
    pub(crate) fn begin_vertex(&self, graph: &Graph, vertex: &Vertex) -> Note<'_> {
        let (name, id) = (solver::name(graph, vertex), vertex.id);
        let inputs = vertex.inputs.iter().map(|input| input.from.vertex).collect();
        let group = vertex.hints.progress_group.clone();
        self.emit(EventKind::VertexAdded { vertex: id, name, inputs, group });
        self.emit(EventKind::VertexStarted { vertex: id });
        Note { notes: self, vertex: id, ended: false }
    }

    /// Says something that no step is to blame for.
    pub(crate) fn caution(&self, short: String) {
        let (detail, url, file, range) = Default::default();
        self.emit(EventKind::Warning(Warning { vertex: None, short, detail, url, file, range }));
    }

    /// Warns of what was damaged in the store, and lies in `quarantine` now.
    pub(crate) fn damage(&self, damage: &[String], quarantine: &Path) {
        warnings_of(damage, quarantine).into_iter().for_each(|line| self.caution(line));
    }

    /// Tells the user something.
    pub fn warn(&self, warning: Warning) {
        self.emit(EventKind::Warning(warning));
    }

    /// Says something of a vertex.
    pub(crate) fn remark(&self, vertex: VertexId, short: String) {
        let (detail, url, file, range) = Default::default();
        self.warn(Warning { vertex: Some(vertex), short, detail, url, file, range });
    }

    /// Passes on what is doubtful in a Dockerfile.
    pub(crate) fn lint(&self, source: &Source, lint: &Diagnostic) {
        let span = lint.place();
        let at = |offset: usize| Position {
            line: source.line_of(offset) as i32,
            character: source.column_of(offset) as i32,
        };
        self.emit(EventKind::Warning(Warning {
            vertex: None,
            short: format!("{}: {} (line {})", lint.code, lint.message, lint.line(source)),
            detail: lint.help.iter().cloned().collect(),
            url: frontend::rule(lint.code).map(|rule| rule.url.to_string()).unwrap_or_default(),
            file: Some(source.name().to_string()),
            range: Some(Range { start: at(span.start), end: at(span.end) }),
        }));
    }
}

/// So many damaged things are told one by one.
const MOST_DAMAGE: usize = 3;

/// What is said of things that were damaged, and lie in `quarantine` now.
fn warnings_of(damage: &[String], quarantine: &Path) -> Vec<String> {
    let told = damage.iter().take(MOST_DAMAGE);
    let mut lines: Vec<_> =
        told.map(|line| format!("the store was damaged, and what was lost is made again: {line}")).collect();
    if let Some(more @ 1..) = damage.len().checked_sub(MOST_DAMAGE) {
        lines.push(format!("and {more} more damaged things, which now lie in {}", quarantine.display()));
    }
    lines
}

/// A step that is no vertex of the graph. Dropped without an end, it was cancelled.
pub(crate) struct Note<'n> {
    notes: &'n Notes,
    vertex: VertexId,
    ended: bool,
}

impl Note<'_> {
    /// A part of it that is done at once or was.
    pub(crate) fn part(&self, id: &str) {
        self.bytes(id, 0, 0, true);
    }

    /// A part of it that is under way.
    pub(crate) fn bytes(&self, id: &str, current: u64, total: u64, done: bool) {
        let (current, total) = (current as i64, total as i64);
        self.notes.emit(EventKind::Progress { vertex: self.vertex, id: id.to_string(), current, total, done });
    }

    /// Something of it wrote: 1 is standard output, 2 standard error.
    pub(crate) fn log(&self, stream: u8, data: &[u8]) {
        self.notes.emit(EventKind::Log { vertex: self.vertex, stream, data: data.to_vec() });
    }

    /// It ended as `result` says.
    pub(crate) fn end_with<T, E: std::error::Error>(mut self, result: Result<T, E>) -> Result<T, E> {
        self.end(result.as_ref().err().map(|e| super::error::chain(e)), false);
        result
    }

    fn end(&mut self, error: Option<String>, cancelled: bool) {
        self.ended = true;
        self.notes.emit(EventKind::VertexDone { vertex: self.vertex, error, cancelled });
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(None, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_damage_is_told_in_a_few_lines() {
        let damage: Vec<_> = (0..80).map(|number| format!("blobs/{number}: it is empty")).collect();
        let told = |count: usize| warnings_of(&damage[..count], Path::new("/store/quarantine"));
        assert_eq!((told(0).len(), told(1).len(), told(3).len(), told(4).len()), (0, 1, 3, 4));
        let said = told(80);
        assert_eq!(said.len(), 4);
        assert_eq!(said[0], "the store was damaged, and what was lost is made again: blobs/0: it is empty");
        assert_eq!(said[3], "and 77 more damaged things, which now lie in /store/quarantine");
    }
}
