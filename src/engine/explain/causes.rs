//! The comparison of a step that misses with the nearest earlier record of it.

use std::sync::Arc;

use snapshotter::pattern::Patterns;
use snapshotter::store::record::{RecordId as StoredId, StoredRecord};
use snapshotter::tree::{resolve, Found, Listing};
use snapshotter::{SnapshotId, Store};
use solver::explain::{change, input_difference, op_differences};
use solver::graph::{Graph, Selector, Via};
use solver::key::{InputPart, KeyParts, Part, ResultRef};

use super::place::has_text;
use super::{files, Base, BaseKind, Compared, Kept, Origin, Place};
use crate::engine::context::UsedContext;
use crate::engine::results::Files;
use std::os::fd::AsFd;

/// A step that misses, with what is known of it now.
pub(crate) struct Now<'n> {
    pub graph: &'n Graph,
    pub place: Place,
    pub parts: &'n KeyParts,
    pub origins: Vec<Origin>,
    pub names: &'n [String],
    /// The files of each input.
    pub files: Vec<Option<Files>>,
    /// What was compared for steps of the same graph.
    pub compared: &'n Compared,
    /// Whether a record was made for this graph, and is no earlier one.
    pub is_own: &'n (dyn Fn(&StoredId) -> bool + Sync),
    /// Which step of this build has a snapshot as its result, if one has.
    pub made_by: &'n (dyn Fn(&SnapshotId) -> Option<Maker> + Sync),
}

/// A step with a result.
pub(crate) struct Maker {
    pub place: Place,
    /// It ran in this build; else its result was found.
    pub ran: bool,
}

/// Why the step has to run, one line per cause; nothing when nothing like it was ever built.
pub(crate) fn causes(store: &Store, now: &Now<'_>) -> Vec<String> {
    let newest = |name: String| Some((store.newest_record_of(&name).ok().flatten()?, name));
    let mut found = now.place.search().filter_map(newest).filter(|(record, _)| !(now.is_own)(&record.id));
    let Some((record, mut kept, name)) = found.find_map(|(record, name)| {
        let kept: Kept = serde_json::from_value(record.parts.clone()).ok()?;
        Some((record, kept, name))
    }) else {
        return Vec::new();
    };
    // It is this step's last result, whichever step made it.
    if name == now.place.name() {
        kept.place = now.place.clone();
    }
    let mut causes = compare(store, now, &record, &kept);
    causes.dedup();
    if kept.place.project != now.place.project && !kept.place.project.is_empty() {
        if let Some(first) = causes.first_mut() {
            *first = format!("compared with the build of {}: {first}", kept.place.project);
        }
    }
    causes
}

fn compare(store: &Store, now: &Now<'_>, record: &StoredRecord, old: &Kept) -> Vec<String> {
    if record.key.0 == now.parts.key().0 {
        return vec!["its cached result is not in the store any more".into()];
    }
    let is_edited = old.place.text != now.place.text;
    if is_edited && has_text(now.graph, &now.place.stage, &old.place.text) {
        return vec![format!("instruction {} is new", one_line(&now.place.text))];
    }
    let (mut causes, own) = of_base(now, old);
    causes.extend(of_op(&own.0, &own.1, is_edited.then_some((&*old.place.text, &*now.place.text))));
    let listings = store.files(&record.id).ok().flatten().and_then(|bytes| unpack(&bytes)).unwrap_or_default();
    for (at, input) in now.parts.inputs.iter().enumerate() {
        let before = old.parts.inputs.get(at);
        if before == Some(input) {
            continue;
        }
        // That other files are read follows from the new text.
        if is_edited && before.is_none_or(|before| before.via != input.via) {
            continue;
        }
        let listing = listings.iter().find(|(of, _)| *of == at).map(|(_, listing)| listing);
        causes.extend(of_input(store, now, at, input, before, old.origins.get(at), listing));
    }
    if old.parts.inputs.len() > now.parts.inputs.len() && !is_edited {
        causes.push(format!("{} inputs instead of {}", now.parts.inputs.len(), old.parts.inputs.len()));
    }
    if causes.is_empty() {
        causes.push("the order of its settings changed".into());
    }
    causes
}

/// What the config of the base image says differently, and the parts of both keys that it does not explain.
fn of_base(now: &Now<'_>, old: &Kept) -> (Vec<String>, (Vec<Part>, Vec<Part>)) {
    let bases =
        (old.origins.first().and_then(|it| it.base.as_ref()), now.origins.first().and_then(|it| it.base.as_ref()));
    let rest = || (old.parts.op.clone(), now.parts.op.clone());
    let (Some(before), Some(base)) = bases else { return (Vec::new(), rest()) };
    if before.settings.is_empty() || before.settings == base.settings {
        return (Vec::new(), rest());
    }
    let said = |parts: &[Part], name: &str| {
        parts.iter().find(|part| part.name == name).and_then(|part| part.value.as_str().map(str::to_owned))
    };
    // A setting is the image's where the step has just what the image says, then and now.
    let is_of_base = |name: &str| {
        let (was, is) = (before.settings.get(name), base.settings.get(name));
        was != is && said(&old.parts.op, name).as_ref() == was && said(&now.parts.op, name).as_ref() == is
    };
    let (theirs, own): (Vec<Part>, Vec<Part>) = now.parts.op.iter().cloned().partition(|part| is_of_base(&part.name));
    let (old_theirs, old_own): (Vec<Part>, Vec<Part>) =
        old.parts.op.iter().cloned().partition(|part| is_of_base(&part.name));
    let told = op_differences(&old_theirs, &theirs).into_iter();
    (told.map(|cause| format!("{cause} in base image {}", base.name)).collect(), (old_own, own))
}

/// What the instruction itself says differently. An edited text stands for all that follows from it.
fn of_op(old: &[Part], new: &[Part], edited: Option<(&str, &str)>) -> Vec<String> {
    let all = op_differences(old, new);
    let Some((before, now)) = edited else { return all };
    let is_named = |cause: &String| cause.starts_with("owner ") || cause.starts_with("mode ");
    if !all.is_empty() && all.iter().all(is_named) {
        return all;
    }
    let follows = |part: &&Part| {
        ["command", "working directory", "mount ", "action ", "network", "security"]
            .iter()
            .any(|start| part.name.starts_with(start))
    };
    let rest = |parts: &[Part]| -> Vec<Part> { parts.iter().filter(|part| !follows(part)).cloned().collect() };
    let mut causes = vec![format!("instruction {}", change(&in_line(before), &in_line(now), SHOWN))];
    causes.extend(op_differences(&rest(old), &rest(new)));
    causes
}

fn of_input(
    store: &Store,
    now: &Now<'_>,
    at: usize,
    input: &InputPart,
    before: Option<&InputPart>,
    old: Option<&Origin>,
    listing: Option<&Listing>,
) -> Vec<String> {
    let generic = || {
        let name = now.names.get(at).cloned().unwrap_or_else(|| format!("input {at}"));
        input_difference(before, input, &name).into_iter().collect::<Vec<_>>()
    };
    let (Some(before), Some(old)) = (before, old) else { return generic() };
    if before.via != input.via {
        return generic();
    }
    let new = now.origins.get(at).cloned().unwrap_or_default();
    match (&input.via, now.files.get(at)) {
        (Via::Content(what), Some(Some(Files::Context(context)))) => {
            let told = listing.map(|listing| of_context(context, what, listing, old));
            told.filter(|told| !told.is_empty()).unwrap_or_else(generic)
        }
        (via, Some(Some(files))) => {
            let moved = moved(old.base.as_ref(), new.base.as_ref());
            if let (Via::Identity, Some(moved)) = (via, &moved) {
                return vec![moved.clone()];
            }
            let selector = match via {
                Via::Content(what) => Some(what),
                Via::Identity => None,
            };
            match (of_step(store, now, files, old.result, selector), moved) {
                // Files of an image that moved: the image is the cause, they say what of it counts.
                (_, Some(moved)) => vec![moved],
                (Some(told), None) => vec![told],
                (None, None) => generic(),
            }
        }
        _ => generic(),
    }
}

/// A base image, or other source, that is another one now.
fn moved(old: Option<&Base>, new: Option<&Base>) -> Option<String> {
    let (old, new) = (old?, new?);
    if old.digest == new.digest || old.kind != new.kind {
        return None;
    }
    match new.kind {
        BaseKind::Image => {}
        BaseKind::Git | BaseKind::Download if old.name != new.name => {
            return Some(format!("{} → {}", old.name, new.name))
        }
        BaseKind::Git => return Some(format!("{} moved {} → {}", new.name, old.digest, new.digest)),
        BaseKind::Download => return Some(format!("{} changed {} → {}", new.name, old.digest, new.digest)),
    }
    if old.platform != new.platform {
        return Some(format!("platform {} → {}", old.platform, new.platform));
    }
    if old.name != new.name {
        return Some(format!("base image {} → {}", old.name, new.name));
    }
    Some(format!("base image {} moved {} → {}", new.name, old.digest, new.digest))
}

/// What changed of a context, file by file.
fn of_context(context: &UsedContext, what: &Selector, old: &Listing, origin: &Origin) -> Vec<String> {
    let Ok(new) = context.listing(what) else { return Vec::new() };
    let patterns = Patterns::new(&origin.excluded).ok();
    let root = Arc::clone(context.context.root());
    let ignore = files::Ignore {
        is_there: &|path| matches!(resolve(root.as_fd(), path, false, None), Ok(Found::Entry(_))),
        was_left_out: &|path| patterns.as_ref().is_some_and(|patterns| patterns.matches(path)),
    };
    files::causes(&old.differences(&new), new.files(), &ignore)
}

/// Which step below made something else, and what.
fn of_step(
    store: &Store,
    now: &Now<'_>,
    files: &Files,
    old: Option<ResultRef>,
    selector: Option<&Selector>,
) -> Option<String> {
    let old = old?;
    let record = store.record(&StoredId(old.record.0)).ok()??;
    let before = record.outputs.get(old.output.0 as usize)?.snapshot;
    let after = match files {
        Files::Snapshot(id) => Some(*id),
        Files::Empty => None,
        Files::Context(_) => return None,
    };
    let changes = store.changes(before.as_ref(), after.as_ref()).ok()?;
    let all = now.compared.files(store, &changes.parted);
    let read: Vec<_> = match selector {
        Some(what) => all.iter().filter(|(changed, _)| is_read(what, &changed.path)).cloned().collect(),
        None => Vec::new(),
    };
    // Of a selection, the step that made its files; of a whole tree, the lowest that made others.
    let since = read.iter().find_map(|(_, by)| *by).or(changes.since);
    let maker = since.and_then(|id| (now.made_by)(&id));
    let who = maker.as_ref().map_or("a step below".to_owned(), |maker| maker.place.seen_from(&now.place));
    if changes.is_addition && selector.is_none() {
        return Some(format!("because {who} is new"));
    }
    let is_own = maker.as_ref().is_some_and(|maker| maker.place.is_same_step(&now.place));
    let has_run = maker.is_some_and(|maker| maker.ran);
    let verb = if has_run { "ran again and its files changed" } else { "has other files" };
    let named = if read.is_empty() { &all[..] } else { &read[..] };
    let named: Vec<_> = named.iter().map(|(changed, _)| changed.clone()).collect();
    // One instruction may be several steps of the graph.
    let what = if is_own { "its files changed".to_owned() } else { format!("because {who} {verb}") };
    Some(match named.is_empty() {
        true => what,
        false => format!("{what}: {}", files::in_a_row(&named)),
    })
}

/// Whether a path may be among the selected ones; patterns are not looked at closely.
fn is_read(what: &Selector, path: &[u8]) -> bool {
    what.0.iter().any(|selected| {
        let literal = selected.path.split(['*', '?', '[']).next().unwrap_or_default().trim_matches('/').as_bytes();
        let rest = path.strip_prefix(literal);
        rest.is_some_and(|rest| rest.is_empty() || literal.is_empty() || rest.starts_with(b"/") || selected.wildcard)
    })
}

/// Longer instructions are cut.
const SHOWN: usize = 120;

fn in_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn one_line(text: &str) -> String {
    let line = in_line(text);
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The listings of a step's contexts in one file: for each the input's number and its length.
pub(crate) fn pack(listings: &[(usize, Arc<Listing>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (input, listing) in listings {
        let encoded = listing.encode();
        bytes.extend_from_slice(&(*input as u32).to_le_bytes());
        bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        bytes.extend(encoded);
    }
    bytes
}

fn unpack(mut bytes: &[u8]) -> Option<Vec<(usize, Listing)>> {
    let mut listings = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(8)?;
        let number = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize);
        let (listing, rest) = rest.split_at_checked(number(4)?)?;
        listings.push((number(0)?, Listing::decode(listing)?));
        bytes = rest;
    }
    Some(listings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn part(name: &str, value: serde_json::Value) -> Part {
        Part { name: name.into(), value }
    }

    #[test]
    fn an_edited_instruction_is_told_once_and_variables_beside_it() {
        let old = [part("command", json!(["sh", "-c", "a"])), part("env V", json!("1"))];
        let new = [part("command", json!(["sh", "-c", "b"])), part("env V", json!("2"))];
        assert_eq!(of_op(&old, &new, Some(("RUN a", "RUN b"))), ["instruction RUN a → RUN b", "ARG/ENV V 1 → 2"]);
        assert_eq!(of_op(&old[1..], &new[1..], None), ["ARG/ENV V 1 → 2"]);
    }

    #[test]
    fn only_the_owner_of_a_copy_that_changed_is_told() {
        let copy = |user: u32, mode: u32| {
            part("action 0 copy", json!({ "source": "/a", "owner": { "user": user, "group": user }, "mode": mode }))
        };
        let edited = Some(("COPY --chown=1 a /", "COPY --chown=2 a /"));
        assert_eq!(of_op(&[copy(1, 420)], &[copy(2, 420)], edited), ["owner 1:1 → 2:2"]);
        assert_eq!(of_op(&[copy(1, 420)], &[copy(1, 493)], edited), ["mode 644 → 755"]);
    }

    #[test]
    fn an_image_that_moved_is_named_by_what_moved() {
        let base = |name: &str, digest: &str, platform: &str| Base {
            name: name.into(),
            digest: digest.into(),
            platform: platform.into(),
            ..Base::default()
        };
        let told = |a: Base, b: Base| moved(Some(&a), Some(&b));
        let one = || base("debian:12", "sha256:ab", "linux/amd64");
        assert_eq!(told(one(), one()), None);
        assert_eq!(
            told(one(), base("debian:12", "sha256:cd", "linux/amd64")).unwrap(),
            "base image debian:12 moved sha256:ab → sha256:cd"
        );
        assert_eq!(
            told(one(), base("debian:12", "sha256:cd", "linux/arm64")).unwrap(),
            "platform linux/amd64 → linux/arm64"
        );
        assert_eq!(
            told(one(), base("debian:13", "sha256:cd", "linux/amd64")).unwrap(),
            "base image debian:12 → debian:13"
        );
        let of = |kind: BaseKind, name: &str, digest: &str| Base {
            kind,
            name: name.into(),
            digest: digest.into(),
            ..Base::default()
        };
        let git = |digest: &str| of(BaseKind::Git, "https://h/r.git#main", digest);
        assert_eq!(told(git("ab"), git("cd")).unwrap(), "https://h/r.git#main moved ab → cd");
        let file = |digest: &str| of(BaseKind::Download, "https://h/f", digest);
        assert_eq!(told(file("sha256:ab"), file("sha256:cd")).unwrap(), "https://h/f changed sha256:ab → sha256:cd");
        assert_eq!(told(file("sha256:ab"), git("cd")), None, "what it was made of is another kind of thing");
    }

    #[test]
    fn listings_of_several_inputs_share_a_file() {
        let packed = pack(&[(1, Arc::default()), (3, Arc::default())]);
        assert_eq!(unpack(&packed).unwrap(), [(1, Listing::default()), (3, Listing::default())]);
        assert_eq!(unpack(&packed[..5]), None);
    }
}
