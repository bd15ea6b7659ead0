//! Bundles: a repository in one file, taken in the remote's place, or made of a commit with its history.
//!
//! <https://git-scm.com/docs/gitformat-bundle>

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{utimensat, AtFlags, Timespec, Timestamps, CWD};

use super::command::Way;
use super::resolve::kept_as;
use super::{is_commit, Error, Git, Pinned, Wanted};

/// What the file is called that a bundle is checked out as.
const NAME: &str = "bundle";
/// The branch of a commit that was asked for without a name: a bundle needs one.
const NAMELESS: &str = "refs/heads/main";

impl<'a> Git<'a> {
    /// The commit of a source with a bundle, where that is said without looking into the bundle.
    pub fn known(&self) -> Option<Pinned> {
        let ids = [&self.wanted.reference, &self.wanted.checksum];
        let commit = match ids.map(|id| id.as_ref().filter(|id| is_commit(id))) {
            [Some(commit), _] => commit,
            [None, Some(commit)] if self.wanted.reference.is_none() => commit,
            _ => return None,
        };
        Some(Pinned { commit: commit.clone(), object: commit.clone(), reference: None })
    }

    /// What is asked for.
    pub fn wanted(&self) -> &'a Wanted {
        self.wanted
    }

    /// Whether a bundle is asked in the remote's place.
    pub fn is_staged(&self) -> bool {
        self.staged.is_some()
    }

    /// Where a bundle is to be put to be [staged](Git::stage).
    pub fn bundle_file(&self) -> PathBuf {
        self.home.join("bundle.pack")
    }

    /// Takes what the bundle has in place of what the remote has, from now on.
    ///
    /// # Errors
    /// [`Error::NotInBundle`]; [`Error::Failed`] for what is no bundle.
    pub async fn stage(&mut self) -> Result<(), Error> {
        let file = self.bundle_file().display().to_string();
        let listed = self.run(&self.home, Way::Disk, &["ls-remote", "--", &file]).await?;
        let id = listed.split_whitespace().next().unwrap_or_default();
        let staged = self.bare("staged.git", id.len() == 64).await?;
        self.run(&staged, Way::Disk, &["fetch", "--quiet", "--", &file, "+refs/*:refs/*"]).await?;
        if let Some(commit) = &self.wanted.checksum {
            let named = format!("{commit}^{{commit}}");
            let found = self.run(&staged, Way::Nowhere, &["cat-file", "-e", &named]).await;
            found.map_err(|_| Error::NotInBundle { commit: commit.clone() })?;
        }
        self.staged = Some(staged);
        Ok(())
    }

    /// Whether the history of what `repository` has is not all there.
    pub fn is_shallow(repository: &Path) -> bool {
        repository.join("shallow").exists()
    }

    /// Makes a bundle of a commit that was fetched into `repository`; gives the directory it is in.
    ///
    /// # Errors
    /// [`Error::Failed`] with git's words.
    pub async fn check_out_bundle(&self, repository: &Path, pinned: &Pinned) -> Result<PathBuf, Error> {
        let of_commit = self.bare("bundle.git", pinned.commit.len() == 64).await?;
        let from = format!("file://{}", repository.display());
        let kept = format!("+{}:refs/rbuild/wanted", kept_as(pinned));
        self.run(&of_commit, Way::Disk, &["fetch", "--quiet", "--no-tags", "--", &from, &kept]).await?;
        let name = name_in_bundle(self.wanted.reference.as_deref());
        // A branch is a commit; a tag may say more.
        let id = if name.starts_with("refs/tags/") { &pinned.object } else { &pinned.commit };
        self.run(&of_commit, Way::Nowhere, &["update-ref", &name, id]).await?;
        let failed = |source| Error::Io { doing: "make a directory for a bundle", source };
        let directory = self.home.join("out");
        fs::create_dir(&directory).map_err(failed)?;
        let file = directory.join(NAME);
        let shown = file.display().to_string();
        self.run(&of_commit, Way::Nowhere, &["bundle", "create", "--quiet", &shown, &name]).await?;
        if let Some(time) = self.time_of(&of_commit, pinned).await? {
            let time = Timespec { tv_sec: time, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &file, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| failed(errno.into()))?;
        }
        Ok(directory)
    }

    /// A new bare repository in the home.
    async fn bare(&self, name: &str, is_sha256: bool) -> Result<PathBuf, Error> {
        let directory = self.home.join(name);
        let failed = |source| Error::Io { doing: "make a directory for a repository", source };
        fs::create_dir(&directory).map_err(failed)?;
        let format = format!("--object-format={}", if is_sha256 { "sha256" } else { "sha1" });
        self.run(&directory, Way::Nowhere, &["init", "--quiet", "--bare", "--template=", &format, "."]).await?;
        Ok(directory)
    }
}

/// What a commit is called in its bundle: a tag if it was asked for as one, else a branch.
fn name_in_bundle(reference: Option<&str>) -> String {
    match reference {
        None => NAMELESS.to_owned(),
        Some(id) if is_commit(id) => NAMELESS.to_owned(),
        Some(tag) if tag.starts_with("refs/tags/") => tag.to_owned(),
        Some(name) => {
            let name = name.strip_prefix("refs/").unwrap_or(name);
            format!("refs/heads/{}", name.strip_prefix("heads/").unwrap_or(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_a_name_in_its_bundle() {
        let id = "1".repeat(40);
        for (reference, want) in [
            (None, NAMELESS),
            (Some(id.as_str()), NAMELESS),
            (Some("master"), "refs/heads/master"),
            (Some("heads/a/b"), "refs/heads/a/b"),
            (Some("refs/heads/main"), "refs/heads/main"),
            (Some("v1"), "refs/heads/v1"),
            (Some("refs/tags/v1"), "refs/tags/v1"),
            (Some("refs/pull/1/head"), "refs/heads/pull/1/head"),
        ] {
            assert_eq!(name_in_bundle(reference), want);
        }
    }
}
