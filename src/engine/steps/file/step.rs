//! A file operation as a step: mounts its trees, applies its actions, commits its results.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use snapshotter::pattern::clean;
use snapshotter::tree::{copy, extract, Change, CopyRequest, Destination, InTheWay, SelectPath, Tree};
use snapshotter::{Mounted, SnapshotId, View};
use solver::graph::op::{ActionInput, ChownOpt, FileAction, FileActionKind, FileOp, UserOpt};
use solver::graph::{PathSelector, Selector};
use solver::key::ContentDigest;

use super::{apply_action, plan, Chain, Means, SourceTree, Users};
use crate::engine::blocking::blocking;
use crate::engine::context::UsedContext;
use crate::engine::results::{Files, Output};
use crate::engine::steps::{hashed, identity_over, StepCx, StepFailure};
use crate::source::local::selection;

/// Carries out a file operation on `inputs` and gives its outputs in order.
pub(crate) async fn step(cx: &StepCx, op: &FileOp, inputs: Vec<Output>) -> Result<Vec<Output>, StepFailure> {
    let (cx, op) = (cx.clone(), op.clone());
    blocking(move || carry_out(&cx, &op, &inputs)).await
}

fn carry_out(cx: &StepCx, op: &FileOp, inputs: &[Output]) -> Result<Vec<Output>, StepFailure> {
    let plan = plan(op, inputs.len())?;
    let mut made: HashMap<usize, Output> = HashMap::new();
    for chain in &plan.chains {
        let output = carry_out_chain(cx, op, chain, inputs, &made)?;
        made.insert(*chain.actions.last().unwrap_or(&0), output);
    }
    let result = |chain: &usize| {
        let last = plan.chains.get(*chain).and_then(|chain| chain.actions.last());
        last.and_then(|action| made.get(action)).cloned()
    };
    let outputs: Option<Vec<Output>> = plan.outputs.iter().map(result).collect();
    outputs.ok_or(StepFailure::Unsupported("a file operation without its output"))
}

/// Applies the actions that change one tree.
fn carry_out_chain(
    cx: &StepCx,
    op: &FileOp,
    chain: &Chain,
    inputs: &[Output],
    made: &HashMap<usize, Output>,
) -> Result<Output, StepFailure> {
    let result = |of: ActionInput| match of {
        ActionInput::Scratch => Some(Output::empty()),
        ActionInput::Input(index) => inputs.get(index).cloned(),
        ActionInput::Action(index) => made.get(&index).cloned(),
    };
    let missing = || StepFailure::Unsupported("a file operation on a tree that is not there");
    let base = result(chain.base).ok_or_else(missing)?;
    let active = cx.store.prepare(snapshot_of(cx, &base.files)?.as_ref(), &cx.lease)?;
    let actions: Vec<&FileAction> = chain.actions.iter().filter_map(|index| op.actions.get(*index)).collect();
    let times: Vec<i64> = actions.iter().filter_map(|action| action.kind.timestamp()).collect();
    {
        let target = active.mount()?;
        let mut sources: HashMap<ActionInput, Opened> = HashMap::new();
        for input in actions.iter().flat_map(|action| trees_of(action)) {
            // The tree under work is there already, and shows what earlier actions made.
            let under_work =
                input == chain.base || matches!(input, ActionInput::Action(a) if chain.actions.contains(&a));
            if under_work && !is_copied_from(&actions, input) {
                continue;
            }
            if let std::collections::hash_map::Entry::Vacant(slot) = sources.entry(input) {
                slot.insert(Opened::new(cx, &result(input).ok_or_else(missing)?.files)?);
            }
        }
        for action in actions {
            let users: Vec<(ActionInput, BorrowedFd)> = trees_of(action)
                .into_iter()
                .map(|input| (input, sources.get(&input).map_or(target.root(), |source| source.tree.root.as_fd())))
                .collect();
            let source = sources.get(&action.secondary);
            let means = Means {
                users: Users(&users),
                cache: source.and_then(|s| s.context.as_deref()).map(|context| &context.cache),
                unpack: Some(&extract),
            };
            let effects = apply_action(action, target.root(), source.map(|s| &s.tree), means)?;
            if let (Some(context), Some(read)) = (source.and_then(|s| s.context.as_ref()), effects.read) {
                check_unchanged(context, action, read)?;
            }
        }
    }
    let info = cx.store.commit(active, &cx.lease)?;
    let identity = at(&times, identity_over(&base.identity, &info.delta));
    Ok(Output { files: Files::Snapshot(info.id), identity })
}

/// The identity of what was made with these times: those that were asked for count, as nobody would get them otherwise
/// from a step that lies on the same files of another time.
fn at(times: &[i64], identity: ContentDigest) -> ContentDigest {
    if times.is_empty() {
        return identity;
    }
    let bytes: Vec<u8> = times.iter().flat_map(|time| time.to_le_bytes()).collect();
    hashed("made at", &[&identity.0, blake3::hash(&bytes).as_bytes()])
}

/// The trees that an action reads: what it copies from, and where its owners' names are looked up.
fn trees_of(action: &FileAction) -> Vec<ActionInput> {
    let owner = match &action.kind {
        FileActionKind::Copy(copy) => copy.owner.as_ref(),
        FileActionKind::MkFile { owner, .. }
        | FileActionKind::MkDir { owner, .. }
        | FileActionKind::Symlink { owner, .. } => owner.as_ref(),
        FileActionKind::Rm { .. } => None,
    };
    let named = |opt: &Option<UserOpt>| match opt {
        Some(UserOpt::Name { input, .. }) => Some(*input),
        _ => None,
    };
    let names = |owner: &ChownOpt| [named(&owner.user), named(&owner.group)];
    let mut trees: Vec<ActionInput> = owner.into_iter().flat_map(names).flatten().collect();
    if matches!(action.kind, FileActionKind::Copy(_)) {
        trees.push(action.secondary);
    }
    trees
}

fn is_copied_from(actions: &[&FileAction], input: ActionInput) -> bool {
    actions.iter().any(|action| matches!(action.kind, FileActionKind::Copy(_)) && action.secondary == input)
}

/// What was copied must be what the cache key was made of.
fn check_unchanged(
    context: &UsedContext,
    action: &FileAction,
    read: snapshotter::tree::TreeDigest,
) -> Result<(), StepFailure> {
    let FileActionKind::Copy(copy) = &action.kind else { return Ok(()) };
    let what = super::selection(copy);
    let path = PathSelector {
        path: what.path,
        wildcard: what.wildcard,
        follow: what.follow,
        include: what.include,
        exclude: what.exclude,
    };
    match context.measure(&path)? == read {
        true => Ok(()),
        false => Err(StepFailure::ContextChanged { path: copy.src.clone() }),
    }
}

/// A tree that actions read, kept open.
struct Opened {
    tree: SourceTree,
    context: Option<Arc<UsedContext>>,
    _mounted: Option<(Mounted, View)>,
}

impl Opened {
    fn new(cx: &StepCx, files: &Files) -> Result<Opened, StepFailure> {
        if let Files::Context(used) = files {
            let tree = SourceTree {
                root: Arc::clone(used.context.root()),
                filter: Some(Arc::clone(used.context.filter())),
                ownership: used.context.tree().ownership,
                devices: used.context.tree().devices,
            };
            return Ok(Opened { tree, context: Some(Arc::clone(used)), _mounted: None });
        }
        let view = cx.store.view(snapshot_of(cx, files)?.as_ref(), &cx.lease)?;
        let mounted = view.mount()?;
        let root: OwnedFd = mounted.root().try_clone_to_owned().map_err(|e| StepFailure::io("open a tree", e))?;
        Ok(Opened { tree: SourceTree::snapshot(root), context: None, _mounted: Some((mounted, view)) })
    }
}

/// The snapshot with these files; a context is copied into one.
fn snapshot_of(cx: &StepCx, files: &Files) -> Result<Option<SnapshotId>, StepFailure> {
    match files {
        Files::Empty => Ok(None),
        Files::Snapshot(id) => Ok(Some(*id)),
        Files::Context(context) => Ok(Some(copy_of_context(cx, context, "/")?)),
    }
}

/// A snapshot with the selected part of a context, at its place; copied once a build.
pub(crate) fn copy_of_context(cx: &StepCx, used: &Arc<UsedContext>, path: &str) -> Result<SnapshotId, StepFailure> {
    let path = clean(&format!("/{path}"));
    used.copy_once(&path, || {
        let active = cx.store.prepare(None, &cx.lease)?;
        copy_part(cx, &Files::Context(Arc::clone(used)), &path, active.mount()?.root(), &path)?;
        Ok(cx.store.commit(active, &cx.lease)?.id)
    })
}

/// Copies the file or directory at `path` of a result to `to` in another tree, where nothing is yet.
pub(crate) fn copy_part(cx: &StepCx, files: &Files, path: &str, tree: BorrowedFd, to: &str) -> Result<(), StepFailure> {
    let what = SelectPath { path: path.to_string(), follow: true, ..SelectPath::default() };
    let change = Change::default();
    let request = CopyRequest {
        what: &what,
        required: &[],
        may_be_empty: false,
        to: Destination { path: to, contents: false, make_parents: true },
        change: &change,
        in_the_way: InTheWay::Merge,
        unpack: None,
    };
    let source = Opened::new(cx, files)?;
    let cache = source.context.as_ref().map(|context| &context.cache);
    let copied = copy(source.tree.tree(), tree, &request, cache).map_err(super::Error::Tree)?;
    match &source.context {
        Some(context) if context.measure(&part(path))? != copied.digest => {
            Err(StepFailure::ContextChanged { path: path.to_string() })
        }
        _ => Ok(()),
    }
}

/// What [`copy_part`] copies.
fn part(path: &str) -> PathSelector {
    PathSelector { path: path.to_string(), follow: true, ..PathSelector::default() }
}

/// The content digest of what [`copy_part`] copies.
pub(crate) fn measure_part(cx: &StepCx, files: &Files, path: &str) -> Result<ContentDigest, StepFailure> {
    digest(cx, files, &Selector(vec![part(path)]))
}

/// The content digest of selected files of a result.
pub(crate) fn digest(cx: &StepCx, files: &Files, what: &Selector) -> Result<ContentDigest, StepFailure> {
    if let Files::Context(used) = files {
        return Ok(used.digest(what)?);
    }
    let view = cx.store.view(snapshot_of(cx, files)?.as_ref(), &cx.lease)?;
    let mounted = view.mount()?;
    let digest = snapshotter::tree::hash_tree(Tree::snapshot(mounted.root()), &selection(what), None);
    Ok(ContentDigest(digest.map_err(super::Error::Tree)?.0))
}
