//! A directory of a client's: what is asked for of it, and where it is while a build reads it.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use solver::graph::op::SourceOp;

use super::ClientError;

/// What of a directory is needed, in the words of a local source's attributes.
#[derive(Clone, Debug, Default)]
pub struct LocalDirectory {
    /// What the client calls it: `context`, `dockerfile`, or a named context. It is no path.
    pub name: String,
    /// The session whose client is asked; `None` is the build's own.
    pub session: Option<String>,
    /// If there are any, only what these match.
    pub include: Vec<String>,
    /// Nothing that these match, which are as in `.dockerignore`.
    pub exclude: Vec<String>,
    /// Paths that are needed with what their links lead to. They add to what is included.
    pub follow: Vec<String>,
    /// If it is there, only what these match is transferred, and of the rest what it is.
    pub only: Option<Vec<String>>,
    /// Directories with another hint are not compared with what was sent before.
    pub shared_key_hint: String,
    /// Whether what was sent before is used again.
    pub differ: Differ,
    /// Counts the bytes that come from the client; to be looked at while they do.
    pub arrived: Arc<AtomicU64>,
}

/// Whether what was sent before is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Differ {
    /// Files whose metadata are equal are.
    #[default]
    Metadata,
    /// Nothing is.
    Nothing,
}

impl LocalDirectory {
    /// All of a directory.
    pub fn named(name: &str) -> LocalDirectory {
        LocalDirectory { name: name.to_owned(), ..LocalDirectory::default() }
    }

    /// Some files of a directory, which are not mixed with what is kept of the whole.
    pub fn files(name: &str, files: impl IntoIterator<Item = String>) -> LocalDirectory {
        let follow: Vec<String> = files.into_iter().collect();
        let shared_key_hint = format!("{name}-{}", follow.join(","));
        LocalDirectory { follow, shared_key_hint, differ: Differ::Nothing, ..LocalDirectory::named(name) }
    }

    /// The same of another session, if there is one.
    #[must_use]
    pub fn of_session(self, session: Option<&String>) -> LocalDirectory {
        LocalDirectory { session: session.cloned(), ..self }
    }

    /// What a source asks for.
    ///
    /// # Errors
    /// [`ClientError::BadSource`] for attributes that cannot be understood or are not served.
    pub fn of(source: &SourceOp) -> Result<LocalDirectory, ClientError> {
        let text = |attribute: &'static str| source.attrs.get(attribute).filter(|value| !value.is_empty());
        let bad = |attribute, value: &str, reason| {
            let value = value.chars().take(100).collect();
            ClientError::BadSource { attribute, value, reason }
        };
        let list = |attribute: &'static str| {
            let Some(value) = text(attribute) else { return Ok(Vec::new()) };
            // `null` is what an empty list is to some clients.
            let list: Option<Vec<String>> =
                serde_json::from_str(value).map_err(|_| bad(attribute, value, "it is no JSON list of texts"))?;
            Ok(list.unwrap_or_default())
        };
        let only = match text("local.metadatatransfer").map(String::as_str) {
            None | Some("false" | "0") => None,
            Some("true" | "1") => Some(list("local.metadatatransferexclude")?),
            Some(value) => return Err(bad("local.metadatatransfer", value, "it is neither true nor false")),
        };
        let differ = match text("local.differ").map(String::as_str) {
            None | Some("metadata") => Differ::Metadata,
            Some("none") => Differ::Nothing,
            Some(value) => return Err(bad("local.differ", value, "it is neither none nor metadata")),
        };
        Ok(LocalDirectory {
            name: source.reference().to_owned(),
            session: text("local.session").cloned(),
            include: list("local.includepattern")?,
            exclude: list("local.excludepatterns")?,
            follow: list("local.followpaths")?,
            only,
            shared_key_hint: text("local.sharedkeyhint").cloned().unwrap_or_default(),
            differ,
            arrived: Arc::default(),
        })
    }
}

/// Where a client's directory is while this lives.
pub struct Directory {
    path: PathBuf,
    _kept_by: Option<Box<dyn Any + Send + Sync>>,
}

impl Directory {
    /// A directory that nobody has to keep.
    pub fn at(path: impl Into<PathBuf>) -> Directory {
        Directory { path: path.into(), _kept_by: None }
    }

    /// A directory that is there, and does not change, as long as `keeper` is not dropped.
    pub fn kept_by(path: impl Into<PathBuf>, keeper: impl Send + Sync + 'static) -> Directory {
        Directory { path: path.into(), _kept_by: Some(Box::new(keeper)) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Directory").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(attrs: &[(&str, &str)]) -> SourceOp {
        let attrs = attrs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        SourceOp { identifier: "local://context".into(), attrs }
    }

    #[test]
    fn attributes_say_what_is_needed() {
        let wanted = LocalDirectory::of(&source(&[
            ("local.session", "abc"),
            ("local.includepattern", r#"["*.c"]"#),
            ("local.excludepatterns", r#"["x","!y"]"#),
            ("local.followpaths", "null"),
            ("local.sharedkeyhint", "context"),
            ("local.differ", "none"),
            ("local.unique", "1"),
            ("local.metadatatransfer", "false"),
        ]))
        .unwrap();
        assert_eq!(wanted.only, None);
        assert_eq!((wanted.name.as_str(), wanted.session.as_deref()), ("context", Some("abc")));
        assert_eq!((wanted.include, wanted.exclude), (vec!["*.c".to_owned()], vec!["x".to_owned(), "!y".to_owned()]));
        assert_eq!((wanted.follow, wanted.shared_key_hint.as_str()), (vec![], "context"));
        assert_eq!(wanted.differ, Differ::Nothing);
        assert_eq!(LocalDirectory::of(&source(&[])).unwrap().differ, Differ::Metadata);
        let told = [("local.metadatatransfer", "true"), ("local.metadatatransferexclude", r#"["*.md"]"#)];
        assert_eq!(LocalDirectory::of(&source(&told)).unwrap().only, Some(vec!["*.md".to_owned()]));
        assert_eq!(LocalDirectory::of(&source(&told[..1])).unwrap().only, Some(vec![]));
        assert_eq!(LocalDirectory::of(&source(&told[1..])).unwrap().only, None);
    }

    #[test]
    fn attributes_that_are_not_served_are_refused() {
        for (attribute, value) in [
            ("local.includepattern", "*.c"),
            ("local.excludepatterns", r#"{"a":1}"#),
            ("local.followpaths", "[1]"),
            ("local.differ", "content"),
            ("local.metadatatransfer", "yes"),
        ] {
            let error = LocalDirectory::of(&source(&[(attribute, value)])).unwrap_err();
            assert!(error.to_string().starts_with(attribute), "{error}");
        }
    }
}
