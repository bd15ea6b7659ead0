//! Directories of sessions that are open: builds that name the same one share it.
//!
//! A client may hand one build's definition to another as an input, and end the first before the second reads what the
//! definition names. Who has been given a definition holds the places of its directories from then on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use solver::graph::op::SourceOp;
use tokio::sync::OnceCell;

use super::context::UsedContext;

/// Where a directory is put by who asks for it first.
pub(crate) type Place = Arc<OnceCell<Arc<UsedContext>>>;

/// A local source as a session knows it: the session, none being that of the command line; the source; what is wanted.
pub(crate) type LocalName = (Option<String>, String, BTreeMap<String, String>);

/// The attribute that names the session.
const SESSION: &str = "local.session";

/// The name of a source of a build in this session.
pub(crate) fn named(source: &SourceOp, own: Option<&str>) -> LocalName {
    let mut wanted = source.attrs.clone();
    let session = wanted.remove(SESSION).or_else(|| own.map(str::to_owned));
    (session, source.identifier.clone(), wanted)
}

/// Whether a source is a directory of a session that it names.
pub(crate) fn is_of_session(source: &SourceOp) -> bool {
    source.scheme() == "local" && source.attrs.contains_key(SESSION)
}

/// The directories of all sessions, for as long as a build holds them.
#[derive(Default)]
pub(crate) struct Opened(Mutex<HashMap<LocalName, Weak<OnceCell<Arc<UsedContext>>>>>);

impl Opened {
    /// The place of a directory.
    pub fn place(&self, name: &LocalName) -> Place {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(name).and_then(Weak::upgrade) {
            return place;
        }
        places.retain(|_, place| place.strong_count() > 0);
        let place = Place::default();
        places.insert(name.clone(), Arc::downgrade(&place));
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(session: Option<&str>) -> SourceOp {
        let session = session.map(|session| (SESSION.to_string(), session.to_string()));
        let attrs = session.into_iter().chain([("local.followpaths".to_string(), "[]".to_string())]).collect();
        SourceOp { identifier: "local://context".to_string(), attrs }
    }

    #[test]
    fn a_directory_is_the_same_for_all_who_name_its_session_while_one_holds_it() {
        let opened = Opened::default();
        let own = named(&source(None), Some("a"));
        assert_eq!(own, named(&source(Some("a")), Some("b")));
        assert_ne!(own, named(&source(None), Some("b")));
        let first = opened.place(&own);
        let second = opened.place(&named(&source(Some("a")), None));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &opened.place(&named(&source(Some("b")), None))));
        drop(first);
        assert!(Arc::ptr_eq(&second, &opened.place(&own)));
        let gone = Arc::downgrade(&second);
        drop(second);
        opened.place(&own);
        assert!(gone.upgrade().is_none());
        assert!(is_of_session(&source(Some("a"))) && !is_of_session(&source(None)));
    }
}
