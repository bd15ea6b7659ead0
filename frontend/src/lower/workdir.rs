//! WORKDIR: the working directory, made where it is missing.

use solver::graph::op::{ActionInput, FileAction, FileActionKind, FileOp, Op};
use solver::graph::OutputIndex;

use super::build::{At, Build, Inputs};
use super::copy::owner;
use super::stage::StageState;
use crate::diagnostic::Diagnostic;
use crate::expand::Mode;
use crate::ignore::{clean, is_clean};
use crate::source::Spanned;

/// `path` as an absolute, clean path; relative ones begin at `base`.
pub(super) fn joined(base: &str, path: &str) -> String {
    if path.starts_with('/') {
        clean(path)
    } else {
        let path = format!("{}/{path}", base.trim_end_matches('/'));
        // Few have to be written anew.
        if is_clean(&path) && path.starts_with('/') {
            path
        } else {
            clean(&format!("/{path}"))
        }
    }
}

/// Sets the working directory.
pub(super) fn workdir(build: &mut Build, state: &mut StageState, path: &Spanned, at: &At) -> Result<(), Diagnostic> {
    let text = build.text(state, path, at)?;
    if !text.starts_with('/') && !state.has_workdir {
        crate::lint::relative_workdir(at.place(path.span), &text, &mut build.lints);
    }
    state.has_workdir = true;
    let dir = joined(&state.config.config.working_dir, &text);
    // An absolute path is kept in the configuration as it was written.
    let shown = if text.starts_with('/') { text } else { dir.clone() };
    let epoch = build.scene.epoch;
    let created_by = format!("WORKDIR {shown}");
    state.config.config.working_dir = shown;
    state.cwd.clone_from(&dir);
    if dir == "/" {
        state.config.commit(created_by, false, epoch);
        return Ok(());
    }
    let mut inputs = Inputs::default();
    let input = inputs.index(state.output).map_or(ActionInput::Scratch, ActionInput::Input);
    let user = &state.config.config.user;
    let owner = if user.is_empty() { None } else { Some(owner(user, input, path.span)?) };
    let kind = FileActionKind::MkDir {
        path: dir,
        mode: 0o755,
        make_parents: true,
        owner,
        timestamp: epoch.map(|epoch| epoch.saturating_mul(1_000_000_000)),
    };
    let action = FileAction { input, secondary: ActionInput::Scratch, output: Some(OutputIndex(0)), kind };
    let display = state.display(&at.statement.text, Mode::words(build.scene.escape));
    let about = at.about(state.next_name(&display), false);
    state.output = Some(build.add(Op::File(FileOp { actions: vec![action] }), inputs.0, None, about));
    state.config.commit(created_by, true, epoch);
    Ok(())
}
