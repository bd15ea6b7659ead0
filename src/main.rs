//! Two doors: `rbuild`, and what it starts itself as inside a sandbox.

fn main() {
    rbuild::sandbox::enter_if_asked();
}
