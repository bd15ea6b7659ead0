//! What changed from one tree to another, as a tree that can be stacked on any.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use snapshotter::tree::{copy, remove_all, Change, CopyRequest, Destination, InTheWay, SelectPath, Tree};
use snapshotter::{Lease, SnapshotId, Store};
use solver::graph::op::DiffOp;
use solver::key::ContentDigest;

use super::{identity_over, StepCx, StepFailure};
use crate::engine::blocking::blocking;
use crate::engine::results::{Files, Output};

/// Makes the change from `lower` to `upper`; deletions are part of it, and count where it is stacked on something.
pub(crate) async fn diff(cx: &StepCx, op: &DiffOp, inputs: Vec<Output>) -> Result<Vec<Output>, StepFailure> {
    let input = |index: Option<usize>| match index {
        None => Ok(Output::empty()),
        Some(index) => {
            inputs.get(index).cloned().ok_or(StepFailure::Unsupported("a diff of an input that is not there"))
        }
    };
    let (lower, upper) = (input(op.lower)?, input(op.upper)?);
    let cx = cx.clone();
    blocking(move || Ok(vec![change(&cx.store, &cx.lease, &lower, upper)?])).await
}

fn change(store: &Store, lease: &Lease, lower: &Output, upper: Output) -> Result<Output, StepFailure> {
    let (below, above) = (snapshot(lower)?, snapshot(&upper)?);
    if below == above {
        return Ok(Output::empty());
    }
    let Some(below) = below else { return Ok(upper) };
    // What was made on the lower tree has its changes at hand.
    let deltas = match above_of(store, &below, above.as_ref())? {
        Some(deltas) => deltas,
        None => vec![compared(store, lease, &below, above.as_ref())?],
    };
    let (mut top, mut identity) = (None, ContentDigest([0; 32]));
    for delta in deltas {
        let info = store.restack(&delta, top.as_ref(), lease)?;
        identity = identity_over(&identity, &info.delta);
        top = Some(info.id);
    }
    Ok(Output { files: Files::of(top), identity })
}

fn snapshot(of: &Output) -> Result<Option<SnapshotId>, StepFailure> {
    match &of.files {
        Files::Empty => Ok(None),
        Files::Snapshot(id) => Ok(Some(*id)),
        Files::Context(_) => Err(StepFailure::Unsupported("a diff of a local context")),
    }
}

/// The snapshots that lie between the two, bottom first, if the upper tree lies on the lower one.
fn above_of(
    store: &Store,
    lower: &SnapshotId,
    upper: Option<&SnapshotId>,
) -> Result<Option<Vec<SnapshotId>>, StepFailure> {
    let Some(upper) = upper else { return Ok(None) };
    let chain: Vec<SnapshotId> = store.chain(upper)?.iter().map(|info| info.id).collect();
    let Some(at) = chain.iter().position(|id| id == lower) else { return Ok(None) };
    Ok(chain.get(at + 1..).map(<[SnapshotId]>::to_vec))
}

/// Makes the upper tree out of the lower one: what its commit finds changed is the difference.
fn compared(
    store: &Store,
    lease: &Lease,
    lower: &SnapshotId,
    upper: Option<&SnapshotId>,
) -> Result<SnapshotId, StepFailure> {
    let active = store.prepare(Some(lower), lease)?;
    {
        let target = active.mount()?;
        let failed = |errno: rustix::io::Errno| StepFailure::io("compare two trees", errno.into());
        for name in names_in(target.root()).map_err(failed)? {
            remove_all(target.root(), &name).map_err(failed)?;
        }
        let view = store.view(upper, lease)?;
        let source = view.mount()?;
        let request = CopyRequest {
            what: &SelectPath::new("/"),
            required: &[],
            may_be_empty: true,
            to: Destination { path: "/", contents: true, make_parents: true },
            change: &Change::default(),
            in_the_way: InTheWay::Replace,
            unpack: None,
        };
        copy(Tree::snapshot(source.root().as_fd()), target.root(), &request, None).map_err(super::file::Error::from)?;
    }
    Ok(store.commit(active, lease)?.id)
}

fn names_in(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, rustix::io::Errno> {
    // What is mounted is known by a descriptor that cannot be read.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use snapshotter::Wish;

    use super::*;

    /// Commits what `write` does to a tree.
    fn made(store: &Store, lease: &Lease, on: &Output, write: impl Fn(&Path)) -> Output {
        let active = store.prepare(snapshot(on).unwrap().as_ref(), lease).unwrap();
        {
            let mounted = active.mount().unwrap();
            let root = std::os::fd::AsRawFd::as_raw_fd(&mounted.root());
            write(Path::new(&format!("/proc/self/fd/{root}")));
        }
        let info = store.commit(active, lease).unwrap();
        Output { files: Files::of(Some(info.id)), identity: identity_over(&on.identity, &info.delta) }
    }

    fn names(store: &Store, lease: &Lease, of: &Output) -> Vec<String> {
        let view = store.view(snapshot(of).unwrap().as_ref(), lease).unwrap();
        let mounted = view.mount().unwrap();
        let names = names_in(mounted.root()).unwrap();
        let mut names: Vec<String> = names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
        names.sort();
        names
    }

    /// The same for stacked trees: a change applied to another tree.
    fn applied(store: &Store, lease: &Lease, base: &Output, change: &Output) -> Output {
        let mut top = snapshot(base).unwrap();
        for delta in store.chain(&snapshot(change).unwrap().unwrap()).unwrap() {
            top = Some(store.restack(&delta.id, top.as_ref(), lease).unwrap().id);
        }
        Output { files: Files::of(top), identity: base.identity }
    }

    #[test]
    fn a_change_is_found_however_its_trees_were_made() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: trees of any owner need root");
            return;
        }
        let dir = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        for wish in [Wish::Overlay, Wish::Native] {
            let store = match Store::open_with(dir.path().join(format!("{wish:?}")), wish) {
                Ok(store) => store,
                Err(error) => {
                    eprintln!("skipped: {wish:?}: {error}");
                    continue;
                }
            };
            let lease = store.lease().unwrap();
            let (store, lease, nothing) = (&store, &lease, Output::empty());
            let put = |dir: &Path, name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
            let lower =
                made(store, lease, &nothing, |dir| ["kept", "edited", "gone"].iter().for_each(|n| put(dir, n, n)));
            let upper = made(store, lease, &lower, |dir| {
                put(dir, "edited", "otherwise");
                fs::remove_file(dir.join("gone")).unwrap();
            });
            let upper = made(store, lease, &upper, |dir| put(dir, "new", "new"));
            // The same files, but not made on the lower tree; as old as they were.
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
            let set = |dir: &Path, name: &str| {
                fs::File::options().write(true).open(dir.join(name)).unwrap().set_modified(time).unwrap();
            };
            let apart = made(store, lease, &nothing, |dir| {
                [("kept", "kept"), ("edited", "otherwise"), ("new", "new")]
                    .iter()
                    .for_each(|(n, text)| put(dir, n, text));
                set(dir, "kept");
            });
            let other = made(store, lease, &nothing, |dir| ["gone", "else"].iter().for_each(|n| put(dir, n, n)));
            for upper in [upper, apart.clone()] {
                let found = change(store, lease, &lower, upper).unwrap();
                let alone = names(store, lease, &found);
                assert!(alone == ["edited", "new"] || alone == ["edited", "kept", "new"], "{wish:?}: {alone:?}");
                let on_other = names(store, lease, &applied(store, lease, &other, &found));
                assert!(
                    !on_other.contains(&"gone".to_owned()) && on_other.contains(&"else".to_owned()),
                    "{on_other:?}"
                );
            }
            assert_eq!(change(store, lease, &lower, lower.clone()).unwrap().identity, nothing.identity);
            assert_eq!(change(store, lease, &nothing, apart.clone()).unwrap().identity, apart.identity);
            let all_gone = change(store, lease, &lower, nothing.clone()).unwrap();
            assert_eq!(names(store, lease, &all_gone), Vec::<String>::new());
            assert_eq!(names(store, lease, &applied(store, lease, &lower, &all_gone)), Vec::<String>::new());
        }
    }
}
