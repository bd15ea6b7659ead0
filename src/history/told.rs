//! What of a build only a daemon's clients ask for, and are told of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a client asked for, besides the frontend's options.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The client's own name for the build.
    pub reference: String,
    /// The frontend, where the daemon was to run one.
    pub frontend: String,
    /// What becomes of it.
    pub exporters: Vec<Exporter>,
}

/// An exporter that a client asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exporter {
    /// `image`, `local` and the like.
    pub kind: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
}

/// What a client was told of a build that is over, besides its result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The number of its error among gRPC's codes; 0 if it went well.
    pub code: i32,
    /// What can be asked for afterwards.
    pub documents: Vec<Document>,
}

/// A document that belongs to a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Its SHA-256, in hexadecimal.
    pub hex: String,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub media_type: String,
    /// What else is said of it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// What it is about.
    pub about: Subject,
}

/// What a document is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Why the build failed.
    Error,
    /// The result for a platform; for the only one where there is no name.
    Result(String),
}

impl Document {
    /// Where it is, in the build's directory.
    pub(super) fn file(&self) -> String {
        format!("blob-{}", self.hex)
    }
}
