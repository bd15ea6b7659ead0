//! COPY and ADD: files from the context, a stage, an image, or a here-document.

use solver::graph::op::{ActionInput, ChownOpt, FileAction, FileActionKind, FileCopy, FileOp, MergeOp, Op, UserOpt};
use solver::graph::{OutputIndex, OutputRef, ProgressGroup};

use super::build::{About, At, Build, Inputs};
use super::inline;
use super::remote::Remote;
use super::stage::StageState;
use super::workdir::joined;
use crate::ast::Copy;
use crate::diagnostic::Diagnostic;
use crate::expand::Mode;
use crate::ignore::clean;
use crate::lint;
use crate::source::{Span, Spanned};

/// Copies files.
pub(super) fn copy(
    build: &mut Build,
    state: &mut StageState,
    copy: &Copy,
    is_add: bool,
    at: &At,
) -> Result<(), Diagnostic> {
    let sources = build.texts(state, &copy.sources, at)?;
    let mut remotes = Vec::new();
    for (source, word) in sources.iter().zip(&copy.sources) {
        let remote = Remote::of(source, word.span)?;
        if let Some(remote) = remote.as_ref().filter(|_| !is_add) {
            let message = format!("source can't be {} for COPY", remote.kind());
            return Err(Diagnostic::error("remote-copy", word.span, message).with_help("use ADD"));
        }
        remotes.push(remote);
    }
    let dest = build.text(state, &copy.dest, at)?;
    let expand_flag = |build: &mut Build, flag: &Option<Box<Spanned>>| match flag {
        Some(flag) => build.text(state, flag, at),
        None => Ok(String::new()),
    };
    let chown = expand_flag(build, &copy.chown)?;
    let chmod = expand_flag(build, &copy.chmod)?;
    let checksum = expand_flag(build, &copy.checksum)?;
    check_checksum(copy, &checksum, &remotes)?;
    let display = state.display(&at.statement.text, Mode::words(build.scene.escape));
    let name = state.next_name(&display);
    let mut about = at.about(name.clone(), state.ignore_cache);

    // On a stage that is empty there is nothing to stack the copy on.
    let links = copy.link && chmod.is_empty() && state.output.is_some();
    let base = if copy.link && chmod.is_empty() { None } else { state.output };
    let mut actions = Actions::new(base, sources.len() + copy.documents.len());
    let (mode, mode_str) = mode(&chmod, copy.chmod.as_ref().map_or(at.statement.span, |flag| flag.span))?;
    let owner = match &copy.chown {
        Some(flag) if !chown.is_empty() => Some(owner(&chown, actions.base, flag.span)?),
        _ => None,
    };
    let common = FileCopy {
        dest: destination(&state.cwd, &dest),
        owner,
        mode,
        mode_str,
        create_dest_path: true,
        timestamp: build.scene.epoch.map(|epoch| epoch.saturating_mul(1_000_000_000)),
        exclude: copy.excludes.iter().map(|pattern| pattern.text.to_string()).collect(),
        ..FileCopy::default()
    };
    // Each of the copies has these.
    let shared = common.dest.len() + common.exclude.iter().map(|pattern| pattern.len() + 32).sum::<usize>();
    let copies = sources.len() + copy.documents.len();
    build.effort.spend(shared.saturating_mul(copies), at.place(at.statement.span))?;
    let mut files = None;
    for ((source, word), remote) in sources.iter().zip(&copy.sources).zip(&remotes) {
        if let Some(remote) = remote {
            let (from, src) = remote.add(build, copy, &checksum, word.span, about.clone())?;
            let attempt_unpack = matches!(remote, Remote::File(_)) && copy.unpack == Some(true);
            actions.copy(Some(from), FileCopy { src, attempt_unpack, ..common.clone() });
            continue;
        }
        let from = match &files {
            Some(known) => *known,
            None => *files.insert(files_of(build, copy, is_add, &sources, &remotes, at)?),
        };
        let (src, include, required_paths) = if copy.parents { parents(source) } else { Default::default() };
        actions.copy(
            from,
            FileCopy {
                src: if copy.parents { src } else { joined("/", source) },
                include,
                required_paths,
                follow_symlink: true,
                dir_copy_contents: true,
                attempt_unpack: copy.unpack.unwrap_or(is_add),
                allow_wildcard: true,
                allow_empty_wildcard: true,
                ..common.clone()
            },
        );
    }
    for index in &copy.documents {
        let document = &at.statement.heredocs[*index];
        let path = inline::path(document)?;
        let mut data = document.document();
        if document.expand {
            data = build.expand_as(Mode::document(), state, &data, document.word, at)?.text;
        }
        let file = inline::tree(build, path.clone(), 0o644, data.into_bytes());
        actions.copy(Some(file), FileCopy { src: path, ..common.clone() });
    }

    if links {
        let line = build.scene.source.line_of(at.place(at.statement.span).start);
        let group = ProgressGroup { id: format!("link-{}-{}-{line}", at.stage, state.counter.done), name, weak: true };
        about.group = Some(group.clone());
        let copied = actions.add(build, about.clone());
        let merge = Op::Merge(MergeOp { inputs: vec![Some(0), Some(1)] });
        let name = state.name(&format!("LINK {display}"));
        let about = About { name, group: Some(ProgressGroup { weak: false, ..group }), ..about };
        state.output = Some(build.add(merge, state.output.into_iter().chain([copied]).collect(), None, about));
    } else {
        state.output = Some(actions.add(build, about));
    }
    let created_by = history(copy, is_add, &chown, &chmod, &sources, &dest, at);
    state.config.commit(created_by, true, build.scene.epoch);
    Ok(())
}

/// The tree that paths are in: of a stage, an image, or the build context.
fn files_of(
    build: &mut Build,
    copy: &Copy,
    is_add: bool,
    sources: &[String],
    remotes: &[Option<Remote>],
    at: &At,
) -> Result<Option<OutputRef>, Diagnostic> {
    if let Some(from) = &copy.from {
        let base = build.scene.stages.source(&from.text, at.stage, from.span, true)?;
        return build.files_of(&base, Some(sources), at.place(from.span));
    }
    let (command, patterns) = (if is_add { "Add" } else { "Copy" }, &build.scene.options.ignore_patterns);
    let paths = sources.iter().zip(&copy.sources).zip(remotes).filter(|(_, remote)| remote.is_none());
    for ((source, word), _) in paths {
        lint::ignored(at.place(word.span), command, source, patterns, &mut build.lints);
        build.used.context.insert(joined("/", source));
    }
    Ok(Some(super::context::main(build, at.place(at.statement.span))?))
}

/// Copies that follow each other on one tree.
struct Actions {
    base: ActionInput,
    inputs: Inputs,
    actions: Vec<FileAction>,
}

impl Actions {
    /// No copies yet, on `base`, and room for so many: they are large.
    fn new(base: Option<OutputRef>, copies: usize) -> Actions {
        let mut inputs = Inputs::default();
        let base = inputs.index(base).map_or(ActionInput::Scratch, ActionInput::Input);
        Actions { base, inputs, actions: Vec::with_capacity(copies) }
    }

    fn copy(&mut self, from: Option<OutputRef>, copy: FileCopy) {
        let input = self.actions.len().checked_sub(1).map_or(self.base, ActionInput::Action);
        let secondary = self.inputs.index(from).map_or(ActionInput::Scratch, ActionInput::Input);
        self.actions.push(FileAction { input, secondary, output: None, kind: FileActionKind::Copy(copy) });
    }

    fn add(mut self, build: &mut Build, about: About) -> OutputRef {
        if let Some(last) = self.actions.last_mut() {
            last.output = Some(OutputIndex(0));
        }
        build.add(Op::File(FileOp { actions: self.actions }), self.inputs.0, None, about)
    }
}

fn history(copy: &Copy, is_add: bool, chown: &str, chmod: &str, sources: &[String], dest: &str, at: &At) -> String {
    let mut text = String::from(if is_add { "ADD" } else { "COPY" });
    if copy.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", chown), ("chmod", chmod)] {
        if !value.is_empty() {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for source in sources {
        text.push_str(&format!(" {source}"));
    }
    for index in &copy.documents {
        text.push_str(&format!(" <<{}", at.statement.heredocs[*index].name));
    }
    format!("{text} {dest} # buildkit")
}

/// Where a copy goes. A slash, or a slash and a dot, at the end says that it is a directory, and stays.
fn destination(cwd: &str, dest: &str) -> String {
    let dest = if dest.is_empty() || dest == "." { "./" } else { dest };
    let mut path = joined(cwd, dest);
    if dest.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    } else if dest.ends_with("/.") {
        if path != "/" {
            path.push('/');
        }
        path.push('.');
    }
    path
}

/// Root, pattern and required path of a source that keeps its parents: what is before `/./` is left out.
fn parents(source: &str) -> (String, Vec<String>, Vec<String>) {
    let (root, pattern) = source.split_once("/./").unwrap_or(("/", source));
    let pattern = joined("/", pattern);
    let is_literal = !has_wildcard(root) && !has_wildcard(&pattern);
    let required = if is_literal { vec![clean(&format!("/{root}/{pattern}"))] } else { Vec::new() };
    (joined("/", root), vec![pattern.trim_start_matches('/').to_string()], required)
}

fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => _ = chars.next(),
            _ => {}
        }
    }
    false
}

/// The value of `--chmod`: octal, or symbolic as chmod(1) has it.
pub(super) fn mode(text: &str, span: Span) -> Result<(Option<u32>, String), Diagnostic> {
    if text.is_empty() {
        return Ok((None, String::new()));
    }
    let is_symbolic = !text.starts_with(|c: char| c.is_ascii_digit()) && text.split(',').all(is_symbolic_clause);
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Ok((Some(mode), String::new())),
        _ if is_symbolic => Ok((None, text.to_string())),
        _ => {
            let message =
                format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
            Err(Diagnostic::error("invalid-chmod", span, message).with_help("or symbolic, as in u=rwX,go=rX"))
        }
    }
}

/// Whether a text is like `ug+rw`, `a=X`, `-w`, `g=u`.
fn is_symbolic_clause(clause: &str) -> bool {
    let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    rest.starts_with(['+', '-', '=']) && rest.chars().all(|c| "+-=rwxXstugo".contains(c))
}

/// The value of `--chown`, or a user: names are looked up in the tree at `input`.
pub(super) fn owner(text: &str, input: ActionInput, span: Span) -> Result<ChownOpt, Diagnostic> {
    let one = |name: &str| match name.parse::<i32>() {
        _ if name == "root" => Ok(Some(UserOpt::Id(0))),
        Ok(id) if id >= 0 => Ok(Some(UserOpt::Id(id.unsigned_abs()))),
        // As in `5:` and `:5`.
        _ if name.is_empty() => Ok(Some(UserOpt::Id(0))),
        _ if input == ActionInput::Scratch => {
            let help = format!("{name} cannot be looked up, as there is no /etc/passwd to look in: use numbers");
            Err(Diagnostic::error("unknown-user", span, "invalid user index: -1").with_help(help))
        }
        _ => Ok(Some(UserOpt::Name { name: name.to_string(), input })),
    };
    match text.split_once(':') {
        Some((user, group)) => Ok(ChownOpt { user: one(user)?, group: one(group)? }),
        None => Ok(ChownOpt { user: one(text)?, group: None }),
    }
}

/// A checksum is one of one thing, which is not here.
fn check_checksum(copy: &Copy, checksum: &str, remotes: &[Option<Remote>]) -> Result<(), Diagnostic> {
    let Some(flag) = copy.checksum.as_ref().filter(|_| !checksum.is_empty()) else { return Ok(()) };
    let message = match remotes {
        [Some(_)] => return Ok(()),
        [_] => "checksum requires HTTP(S) or Git sources",
        _ => "checksum can't be specified for multiple sources",
    };
    Err(Diagnostic::error("checksum", flag.span, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_their_slash() {
        for (cwd, dest, expected) in [
            ("/", "a", "/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/", "./", "/"),
            ("/", ".", "/"),
            ("/w", "a/.", "/w/a/."),
            ("/w", "/", "/"),
            ("/w", "/.", "/."),
            ("/w", "../../x", "/x"),
            ("/w", "/a//b", "/a/b"),
        ] {
            assert_eq!(destination(cwd, dest), expected, "{cwd} {dest}");
        }
    }

    #[test]
    fn modes_are_octal_or_symbolic() {
        let span = Span::default();
        for (text, expected) in [
            ("755", (Some(0o755), "")),
            ("0", (Some(0), "")),
            ("07777", (Some(0o7777), "")),
            ("u=rwX,go=rX", (None, "u=rwX,go=rX")),
            ("+x", (None, "+x")),
            ("g=u", (None, "g=u")),
        ] {
            assert_eq!(mode(text, span).unwrap(), (expected.0, expected.1.to_string()), "{text}");
        }
        for wrong in ["888", "10000", "abc", "u", "u=q", "7x", "-1", "u=r,"] {
            let error = mode(wrong, span).unwrap_err();
            assert!(error.message.starts_with(&format!("invalid chmod parameter: '{wrong}'")), "{wrong}");
        }
    }

    #[test]
    fn owners_are_numbers_or_names() {
        let name = |name: &str| Some(UserOpt::Name { name: name.into(), input: ActionInput::Input(0) });
        let id = |id| Some(UserOpt::Id(id));
        for (text, user, group) in [
            ("1000", id(1000), None),
            ("1:2", id(1), id(2)),
            ("root:root", id(0), id(0)),
            ("app", name("app"), None),
            ("app:www", name("app"), name("www")),
            (":5", id(0), id(5)),
            ("5:", id(5), id(0)),
        ] {
            assert_eq!(
                owner(text, ActionInput::Input(0), Span::default()).unwrap(),
                ChownOpt { user, group },
                "{text}"
            );
        }
        let error = owner("app", ActionInput::Scratch, Span::default()).unwrap_err();
        assert_eq!(error.message, "invalid user index: -1");
    }

    #[test]
    fn parents_are_kept_from_the_pivot() {
        for (source, root, include, required) in [
            ("a/b/c", "/", "a/b/c", vec!["/a/b/c"]),
            ("/a/./b/c", "/a", "b/c", vec!["/a/b/c"]),
            ("a/./b/*.c", "/a", "b/*.c", vec![]),
            ("a*/./b", "/a*", "b", vec![]),
        ] {
            let required: Vec<String> = required.into_iter().map(String::from).collect();
            assert_eq!(parents(source), (root.to_string(), vec![include.to_string()], required), "{source}");
        }
    }
}
