//! Two doors: `rbuild`, and what it starts itself as inside a sandbox.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before any thread: inside a sandbox this never returns.
    rbuild::sandbox::enter_if_asked();
    rbuild::sandbox::give_back_large_memory();
    rbuild::cli::main()
}
