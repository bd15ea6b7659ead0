//! A process runs, and says how it ended.

use rbuild::sandbox::Exit;

use crate::support::{cannot_run, Root};

#[test]
fn exit_code_and_output_come_back() {
    if cannot_run() {
        return;
    }
    let output = Root::new().run("echo out; echo err >&2; exit 7");
    assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.exit), ("out\n", "err\n", Exit::Code(7)));
}
