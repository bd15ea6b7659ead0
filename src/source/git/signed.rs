//! Whether a commit, or the tag that names it, is signed by a key that the source names.

use std::path::Path;

use super::command::Way;
use super::object::Kind;
use super::resolve::Pinned;
use super::{Error, Git};
use crate::source::signature::{self, Keys};

/// What must be signed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signing {
    /// By one of these.
    pub keys: Keys,
    /// A tag, whatever the commit is.
    pub require_tag: bool,
    /// The commit, whatever the tag is.
    pub ignore_tag: bool,
}

impl Git<'_> {
    /// Holds a commit that was fetched into `repository` against what the source says of signatures.
    ///
    /// # Errors
    /// [`Error::Signature`], and for a repository that contradicts itself.
    pub async fn check_signature(&self, repository: &Path, pinned: &Pinned) -> Result<(), Error> {
        let Some(signing) = &self.wanted.signing else { return Ok(()) };
        let kind = self.run(repository, Way::Nowhere, &["cat-file", "-t", &pinned.object]).await?;
        let is_tag = kind.trim() == "tag";
        // The server has said which commit the tag means; what was signed is what the tag itself says.
        let commit = self.commit_of(repository, &pinned.object).await?;
        if commit != self.commit_of(repository, &pinned.commit).await? {
            return Err(Error::Mismatch { want: pinned.commit.clone(), got: commit });
        }
        let mut of_tag = signature::Error::Unsigned;
        if is_tag && !signing.ignore_tag {
            match self.signed_object(repository, Kind::Tag, &pinned.object, &signing.keys).await? {
                Ok(()) => return Ok(()),
                Err(why) => of_tag = why,
            }
        }
        let failed = |what: &str, source| Error::Signature { what: what.to_owned(), source };
        if signing.require_tag {
            return match is_tag && !signing.ignore_tag {
                true => Err(failed("signed tag required", of_tag)),
                false => Err(Error::NoSignedTag),
            };
        }
        let made = self.signed_object(repository, Kind::Commit, &commit, &signing.keys).await?;
        made.map_err(|why| failed(&format!("commit {commit}"), why))
    }

    async fn commit_of(&self, repository: &Path, name: &str) -> Result<String, Error> {
        let peeled = format!("{name}^{{commit}}");
        let found = self.run(repository, Way::Nowhere, &["rev-parse", "--verify", &peeled]).await?;
        Ok(found.trim().to_owned())
    }

    /// Whether one object is signed by one of the keys.
    async fn signed_object(
        &self,
        repository: &Path,
        kind: Kind,
        id: &str,
        keys: &Keys,
    ) -> Result<Result<(), signature::Error>, Error> {
        let bytes = self.run_raw(repository, Way::Nowhere, &["cat-file", kind.name(), id]).await?;
        if !kind.is(&bytes, id) {
            return Err(Error::Mismatch { want: id.to_owned(), got: format!("another {}", kind.name()) });
        }
        let Some(signed) = kind.signed(&bytes, id) else { return Ok(Err(signature::Error::Format)) };
        Ok(keys.verify_object(&signed.content, &signed.signature))
    }
}
