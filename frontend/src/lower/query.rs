//! What a lowering asks, and what it is told.

use solver::graph::Platform;

use super::TimeQuery;
use crate::source::Span;

/// What must be known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// An image's configuration.
    Image(ImageQuery),
    /// What the ignore file of a named context leaves out.
    Ignore(IgnoreQuery),
    /// How old something is.
    Time(TimeQuery),
}

impl Query {
    /// Where the Dockerfile is the reason to ask.
    pub fn span(&self) -> Span {
        match self {
            Query::Image(query) => query.span,
            Query::Ignore(query) => query.span,
            Query::Time(query) => query.span,
        }
    }
}

/// Asks for the patterns of the `.dockerignore` in a directory of the client's; none if there is no such file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IgnoreQuery {
    /// The directory's name.
    pub directory: String,
    /// What the asking is called in progress.
    pub title: String,
    /// Where the Dockerfile names the context.
    pub span: Span,
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImagePlace {
    /// In a registry.
    Registry,
    /// In a directory of the client's, of this name.
    OciLayout(String),
}

/// Asks for an image's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageQuery {
    /// Its full name.
    pub reference: String,
    /// For which platform.
    pub platform: Platform,
    /// Where it is.
    pub place: ImagePlace,
    /// What the asking is called in progress.
    pub title: String,
    /// Where the Dockerfile names it.
    pub span: Span,
}

/// What is known of an image.
#[derive(Clone, Debug)]
pub struct ImageAnswer {
    /// Its configuration document.
    pub config: Vec<u8>,
    /// The digest its name stands for, if the build shall be bound to it.
    pub digest: Option<String>,
}
