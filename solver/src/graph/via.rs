//! How each input of an op counts: whole, or only by the files the op reads.
//!
//! What counts by content lets a step hit although unrelated files of its input changed. It is sound only where nothing
//! but the selected files can show in the result.

use std::collections::HashSet;

use super::check::owner_of;
use super::op::{ActionInput, FileActionKind, FileOp, Mount, MountKind, RunOp, UserOpt};
use super::{ContentCache, Op, PathSelector, Selector, Via};

/// So many paths are compared one by one.
const FEW: usize = 8;

/// How each of an op's inputs counts.
pub(crate) fn vias(op: &Op, inputs: usize) -> Vec<Via> {
    let mut reads = Reads(vec![Read::default(); inputs]);
    match op {
        Op::Run(run) => reads.by_run(run),
        Op::File(file) => reads.by_file(file),
        Op::Source(_) | Op::Merge(_) | Op::Diff(_) | Op::Build(_) | Op::Passthrough(_) => {}
    }
    reads.0.into_iter().map(Read::via).collect()
}

/// What an op reads of each input.
struct Reads(Vec<Read>);

#[derive(Clone, Default)]
struct Read {
    whole: bool,
    paths: Vec<PathSelector>,
    known: HashSet<PathSelector>,
}

impl Read {
    fn via(self) -> Via {
        match self.whole || self.paths.is_empty() {
            true => Via::Identity,
            false => Via::Content(Selector(self.paths)),
        }
    }
}

impl Reads {
    fn by_run(&mut self, run: &RunOp) {
        for mount in &run.mounts {
            let Some(input) = mount.input else { continue };
            match read_by_mount(mount) {
                Some(path) => self.path(input, path),
                None => self.whole(input),
            }
        }
    }

    fn by_file(&mut self, file: &FileOp) {
        for action in &file.actions {
            if let ActionInput::Input(base) = action.input {
                self.whole(base);
            }
            if let (FileActionKind::Copy(copy), ActionInput::Input(source)) = (&action.kind, action.secondary) {
                let path = PathSelector {
                    path: rooted(&copy.src),
                    wildcard: copy.allow_wildcard,
                    follow: copy.follow_symlink,
                    include: copy.include.clone(),
                    exclude: copy.exclude.clone(),
                };
                self.path(source, path);
            }
            for owner in owner_of(&action.kind).into_iter().flat_map(|owner| [&owner.user, &owner.group]) {
                if let Some(UserOpt::Name { input: ActionInput::Input(input), .. }) = owner {
                    self.path(*input, whole("/etc/passwd"));
                    self.path(*input, whole("/etc/group"));
                }
            }
        }
    }

    fn whole(&mut self, input: usize) {
        self.0.get_mut(input).into_iter().for_each(|read| read.whole = true);
    }

    fn path(&mut self, input: usize, path: PathSelector) {
        // An input that does not exist is found by `check`.
        let Some(read) = self.0.get_mut(input) else { return };
        // Most inputs are read at one or two paths, for which a set would be a waste.
        let is_new = if read.paths.len() < FEW {
            !read.paths.contains(&path)
        } else {
            if read.known.is_empty() {
                read.known.extend(read.paths.iter().cloned());
            }
            read.known.insert(path.clone())
        };
        if is_new {
            read.paths.push(path);
        }
    }
}

/// What a process reads through a mount; `None` where all of the input counts.
fn read_by_mount(mount: &Mount) -> Option<PathSelector> {
    // Through an output the whole input reaches the users of this step, not only what was mounted; that holds for a
    // read-only mount too, whose output is the input itself.
    let shows_in_result = mount.output.is_some();
    let is_root = mount.dest == "/" && mount.kind == MountKind::Bind;
    let by_content = match mount.content_cache {
        ContentCache::Default => !is_root,
        ContentCache::On => true,
        ContentCache::Off => false,
    };
    (by_content && !shows_in_result).then(|| whole(&mount.selector))
}

fn whole(path: &str) -> PathSelector {
    PathSelector { path: rooted(path), follow: true, ..PathSelector::default() }
}

/// The same path from the root, without `.`, `..` and doubled slashes; `..` cannot leave the root.
pub(super) fn rooted(path: &str) -> String {
    let is_clean = |inner: &str| inner.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if path.strip_prefix('/').is_some_and(is_clean) {
        return path.to_string();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::{ChownOpt, FileAction, FileCopy, Meta};
    use crate::graph::OutputIndex;

    fn via(op: &Op, index: usize) -> Via {
        vias(op, 3).swap_remove(index)
    }

    fn bind(dest: &str) -> Mount {
        Mount {
            input: Some(0),
            selector: "/src/./a/../b".into(),
            dest: dest.into(),
            output: None,
            readonly: true,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        }
    }

    fn run(mounts: Vec<Mount>) -> Op {
        Op::Run(RunOp {
            meta: Meta { args: vec!["true".into()], ..Meta::default() }.into(),
            mounts,
            ..RunOp::default()
        })
    }

    fn copy(base: ActionInput, from: ActionInput, copy: FileCopy) -> FileAction {
        FileAction { input: base, secondary: from, output: Some(OutputIndex(0)), kind: FileActionKind::Copy(copy) }
    }

    #[test]
    fn mounts_count_by_content_unless_the_result_shows_more() {
        let content = Via::Content(Selector(vec![whole("/src/b")]));
        let output = Some(OutputIndex(0));
        for (mount, expected) in [
            (bind("/in"), content.clone()),
            (Mount { readonly: false, ..bind("/in") }, content.clone()),
            (Mount { output, readonly: false, ..bind("/in") }, Via::Identity),
            (Mount { output, ..bind("/in") }, Via::Identity),
            (bind("/"), Via::Identity),
            (Mount { content_cache: ContentCache::On, ..bind("/") }, content.clone()),
            (Mount { content_cache: ContentCache::Off, ..bind("/in") }, Via::Identity),
        ] {
            assert_eq!(via(&run(vec![mount.clone()]), 0), expected, "{mount:?}");
        }
    }

    #[test]
    fn two_mounts_of_one_input_select_the_union() {
        let both = run(vec![bind("/a"), Mount { selector: String::new(), ..bind("/b") }]);
        assert_eq!(via(&both, 0), Via::Content(Selector(vec![whole("/src/b"), whole("/")])));
        assert_eq!(via(&run(vec![bind("/a"), bind("/")]), 0), Via::Identity);
    }

    #[test]
    fn copy_source_counts_by_content_unless_it_is_also_the_base() {
        let what =
            FileCopy { src: "x*".into(), allow_wildcard: true, exclude: vec!["y".into()], ..FileCopy::default() };
        let selected = Via::Content(Selector(vec![PathSelector {
            path: "/x*".into(),
            wildcard: true,
            exclude: vec!["y".into()],
            ..PathSelector::default()
        }]));
        let (zero, one) = (ActionInput::Input(0), ActionInput::Input(1));
        let op = Op::File(FileOp { actions: vec![copy(zero, one, what.clone())] });
        assert_eq!((via(&op, 0), via(&op, 1)), (Via::Identity, selected));
        let op = Op::File(FileOp { actions: vec![copy(zero, zero, what)] });
        assert_eq!(via(&op, 0), Via::Identity);
    }

    #[test]
    fn a_named_owner_reads_the_user_database_of_the_input_it_names() {
        let owner =
            ChownOpt { user: Some(UserOpt::Name { name: "app".into(), input: ActionInput::Input(2) }), group: None };
        let what = FileCopy { src: "/".into(), owner: Some(owner), ..FileCopy::default() };
        let op = Op::File(FileOp { actions: vec![copy(ActionInput::Input(0), ActionInput::Input(1), what)] });
        assert_eq!(via(&op, 2), Via::Content(Selector(vec![whole("/etc/passwd"), whole("/etc/group")])));
    }
}
