//! Work grows with a file's length and not with its square. Only for the fuzzer: it looks at the clock.

use std::fs;

use frontend::{parse, Lowering, Options, Source};

use super::lowered;

/// Repeats the second part of the text, cut at `\0`, behind the first, and looks at the time that it takes.
pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some((head, line)) = text.split_once('\0') else { return };
    if line.is_empty() || line.len() > 200 || head.len() > 200 {
        return;
    }
    let file = |lines: usize| {
        let mut text = head.to_string();
        for n in 0..lines {
            text.push_str(&line.replace('\x01', &n.to_string()));
        }
        text
    };
    let lines = 4096 / line.len().max(8);
    let once = least(&file(lines));
    let many = least(&file(16 * lines));
    // Sixteen times the file should be sixteen times the work.
    let limit = (64 * once).max(300_000_000);
    assert!(many < limit, "{once} ns for {lines} lines, {many} ns for {}: {head:?} {line:?}", 16 * lines);
}

/// Nanoseconds that this thread has worked so far; time that others took does not count.
fn worked() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

fn least(text: &str) -> u64 {
    let once = || {
        let begin = worked();
        let source = Source::new("Dockerfile", text);
        _ = lowered(&mut Lowering::new(&source, parse(&source).0, Options::default()));
        worked() - begin
    };
    // A second look only where the first was slow.
    let first = once();
    if first < 300_000_000 {
        return first;
    }
    (0..3).map(|_| once()).min().unwrap_or(first)
}
