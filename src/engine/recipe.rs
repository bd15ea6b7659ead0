//! What the built-in frontend is asked to compile: plain data that every edge makes.

/// A Dockerfile with its options.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Where the Dockerfile is.
    pub dockerfile: Dockerfile,
    /// The client's directory that a Dockerfile which is a file is in: `dockerfile` unless the client calls it
    /// otherwise. The context's name is among the options.
    pub dockerfile_dir: String,
    /// Everything else; the patterns of the ignore file are filled in when it is read.
    pub options: frontend::Options,
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dockerfile {
    /// A file in a directory of the client's, by the name shown to the user.
    File(String),
    /// A file of the build context, which is no directory of the client's.
    InContext(String),
    /// A file of something that came with the build.
    InInput {
        /// Of what.
        input: String,
        /// Its name there.
        name: String,
    },
    /// Its text.
    Text(Vec<u8>),
}
