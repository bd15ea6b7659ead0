//! What a store holds, in the words of BuildKit's clients; what they select is thrown away.

use std::time::{Duration, SystemTime};

use snapshotter::store::gc::{Collected, Gone, Keep, PrunePolicy};
use snapshotter::store::things::{Thing, ThingKind};
use snapshotter::Store;

use super::explain::Place;
use crate::filter::Filter;

/// What filters may name.
pub const FIELDS: [&str; 9] =
    ["id", "parents", "description", "type", "inuse", "mutable", "immutable", "shared", "private"];

/// A thing's type.
pub fn kind(thing: &Thing) -> &'static str {
    type_of(thing.kind, thing.name.as_deref())
}

fn type_of(kind: ThingKind, name: Option<&str>) -> &'static str {
    match (kind, name.and_then(|name| name.split_once(' '))) {
        (ThingKind::Tree, _) => "regular",
        // Directories that came from clients lie where cache mounts do.
        (ThingKind::Directory, Some(("source.local", _))) => "source.local",
        (ThingKind::Directory, Some(("git", _))) => "source.git.checkout",
        (ThingKind::Directory, _) => "exec.cachemount",
        (ThingKind::Blob | ThingKind::Unfinished | ThingKind::Rest, _) => "internal",
    }
}

/// What a person calls a thing.
pub fn description(thing: &Thing) -> String {
    match (thing.kind, &thing.name) {
        (ThingKind::Tree | ThingKind::Directory, Some(name)) => described(thing.kind, name),
        (ThingKind::Tree, None) => "layer of an image".to_owned(),
        (ThingKind::Blob, _) => "blob".to_owned(),
        (kind, _) if kind == ThingKind::Unfinished || thing.count > 1 => format!("{} {}", thing.count, thing.id),
        _ => thing.id.clone(),
    }
}

fn described(kind: ThingKind, name: &str) -> String {
    match (kind, name.split_once(' ')) {
        (ThingKind::Tree, _) => Place::text_in(name).unwrap_or(name).to_owned(),
        (_, Some(("source.local", name))) => format!("local source for {name}"),
        (_, Some(("git", remote))) => format!("git repository {remote}"),
        _ => format!("cached mount {name}"),
    }
}

/// What a person calls something that went.
pub fn farewell(gone: &Gone) -> String {
    gone.name.as_deref().map_or_else(|| gone.id.clone(), |name| described(gone.kind, name))
}

/// The type of something that went.
pub fn kind_of(gone: &Gone) -> &'static str {
    type_of(gone.kind, gone.name.as_deref())
}

/// A field of a thing, as filters name it. What is not so is absent.
pub fn field(thing: &Thing, name: &str) -> Option<String> {
    let holds = |is: bool| is.then(|| "true".to_owned());
    match name {
        "id" => Some(thing.id.clone()),
        "description" => Some(description(thing)),
        "type" => Some(kind(thing).to_owned()),
        "parents" => Some(thing.parents.join(";")).filter(|parents| !parents.is_empty()),
        "inuse" => holds(thing.is_used),
        "mutable" => holds(thing.is_mutable()),
        "immutable" => holds(!thing.is_mutable()),
        "shared" => holds(thing.is_shared),
        "private" => holds(!thing.is_shared),
        _ => None,
    }
}

/// Whether a thing was not used for so long. A time in the future is a clock that was set back; such a thing is not old.
pub fn is_unused_for(thing: &Thing, age: Duration) -> bool {
    let unused = thing.last_used.or(thing.created).unwrap_or(SystemTime::UNIX_EPOCH).elapsed();
    age.is_zero() || unused.is_ok_and(|unused| unused > age)
}

/// What is to go.
#[derive(Debug)]
pub struct Clearing {
    /// Results of steps.
    pub records: bool,
    /// Cache mounts, and other directories that are kept like them.
    pub directories: bool,
    /// Images without a name stay as long as this.
    pub nameless_images: Keep,
    /// Only what was not used for so long.
    pub unused_for: Duration,
    /// Only what this selects.
    pub filter: Filter,
    /// Only until no more than so many bytes are left: what was used longest ago first.
    pub most_bytes: Option<u64>,
}

impl Clearing {
    /// Throws away what is to go, and what nobody can find any more.
    ///
    /// # Errors
    /// The store cannot be read or changed.
    pub fn run(&self, store: &Store) -> Result<Collected, snapshotter::Error> {
        let keep = if self.most_bytes.is_some() { Keep::All } else { Keep::Nothing };
        let stays = |goes: bool| if goes { keep } else { Keep::All };
        let policy = PrunePolicy {
            records: stays(self.records),
            nameless_images: self.nameless_images,
            cache_mounts: stays(self.directories),
            most_bytes: self.most_bytes.filter(|_| self.records || self.directories),
            limits_mounts: self.directories,
        };
        if self.filter.is_empty() && self.unused_for.is_zero() && self.records {
            return store.prune(&policy);
        }
        store.prune_some(&policy, &|thing| self.selects(thing))
    }

    fn selects(&self, thing: &Thing) -> bool {
        let goes = if thing.kind == ThingKind::Directory { self.directories } else { self.records };
        goes && is_unused_for(thing, self.unused_for) && self.filter.matches(&|name| field(thing, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(kind: ThingKind, name: Option<&str>) -> Thing {
        let (created, last_used) = (None, Some(SystemTime::now() - Duration::from_secs(7200)));
        Thing {
            id: "abc".into(),
            kind,
            name: name.map(str::to_owned),
            parents: vec!["p".into(), "q".into()],
            bytes: 1,
            count: 1,
            is_used: false,
            is_shared: kind == ThingKind::Blob,
            created,
            last_used,
        }
    }

    #[test]
    fn things_are_called_as_other_builders_call_them() {
        let step = "step\0/home/me\0Dockerfile\0\0build\0RUN make\x000";
        for (kind, name, expected) in [
            (ThingKind::Tree, Some(step), ("regular", "RUN make")),
            (ThingKind::Tree, Some("imported"), ("regular", "imported")),
            (ThingKind::Tree, None, ("regular", "layer of an image")),
            (ThingKind::Directory, Some("/root/.cache"), ("exec.cachemount", "cached mount /root/.cache")),
            (ThingKind::Directory, Some("source.local context"), ("source.local", "local source for context")),
            (ThingKind::Directory, Some("git https://x/y"), ("source.git.checkout", "git repository https://x/y")),
            (ThingKind::Rest, None, ("internal", "abc")),
        ] {
            let thing = thing(kind, name);
            assert_eq!((super::kind(&thing), &*description(&thing)), expected);
        }
    }

    #[test]
    fn filters_and_ages_select() {
        let clearing = |filters: &[&str], unused_for: u64| Clearing {
            records: true,
            directories: true,
            nameless_images: Keep::All,
            unused_for: Duration::from_secs(unused_for),
            filter: Filter::parse(&filters.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()).unwrap(),
            most_bytes: None,
        };
        let tree = thing(ThingKind::Tree, Some("x"));
        let mount = thing(ThingKind::Directory, Some("npm"));
        for (filters, unused_for, expected) in [
            (&[][..], 0, (true, true)),
            (&[], 3600, (true, true)),
            (&[], 10_000, (false, false)),
            (&["type==regular"], 0, (true, false)),
            (&["mutable"], 0, (false, true)),
            (&["immutable==true"], 0, (true, false)),
            (&["description~=npm"], 0, (false, true)),
            (&["parents~=q$"], 0, (true, true)),
            (&["private,id==abc"], 0, (true, true)),
            (&["shared"], 0, (false, false)),
            (&["inuse"], 0, (false, false)),
            (&["inuse!=true,type!=regular"], 0, (false, true)),
        ] {
            let clearing = clearing(filters, unused_for);
            assert_eq!((clearing.selects(&tree), clearing.selects(&mount)), expected, "{filters:?} {unused_for}");
        }
    }
}
