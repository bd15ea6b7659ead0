//! What the built-in frontend is asked to compile: plain data that every edge makes.

use super::sbom::Sbom;

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
    /// A scanner is to say what is in the result.
    pub sbom: Option<Sbom>,
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
    /// A file of the web, by its address.
    Web(String),
    /// Its text.
    Text(Vec<u8>),
}

/// The names that a Dockerfile of this name may have: `Dockerfile` may be written small, and one that nobody named may
/// be a `Containerfile`.
pub(crate) fn spellings(name: &str) -> Vec<String> {
    let mut names = vec![name.to_string()];
    if let Some(dir) = name.strip_suffix("Dockerfile").filter(|dir| dir.is_empty() || dir.ends_with('/')) {
        names.push(format!("{dir}dockerfile"));
        if dir.is_empty() {
            names.push("Containerfile".to_string());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_name_has_spellings() {
        assert_eq!(spellings("Dockerfile"), ["Dockerfile", "dockerfile", "Containerfile"]);
        assert_eq!(spellings("a/Dockerfile"), ["a/Dockerfile", "a/dockerfile"]);
        assert_eq!(spellings("MyDockerfile"), ["MyDockerfile"]);
        assert_eq!(spellings("Other"), ["Other"]);
    }
}
